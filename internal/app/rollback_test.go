package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/cli"
)

// The whole store is put back by an hour; what lies beside it is not. The document that
// was written to since is not served until an operator accepts that; others are.
func TestScenario38RollbackOfTheWholeStore(t *testing.T) {
	r := newRig(t)
	other := writeDocument(t, r.endpoint)
	document := writeDocument(t, r.endpoint)
	r.stop()
	before := filepath.Join(t.TempDir(), "before")
	if err := os.CopyFS(before, os.DirFS(r.data)); err != nil {
		t.Fatal(err)
	}
	r.start()
	submitTo(t, r.endpoint, document, "more")
	r.stop()
	if err := os.RemoveAll(r.data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(before, r.data); err != nil {
		t.Fatal(err)
	}

	r.start()
	for range 2 {
		ops, summary := r.ask(document)
		for what, a := range map[string]answer{"ops": ops, "summary": summary} {
			if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "ROLLBACK_SUSPECTED") {
				t.Errorf("%s of the document that was put back: %d %s", what, a.status, a.body)
			}
		}
	}
	if ops, _ := r.ask(other); ops.status != http.StatusOK {
		t.Errorf("the other document: %d %s", ops.status, ops.body)
	}
	client, err := cli.NewClient(r.profile)
	if err != nil {
		t.Fatal(err)
	}
	path := "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.FluidRelay/fluidRelayServers/quickstart/fluidRelayContainers/" + document.ID + "/acceptRollback"
	if err := client.Do(t.Context(), http.MethodPost, path, "2025-06-20-preview", nil, nil); err != nil {
		t.Fatal(err)
	}
	if ops, _ := r.ask(document); ops.status != http.StatusOK {
		t.Errorf("after it was accepted: %d %s", ops.status, ops.body)
	}
	submitTo(t, r.endpoint, document, "after")
	if err := client.Do(t.Context(), http.MethodPost, strings.Replace(path, document.ID, "unknown", 1), "2025-06-20-preview", nil, nil); err == nil {
		t.Error("a rollback of an unknown document was accepted")
	}
	r.stop()
	r.start()
	if ops, _ := r.ask(document); ops.status != http.StatusOK {
		t.Errorf("after a restart: %d %s", ops.status, ops.body)
	}
}

// submitTo connects, sends one op and waits until it is sequenced.
func submitTo(t *testing.T, e bench.Endpoint, d bench.Document, text string) {
	t.Helper()
	d, err := e.Discover(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	own := make(chan struct{}, 1)
	client, err := bench.Dial(t.Context(), e, d, bench.Options{Mode: bench.Write, OnOp: func(op bench.Op) {
		if op.Own && op.Type == "op" {
			own <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Submit("op", []byte(`"`+text+`"`)); err != nil {
		t.Fatal(err)
	}
	<-own
}
