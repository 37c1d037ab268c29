package custody

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// sealedLog is a log as an engine would keep it.
type sealedLog struct {
	headers []envelope.Header
	records []envelope.Record
	head    uint64
}

func (l *sealedLog) add(t *testing.T, w *Writer, n uint64) {
	t.Helper()
	a, err := w.Seal(l.head+1, l.head+n, fmt.Appendf(nil, "ops %d to %d", l.head+1, l.head+n))
	if err != nil {
		t.Fatalf("seal: %v", err)
	}
	if a.ExpectedHead != l.head {
		t.Errorf("expected head %d, want %d", a.ExpectedHead, l.head)
	}
	if a.Header != nil {
		l.headers = append(l.headers, *a.Header)
	}
	l.records = append(l.records, a.Record)
	l.head += n
}

func (l *sealedLog) all() store.Range {
	return store.Range{Headers: l.headers, Records: l.records, Head: l.head}
}

// tailOf opens the whole log.
func tailOf(t *testing.T, d *Document, l *sealedLog) Tail {
	t.Helper()
	batches, tail, err := d.OpenRecords(l.all())
	if err != nil {
		t.Fatalf("open records: %v", err)
	}
	for i, b := range batches {
		if want := fmt.Sprintf("ops %d to %d", b.First, b.Last); string(b.Plaintext) != want {
			t.Errorf("record %d = %q, want %q", i, b.Plaintext, want)
		}
	}
	return tail
}

// threeClaims is a log of three writers, with two or three records each.
func threeClaims(t *testing.T, d *Document) *sealedLog {
	t.Helper()
	l := &sealedLog{}
	for term := range uint64(3) {
		w := d.NewWriter(store.Claim{Term: term + 1, Head: l.head}, tailOf(t, d, l))
		for n := range 2 + term%2 {
			l.add(t, w, n+1)
		}
	}
	return l
}

func TestLogIsReadAsWritten(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	d := f.document(r)
	l := threeClaims(t, d)
	if len(l.headers) != 3 {
		t.Errorf("%d segments, want one per claim", len(l.headers))
	}
	tail := tailOf(t, d, l)
	if tail.head != l.head {
		t.Errorf("tail at %d, want %d", tail.head, l.head)
	}
	// From the middle of a segment, and from another process.
	f.restart()
	again, err := f.OpenDocument(t.Context(), r, d.Handle())
	if err != nil {
		t.Fatal(err)
	}
	_, half, err := again.OpenRecords(store.Range{Headers: l.headers[1:], Records: l.records[3:], Head: l.head})
	if err != nil || half != tail {
		t.Errorf("second half: %v; same tail: %v", err, half == tail)
	}
}

// A log may begin after any op; that a record is its first, the chain proves.
func TestLogBeginsAfterAnyOp(t *testing.T) {
	f := newFixture(t)
	d := f.document(f.resource(pinned))
	w := d.NewWriter(store.Claim{Term: 1}, EmptyTail(41))
	if _, err := w.Seal(1, 2, nil); err == nil {
		t.Error("op 1 was sealed where op 42 belongs")
	}
	l := &sealedLog{}
	for i, head := range []uint64{41, 43, 44} {
		if i == 2 { // a second writer
			w = d.NewWriter(store.Claim{Term: 2, Head: head}, tailOf(t, d, l))
		}
		a, err := w.Seal(head+1, max(head+1, 43), fmt.Appendf(nil, "ops %d to %d", head+1, max(head+1, 43)))
		if err != nil {
			t.Fatalf("seal after %d: %v", head, err)
		}
		if err := a.Check(); err != nil || a.ExpectedHead != l.head {
			t.Errorf("append after %d expects %d (%v), want %d", head, a.ExpectedHead, err, l.head)
		}
		if a.Header != nil {
			l.headers = append(l.headers, *a.Header)
		}
		l.records, l.head = append(l.records, a.Record), a.Record.LastSeq()
	}
	if len(l.headers) != 2 {
		t.Fatalf("%d segments, want one for each writer", len(l.headers))
	}
	for from, headers := range [][]envelope.Header{l.headers, l.headers, l.headers[1:]} {
		batches, _, err := d.OpenRecords(store.Range{Headers: headers, Records: l.records[from:], Head: l.head})
		if err != nil {
			t.Fatalf("from record %d: %v", from, err)
		}
		for i, b := range batches {
			if want := from+i == 0; b.Begins != want {
				t.Errorf("record %d, read from %d: begins %t, want %t", from+i, from, b.Begins, want)
			}
		}
	}
	for name, w := range map[string]*Writer{
		"EmptyLogClaimedAtItsBase": d.NewWriter(store.Claim{Term: 3, Head: 41}, EmptyTail(41)),
		"LogTakenForEmpty":         d.NewWriter(store.Claim{Term: 4, Head: 45}, EmptyTail(41)),
	} {
		if _, err := w.Seal(42, 42, nil); err == nil {
			t.Errorf("%s: it sealed", name)
		}
	}
}

