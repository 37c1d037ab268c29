package envelope

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	keyBytes         = 32
	documentKeyBytes = 64 // 32 B key, 32 B naming key; see DocumentKey for what may follow
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
// which the document's objects are named, and the keys that sealed before it: those open
// what they sealed. It redacts itself in every printed form. It is safe for concurrent use,
// Wipe included. The zero DocumentKey is a wiped one.
//
//	key 32 | naming key 32 | when it was made 8 (nanoseconds since 1970) | (id 8 | key 32) for each key before, the oldest first
//
// A first key may end after the naming key: then it is not known when it was made.
type DocumentKey struct {
	_ [0]func() // not comparable: == would compare addresses
	*secret
}

const (
	madeBytes  = 8
	olderBytes = len(KeyID{}) + keyBytes

	// MaxOlderKeys bounds how often a document's key is replaced.
	MaxOlderKeys = 255
)

// documentKeySize says whether a document key may have so many bytes.
func documentKeySize(n int) bool {
	older := n - documentKeyBytes - madeBytes
	return n == documentKeyBytes || older >= 0 && older%olderBytes == 0 && older/olderBytes <= MaxOlderKeys
}

// NewDocumentKey makes a random document key.
func NewDocumentKey() DocumentKey {
	b := make([]byte, documentKeyBytes, documentKeyBytes+madeBytes)
	rand.Read(b) // never fails, see crypto/rand
	return DocumentKey{secret: newSecret(appendMade(b))}
}

func appendMade(b []byte) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(max(time.Now().UnixNano(), 1)))
}

// Made is when the key was made; zero: nobody knows.
func (k DocumentKey) Made() (t time.Time) {
	_ = k.use(func(b []byte) error { // of a wiped key nobody knows
		if len(b) > documentKeyBytes {
			t = time.Unix(0, int64(min(binary.BigEndian.Uint64(b[documentKeyBytes:]), math.MaxInt64))).UTC()
		}
		return nil
	})
	return t
}

// Older is how many keys were before this one.
func (k DocumentKey) Older() (n int) {
	_ = k.use(func(b []byte) error {
		n = max(len(b)-documentKeyBytes-madeBytes, 0) / olderBytes
		return nil
	})
	return n
}

// Next makes the key that seals from now on; k, whose id that is, and those before it open
// what they sealed. Names stay.
func (k DocumentKey) Next(id KeyID) (DocumentKey, error) {
	var next DocumentKey
	err := k.use(func(b []byte) error {
		older := b[min(documentKeyBytes+madeBytes, len(b)):]
		if len(older)/olderBytes >= MaxOlderKeys {
			return fmt.Errorf("envelope: a document has at most %d keys", MaxOlderKeys+1)
		}
		n := make([]byte, keyBytes, documentKeyBytes+madeBytes+len(older)+olderBytes)
		rand.Read(n) // never fails, see crypto/rand
		n = appendMade(append(n, b[keyBytes:documentKeyBytes]...))
		n = append(append(append(n, older...), id[:]...), b[:keyBytes]...)
		next.secret = newSecret(n)
		return nil
	})
	return next, err
}

// Has says whether what was sealed under the key of an id can be opened; current is the id
// of the key that seals.
func (k DocumentKey) Has(current, id KeyID) bool {
	found := false
	_ = k.use(func(b []byte) error { found = keyOf(b, current, id) != nil; return nil })
	return found
}

// keyOf finds a key in b, that of a DocumentKey; nil if it is not there.
func keyOf(b []byte, current, id KeyID) []byte {
	if id == current {
		return b[:keyBytes]
	}
	for older := b[min(documentKeyBytes+madeBytes, len(b)):]; len(older) > 0; older = older[olderBytes:] {
		if KeyID(older[:len(id)]) == id {
			return older[len(id):olderBytes]
		}
	}
	return nil
}

// useAt lends the key that a place is sealed under; at is where k seals. ErrOpen if it is
// not of that document, or has no such key.
func (k DocumentKey) useAt(at, place KeyPlace, f func(key []byte) error) error {
	return k.use(func(b []byte) error {
		key := keyOf(b, at.KeyID, place.KeyID)
		if key == nil || place.Resource != at.Resource || place.Document != at.Document {
			return ErrOpen
		}
		return f(key)
	})
}

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
