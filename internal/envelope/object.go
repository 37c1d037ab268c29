package envelope

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// An object is sealed in chunks of 1 MiB of plaintext under a key of its own. An
// empty object has one empty chunk.
//
//	+--------+------------+------------+----------+-----+
//	| header | nonce 12 B | ciphertext | tag 16 B | ... |
//	+--------+------------+------------+----------+-----+
//
// The associated data of a chunk are, each length-prefixed: the header (which has
// the object's whole length), the object's name, the chunk's index (4 B) and
// whether it is the last one (1 B). So chunks cannot be swapped, dropped, repeated
// or taken from another object.
const (
	chunkBytes        = 1 << 20
	objectHeaderBytes = preambleBytes + placeBytes + 8 + endBytes
)

func chunksOf(length int) int {
	return max(1, (length+chunkBytes-1)/chunkBytes)
}

// parseObject checks that b is an object of this kind and returns the length of its
// plaintext.
func parseObject(b []byte, kind Kind) (length int, err error) {
	if is, err := parsePreamble(b); err != nil {
		return 0, err
	} else if is != kind || !isObject(kind) {
		return 0, fmt.Errorf("%w: kind %d instead of object kind %d", ErrFormat, is, kind)
	}
	if len(b) < objectHeaderBytes {
		return 0, fmt.Errorf("%w: object of %d bytes", ErrFormat, len(b))
	}
	said := binary.BigEndian.Uint64(b[preambleBytes+placeBytes:])
	if said > MaxPlaintextBytes {
		return 0, fmt.Errorf("%w: object length %d", ErrFormat, said)
	}
	length = int(said)
	if want := objectHeaderBytes + length + chunksOf(length)*sealBytes; len(b) != want {
		return 0, fmt.Errorf("%w: object of %d bytes instead of %d", ErrFormat, len(b), want)
	}
	return length, nil
}

func isObject(kind Kind) bool { return kind == KindCheckpoint || kind == KindObject }

// SealObject seals a checkpoint or git object under a fresh one-object segment key.
func (k DocumentKey) SealObject(at KeyPlace, kind Kind, name Name, plaintext []byte) (Sealed, error) {
	if !isObject(kind) {
		return Sealed{}, fmt.Errorf("envelope: kind %d is not an object", kind)
	}
	length := len(plaintext)
	if length > MaxPlaintextBytes {
		return Sealed{}, ErrTooLarge
	}
	facts := appendPlace(appendPreamble(nil, kind), at)
	facts = binary.BigEndian.AppendUint64(facts, uint64(length))

	var header []byte
	var aead cipher.AEAD
	err := k.use(func(b []byte) (err error) {
		header, aead, err = newHeader(b[:keyBytes], facts, name[:])
		return err
	})
	if err != nil {
		return Sealed{}, err
	}
	out := make([]byte, len(header), len(header)+length+chunksOf(length)*sealBytes)
	copy(out, header)
	aad := newChunkData(header, name)
	for i, last := 0, false; !last; i++ {
		chunk := plaintext[:min(chunkBytes, len(plaintext))]
		plaintext = plaintext[len(chunk):]
		last = len(plaintext) == 0
		out = aead.Seal(out, nil, chunk, aad.at(i, last))
	}
	return Sealed{out}, nil
}

// OpenObject opens what SealObject made for the same place, kind and name; the
// place's epoch need not be the same, and its key may be one before. plaintext is the caller's to keep.
func (k DocumentKey) OpenObject(at KeyPlace, kind Kind, name Name, s Sealed) (plaintext []byte, err error) {
	length, err := parseObject(s.b, kind)
	if err != nil {
		return nil, ErrOpen
	}
	header, rest := s.b[:objectHeaderBytes], s.b[objectHeaderBytes:]

	var aead cipher.AEAD
	err = k.useAt(at, readPlace(s.b), func(key []byte) (err error) {
		aead, err = openHeader(key, header, name[:])
		return err
	})
	if err != nil {
		return nil, ErrOpen
	}
	plaintext = make([]byte, 0, length)
	aad := newChunkData(header, name)
	for i, last := 0, false; !last; i++ {
		chunk := rest[:min(chunkBytes+sealBytes, len(rest))]
		rest = rest[len(chunk):]
		last = len(rest) == 0
		if plaintext, err = aead.Open(plaintext, nil, chunk, aad.at(i, last)); err != nil {
			return nil, ErrOpen
		}
	}
	return plaintext, nil
}

// chunkData makes the associated data of an object's chunks, in place.
type chunkData struct {
	b     []byte
	fixed int // how much of b is the same for all chunks
}

func newChunkData(header []byte, name Name) chunkData {
	b := binding(header, [][]byte{name[:]})
	return chunkData{b: b, fixed: len(b)}
}

func (c *chunkData) at(index int, last bool) []byte {
	var flag byte
	if last {
		flag = 1
	}
	c.b = appendField(c.b[:c.fixed], binary.BigEndian.AppendUint32(nil, uint32(index))) // below MaxPlaintextBytes/chunkBytes
	c.b = appendField(c.b, []byte{flag})
	return c.b
}
