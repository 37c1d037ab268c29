//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	p11 "github.com/miekg/pkcs11"
)

// Private is a key in the token: a crypto.Signer, and of an RSA key a crypto.Decrypter,
// whose error for what it cannot decrypt is rsa.ErrDecryption.
func (t *Token) Private(id string, public crypto.PublicKey) (any, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return &rsaKey{t, id, k}, nil
	case *ecdsa.PublicKey, *secp256k1.PublicKey:
		return &ecKey{t, id, k}, nil
	}
	return nil, fmt.Errorf("a %T is no public key of a token's", public)
}

type rsaKey struct {
	token  *Token
	id     string
	public *rsa.PublicKey
}

var (
	_ crypto.Decrypter = (*rsaKey)(nil)
	_ crypto.Signer    = (*rsaKey)(nil)
	_ crypto.Signer    = (*ecKey)(nil)
)

func (k *rsaKey) Public() crypto.PublicKey { return k.public }

// Decrypt takes *rsa.OAEPOptions without a label, or *rsa.PKCS1v15DecryptOptions.
func (k *rsaKey) Decrypt(_ io.Reader, c []byte, options crypto.DecrypterOpts) ([]byte, error) {
	if len(c) != k.public.Size() || new(big.Int).SetBytes(c).Cmp(k.public.N) >= 0 {
		return nil, rsa.ErrDecryption
	}
	if !k.token.bare {
		return k.decryptInToken(c, options)
	}
	em, err := k.token.decrypt(k.id, p11.CKO_PRIVATE_KEY, p11.NewMechanism(p11.CKM_RSA_X_509, nil), c)
	if err != nil {
		return nil, err
	}
	defer clear(em)
	if len(em) > k.public.Size() {
		return nil, errors.New("the token's answer is longer than the modulus")
	}
	padded := make([]byte, k.public.Size()) // some tokens leave out leading zeros
	copy(padded[len(padded)-len(em):], em)
	defer clear(padded)
	var m []byte
	var ok bool
	switch o := options.(type) {
	case *rsa.OAEPOptions:
		m, ok = unpadOAEP(padded, o.Hash)
	case *rsa.PKCS1v15DecryptOptions:
		m, ok = unpadPKCS1v15(padded)
	default:
		return nil, fmt.Errorf("%T is not supported", options)
	}
	if !ok {
		return nil, rsa.ErrDecryption
	}
	return slices.Clone(m), nil
}

// decryptInToken is for tokens that do not have the bare operation.
func (k *rsaKey) decryptInToken(c []byte, options crypto.DecrypterOpts) ([]byte, error) {
	m := p11.NewMechanism(p11.CKM_RSA_PKCS, nil)
	if o, ok := options.(*rsa.OAEPOptions); ok {
		h, known := hashes[o.Hash]
		if !known {
			return nil, fmt.Errorf("OAEP with %v is not supported", o.Hash)
		}
		m = p11.NewMechanism(p11.CKM_RSA_PKCS_OAEP, p11.NewOAEPParams(h.mechanism, h.mgf, p11.CKZ_DATA_SPECIFIED, nil))
	}
	out, err := k.token.decrypt(k.id, p11.CKO_PRIVATE_KEY, m, c)
	if is(err, p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE, p11.CKR_DATA_INVALID) {
		return nil, rsa.ErrDecryption
	}
	return out, err
}

func (t *Token) decrypt(id string, class uint, m *p11.Mechanism, c []byte) (out []byte, err error) {
	err = t.with(func(session p11.SessionHandle) error {
		key, err := t.find(session, id, class)
		if err != nil {
			return err
		}
		if err := t.ctx.DecryptInit(session, []*p11.Mechanism{m}, key); err != nil {
			return err
		}
		out, err = t.ctx.Decrypt(session, c)
		return err
	})
	return out, err
}

// MAC is the HMAC of data, by a key of at least the hash's length.
func (t *Token) MAC(id string, h crypto.Hash, data []byte) ([]byte, error) {
	mechanism, known := map[crypto.Hash]uint{crypto.SHA256: p11.CKM_SHA256_HMAC, crypto.SHA384: p11.CKM_SHA384_HMAC, crypto.SHA512: p11.CKM_SHA512_HMAC}[h]
	if !known {
		return nil, fmt.Errorf("HMAC with %v is not supported", h)
	}
	return t.sign(id, p11.CKO_SECRET_KEY, p11.NewMechanism(mechanism, nil), data)
}

func (t *Token) sign(id string, class uint, m *p11.Mechanism, data []byte) (out []byte, err error) {
	err = t.with(func(session p11.SessionHandle) error {
		key, err := t.find(session, id, class)
		if err != nil {
			return err
		}
		if err := t.ctx.SignInit(session, []*p11.Mechanism{m}, key); err != nil {
			return err
		}
		out, err = t.ctx.Sign(session, data)
		return err
	})
	return out, err
}

// hashes have their mechanism, MGF1, and the DigestInfo that comes before a digest
// (RFC 8017, 9.2, note 1).
var hashes = map[crypto.Hash]struct {
	mechanism, mgf uint
	info           []byte
}{
	crypto.SHA1:   {p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, []byte{0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14}},
	crypto.SHA256: {p11.CKM_SHA256, p11.CKG_MGF1_SHA256, digestInfo(1, 32)},
	crypto.SHA384: {p11.CKM_SHA384, p11.CKG_MGF1_SHA384, digestInfo(2, 48)},
	crypto.SHA512: {p11.CKM_SHA512, p11.CKG_MGF1_SHA512, digestInfo(3, 64)},
}

// digestInfo of the SHA-2 hashes, which differ in the last arc of their name.
func digestInfo(arc, size byte) []byte {
	return []byte{0x30, 0x11 + size, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, arc, 0x05, 0x00, 0x04, size}
}

// Sign signs a digest: PSS with *rsa.PSSOptions and a salt as long as the digest, else
// PKCS #1 v1.5, without a DigestInfo for hash 0.
func (k *rsaKey) Sign(_ io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	h, known := hashes[options.HashFunc()]
	if !known && options.HashFunc() != 0 {
		return nil, fmt.Errorf("signatures with %v are not supported", options.HashFunc())
	}
	if _, pss := options.(*rsa.PSSOptions); pss {
		return k.token.sign(k.id, p11.CKO_PRIVATE_KEY, p11.NewMechanism(p11.CKM_RSA_PKCS_PSS, p11.NewPSSParams(h.mechanism, h.mgf, uint(len(digest)))), digest)
	}
	data := slices.Concat(h.info, digest)
	const least = 11 // of padding
	if len(data)+least > k.public.Size() {
		return nil, rsa.ErrMessageTooLong
	}
	return k.token.sign(k.id, p11.CKO_PRIVATE_KEY, p11.NewMechanism(p11.CKM_RSA_PKCS, nil), data)
}

type ecKey struct {
	token  *Token
	id     string
	public crypto.PublicKey
}

func (k *ecKey) Public() crypto.PublicKey { return k.public }

// Sign gives r and s in ASN.1, as crypto.Signer wants it.
func (k *ecKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	raw, err := k.token.sign(k.id, p11.CKO_PRIVATE_KEY, p11.NewMechanism(p11.CKM_ECDSA, nil), digest)
	if err != nil {
		return nil, err
	}
	if len(raw)%2 != 0 {
		return nil, errors.New("the token's signature is not r and s")
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}
