// Package process runs the built server as a process of its own.
package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
)

// Binary is the server's program, as the make targets name it.
func Binary(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("TIDELOCK_BIN")
	if binary == "" {
		t.Fatal("TIDELOCK_BIN is not set: use the make target of this suite (plain 'make' lists them)")
	}
	return binary
}

// FreeAddress is one of this machine's that nobody listens at.
func FreeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Process is one that serves.
type Process struct {
	Printed []string // lines, until it served

	cmd *exec.Cmd
	log bytes.Buffer
}

// ready is in the line with which 'serve', 'quickstart' and 'proxy' say that they serve.
var ready = []string{"relay at", "is serving", "NODE_EXTRA_CA_CERTS"}

// Start runs the binary and returns once it says that it serves. It ends with the test.
func Start(t *testing.T, args ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(Binary(t), args...)}
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.Printed = append(p.Printed, lines.Text())
		if slices.ContainsFunc(ready, func(words string) bool { return strings.Contains(lines.Text(), words) }) {
			go func() {
				for lines.Scan() { // the rest, so that the process never waits for us
				}
			}()
			return p
		}
	}
	t.Fatalf("tidelock %s ended before it served: %v\n%s", args[0], p.cmd.Wait(), &p.log)
	return nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended by itself: whoever waits for it says so
}

// Kill ends the process as a crash does, one that is stopped too. It may have ended.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// Stop ends the process as an operator does: it has 40 s. The error is how it ended.
func (p *Process) Stop(t *testing.T) error {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(40 * time.Second):
		t.Errorf("the server does not stop within 40 s of SIGTERM\n%s", p.Log())
		p.Signal(syscall.SIGKILL)
		return <-ended
	}
}

// Log is the end of what the process has logged; call it when it has ended, or for a
// failing test.
func (p *Process) Log() string {
	s := p.log.String()
	return s[max(0, len(s)-4000):]
}

// CLI runs a command of the binary for the server of a data directory and decodes what it
// prints; out may be nil.
func CLI(t *testing.T, data string, out any, args ...string) error {
	t.Helper()
	raw, err := exec.Command(Binary(t), append(args, "--data", data, "--output", "json")...).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return fmt.Errorf("tidelock %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(raw, out)
	}
	return err
}

// Endpoint is the quickstart relay's at a URL; cli runs a command.
func Endpoint(t *testing.T, url string, cli func(out any, args ...string)) bench.Endpoint {
	t.Helper()
	var resource struct {
		Properties struct {
			Tenant string `json:"frsTenantId"`
		} `json:"properties"`
	}
	var keys struct{ Key1 string }
	cli(&resource, "relay", "show")
	cli(&keys, "relay", "keys")
	return bench.Endpoint{URL: url, Tenant: resource.Properties.Tenant, Key: keys.Key1}
}
