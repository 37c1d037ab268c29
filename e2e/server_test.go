//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tidelock/tidelock/internal/bench"
)

// server is a real process with a data directory of its own.
type server struct {
	binary, data, relay, management string
	endpoint                        bench.Endpoint
	flags                           []string // more of them

	process *exec.Cmd
	log     *bytes.Buffer
}

// newServer sets a server up with quickstart.
func newServer(t *testing.T, flags ...string) *server {
	t.Helper()
	binary := os.Getenv("TIDELOCK_BIN")
	if binary == "" {
		t.Fatal("TIDELOCK_BIN is not set: run 'make crash'")
	}
	s := &server{binary: binary, data: filepath.Join(t.TempDir(), "data"), relay: freeAddress(t), management: freeAddress(t), flags: flags}
	t.Cleanup(func() {
		if s.process != nil {
			_ = s.process.Process.Kill() // it may have ended by itself
			_ = s.process.Wait()
		}
	})
	s.start(t, "quickstart")
	var resource struct {
		Properties struct {
			Tenant string `json:"frsTenantId"`
		} `json:"properties"`
	}
	var keys struct{ Key1 string }
	s.cli(t, &resource, "relay", "show")
	s.cli(t, &keys, "relay", "keys")
	s.endpoint = bench.Endpoint{URL: "http://" + s.relay, Tenant: resource.Properties.Tenant, Key: keys.Key1}
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the process and returns once it says that it serves.
func (s *server) start(t *testing.T, command string) {
	t.Helper()
	s.process = exec.Command(s.binary, command, "--data", s.data, "--relay", s.relay, "--management", s.management)
	s.process.Args = append(s.process.Args, s.flags...)
	s.log = &bytes.Buffer{}
	s.process.Stderr = s.log
	out, err := s.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
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
	t.Fatalf("tidelock %s ended before it served: %v\n%s", command, s.process.Wait(), s.log)
}

// kill ends the process as a crash does.
func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.process.Wait() // it reports the kill
	s.process = nil
}

// stop ends the process as Ctrl-C does.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.process.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Wait(); err != nil {
		t.Errorf("an orderly stop: %v\n%s", err, s.log)
	}
	s.process = nil
}

// cli runs a command and decodes what it prints.
func (s *server) cli(t *testing.T, out any, args ...string) {
	t.Helper()
	raw, err := exec.Command(s.binary, append(args, "--data", s.data, "--output", "json")...).Output()
	if err != nil {
		t.Fatalf("tidelock %s: %v", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
}
