//go:build cgo

package app

import (
	"github.com/tidelock/tidelock/internal/pkcs11"
	"github.com/tidelock/tidelock/internal/vault"
)

// open opens the token; close ends its use. Without a token both are nil.
func (p PKCS11) open() (token vault.Token, closeToken func(), err error) {
	if p == (PKCS11{}) {
		return nil, nil, nil
	}
	t, err := pkcs11.Open(pkcs11.Config(p))
	if err != nil {
		return nil, nil, err
	}
	return t, t.Close, nil
}
