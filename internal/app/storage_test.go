package app_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// TestServerOnADatabase: a server without a data directory of its own does what the
// others do, and says so when its database is gone.
func TestServerOnADatabase(t *testing.T) {
	database := pgtest.Start(t)
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), store: app.StoreConfig{URL: database.NewDatabase(t), WithoutStandby: true}}
	r.setUp()
	document := writeDocument(t, r.endpoint)
	wantOps, wantSummary := r.ask(document)
	if wantOps.status != http.StatusOK || wantSummary.status != http.StatusOK {
		t.Fatalf("deltas %d, summary %d", wantOps.status, wantSummary.status)
	}
	r.stop()
	r.start()
	ops, summary := r.ask(document)
	// The writer's leave may have come after it was asked first.
	if !bytes.HasPrefix(ops.body, bytes.TrimRight(wantOps.body, "]\n")) || !bytes.Equal(summary.body, wantSummary.body) {
		t.Errorf("the document is not what it was before the restart:\n%s\n%s", ops.body, wantOps.body)
	}
	if _, err := os.Stat(r.data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a data directory: %v", err)
	}

	for _, name := range []string{"tidelock_database_append_batch_count", "tidelock_database_connections_in_use"} {
		if !strings.Contains(r.scrape(), "\n"+name+" ") {
			t.Errorf("no %s", name)
		}
	}

	ready := func(want int) {
		t.Helper()
		var got int
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if got, _ = r.fetch(r.endpoint.URL + "/readyz"); got == want {
				return
			}
		}
		t.Errorf("readyz says %d, want %d", got, want)
	}
	ready(http.StatusOK)
	database.Kill()
	ready(http.StatusServiceUnavailable)
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	ready(http.StatusOK)
	if again, _ := r.ask(document); !bytes.Equal(again.body, ops.body) {
		t.Error("the document is not what it was before the database was killed")
	}
}

// TestNodesShareTheServiceKey: what nodes on one database have in common is the key, and
// a node with another one, or none, makes nothing of its own beside it.
func TestNodesShareTheServiceKey(t *testing.T) {
	store := app.StoreConfig{URL: pgtest.Start(t).NewDatabase(t), WithoutStandby: true}
	open := func(data string) (string, error) {
		const free = "127.0.0.1:0"
		a, err := app.Open(t.Context(), app.Config{DataDir: data, RelayAddr: free, ManagementAddr: free, Store: store})
		if err != nil {
			return "", err
		}
		defer a.Close()
		admin, err := a.Admin(t.Context())
		return admin.SubscriptionID, err
	}
	dirs := t.TempDir()
	keyOf := func(node string) string { return filepath.Join(dirs, node+".keys", "service.key") }
	first, err := open(filepath.Join(dirs, "first"))
	if err != nil {
		t.Fatal(err)
	}

	_, err = open(filepath.Join(dirs, "none"))
	if err == nil || !strings.Contains(err.Error(), "copy it from another node") {
		t.Errorf("a node without the key: got %v, want it told to copy it", err)
	}
	if _, err := os.Stat(keyOf("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a node without the key made one")
	}
	put := func(node string, key []byte) {
		if err := os.MkdirAll(filepath.Dir(keyOf(node)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keyOf(node), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("other", make([]byte, 32))
	if _, err = open(filepath.Join(dirs, "other")); err == nil || !strings.Contains(err.Error(), "not the one this data is sealed under") {
		t.Errorf("a node with another key: got %v, want it refused", err)
	}
	key, err := os.ReadFile(keyOf("first"))
	if err != nil {
		t.Fatal(err)
	}
	put("second", key)
	if _, err = open(filepath.Join(dirs, "second")); err == nil || !strings.Contains(err.Error(), "retention.key") {
		t.Errorf("a node without the retention key: got %v, want it told to copy it", err)
	}
	retention := func(node string) string { return filepath.Join(dirs, node+".keys", "retention.key") }
	copied, err := os.ReadFile(retention("first"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(retention("second"), copied, 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := open(filepath.Join(dirs, "second"))
	if err != nil || second != first {
		t.Errorf("the second node: subscription %q, %v; want %q", second, err, first)
	}
}
