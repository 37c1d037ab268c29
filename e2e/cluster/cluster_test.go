//go:build e2e

package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/e2e/load"
)

// TestHistories runs TIDELOCK_HISTORIES seeded histories on one installation. Each has
// clients of its own; its faults come from its seed, which is logged.
func TestHistories(t *testing.T) {
	count := number(t, "TIDELOCK_HISTORIES", 2)
	seed := number(t, "TIDELOCK_SEED", time.Now().UnixNano())
	r := newRig(t)
	for i := range count {
		h := history{t: t, rig: r, seed: seed + i}
		started := time.Now()
		what, ops := h.run()
		t.Logf("history %d of %d, TIDELOCK_SEED=%d: %s: %d ops in %s", i+1, count, h.seed, strings.Join(what, ", "), ops, time.Since(started).Round(time.Second))
		if t.Failed() {
			return
		}
	}
}

func number(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// history is one seeded run.
type history struct {
	t    *testing.T
	rig  *rig
	seed int64

	random *rand.Rand
	load   *load.Load
	what   []string
}

func (h *history) run() (what []string, ops int) {
	t := h.t
	h.random = rand.New(rand.NewPCG(uint64(h.seed), 7))
	pause := []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond}[h.random.IntN(3)]
	h.load = load.Start(t, h.rig.endpoint, load.Options{Documents: 6, Writers: 2, InFlight: 3, Pause: pause})
	real := startReal(t, h.rig)
	h.load.Await(t, 5, time.Minute)
	if h.seed%5 == 4 {
		h.turnKey()
	} else {
		for range 3 + h.random.IntN(3) {
			h.fault()
			time.Sleep(time.Duration(h.random.IntN(3000)) * time.Millisecond)
		}
	}
	h.rig.heal()
	h.load.Await(t, 5, time.Minute)
	real.finish(t)
	h.load.Stop()
	return h.what, h.load.Check(t)
}

func (h *history) note(format string, args ...any) {
	h.what = append(h.what, fmt.Sprintf(format, args...))
}

// fault does one thing to the installation. At most one node is left without a fault's
// end, so that the others can show that they take over.
func (h *history) fault() {
	i := h.random.IntN(nodeCount)
	n := h.rig.nodes[i]
	for j, other := range h.rig.nodes {
		if j != i { // what an earlier fault left
			other.link.set(false, false)
			other.resume()
			if other.process == nil {
				other.start("serve")
			}
		}
	}
	pause := time.Duration(200+h.random.IntN(12_000)) * time.Millisecond
	switch h.random.IntN(9) {
	case 0, 1:
		h.note("kill %d", i+1)
		n.kill()
		if h.random.IntN(2) == 0 {
			time.Sleep(pause)
		}
		n.start("serve")
	case 2, 3:
		h.note("pause %d for %s", i+1, pause)
		n.pause()
		time.Sleep(pause)
		n.resume()
	case 4:
		h.note("cut %d off for %s", i+1, pause)
		n.link.set(true, false)
		time.Sleep(pause)
		n.link.set(false, false)
	case 5:
		h.note("silence around %d for %s", i+1, pause)
		n.link.set(false, true)
		time.Sleep(pause)
		n.link.set(false, false)
	case 6:
		h.note("restart %d", i+1)
		n.stop()
		n.start("serve")
	case 7:
		h.note("drain %d, then kill it", i+1)
		h.rig.cli(nil, "node", "drain", "--node", "http://"+n.relay)
		n.kill()
		n.start("serve")
	case 8:
		h.note("fail over")
		h.rig.failover()
	}
}

// turnKey disables the customer's key and enables it again: a minute after the first,
// nothing is acknowledged; half a minute after the second, everything goes on.
func (h *history) turnKey() {
	t := h.t
	victim := h.rig.nodes[h.random.IntN(nodeCount)]
	h.rig.key("disable")
	disabled := time.Now()
	h.note("disable the key")
	// A node that comes and goes meanwhile must not serve either.
	if h.random.IntN(2) == 0 {
		h.note("kill and start a node meanwhile")
		victim.kill()
		victim.start("serve")
	}
	time.Sleep(time.Until(disabled.Add(time.Minute)))
	before, last := h.load.Received()
	time.Sleep(5 * time.Second)
	if after, _ := h.load.Received(); after > before {
		t.Errorf("%d ops were received more than a minute after the key was disabled", after-before)
	}
	h.note("last op %s after", last.Sub(disabled).Round(100*time.Millisecond))
	h.rig.key("enable")
	enabled := time.Now()
	h.load.Await(t, 1, 45*time.Second) // 30 s, and the clients' own pauses
	h.note("enabled: all go on within %s", time.Since(enabled).Round(100*time.Millisecond))
}

// real is the unmodified clients.
type realClients struct {
	process *exec.Cmd
	input   io.Closer
	out     chan string
	err     *bytes.Buffer
}

func startReal(t *testing.T, r *rig) *realClients {
	t.Helper()
	if os.Getenv("TIDELOCK_REAL_CLIENTS") == "0" {
		return nil
	}
	server, err := json.Marshal(map[string]string{"endpoint": r.endpoint.URL, "tenantId": r.endpoint.Tenant, "key": r.endpoint.Key})
	if err != nil {
		t.Fatal(err)
	}
	c := &realClients{process: exec.Command("node", "real.mjs", string(server)), out: make(chan string, 16), err: &bytes.Buffer{}}
	c.process.Stderr = c.err
	input, err := c.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.input = input
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.process.Process.Kill() }) // it may have ended
	go func() {
		defer close(c.out)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.out <- lines.Text()
		}
	}()
	if line := <-c.out; line != "ready" {
		t.Fatalf("the Fluid clients do not start: %s\n%s", line, c.err)
	}
	return c
}

func (c *realClients) finish(t *testing.T) {
	t.Helper()
	if c == nil {
		return
	}
	_ = c.input.Close()
	var last string
	for line := range c.out {
		last = line
	}
	if err := c.process.Wait(); err != nil || !strings.HasPrefix(last, "agreed") {
		t.Errorf("the Fluid clients: %v, %q\n%s", err, last, c.err)
	}
}
