package app_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/cli"
)

// rig is a data directory and the server that runs on it now.
type rig struct {
	t     *testing.T
	data  string
	local bool // from the next start on

	profile  cli.Profile
	endpoint bench.Endpoint // of the quickstart relay
	stop     func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data")}
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
	return r
}

// start serves the data directory, on other ports each time.
func (r *rig) start() {
	r.t.Helper()
	server, err := app.Open(r.t.Context(), app.Config{DataDir: r.data, RelayAddr: "127.0.0.1:0", ManagementAddr: "127.0.0.1:0", Local: r.local})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.profile, err = server.Admin(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	r.endpoint.URL = server.RelayURL()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("the server ended with %v", err)
		}
		r.stop = func() {}
	}
}
