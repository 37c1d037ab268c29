package storetest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Doc is a document whose log a test writes, with real sealed values.
type Doc struct {
	t       testing.TB
	Handle  envelope.DocumentHandle
	key     envelope.DocumentKey
	place   envelope.KeyPlace
	segment *envelope.Segment
	sent    bool // the segment's header went out
}

// NewDoc returns a document that no engine knows.
func NewDoc(t testing.TB) *Doc {
	var h envelope.DocumentHandle
	rand.Read(h[:])
	return NewDocAt(t, h)
}

// NewDocAt is NewDoc with a chosen handle.
func NewDocAt(t testing.TB, h envelope.DocumentHandle) *Doc {
	d := &Doc{t: t, Handle: h, key: envelope.NewDocumentKey()}
	d.place = envelope.KeyPlace{Document: h, Epoch: 1}
	rand.Read(d.place.Resource[:])
	return d
}

// Append seals text as the ops first..last, the next of c's log.
func (d *Doc) Append(c store.Claim, head, last uint64, text string) store.Append {
	d.t.Helper()
	if d.segment == nil {
		d.NewSegment(c.Term, head+1)
	}
	a := store.Append{Document: d.Handle, Term: c.Term, ExpectedHead: head}
	if !d.sent {
		h := d.segment.Header()
		a.Header, d.sent = &h, true
	}
	rec, err := d.segment.Seal(head+1, last, []byte(text))
	if err != nil {
		d.t.Fatal(err)
	}
	a.Record = rec
	return a
}

// fresh is the same document for a writer that begins a segment of its own.
func (d *Doc) fresh() *Doc { return &Doc{t: d.t, Handle: d.Handle, key: d.key, place: d.place} }

// NewSegment starts a segment with the op first.
func (d *Doc) NewSegment(term, first uint64) {
	d.t.Helper()
	at := envelope.SegmentPlace{KeyPlace: d.place, Term: term, FirstSeq: first}
	if d.segment != nil {
		at.Prev, at.PrevRecords = d.segment.Chain(), d.segment.Records()
	}
	s, err := envelope.NewSegment(d.key, at)
	if err != nil {
		d.t.Fatal(err)
	}
	d.segment, d.sent = s, false
}

// Texts opens what was read, each record as "first-last text".
func (d *Doc) Texts(r store.Range) []string {
	d.t.Helper()
	var texts []string
	var reader *envelope.SegmentReader
	next := 0 // header to open next
	for _, rec := range r.Records {
		for next < len(r.Headers) && r.Headers[next].Place().FirstSeq <= rec.FirstSeq() {
			var err error
			if reader, err = envelope.OpenSegment(d.key, d.place, r.Headers[next]); err != nil {
				d.t.Fatalf("open segment %d: %v", next, err)
			}
			next++
		}
		if reader == nil {
			d.t.Fatalf("no header for record %d..%d", rec.FirstSeq(), rec.LastSeq())
		}
		text, err := reader.Open(rec)
		if err != nil {
			d.t.Fatalf("open record %d..%d: %v", rec.FirstSeq(), rec.LastSeq(), err)
		}
		texts = append(texts, fmt.Sprintf("%d-%d %s", rec.FirstSeq(), rec.LastSeq(), text))
	}
	return texts
}

// Object seals text as an object of the document.
func (d *Doc) Object(id, text string) store.Object {
	d.t.Helper()
	name := d.key.Name(envelope.KindObject, id)
	s, err := d.key.SealObject(d.place, envelope.KindObject, name, []byte(text))
	if err != nil {
		d.t.Fatal(err)
	}
	return store.Object{Name: name, Value: s}
}

// rows seals rows under one service key.
type rows struct {
	t   testing.TB
	key envelope.ServiceKey
}

// numbered returns names in the order of n.
func numbered(n uint64) (name envelope.Name) {
	binary.BigEndian.PutUint64(name[:], n)
	return name
}

func (r rows) put(k store.RowKey, text string, expect store.Expect) store.RowWrite {
	r.t.Helper()
	s, err := r.key.SealRow(string(k.Table), k.Partition, k.Name, []byte(text))
	if err != nil {
		r.t.Fatal(err)
	}
	return store.RowWrite{RowKey: k, Value: &s, Expect: expect}
}

func (r rows) text(row store.Row) string {
	r.t.Helper()
	text, err := r.key.OpenRow(string(row.Table), row.Partition, row.Name, row.Value)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}
