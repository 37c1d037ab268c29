//go:build e2e

package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

const nodeCount = 3

// rig is the whole installation: the database with its standby, the nodes, each with a
// network of its own to the database, and the address that they share.
type rig struct {
	t        *testing.T
	binary   string
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

	process *exec.Cmd
	log     *bytes.Buffer
	paused  bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, binary: os.Getenv("TIDELOCK_BIN")}
	if r.binary == "" {
		t.Fatal("TIDELOCK_BIN is not set: run 'make cluster'")
	}
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
			management: net.JoinHostPort(host, port), link: newLink(t, r.address()), log: &bytes.Buffer{},
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
	var resource struct {
		Properties struct {
			Tenant string `json:"frsTenantId"`
		} `json:"properties"`
	}
	var keys struct{ Key1 string }
	r.cli(&resource, "relay", "show")
	r.cli(&keys, "relay", "keys")
	r.endpoint = bench.Endpoint{URL: "http://" + r.balancer.addr(), Tenant: resource.Properties.Tenant, Key: keys.Key1}
	time.Sleep(2 * time.Second) // until all have seen each other
	return r
}

// address is where the present primary listens.
func (r *rig) address() string { return fmt.Sprintf("127.0.0.1:%d", r.primary.Port) }

func freePort(t *testing.T) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
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
	t := n.rig.t
	t.Helper()
	n.log.Reset()
	n.process = exec.Command(n.rig.binary, command, "--data", n.data, "--relay", n.relay, "--management", n.management,
		"--relay-url", "http://"+n.rig.balancer.addr(), "--store-without-standby", "--log-level", "info",
		"--store", fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", n.link.listener.Addr(), n.rig.database))
	if os.Getenv("TIDELOCK_DIRECT") == "1" { // clients go to the nodes themselves, and come back to them
		n.process.Args = append(n.process.Args, "--direct-nodes")
	}
	n.process.Stderr = n.log
	out, err := n.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.process.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "relay at") || strings.Contains(lines.Text(), "is serving") {
			go func() {
				for lines.Scan() { // the rest, so that the process never waits for us
				}
			}()
			return
		}
	}
	err = n.process.Wait()
	t.Fatalf("tidelock %s ended before it served: %v\n%s", command, err, n.log)
}

func (n *node) kill() {
	if n.process == nil {
		return
	}
	_ = n.process.Process.Kill() // SIGKILL ends a stopped process, too
	_ = n.process.Wait()
	n.process, n.paused = nil, false
}

// stop ends the process as an operator does: it drains first.
func (n *node) stop() {
	if n.process == nil {
		return
	}
	n.resume()
	_ = n.process.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- n.process.Wait() }()
	select {
	case <-ended: // with an error when it was cut off from the database
	case <-time.After(40 * time.Second):
		n.rig.t.Errorf("a node does not stop within 40 s of SIGTERM\n%s", tail(n.log))
		_ = n.process.Process.Kill()
		<-ended
	}
	n.process = nil
}

func (n *node) pause() {
	if n.process != nil {
		_ = n.process.Process.Signal(syscall.SIGSTOP)
		n.paused = true
	}
}

func (n *node) resume() {
	if n.process != nil && n.paused {
		_ = n.process.Process.Signal(syscall.SIGCONT)
		n.paused = false
	}
}

func tail(b *bytes.Buffer) string {
	s := b.String()
	return s[max(0, len(s)-4000):]
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
		if r.t.Failed() {
			r.t.Logf("log of %s:\n%s", n.relay, tail(n.log))
		}
		n.kill()
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
			raw, err := exec.Command(r.binary, append(args, "--data", n.data, "--output", "json")...).Output()
			if err == nil {
				if out != nil {
					err = json.Unmarshal(raw, out)
				}
				if err != nil {
					r.t.Fatal(err)
				}
				return
			}
			if exit, ok := err.(*exec.ExitError); ok {
				err = fmt.Errorf("%w: %s", err, exit.Stderr)
			}
			failed = err
		}
		time.Sleep(500 * time.Millisecond)
	}
	r.t.Fatalf("tidelock %s: %v", strings.Join(args, " "), failed)
}

func (r *rig) key(verb string) {
	r.t.Helper()
	r.cli(nil, "keyvault", "key", verb, "--vault", "quickstart-vault", "--name", "relay-key")
}
