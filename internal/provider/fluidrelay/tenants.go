package fluidrelay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// tenantRow leads from a tenant id to its server.
type tenantRow struct {
	Subscription string `json:"subscription"` // lower case
	Key          string `json:"key"`          // the server's arm key
}

// tenant is what the data plane needs of a server.
type tenant struct {
	id       string
	resource envelope.ResourceID
	keys     tenantKeys
	closed   string
	read     time.Time
}

// Tenant is a tenant as the data plane sees it.
type Tenant struct {
	ID       string // in its canonical letters
	Resource envelope.ResourceID
	Keys     [2]string // key1 and key2, whose text signs tokens
	Closed   string    // why no token is good for it now; empty when tokens are
}

// Lookup finds a tenant by its frsTenantId. ok is false for an unknown one. It answers
// from memory, and from the store after a write here, and after Config.TenantAge.
func (p *Provider) Lookup(ctx context.Context, frsTenantID string) (found Tenant, ok bool, err error) {
	t, ok, generation := p.cached(frsTenantID)
	if !ok {
		read := time.Now()
		t, ok, err = p.loadTenant(ctx, frsTenantID)
		t.read = read
		if err != nil || !ok {
			return Tenant{}, false, err
		}
		p.remember(t, generation)
	}
	return Tenant{ID: t.id, Resource: t.resource, Keys: [2]string{t.keys.Key1, t.keys.Key2}, Closed: t.closed}, true, nil
}

func (p *Provider) cached(id string) (t tenant, found bool, generation uint64) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	t, found = p.cache[strings.ToLower(id)]
	if found && p.c.TenantAge > 0 && time.Since(t.read) > p.c.TenantAge {
		found = false
	}
	return t, found, p.generation
}

// remember keeps t, unless something was written since it was read: t may then have
// keys that are no longer good.
func (p *Provider) remember(t tenant, generation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generation == generation {
		p.cache[t.id] = t
	}
}

// Forget is called after every write of a server, whether it succeeded or not: the
// outcome of a failed one may be unknown. The writes of other nodes are told by the relay.
func (p *Provider) Forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	delete(p.cache, id)
}

func (p *Provider) loadTenant(ctx context.Context, id string) (tenant, bool, error) {
	index, err := p.tenants.Get(ctx, "", strings.ToLower(id))
	if errors.Is(err, store.ErrNotFound) {
		return tenant{}, false, nil
	}
	if err != nil {
		return tenant{}, false, fmt.Errorf("look up tenant %s: %w", id, err)
	}
	row, err := p.servers.Get(ctx, index.Value.Subscription, index.Value.Key)
	// Index and server are written and deleted together: one without the other was
	// read while that happened.
	if errors.Is(err, store.ErrNotFound) {
		return tenant{}, false, nil
	}
	if err != nil {
		return tenant{}, false, fmt.Errorf("look up tenant %s: %w", id, err)
	}
	s := row.Value
	if s.TenantID != strings.ToLower(id) {
		return tenant{}, false, nil // the server was deleted and another one made meanwhile
	}
	return tenant{id: s.TenantID, resource: s.Resource, keys: s.Keys, closed: s.closed()}, true, nil
}

// tombstone is what a deletion has still to do once the keys are destroyed.
type tombstone struct {
	TenantID  string `json:"tenantId"`
	Principal string `json:"principal,omitempty"` // resource id of a system-assigned identity
}

// Resume finishes deletions that a stop of the process interrupted. The keys of what
// is left are destroyed already.
func (p *Provider) Resume(ctx context.Context) error {
	rows, err := p.deleted.List(ctx, "")
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := p.finish(ctx, row.Value); err != nil {
			return fmt.Errorf("finish the deletion of tenant %s: %w", row.Value.TenantID, err)
		}
	}
	return nil
}

func (p *Provider) finish(ctx context.Context, t tombstone) error {
	if err := p.c.Relay.DeleteTenant(ctx, t.TenantID); err != nil {
		return err
	}
	if t.Principal != "" {
		if err := p.c.Principals.DeleteManagedIdentity(ctx, t.Principal); err != nil {
			return err
		}
	}
	return p.c.Store.WriteRows(ctx, []store.RowWrite{p.deleted.Delete("", t.TenantID, store.Anything)})
}
