package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// TestStore runs the contract. open returns a new, empty engine, which the test
// closes by itself or leaves to open's cleanup.
func TestStore(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, st store.Store)
	}{
		{"ClaimRaisesTheTerm", claimRaisesTheTerm},
		{"AppendsAreReadBack", appendsAreReadBack},
		{"StaleTermIsFenced", staleTermIsFenced},
		{"WrongHeadIsFenced", wrongHeadIsFenced},
		{"GapIsRefused", gapIsRefused},
		{"HeaderGoesWithItsRecord", headerGoesWithItsRecord},
		{"LogMayBeginAtAnyOp", logMayBeginAtAnyOp},
		{"LostBeginningIsNoBeginning", lostBeginningIsNoBeginning},
		{"UnclaimedDocumentIsFenced", unclaimedDocumentIsFenced},
		{"ReadTakesRanges", readTakesRanges},
		{"ReadStopsAtMaxBytes", readStopsAtMaxBytes},
		{"SegmentsAcrossTerms", segmentsAcrossTerms},
		{"TrimDropsWholeRecords", trimDropsWholeRecords},
		{"TrimKeepsTheLastRecord", trimKeepsTheLastRecord},
		{"TrimIsFenced", trimIsFenced},
		{"DocumentsAreApart", documentsAreApart},
		{"OneOfManyWritersWins", oneOfManyWritersWins},
		{"OnlyTheLastClaimCounts", onlyTheLastClaimCounts},
		{"ManyDocumentsAtOnce", manyDocumentsAtOnce},
		{"ReadersSeeAPrefix", readersSeeAPrefix},
		{"DeleteDocumentLeavesNothing", deleteDocumentLeavesNothing},
		{"TermsOutliveADocument", termsOutliveADocument},
		{"ObjectsComeBack", objectsComeBack},
		{"RowsKeepRevisions", rowsKeepRevisions},
		{"ScanRowsMeetsEachOnce", scanRowsMeetsEachOnce},
		{"ResealedRowsKeepTheirRevision", resealedRowsKeepTheirRevision},
		{"RowWritesAreAllOrNothing", rowWritesAreAllOrNothing},
		{"RowWrittenTwiceIsRefused", rowWrittenTwiceIsRefused},
		{"ListRowsInOrder", listRowsInOrder},
		{"OneOfManyRowWritersWins", oneOfManyRowWritersWins},
		{"WalkShowsEverything", walkShowsEverything},
		{"ClosedIsSaid", closedIsSaid},
		{"WritableUntilClosed", writableUntilClosed},
		{"CancelledCallsChangeNothing", cancelledCallsChangeNothing},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func claim(t *testing.T, st store.Store, doc envelope.DocumentHandle) store.Claim {
	t.Helper()
	c, err := st.Claim(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func appendOK(t *testing.T, st store.Store, a store.Append) {
	t.Helper()
	if err := st.Append(t.Context(), a); err != nil {
		t.Fatalf("append %d..%d: %v", a.Record.FirstSeq(), a.Record.LastSeq(), err)
	}
}

func read(t *testing.T, st store.Store, d *Doc, from, to uint64, maxBytes int) []string {
	t.Helper()
	r, err := st.Read(t.Context(), d.Handle, from, to, maxBytes)
	if err != nil {
		t.Fatalf("read %d..%d: %v", from, to, err)
	}
	return d.Texts(r)
}

func want[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// filled returns a document with the records 1-3, 4-4 and 5-9.
func filled(t *testing.T, st store.Store) (*Doc, store.Claim) {
	t.Helper()
	d := NewDoc(t)
	c := claim(t, st, d.Handle)
	appendOK(t, st, d.Append(c, 0, 3, "a"))
	appendOK(t, st, d.Append(c, 3, 4, "b"))
	appendOK(t, st, d.Append(c, 4, 9, "c"))
	return d, c
}

func claimRaisesTheTerm(t *testing.T, st store.Store) {
	d := NewDoc(t)
	first := claim(t, st, d.Handle)
	if first.Term < 1 || first.Head != 0 {
		t.Errorf("first claim is %+v; want a term from 1 and head 0", first)
	}
	appendOK(t, st, d.Append(first, 0, 2, "x"))
	second := claim(t, st, d.Handle)
	if second.Term <= first.Term || second.Head != 2 {
		t.Errorf("second claim is %+v after %+v; want a higher term and head 2", second, first)
	}
}

func appendsAreReadBack(t *testing.T, st store.Store) {
	d, _ := filled(t, st)
	want(t, "whole log", read(t, st, d, 1, 9, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
}

func staleTermIsFenced(t *testing.T, st store.Store) {
	d, old := filled(t, st)
	now := claim(t, st, d.Handle)
	stale := d.Append(old, 9, 10, "stale")
	wantErr(t, "append of the old term", st.Append(t.Context(), stale), store.ErrFenced)
	want(t, "the log", read(t, st, d, 5, 100, 0), []string{"5-9 c"})
	d.NewSegment(now.Term, 10)
	appendOK(t, st, d.Append(now, 9, 10, "new"))
}

func wrongHeadIsFenced(t *testing.T, st store.Store) {
	d, c := filled(t, st)
	for _, head := range []uint64{0, 8, 10} {
		a := d.fresh().Append(c, 9, 10, "x")
		a.ExpectedHead = head
		wantErr(t, fmt.Sprintf("append at head %d", head), st.Append(t.Context(), a), store.ErrFenced)
	}
	want(t, "the log", read(t, st, d, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
}

func gapIsRefused(t *testing.T, st store.Store) {
	d, c := filled(t, st)
	for _, head := range []uint64{10, 8} {
		a := d.fresh().Append(c, head, 12, "x")
		a.ExpectedHead = 9
		if err := st.Append(t.Context(), a); err == nil || errors.Is(err, store.ErrFenced) {
			t.Errorf("a record that begins at %d was taken after 9: %v", head+1, err)
		}
	}
	want(t, "the log", read(t, st, d, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
}

// headerGoesWithItsRecord: a segment's first record comes with its header, no other
// record with any, or there would be records that nobody can open.
func headerGoesWithItsRecord(t *testing.T, st store.Store) {
	d, c := filled(t, st)
	empty := NewDoc(t)
	first := claim(t, st, empty.Handle)
	other := NewDoc(t)
	for _, w := range []struct {
		name   string
		doc    *Doc
		claim  store.Claim
		head   uint64
		change func(a *store.Append)
	}{
		{"FirstOfALogWithout", empty, first, 0, func(a *store.Append) { a.Header = nil }},
		{"FirstOfASegmentWithout", d.fresh(), c, 9, func(a *store.Append) { a.Header = nil }},
		{"SecondWith", d, c, 9, func(a *store.Append) { h := d.segment.Header(); a.Header = &h }},
		{"OfAnotherDocument", d.fresh(), c, 9, func(a *store.Append) { a.Header = other.Append(c, 9, 10, "").Header }},
		{"OfAnotherTerm", d.fresh(), c, 9, func(a *store.Append) { a.Header = d.fresh().Append(store.Claim{Term: 7}, 9, 10, "").Header }},
		{"OfAnotherPlace", d.fresh(), c, 9, func(a *store.Append) { a.Header = d.fresh().Append(c, 4, 5, "").Header }},
		{"NoRecord", d.fresh(), c, 9, func(a *store.Append) { a.Record = envelope.Record{} }},
	} {
		t.Run(w.name, func(t *testing.T) {
			a := w.doc.Append(w.claim, w.head, w.head+1, "x")
			w.change(&a)
			if err := st.Append(t.Context(), a); err == nil || errors.Is(err, store.ErrFenced) {
				t.Errorf("got %v, want it refused as malformed", err)
			}
		})
	}
	want(t, "the log", read(t, st, d, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
	want(t, "the empty log", read(t, st, empty, 1, 100, 0), nil)
}

// logMayBeginAtAnyOp: a document that comes from elsewhere goes on where it was. Only
// its first record may choose where, and nothing before it is missing.
func logMayBeginAtAnyOp(t *testing.T, st store.Store) {
	d := NewDoc(t)
	c := claim(t, st, d.Handle)
	first := d.Append(c, 41, 43, "a")
	first.ExpectedHead = 0
	appendOK(t, st, first)
	appendOK(t, st, d.Append(c, 43, 44, "b"))
	wantErr(t, "a second beginning", st.Append(t.Context(), first), store.ErrFenced)
	c = claim(t, st, d.Handle)
	if c.Head != 44 {
		t.Errorf("head %d, want 44", c.Head)
	}
	d.NewSegment(c.Term, 45)
	appendOK(t, st, d.Append(c, 44, 45, "c"))
	all := []string{"42-43 a", "44-44 b", "45-45 c"}
	for _, r := range []struct {
		from, to uint64
		want     []string
	}{
		{0, 100, all}, {1, 45, all}, {41, 45, all}, {42, 45, all}, {1, 42, all[:1]}, {44, 45, all[1:]}, {1, 41, nil}, {41, 41, nil},
	} {
		want(t, fmt.Sprintf("%d..%d", r.from, r.to), read(t, st, d, r.from, r.to, 0), r.want)
	}
	want(t, "the first record alone", read(t, st, d, 1, 45, 1), all[:1])
	if r, err := st.Read(t.Context(), d.Handle, 1, 41, 0); err != nil || r.Head != 45 {
		t.Errorf("reading before the beginning gives head %d, %v; want 45", r.Head, err)
	}
}

// lostBeginningIsNoBeginning: a record that follows another one begins no log.
func lostBeginningIsNoBeginning(t *testing.T, st store.Store) {
	d := NewDoc(t)
	c := claim(t, st, d.Handle)
	d.Append(c, 0, 3, "lost")
	later := d.Append(c, 3, 5, "in the same segment")
	later.ExpectedHead = 0
	d.NewSegment(c.Term, 6)
	next := d.Append(c, 5, 7, "in the next one")
	next.ExpectedHead = 0
	for _, a := range []store.Append{later, next} {
		if err := st.Append(t.Context(), a); err == nil || errors.Is(err, store.ErrFenced) {
			t.Errorf("a log that begins with %d..%d was taken: %v", a.Record.FirstSeq(), a.Record.LastSeq(), err)
		}
	}
	want(t, "the log", read(t, st, d, 1, 100, 0), nil)
}

func unclaimedDocumentIsFenced(t *testing.T, st store.Store) {
	d := NewDoc(t)
	wantErr(t, "append without a claim", st.Append(t.Context(), d.Append(store.Claim{Term: 1}, 0, 1, "x")), store.ErrFenced)
	r, err := st.Read(t.Context(), d.Handle, 1, 10, 0)
	if err != nil || len(r.Records) != 0 || r.Head != 0 {
		t.Errorf("an unknown document reads as %+v, %v; want an empty log", r, err)
	}
}

func readTakesRanges(t *testing.T, st store.Store) {
	d, _ := filled(t, st)
	for _, c := range []struct {
		from, to uint64
		want     []string
	}{
		{1, 1, []string{"1-3 a"}},
		{2, 3, []string{"1-3 a"}},
		{3, 4, []string{"1-3 a", "4-4 b"}},
		{4, 4, []string{"4-4 b"}},
		{9, 9, []string{"5-9 c"}},
		{9, 1000, []string{"5-9 c"}},
		{0, 1000, []string{"1-3 a", "4-4 b", "5-9 c"}},
		{10, 1000, nil},
		{5, 4, nil},
	} {
		want(t, fmt.Sprintf("%d..%d", c.from, c.to), read(t, st, d, c.from, c.to, 0), c.want)
	}
	r, err := st.Read(t.Context(), d.Handle, 20, 30, 0)
	if err != nil || r.Head != 9 {
		t.Errorf("reading past the head gives head %d, %v; want 9", r.Head, err)
	}
}

func readStopsAtMaxBytes(t *testing.T, st store.Store) {
	d, _ := filled(t, st)
	want(t, "1 byte", read(t, st, d, 1, 9, 1), []string{"1-3 a"})
	r, err := st.Read(t.Context(), d.Handle, 1, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	two := len(r.Records[0].Bytes()) + 1
	want(t, "a byte more than one record", read(t, st, d, 1, 9, two), []string{"1-3 a", "4-4 b"})
	want(t, "plenty", read(t, st, d, 1, 9, 1<<20), []string{"1-3 a", "4-4 b", "5-9 c"})
}

func segmentsAcrossTerms(t *testing.T, st store.Store) {
	d, _ := filled(t, st)
	c := claim(t, st, d.Handle)
	d.NewSegment(c.Term, 10)
	appendOK(t, st, d.Append(c, 9, 10, "d"))
	d.NewSegment(c.Term, 11)
	appendOK(t, st, d.Append(c, 10, 12, "e"))
	want(t, "whole log", read(t, st, d, 1, 12, 0), []string{"1-3 a", "4-4 b", "5-9 c", "10-10 d", "11-12 e"})
	want(t, "from inside the first segment", read(t, st, d, 6, 10, 0), []string{"5-9 c", "10-10 d"})
	r, err := st.Read(t.Context(), d.Handle, 11, 12, 0)
	if err != nil || len(r.Headers) != 1 || r.Headers[0].Place().FirstSeq != 11 {
		t.Errorf("the last segment's records come with %d headers, %v; want its own alone", len(r.Headers), err)
	}
}

func documentsAreApart(t *testing.T, st store.Store) {
	middle := NewDoc(t).Handle
	middle[15] = 0x80
	before, after, beginsAlike := middle, middle, middle
	before[15]--
	after[15]++ // in the engine's order, the next one
	beginsAlike[8] ^= 0xff
	last := envelope.DocumentHandle{}
	for i := range last {
		last[i] = 0xff
	}
	handles := []envelope.DocumentHandle{before, middle, after, beginsAlike, {}, last}
	var docs []*Doc
	object := NewDoc(t).Object("same", "of all but one")
	for i, h := range handles {
		d := NewDocAt(t, h)
		appendOK(t, st, d.Append(claim(t, st, h), 0, uint64(i)+1, "x"))
		if h != middle {
			if err := st.PutObjects(t.Context(), h, []store.Object{object}); err != nil {
				t.Fatal(err)
			}
		}
		docs = append(docs, d)
	}
	if has, err := st.HasObject(t.Context(), middle, object.Name); err != nil || has {
		t.Errorf("has an object of its neighbours = %t, %v", has, err)
	}
	if err := st.DeleteDocument(t.Context(), middle); err != nil {
		t.Fatal(err)
	}
	for i, d := range docs {
		if d.Handle == middle {
			want(t, "the deleted log", read(t, st, d, 1, 100, 0), nil)
			continue
		}
		want(t, fmt.Sprintf("log %d", i), read(t, st, d, 1, 100, 0), []string{fmt.Sprintf("1-%d x", i+1)})
		if has, err := st.HasObject(t.Context(), d.Handle, object.Name); err != nil || !has {
			t.Errorf("object of document %d: has = %t, %v", i, has, err)
		}
	}
}

func deleteDocumentLeavesNothing(t *testing.T, st store.Store) {
	d, c := filled(t, st)
	kept, _ := filled(t, st)
	object := d.Object("x", "y")
	if err := st.PutObjects(t.Context(), d.Handle, []store.Object{object}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := st.DeleteDocument(t.Context(), d.Handle); err != nil {
			t.Fatal(err)
		}
	}
	r, err := st.Read(t.Context(), d.Handle, 1, 100, 0)
	if err != nil || r.Head != 0 || len(r.Records) != 0 {
		t.Errorf("a deleted log reads as head %d with %d records, %v", r.Head, len(r.Records), err)
	}
	_, err = st.GetObject(t.Context(), d.Handle, object.Name)
	wantErr(t, "object of a deleted document", err, store.ErrNotFound)
	wantErr(t, "append to a deleted document", st.Append(t.Context(), d.Append(c, 9, 10, "late")), store.ErrFenced)
	want(t, "the other document", read(t, st, kept, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
}

// termsOutliveADocument: a writer of a deleted log must not meet its own term again.
func termsOutliveADocument(t *testing.T, st store.Store) {
	d := NewDoc(t)
	old := claim(t, st, d.Handle)
	if err := st.DeleteDocument(t.Context(), d.Handle); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "append after deletion", st.Append(t.Context(), d.fresh().Append(old, 0, 1, "late")), store.ErrFenced)
	now := claim(t, st, d.Handle)
	if now.Term <= old.Term || now.Head != 0 {
		t.Errorf("a claim after deletion is %+v; want a term above %d and head 0", now, old.Term)
	}
	wantErr(t, "append of the old writer", st.Append(t.Context(), d.fresh().Append(old, 0, 1, "late")), store.ErrFenced)
	appendOK(t, st, d.fresh().Append(now, 0, 1, "new"))
}
