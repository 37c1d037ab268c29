package pkcs11

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Key wrap with padding (RFC 5649) is done here, on single blocks that the token encrypts
// and decrypts: what tokens have of it pads in more ways than one.

// alternative begins the alternative initial value; the length of what is wrapped follows
// (RFC 5649, 3).
var alternative = []byte{0xa6, 0x59, 0x59, 0xa6}

// maxPadded bounds what is wrapped, each 8 bytes of which take the token 6 calls: more than
// any key has.
const maxPadded = 4 << 10

// block encrypts or decrypts 16 bytes.
type block func([]byte) ([]byte, error)

// wrapPadded wraps a value of 1 to maxPadded bytes.
func wrapPadded(encrypt block, plain []byte) ([]byte, error) {
	n := (len(plain) + 7) / 8
	out := make([]byte, 8+8*n) // A, R[1], ..., R[n] of RFC 3394
	copy(out, alternative)
	binary.BigEndian.PutUint32(out[4:], uint32(len(plain)))
	copy(out[8:], plain)
	if n == 1 {
		return encrypt(out)
	}
	for t := 1; t <= 6*n; t++ { // RFC 3394, 2.2.1
		r := out[8*((t-1)%n+1):][:8]
		b, err := encrypt(slices.Concat(out[:8], r))
		if err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(b)^uint64(t))
		copy(r, b[8:])
	}
	return out, nil
}

// unwrapPadded undoes wrapPadded; ok is false for what it has not made. sealed has a multiple
// of 8 bytes, at least 16.
func unwrapPadded(decrypt block, sealed []byte) (plain []byte, ok bool, err error) {
	n := len(sealed)/8 - 1
	out := bytes.Clone(sealed)
	if n == 1 {
		if out, err = decrypt(sealed); err != nil {
			return nil, false, err
		}
	} else {
		for t := 6 * n; t >= 1; t-- { // RFC 3394, 2.2.2
			r := out[8*((t-1)%n+1):][:8]
			binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(out)^uint64(t))
			b, err := decrypt(slices.Concat(out[:8], r))
			if err != nil {
				return nil, false, err
			}
			copy(out, b[:8])
			copy(r, b[8:])
		}
	}
	length := uint64(binary.BigEndian.Uint32(out[4:]))
	if !bytes.HasPrefix(out, alternative) || length > uint64(8*n) || length <= uint64(8*(n-1)) {
		return nil, false, nil
	}
	plain = out[8 : 8+length]
	if padding := out[8+length:]; !bytes.Equal(padding, make([]byte, len(padding))) {
		return nil, false, nil
	}
	return plain, true, nil
}
