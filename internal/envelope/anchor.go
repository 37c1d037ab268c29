package envelope

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Anchor says how far a document's log had come: it is kept elsewhere than the log, so
// that a log that was put back is found out.
type Anchor struct {
	Term    uint64 // of the writer
	Seq     uint64 // of the last op
	Chain   Chain  // the link of the record that ends with it
	Counter uint64 // grows with each anchor of a process
}

// AnchorBytes is the size of a sealed anchor:
//
//	preamble 8, kind 9 | place 44 | term 8 | seq 8 | chain 32 | counter 8 | MAC 32
//
// The MAC is HMAC-SHA-256 of all before it, under a key derived from the document key. An
// anchor is no secret: all of it is plaintext in the log's own headers.
const AnchorBytes = anchorFactsBytes + sha256.Size

const anchorFactsBytes = preambleBytes + placeBytes + 8 + 8 + 32 + 8

// SealAnchor authenticates an anchor.
func (k DocumentKey) SealAnchor(at KeyPlace, a Anchor) ([]byte, error) {
	b := appendPlace(appendPreamble(make([]byte, 0, AnchorBytes), kindAnchor), at)
	b = binary.BigEndian.AppendUint64(b, a.Term)
	b = binary.BigEndian.AppendUint64(b, a.Seq)
	b = append(b, a.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, a.Counter)
	mac, err := k.anchorMAC(at, b)
	if err != nil {
		return nil, fmt.Errorf("seal anchor: %w", err)
	}
	return append(b, mac...), nil
}

// OpenAnchor takes what SealAnchor made for the same document and key, or returns
// ErrOpen; the place's epoch need not be the same.
func (k DocumentKey) OpenAnchor(at KeyPlace, b []byte) (Anchor, error) {
	kind, err := parsePreamble(b)
	if err != nil || kind != kindAnchor || len(b) != AnchorBytes {
		return Anchor{}, ErrOpen
	}
	facts, stored := b[:anchorFactsBytes], b[anchorFactsBytes:]
	mac, err := k.anchorMAC(at, facts)
	if err != nil || !hmac.Equal(mac, stored) {
		return Anchor{}, ErrOpen
	}
	f := facts[preambleBytes+placeBytes:]
	return Anchor{
		Term:    binary.BigEndian.Uint64(f[0:8]),
		Seq:     binary.BigEndian.Uint64(f[8:16]),
		Chain:   Chain(f[16:48]),
		Counter: binary.BigEndian.Uint64(f[48:56]),
	}, nil
}

func (k DocumentKey) anchorMAC(at KeyPlace, b []byte) (mac []byte, err error) {
	err = k.useAt(at, readPlace(b), func(document []byte) error {
		key, err := hkdf.Key(sha256.New, document, nil, info(labelAnchor, nil), sha256.Size)
		if err != nil {
			return err
		}
		defer clear(key)
		h := hmac.New(sha256.New, key)
		h.Write(b)
		mac = h.Sum(nil)
		return nil
	})
	return mac, err
}
