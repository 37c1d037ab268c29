package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func objectsComeBack(t *testing.T, st store.Store) {
	d := NewDoc(t)
	a, b := d.Object("a", "first"), d.Object("b", "second")
	if err := st.PutObjects(t.Context(), d.Handle, []store.Object{a, b}); err != nil {
		t.Fatal(err)
	}
	replaced := d.Object("a", "third")
	if err := st.PutObjects(t.Context(), d.Handle, []store.Object{replaced}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []store.Object{replaced, b} {
		got, err := st.GetObject(t.Context(), d.Handle, c.Name)
		if err != nil || string(got.Bytes()) != string(c.Value.Bytes()) {
			t.Errorf("object: got %d bytes, %v; want the %d put last", len(got.Bytes()), err, len(c.Value.Bytes()))
		}
		if has, err := st.HasObject(t.Context(), d.Handle, c.Name); err != nil || !has {
			t.Errorf("has = %t, %v; want true", has, err)
		}
	}
	unknown := d.Object("c", "").Name
	_, err := st.GetObject(t.Context(), d.Handle, unknown)
	wantErr(t, "unknown object", err, store.ErrNotFound)
	if has, err := st.HasObject(t.Context(), d.Handle, unknown); err != nil || has {
		t.Errorf("has unknown = %t, %v; want false", has, err)
	}
}

func newRows(t *testing.T) rows { return rows{t, envelope.NewServiceKey()} }

func writeRows(t *testing.T, st store.Store, w ...store.RowWrite) {
	t.Helper()
	if err := st.WriteRows(t.Context(), w); err != nil {
		t.Fatal(err)
	}
}

func rowsKeepRevisions(t *testing.T, st store.Store) {
	r := newRows(t)
	k := store.RowKey{Table: "things", Partition: numbered(1), Name: numbered(2)}
	_, err := st.GetRow(t.Context(), k)
	wantErr(t, "row before it was written", err, store.ErrNotFound)
	wantErr(t, "write at a revision of nothing", st.WriteRows(t.Context(), []store.RowWrite{r.put(k, "x", store.AtRevision(1))}), store.ErrConflict)

	writeRows(t, st, r.put(k, "one", store.Absent))
	wantErr(t, "second creation", st.WriteRows(t.Context(), []store.RowWrite{r.put(k, "x", store.Absent)}), store.ErrConflict)
	writeRows(t, st, r.put(k, "two", store.AtRevision(1)))
	wantErr(t, "write at an old revision", st.WriteRows(t.Context(), []store.RowWrite{r.put(k, "x", store.AtRevision(1))}), store.ErrConflict)
	writeRows(t, st, r.put(k, "three", store.Anything))

	row, err := st.GetRow(t.Context(), k)
	if err != nil || row.Revision != 3 || row.RowKey != k || r.text(row) != "three" {
		t.Errorf("got revision %d, %v; want 3 with the last text", row.Revision, err)
	}
	wantErr(t, "delete at an old revision", st.WriteRows(t.Context(), []store.RowWrite{{RowKey: k, Expect: store.AtRevision(2)}}), store.ErrConflict)
	writeRows(t, st, store.RowWrite{RowKey: k, Expect: store.AtRevision(3)})
	writeRows(t, st, store.RowWrite{RowKey: k, Expect: store.Anything}) // deleting nothing is fine
	writeRows(t, st, r.put(k, "again", store.Absent))
	if row, err = st.GetRow(t.Context(), k); err != nil || row.Revision != 1 {
		t.Errorf("a row made again has revision %d, %v; want 1", row.Revision, err)
	}
}

func rowWritesAreAllOrNothing(t *testing.T, st store.Store) {
	r := newRows(t)
	a := store.RowKey{Table: "things", Name: numbered(1)}
	b := store.RowKey{Table: "other", Name: numbered(1)}
	writeRows(t, st, r.put(a, "a", store.Absent), r.put(b, "b", store.Absent))
	err := st.WriteRows(t.Context(), []store.RowWrite{
		r.put(a, "changed", store.AtRevision(1)), {RowKey: b, Expect: store.AtRevision(7)},
	})
	wantErr(t, "one stale of two", err, store.ErrConflict)
	for k, text := range map[store.RowKey]string{a: "a", b: "b"} {
		row, err := st.GetRow(t.Context(), k)
		if err != nil || row.Revision != 1 || r.text(row) != text {
			t.Errorf("row of %s changed by a refused write: revision %d, %v", k.Table, row.Revision, err)
		}
	}
}

func rowWrittenTwiceIsRefused(t *testing.T, st store.Store) {
	r := newRows(t)
	k := store.RowKey{Table: "things", Name: numbered(1)}
	err := st.WriteRows(t.Context(), []store.RowWrite{r.put(k, "one", store.Anything), r.put(k, "two", store.Anything)})
	if err == nil {
		t.Error("two writes of one row were taken at once")
	}
	_, err = st.GetRow(t.Context(), k)
	wantErr(t, "the row", err, store.ErrNotFound)
}

func listRowsInOrder(t *testing.T, st store.Store) {
	r := newRows(t)
	in := func(table store.Table, partition, name uint64) store.RowKey {
		return store.RowKey{Table: table, Partition: numbered(partition), Name: numbered(name)}
	}
	for _, k := range []store.RowKey{
		in("t", 1, 3), in("t", 1, 1), in("t", 1, 2), in("t", 2, 9), in("tt", 1, 9), in("t", 0, 9), {Table: "t", Partition: numbered(1)},
	} {
		writeRows(t, st, r.put(k, fmt.Sprint(k.Name[7]), store.Absent))
	}
	list := func(after envelope.Name, limit int) (names []byte) {
		got, err := st.ListRows(t.Context(), "t", numbered(1), after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range got {
			if row.Table != "t" || row.Partition != numbered(1) || r.text(row) != fmt.Sprint(row.Name[7]) {
				t.Errorf("row %d of another place: %s", row.Name[7], row.Table)
			}
			names = append(names, row.Name[7])
		}
		return names
	}
	want(t, "all", list(envelope.Name{}, 100), []byte{0, 1, 2, 3})
	want(t, "first two", list(envelope.Name{}, 2), []byte{0, 1})
	want(t, "after 1", list(numbered(1), 100), []byte{2, 3})
	want(t, "after the last", list(numbered(3), 100), nil)
}

func scanRowsMeetsEachOnce(t *testing.T, st store.Store) {
	r := newRows(t)
	written := map[store.RowKey]bool{}
	for n := range uint64(7) {
		for _, table := range []store.Table{"a", "a-b", "b"} {
			k := store.RowKey{Table: table, Partition: numbered(n % 2), Name: numbered(n)}
			writeRows(t, st, r.put(k, "x", store.Absent))
			written[k] = true
		}
	}
	writeRows(t, st, r.put(store.RowKey{Table: "a"}, "x", store.Anything)) // the row of the zero name, which is one of them
	for _, limit := range []int{1, 4, 100} {
		met := map[store.RowKey]int{}
		var after store.RowKey
		for {
			rows, err := st.ScanRows(t.Context(), after, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				met[row.RowKey]++
				after = row.RowKey
				if r.text(row) != "x" {
					t.Errorf("a row of %s comes back as another", row.Table)
				}
			}
			if len(rows) < limit {
				break
			}
		}
		for k := range written {
			if met[k] != 1 {
				t.Errorf("limit %d: a row of %s was met %d times", limit, k.Table, met[k])
			}
		}
		if len(met) != len(written) {
			t.Errorf("limit %d: met %d rows, want %d", limit, len(met), len(written))
		}
	}
}

func resealedRowsKeepTheirRevision(t *testing.T, st store.Store) {
	r := newRows(t)
	var all []store.Resealed
	for n := range uint64(4) {
		k := store.RowKey{Table: "things", Name: numbered(n)}
		writeRows(t, st, r.put(k, "before", store.Absent))
		writeRows(t, st, r.put(k, "text", store.AtRevision(1)))
		row, err := st.GetRow(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, store.Resealed{RowKey: k, Old: row.Value, New: *r.put(k, "text", store.Anything).Value})
	}
	// One was changed since, one deleted, and one deleted and made again.
	writeRows(t, st, r.put(all[1].RowKey, "newer", store.AtRevision(2)))
	writeRows(t, st, store.RowWrite{RowKey: all[2].RowKey})
	writeRows(t, st, store.RowWrite{RowKey: all[3].RowKey})
	writeRows(t, st, r.put(all[3].RowKey, "again", store.Absent))
	writeRows(t, st, r.put(all[3].RowKey, "again", store.AtRevision(1)))
	for _, want := range []int{1, 0} { // the second time all is done
		if n, err := st.ResealRows(t.Context(), all); n != want || err != nil {
			t.Errorf("resealed %d rows, %v; want %d", n, err, want)
		}
	}
	for n, want := range map[int]struct {
		text     string
		revision uint64
	}{0: {"text", 2}, 1: {"newer", 3}, 3: {"again", 2}} {
		row, err := st.GetRow(t.Context(), all[n].RowKey)
		if err != nil || row.Revision != want.revision || r.text(row) != want.text {
			t.Errorf("row %d: revision %d, %v; want %d with %q", n, row.Revision, err, want.revision, want.text)
		}
	}
	if row, err := st.GetRow(t.Context(), all[0].RowKey); err != nil || string(row.Value.Bytes()) != string(all[0].New.Bytes()) {
		t.Errorf("the row has not its new value: %v", err)
	}
	_, err := st.GetRow(t.Context(), all[2].RowKey)
	wantErr(t, "the deleted row", err, store.ErrNotFound)
}

func oneOfManyRowWritersWins(t *testing.T, st store.Store) {
	r := newRows(t)
	k := store.RowKey{Table: "counter", Name: numbered(1)}
	writeRows(t, st, r.put(k, "", store.Absent))
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 8 {
				row, err := st.GetRow(context.Background(), k)
				if err != nil {
					t.Error(err)
					return
				}
				err = st.WriteRows(context.Background(), []store.RowWrite{r.put(k, "", store.AtRevision(row.Revision))})
				if err != nil && !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			}
		}()
	}
	wg.Wait()
	row, err := st.GetRow(t.Context(), k)
	if err != nil || int(row.Revision) != won+1 {
		t.Errorf("%d writes succeeded and the revision is %d, %v", won, row.Revision, err)
	}
}

