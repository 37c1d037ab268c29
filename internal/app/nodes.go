package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/relay"
)

// NodeConfig says how this process is one of several on a database.
type NodeConfig struct {
	// URL is where the other nodes reach this one's relay listener. Default: its address.
	URL string
	// Direct has session discovery send clients to URL. Default: to the address they came
	// in on, from where the nodes pass them on.
	Direct bool
	// CAFile has the authorities, PEM, that the other nodes' certificates are of. Default:
	// the system's.
	CAFile string
}

func (c Config) checkNode() error {
	if c.Store.URL == "" {
		if c.Node != (NodeConfig{}) {
			return errors.New("--node-url, --direct-nodes and --node-ca go with --store, which names a database")
		}
		return nil
	}
	if c.Local {
		return errors.New("--local is for one process with a data directory of its own, not for --store")
	}
	if c.Node.URL == "" {
		host, _, err := net.SplitHostPort(c.RelayAddr)
		if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
			return fmt.Errorf("--relay %s is on every address of this machine: say with --node-url which one the other nodes are to use", c.RelayAddr)
		}
		return nil
	}
	u, err := url.Parse(c.Node.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("--node-url %q must be http(s)://host[:port]", c.Node.URL)
	}
	if u.Scheme == "http" && c.RelayCert != "" {
		return fmt.Errorf("--node-url %s must be https, as the relay listener is", c.Node.URL)
	}
	return nil
}

// nodeURL is where the other nodes reach this one.
func (a *App) nodeURL() string {
	if a.c.Node.URL != "" {
		return strings.TrimSuffix(a.c.Node.URL, "/")
	}
	scheme := "http://"
	if a.c.RelayCert != "" {
		scheme = "https://"
	}
	return scheme + a.relayListener.Addr().String()
}

// The topics of notices that concern the whole process.
const (
	topicKeys  = "keys"
	topicOrder = "order"
)

// order is what an operator wants of one node, or of all: then Node is empty.
type order struct {
	Node string `json:"node,omitempty"`
	Do   string `json:"do"`
}

const (
	drainNode    = "drain"
	uncordonNode = "uncordon"
	rebalance    = "rebalance"
)

// drainOrderTime bounds how long a node that was told to drain waits for its documents.
const drainOrderTime = 5 * time.Minute

// wireNode makes this process a node, if the store can be shared. It is part of the
// cluster once it serves.
func (a *App) wireNode() {
	if a.c.Store.URL == "" {
		return
	}
	a.orders = make(chan order, 16)
	a.node = cluster.New(cluster.Config{
		Store: a.store, Service: a.service, URL: a.nodeURL(), Log: a.c.Log, Metrics: a.metrics,
		Load:   func() (int, int) { return a.relay.Load() },
		Keys:   a.serviceKeys.IDs,
		Lost:   func() { a.relay.LetGo() },
		Missed: func() { a.custody.DropAll(); a.relay.LetGo() },
	})
	a.node.On(topicKeys, func(body json.RawMessage) {
		var n custody.News
		if json.Unmarshal(body, &n) == nil {
			a.custody.Heed(n)
		}
	})
	a.heedServiceKey(a.node)
	a.node.On(topicOrder, func(body json.RawMessage) {
		var o order
		if json.Unmarshal(body, &o) == nil {
			a.take(o)
		}
	})
}

// tellKeys is how custody passes news on; nil without other nodes.
func (a *App) tellKeys() func(custody.News) {
	if a.node == nil {
		return nil
	}
	return func(n custody.News) { a.node.Post(topicKeys, n) }
}

// take has an order carried out if it is for this node.
func (a *App) take(o order) {
	if o.Node != "" && o.Node != a.node.ID() {
		return
	}
	select {
	case a.orders <- o:
	default:
		a.c.Log.Warn("order dropped: too many wait", "do", o.Do)
	}
}

// obey carries orders out, one after the other.
func (a *App) obey(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-a.orders:
			switch o.Do {
			case drainNode:
				a.c.Log.InfoContext(ctx, "draining: all documents go to other nodes")
				ctx, cancel := context.WithTimeout(ctx, drainOrderTime)
				if err := a.relay.Move(ctx); err != nil {
					a.c.Log.WarnContext(ctx, "draining: some documents are still here", "err", err)
				}
				cancel()
			case uncordonNode:
				a.relay.Uncordon()
				a.c.Log.InfoContext(ctx, "not draining any more: this node takes documents again")
			case rebalance:
				a.c.Log.InfoContext(ctx, "idle documents left for other nodes", "documents", a.relay.Rebalance())
			}
		}
	}
}

// peers reaches the other nodes; nil without a cluster.
func (c Config) peers() (http.RoundTripper, error) {
	if c.Node.CAFile == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(c.Node.CAFile)
	if err != nil {
		return nil, fmt.Errorf("--node-ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("--node-ca %s has no certificate in PEM", c.Node.CAFile)
	}
	t := relay.PeerTransport()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return t, nil
}

// nodes is the management plane's view of the cluster.
type nodes struct{ a *App }

func (n nodes) Nodes() []fluidrelay.Node {
	var all []fluidrelay.Node
	for _, m := range n.a.node.Members() {
		all = append(all, fluidrelay.Node{
			ID: m.ID, URL: m.URL, State: string(m.State), Started: m.Started, Seen: m.Seen,
			Documents: m.Documents, Sessions: m.Sessions, Answers: m.Self,
		})
	}
	return all
}

func (n nodes) Drain(id string)    { n.a.order(order{Node: id, Do: drainNode}) }
func (n nodes) Uncordon(id string) { n.a.order(order{Node: id, Do: uncordonNode}) }
func (n nodes) Rebalance()         { n.a.order(order{Do: rebalance}) }

func (a *App) order(o order) {
	a.node.Post(topicOrder, o)
	a.take(o)
}
