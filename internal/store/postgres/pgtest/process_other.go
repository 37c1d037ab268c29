//go:build !linux

package pgtest

import (
	"errors"
	"os/exec"
)

type process struct {
	ended chan struct{}
	err   error
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	return exec.Command(program, args...)
}

func giveAway(string) error { return nil }

func spawn(*exec.Cmd) (*process, error) { return nil, errors.New("servers are started on Linux only") }

func (p *process) kill() {}
