package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// walked is what a walk showed of documents and rows, each value as text.
type walked struct {
	documents map[envelope.DocumentHandle][]string // in order
	rows      []string
}

func walk(t *testing.T, st store.Store, after func()) walked {
	t.Helper()
	w := walked{documents: map[envelope.DocumentHandle][]string{}}
	var at envelope.DocumentHandle
	left := map[envelope.DocumentHandle]bool{}
	err := st.Walk(t.Context(), func(s store.Stored) error {
		if after != nil {
			after() // others write during the walk
			after = nil
		}
		switch s.Part {
		case store.PartState, store.PartRow:
		case store.PartHeader, store.PartRecord, store.PartObject:
			if s.Document != at {
				left[at], at = true, s.Document
			}
			if left[at] {
				t.Errorf("the walk came back to document %x", at)
			}
			w.documents[at] = append(w.documents[at], fmt.Sprintf("%d %x %x", s.Part, s.Name, s.Value))
			return nil
		default:
			t.Errorf("a value of %d bytes is of part %d", len(s.Value), s.Part)
		}
		if s.Part == store.PartRow {
			w.rows = append(w.rows, fmt.Sprintf("%s %x %x %x", s.Row.Table, s.Row.Partition, s.Row.Name, s.Value))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(w.rows)
	return w
}

func walkShowsEverything(t *testing.T, st store.Store) {
	want := walked{documents: map[envelope.DocumentHandle][]string{}}
	for n := range 3 {
		d := NewDoc(t)
		c := claim(t, st, d.Handle)
		head := uint64(0)
		var headers, records, objects []string
		for i := range 5 {
			if i == 3 {
				d.NewSegment(c.Term, head+1)
			}
			a := d.Append(c, head, head+2, fmt.Sprint("text ", i))
			if err := st.Append(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if head += 2; a.Header != nil {
				headers = append(headers, fmt.Sprintf("%d %x %x", store.PartHeader, envelope.Name{}, a.Header.Bytes()))
			}
			records = append(records, fmt.Sprintf("%d %x %x", store.PartRecord, envelope.Name{}, a.Record.Bytes()))
		}
		// The last one is of several parts where objects are cut.
		all := []store.Object{d.Object("a", "one"), d.Object("b", "two"), d.Object("c", string(bytes.Repeat([]byte{'x'}, 700_000)))}
		if err := st.PutObjects(t.Context(), d.Handle, all); err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			objects = append(objects, fmt.Sprintf("%d %x %x", store.PartObject, o.Name, o.Value.Bytes()))
		}
		slices.Sort(objects)
		if n < 2 {
			want.documents[d.Handle] = slices.Concat(headers, records, objects)
		} else if err := st.DeleteDocument(t.Context(), d.Handle); err != nil {
			t.Fatal(err)
		}
	}
	r := rows{t, envelope.NewServiceKey()}
	for n := range uint64(3) {
		for _, table := range []store.Table{"ones", "twos"} {
			w := r.put(store.RowKey{Table: table, Partition: numbered(n), Name: numbered(n + 7)}, "row", store.Anything)
			if err := st.WriteRows(t.Context(), []store.RowWrite{w}); err != nil {
				t.Fatal(err)
			}
			want.rows = append(want.rows, fmt.Sprintf("%s %x %x %x", w.Table, w.Partition, w.Name, w.Value.Bytes()))
		}
	}
	slices.Sort(want.rows)

	// What is written during the walk is not in it.
	late := NewDoc(t)
	got := walk(t, st, func() {
		if err := st.PutObjects(t.Context(), late.Handle, []store.Object{late.Object("late", "late")}); err != nil {
			t.Error(err)
		}
	})
	if !slices.Equal(got.rows, want.rows) {
		t.Errorf("rows: got %d, want %d", len(got.rows), len(want.rows))
	}
	if len(got.documents) != len(want.documents) {
		t.Errorf("documents: got %d, want %d", len(got.documents), len(want.documents))
	}
	for handle, values := range want.documents {
		if !slices.Equal(got.documents[handle], values) {
			t.Errorf("document %x: got %d values, want %d, or in another order", handle, len(got.documents[handle]), len(values))
		}
	}

	stop := errors.New("stop")
	seen := 0
	err := st.Walk(t.Context(), func(store.Stored) error {
		seen++
		return stop
	})
	if !errors.Is(err, stop) || seen != 1 {
		t.Errorf("a walk that is stopped: %v after %d values, want the visitor's error after one", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := st.Walk(ctx, func(store.Stored) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled walk: %v", err)
	}
}
