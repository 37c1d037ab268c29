package app_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/cli"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fetch asks a URL and returns status and body.
func (r *rig) fetch(url string) (int, string) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// scrape returns the metrics.
func (r *rig) scrape() string {
	r.t.Helper()
	status, body := r.fetch(r.metrics)
	if status != http.StatusOK {
		r.t.Fatalf("GET /metrics: %d %s", status, body)
	}
	return body
}

// Names, help, labels and buckets are what dashboards and alerts are made of: the
// golden file has them all, without the values.
func TestMetricsAreAsDocumented(t *testing.T) {
	r := newRig(t)
	writeDocument(t, r.endpoint)
	value := regexp.MustCompile(` [^ ]+$`)
	var ours strings.Builder
	scraped := r.scrape()
	for line := range strings.Lines(scraped) {
		line = strings.TrimSuffix(line, "\n")
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if !strings.HasPrefix(name, "tidelock_") && !strings.HasPrefix(name, "cmk_") {
			continue
		}
		if !strings.HasPrefix(line, "#") {
			line = value.ReplaceAllString(line, "")
		}
		fmt.Fprintln(&ours, line)
	}
	path := filepath.Join("testdata", "metrics.txt")
	if *update {
		if err := os.WriteFile(path, []byte(ours.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if ours.String() != string(want) {
		t.Errorf("the metrics differ from %s; run with -update and look at the difference:\n%s", path, ours.String())
	}
	for _, name := range []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes"} {
		if !strings.Contains(scraped, "\n"+name+" ") {
			t.Errorf("no %s: the process shows nothing of itself", name)
		}
	}
	documented, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(ours.String()) {
		typed, isType := strings.CutPrefix(line, "# TYPE ")
		name, _, _ := strings.Cut(typed, " ")
		if isType && !bytes.Contains(documented, []byte("`"+name)) {
			t.Errorf("docs/operations.md does not say what %s is good for", name)
		}
	}
}

func TestMetricsListenerServesNothingElse(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/", "/debug/pprof/", "/documents/t1", "/readyz"} {
		if status, _ := r.fetch(strings.TrimSuffix(r.metrics, "/metrics") + path); status != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, status)
		}
	}
	if status, _ := r.fetch(r.endpoint.URL + "/metrics"); status != http.StatusNotFound {
		t.Errorf("GET /metrics of the relay: %d, want 404", status)
	}
}

func TestMetricsStayOnLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":9464", "192.0.2.1:9464", "nonsense"} {
		_, err := app.Open(t.Context(), app.Config{DataDir: t.TempDir(), RelayAddr: "127.0.0.1:0", ManagementAddr: "127.0.0.1:0", MetricsAddr: addr})
		if err == nil || !strings.Contains(err.Error(), "--metrics "+addr+" must be a loopback address") {
			t.Errorf("--metrics %s: %v, want a refusal that says so", addr, err)
		}
	}
}

// lockedBuffer takes the log of many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A whole server, with its vault, directory and engine, logs at its most talkative
// while a relay with a customer's key is set up and a document written and read. No
// content, key, secret or token is in the log or in the metrics, and no document or
// tenant in the metrics.
func TestServerTellsNoSecrets(t *testing.T) {
	var log lockedBuffer
	r := newLoggedRig(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	document := writeDocument(t, r.endpoint)
	const canary = "canary-91ab"
	own := make(chan struct{}, 1)
	client, err := bench.Dial(t.Context(), r.endpoint, document, bench.Options{Mode: bench.Write, OnOp: func(op bench.Op) {
		if op.Own && op.Type == "op" {
			own <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Submit("op", []byte(`"`+canary+`"`)); err != nil {
		t.Fatal(err)
	}
	<-own
	client.Close()
	r.ask(document)
	management, err := cli.NewClient(r.profile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := management.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	scraped := r.scrape()
	r.stop()

	said := log.String()
	if !strings.Contains(said, "session connected") || !strings.Contains(said, document.ID) || !strings.Contains(scraped, "tidelock_relay_ops_sequenced_total 1") {
		t.Errorf("the server did not log or count what was done; this test would find nothing:\n%s", said)
	}
	for what, secret := range map[string]string{
		"an op's contents": canary, "the tenant's key": r.endpoint.Key, "the administrator's secret": r.profile.ClientSecret, "a token": "eyJ",
	} {
		if strings.Contains(said, secret) {
			t.Errorf("%s (%s) is in the log", what, secret)
		}
		if strings.Contains(scraped, secret) {
			t.Errorf("%s (%s) is in the metrics", what, secret)
		}
	}
	for what, name := range map[string]string{"a document": document.ID, "a tenant": r.endpoint.Tenant, "a user": "bench", "a key": "relay-key"} {
		if strings.Contains(scraped, name) {
			t.Errorf("%s (%s) is in the metrics", what, name)
		}
	}
}
