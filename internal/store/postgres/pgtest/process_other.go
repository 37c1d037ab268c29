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

func command(_, path string, args ...string) *exec.Cmd { return exec.Command(path, args...) }

func giveAway(string) error { return nil }

func spawn(*exec.Cmd) (*process, error) { return nil, errors.New("servers are started on Linux only") }

func (p *process) kill() {}

func killTree(int) {}
