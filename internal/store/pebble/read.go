package pebble

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func corrupt(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, what, err)
}

// readRange collects the records that hold from..to.
func readRange(r pebble.Reader, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (store.Range, error) {
	out, err := readHead(r, doc)
	if err != nil {
		return out, err
	}
	from, to = max(from, 1), min(to, out.Head)
	if from > to {
		return out, nil
	}
	it, err := r.NewIter(&pebble.IterOptions{
		LowerBound: seqKey(doc, partRecord, from),
		UpperBound: documentKey(doc, partRecord+1),
	})
	if err != nil {
		return out, fmt.Errorf("pebble: read a log: %w", err)
	}
	defer it.Close()
	next, size := from, 0
	for it.First(); it.Valid() && next <= to && (maxBytes <= 0 || size < maxBytes || size == 0); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return out, fmt.Errorf("pebble: read a log: %w", err)
		}
		rec, err := envelope.ParseRecord(bytes.Clone(value))
		if err != nil {
			return out, corrupt("record", err)
		}
		first, last := rec.FirstSeq(), rec.LastSeq()
		if first > next || len(out.Records) > 0 && first != next || last < next || binary.BigEndian.Uint64(it.Key()[18:]) != last {
			return out, fmt.Errorf("%w: a record holds %d..%d where %d should be", store.ErrCorrupt, first, last, next)
		}
		out.Records = append(out.Records, rec)
		next, size = last+1, size+len(value)
	}
	if err := it.Error(); err != nil {
		return out, fmt.Errorf("pebble: read a log: %w", err)
	}
	if len(out.Records) == 0 || next <= to && (maxBytes <= 0 || size < maxBytes) {
		return out, fmt.Errorf("%w: the record of %d is missing; the log ends at %d", store.ErrCorrupt, next, out.Head)
	}
	return out, readHeaders(r, doc, &out)
}

func readHead(r pebble.Reader, doc envelope.DocumentHandle) (store.Range, error) {
	raw, closer, err := r.Get(documentKey(doc, partState))
	if err == pebble.ErrNotFound {
		return store.Range{}, nil
	}
	if err != nil {
		return store.Range{}, fmt.Errorf("pebble: read a log: %w", err)
	}
	defer closer.Close()
	if len(raw) != 16 {
		return store.Range{}, fmt.Errorf("%w: document state of %d bytes", store.ErrCorrupt, len(raw))
	}
	return store.Range{Head: binary.BigEndian.Uint64(raw[8:])}, nil
}

// readHeaders adds the headers of the segments that the records belong to: the
// last one at or before the first record, and all up to the last.
func readHeaders(r pebble.Reader, doc envelope.DocumentHandle, out *store.Range) error {
	first, last := out.Records[0].FirstSeq(), out.Records[len(out.Records)-1].FirstSeq()
	it, err := r.NewIter(&pebble.IterOptions{
		LowerBound: documentKey(doc, partHeader),
		UpperBound: seqKey(doc, partHeader, last+1),
	})
	if err != nil {
		return fmt.Errorf("pebble: read segment headers: %w", err)
	}
	defer it.Close()
	for ok := it.SeekLT(seqKey(doc, partHeader, first+1)); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("pebble: read segment headers: %w", err)
		}
		h, err := envelope.ParseHeader(bytes.Clone(value))
		if err != nil {
			return corrupt("segment header", err)
		}
		out.Headers = append(out.Headers, h)
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("pebble: read segment headers: %w", err)
	}
	if len(out.Headers) == 0 {
		return fmt.Errorf("%w: no segment header at or before %d", store.ErrCorrupt, first)
	}
	return nil
}
