//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/tidelock/tidelock/e2e/process"
	"github.com/tidelock/tidelock/internal/bench"
)

// server is a real process with a data directory of its own.
type server struct {
	data, relay, management string
	endpoint                bench.Endpoint
	flags                   []string // more of them
	process                 *process.Process
}

// newServer sets a server up with quickstart.
func newServer(t *testing.T, flags ...string) *server {
	t.Helper()
	s := &server{
		data: filepath.Join(t.TempDir(), "data"), relay: process.FreeAddress(t), management: process.FreeAddress(t), flags: flags,
	}
	s.start(t, "quickstart")
	s.endpoint = process.Endpoint(t, "http://"+s.relay, func(out any, args ...string) {
		if err := process.CLI(t, s.data, out, args...); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

func (s *server) start(t *testing.T, command string) {
	t.Helper()
	args := append([]string{command, "--data", s.data, "--relay", s.relay, "--management", s.management}, s.flags...)
	s.process = process.Start(t, args...)
}

// stop ends the server in order.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.process.Stop(t); err != nil {
		t.Errorf("an orderly stop: %v\n%s", err, s.process.Log())
	}
}
