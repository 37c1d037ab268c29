package envelope

import (
	"encoding/binary"
	"fmt"
)

const (
	magic  = "TDLK"
	format = 1 // of everything behind the magic
	suite  = 1 // AES-256-GCM with random nonces, HKDF-SHA-256, SHA-256

	preambleBytes = 8
	placeBytes    = 16 + 16 + 8 + 4
	endBytes      = saltBytes + commitmentBytes // every header ends in these
)

// Sealed is a value that cannot be read without a key. Only this package makes
// one, so an interface that takes Sealed cannot be handed plaintext.
type Sealed struct{ b []byte }

// ParseSealed takes a value as it was stored. It checks magic, version, kind and
// bounds, not the tag: that needs the key. It does not copy b. The error is
// ErrFormat, wrapped with the reason.
func ParseSealed(b []byte) (Sealed, error) {
	kind, err := parsePreamble(b)
	if err != nil {
		return Sealed{}, err
	}
	switch kind {
	case KindCheckpoint, KindObject:
		_, err = parseObject(b, kind)
	case KindRow, KindDocumentKey:
		_, err = parseBox(b, kind)
	default:
		err = fmt.Errorf("%w: kind %d is not that of a value", ErrFormat, kind)
	}
	if err != nil {
		return Sealed{}, err
	}
	return Sealed{b}, nil
}

// Bytes returns the encoded value; the caller must not change it.
func (s Sealed) Bytes() []byte { return s.b }

// Kind returns what the value says it is; 0 for the zero Sealed.
func (s Sealed) Kind() Kind {
	kind, err := parsePreamble(s.b)
	if err != nil {
		return 0
	}
	return kind
}

// appendPreamble appends what every header starts with.
func appendPreamble(b []byte, kind Kind) []byte {
	b = append(b, magic...)
	return append(b, format, suite, byte(kind), 0) // no flags are defined
}

func parsePreamble(b []byte) (Kind, error) {
	switch {
	case len(b) < preambleBytes:
		return 0, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	case string(b[:4]) != magic:
		return 0, fmt.Errorf("%w: no magic", ErrFormat)
	case b[4] != format:
		return 0, fmt.Errorf("%w: format %d", ErrFormat, b[4])
	case b[5] != suite:
		return 0, fmt.Errorf("%w: suite %d", ErrFormat, b[5])
	case b[7] != 0:
		return 0, fmt.Errorf("%w: flags %#x", ErrFormat, b[7])
	}
	return Kind(b[6]), nil
}

func appendPlace(b []byte, at KeyPlace) []byte {
	b = append(b, at.Resource[:]...)
	b = append(b, at.Document[:]...)
	b = append(b, at.KeyID[:]...)
	return binary.BigEndian.AppendUint32(b, at.Epoch)
}

// readPlace reads the place that follows the preamble; the caller has checked the length.
func readPlace(b []byte) KeyPlace {
	b = b[preambleBytes:]
	return KeyPlace{
		Resource: ResourceID(b[0:16]),
		Document: DocumentHandle(b[16:32]),
		KeyID:    KeyID(b[32:40]),
		Epoch:    binary.BigEndian.Uint32(b[40:44]),
	}
}
