package app

import "errors"

// PKCS11 names a token that keeps keys of hardware types; all three or none.
type PKCS11 struct {
	Module  string // path of the PKCS#11 library
	Label   string // of the token
	PINFile string // its user PIN
}

func (p PKCS11) check() error {
	if p == (PKCS11{}) || p.Module != "" && p.Label != "" && p.PINFile != "" {
		return nil
	}
	return errors.New("--pkcs11-module, --pkcs11-token and --pkcs11-pin-file belong together: give all of them or none")
}