func closedIsSaid(t *testing.T, st store.Store) {
	d, c := filled(t, st)
	next := d.Append(c, 9, 10, "x")
	for range 2 {
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range everyCall(t.Context(), st, next) {
		wantErr(t, what+" after Close", err, store.ErrClosed)
	}
}

// everyCall calls each method once.
func everyCall(ctx context.Context, st store.Store, a store.Append) map[string]error {
	doc := a.Document
	_, claimErr := st.Claim(ctx, doc)
	_, readErr := st.Read(ctx, doc, 1, 2, 0)
	_, getErr := st.GetObject(ctx, doc, envelope.Name{})
	_, hasErr := st.HasObject(ctx, doc, envelope.Name{})
	_, rowErr := st.GetRow(ctx, store.RowKey{Table: "t"})
	_, listErr := st.ListRows(ctx, "t", envelope.Name{}, envelope.Name{}, 1)
	_, scanErr := st.ScanRows(ctx, store.RowKey{}, 1)
	_, resealErr := st.ResealRows(ctx, nil)
	return map[string]error{
		"Claim": claimErr, "Read": readErr, "GetObject": getErr, "HasObject": hasErr, "GetRow": rowErr, "ListRows": listErr, "ScanRows": scanErr, "ResealRows": resealErr,
		"Append":         st.Append(ctx, a),
		"Trim":           st.Trim(ctx, doc, a.Term, 9),
		"PutObjects":     st.PutObjects(ctx, doc, nil),
		"WriteRows":      st.WriteRows(ctx, nil),
		"DeleteDocument": st.DeleteDocument(ctx, doc),
	}
}

func cancelledCallsChangeNothing(t *testing.T, st store.Store) {
	d, c := filled(t, st)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range everyCall(ctx, st, d.Append(c, 9, 10, "x")) {
		wantErr(t, what, err, context.Canceled)
	}
	want(t, "the log", read(t, st, d, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
	if again := claim(t, st, d.Handle); again.Term != c.Term+1 {
		t.Errorf("term %d after a cancelled claim of term %d", again.Term, c.Term)
	}
}

// TestReopen checks that everything is there after the engine was closed and opened
// again. open returns a new engine and a func that opens the same data again, once
// the engine is closed.
func TestReopen(t *testing.T, open func(t *testing.T) (st store.Store, reopen func() store.Store)) {
	st, reopen := open(t)
	d, c := filled(t, st)
	gone, goneClaim := filled(t, st)
	trimmed, trimClaim := segmented(t, st)
	trim(t, st, trimmed, trimClaim, 11)
	object := d.Object("id", "object")
	r := newRows(t)
	kept, deleted := store.RowKey{Table: "t", Name: numbered(1)}, store.RowKey{Table: "t", Name: numbered(2)}
	if err := st.PutObjects(t.Context(), d.Handle, []store.Object{object}); err != nil {
		t.Fatal(err)
	}
	writeRows(t, st, r.put(kept, "one", store.Absent), r.put(deleted, "x", store.Absent))
	writeRows(t, st, r.put(kept, "two", store.AtRevision(1)), store.RowWrite{RowKey: deleted})
	if err := st.DeleteDocument(t.Context(), gone.Handle); err != nil {
		t.Fatal(err)
	}

	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = reopen()

	want(t, "the log", read(t, st, d, 1, 100, 0), []string{"1-3 a", "4-4 b", "5-9 c"})
	want(t, "the deleted log", read(t, st, gone, 1, 100, 0), nil)
	want(t, "the trimmed log", read(t, st, trimmed, 11, 100, 0), []string{"11-12 e", "13-13 f"})
	_, trimErr := st.Read(t.Context(), trimmed.Handle, 1, 100, 0)
	wantErr(t, "what was trimmed", trimErr, store.ErrCorrupt)
	if got, err := st.GetObject(t.Context(), d.Handle, object.Name); err != nil || string(got.Bytes()) != string(object.Value.Bytes()) {
		t.Errorf("object: got %d bytes, %v", len(got.Bytes()), err)
	}
	rows, err := st.ListRows(t.Context(), "t", envelope.Name{}, envelope.Name{}, 10)
	if err != nil || len(rows) != 1 || rows[0].Revision != 2 || r.text(rows[0]) != "two" {
		t.Errorf("%d rows, %v; want one at revision 2", len(rows), err)
	}
	appendOK(t, st, d.Append(c, 9, 10, "d")) // terms outlive the process
	for doc, before := range map[envelope.DocumentHandle]store.Claim{d.Handle: c, gone.Handle: goneClaim} {
		if again := claim(t, st, doc); again.Term <= before.Term {
			t.Errorf("term %d after %d", again.Term, before.Term)
		}
	}
}
