package eventgrid

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// Vaults finds vaults by name.
type Vaults interface {
	// Get returns store.ErrNotFound for an unknown vault.
	Get(ctx context.Context, name string) (vault.Vault, error)
}

// Config of a Provider.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey // seals the rows
	// Hosts are those that webhooks may be at, as host or host:port; port 443 is the
	// default. Loopback hosts may be among them.
	Hosts   []string
	Roots   *x509.CertPool // nil: the system's
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Provider keeps event subscriptions and delivers events. It is safe for concurrent use.
type Provider struct {
	c             Config
	vaults        Vaults
	subscriptions row.Table[subscription] // a partition for each vault, by lower-case name
	queue         row.Table[delivery]
	client        *http.Client
	events        *prometheus.CounterVec

	every   time.Duration   // between looks at the queue
	backoff []time.Duration // after each attempt; the last one repeats
}

// New returns the provider. Before it serves, Serve says where vaults are found: they
// need the provider, too.
func New(c Config) (*Provider, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	client, err := newClient(c.Hosts, c.Roots)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		c: c, client: client, every: deliverEvery, backoff: backoff,
		subscriptions: row.NewTable[subscription](c.Store, c.Service, "event-subscriptions"),
		queue:         row.NewTable[delivery](c.Store, c.Service, "event-queue"),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_vault_events_total", Help: "Events of vaults to their subscribers, by what came of an attempt; dropped: given up.",
		}, []string{"outcome"}),
	}
	for _, outcome := range []string{outcomeDelivered, outcomeRetry, outcomeDropped} {
		p.events.WithLabelValues(outcome)
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(p.events)
	}
	return p, nil
}

// Serve completes the provider and adds its routes to rt.
func (p *Provider) Serve(vaults Vaults, rt *arm.Router) {
	p.vaults = vaults
	const (
		all  = arm.InGroup + "/providers/Microsoft.KeyVault/vaults/{vault}/providers/" + Type
		one  = all + "/{name}"
		read = Type + "/read"
	)
	rt.Handle(arm.Provider{
		Namespace: "Microsoft.EventGrid",
		Versions: []string{
			"2019-06-01", "2020-06-01", "2020-10-15-preview", "2021-06-01-preview", "2021-10-15-preview", "2021-12-01", "2022-06-15",
			"2023-06-01-preview", "2023-12-15-preview", "2024-06-01-preview", "2024-12-15-preview", "2025-02-15",
		},
		Routes: []arm.Route{
			{Method: "GET", Pattern: all, Action: read, Handle: p.list},
			{Method: "GET", Pattern: one, Action: read, Handle: p.get},
			{Method: "PUT", Pattern: one, Action: Type + "/write", Handle: p.put},
			{Method: "DELETE", Pattern: one, Action: Type + "/delete", Handle: p.delete},
			{Method: "POST", Pattern: one + "/getFullUrl", Action: Type + "/getFullUrl/action", Handle: p.fullURL},
		},
	})
}

// Type is the full type of event subscriptions.
const Type = "Microsoft.EventGrid/eventSubscriptions"

// vaultID is the vault of an id below it.
func vaultID(id arm.ResourceID) arm.ResourceID {
	id.Types, id.Names = id.Types[:1], id.Names[:1]
	return id
}

func (p *Provider) key(id arm.ResourceID) store.RowKey {
	return p.subscriptions.KeyIn(vaultID(id).Key(), strings.ToLower(id.Name()))
}

func (p *Provider) find(ctx context.Context, id arm.ResourceID) (subscription, error) {
	s, _, err := p.subscriptions.Get(ctx, p.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return s, arm.ErrResourceNotFound(id)
	}
	return s, err
}

func (p *Provider) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: s.wire()}, nil
}

func (p *Provider) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	rows, err := p.subscriptions.List(ctx, p.subscriptions.Partition(vaultID(r.ID).Key()))
	if err != nil {
		return nil, err
	}
	views := make([]wire, len(rows))
	for n, each := range rows {
		views[n] = each.Value.wire()
	}
	return arm.Page(r, views, func(w wire) string { return strings.ToLower(w.ID) })
}

