package envelope

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

// maxSegmentAge bounds how long one segment key is used.
const maxSegmentAge = 24 * time.Hour

// Segment seals the records of one segment, in order. It is not safe for
// concurrent use: a document has one writer. Once the document key is wiped, it
// seals no more.
type Segment struct {
	key     DocumentKey
	header  Header
	aead    cipher.AEAD
	data    recordData
	started time.Time

	records uint64
	bytes   int
	nextSeq uint64
	chain   Chain
}

// NewSegment starts a segment under a fresh random segment id.
func NewSegment(k DocumentKey, at SegmentPlace) (*Segment, error) {
	if at.PrevRecords > MaxSegmentRecords {
		return nil, fmt.Errorf("envelope: the segment before has %d records", at.PrevRecords)
	}
	var header []byte
	var aead cipher.AEAD
	err := k.use(func(b []byte) (err error) {
		header, aead, err = newHeader(b[:keyBytes], appendSegmentFacts(nil, at))
		return err
	})
	if err != nil {
		return nil, err
	}
	h := Header{header}
	return &Segment{
		key:     k,
		header:  h,
		aead:    aead,
		data:    newRecordData(h),
		started: time.Now(),
		nextSeq: at.FirstSeq,
		chain:   h.Link(),
	}, nil
}

// Header returns the segment's header, to be stored with its first record.
func (s *Segment) Header() Header { return s.header }

// Seal seals the ops first..last as the segment's next record; first is the place's
// FirstSeq, later the last op sealed plus one. ErrSegmentFull means that nothing was
// sealed and a new segment must be started; no error leaves a trace in the segment.
func (s *Segment) Seal(first, last uint64, plaintext []byte) (Record, error) {
	size := minRecordBytes + len(plaintext)
	switch {
	case len(plaintext) > MaxPlaintextBytes:
		return Record{}, ErrTooLarge
	case first != s.nextSeq || last < first || last == math.MaxUint64:
		return Record{}, fmt.Errorf("envelope: ops %d to %d do not follow op %d", first, last, s.nextSeq-1)
	case !s.key.usable():
		s.aead = nil
		return Record{}, ErrWiped
	case s.records == MaxSegmentRecords, s.bytes+size > MaxSegmentBytes, time.Since(s.started) >= maxSegmentAge:
		return Record{}, ErrSegmentFull
	}
	b := make([]byte, recordHeaderBytes, size)
	binary.BigEndian.PutUint32(b, uint32(size)) // below maxRecordBytes
	binary.BigEndian.PutUint64(b[4:], s.records)
	binary.BigEndian.PutUint64(b[12:], first)
	binary.BigEndian.PutUint64(b[20:], last)
	copy(b[28:], s.chain[:])
	rec := Record{s.aead.Seal(b, nil, plaintext, s.data.of(b))}

	s.records++
	s.bytes += size
	s.nextSeq = last + 1
	s.chain = rec.link()
	return rec, nil
}

// Chain is the last link: of the last record, or of the header when there is none.
func (s *Segment) Chain() Chain { return s.chain }

// Records is how many records the segment has.
func (s *Segment) Records() uint64 { return s.records }

// SegmentReader opens the records of one segment. It is not safe for concurrent
// use. Once the document key is wiped, it opens no more.
type SegmentReader struct {
	key   DocumentKey
	first uint64 // sequence number of the segment's first op
	aead  cipher.AEAD
	data  recordData

	started bool // a record was opened, and the next one must follow it
	records uint64
	nextSeq uint64
	chain   Chain
}

// OpenSegment checks the header against its place and key commitment, ErrOpen if
// it is not of this document and key; the place's epoch need not be the same, and its key may be one before. All
// that h.Place() returns is then what the segment's writer wrote.
func OpenSegment(k DocumentKey, at KeyPlace, h Header) (*SegmentReader, error) {
	if _, err := ParseHeader(h.b); err != nil {
		return nil, ErrOpen
	}
	place := h.Place()
	var aead cipher.AEAD
	err := k.useAt(at, place.KeyPlace, func(key []byte) (err error) {
		aead, err = openHeader(key, h.b)
		return err
	})
	if err != nil {
		return nil, ErrOpen
	}
	return &SegmentReader{
		key:   k,
		first: place.FirstSeq,
		aead:  aead,
		data:  newRecordData(h),
		chain: h.Link(),
	}, nil
}

// Open opens rec. The first record opened may be any of the segment; each later
// one must be its successor, or ErrOpen. plaintext is the caller's to keep. After
// an error the reader is where it was.
func (r *SegmentReader) Open(rec Record) (plaintext []byte, err error) {
	if _, err := ParseRecord(rec.b); err != nil || !r.follows(rec) {
		return nil, ErrOpen
	}
	if !r.key.usable() {
		r.aead = nil
		return nil, ErrOpen
	}
	header := rec.b[:recordHeaderBytes]
	plaintext, err = r.aead.Open(nil, nil, rec.b[recordHeaderBytes:], r.data.of(header))
	if err != nil {
		return nil, ErrOpen
	}
	r.started = true
	r.records = rec.Index() + 1
	r.nextSeq = rec.LastSeq() + 1
	r.chain = rec.link()
	return plaintext, nil
}

// follows says whether rec may be opened next. A record in the middle of a segment
// that is opened first brings its own link: the tag proves that the writer put it
// there, and the caller who knows an earlier part of the chain compares.
func (r *SegmentReader) follows(rec Record) bool {
	if r.started || rec.Index() == 0 {
		next := r.first
		if r.started {
			next = r.nextSeq
		}
		return rec.Index() == r.records && rec.FirstSeq() == next && rec.prev() == r.chain
	}
	return rec.FirstSeq() > r.first
}

// Chain is the link of the record opened last; Records is that record's index plus one.
func (r *SegmentReader) Chain() Chain { return r.chain }

// Records is how many records the segment is known to have.
func (r *SegmentReader) Records() uint64 { return r.records }

// recordData makes the associated data of a segment's records, in place: the
// length-prefixed segment header, then the length-prefixed record header, which has
// index, sequence numbers and the link before.
type recordData struct {
	b     []byte
	fixed int // how much of b is the same for all records
}

func newRecordData(h Header) recordData {
	b := binding(h.b, nil)
	return recordData{b: slices.Grow(b, 4+recordHeaderBytes), fixed: len(b)}
}

func (d *recordData) of(recordHeader []byte) []byte {
	d.b = appendField(d.b[:d.fixed], recordHeader)
	return d.b
}
