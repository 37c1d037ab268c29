package vault

import (
	"crypto"
	"crypto/fips140"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// Curve P-256K is secp256k1 of SEC 2, 2.4.1, which the standard library does not have.
// Unlike those of its curves, signatures here take a time that depends a little on the
// key: who fears an observer of that keeps the key in a token.
const curveP256K = "P-256K"

// checkApproved refuses the curve where only what FIPS 140 approves is allowed.
func checkApproved(curve string) error {
	if curve == curveP256K && fips140.Enforced() {
		return badParameter("Curve 'P-256K' is not approved by FIPS 140, which this server keeps to.")
	}
	return nil
}

// koblitzKey is a private key on P-256K.
type koblitzKey struct{ key *secp256k1.PrivateKey }

var _ crypto.Signer = koblitzKey{}

// Public is a *secp256k1.PublicKey.
func (k koblitzKey) Public() crypto.PublicKey { return k.key.PubKey() }

// Sign gives r and s in ASN.1, as crypto.Signer wants it; the nonce is that of RFC 6979.
func (k koblitzKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return ecdsa.Sign(k.key, digest).Serialize(), nil
}

func generateP256K() (crypto.Signer, error) {
	key, err := secp256k1.GeneratePrivateKey()
	return koblitzKey{key}, err
}

// parseP256K takes a private number, which is from 1 to the curve's order less 1.
func parseP256K(d []byte) (koblitzKey, error) {
	var number secp256k1.ModNScalar
	if len(d) != p256kBytes || number.SetByteSlice(d) || number.IsZero() {
		return koblitzKey{}, errNotAKey
	}
	return koblitzKey{secp256k1.NewPrivateKey(&number)}, nil
}

// p256kBytes is the length of a coordinate, and of a private number.
const p256kBytes = 32

// verifyP256K checks a signature that is r and s.
func verifyP256K(key *secp256k1.PublicKey, digest, sig []byte) bool {
	var r, s secp256k1.ModNScalar
	if len(sig) != 2*p256kBytes || r.SetByteSlice(sig[:p256kBytes]) || s.SetByteSlice(sig[p256kBytes:]) {
		return false
	}
	return ecdsa.NewSignature(&r, &s).Verify(digest, key)
}

// The curve's keys are stored in the forms of the others (RFC 5480, 2; RFC 5958 with
// RFC 5915, 3), which package x509 writes for its own curves alone.
type (
	subjectPublicKeyInfo struct {
		Algorithm pkix.AlgorithmIdentifier
		Point     asn1.BitString
	}
	privateKeyInfo struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte // an ecPrivateKey
	}
	ecPrivateKey struct {
		Version int
		Number  []byte
	}
)

// algorithmP256K is id-ecPublicKey with secp256k1, and ecPrivateKeyVersion that of RFC 5915.
var algorithmP256K = pkix.AlgorithmIdentifier{
	Algorithm:  asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1},
	Parameters: asn1.RawValue{FullBytes: []byte{asn1.TagOID, 5, 0x2b, 0x81, 0x04, 0x00, 0x0a}}, // 1.3.132.0.10
}

const ecPrivateKeyVersion = 1

func marshalPublicP256K(key *secp256k1.PublicKey) ([]byte, error) {
	point := key.SerializeUncompressed()
	return asn1.Marshal(subjectPublicKeyInfo{algorithmP256K, asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
}

func parsePublicP256K(der []byte) (*secp256k1.PublicKey, error) {
	var info subjectPublicKeyInfo
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 || !sameAlgorithm(info.Algorithm) {
		return nil, errNotAKey
	}
	return secp256k1.ParsePubKey(info.Point.RightAlign())
}

func marshalPrivateP256K(k koblitzKey) ([]byte, error) {
	number := k.key.Serialize()
	defer clear(number)
	inner, err := asn1.Marshal(ecPrivateKey{ecPrivateKeyVersion, number})
	if err != nil {
		return nil, err
	}
	defer clear(inner)
	return asn1.Marshal(privateKeyInfo{Algorithm: algorithmP256K, Key: inner})
}

func parsePrivateP256K(der []byte) (koblitzKey, error) {
	var info privateKeyInfo
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 || !sameAlgorithm(info.Algorithm) {
		return koblitzKey{}, errNotAKey
	}
	var inner ecPrivateKey
	if rest, err := asn1.Unmarshal(info.Key, &inner); err != nil || len(rest) > 0 {
		return koblitzKey{}, errors.Join(errNotAKey, err)
	}
	return parseP256K(inner.Number)
}

func sameAlgorithm(a pkix.AlgorithmIdentifier) bool {
	return a.Algorithm.Equal(algorithmP256K.Algorithm) && string(a.Parameters.FullBytes) == string(algorithmP256K.Parameters.FullBytes)
}
