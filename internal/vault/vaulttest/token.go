// Package vaulttest has a token in memory, for tests of what needs one.
package vaulttest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	signatures "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"github.com/tidelock/tidelock/internal/rsatest"
)

// Token is a token as package vault asks for it, without the modes CBC, CBCPAD, KW and KWP.
type Token struct {
	mu   sync.Mutex
	keys map[string]any
	rsa  func(bits int) (*rsa.PrivateKey, error)
}

// NewToken returns an empty token.
func NewToken() *Token { return &Token{keys: map[string]any{}, rsa: rsatest.New()} }

// Keys counts the keys in the token.
func (t *Token) Keys() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.keys)
}

// GenerateRSA makes an RSA key.
func (t *Token) GenerateRSA(id string, bits int) (*rsa.PublicKey, error) {
	key, err := t.rsa(bits)
	if err != nil {
		return nil, err
	}
	return &key.PublicKey, t.Import(id, key)
}

// GenerateEC makes an EC key.
func (t *Token) GenerateEC(id string, curve string) (crypto.PublicKey, error) {
	if curve == "P-256K" {
		key, err := secp256k1.GeneratePrivateKey()
		if err != nil {
			return nil, err
		}
		return key.PubKey(), t.Import(id, key)
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		if c.Params().Name == curve {
			key, err := ecdsa.GenerateKey(c, rand.Reader)
			if err != nil {
				return nil, err
			}
			return &key.PublicKey, t.Import(id, key)
		}
	}
	return nil, fmt.Errorf("no curve %q", curve)
}

// GenerateAES makes an AES key.
func (t *Token) GenerateAES(id string, bits int) error {
	key := make([]byte, bits/8)
	_, _ = rand.Read(key)
	return t.Import(id, key)
}

// macKey is a key for HMAC.
type macKey []byte

// GenerateMAC makes a key for HMAC.
func (t *Token) GenerateMAC(id string, bits int) error {
	key := make([]byte, bits/8)
	_, _ = rand.Read(key)
	return t.ImportMAC(id, key)
}

// ImportMAC takes a key for HMAC.
func (t *Token) ImportMAC(id string, key []byte) error { return t.Import(id, macKey(key)) }

// MAC is an HMAC.
func (t *Token) MAC(id string, h crypto.Hash, data []byte) ([]byte, error) {
	key, err := t.key(id)
	if err != nil {
		return nil, err
	}
	raw, ok := key.(macKey)
	if !ok || len(raw) < h.Size() {
		return nil, errors.New("not a key for HMAC, or too short for the hash")
	}
	mac := hmac.New(h.New, raw)
	mac.Write(data)
	return mac.Sum(nil), nil
}

// Import takes a key.
func (t *Token) Import(id string, key any) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys[id] = key
	return nil
}

func (t *Token) key(id string) (any, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key := t.keys[id]; key != nil {
		return key, nil
	}
	return nil, fmt.Errorf("the token has no key %s", id)
}

// Private returns a key.
func (t *Token) Private(id string, _ crypto.PublicKey) (any, error) {
	key, err := t.key(id)
	if k, ok := key.(*secp256k1.PrivateKey); ok {
		return koblitzSigner{k}, nil
	}
	return key, err
}

type koblitzSigner struct{ key *secp256k1.PrivateKey }

func (k koblitzSigner) Public() crypto.PublicKey { return k.key.PubKey() }

func (k koblitzSigner) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return signatures.Sign(k.key, digest).Serialize(), nil
}

func (t *Token) gcm(id, mode string) (cipher.AEAD, error) {
	key, err := t.key(id)
	if err != nil {
		return nil, err
	}
	raw, ok := key.([]byte)
	if !ok || mode != "GCM" {
		return nil, errors.New("not an AES key, or a mode that this token does not have")
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// EncryptAES encrypts with GCM.
func (t *Token) EncryptAES(id, mode string, iv, aad, plain []byte) ([]byte, bool, error) {
	gcm, err := t.gcm(id, mode)
	if err != nil {
		return nil, false, err
	}
	return gcm.Seal(nil, iv, plain, aad), true, nil
}

// DecryptAES decrypts with GCM.
func (t *Token) DecryptAES(id, mode string, iv, aad, sealed []byte) ([]byte, bool, error) {
	gcm, err := t.gcm(id, mode)
	if err != nil {
		return nil, false, err
	}
	plain, err := gcm.Open(nil, iv, sealed, aad)
	return plain, err == nil, nil
}

// Destroy removes a key.
func (t *Token) Destroy(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.keys, id)
	return nil
}

// Random returns random bytes.
func (t *Token) Random(n int) ([]byte, error) {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b, nil
}
