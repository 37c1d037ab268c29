package app

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestNodesInTheManagementAPI: a server on a database shows itself as a node, and is
// drained by its operator.
func TestNodesInTheManagementAPI(t *testing.T) {
	scenario(t, func(w *world) {
		nodes := "/subscriptions/" + w.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/nodes"
		list := func() (one struct {
			Name       string
			Properties struct {
				State, URL string
				Answers    bool
			}
		}) {
			t.Helper()
			r := w.arm("GET", nodes, preview, nil)
			w.want(200, r)
			var all struct{ Value []json.RawMessage }
			if err := json.Unmarshal(r.body, &all); err != nil || len(all.Value) != 1 {
				t.Fatalf("nodes: %s", r.body)
			}
			if err := json.Unmarshal(all.Value[0], &one); err != nil {
				t.Fatal(err)
			}
			return one
		}
		time.Sleep(2 * time.Second)
		n := list()
		if n.Properties.State != "Active" || n.Properties.URL != "http://"+relayAddr || !n.Properties.Answers {
			t.Errorf("the node shows as %+v", n)
		}
		if r := w.arm("POST", nodes+"/nobody/drain", preview, nil); r.status != 404 || !strings.Contains(string(r.body), "NodeNotFound") {
			t.Errorf("draining an unknown node: %d %s", r.status, r.body)
		}
		w.want(202, w.arm("POST", strings.TrimSuffix(nodes, "nodes")+"rebalanceNodes", preview, nil))
		w.want(202, w.arm("POST", nodes+"/"+n.Name+"/drain", preview, nil))
		time.Sleep(3 * time.Second)
		if n := list(); n.Properties.State != "Draining" {
			t.Errorf("three seconds after it was told to drain the node is %s", n.Properties.State)
		}
		w.want(202, w.arm("POST", nodes+"/"+n.Name+"/uncordon", preview, nil))
		time.Sleep(3 * time.Second)
		if again := list(); again.Properties.State != "Active" || again.Name != n.Name {
			t.Errorf("three seconds after that was undone the node is %+v", again)
		}
		w.pause(time.Second)
		time.Sleep(2 * time.Second)
		if again := list(); again.Properties.State != "Active" || again.Name == n.Name {
			t.Errorf("started again the node is %+v", again)
		}
	}, func(c *Config) { c.Store.URL = "postgres://somewhere" })
}

func TestNodeFlagsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"WithoutStore":    {Config{Node: NodeConfig{URL: "http://a"}}, "go with --store"},
		"EveryAddress":    {Config{RelayAddr: "0.0.0.0:7070", Store: StoreConfig{URL: "postgres://a"}}, "--node-url"},
		"NoURL":           {Config{RelayAddr: "127.0.0.1:1", Store: StoreConfig{URL: "postgres://a"}, Node: NodeConfig{URL: "node-1:7070"}}, "must be http(s)://host[:port]"},
		"PlainBesideTLS":  {Config{RelayAddr: "127.0.0.1:1", RelayCert: "c", Store: StoreConfig{URL: "postgres://a"}, Node: NodeConfig{URL: "http://a:1"}}, "must be https"},
		"LocalModeShared": {Config{RelayAddr: "127.0.0.1:1", Local: true, Store: StoreConfig{URL: "postgres://a"}}, "--local is for one process"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.config.checkNode(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
