package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"math/big"
	"strings"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// publicKey is a key as a JWK (RFC 7517); private members never appear.
type publicKey struct {
	ID         string   `json:"kid"`
	Type       string   `json:"kty"`
	Operations []string `json:"key_ops"`
	N          string   `json:"n,omitempty"`
	E          string   `json:"e,omitempty"`
	Curve      string   `json:"crv,omitempty"`
	X          string   `json:"x,omitempty"`
	Y          string   `json:"y,omitempty"`
}

// attributes of a version, as answered.
type attributes struct {
	Enabled         bool   `json:"enabled"`
	NotBefore       *int64 `json:"nbf,omitempty"`
	Expires         *int64 `json:"exp,omitempty"`
	Created         int64  `json:"created"`
	Updated         int64  `json:"updated"`
	RecoveryLevel   string `json:"recoveryLevel"`
	RecoverableDays int    `json:"recoverableDays"`
	Exportable      bool   `json:"exportable"`
}

// keyBundle answers for one version.
type keyBundle struct {
	Key        publicKey         `json:"key"`
	Attributes attributes        `json:"attributes"`
	Tags       map[string]string `json:"tags,omitempty"`
	*deletedBundle
}

// deletedBundle is what a deleted key has besides.
type deletedBundle struct {
	RecoveryID string `json:"recoveryId"`
	Deleted    int64  `json:"deletedDate"`
	Purge      int64  `json:"scheduledPurgeDate"`
}

// keyItem is a key or version in a list.
type keyItem struct {
	ID         string            `json:"kid"`
	Attributes attributes        `json:"attributes"`
	Tags       map[string]string `json:"tags,omitempty"`
	*deletedBundle
}

type keyList struct {
	Value    []keyItem `json:"value"`
	NextLink *string   `json:"nextLink"`
}

// operationResult answers a crypto operation; verify's has a bool instead.
type operationResult struct {
	ID    string `json:"kid"`
	Value string `json:"value"`
	IV    string `json:"iv,omitempty"` // of symmetric keys, as the next two
	AAD   string `json:"aad,omitempty"`
	Tag   string `json:"tag,omitempty"`
}

type verifyResult struct {
	Value bool `json:"value"`
}

// keyID is a key's identifier; without a version that of the key.
func (s *Service) keyID(v Vault, name, version string) string {
	id := s.uri(v) + "keys/" + name
	if version != "" {
		id += "/" + version
	}
	return id
}

func (v Vault) attributes(row versionRow) attributes {
	return attributes{
		Enabled: row.Enabled, NotBefore: row.NotBefore, Expires: row.Expires,
		Created: row.Created, Updated: row.Updated,
		RecoveryLevel: v.recoveryLevel(), RecoverableDays: v.SoftDeleteRetention,
	}
}

func (s *Service) bundle(v Vault, k keyRow, row versionRow) (keyBundle, error) {
	var parsed any
	if row.Type != typeOctHSM { // of which nothing is public
		var err error
		if parsed, err = row.publicKey(); err != nil {
			return keyBundle{}, err
		}
	}
	public := publicKey{ID: s.keyID(v, k.Name, row.ID), Type: row.Type, Operations: row.Operations}
	switch key := parsed.(type) {
	case nil:
	case *rsa.PublicKey:
		public.N = encodeBinary(key.N.Bytes())
		public.E = encodeBinary(big.NewInt(int64(key.E)).Bytes())
	default:
		x, y, err := coordinates(key)
		if err != nil {
			return keyBundle{}, err
		}
		public.Curve, public.X, public.Y = row.Curve, encodeBinary(x), encodeBinary(y)
	}
	return keyBundle{Key: public, Attributes: v.attributes(row), Tags: row.Tags, deletedBundle: s.deletedBundle(v, k)}, nil
}

// coordinates of a public key on any of the curves, each as long as the field.
func coordinates(public crypto.PublicKey) (x, y []byte, err error) {
	var point []byte // 4, x, y: SEC 1, 2.3.3
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		point, err = key.Bytes()
	case *secp256k1.PublicKey:
		point = key.SerializeUncompressed()
	default:
		err = fmt.Errorf("a %T is not on a curve", public)
	}
	if err != nil {
		return nil, nil, err
	}
	half := (len(point) - 1) / 2
	return point[1 : 1+half], point[1+half:], nil
}

func (s *Service) deletedBundle(v Vault, k keyRow) *deletedBundle {
	if k.Deleted == nil {
		return nil
	}
	return &deletedBundle{
		RecoveryID: s.uri(v) + "deletedkeys/" + strings.ToLower(k.Name),
		Deleted:    k.Deleted.At.Unix(),
		Purge:      k.Deleted.Purge.Unix(),
	}
}
