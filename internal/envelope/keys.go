package envelope

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	keyBytes         = 32
	documentKeyBytes = 64 // 32 B key, 32 B naming key
)

// errKeySize never says more: what was given may be most of a key.
var errKeySize = errors.New("envelope: a key is 32 bytes")

// RootKey is the 256-bit root key of one relay resource. It redacts itself in
// every printed form. It is safe for concurrent use, Wipe included. The zero
// RootKey is a wiped one.
type RootKey struct {
	_ [0]func() // not comparable: == would compare addresses
	*secret
}

// NewRootKey makes a random root key.
func NewRootKey() RootKey {
	var b [keyBytes]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	defer clear(b[:])
	return RootKey{secret: newLockedSecret(b[:])}
}

// ParseRootKey takes 32 bytes; it copies them.
func ParseRootKey(b []byte) (RootKey, error) {
	if len(b) != keyBytes {
		return RootKey{}, errKeySize
	}
	return RootKey{secret: newLockedSecret(b)}, nil
}

// Use lends the key's bytes to f, which must not keep them nor wipe the key. It
// returns f's error, or ErrWiped without calling f.
func (k RootKey) Use(f func(key []byte) error) error { return k.use(f) }

// Wipe overwrites the key; every copy of k is then unusable. It waits for uses
// under way.
func (k RootKey) Wipe() { k.wipe() }

// Commitment binds the key to its resource and epoch without revealing it. RSA-OAEP
// authenticates nothing: whoever has the public key can wrap a root key of his own,
// and only a commitment kept elsewhere tells it from ours. Of a wiped key it is
// random, so that it matches nothing.
func (k RootKey) Commitment(r ResourceID, epoch uint32) [32]byte {
	var c [32]byte
	err := k.use(func(key []byte) error {
		bound := binding(r[:], [][]byte{binary.BigEndian.AppendUint32(nil, epoch)})
		prk := extract(key, make([]byte, sha256.Size)) // no salt is a salt of zeros
		defer clear(prk)
		b, err := hkdf.Expand(sha256.New, prk, info(labelRootCommitment, bound), len(c))
		copy(c[:], b)
		return err
	})
	if err != nil {
		rand.Read(c[:])
	}
	return c
}

// WrapDocumentKey seals dk for its place.
func (k RootKey) WrapDocumentKey(dk DocumentKey, at KeyPlace) (Sealed, error) {
	facts := appendPlace(appendPreamble(nil, KindDocumentKey), at)
	var box []byte
	err := dk.use(func(plaintext []byte) (err error) {
		box, err = sealBox(k.secret, facts, plaintext)
		return err
	})
	if err != nil {
		return Sealed{}, fmt.Errorf("wrap document key: %w", err)
	}
	return Sealed{box}, nil
}

// UnwrapDocumentKey opens what WrapDocumentKey made for this resource and
// document; key id and epoch come from the value, authenticated.
func (k RootKey) UnwrapDocumentKey(s Sealed, r ResourceID, d DocumentHandle) (DocumentKey, KeyPlace, error) {
	header, err := parseBox(s.b, KindDocumentKey)
	if err != nil {
		return DocumentKey{}, KeyPlace{}, ErrOpen
	}
	at := readPlace(header)
	if at.Resource != r || at.Document != d {
		return DocumentKey{}, KeyPlace{}, ErrOpen
	}
	b, err := openBox(k.secret, s.b, header)
	if err != nil {
		return DocumentKey{}, KeyPlace{}, err
	}
	return DocumentKey{secret: newSecret(b)}, at, nil
}

// DocumentKey is the 256-bit key of one document, with the naming key under
// which the document's objects are named. It redacts itself in every printed
// form. It is safe for concurrent use, Wipe included. The zero DocumentKey is a
// wiped one.
type DocumentKey struct {
	_ [0]func() // not comparable: == would compare addresses
	*secret
}

// NewDocumentKey makes a random document key.
func NewDocumentKey() DocumentKey { return DocumentKey{secret: randomSecret(documentKeyBytes)} }

// Wipe overwrites the key; every copy of k is then unusable, and so are its
// segments and segment readers. It waits for uses under way. What AES expanded for
// those segments stays in memory until they are dropped and collected.
func (k DocumentKey) Wipe() { k.wipe() }

// Name returns the name under which an object of this document is stored. It is a
// keyed hash, as an id (a git SHA-1) would tell who knows the content that it is
// there. The naming key is a half of its own, so that names can outlive the other.
// Of a wiped key the name is random: nothing is stored there.
func (k DocumentKey) Name(kind Kind, id string) Name {
	return k.nameUnder(keyBytes, string([]byte{byte(kind)}), id)
}
