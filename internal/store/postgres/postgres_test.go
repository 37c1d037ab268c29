package postgres

import (
	"os"
	"testing"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func openURL(t testing.TB, url string) *Engine {
	t.Helper()
	e, err := Open(t.Context(), Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func openNew(t testing.TB) *Engine {
	t.Helper()
	return openURL(t, pgtest.Shared(t).NewDatabase(t))
}

func TestContract(t *testing.T) {
	pgtest.Shared(t)
	storetest.TestStore(t, func(t *testing.T) store.Store { return openNew(t) })
}

func TestReopen(t *testing.T) {
	pgtest.Shared(t)
	storetest.TestReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		url := pgtest.Shared(t).NewDatabase(t)
		return openURL(t, url), func() store.Store { return openURL(t, url) }
	})
}
