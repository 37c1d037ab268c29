package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
		{"UnclaimedDocumentIsFenced", unclaimedDocumentIsFenced},
		{"ReadTakesRanges", readTakesRanges},
		{"ReadStopsAtMaxBytes", readStopsAtMaxBytes},
		{"SegmentsAcrossTerms", segmentsAcrossTerms},
		{"DocumentsAreApart", documentsAreApart},
		{"OneOfManyWritersWins", oneOfManyWritersWins},
		{"ManyDocumentsAtOnce", manyDocumentsAtOnce},
		{"DeleteDocumentLeavesNothing", deleteDocumentLeavesNothing},
		{"ObjectsComeBack", objectsComeBack},
		{"RowsKeepRevisions", rowsKeepRevisions},
		{"RowWritesAreAllOrNothing", rowWritesAreAllOrNothing},
		{"ListRowsInOrder", listRowsInOrder},
		{"OneOfManyRowWritersWins", oneOfManyRowWritersWins},
		{"ClosedIsSaid", closedIsSaid},
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
	gap := d.fresh().Append(c, 10, 11, "gap")
	gap.ExpectedHead = 9
	if err := st.Append(t.Context(), gap); err == nil {
		t.Error("a record that begins at head+2 was taken")
	}
	want(t, "the log", read(t, st, d, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
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
	a, _ := filled(t, st)
	b := NewDoc(t)
	b.Handle = a.Handle
	b.Handle[15]++ // the next key in the engine's order
	b.place.Document = b.Handle
	c := claim(t, st, b.Handle)
	appendOK(t, st, b.Append(c, 0, 2, "other"))
	want(t, "the first", read(t, st, a, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
	want(t, "the second", read(t, st, b, 1, 100, 0), []string{"1-2 other"})
	object := a.Object("same", "of a")
	if err := st.PutObjects(t.Context(), a.Handle, []store.Object{object}); err != nil {
		t.Fatal(err)
	}
	_, err := st.GetObject(t.Context(), b.Handle, object.Name)
	wantErr(t, "an object of the other document", err, store.ErrNotFound)
}

// oneOfManyWritersWins: all writers claim and append at once; whatever the order,
// the log has one order and no writer succeeded under a term that was over.
func oneOfManyWritersWins(t *testing.T, st store.Store) {
	d := NewDoc(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[uint64]bool{} // head after each success
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 8 {
				c, err := st.Claim(context.Background(), d.Handle)
				if err != nil {
					t.Error(err)
					return
				}
				err = st.Append(context.Background(), d.fresh().Append(c, c.Head, c.Head+1, "x"))
				if err != nil && !errors.Is(err, store.ErrFenced) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					if won[c.Head+1] {
						t.Errorf("two writers wrote op %d", c.Head+1)
					}
					won[c.Head+1] = true
					mu.Unlock()
				}
			}
		}()
	}
	wg.Wait()
	r, err := st.Read(t.Context(), d.Handle, 1, 1<<30, 0)
	if err != nil || int(r.Head) != len(won) || len(r.Records) != len(won) {
		t.Errorf("%d appends succeeded; the log has head %d and %d records, %v", len(won), r.Head, len(r.Records), err)
	}
}

func manyDocumentsAtOnce(t *testing.T, st store.Store) {
	var wg sync.WaitGroup
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			d := NewDoc(t)
			c, err := st.Claim(context.Background(), d.Handle)
			if err != nil {
				t.Error(err)
				return
			}
			for head := range uint64(10) {
				if err := st.Append(context.Background(), d.Append(c, head, head+1, fmt.Sprint(head))); err != nil {
					t.Error(err)
					return
				}
			}
			r, err := st.Read(context.Background(), d.Handle, 1, 10, 0)
			if err != nil || len(d.Texts(r)) != 10 {
				t.Errorf("read back %d records, %v; want 10", len(r.Records), err)
			}
		}()
	}
	wg.Wait()
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
