package app_test

import (
	"bytes"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/bench"
)

// Local mode serves tenants of fixed names, whatever signs their tokens; their data
// outlives restarts, and without local mode they are unknown.
func TestLocalMode(t *testing.T) {
	r := newRig(t)
	quickstart := r.endpoint.Tenant
	r.stop()
	r.local = true
	r.start()
	r.endpoint.Key = "no key of ours"

	for _, tenant := range []string{"local", "tinylicious"} {
		r.endpoint.Tenant = tenant
		document := writeDocument(t, r.endpoint)
		before, _ := r.ask(document)
		r.stop()
		r.start()
		after, _ := r.ask(document)
		if after.status != http.StatusOK || !bytes.Equal(after.body, before.body) {
			t.Errorf("tenant %s after a restart: %d %s, want %s", tenant, after.status, after.body, before.body)
		}
		r.stop()
		r.local = false
		r.start()
		if got, _ := r.ask(document); got.status != http.StatusNotFound {
			t.Errorf("tenant %s without local mode: %d %s, want 404", tenant, got.status, got.body)
		}
		r.stop()
		r.local = true
		r.start()
		if got, _ := r.ask(document); !bytes.Equal(got.body, before.body) {
			t.Errorf("tenant %s after a start without local mode: %d %s, want %s", tenant, got.status, got.body, before.body)
		}
	}

	r.endpoint.Tenant = quickstart
	if _, err := r.endpoint.Create(t.Context()); err == nil {
		t.Error("in local mode another tenant takes a token that it did not sign")
	}
	if ops, _ := r.ask(bench.Document{ID: "x"}); ops.status != http.StatusForbidden {
		t.Errorf("in local mode another tenant answers %d %s to a token that it did not sign, want 403", ops.status, ops.body)
	}
}

func TestLocalModeStaysOnLoopback(t *testing.T) {
	for name, test := range map[string]struct {
		config app.Config
		want   string
	}{
		"AnyAddress":   {app.Config{RelayAddr: "0.0.0.0:0"}, "--relay 0.0.0.0:0 must be a loopback address"},
		"NoHost":       {app.Config{RelayAddr: ":7070"}, "--relay :7070 must be a loopback address"},
		"OtherAddress": {app.Config{RelayAddr: "192.0.2.1:0"}, "--relay 192.0.2.1:0 must be a loopback address"},
		"BehindTLS":    {app.Config{RelayAddr: "[::]:0", RelayCert: "a.pem", RelayKey: "a.key"}, "--relay [::]:0 must be a loopback address"},
		"OtherName":    {app.Config{RelayAddr: "relay.contoso.com:0"}, "must be a loopback address"},
		"BehindProxy":  {app.Config{RelayAddr: "127.0.0.1:0", RelayURL: "https://relay.contoso.com"}, "--relay-url https://relay.contoso.com must be on loopback"},
	} {
		t.Run(name, func(t *testing.T) {
			test.config.DataDir, test.config.ManagementAddr, test.config.Local = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", true
			server, err := app.Open(t.Context(), test.config)
			if err == nil {
				server.Close()
				t.Fatal("local mode was opened")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want %q", err, test.want)
			}
		})
	}
}
