//go:build e2e

package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidelock/tidelock/e2e/process"
	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

const nodeCount = 3

// rig is the whole installation: the database with its standby, the nodes, each with a
// network of its own to the database, and the address that they share.
type rig struct {
	t        *testing.T
	primary  *pgtest.Server
	standby  *pgtest.Server
	database string // its name
	nodes    []*node
	balancer *balancer
	endpoint bench.Endpoint
}

// node is one real process.
type node struct {
	rig               *rig
	data              string
	relay, management string
	link              *link

	process *process.Process // nil while there is none
	paused  bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t}
	r.primary = pgtest.Start(t)
	url := r.primary.NewDatabase(t)
	r.database = url[strings.LastIndex(url, "/")+1:]
	r.standby = r.primary.StartStandby(t)
	root := t.TempDir()
	port := freePort(t)
	var relays []string
	for i := range nodeCount {
		// The same port everywhere: it is part of the vaults' names.
		host := fmt.Sprintf("127.0.0.%d", i+1)
		r.nodes = append(r.nodes, &node{
			rig: r, data: filepath.Join(root, fmt.Sprint("node", i+1)), relay: net.JoinHostPort(host, freePort(t)),
			management: net.JoinHostPort(host, port), link: newLink(t, r.address()),
		})
		relays = append(relays, r.nodes[i].relay)
	}
	r.balancer = newBalancer(t, relays)
	t.Cleanup(r.end)
	first := r.nodes[0]
	first.start("quickstart")
	for _, n := range r.nodes[1:] {
		copySecrets(t, first.data+".keys", n.data+".keys")
		n.start("serve")
	}
	r.endpoint = process.Endpoint(t, "http://"+r.balancer.addr(), r.cli)
	time.Sleep(2 * time.Second) // until all have seen each other
	return r
}

// address is where the present primary listens.
func (r *rig) address() string { return fmt.Sprintf("127.0.0.1:%d", r.primary.Port) }

func freePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(process.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// copySecrets gives a node what all of them have in common.
func copySecrets(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func (n *node) start(command string) {
	n.rig.t.Helper()
	args := []string{command, "--data", n.data, "--relay", n.relay, "--management", n.management,
		"--relay-url", "http://" + n.rig.balancer.addr(), "--store-without-standby", "--log-level", "info",
		"--store", fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", n.link.listener.Addr(), n.rig.database)}
	if os.Getenv("TIDELOCK_DIRECT") == "1" { // clients go to the nodes themselves, and come back to them
		args = append(args, "--direct-nodes")
	}
	n.process = process.Start(n.rig.t, args...)
}

func (n *node) kill() {
	if n.process != nil {
		n.process.Kill()
	}
	n.process, n.paused = nil, false
}

// stop ends the process as an operator does: it drains first. Cut off from the database it
// ends with an error.
func (n *node) stop() {
	if n.process != nil {
		n.resume()
		_ = n.process.Stop(n.rig.t)
		n.process = nil
	}
}

func (n *node) pause() {
	if n.process != nil {
		n.process.Signal(syscall.SIGSTOP)
		n.paused = true
	}
}

func (n *node) resume() {
	if n.process != nil && n.paused {
		n.process.Signal(syscall.SIGCONT)
		n.paused = false
	}
}

// failover kills the primary, makes the standby the primary, and gives it a standby.
func (r *rig) failover() {
	r.primary.Kill()
	r.standby.Promote(r.t)
	r.primary = r.standby
	for _, n := range r.nodes {
		n.link.lead(r.address())
	}
	r.standby = r.primary.StartStandby(r.t)
}

// heal ends all faults and waits until all nodes are ready.
func (r *rig) heal() {
	r.t.Helper()
	for _, n := range r.nodes {
		n.link.set(false, false)
		n.resume()
		if n.process == nil {
			n.start("serve")
		}
	}
	deadline := time.Now().Add(time.Minute)
	for _, b := range r.balancer.backends {
		for {
			b.mu.Lock()
			ready := b.ready
			b.mu.Unlock()
			if ready {
				break
			}
			if time.Now().After(deadline) {
				r.t.Fatalf("%s is not ready a minute after all faults ended", b.addr)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (r *rig) end() {
	for _, n := range r.nodes {
		running := n.process
		n.kill()
		if r.t.Failed() && running != nil {
			r.t.Logf("log of %s:\n%s", n.relay, running.Log())
		}
	}
}

// cli runs a command against the first node that answers and decodes what it prints.
func (r *rig) cli(out any, args ...string) {
	r.t.Helper()
	var failed error
	for range 20 {
		for _, n := range r.nodes {
			if n.process == nil || n.paused {
				continue
			}
			if failed = process.CLI(r.t, n.data, out, args...); failed == nil {
				return
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
	r.t.Fatal(failed)
}

func (r *rig) key(verb string) {
	r.t.Helper()
	r.cli(nil, "keyvault", "key", verb, "--vault", "quickstart-vault", "--name", "relay-key")
}
