package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
)

// Options of the engine.
type Options struct {
	// URL is postgres://user@host[:port][,host…]/database[?parameters], without a
	// password. Of several hosts the one that takes writes is used.
	URL string
	// PasswordFile holds the password and is read anew for every connection.
	// Default: what PostgreSQL's own client would take (PGPASSFILE, ~/.pgpass).
	PasswordFile string
	// PoolSize is how many connections this node opens at most. Default: 16.
	PoolSize int
	// StatementTimeout ends a statement that takes longer. Default: 30 s.
	StatementTimeout time.Duration
	// NeedStandby refuses a database without a synchronous standby: one that loses
	// acknowledged writes when it fails over.
	NeedStandby bool
	// MayLoseWrites takes a database that may lose acknowledged writes all the same.
	MayLoseWrites bool
	// ReadOnly changes nothing: the schema must be the newest, whatever the database's
	// commits are worth, a standby will do, and every write fails.
	ReadOnly bool
	// Blobs takes large objects. Default: they are in the database.
	Blobs blobs.Store
	Log   *slog.Logger // default: none
	// Metrics is where the engine's metrics are registered. Default: nowhere.
	Metrics prometheus.Registerer

	// For tests: how large an object must be to go to Blobs, and how long its writer has.
	blobBytes int
	blobGrace time.Duration
}

const (
	defaultPoolSize         = 16
	defaultStatementTimeout = 30 * time.Second
)

func (o Options) withDefaults() (Options, error) {
	if o.PoolSize == 0 {
		o.PoolSize = defaultPoolSize
	}
	if o.StatementTimeout == 0 {
		o.StatementTimeout = defaultStatementTimeout
	}
	if o.blobBytes == 0 {
		o.blobBytes = blobBytesLeast
	}
	if o.blobGrace == 0 {
		o.blobGrace = blobGrace
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.PoolSize < 2 || o.StatementTimeout < time.Second {
		return o, fmt.Errorf("a pool of %d connections and statements of at most %s: give at least 2 and 1s", o.PoolSize, o.StatementTimeout)
	}
	return o, nil
}

// Engine is an open database.
type Engine struct {
	o       Options
	pool    *pgxpool.Pool
	appends appends
	blobs   blobStore
	health  health
	metrics metrics

	mu     sync.RWMutex // guards closed; held for reading by every call
	closed bool
}

var _ store.Store = (*Engine)(nil)

// Open connects, waiting for a database that does not answer yet for as long as ctx
// allows, and brings its schema up to date. A database that may lose writes and a schema of
// a newer Tidelock are refused.
func Open(ctx context.Context, o Options) (_ *Engine, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("database: %w", err)
		}
	}()
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	config, err := poolConfig(o)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	e := &Engine{o: o, pool: pool}
	e.appends.engine = e
	e.metrics = newMetrics(o.Metrics, e)
	if err := e.start(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return e, nil
}

func (e *Engine) start(ctx context.Context) error {
	err := retry(ctx, unreachable, func() error { return e.pool.Ping(ctx) })
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if e.o.ReadOnly {
		e.blobs.store = e.o.Blobs
		return e.checkSchema(ctx)
	}
	if err := e.migrate(ctx); err != nil {
		return err
	}
	return e.startBlobs(ctx)
}

// Pool is the engine's connections, for packages that keep tables of their own beside
// it; their migrations are numbered among the engine's. It is closed with the engine.
func (e *Engine) Pool() *pgxpool.Pool { return e.pool }

// enter admits a call; the func ends it.
func (e *Engine) enter(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.RLock()
	if e.closed {
		e.mu.RUnlock()
		return nil, store.ErrClosed
	}
	return e.mu.RUnlock, nil
}

// Close waits for the calls under way.
func (e *Engine) Close() error {
	e.blobs.close() // first: the sweep makes calls
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.appends.flights.Wait()
	e.pool.Close()
	return nil
}

// fail says what did not work.
func fail(what string, err error) error { return fmt.Errorf("postgres: %s: %w", what, err) }

func corrupt(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, what, err)
}

// errTooLarge: the database's numbers have a sign and ours have none.
var errTooLarge = errors.New("store: a number above 2^63")

// signed is n as the database has it.
func signed(n uint64) (int64, error) {
	if n >= 1<<63 {
		return 0, errTooLarge
	}
	return int64(n), nil
}

// unsigned is a number of the database's; it has no negative ones of ours.
func unsigned(n int64) (uint64, error) {
	if n < 0 {
		return 0, fmt.Errorf("%w: a negative number", store.ErrCorrupt)
	}
	return uint64(n), nil
}
