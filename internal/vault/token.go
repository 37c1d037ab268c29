package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"github.com/tidelock/tidelock/internal/store"
)

// Token keeps keys that never leave it, such as a PKCS#11 token. It is safe for
// concurrent use. A key's id is that of its version, in hexadecimal.
type Token interface {
	// GenerateRSA, GenerateEC and GenerateAES make a key; curve is P-256, P-256K, P-384
	// or P-521, whose public keys are an *ecdsa.PublicKey, or a *secp256k1.PublicKey.
	GenerateRSA(id string, bits int) (*rsa.PublicKey, error)
	GenerateEC(id string, curve string) (crypto.PublicKey, error)
	GenerateAES(id string, bits int) error
	// Import takes an *rsa.PrivateKey, an *ecdsa.PrivateKey, a *secp256k1.PrivateKey, or
	// the []byte of an AES key.
	Import(id string, key any) error
	// Private is a key in the token: a crypto.Signer, and of an RSA key a
	// crypto.Decrypter, whose error for what it cannot decrypt is rsa.ErrDecryption.
	// That the token has no such key comes out when it is used.
	Private(id string, public crypto.PublicKey) (any, error)
	// EncryptAES and DecryptAES use an AES key; mode is GCM, CBC, CBCPAD, KW or KWP, and ok
	// is false for what it cannot take. A GCM tag is the last 16 bytes of what is sealed.
	EncryptAES(id string, mode string, iv, aad, plain []byte) (sealed []byte, ok bool, err error)
	DecryptAES(id string, mode string, iv, aad, sealed []byte) (plain []byte, ok bool, err error)
	// GenerateMAC and ImportMAC make and take a key for HMAC, and MAC uses one.
	GenerateMAC(id string, bits int) error
	ImportMAC(id string, key []byte) error
	MAC(id string, h crypto.Hash, data []byte) ([]byte, error)
	// Destroy removes a key for good; one that is not there is fine.
	Destroy(id string) error
	// Random is made by the token.
	Random(n int) ([]byte, error)
}

// The modes of AES.
const (
	modeGCM    = "GCM"
	modeCBC    = "CBC"
	modeCBCPad = "CBCPAD"
	modeKW     = "KW"  // RFC 3394; it has no IV
	modeKWP    = "KWP" // RFC 5649, nor has that
)

// errNoToken is for hardware keys of a server that was started without a token.
var errNoToken = errors.New("the key is in a PKCS#11 token, and this server was started without one: give --pkcs11-module, --pkcs11-token and --pkcs11-pin-file")

// generate makes a key for row, which has its id. It may take seconds: no lock is held.
func (s *Service) generate(k keySpec, row *versionRow) error {
	row.is(k)
	if s.token == nil || !k.hardware() {
		return s.generateSealed(k, row)
	}
	row.InToken = true
	var public any
	var err error
	switch {
	case k.isRSA():
		public, err = s.token.GenerateRSA(row.ID, k.bits)
	case k.mac:
		err = s.token.GenerateMAC(row.ID, k.bits)
	case k.kind == typeOctHSM:
		err = s.token.GenerateAES(row.ID, k.bits)
	default:
		public, err = s.token.GenerateEC(row.ID, k.curve)
	}
	if err == nil && public != nil {
		err = row.setPublic(public)
	}
	if err != nil {
		return fmt.Errorf("make a key in the token: %w", err)
	}
	return nil
}

// is takes over what a key of the spec is.
func (v *versionRow) is(k keySpec) { v.Type, v.Curve, v.Bits, v.MAC = k.kind, k.curve, k.bits, k.mac }

// generateSealed makes a key pair in memory, to be sealed with its row.
func (s *Service) generateSealed(k keySpec, row *versionRow) error {
	var key crypto.Signer
	var err error
	switch {
	case k.isRSA():
		key, err = s.generateRSA(k.bits)
	case k.kind == typeOctHSM:
		return errNoToken // their vaults are not without one
	case k.curve == curveP256K:
		key, err = generateP256K()
	default:
		key, err = ecdsa.GenerateKey(curves[k.curve], rand.Reader)
	}
	if err == nil {
		err = row.setPrivate(key)
	}
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	return nil
}

// setPrivate stores a key pair in the row itself.
func (v *versionRow) setPrivate(key crypto.Signer) (err error) {
	if own, ok := key.(koblitzKey); ok {
		v.Private, err = marshalPrivateP256K(own)
	} else {
		v.Private, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return err
	}
	return v.setPublic(key.Public())
}

func (v *versionRow) setPublic(key crypto.PublicKey) (err error) {
	if own, ok := key.(*secp256k1.PublicKey); ok {
		v.Public, err = marshalPublicP256K(own)
	} else {
		v.Public, err = x509.MarshalPKIXPublicKey(key)
	}
	return err
}

// private is what decrypt, unwrap and sign work with: a crypto.Signer, and of RSA a
// crypto.Decrypter.
func (s *Service) private(v versionRow) (any, error) {
	if !v.InToken {
		var key any
		var err error
		if v.Curve == curveP256K {
			key, err = parsePrivateP256K(v.Private)
		} else {
			key, err = x509.ParsePKCS8PrivateKey(v.Private)
		}
		if err != nil {
			return nil, fmt.Errorf("private key of version %s: %w", v.ID, store.ErrCorrupt)
		}
		return key, nil
	}
	if s.token == nil {
		return nil, errNoToken
	}
	public, err := v.publicKey()
	if err != nil {
		return nil, err
	}
	return s.token.Private(v.ID, public)
}

func (v versionRow) publicKey() (key any, err error) {
	if v.Curve == curveP256K {
		key, err = parsePublicP256K(v.Public)
	} else {
		key, err = x509.ParsePKIXPublicKey(v.Public)
	}
	if err != nil {
		return nil, fmt.Errorf("public key of version %s: %w", v.ID, store.ErrCorrupt)
	}
	return key, nil
}

// destroyKeys removes those of a key's versions that are in the token.
func (s *Service) destroyKeys(ids []string) error {
	if len(ids) > 0 && s.token == nil {
		return errNoToken
	}
	for _, id := range ids {
		if err := s.token.Destroy(id); err != nil {
			return fmt.Errorf("destroy key %s in the token: %w", id, err)
		}
	}
	return nil
}
