package custody

import (
	"errors"
	"fmt"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Batch is an opened record: the ops First..Last as they were sealed.
type Batch struct {
	First, Last uint64
	Plaintext   []byte
	Begins      bool // the first record of the log: nothing was sealed before it
}

// Tail is where a log ends; OpenRecords and EmptyTail make one. The zero Tail is that
// of an empty log that begins with op 1.
type Tail struct {
	chain   envelope.Chain
	records uint64 // of the last segment; 0 in an empty log
	head    uint64
}

// EmptyTail is the end of a log without records whose first op is to follow head.
func EmptyTail(head uint64) Tail { return Tail{head: head} }

// OpenRecords opens a run of records, checking the chain through all of them. Tail
// is the end of the run. store.ErrCorrupt (wrapped) if anything does not open.
//
// What came before the run is not checked, unless the run begins at the first op:
// whoever reads a log in pieces lets each piece begin with the last record of the
// one before, and compares.
func (d *Document) OpenRecords(r store.Range) ([]Batch, Tail, error) {
	ids := make([]envelope.KeyID, len(r.Headers))
	for i, h := range r.Headers {
		ids[i] = h.Place().KeyID
	}
	d.catchUp(ids...)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.unusable(); err != nil {
		return nil, Tail{}, err
	}
	batches, tail, err := d.openRecords(r)
	if err != nil {
		return nil, Tail{}, fmt.Errorf("open records: %w: %w", store.ErrCorrupt, err)
	}
	return batches, tail, nil
}

func (d *Document) openRecords(r store.Range) ([]Batch, Tail, error) {
	var (
		batches = make([]Batch, 0, len(r.Records))
		tail    Tail
		reader  *envelope.SegmentReader
		headers = r.Headers
		place   envelope.SegmentPlace
	)
	for i, rec := range r.Records {
		first := rec.FirstSeq()
		if i > 0 && first != tail.head+1 {
			return nil, Tail{}, fmt.Errorf("ops %d to %d are missing", tail.head+1, first)
		}
		if len(headers) > 0 && headers[0].Place().FirstSeq <= first {
			next := headers[0].Place()
			var err error
			if reader, err = envelope.OpenSegment(d.key, d.at, headers[0]); err != nil {
				return nil, Tail{}, fmt.Errorf("segment at op %d: %w", next.FirstSeq, err)
			}
			if err := follows(next, place, tail, i == 0, first); err != nil {
				return nil, Tail{}, fmt.Errorf("segment at op %d: %w", next.FirstSeq, err)
			}
			place, headers = next, headers[1:]
		}
		if reader == nil {
			return nil, Tail{}, fmt.Errorf("op %d belongs to no segment", first)
		}
		plaintext, err := reader.Open(rec)
		if err != nil {
			return nil, Tail{}, fmt.Errorf("record at op %d: %w", first, err)
		}
		batches = append(batches, Batch{First: first, Last: rec.LastSeq(), Plaintext: plaintext, Begins: begins(place, rec)})
		tail = Tail{chain: reader.Chain(), records: reader.Records(), head: rec.LastSeq()}
	}
	if len(headers) > 0 {
		return nil, Tail{}, fmt.Errorf("segment at op %d has no records", headers[0].Place().FirstSeq)
	}
	return batches, tail, nil
}

// begins says whether rec, which was opened, is the first record of its log. The chain
// proves it: after any other record there is a link to name.
func begins(place envelope.SegmentPlace, rec envelope.Record) bool {
	return rec.Index() == 0 && place.Prev == envelope.Chain{} && place.PrevRecords == 0
}

// follows checks that a segment takes up the chain where the one before left it. At
// the start of a run there is nothing to compare with, except at the first op of all.
// A header does not prove that it is the last one that begins at or below the record;
// the record's own tag does that.
func follows(next, before envelope.SegmentPlace, tail Tail, starts bool, first uint64) error {
	if starts {
		if next.FirstSeq == 1 && (next.Prev != envelope.Chain{} || next.PrevRecords != 0) {
			return errors.New("the first segment names one before it")
		}
		return nil
	}
	switch {
	case next.FirstSeq != first:
		return errors.New("it does not begin where the one before ends")
	case next.Prev != tail.chain || next.PrevRecords != tail.records:
		return errors.New("it follows another segment than the one before")
	case next.Term < before.Term:
		return errors.New("its term is older than that of the one before")
	}
	return nil
}

// stored is the head that the store knows: 0 while there are no records.
func (t Tail) stored() uint64 {
	if t.records == 0 {
		return 0
	}
	return t.head
}

// Writer seals the records of one claim, in order, and starts new segments as
// their bounds demand. It is not safe for concurrent use.
type Writer struct {
	d    *Document
	term uint64
	tail Tail
	err  error // set when the writer can seal no more

	// segment is nil until the first record, and once the document ended; it is then
	// set under the document's lock.
	segment *envelope.Segment
}

// NewWriter returns a writer for a claim; tail is the end of the log at c.Head, which
// is 0 while the log is empty, wherever it is to begin. It takes the place of the
// document's writer before it, whose claim is fenced.
func (d *Document) NewWriter(c store.Claim, tail Tail) *Writer {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := &Writer{d: d, term: c.Term, tail: tail}
	if tail.stored() != c.Head {
		w.err = fmt.Errorf("the log ends at op %d, but was opened up to op %d: %w", c.Head, tail.head, store.ErrCorrupt)
	}
	if d.writer != nil {
		d.writer.segment = nil
	}
	d.writer = w
	return w
}

// Seal seals the ops first..last, which follow the last ones sealed, and returns
// the append that stores them. After a failed append the writer must be dropped.
func (w *Writer) Seal(first, last uint64, plaintext []byte) (store.Append, error) {
	d := w.d
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.unusable(); err != nil {
		return store.Append{}, err
	}
	switch {
	case w.err != nil:
		return store.Append{}, w.err
	case d.writer != w:
		return store.Append{}, store.ErrFenced
	case first != w.tail.head+1 || last < first:
		return store.Append{}, fmt.Errorf("seal: ops %d to %d do not follow op %d", first, last, w.tail.head)
	}
	var rec envelope.Record
	var err error = envelope.ErrSegmentFull
	if w.segment != nil {
		rec, err = w.segment.Seal(first, last, plaintext)
	}
	a := store.Append{Document: d.at.Document, Term: w.term, ExpectedHead: w.tail.stored()}
	if errors.Is(err, envelope.ErrSegmentFull) {
		rec, err = w.startSegment(first, last, plaintext)
		if err == nil {
			h := w.segment.Header()
			a.Header = &h
		}
	}
	if err != nil {
		return store.Append{}, fmt.Errorf("seal ops %d to %d: %w", first, last, err)
	}
	a.Record = rec
	w.tail = Tail{chain: w.segment.Chain(), records: w.segment.Records(), head: last}
	return a, nil
}

// startSegment seals the first record of a new segment.
func (w *Writer) startSegment(first, last uint64, plaintext []byte) (envelope.Record, error) {
	s, err := envelope.NewSegment(w.d.key, envelope.SegmentPlace{
		KeyPlace: w.d.at, Term: w.term, FirstSeq: first, Prev: w.tail.chain, PrevRecords: w.tail.records,
	})
	if err != nil {
		return envelope.Record{}, err
	}
	rec, err := s.Seal(first, last, plaintext)
	if err != nil {
		return envelope.Record{}, err
	}
	w.segment = s
	return rec, nil
}
