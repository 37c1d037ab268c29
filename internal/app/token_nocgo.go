//go:build !cgo

package app

import (
	"errors"

	"github.com/tidelock/tidelock/internal/vault"
)

// open refuses: a PKCS#11 module is a C library.
func (p PKCS11) open() (vault.Token, func(), error) {
	if p == (PKCS11{}) {
		return nil, nil, nil
	}
	return nil, nil, errors.New("--pkcs11-module: this binary was built without cgo and cannot load a PKCS#11 module; build it with CGO_ENABLED=1 and a C compiler")
}
