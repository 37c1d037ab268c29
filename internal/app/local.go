package app

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/relay"
	"github.com/tidelock/tidelock/internal/store"
)

// LocalTenant is the tenant of clients with a connection of type "local".
const LocalTenant = "local"

// localTenants are the tenant ids that local mode serves: azure-client's, and that of
// tinylicious-client. Both are fixed in those clients.
var localTenants = []string{LocalTenant, "tinylicious"}

// localTable has one row, once a server was started in local mode: what its data is
// sealed for.
const localTable store.Table = "local-mode"

type localRow struct {
	Resource envelope.ResourceID `json:"resource"`
}

// checkLocal refuses local mode wherever somebody else could reach it.
func (c Config) checkLocal() error {
	if !c.Local {
		return nil
	}
	if !loopback(c.RelayAddr) {
		return fmt.Errorf("--local takes tokens unchecked, so --relay %s must be a loopback address such as 127.0.0.1:7070", c.RelayAddr)
	}
	if u, err := url.Parse(c.RelayURL); c.RelayURL != "" && (err != nil || !loopbackHost(u.Hostname())) {
		return fmt.Errorf("--local takes tokens unchecked, so --relay-url %s must be on loopback: leave it out", c.RelayURL)
	}
	return nil
}

// local returns the tenants of local mode; none without it. Their data is sealed as
// all data is, under a root key of their own that is wrapped by the service-managed
// key. It is made on the first start in local mode, and outlives starts without.
func (a *App) local(ctx context.Context) ([]relay.Tenant, error) {
	if !a.c.Local {
		return nil, nil
	}
	// Not the flag but what came of it: "localhost" is whatever this machine says.
	if addr := a.relayListener.Addr().String(); !loopback(addr) {
		return nil, fmt.Errorf("--local takes tokens unchecked, and --relay %s is %s here, which is not loopback", a.c.RelayAddr, addr)
	}
	table := tracked.NewTable[localRow](a.store, a.service, localTable)
	row, err := table.Get(ctx, "", "")
	if errors.Is(err, store.ErrNotFound) {
		row.Value.Resource = envelope.ResourceID(uuid.New())
		var write store.RowWrite
		if write, err = table.Put("", "", row.Value, store.Absent); err != nil {
			return nil, err
		}
		err = a.custody.Create(ctx, row.Value.Resource, custody.Settings{}, write)
	}
	if err != nil {
		return nil, fmt.Errorf("make the tenant of local mode: %w", err)
	}
	tenants := make([]relay.Tenant, len(localTenants))
	for i, id := range localTenants {
		tenants[i] = relay.Tenant{ID: id, Resource: row.Value.Resource}
	}
	return tenants, nil
}