func TestDamagedLogsAreRefused(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	d, other := f.document(r), f.document(r)
	l, foreign := threeClaims(t, d), threeClaims(t, other)
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 0x10
		return b
	}
	damaged := map[string]func(r *store.Range){
		"RecordMissing":          func(r *store.Range) { r.Records = slices.Delete(r.Records, 1, 2) },
		"RecordTwice":            func(r *store.Range) { r.Records = slices.Insert(r.Records, 1, r.Records[1]) },
		"RecordsSwapped":         func(r *store.Range) { r.Records[0], r.Records[1] = r.Records[1], r.Records[0] },
		"RecordOfOtherDocument":  func(r *store.Range) { r.Records[1] = foreign.records[1] },
		"SegmentOfOtherDocument": func(r *store.Range) { r.Headers[0], r.Records = foreign.headers[0], foreign.records },
		"WholeOtherLog":          func(r *store.Range) { *r = foreign.all() },
		"SegmentCutShort":        func(r *store.Range) { r.Records = slices.Delete(r.Records, 2, len(r.Records)) },
		"HeaderMissing":          func(r *store.Range) { r.Headers = slices.Delete(r.Headers, 1, 2) },
		"FirstHeaderMissing":     func(r *store.Range) { r.Headers = r.Headers[1:] },
		"HeaderTwice":            func(r *store.Range) { r.Headers = slices.Insert(r.Headers, 1, r.Headers[1]) },
		"HeadersSwapped":         func(r *store.Range) { r.Headers[1], r.Headers[2] = r.Headers[2], r.Headers[1] },
		"SegmentMissing": func(r *store.Range) {
			r.Headers, r.Records = slices.Delete(r.Headers, 1, 2), slices.Delete(r.Records, 2, 5)
		},
	}
	for name, damage := range damaged {
		t.Run(name, func(t *testing.T) {
			r := store.Range{Headers: slices.Clone(l.headers), Records: slices.Clone(l.records), Head: l.head}
			damage(&r)
			if _, _, err := d.OpenRecords(r); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
	for i := range l.records {
		for at := range l.records[i].Bytes() {
			rec, err := envelope.ParseRecord(flip(l.records[i].Bytes(), at))
			if err != nil {
				continue
			}
			r := store.Range{Headers: l.headers, Records: slices.Clone(l.records), Head: l.head}
			r.Records[i] = rec
			if _, _, err := d.OpenRecords(r); !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("record %d with byte %d flipped: %v, want ErrCorrupt", i, at, err)
			}
		}
	}
	for i := range l.headers {
		for at := range l.headers[i].Bytes() {
			h, err := envelope.ParseHeader(flip(l.headers[i].Bytes(), at))
			if err != nil {
				continue
			}
			r := store.Range{Headers: slices.Clone(l.headers), Records: l.records, Head: l.head}
			r.Headers[i] = h
			if _, _, err := d.OpenRecords(r); !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("header %d with byte %d flipped: %v, want ErrCorrupt", i, at, err)
			}
		}
	}
}

