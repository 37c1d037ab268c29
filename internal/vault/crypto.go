package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // RSA-OAEP of RFC 7518 is defined with SHA-1
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/store"
)

// The types of keys.
const (
	typeRSA    = "RSA"
	typeRSAHSM = "RSA-HSM"
	typeEC     = "EC"
	typeECHSM  = "EC-HSM"
)

// The operations of a key, in the order in which a vault lists them.
const (
	opEncrypt = "encrypt"
	opDecrypt = "decrypt"
	opSign    = "sign"
	opVerify  = "verify"
	opWrap    = "wrapKey"
	opUnwrap  = "unwrapKey"
)

var (
	rsaOperations = []string{opEncrypt, opDecrypt, opSign, opVerify, opWrap, opUnwrap}
	ecOperations  = []string{opSign, opVerify}
)

// curves that the standard library has; P-256K is not among them.
var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// keySpec is a key to be made.
type keySpec struct {
	kind  string // one of the types
	bits  int    // of an RSA key
	curve string // of an EC key
}

func (k keySpec) isRSA() bool { return k.kind == typeRSA || k.kind == typeRSAHSM }

// generate makes a key pair, as PKCS #8 and as SubjectPublicKeyInfo. It may take
// seconds: no lock is held.
func (k keySpec) generate() (private, public []byte, err error) {
	var key crypto.Signer
	if k.isRSA() {
		key, err = rsa.GenerateKey(rand.Reader, k.bits)
	} else {
		key, err = ecdsa.GenerateKey(curves[k.curve], rand.Reader)
	}
	if err == nil {
		private, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err == nil {
		public, err = x509.MarshalPKIXPublicKey(key.Public())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return private, public, nil
}

// privateKey parses a stored private key; only decrypt, unwrap and sign need it.
func (v versionRow) privateKey() (any, error) {
	key, err := x509.ParsePKCS8PrivateKey(v.Private)
	if err != nil {
		return nil, fmt.Errorf("private key of version %s: %w", v.ID, store.ErrCorrupt)
	}
	return key, nil
}

func (v versionRow) publicKey() (any, error) {
	key, err := x509.ParsePKIXPublicKey(v.Public)
	if err != nil {
		return nil, fmt.Errorf("public key of version %s: %w", v.ID, store.ErrCorrupt)
	}
	return key, nil
}

// encryption is an algorithm that encrypts and wraps, which for RSA is the same.
type encryption struct {
	encrypt func(*rsa.PublicKey, []byte) ([]byte, error)
	decrypt func(*rsa.PrivateKey, []byte) ([]byte, error)
}

// oaep uses h for the label and for MGF1 (RFC 7518, 4.3).
func oaep(h func() hash.Hash) encryption {
	return encryption{
		encrypt: func(k *rsa.PublicKey, m []byte) ([]byte, error) {
			return rsa.EncryptOAEP(h(), rand.Reader, k, m, nil)
		},
		decrypt: func(k *rsa.PrivateKey, c []byte) ([]byte, error) {
			return rsa.DecryptOAEP(h(), nil, k, c, nil)
		},
	}
}

var encryptions = map[string]encryption{
	"RSA-OAEP":     oaep(sha1.New),
	"RSA-OAEP-256": oaep(sha256.New),
	// The padding oracle of PKCS #1 v1.5 gives nothing here: who may ask whether a
	// ciphertext is well padded may have it decrypted.
	"RSA1_5": {
		encrypt: func(k *rsa.PublicKey, m []byte) ([]byte, error) {
			return rsa.EncryptPKCS1v15(rand.Reader, k, m) //nolint:staticcheck // a vault offers it
		},
		decrypt: func(k *rsa.PrivateKey, c []byte) ([]byte, error) {
			return rsa.DecryptPKCS1v15(nil, k, c) //nolint:staticcheck // a vault offers it
		},
	},
}

// errParameter is a vault's one answer to a value it cannot work on: too long, too
// short, badly padded. Which of them would help only an attacker.
func errParameter() error { return badParameter("The parameter is incorrect.\r\n") }

// encrypt serves encrypt and wrapKey. checkAlgorithm has passed alg.
func (v versionRow) encrypt(alg string, value []byte) ([]byte, error) {
	public, err := v.publicKey()
	if err != nil {
		return nil, err
	}
	key, ok := public.(*rsa.PublicKey)
	if !ok || len(value) == 0 {
		return nil, errParameter()
	}
	out, err := encryptions[alg].encrypt(key, value)
	if err != nil {
		return nil, errParameter()
	}
	return out, nil
}

// decrypt serves decrypt and unwrapKey.
func (v versionRow) decrypt(alg string, value []byte) ([]byte, error) {
	private, err := v.privateKey()
	if err != nil {
		return nil, err
	}
	key, ok := private.(*rsa.PrivateKey)
	if !ok {
		return nil, errParameter()
	}
	out, err := encryptions[alg].decrypt(key, value)
	if err != nil {
		return nil, errParameter()
	}
	return out, nil
}

// checkAlgorithm refuses an algorithm that is unknown or not for keys of this type.
func (v versionRow) checkAlgorithm(operation, alg, kid string) error {
	fits := []string{typeRSA, typeRSAHSM}
	known := false
	switch operation {
	case opSign, opVerify:
		var s signature
		if s, known = signatures[alg]; known && s.curve != "" {
			fits = []string{typeEC, typeECHSM}
			if v.Curve != "" && v.Curve != s.curve {
				return badParameter("Key and signing algorithm are incompatible. Key %s is on curve '%s', and algorithm '%s' can only be used with curve '%s'.", kid, v.Curve, alg, s.curve)
			}
		}
	default:
		_, known = encryptions[alg]
	}
	if !known {
		return badParameter("Property 'alg' has an invalid value: '%s' is not an algorithm for %s.", printable(alg), operation)
	}
	if !slices.Contains(fits, v.Type) {
		return badParameter("Key and algorithm are incompatible. Key %s is of type '%s', and algorithm '%s' can only be used with a key of type '%s'.", kid, v.Type, alg, strings.Join(fits, "' or '"))
	}
	return nil
}
