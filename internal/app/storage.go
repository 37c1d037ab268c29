package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
	"github.com/tidelock/tidelock/internal/store/metered"
	"github.com/tidelock/tidelock/internal/store/pebble"
	"github.com/tidelock/tidelock/internal/store/postgres"
)

// StoreConfig says where the data is kept.
type StoreConfig struct {
	// URL of a PostgreSQL database, without a password. Empty: the embedded engine, in
	// the data directory.
	URL string
	// PasswordFile holds the database's password.
	PasswordFile string
	// PoolSize is how many connections to the database there are at most; 0: 16.
	PoolSize int
	// StatementTimeout ends a statement that takes longer; 0: 30 s.
	StatementTimeout time.Duration
	// WithoutStandby takes a database that names no synchronous standby.
	WithoutStandby bool
	// MayLoseWrites takes a database that acknowledges writes before they are durable.
	MayLoseWrites bool
	// Blobs is an object store for large objects of a database; empty: they are in it.
	Blobs string
	// BlobsCredentialsFile holds the object store's credentials.
	BlobsCredentialsFile string
}

func (c StoreConfig) check() error {
	if c.URL == "" && c != (StoreConfig{}) {
		return errors.New("the flags --store-… and --blobs go with --store, which names a database")
	}
	if c.Blobs == "" && c.BlobsCredentialsFile != "" {
		return errors.New("--blobs-credentials-file goes with --blobs, which names an object store")
	}
	return nil
}

// databasePatience is how long a start waits for a database that does not answer.
const databasePatience = 30 * time.Second

func openEngine(ctx context.Context, c Config, metrics prometheus.Registerer) (store.Store, error) {
	if c.Store.URL == "" {
		return pebble.Open(pebble.Options{Dir: c.DataDir, Log: c.Log})
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	var objects blobs.Store
	if c.Store.Blobs != "" {
		var err error
		objects, err = blobs.Open(ctx, blobs.Options{Place: c.Store.Blobs, CredentialsFile: c.Store.BlobsCredentialsFile})
		if err != nil {
			return nil, err
		}
	}
	e, err := postgres.Open(ctx, postgres.Options{
		URL: c.Store.URL, PasswordFile: c.Store.PasswordFile,
		PoolSize: c.Store.PoolSize, StatementTimeout: c.Store.StatementTimeout,
		NeedStandby: !c.Store.WithoutStandby, MayLoseWrites: c.Store.MayLoseWrites, Blobs: objects, Log: c.Log, Metrics: metrics,
	})
	if err != nil {
		return nil, err // a nil *Engine would make a store that is not nil
	}
	return e, nil
}

// openStore opens the engine and reads the service key. A data directory has its key
// before it is made; a database says itself whether there is anything in it.
func (a *App) openStore(ctx context.Context) (err error) {
	file := newServiceKeyFile(a.c, a.token)
	fresh := func() (bool, error) { return emptyOrAbsent(a.c.DataDir) }
	if a.c.Store.URL == "" {
		if a.service, err = file.load(fresh); err != nil {
			return err
		}
	}
	engine, err := a.in.engine(ctx, a.c, a.metrics)
	if err != nil {
		return err
	}
	a.store = metered.New(engine, a.metrics)
	if a.c.Store.URL != "" {
		fresh = func() (bool, error) { return withoutInstallation(ctx, a.store) }
		if a.service, err = file.load(fresh); err != nil {
			return err
		}
	}
	return a.openServiceKeys(ctx, file)
}

// withoutInstallation says whether st is new, whatever the key.
func withoutInstallation(ctx context.Context, st store.Store) (bool, error) {
	rows, err := st.ListRows(ctx, installationTable, envelope.Name{}, envelope.Name{}, 1)
	return len(rows) == 0, err
}

// where names the place of the data to people.
func (c Config) where() string {
	if c.Store.URL == "" {
		return c.DataDir
	}
	return "the database"
}

// keyAdvice says how to get a key beside the data that is not there.
func (c Config) keyAdvice(name string) string {
	if c.Store.URL == "" {
		return "restore the key from your backup, or name another --data"
	}
	return fmt.Sprintf("all nodes on one database have the same key: copy it from another node's DATA.keys/%s to %s, or restore it from your backup", name, keysDir(c.DataDir))
}
