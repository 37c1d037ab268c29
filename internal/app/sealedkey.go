package app

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/tidelock/tidelock/internal/vault"
)

// A sealed service key is a file of three lines: what it is, the id of an AES-256 key in
// the PKCS#11 token, and, to the end, nonce and ciphertext of AES-256-GCM, binary. The
// nonce is random; a key in the token seals one service key, once for each version that it
// gets and loses. A plain service key begins in no such line.
const sealedMagic = "tidelock service key sealed in PKCS#11, version 1\n"

const (
	sealNonceBytes = 12
	sealAAD        = "tidelock service key"
)

func isSealedKey(file []byte) bool { return bytes.HasPrefix(file, []byte(sealedMagic)) }

// sealServiceKey seals a service key: under the key in the token that sealed before, the
// file, or under a new one.
func sealServiceKey(token vault.Token, before, key []byte) ([]byte, error) {
	if token == nil {
		return nil, errors.New("--seal-service-key needs a PKCS#11 token: give --pkcs11-module, --pkcs11-token and --pkcs11-pin-file")
	}
	id, _, again := strings.Cut(strings.TrimPrefix(string(before), sealedMagic), "\n")
	if again = again && isSealedKey(before); !again {
		id = "service-key-" + strings.ToLower(rand.Text())
		if err := token.GenerateAES(id, 256); err != nil {
			return nil, fmt.Errorf("make the key that seals the service key in the token: %w", err)
		}
	}
	nonce := make([]byte, sealNonceBytes)
	_, _ = rand.Read(nonce)
	sealed, ok, err := token.EncryptAES(id, "GCM", nonce, []byte(sealAAD), key)
	if err != nil || !ok {
		if !again {
			err = errors.Join(err, token.Destroy(id))
		}
		return nil, fmt.Errorf("seal the service key in the token: %w", err)
	}
	return append(append([]byte(sealedMagic+id+"\n"), nonce...), sealed...), nil
}

// openSealedKey undoes sealServiceKey.
func openSealedKey(token vault.Token, path string, file []byte) ([]byte, error) {
	if token == nil {
		return nil, fmt.Errorf("the service key %s is sealed in a PKCS#11 token: give --pkcs11-module, --pkcs11-token and --pkcs11-pin-file", path)
	}
	id, sealed, found := strings.Cut(string(file[len(sealedMagic):]), "\n")
	if !found || len(sealed) < sealNonceBytes {
		return nil, fmt.Errorf("the service key %s is cut off: restore it from your backup", path)
	}
	key, ok, err := token.DecryptAES(id, "GCM", []byte(sealed[:sealNonceBytes]), []byte(sealAAD), []byte(sealed[sealNonceBytes:]))
	if err != nil {
		return nil, fmt.Errorf("open the service key %s in the token: %w; is it the token that sealed it?", path, err)
	}
	if !ok {
		return nil, fmt.Errorf("the service key %s is damaged, or another token's: restore it from your backup", path)
	}
	return key, nil
}
