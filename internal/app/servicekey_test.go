package app_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/pkcs11/softhsm"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// ownKey is the service key as the management plane shows it.
type ownKey struct {
	State    string
	Versions []struct {
		Number uint32
		ID     string
		State  string
	}
}

func (r *rig) ownKey(method, verb string) (k ownKey, err error) {
	r.t.Helper()
	client, err := cli.NewClient(r.profile)
	if err != nil {
		r.t.Fatal(err)
	}
	var raw json.RawMessage
	err = client.Do(r.t.Context(), method, "/subscriptions/"+r.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/"+verb, "2025-06-20-preview", nil, &raw)
	if err == nil {
		err = json.Unmarshal(raw, &k)
	}
	return k, err
}

// resealed waits until nothing is under an older version of the service key.
func (r *rig) resealed() ownKey {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		k, err := r.ownKey(http.MethodGet, "serviceKey")
		if err != nil {
			r.t.Fatal(err)
		}
		if k.State == "Current" {
			return k
		}
		if time.Now().After(end) {
			r.t.Fatalf("still %+v", k)
		}
	}
}

// knowsNodes waits until the server knows of so many.
func (r *rig) knowsNodes(want int) {
	r.t.Helper()
	client, err := cli.NewClient(r.profile)
	if err != nil {
		r.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var all struct{ Value []json.RawMessage }
		if err := client.Do(r.t.Context(), http.MethodGet, "/subscriptions/"+r.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/nodes", "2025-06-20-preview", nil, &all); err != nil {
			r.t.Fatal(err)
		}
		if len(all.Value) == want {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d nodes instead of %d", len(all.Value), want)
		}
	}
}

// TestServiceKeyRotation: a whole server goes on while its own key gets a new version, and
// opens everything after a restart, however the key lies in its file.
func TestServiceKeyRotation(t *testing.T) {
	for how, prepare := range map[string]func(*testing.T, *rig){
		"Plain": func(*testing.T, *rig) {},
		"Passphrase": func(t *testing.T, r *rig) {
			r.phrase = filepath.Join(t.TempDir(), "phrase")
			if err := os.WriteFile(r.phrase, []byte("correct horse battery staple\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"Token": func(t *testing.T, r *rig) { r.token, r.seal = app.PKCS11(softhsm.New(t)), true },
	} {
		t.Run(how, func(t *testing.T) {
			r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), local: true}
			prepare(t, r)
			r.setUp()
			file := filepath.Join(r.data+".keys", "service.key")
			document := writeDocument(t, r.endpoint)
			r.stop()
			r.start() // the writer's leave is in the log now
			want, _ := r.ask(document)
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			k, err := r.ownKey(http.MethodPost, "rotateServiceKey")
			if err != nil || len(k.Versions) != 2 || k.Versions[0].State != "Opening" || k.Versions[1].State != "Sealing" {
				t.Fatalf("rotate: %+v, %v", k, err)
			}
			r.resealed()
			after, err := os.ReadFile(file)
			if err != nil || bytes.Equal(after, before) {
				t.Errorf("the file is as it was, %v", err)
			}
			if sealed := how != "Plain"; sealed && bytes.Contains(after, []byte("tidelock service key, versions")) {
				t.Error("the key lies in the clear")
			}
			if got, _ := r.ask(document); !bytes.Equal(got.body, want.body) {
				t.Errorf("after the rotation: got %d %s, want %s", got.status, got.body, want.body)
			}
			r.stop()
			r.start()
			if got, _ := r.ask(document); !bytes.Equal(got.body, want.body) {
				t.Errorf("after a restart: got %d %s, want %s", got.status, got.body, want.body)
			}
			writeDocument(t, r.endpoint)
			if k := r.resealed(); len(k.Versions) != 2 {
				t.Errorf("versions: %+v", k)
			}
			r.stop()
			// The file of before lacks what the data is under now, and says what.
			if err := os.WriteFile(file, before, 0o600); err != nil {
				t.Fatal(err)
			}
			const free = "127.0.0.1:0"
			server, err := app.Open(t.Context(), app.Config{DataDir: r.data, RelayAddr: free, ManagementAddr: free, PKCS11: r.token, PassphraseFile: r.phrase})
			if err == nil {
				server.Close()
			}
			if want := "sealed under version 2 (" + k.Versions[1].ID; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("with the file of before: %v, want %q", err, want)
			}
			if err := os.WriteFile(file, after, 0o600); err != nil {
				t.Fatal(err)
			}
			r.start()
		})
	}
}

// TestServiceKeyRotationOnTwoNodes: the new version is copied by the operator, and seals when
// both nodes have it.
func TestServiceKeyRotationOnTwoNodes(t *testing.T) {
	store := app.StoreConfig{URL: pgtest.Start(t).NewDatabase(t), WithoutStandby: true}
	dirs := t.TempDir()
	a := &rig{t: t, data: filepath.Join(dirs, "a"), store: store}
	a.setUp()
	document := writeDocument(t, a.endpoint)
	b := &rig{t: t, data: filepath.Join(dirs, "b"), store: store, endpoint: a.endpoint}
	copyKey := func() {
		t.Helper()
		for _, name := range []string{"service.key", "retention.key"} {
			raw, err := os.ReadFile(filepath.Join(a.data+".keys", name))
			if err == nil {
				err = os.MkdirAll(b.data+".keys", 0o700)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(b.data+".keys", name), raw, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	copyKey()
	b.start()
	t.Cleanup(func() { b.stop() })
	rotated := func() error {
		for end := time.Now().Add(90 * time.Second); ; time.Sleep(500 * time.Millisecond) {
			_, err := a.ownKey(http.MethodPost, "rotateServiceKey")
			if err == nil || !strings.Contains(err.Error(), "ServiceKeyNotOnAllNodes") || time.Now().After(end) {
				return err
			}
			if !strings.Contains(err.Error(), b.endpoint.URL) {
				t.Fatalf("the node that lacks the version is not named: %v", err)
			}
			copyKey()
		}
	}
	// served asks as a client does, who comes back while the document moves to a node.
	served := func(r *rig, when string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(500 * time.Millisecond) {
			got, _ := r.ask(document)
			if got.status == http.StatusOK {
				return
			}
			if got.status != http.StatusServiceUnavailable || time.Now().After(end) {
				t.Errorf("the document %s: %d %s", when, got.status, got.body)
				return
			}
		}
	}
	a.knowsNodes(2)
	if _, err := a.ownKey(http.MethodPost, "rotateServiceKey"); err == nil {
		t.Fatal("rotated though the other node has not the version")
	}
	if err := rotated(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*rig{a, b} { // one of them does not lead
		r.resealed()
	}
	for _, r := range []*rig{a, b} {
		served(r, "before a restart")
		r.stop()
		r.start()
		served(r, "after a restart")
	}
}
