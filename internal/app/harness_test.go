package app_test

import (
	"context"
	"crypto/rsa"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/rsatest"
)

// rig is a data directory and the server that runs on it now.
type rig struct {
	t      *testing.T
	data   string
	local  bool // from the next start on
	store  app.StoreConfig
	token  app.PKCS11
	seal   bool   // the service key
	phrase string // file of the passphrase that seals it; empty: none
	newRSA func(bits int) (*rsa.PrivateKey, error)

	profile  cli.Profile
	endpoint bench.Endpoint // of the quickstart relay
	metrics  string         // URL
	log      *slog.Logger   // of the servers from the next start on; nil: none
	stop     func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newLoggedRig(t, nil)
}

func newLoggedRig(t *testing.T, log *slog.Logger) *rig {
	t.Helper()
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), log: log}
	r.setUp()
	return r
}

// setUp starts the rig and makes the quickstart relay.
func (r *rig) setUp() {
	t := r.t
	t.Helper()
	r.start()
	client, err := cli.NewClient(r.profile)
	if err != nil {
		t.Fatal(err)
	}
	seeded, err := client.Seed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ Key1 string }
	path := "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.FluidRelay/fluidRelayServers/quickstart"
	if err := client.Do(t.Context(), http.MethodPost, path+"/listKeys", "2022-06-01", nil, &keys); err != nil {
		t.Fatal(err)
	}
	r.endpoint.Tenant, r.endpoint.Key = seeded.TenantID, keys.Key1
	t.Cleanup(func() { r.stop() })
}

// start serves the data directory, on other ports each time.
func (r *rig) start() {
	r.t.Helper()
	const free = "127.0.0.1:0"
	if r.newRSA == nil {
		r.newRSA = rsatest.New()
	}
	server, err := app.OpenWith(r.t.Context(), app.Config{DataDir: r.data, RelayAddr: free, ManagementAddr: free, MetricsAddr: free, Log: r.log, Local: r.local, Store: r.store, PKCS11: r.token, SealServiceKey: r.seal, PassphraseFile: r.phrase}, r.newRSA)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.profile, err = server.Admin(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	r.endpoint.URL, r.metrics = server.RelayURL(), server.MetricsURL()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("the server ended with %v", err)
		}
		r.stop = func() {}
	}
}
