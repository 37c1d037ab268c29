//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	p11 "github.com/miekg/pkcs11"
)

// exponent is 65537.
var exponent = []byte{1, 0, 1}

var curves = map[string]struct {
	curve elliptic.Curve        // nil for P-256K, which the standard library does not have
	oid   asn1.ObjectIdentifier // RFC 5480, 2.1.1.1; SEC 2, A.2.1
}{
	"P-256": {elliptic.P256(), asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
	p256k:   {nil, asn1.ObjectIdentifier{1, 3, 132, 0, 10}},
	"P-384": {elliptic.P384(), asn1.ObjectIdentifier{1, 3, 132, 0, 34}},
	"P-521": {elliptic.P521(), asn1.ObjectIdentifier{1, 3, 132, 0, 35}},
}

const p256k = "P-256K"

func attribute(kind uint, value any) *p11.Attribute { return p11.NewAttribute(kind, value) }

// kept are the attributes of a key that stays in the token and never leaves it.
func kept(class, kind uint, id string, more ...*p11.Attribute) []*p11.Attribute {
	return append([]*p11.Attribute{
		attribute(p11.CKA_CLASS, class), attribute(p11.CKA_KEY_TYPE, kind), attribute(p11.CKA_ID, []byte(id)),
		attribute(p11.CKA_LABEL, "tidelock "+id), attribute(p11.CKA_TOKEN, true), attribute(p11.CKA_PRIVATE, true),
		attribute(p11.CKA_SENSITIVE, true), attribute(p11.CKA_EXTRACTABLE, false),
	}, more...)
}

func keptRSA(id string, more ...*p11.Attribute) []*p11.Attribute {
	return kept(p11.CKO_PRIVATE_KEY, p11.CKK_RSA, id, append(more, attribute(p11.CKA_DECRYPT, true), attribute(p11.CKA_SIGN, true))...)
}

func keptEC(id string, more ...*p11.Attribute) []*p11.Attribute {
	return kept(p11.CKO_PRIVATE_KEY, p11.CKK_EC, id, append(more, attribute(p11.CKA_SIGN, true))...)
}

func keptMAC(id string, more ...*p11.Attribute) []*p11.Attribute {
	return kept(p11.CKO_SECRET_KEY, p11.CKK_GENERIC_SECRET, id, append(more, attribute(p11.CKA_SIGN, true))...)
}

func keptAES(id string, more ...*p11.Attribute) []*p11.Attribute {
	return kept(p11.CKO_SECRET_KEY, p11.CKK_AES, id, append(more, attribute(p11.CKA_ENCRYPT, true), attribute(p11.CKA_DECRYPT, true),
		attribute(p11.CKA_WRAP, true), attribute(p11.CKA_UNWRAP, true))...)
}

// GenerateRSA makes an RSA key. What is public of it does not stay in the token.
func (t *Token) GenerateRSA(id string, bits int) (*rsa.PublicKey, error) {
	values, err := t.generatePair(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, []*p11.Attribute{
		attribute(p11.CKA_TOKEN, false), attribute(p11.CKA_MODULUS_BITS, bits), attribute(p11.CKA_PUBLIC_EXPONENT, exponent),
		attribute(p11.CKA_ENCRYPT, true), attribute(p11.CKA_VERIFY, true),
	}, keptRSA(id), p11.CKA_MODULUS)
	if err != nil {
		return nil, err
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(values), E: 65537}
	if key.N.BitLen() != bits {
		return nil, fmt.Errorf("the token made an RSA key of %d bits, not of %d", key.N.BitLen(), bits)
	}
	return key, nil
}

// GenerateEC makes a key on P-256, P-384 or P-521, whose public key is an
// *ecdsa.PublicKey, or on P-256K, where it is a *secp256k1.PublicKey.
func (t *Token) GenerateEC(id string, curve string) (crypto.PublicKey, error) {
	c, ok := curves[curve]
	if !ok {
		return nil, fmt.Errorf("curve %q is not one of the token's", curve)
	}
	oid, err := asn1.Marshal(c.oid)
	if err != nil {
		return nil, err
	}
	value, err := t.generatePair(p11.CKM_EC_KEY_PAIR_GEN, []*p11.Attribute{
		attribute(p11.CKA_TOKEN, false), attribute(p11.CKA_EC_PARAMS, oid), attribute(p11.CKA_VERIFY, true),
	}, keptEC(id), p11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	var point []byte // an OCTET STRING around the point
	if _, err := asn1.Unmarshal(value, &point); err != nil {
		return nil, fmt.Errorf("the token's EC point: %w", err)
	}
	if curve == p256k {
		return secp256k1.ParsePubKey(point)
	}
	return ecdsa.ParseUncompressedPublicKey(c.curve, point)
}

// generatePair makes a key pair and reads an attribute of the public half, which ends
// with the session.
func (t *Token) generatePair(mechanism uint, public, private []*p11.Attribute, want uint) (value []byte, err error) {
	err = t.with(func(session p11.SessionHandle) error {
		half, key, err := t.ctx.GenerateKeyPair(session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, public, private)
		if err != nil {
			return err
		}
		read, err := t.ctx.GetAttributeValue(session, half, []*p11.Attribute{attribute(want, nil)})
		if err != nil {
			_ = t.ctx.DestroyObject(session, key) // nobody could use it
			return err
		}
		value = read[0].Value
		return t.ctx.DestroyObject(session, half)
	})
	return value, err
}

// GenerateAES makes an AES key of 128, 192 or 256 bits.
func (t *Token) GenerateAES(id string, bits int) error {
	return t.generate(p11.CKM_AES_KEY_GEN, keptAES(id, attribute(p11.CKA_VALUE_LEN, bits/8)))
}

// GenerateMAC makes a key for HMAC.
func (t *Token) GenerateMAC(id string, bits int) error {
	return t.generate(p11.CKM_GENERIC_SECRET_KEY_GEN, keptMAC(id, attribute(p11.CKA_VALUE_LEN, bits/8)))
}

func (t *Token) generate(mechanism uint, object []*p11.Attribute) error {
	return t.with(func(session p11.SessionHandle) error {
		_, err := t.ctx.GenerateKey(session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, object)
		return err
	})
}

// ImportMAC puts a key for HMAC into the token.
func (t *Token) ImportMAC(id string, key []byte) error {
	return t.create(keptMAC(id, attribute(p11.CKA_VALUE, key)))
}

// Import puts an *rsa.PrivateKey, an *ecdsa.PrivateKey, a *secp256k1.PrivateKey, or the
// []byte of an AES key into the token, from where it does not come back.
func (t *Token) Import(id string, key any) error {
	var object []*p11.Attribute
	switch k := key.(type) {
	case *rsa.PrivateKey:
		k.Precompute()
		object = keptRSA(id,
			attribute(p11.CKA_MODULUS, k.N.Bytes()), attribute(p11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(k.E)).Bytes()),
			attribute(p11.CKA_PRIVATE_EXPONENT, k.D.Bytes()), attribute(p11.CKA_PRIME_1, k.Primes[0].Bytes()), attribute(p11.CKA_PRIME_2, k.Primes[1].Bytes()),
			attribute(p11.CKA_EXPONENT_1, k.Precomputed.Dp.Bytes()), attribute(p11.CKA_EXPONENT_2, k.Precomputed.Dq.Bytes()),
			attribute(p11.CKA_COEFFICIENT, k.Precomputed.Qinv.Bytes()))
	case *ecdsa.PrivateKey:
		d, err := k.Bytes()
		if err != nil {
			return err
		}
		if object, err = importEC(id, k.Curve.Params().Name, d); err != nil {
			return err
		}
	case *secp256k1.PrivateKey:
		var err error
		if object, err = importEC(id, p256k, k.Serialize()); err != nil {
			return err
		}
	case []byte:
		object = keptAES(id, attribute(p11.CKA_VALUE, k))
	default:
		return fmt.Errorf("a %T is no key that a token takes", key)
	}
	return t.create(object)
}

func (t *Token) create(object []*p11.Attribute) error {
	return t.with(func(session p11.SessionHandle) error {
		_, err := t.ctx.CreateObject(session, object)
		return err
	})
}

func importEC(id, curve string, d []byte) ([]*p11.Attribute, error) {
	oid, err := asn1.Marshal(curves[curve].oid)
	return keptEC(id, attribute(p11.CKA_EC_PARAMS, oid), attribute(p11.CKA_VALUE, d)), err
}
