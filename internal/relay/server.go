package relay

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Tenant is a Fluid tenant: the data-plane side of a relay resource.
type Tenant struct {
	ID       string // frsTenantId
	Resource envelope.ResourceID
	Keys     [2]string // key1, key2: the text signs tokens (HS256)
}

// Tenants finds tenants. Lookup is called on every request: it must be fast, must
// see a regenerated key at once, and returns false for an unknown tenant.
type Tenants interface {
	Lookup(ctx context.Context, id string) (Tenant, bool, error)
}

// Config of a Server.
type Config struct {
	Store   store.Store
	Custody *custody.Keeper
	Service envelope.ServiceKey // seals the document records
	Tenants Tenants
	Log     *slog.Logger
}

// Server is the Fluid service.
type Server struct{ todo int }

// New returns a server; it does nothing until Handler is served.
func New(c Config) *Server { panic("todo") }

// Handler serves the relay listener.
func (s *Server) Handler() http.Handler { panic("todo") }

// Shutdown stops in order: no new work, what is queued made durable and sent,
// leaves sequenced, checkpoints written, sockets closed. It returns when all
// goroutines have ended or ctx is over.
func (s *Server) Shutdown(ctx context.Context) error { panic("todo") }

// DeleteTenant disconnects and removes all documents of a tenant whose keys were
// destroyed. Idempotent.
func (s *Server) DeleteTenant(ctx context.Context, tenantID string) error { panic("todo") }
