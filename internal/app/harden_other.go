//go:build !linux

package app

import (
	"errors"
	"runtime"
)

func keepFromDumps() error {
	return errors.New("not implemented on " + runtime.GOOS + ": set the limit for core files to 0 (ulimit -c 0)")
}
