package activity

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

// MaxEvents is how many events a subscription's log keeps.
const MaxEvents = 5000

// retention is Azure's.
const retention = 90 * 24 * time.Hour

// Config of a Log.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey // seals the rows
	Log     *slog.Logger
}

// Log keeps events. It is safe for concurrent use, and several nodes may write one.
type Log struct {
	c      Config
	events tracked.Table[event] // a partition for each subscription, by id

	mu      sync.Mutex
	written map[string]int // since the last sweep, by subscription
}

// New returns the log.
func New(c Config) *Log {
	return &Log{c: c, events: tracked.NewTable[event](c.Store, c.Service, "activity-log"), written: map[string]int{}}
}

// event is one write as it is stored. Its JSON is on disk.
type event struct {
	ID          string     `json:"id"` // GUID
	At          time.Time  `json:"at"`
	Done        time.Time  `json:"done"`
	Subscribed  string     `json:"subscription"`
	Group       string     `json:"group,omitempty"`
	Namespace   string     `json:"namespace"`
	Type        string     `json:"type"`
	Scope       string     `json:"scope"` // what it was for
	Action      string     `json:"action"`
	Method      string     `json:"method"`
	Status      int        `json:"status"`
	Code        string     `json:"code,omitempty"` // of the error
	Message     string     `json:"message,omitempty"`
	Caller      arm.Caller `json:"caller"`
	RequestID   string     `json:"requestId"`
	Correlation string     `json:"correlationId"`
	ClientID    string     `json:"clientRequestId,omitempty"`
	Address     string     `json:"clientIpAddress,omitempty"`
}

// maxMessage bounds what is kept of an error's message.
const maxMessage = 2000

// Record stores an event. It never fails a request.
func (l *Log) Record(ctx context.Context, e arm.Event) {
	subscription := strings.ToLower(e.ID.Subscription)
	stored := event{
		ID: uuid.NewString(), At: e.At.UTC(), Done: e.Done.UTC(), Subscribed: subscription, Group: e.ID.ResourceGroup,
		Scope: e.Resource, Action: e.Action,
		Method: e.Method, Status: e.Status, Caller: e.Caller, RequestID: e.RequestID, Correlation: e.Correlation, ClientID: e.ClientID, Address: e.Address,
	}
	stored.Namespace, stored.Type = typeOf(e.Resource)
	if e.Error != nil {
		stored.Code, stored.Message = e.Error.Code, e.Error.Message
		if len(stored.Message) > maxMessage {
			stored.Message = strings.ToValidUTF8(stored.Message[:maxMessage], "")
		}
	}
	write, err := l.events.Put(subscription, stored.ID, stored, store.Absent)
	if err == nil {
		err = l.c.Store.WriteRows(ctx, []store.RowWrite{write})
	}
	if err == nil {
		err = l.sweep(ctx, subscription)
	}
	if err != nil {
		l.c.Log.ErrorContext(ctx, "a management write is missing from the activity log", "request_id", e.RequestID, "err", err)
	}
}

// typeOf is the namespace and the full type of a resource, by its id.
func typeOf(resource string) (namespace, full string) {
	const providers = "/providers/"
	at := strings.LastIndex(resource, providers)
	if at < 0 {
		full = "Microsoft.Resources/subscriptions"
		if strings.Contains(resource, "/resourceGroups/") {
			full += "/resourceGroups"
		}
		return "Microsoft.Resources", full
	}
	parts := strings.Split(resource[at+len(providers):], "/")
	full = parts[0]
	for i := 1; i < len(parts); i += 2 {
		full += "/" + parts[i]
	}
	return parts[0], full
}

// sweep drops what is too much or too old, once for every tenth of the log that is
// written, and at the first write after a start.
func (l *Log) sweep(ctx context.Context, subscription string) error {
	l.mu.Lock()
	n, known := l.written[subscription]
	due := !known || n >= MaxEvents/10
	if l.written[subscription] = n + 1; due {
		l.written[subscription] = 1
	}
	l.mu.Unlock()
	if !due {
		return nil
	}
	all, err := l.newest(ctx, subscription)
	if err != nil {
		return err
	}
	oldest := time.Now().Add(-retention)
	var writes []store.RowWrite
	for n, e := range all {
		if n >= MaxEvents || e.At.Before(oldest) {
			writes = append(writes, l.events.Delete(subscription, e.ID, store.Anything))
		}
	}
	if len(writes) == 0 {
		return nil
	}
	return l.c.Store.WriteRows(ctx, writes)
}

// newest returns all events of a subscription, the newest first.
func (l *Log) newest(ctx context.Context, subscription string) ([]event, error) {
	rows, err := l.events.List(ctx, subscription)
	if err != nil {
		return nil, err
	}
	all := make([]event, len(rows))
	for n, r := range rows {
		all[n] = r.Value
	}
	slices.SortFunc(all, func(a, b event) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.ID, b.ID)) })
	return all, nil
}
