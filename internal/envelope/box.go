package envelope

import "fmt"

// A box is a value sealed in one piece under a key of its own: a row, a wrapped
// document key, a wrapped key.
//
//	+--------+------------+------------+----------+
//	| header | nonce 12 B | ciphertext | tag 16 B |
//	+--------+------------+------------+----------+
//
// The associated data are the length-prefixed header and context fields.

// boxHeaderBytes is the size of the header of a kind that is boxed.
func boxHeaderBytes(kind Kind) int {
	if kind == KindDocumentKey {
		return preambleBytes + placeBytes + endBytes
	}
	return preambleBytes + endBytes
}

// parseBox checks that b is a box of this kind and returns its header.
func parseBox(b []byte, kind Kind) (header []byte, err error) {
	if is, err := parsePreamble(b); err != nil {
		return nil, err
	} else if is != kind {
		return nil, fmt.Errorf("%w: kind %d instead of %d", ErrFormat, is, kind)
	}
	size := boxHeaderBytes(kind)
	plain := len(b) - size - sealBytes
	if plain < 0 || plain > MaxPlaintextBytes || kind == KindDocumentKey && !documentKeySize(plain) {
		return nil, fmt.Errorf("%w: %d bytes for kind %d", ErrFormat, len(b), kind)
	}
	return b[:size], nil
}

func sealBox(key *secret, facts, plaintext []byte, context ...[]byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintextBytes {
		return nil, ErrTooLarge
	}
	var box []byte
	err := key.use(func(k []byte) error {
		header, aead, err := newHeader(k[:keyBytes], facts, context...)
		if err != nil {
			return err
		}
		box = make([]byte, len(header), len(header)+len(plaintext)+sealBytes)
		copy(box, header)
		box = aead.Seal(box, nil, plaintext, binding(header, context))
		return nil
	})
	return box, err
}

// openBox opens a box that parseBox has checked.
func openBox(key *secret, box, header []byte, context ...[]byte) ([]byte, error) {
	var plaintext []byte
	err := key.use(func(k []byte) error {
		aead, err := openHeader(k[:keyBytes], header, context...)
		if err != nil {
			return err
		}
		plaintext, err = aead.Open(nil, nil, box[len(header):], binding(header, context))
		return err
	})
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}
