package eventgrid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// delivery is an event that waits for one subscriber. Its JSON is on disk.
type delivery struct {
	ID           string    `json:"id"`
	Vault        string    `json:"vault"`        // the partition of the subscription
	Subscription string    `json:"subscription"` // its name
	Type         string    `json:"type"`
	Time         time.Time `json:"time"`
	Topic        string    `json:"topic"`
	Subject      string    `json:"subject"`
	Data         keyData   `json:"data"`
	Attempts     int       `json:"attempts"`
	Next         time.Time `json:"next"`
}

// keyData is the data of a vault's events.
type keyData struct {
	ID         string `json:"Id"`
	VaultName  string `json:"VaultName"`
	ObjectType string `json:"ObjectType,omitempty"`
	ObjectName string `json:"ObjectName,omitempty"`
	Version    string `json:"Version,omitempty"`
	NBF        *int64 `json:"NBF,omitempty"`
	EXP        *int64 `json:"EXP,omitempty"`
}

func newDelivery(vaultKey, subscription string, e vault.Event) delivery {
	return delivery{
		ID: uuid.NewString(), Vault: vaultKey, Subscription: subscription, Type: e.Type, Time: e.Time.UTC(), Topic: e.Vault.ResourceID, Subject: subjectOf(e),
		Data: keyData{ID: e.ID, VaultName: e.Vault.Name, ObjectType: e.ObjectType, ObjectName: e.Name, Version: e.Version, NBF: e.NotBefore, EXP: e.Expires},
	}
}

// body is the event in the subscription's schema.
func (d delivery) body(cloudEvents bool) ([]byte, error) {
	if cloudEvents {
		return json.Marshal(cloudEvent{SpecVersion: "1.0", ID: d.ID, Source: d.Topic, Subject: d.Subject, Type: d.Type, Time: d.Time, Data: d.Data})
	}
	return json.Marshal([]gridEvent{{
		ID: d.ID, Topic: d.Topic, Subject: d.Subject, EventType: d.Type, Time: d.Time, Data: d.Data, DataVersion: "1", MetadataVersion: "1",
	}})
}

const (
	deliverEvery = 5 * time.Second
	deliverMany  = 8               // at once
	deliverPage  = 256             // looked at in one go
	claimTime    = 2 * time.Minute // for which others leave an event to the one who sends it

	outcomeDelivered, outcomeRetry, outcomeDropped = "delivered", "retry", "dropped"
)

// backoff is the wait after each attempt. Source: Azure Event
// Grid, "Event Grid message delivery and retry".
var backoff = []time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
}

// Run delivers events until ctx is over. Several nodes may run it.
func (p *Provider) Run(ctx context.Context) {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		if err := p.deliverDue(ctx); err != nil && ctx.Err() == nil {
			p.c.Log.ErrorContext(ctx, "events of vaults were not delivered, trying again", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Provider) deliverDue(ctx context.Context) error {
	var after envelope.Name
	for {
		rows, err := p.queue.Page(ctx, envelope.Name{}, after, deliverPage)
		if err != nil {
			return err
		}
		g, sending := errgroup.WithContext(ctx)
		g.SetLimit(deliverMany)
		for _, r := range rows {
			after = r.Name
			if time.Now().Before(r.Value.Next) {
				continue
			}
			g.Go(func() error { return p.deliver(sending, r) })
		}
		if err := g.Wait(); err != nil || len(rows) < deliverPage {
			return err
		}
	}
}

// deliver makes one attempt. It first claims the event, so that of several nodes one
// makes it.
func (p *Provider) deliver(ctx context.Context, r row.Row[delivery]) error {
	d := r.Value
	d.Attempts++
	d.Next = time.Now().UTC().Add(claimTime)
	err := p.write(ctx, d, r.Revision)
	if errors.Is(err, store.ErrConflict) {
		return nil // another node has it
	}
	if err != nil {
		return err
	}
	s, _, err := p.subscriptions.Get(ctx, p.subscriptions.KeyIn(d.Vault, strings.ToLower(d.Subscription)))
	if errors.Is(err, store.ErrNotFound) {
		return p.remove(ctx, d) // nobody wants it any more
	}
	if err != nil {
		return err
	}
	err = p.attempt(ctx, s, d)
	var final *finalError
	switch {
	case err == nil:
		p.events.WithLabelValues(outcomeDelivered).Inc()
		return p.remove(ctx, d)
	case ctx.Err() != nil:
		return nil // the server stops; after claimTime it is tried again
	case errors.As(err, &final), d.Attempts >= s.MaxAttempts, time.Since(d.Time) >= time.Duration(s.TTLMinutes)*time.Minute:
		p.events.WithLabelValues(outcomeDropped).Inc()
		p.c.Log.WarnContext(ctx, "an event of a vault was given up", slog.String("event_type", d.Type), slog.String("event_id", d.ID),
			slog.String("subscription", d.Subscription), slog.Int("attempts", d.Attempts), slog.Any("err", err))
		return p.remove(ctx, d)
	}
	p.events.WithLabelValues(outcomeRetry).Inc()
	d.Next = time.Now().UTC().Add(p.backoff[min(d.Attempts, len(p.backoff))-1])
	return p.write(ctx, d, r.Revision+1)
}

// finalError is an answer that no further attempt would change.
type finalError struct{ status int }

func (e *finalError) Error() string { return fmt.Sprintf("the endpoint answered %d", e.status) }

func (p *Provider) attempt(ctx context.Context, s subscription, d delivery) error {
	if err := p.checkURL(s.URL); err != nil { // the operator may have changed his mind
		return err
	}
	raw, err := d.body(s.CloudEvents)
	if err != nil {
		return err
	}
	r, err := p.request(ctx, s, raw, "Notification", d.Attempts-1)
	if err != nil {
		return err
	}
	resp, _, err := p.send(r)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNonAuthoritativeInfo, http.StatusNoContent:
		return nil
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestEntityTooLarge:
		return &finalError{resp.StatusCode}
	}
	return fmt.Errorf("the endpoint answered %d", resp.StatusCode)
}

func (p *Provider) write(ctx context.Context, d delivery, revision uint64) error {
	write, err := p.queue.Put(p.queue.Key(d.ID), d, store.AtRevision(revision))
	if err != nil {
		return err
	}
	return p.c.Store.WriteRows(ctx, []store.RowWrite{write})
}

func (p *Provider) remove(ctx context.Context, d delivery) error {
	return p.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: p.queue.Key(d.ID)}})
}
