package relay

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/socketio"
	"github.com/tidelock/tidelock/internal/store"
)

// Tenant is a Fluid tenant: the data-plane side of a relay resource.
type Tenant struct {
	ID       string // frsTenantId
	Resource envelope.ResourceID
	Keys     [2]string // key1, key2: the text signs tokens (HS256)
	Closed   string    // why no token opens it now; empty when tokens do
}

// Tenants finds tenants. Lookup is called on every request: it must be fast, must
// see a regenerated key at once, and returns false for an unknown tenant.
type Tenants interface {
	Lookup(ctx context.Context, id string) (Tenant, bool, error)
	// Forget has the next Lookup see what another node changed of a tenant.
	Forget(id string)
}

// Config of a Server.
type Config struct {
	Store   store.Store
	Custody *custody.Keeper
	Service envelope.ServiceKey // seals the document records
	Tenants Tenants
	// Local are the tenants of local mode, whose tokens are taken at their word: only
	// for a listener on loopback. They come before those of Tenants.
	Local   []Tenant
	Log     *slog.Logger
	Limits  Limits
	Metrics prometheus.Registerer // where the metrics are registered; nil: nowhere

	// Cluster is this node among those that share the store; nil: it is the only one.
	// The caller starts it once the server is made, and has it call LetGo.
	Cluster *cluster.Node
	// DirectNodes has session discovery send clients to a document's node itself.
	DirectNodes bool
	// Peers reaches the other nodes; nil: as their certificates and the system say.
	Peers http.RoundTripper
}

// Server is the Fluid service.
type Server struct {
	c       Config
	io      *socketio.Server
	m       *metrics
	handler http.Handler
	usage   *tenantUsage

	records   row.Table[documentRecord]
	ephemeral row.Table[ephemeralDocument]
	uploads   *semaphore.Weighted // bytes
	spent     spentAllowances

	// base outlives every request: documents and their loads run under it, for
	// whoever asked first may go away while others wait.
	base   context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // loads, documents, and what looks after them

	// serving is over when documents no longer are: what was passed on to other nodes ends.
	serving    context.Context //nolint:containedctx // ends with the server
	endServing context.CancelFunc
	peers      http.RoundTripper
	proxyLog   *log.Logger

	mu        sync.Mutex
	draining  bool
	moving    bool // no document is loaded any more: other nodes take them
	documents map[documentKey]*entry

	unwritable atomic.Bool // the store takes no writes, and the log says so
}

// New returns a server; Shutdown ends what it starts.
func New(c Config) *Server {
	c.Limits = c.Limits.withDefaults()
	s := &Server{
		c:         c,
		io:        socketio.New(socketio.Config{Log: c.Log}),
		m:         newMetrics(c.Metrics),
		documents: map[documentKey]*entry{},
		usage:     newTenantUsage(c.Limits),
		records:   row.NewTable[documentRecord](c.Store, c.Service, documentsTable),
		ephemeral: row.NewTable[ephemeralDocument](c.Store, c.Service, ephemeralDocuments),
		uploads:   semaphore.NewWeighted(c.Limits.UploadsBytes),
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.serving, s.endServing = context.WithCancel(s.base)
	if s.peers = c.Peers; s.peers == nil {
		s.peers = PeerTransport()
	}
	s.proxyLog = slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug)
	s.joinCluster()
	s.handler = s.routes()
	s.work.Go(func() { s.removeEphemeral(s.serving) })
	if c.Metrics != nil {
		c.Metrics.MustRegister(gauges{s})
	}
	return s
}

// Handler serves the relay listener.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *Server) isMoving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moving
}

// Shutdown stops in order: no new work, what is queued made durable and sent,
// leaves sequenced, checkpoints written, sockets closed. It returns when all
// goroutines have ended or ctx is over; then what still runs is cut off, which
// loses nothing that was acknowledged.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	entries := s.leaveAll()
	s.mu.Unlock()

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for _, e := range entries {
			e.stop(errDraining)
		}
		for _, e := range entries {
			<-e.gone
		}
		s.endServing()
		s.io.Shutdown("server is shutting down")
		s.work.Wait()
	}()
	defer s.cancel()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
