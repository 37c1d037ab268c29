package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
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
	"ES256": {hash: crypto.SHA256, curve: "P-256"},
	"ES384": {hash: crypto.SHA384, curve: "P-384"},
	"ES512": {hash: crypto.SHA512, curve: "P-521"},
}

// pssOptions of RFC 7518, 3.5: the salt is as long as the digest.
func (s signature) pssOptions() *rsa.PSSOptions {
	return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.hash}
}

// sign signs a digest; ECDSA signatures are r and s, each as long as the field.
func (v versionRow) sign(alg string, digest []byte) ([]byte, error) {
	s := signatures[alg]
	if len(digest) != s.hash.Size() {
		return nil, errParameter()
	}
	private, err := v.privateKey()
	if err != nil {
		return nil, err
	}
	switch key := private.(type) {
	case *rsa.PrivateKey:
		if s.pss {
			return rsa.SignPSS(rand.Reader, key, s.hash, digest, s.pssOptions())
		}
		return rsa.SignPKCS1v15(nil, key, s.hash, digest)
	case *ecdsa.PrivateKey:
		r, t, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		size := (key.Curve.Params().BitSize + 7) / 8
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		t.FillBytes(out[size:])
		return out, nil
	}
	return nil, errParameter()
}

// verify says whether sig is the key's signature of digest.
func (v versionRow) verify(alg string, digest, sig []byte) (bool, error) {
	s := signatures[alg]
	if len(digest) != s.hash.Size() {
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
