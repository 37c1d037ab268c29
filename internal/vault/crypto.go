package vault

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // of RSA-OAEP
	_ "crypto/sha256"
	"errors"
	"slices"
	"strings"
)

// The types of keys.
const (
	typeRSA    = "RSA"
	typeRSAHSM = "RSA-HSM"
	typeEC     = "EC"
	typeECHSM  = "EC-HSM"
	typeOctHSM = "oct-HSM"
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
	rsaOperations  = []string{opEncrypt, opDecrypt, opSign, opVerify, opWrap, opUnwrap}
	signOperations = []string{opSign, opVerify} // of EC keys, and of oct keys that make MACs
	octOperations  = []string{opEncrypt, opDecrypt, opWrap, opUnwrap}
)

// curves that the standard library has; P-256K, which keys may be on too, is not among them.
var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// fieldBytes is the length of a coordinate on a curve, and of each half of a signature.
func fieldBytes(curve string) int {
	if curve == curveP256K {
		return p256kBytes
	}
	return (curves[curve].Params().BitSize + 7) / 8
}

// keySpec is a key to be made.
type keySpec struct {
	kind  string // one of the types
	bits  int    // of an RSA or oct key
	curve string // of an EC key
	mac   bool   // of an oct key: it is for HMAC, and for nothing else
}

func (k keySpec) isRSA() bool { return k.kind == typeRSA || k.kind == typeRSAHSM }

// hardware says that the type is one of those whose keys a token keeps.
func (k keySpec) hardware() bool {
	return k.kind == typeRSAHSM || k.kind == typeECHSM || k.kind == typeOctHSM
}

// operations are all that a key of the type can do.
func (k keySpec) operations() []string {
	switch {
	case k.isRSA():
		return rsaOperations
	case k.kind == typeOctHSM && !k.mac:
		return octOperations
	}
	return signOperations
}

// encryption is an algorithm that encrypts and wraps, which for RSA is the same.
type encryption struct {
	encrypt func(*rsa.PublicKey, []byte) ([]byte, error)
	options crypto.DecrypterOpts // of decryption
}

// oaep uses h for the label and for MGF1 (RFC 7518, 4.3).
func oaep(h crypto.Hash) encryption {
	return encryption{
		encrypt: func(k *rsa.PublicKey, m []byte) ([]byte, error) {
			return rsa.EncryptOAEP(h.New(), rand.Reader, k, m, nil)
		},
		options: &rsa.OAEPOptions{Hash: h},
	}
}

var encryptions = map[string]encryption{
	"RSA-OAEP":     oaep(crypto.SHA1), // which RFC 7518 defines it with
	"RSA-OAEP-256": oaep(crypto.SHA256),
	// The padding oracle of PKCS #1 v1.5 gives nothing here: who may ask whether a
	// ciphertext is well padded may have it decrypted.
	"RSA1_5": {
		encrypt: func(k *rsa.PublicKey, m []byte) ([]byte, error) {
			return rsa.EncryptPKCS1v15(rand.Reader, k, m) //nolint:staticcheck // a vault offers it
		},
		options: &rsa.PKCS1v15DecryptOptions{},
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
func (s *Service) decrypt(v versionRow, alg string, value []byte) ([]byte, error) {
	private, err := s.private(v)
	if err != nil {
		return nil, err
	}
	key, ok := private.(crypto.Decrypter)
	if !ok {
		return nil, errParameter()
	}
	out, err := key.Decrypt(nil, value, encryptions[alg].options)
	if errors.Is(err, rsa.ErrDecryption) || err != nil && !v.InToken {
		return nil, errParameter()
	}
	return out, err
}

// checkAlgorithm refuses an algorithm that is unknown or not for keys of this type.
func (v versionRow) checkAlgorithm(operation, alg, kid string) error {
	fits := []string{typeRSA, typeRSAHSM}
	known := false
	if aes, isAES := aesAlgorithms[alg]; isAES && operation != opSign && operation != opVerify {
		if v.Type != typeOctHSM {
			return badParameter("Key and algorithm are incompatible. Key %s is of type '%s', and algorithm '%s' can only be used with a key of type '%s'.", kid, v.Type, alg, typeOctHSM)
		}
		return aes.check(v, operation, alg, kid)
	}
	switch operation {
	case opSign, opVerify:
		var s signature
		switch s, known = signatures[alg]; {
		case s.mac:
			fits = []string{typeOctHSM}
			if v.Bits != 0 && v.Bits < 8*s.hash.Size() { // RFC 7518, 3.2
				return badParameter("Key and signing algorithm are incompatible. Key %s has %d bits, and algorithm '%s' needs %d.", kid, v.Bits, alg, 8*s.hash.Size())
			}
		case s.curve != "":
			if err := checkApproved(s.curve); err != nil {
				return err
			}
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
