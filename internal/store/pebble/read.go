package pebble

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// span is what a reader asks for: the ops from..to, up to so many bytes if > 0.
type span struct {
	from, to uint64
	maxBytes int
}

func (s span) full(size int) bool { return s.maxBytes > 0 && size >= s.maxBytes }

// readRange collects the records that hold want and the headers of their segments.
func readRange(r pebble.Reader, doc envelope.DocumentHandle, want span) (store.Range, error) {
	s, err := readState(r, doc)
	if err != nil {
		return store.Range{}, err
	}
	want.from, want.to = max(want.from, 1), min(want.to, s.head)
	if want.from > want.to {
		return store.Range{Head: s.head}, nil
	}
	records, err := readRecords(r, doc, want)
	if err != nil || len(records) == 0 {
		return store.Range{Head: s.head}, err
	}
	headers, err := readHeaders(r, doc, records[0].FirstSeq(), records[len(records)-1].FirstSeq())
	if err != nil {
		return store.Range{}, err
	}
	return store.Range{Headers: headers, Records: records, Head: s.head}, nil
}

// readRecords returns at least one record, unless all that is wanted lies before the
// log's beginning. want is not empty and not past the log's end.
func readRecords(r pebble.Reader, doc envelope.DocumentHandle, want span) ([]envelope.Record, error) {
	it, err := r.NewIter(&pebble.IterOptions{
		LowerBound: seqKey(doc, partRecord, want.from),
		UpperBound: documentKey(doc, partRecord+1),
	})
	if err != nil {
		return nil, fail("read a log", err)
	}
	defer it.Close()
	var records []envelope.Record
	next, size := want.from, 0
	for it.First(); it.Valid() && next <= want.to && !want.full(size); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, fail("read a log", err)
		}
		rec, err := envelope.ParseRecord(bytes.Clone(value))
		if err != nil {
			return nil, corrupt("record", err)
		}
		first, last := rec.FirstSeq(), rec.LastSeq()
		if len(records) == 0 && first > next && begins(r, doc, rec) {
			if next = first; next > want.to {
				return nil, nil
			}
		}
		// Only the first record may begin before the op that is asked for.
		if first > next || len(records) > 0 && first != next || last < next || seqOf(it) != last {
			return nil, fmt.Errorf("%w: a record holds %d..%d where %d should be", store.ErrCorrupt, first, last, next)
		}
		records = append(records, rec)
		next, size = last+1, size+len(value)
	}
	if err := it.Error(); err != nil {
		return nil, fail("read a log", err)
	}
	if next <= want.to && !want.full(size) {
		return nil, fmt.Errorf("%w: the record of %d is missing", store.ErrCorrupt, next)
	}
	return records, nil
}

// begins says whether the log begins with rec.
func begins(r pebble.Reader, doc envelope.DocumentHandle, rec envelope.Record) bool {
	raw, err := get(r, seqKey(doc, partHeader, rec.FirstSeq()))
	if err != nil {
		return false // it says nothing, and so nothing of a beginning
	}
	h, err := envelope.ParseHeader(raw)
	return err == nil && store.Begins(h, rec)
}

// readHeaders returns the headers of the segments that the records which begin at
// first..last belong to: the last one at or before first, and all up to last.
func readHeaders(r pebble.Reader, doc envelope.DocumentHandle, first, last uint64) ([]envelope.Header, error) {
	it, err := r.NewIter(&pebble.IterOptions{
		LowerBound: documentKey(doc, partHeader),
		UpperBound: seqKey(doc, partHeader, last+1),
	})
	if err != nil {
		return nil, fail("read segment headers", err)
	}
	defer it.Close()
	var headers []envelope.Header
	for ok := it.SeekLT(seqKey(doc, partHeader, first+1)); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, fail("read segment headers", err)
		}
		h, err := envelope.ParseHeader(bytes.Clone(value))
		if err != nil {
			return nil, corrupt("segment header", err)
		}
		if starts := h.Place().FirstSeq; starts != seqOf(it) {
			return nil, fmt.Errorf("%w: the segment header of %d is where that of %d should be", store.ErrCorrupt, starts, seqOf(it))
		}
		headers = append(headers, h)
	}
	if err := it.Error(); err != nil {
		return nil, fail("read segment headers", err)
	}
	if len(headers) == 0 {
		return nil, fmt.Errorf("%w: no segment header at or before %d", store.ErrCorrupt, first)
	}
	return headers, nil
}

// seqOf is the number in the key of a header or record, 0 if the key has another
// length: no op has that number.
func seqOf(it *pebble.Iterator) uint64 {
	k := it.Key()
	if len(k) != seqOffset+8 {
		return 0
	}
	return binary.BigEndian.Uint64(k[seqOffset:])
}
