package storetest

import (
	"fmt"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// segmented returns a document with the records 1-3, 4-4, 5-9 of one segment, 10-10 of
// the next and 11-12, 13-13 of a third.
func segmented(t *testing.T, st store.Store) (*Doc, store.Claim) {
	t.Helper()
	d, _ := filled(t, st)
	c := claim(t, st, d.Handle)
	d.NewSegment(c.Term, 10)
	appendOK(t, st, d.Append(c, 9, 10, "d"))
	d.NewSegment(c.Term, 11)
	appendOK(t, st, d.Append(c, 10, 12, "e"))
	appendOK(t, st, d.Append(c, 12, 13, "f"))
	return d, c
}

func trim(t *testing.T, st store.Store, d *Doc, c store.Claim, below uint64) {
	t.Helper()
	if err := st.Trim(t.Context(), d.Handle, c.Term, below); err != nil {
		t.Fatalf("trim below %d: %v", below, err)
	}
}

// trimDropsWholeRecords: what is left is what a reader from below on would get anyway,
// with the headers it opens under, and the log goes on.
func trimDropsWholeRecords(t *testing.T, st store.Store) {
	all := []string{"1-3 a", "4-4 b", "5-9 c", "10-10 d", "11-12 e", "13-13 f"}
	for _, c := range []struct {
		below   uint64
		dropped int
	}{{0, 0}, {1, 0}, {3, 0}, {4, 1}, {5, 2}, {7, 2}, {9, 2}, {10, 3}, {11, 4}, {12, 4}, {13, 5}} {
		t.Run(fmt.Sprintf("Below%d", c.below), func(t *testing.T) {
			d, claimed := segmented(t, st)
			other, _ := segmented(t, st)
			trim(t, st, d, claimed, c.below)
			trim(t, st, d, claimed, c.below) // idempotent
			want(t, "from there on", read(t, st, d, max(c.below, 1), 100, 0), all[c.dropped:])
			r, err := st.Read(t.Context(), d.Handle, max(c.below, 1), 100, 0)
			if err != nil || r.Head != 13 {
				t.Errorf("head %d, %v; want 13", r.Head, err)
			}
			if c.dropped > 0 {
				_, err := st.Read(t.Context(), d.Handle, 1, 100, 0)
				wantErr(t, "reading what was dropped", err, store.ErrCorrupt)
				_, err = st.Read(t.Context(), d.Handle, 1, 1, 0)
				wantErr(t, "reading the first op", err, store.ErrCorrupt)
			}
			appendOK(t, st, d.Append(claimed, 13, 14, "g"))
			want(t, "the end", read(t, st, d, 13, 100, 0), []string{"13-13 f", "14-14 g"})
			trim(t, st, d, claimed, 14)
			want(t, "after a second trim", read(t, st, d, 14, 100, 0), []string{"14-14 g"})
			want(t, "the other document", read(t, st, other, 1, 100, 0), all)
		})
	}
}

func trimKeepsTheLastRecord(t *testing.T, st store.Store) {
	d, c := segmented(t, st)
	trim(t, st, d, c, 1<<40)
	want(t, "the log", read(t, st, d, 13, 100, 0), []string{"13-13 f"})
	again := claim(t, st, d.Handle)
	if again.Head != 13 {
		t.Errorf("head %d after a trim, want 13", again.Head)
	}
	d.NewSegment(again.Term, 14)
	appendOK(t, st, d.Append(again, 13, 14, "g"))
	want(t, "the log", read(t, st, d, 13, 100, 0), []string{"13-13 f", "14-14 g"})

	empty := NewDoc(t)
	trim(t, st, empty, claim(t, st, empty.Handle), 5)

	elsewhere := NewDoc(t) // its log begins with op 42
	from := claim(t, st, elsewhere.Handle)
	first := elsewhere.Append(from, 41, 43, "a")
	first.ExpectedHead = 0
	appendOK(t, st, first)
	trim(t, st, elsewhere, from, 42)
	want(t, "a log that begins later", read(t, st, elsewhere, 1, 100, 0), []string{"42-43 a"})
	appendOK(t, st, elsewhere.Append(from, 43, 44, "b"))
	trim(t, st, elsewhere, from, 44)
	_, err := st.Read(t.Context(), elsewhere.Handle, 1, 100, 0)
	wantErr(t, "its beginning, dropped", err, store.ErrCorrupt)
}

// trimIsFenced: who lost the document must not drop what its owner still needs.
func trimIsFenced(t *testing.T, st store.Store) {
	d, c := segmented(t, st)
	for _, term := range []uint64{0, c.Term - 1, c.Term + 1} {
		wantErr(t, fmt.Sprintf("trim in term %d", term), st.Trim(t.Context(), d.Handle, term, 13), store.ErrFenced)
	}
	wantErr(t, "trim of an unknown document", st.Trim(t.Context(), envelope.DocumentHandle{1}, 1, 13), store.ErrFenced)
	if err := st.DeleteDocument(t.Context(), d.Handle); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "trim of a deleted document", st.Trim(t.Context(), d.Handle, c.Term, 13), store.ErrFenced)
}