func (p *Provider) fullURL(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: struct {
		URL string `json:"endpointUrl"`
	}{s.URL}}, nil
}

func (p *Provider) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	v, err := p.vaults.Get(ctx, r.ID.Names[0])
	if err == nil {
		at, parseErr := arm.ParseResourceID(v.ResourceID)
		if parseErr != nil || at.Key() != vaultID(r.ID).Key() || !v.Deleted.IsZero() {
			err = store.ErrNotFound
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, arm.ErrResourceNotFound(vaultID(r.ID))
	}
	if err != nil {
		return nil, err
	}
	var b body
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	s, err := b.subscription(r.ID, v)
	if err != nil {
		return nil, err
	}
	if err := p.checkURL(s.URL); err != nil {
		return nil, err
	}
	if err := p.validate(ctx, s); err != nil {
		return nil, &arm.Error{Status: http.StatusBadRequest, Code: "Url validation", Target: "properties.destination", Message: fmt.Sprintf(
			"The attempt to validate the provided endpoint %s failed: %v. For troubleshooting, visit https://aka.ms/esvalidation.", s.baseURL(), err)}
	}
	write, err := p.subscriptions.Put(p.key(r.ID), s, store.Anything)
	if err == nil {
		err = p.c.Store.WriteRows(ctx, []store.RowWrite{write})
	}
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	return &arm.Response{Status: http.StatusCreated, Body: s.wire()}, nil
}

func (p *Provider) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.find(ctx, r.ID); err != nil {
		var missing *arm.Error
		if errors.As(err, &missing) {
			return &arm.Response{Status: http.StatusNoContent}, nil
		}
		return nil, err
	}
	return &arm.Response{}, p.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: p.key(r.ID)}})
}

// Forget removes the subscriptions of a vault that is deleted.
func (p *Provider) Forget(ctx context.Context, vault arm.ResourceID) error {
	rows, err := p.subscriptions.List(ctx, p.subscriptions.Partition(vault.Key()))
	if err != nil || len(rows) == 0 {
		return err
	}
	var writes []store.RowWrite
	for _, r := range rows {
		writes = append(writes, store.RowWrite{RowKey: p.subscriptions.KeyIn(vault.Key(), strings.ToLower(r.Value.Name))})
	}
	return p.c.Store.WriteRows(ctx, writes)
}

// Queue returns the writes that queue an event for each subscription that wants it.
func (p *Provider) Queue(ctx context.Context, e vault.Event) ([]store.RowWrite, error) {
	id, err := arm.ParseResourceID(e.Vault.ResourceID)
	if err != nil {
		return nil, nil // a vault that is no resource has no subscriptions
	}
	rows, err := p.subscriptions.List(ctx, p.subscriptions.Partition(id.Key()))
	if err != nil {
		return nil, fmt.Errorf("queue an event: %w", err)
	}
	var writes []store.RowWrite
	for _, r := range rows {
		if !r.Value.wants(e) {
			continue
		}
		d := newDelivery(id.Key(), r.Value.Name, e)
		write, err := p.queue.Put(p.queue.Key(d.ID), d, store.Absent)
		if err != nil {
			return nil, err
		}
		writes = append(writes, write)
	}
	return writes, nil
}

// wants applies the subscription's filter.
func (s subscription) wants(e vault.Event) bool {
	subject, begins, ends := subjectOf(e), s.BeginsWith, s.EndsWith
	if !s.CaseSensitive {
		subject, begins, ends = strings.ToLower(subject), strings.ToLower(begins), strings.ToLower(ends)
	}
	return (s.Types == nil || slices.Contains(s.Types, e.Type)) && strings.HasPrefix(subject, begins) && strings.HasSuffix(subject, ends)
}

// subjectOf is what an event is about: the key, or the vault.
func subjectOf(e vault.Event) string {
	if e.Name != "" {
		return e.Name
	}
	return e.Vault.Name
}

var _ vault.Events = (*Provider)(nil)
