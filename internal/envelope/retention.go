package envelope

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// RetentionKey is the key of one day. It lies around the wrapped root keys, outside of
// what is copied with the data; the day after has the key that Next makes from it. So
// whoever keeps the key of a day can open what was sealed on that day and later, and
// nothing that is older. It redacts itself in every printed form and is safe for
// concurrent use, Wipe included. The zero RetentionKey is a wiped one.
type RetentionKey struct {
	_ [0]func() // not comparable: == would compare addresses
	*secret
}

// NewRetentionKey makes a random first key.
func NewRetentionKey() RetentionKey { return RetentionKey{secret: randomSecret(keyBytes)} }

// ParseRetentionKey takes 32 bytes; it copies them.
func ParseRetentionKey(b []byte) (RetentionKey, error) {
	if len(b) != keyBytes {
		return RetentionKey{}, errKeySize
	}
	return RetentionKey{secret: newSecret(bytes.Clone(b))}, nil
}

// Use lends the key's bytes to f, which must not keep them.
func (k RetentionKey) Use(f func(key []byte) error) error { return k.use(f) }

// Wipe overwrites the key; every copy of k is then unusable.
func (k RetentionKey) Wipe() { k.wipe() }

// Next returns the key of the day after. There is no way back from it.
func (k RetentionKey) Next() (RetentionKey, error) {
	var next RetentionKey
	err := k.use(func(key []byte) error {
		b, err := hkdf.Expand(sha256.New, key, info(labelNextRetention, nil), keyBytes)
		if err == nil {
			next.secret = newSecret(b)
		}
		return err
	})
	if err != nil {
		return RetentionKey{}, fmt.Errorf("derive the next retention key: %w", err)
	}
	return next, nil
}

// RootPlace says which wrapping of which root key a value belongs to.
type RootPlace struct {
	Resource   ResourceID
	Epoch      uint32
	Generation uint64
}

func (p RootPlace) context() [][]byte {
	return [][]byte{p.Resource[:], binary.BigEndian.AppendUint32(nil, p.Epoch), binary.BigEndian.AppendUint64(nil, p.Generation)}
}

// Seal seals a wrapped root key for its place.
func (k RetentionKey) Seal(at RootPlace, wrapped []byte) ([]byte, error) {
	box, err := sealBox(k.secret, appendPreamble(nil, kindRetained), wrapped, at.context()...)
	if err != nil {
		return nil, fmt.Errorf("seal a wrapped root key: %w", err)
	}
	return box, nil
}

// Open opens what Seal made with the key of the same day for the same place, or
// returns ErrOpen.
func (k RetentionKey) Open(at RootPlace, sealed []byte) ([]byte, error) {
	header, err := parseBox(sealed, kindRetained)
	if err != nil {
		return nil, ErrOpen
	}
	return openBox(k.secret, sealed, header, at.context()...)
}

// WrapNext wraps the root key that is to follow k, which is that of epoch, while document
// keys move from the one to the other.
func (k RootKey) WrapNext(next RootKey, r ResourceID, epoch uint32) ([]byte, error) {
	var box []byte
	err := next.use(func(plaintext []byte) (err error) {
		box, err = sealBox(k.secret, appendPreamble(nil, kindNextRoot), plaintext, r[:], binary.BigEndian.AppendUint32(nil, epoch))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wrap the next root key: %w", err)
	}
	return box, nil
}

// UnwrapNext opens what WrapNext made for the same resource and epoch, or returns ErrOpen.
func (k RootKey) UnwrapNext(wrapped []byte, r ResourceID, epoch uint32) (RootKey, error) {
	header, err := parseBox(wrapped, kindNextRoot)
	if err != nil {
		return RootKey{}, ErrOpen
	}
	b, err := openBox(k.secret, wrapped, header, r[:], binary.BigEndian.AppendUint32(nil, epoch))
	if err != nil {
		return RootKey{}, err
	}
	defer clear(b)
	next, err := ParseRootKey(b)
	if err != nil {
		return RootKey{}, ErrOpen
	}
	return next, nil
}

// WrappedPlace returns where a wrapped document key says it belongs; only unwrapping
// proves it. ok is false for any other value.
func WrappedPlace(s Sealed) (at KeyPlace, ok bool) {
	header, err := parseBox(s.b, KindDocumentKey)
	if err != nil {
		return KeyPlace{}, false
	}
	return readPlace(header), true
}

// ObjectPlace returns where a sealed object says it belongs; only opening proves it. ok is
// false for any other value.
func ObjectPlace(s Sealed) (at KeyPlace, ok bool) {
	if !isObject(s.Kind()) {
		return KeyPlace{}, false
	}
	return readPlace(s.b), true
}
