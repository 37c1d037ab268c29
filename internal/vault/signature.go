package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// signature is an algorithm that signs digests (RFC 7518, 3.1). HMAC takes any value as it
// is: whether that is a digest is the client's affair.
type signature struct {
	hash  crypto.Hash
	pss   bool
	mac   bool   // HMAC, of oct keys
	curve string // of ECDSA, else ""
}

var signatures = map[string]signature{
	"RS256": {hash: crypto.SHA256}, "RS384": {hash: crypto.SHA384}, "RS512": {hash: crypto.SHA512},
	"PS256": {hash: crypto.SHA256, pss: true}, "PS384": {hash: crypto.SHA384, pss: true}, "PS512": {hash: crypto.SHA512, pss: true},
	"RSNULL": {}, // PKCS #1 v1.5 without the name of a hash
	"HS256":  {hash: crypto.SHA256, mac: true}, "HS384": {hash: crypto.SHA384, mac: true}, "HS512": {hash: crypto.SHA512, mac: true},
	"ES256":  {hash: crypto.SHA256, curve: "P-256"},
	"ES256K": {hash: crypto.SHA256, curve: curveP256K}, // RFC 8812, 3.2
	"ES384":  {hash: crypto.SHA384, curve: "P-384"},
	"ES512":  {hash: crypto.SHA512, curve: "P-521"},
}

// pssOptions of RFC 7518, 3.5: the salt is as long as the digest.
func (s signature) pssOptions() *rsa.PSSOptions {
	return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.hash}
}

// fits says whether a digest has the algorithm's length; RSNULL signs anything that
// leaves room for its padding.
func (s signature) fits(digest []byte) bool {
	return s.hash == 0 || s.mac || len(digest) == s.hash.Size()
}

// sign signs a digest; ECDSA signatures are r and s, each as long as the field.
func (s *Service) sign(v versionRow, alg string, digest []byte) ([]byte, error) {
	how := signatures[alg]
	if !how.fits(digest) {
		return nil, errParameter()
	}
	if how.mac {
		if s.token == nil {
			return nil, errNoToken
		}
		return s.token.MAC(v.ID, how.hash, digest)
	}
	private, err := s.private(v)
	if err != nil {
		return nil, err
	}
	key, ok := private.(crypto.Signer)
	if !ok {
		return nil, errParameter()
	}
	var options crypto.SignerOpts = how.hash
	if how.pss {
		options = how.pssOptions()
	}
	signed, err := key.Sign(rand.Reader, digest, options)
	if errors.Is(err, rsa.ErrMessageTooLong) {
		return nil, errParameter()
	}
	if err != nil || how.curve == "" {
		return signed, err
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signed, &pair); err != nil {
		return nil, fmt.Errorf("signature of key %s: %w", v.ID, err)
	}
	size := fieldBytes(how.curve)
	out := make([]byte, 2*size)
	pair.R.FillBytes(out[:size])
	pair.S.FillBytes(out[size:])
	return out, nil
}

// verify says whether sig is the key's signature of digest.
func (s *Service) verify(v versionRow, alg string, digest, sig []byte) (bool, error) {
	if signatures[alg].mac {
		want, err := s.sign(v, alg, digest)
		return err == nil && hmac.Equal(want, sig), err
	}
	return v.verify(alg, digest, sig)
}

// verify is what a public key does.
func (v versionRow) verify(alg string, digest, sig []byte) (bool, error) {
	s := signatures[alg]
	if !s.fits(digest) {
		return false, errParameter()
	}
	public, err := v.publicKey()
	if err != nil {
		return false, err
	}
	switch key := public.(type) {
	case *rsa.PublicKey:
		if s.pss {
			return rsa.VerifyPSS(key, s.hash, digest, sig, s.pssOptions()) == nil, nil
		}
		return rsa.VerifyPKCS1v15(key, s.hash, digest, sig) == nil, nil
	case *ecdsa.PublicKey:
		size := fieldBytes(s.curve)
		if len(sig) != 2*size {
			return false, nil
		}
		return ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])), nil
	case *secp256k1.PublicKey:
		return verifyP256K(key, digest, sig), nil
	}
	return false, errParameter()
}
