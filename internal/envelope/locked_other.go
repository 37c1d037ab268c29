//go:build !linux

package envelope

import (
	"errors"
	"runtime"
)

func lockedPage() ([]byte, error) {
	return nil, errors.New("locked memory for keys is not implemented on " + runtime.GOOS)
}
