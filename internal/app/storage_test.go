package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// TestServerOnADatabase: a server without a data directory of its own does what the
// others do, and says so when its database is gone.
func TestServerOnADatabase(t *testing.T) {
	database := pgtest.Start(t)
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), store: app.StoreConfig{URL: database.NewDatabase(t), WithoutStandby: true}}
	r.setUp()
	document := writeDocument(t, r.endpoint)
	r.stop()
	r.start()
	wantOps, wantSummary := r.settled(document)
	r.stop()
	r.start()
	if ops, summary := r.settled(document); !bytes.Equal(ops.body, wantOps.body) || !bytes.Equal(summary.body, wantSummary.body) {
		t.Errorf("the document is not what it was before the restart:\n%s\n%s\n%s\n%s", ops.body, wantOps.body, summary.body, wantSummary.body)
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
	if ops, summary := r.settled(document); !bytes.Equal(ops.body, wantOps.body) || !bytes.Equal(summary.body, wantSummary.body) {
		t.Errorf("the document is not what it was before the database was killed:\n%s\n%s\n%s\n%s", ops.body, wantOps.body, summary.body, wantSummary.body)
	}
}

// TestServerOnADatabaseProves: tables and object store are walked through like files.
func TestServerOnADatabaseProves(t *testing.T) {
	url := pgtest.Start(t).NewDatabase(t)
	objects := t.TempDir()
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), store: app.StoreConfig{URL: url, WithoutStandby: true, Blobs: "dir:" + objects}}
	r.setUp()
	writeDocument(t, r.endpoint)
	if p := r.prove(); p.State != "Proven" || p.Documents != 1 || p.Records < 6 || p.Objects < 3 || p.Rows < 10 || len(p.KeyIDs) != 1 {
		t.Errorf("%+v, want one document proven", p)
	}

	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if tag, err := db.Exec(t.Context(), sql); err != nil || tag.RowsAffected() == 0 {
			t.Fatalf("%s: %v %v", sql, tag, err)
		}
	}
	// Each one does and undoes its damage.
	const flipped = "set_byte(%[1]s, octet_length(%[1]s) - 1, 255 - get_byte(%[1]s, octet_length(%[1]s) - 1))"
	for table, column := range map[string]string{"records": "record", "segments": "header", "objects": "value"} {
		damage := "UPDATE " + table + " SET " + column + " = " + fmt.Sprintf(flipped, column)
		exec(damage)
		if p := r.prove(); p.State != "Failed" {
			t.Errorf("flipped bits in %s: %+v, want it to fail", table, p)
		}
		exec(damage)
	}
	exec("INSERT INTO sealed_rows (kind, partition, name, revision, value) VALUES ('x', 'x', 'x', 1, 'what a client wrote')")
	if p := r.prove(); p.State != "Failed" || p.Failed != 1 {
		t.Errorf("a plain row: %+v, want one failure", p)
	}
	exec("DELETE FROM sealed_rows WHERE kind = 'x'")
	stray := filepath.Join(objects, "00", strings.Repeat("0", 32))
	if err := os.MkdirAll(filepath.Dir(stray), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stray, []byte("what a client wrote"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := r.prove(); p.State != "Failed" || p.Failed != 1 || p.Loose != 1 {
		t.Errorf("a plain file in the object store: %+v, want one failure", p)
	}
	if err := os.Remove(stray); err != nil {
		t.Fatal(err)
	}
	if p := r.prove(); p.State != "Proven" {
		t.Errorf("with all of it undone: %+v", p)
	}
}

// proof is the report of a proof.
type proof struct {
	State                                     string
	Documents, Records, Objects, Rows, Failed int
	Loose                                     int            `json:"looseBlobs"`
	KeyIDs                                    map[string]int `json:"documentsByKey"`
	Failures                                  []string
}

func (r *rig) prove() (p proof) {
	r.t.Helper()
	client, err := cli.NewClient(r.profile)
	if err != nil {
		r.t.Fatal(err)
	}
	provider := "/subscriptions/" + r.profile.SubscriptionID + "/providers/Microsoft.FluidRelay"
	const preview = "2025-06-20-preview"
	if err := client.Do(r.t.Context(), http.MethodPost, provider+"/proveEncryption", preview, nil, nil); err != nil {
		r.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		p = proof{}
		if err := client.Do(r.t.Context(), http.MethodGet, provider+"/encryptionProof", preview, nil, &p); err != nil {
			r.t.Fatal(err)
		}
		if p.State != "Running" || time.Now().After(end) {
			return p
		}
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
