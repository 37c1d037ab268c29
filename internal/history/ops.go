package history

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// readBytes bounds one read of the log.
const readBytes = 1 << 20

// AppendOp appends op to the plaintext of a log record: [uint32 big-endian length][op JSON].
func AppendOp(b []byte, op sequencer.SequencedOp) []byte {
	at := len(b)
	b = op.AppendJSON(append(b, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4)) // an op is below a socket frame's bound
	return b
}

// SplitOps returns the JSON of each op of a record's plaintext; the slices share b.
func SplitOps(b []byte) ([]json.RawMessage, error) {
	var ops []json.RawMessage
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, errors.New("history: record ends inside a length")
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("history: op of %d bytes with %d left in the record", n, len(b))
		}
		ops = append(ops, json.RawMessage(b[:n:n]))
		b = b[n:]
	}
	return ops, nil
}

// Ops returns the ops with from < seq < to in order, as one JSON array, at most
// limit of them and about maxBytes, but never none when there is one. *TrimmedError
// (wrapped) if the first one asked for is no longer kept.
func (d *Document) Ops(ctx context.Context, from, to sequencer.Seq, limit, maxBytes int) ([]byte, error) {
	if to <= 0 || from >= to {
		return []byte("[]"), nil
	}
	out := []byte{'['}
	count := 0
	err := d.eachOp(ctx, max(from, 0)+1, to-1, min(maxBytes, readBytes), func(_ sequencer.Seq, op json.RawMessage) bool {
		if count == limit || count > 0 && len(out)+len(op) > maxBytes {
			return false
		}
		if count > 0 {
			out = append(out, ',')
		}
		out = append(out, op...)
		count++
		return true
	})
	if err != nil {
		return nil, err
	}
	return append(out, ']'), nil
}

// SetTrimmed says that the log is, or is going to be, whole only from the op after to
// on: earlier ones are not read any more once it returns.
func (d *Document) SetTrimmed(to sequencer.Seq) {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.trimmed = to
}

// readPage reads the records that hold first..last, about pageBytes of them.
func (d *Document) readPage(ctx context.Context, first, last sequencer.Seq, pageBytes int) (store.Range, error) {
	d.reading.RLock()
	defer d.reading.RUnlock()
	if first <= d.trimmed {
		return store.Range{}, &TrimmedError{d.trimmed}
	}
	return d.st.Read(ctx, d.keys.Handle(), uint64(first), uint64(last), max(pageBytes, 1)) // both are above 0
}

// eachOp calls visit with the ops first..last in order, until it returns false or
// the log ends. It reads about pageBytes at a time.
func (d *Document) eachOp(ctx context.Context, first, last sequencer.Seq, pageBytes int, visit func(sequencer.Seq, json.RawMessage) bool) error {
	for next := first; next <= last; {
		run, err := d.readPage(ctx, next, last, pageBytes)
		if err != nil {
			return fmt.Errorf("read ops from %d: %w", next, err)
		}
		if len(run.Records) == 0 {
			return nil
		}
		batches, _, err := d.keys.OpenRecords(run)
		if err != nil {
			return fmt.Errorf("open ops from %d: %w", next, err)
		}
		for _, b := range batches {
			ops, err := SplitOps(b.Plaintext)
			if err != nil {
				return fmt.Errorf("%w: ops %d to %d: %w", store.ErrCorrupt, b.First, b.Last, err)
			}
			// sequence numbers are far below 2^63
			seq := sequencer.Seq(b.First)
			if seq > next && b.Begins { // the ops before were never here
				next = seq
			}
			if seq > next || len(ops) == 0 || seq+sequencer.Seq(len(ops))-1 != sequencer.Seq(b.Last) {
				return fmt.Errorf("%w: a record of %d ops claims %d to %d, wanted %d", store.ErrCorrupt, len(ops), b.First, b.Last, next)
			}
			for i, op := range ops {
				seq := sequencer.Seq(b.First) + sequencer.Seq(i)
				if seq < next {
					continue
				}
				if seq > last || !visit(seq, op) {
					return nil
				}
				next = seq + 1
			}
		}
	}
	return nil
}
