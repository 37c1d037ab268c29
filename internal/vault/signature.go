package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// signature is an algorithm that signs digests (RFC 7518, 3.1).
type signature struct {
	hash  crypto.Hash
	pss   bool
	curve string // of ECDSA; "" for RSA
}

var signatures = map[string]signature{
	"RS256": {hash: crypto.SHA256}, "RS384": {hash: crypto.SHA384}, "RS512": {hash: crypto.SHA512},
	"PS256": {hash: crypto.SHA256, pss: true}, "PS384": {hash: crypto.SHA384, pss: true}, "PS512": {hash: crypto.SHA512, pss: true},
	"RSNULL": {}, // PKCS #1 v1.5 without the name of a hash
	"ES256":  {hash: crypto.SHA256, curve: "P-256"},
	"ES384":  {hash: crypto.SHA384, curve: "P-384"},
	"ES512":  {hash: crypto.SHA512, curve: "P-521"},
}

// pssOptions of RFC 7518, 3.5: the salt is as long as the digest.
func (s signature) pssOptions() *rsa.PSSOptions {
	return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.hash}
}

// fits says whether a digest has the algorithm's length; RSNULL signs anything that
// leaves room for its padding.
func (s signature) fits(digest []byte) bool { return s.hash == 0 || len(digest) == s.hash.Size() }

// sign signs a digest; ECDSA signatures are r and s, each as long as the field.
func (s *Service) sign(v versionRow, alg string, digest []byte) ([]byte, error) {
	how := signatures[alg]
	if !how.fits(digest) {
		return nil, errParameter()
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
	size := (curves[how.curve].Params().BitSize + 7) / 8
	out := make([]byte, 2*size)
	pair.R.FillBytes(out[:size])
	pair.S.FillBytes(out[size:])
	return out, nil
}

// verify says whether sig is the key's signature of digest.
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
		size := (key.Curve.Params().BitSize + 7) / 8
		if len(sig) != 2*size {
			return false, nil
		}
		return ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])), nil
	}
	return false, errParameter()
}
