package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Bounds of a segment. Together they keep a segment key at 2^20 random nonces, far
// below the 2^32 of NIST SP 800-38D (8.3): two nonces are alike with probability
// 2^-57. Bytes and age bound what one segment key would reveal.
const (
	MaxSegmentRecords = 1 << 20
	MaxSegmentBytes   = 64 << 20 // of records, sealed
)

const (
	segmentHeaderBytes = preambleBytes + placeBytes + 8 + 8 + 32 + 8 + endBytes
	recordHeaderBytes  = 4 + 8 + 8 + 8 + 32
	minRecordBytes     = recordHeaderBytes + sealBytes
	maxRecordBytes     = minRecordBytes + MaxPlaintextBytes
)

// Header is a segment's sealed-format header: plaintext facts, bound into the
// segment's key, its chain and the associated data of each of its records.
type Header struct{ b []byte }

// ParseHeader takes a header as it was stored; it does not copy b. The error is
// ErrFormat, wrapped with the reason. Only OpenSegment can tell whether what the
// header says is true.
func ParseHeader(b []byte) (Header, error) {
	kind, err := parsePreamble(b)
	switch {
	case err != nil:
		return Header{}, err
	case kind != KindOps:
		return Header{}, fmt.Errorf("%w: kind %d is not that of a segment", ErrFormat, kind)
	case len(b) != segmentHeaderBytes:
		return Header{}, fmt.Errorf("%w: segment header of %d bytes", ErrFormat, len(b))
	}
	h := Header{b}
	if n := h.Place().PrevRecords; n > MaxSegmentRecords {
		return Header{}, fmt.Errorf("%w: a segment of %d records", ErrFormat, n)
	}
	return h, nil
}

// Bytes returns the encoded header; the caller must not change it.
func (h Header) Bytes() []byte { return h.b }

// Place returns where the header says it belongs; the zero place for the zero Header.
func (h Header) Place() SegmentPlace {
	if len(h.b) != segmentHeaderBytes {
		return SegmentPlace{}
	}
	b := h.b[preambleBytes+placeBytes:]
	return SegmentPlace{
		KeyPlace:    readPlace(h.b),
		Term:        binary.BigEndian.Uint64(b[0:8]),
		FirstSeq:    binary.BigEndian.Uint64(b[8:16]),
		Prev:        Chain(b[16:48]),
		PrevRecords: binary.BigEndian.Uint64(b[48:56]),
	}
}

func appendSegmentFacts(b []byte, at SegmentPlace) []byte {
	b = appendPlace(appendPreamble(b, KindOps), at.KeyPlace)
	b = binary.BigEndian.AppendUint64(b, at.Term)
	b = binary.BigEndian.AppendUint64(b, at.FirstSeq)
	b = append(b, at.Prev[:]...)
	return binary.BigEndian.AppendUint64(b, at.PrevRecords)
}

// Record is one sealed batch of ops within a segment.
type Record struct{ b []byte }

// ParseRecord takes a record as it was stored; it does not copy b. The error is
// ErrFormat, wrapped with the reason.
func ParseRecord(b []byte) (Record, error) {
	if len(b) < minRecordBytes || len(b) > maxRecordBytes {
		return Record{}, fmt.Errorf("%w: record of %d bytes", ErrFormat, len(b))
	}
	r := Record{b}
	switch {
	case uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)):
		return Record{}, fmt.Errorf("%w: record of %d bytes says it has %d", ErrFormat, len(b), binary.BigEndian.Uint32(b))
	case r.Index() >= MaxSegmentRecords:
		return Record{}, fmt.Errorf("%w: record index %d", ErrFormat, r.Index())
	case r.FirstSeq() > r.LastSeq():
		return Record{}, fmt.Errorf("%w: record of ops %d to %d", ErrFormat, r.FirstSeq(), r.LastSeq())
	}
	return r, nil
}

// Bytes returns the encoded record; the caller must not change it.
func (r Record) Bytes() []byte { return r.b }

// Index is the record's place in its segment, from 0.
func (r Record) Index() uint64 { return r.uint64(4) }

// FirstSeq and LastSeq are the sequence numbers of its first and last op.
func (r Record) FirstSeq() uint64 { return r.uint64(12) }

// LastSeq is the sequence number of its last op.
func (r Record) LastSeq() uint64 { return r.uint64(20) }

func (r Record) prev() Chain { return Chain(r.b[28:recordHeaderBytes]) }

// uint64 reads a field; 0 for the zero Record.
func (r Record) uint64(offset int) uint64 {
	if len(r.b) < minRecordBytes {
		return 0
	}
	return binary.BigEndian.Uint64(r.b[offset:])
}

// Link is the chain value that the record makes. Only opening the record proves that it
// is one of its document.
func (r Record) Link() Chain {
	if len(r.b) < minRecordBytes {
		return Chain{}
	}
	return r.link()
}

// link is the chain value that the record makes. The record's header has the link
// before, so one hash of header and tag continues the chain. A record and a segment
// header cannot be mistaken for each other here: the one starts with a length below
// 2^25, the other with the magic.
func (r Record) link() Chain {
	var b [recordHeaderBytes + tagBytes]byte
	copy(b[:], r.b[:recordHeaderBytes])
	copy(b[recordHeaderBytes:], r.b[len(r.b)-tagBytes:])
	return sha256.Sum256(b[:])
}

// Follows says whether r carries the link of what comes before it. It needs no key, and
// proves nothing of r: whoever writes a store can make links. It finds what is missing or
// out of order.
func (r Record) Follows(before Chain) bool { return len(r.b) >= minRecordBytes && r.prev() == before }

// Link is the chain value of a segment without records.
func (h Header) Link() Chain { return sha256.Sum256(h.b) }