// A writer that did not read the log to its end cannot continue its chain. Two heads
// of one log do not fit together either.
func TestSplicedHistoriesAreRefused(t *testing.T) {
	f := newFixture(t)
	d := f.document(f.resource(pinned))
	l := &sealedLog{}
	w := d.NewWriter(store.Claim{Term: 1}, Tail{})
	l.add(t, w, 1)
	before := tailOf(t, d, l)
	l.add(t, w, 1)

	behind := d.NewWriter(store.Claim{Term: 2, Head: l.head}, before)
	if _, err := behind.Seal(3, 3, nil); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("seal behind the head: %v, want ErrCorrupt", err)
	}
	// Another history of the same shape, continued by what follows the first one.
	follower := &sealedLog{head: l.head}
	follower.add(t, d.NewWriter(store.Claim{Term: 2, Head: l.head}, tailOf(t, d, l)), 1)
	other := &sealedLog{}
	w = d.NewWriter(store.Claim{Term: 1}, Tail{})
	other.add(t, w, 1)
	other.add(t, w, 1)
	for name, history := range map[string]struct {
		log *sealedLog
		ok  bool
	}{"First": {l, true}, "Other": {other, false}} {
		history.log.headers = append(history.log.headers, follower.headers...)
		history.log.records = append(history.log.records, follower.records...)
		if _, _, err := d.OpenRecords(history.log.all()); errors.Is(err, store.ErrCorrupt) == history.ok {
			t.Errorf("%s: %v, want success %v", name, err, history.ok)
		}
	}
}

func TestWriterRefusesWhatDoesNotFollow(t *testing.T) {
	f := newFixture(t)
	d := f.document(f.resource(pinned))
	w := d.NewWriter(store.Claim{Term: 1}, Tail{})
	for _, c := range []struct{ first, last uint64 }{{2, 2}, {0, 1}, {1, 0}} {
		if _, err := w.Seal(c.first, c.last, nil); err == nil {
			t.Errorf("sealed %d to %d first", c.first, c.last)
		}
	}
	if _, err := w.Seal(1, 3, nil); err != nil {
		t.Errorf("seal 1 to 3: %v", err)
	}
	d.NewWriter(store.Claim{Term: 2, Head: 3}, Tail{head: 3})
	if _, err := w.Seal(4, 4, nil); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the writer before: %v, want ErrFenced", err)
	}
}

func TestSegmentsRollAndChainOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.document(f.resource(Settings{}))
		l := &sealedLog{}
		w := d.NewWriter(store.Claim{Term: 1}, Tail{})
		l.add(t, w, 1)
		l.add(t, w, 1)
		time.Sleep(25 * time.Hour) // older than a segment may become
		l.add(t, w, 1)
		l.add(t, w, 1)
		if len(l.headers) != 2 {
			t.Errorf("%d segments, want 2", len(l.headers))
		}
		tailOf(t, d, l)
	})
}

func TestClosedDocument(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	d := f.document(r)
	w := d.NewWriter(store.Claim{Term: 1}, Tail{})
	if _, err := w.Seal(1, 1, nil); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d.Close()
	<-d.Done()
	if _, err := w.Seal(2, 2, nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("seal: %v, want ErrClosed", err)
	}
	if w.segment != nil {
		t.Error("the writer kept its segment")
	}
	if n := len(f.roots[r].documents); n != 0 {
		t.Errorf("%d documents are known, want none", n)
	}
}

func BenchmarkWriterSeal256(b *testing.B) {
	f := &fixture{vault: newFakeVault(), store: newRowStore(), service: envelope.NewServiceKey(), log: &logBook{}}
	f.start()
	defer f.Keeper.Close()
	r := envelope.ResourceID{1}
	if err := f.Create(b.Context(), r, Settings{}); err != nil {
		b.Fatal(err)
	}
	d, err := f.NewDocument(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	w := d.NewWriter(store.Claim{Term: 1}, Tail{})
	op := make([]byte, 256)
	b.SetBytes(int64(len(op)))
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		seq++
		if _, err := w.Seal(seq, seq, op); err != nil {
			b.Fatal(err)
		}
	}
}

// Terms only grow: a segment of an older one cannot follow, though its links fit.
func TestTermsDoNotGoBack(t *testing.T) {
	f := newFixture(t)
	d := f.document(f.resource(pinned))
	l := &sealedLog{}
	l.add(t, d.NewWriter(store.Claim{Term: 2}, Tail{}), 1)
	l.add(t, d.NewWriter(store.Claim{Term: 1, Head: l.head}, tailOf(t, d, l)), 1)
	if _, _, err := d.OpenRecords(l.all()); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a segment of term 1 after one of term 2: %v, want ErrCorrupt", err)
	}
}
