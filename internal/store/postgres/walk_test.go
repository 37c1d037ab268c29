package postgres

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// shown counts by part what a walk shows, and how much of it is no sealed value.
func (e *Engine) shown(t *testing.T) (parts map[store.Part]int, unsealed int) {
	t.Helper()
	parts = map[store.Part]int{}
	err := e.Walk(t.Context(), func(s store.Stored) error {
		parts[s.Part]++
		switch s.Part {
		case store.PartObject, store.PartRow, store.PartLoose:
			if _, err := envelope.ParseSealed(s.Value); err != nil {
				unsealed++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return parts, unsealed
}

// What somebody else put into the tables is shown, whatever it is.
func TestWalkShowsWhatIsNotOurs(t *testing.T) {
	e, d := openNew(t), storetest.NewDoc(t)
	fill(t, e, d, 3)
	for _, sql := range []string{
		"INSERT INTO objects (document, name, part, parts, value) VALUES ('short', 'plain', 0, 1, 'plain')",
		"INSERT INTO records (document, last_seq, record) VALUES ('', -9223372036854775808, 'plain')",
		"INSERT INTO segments (document, first_seq, header) VALUES ('a document of too many bytes', 1, 'plain')",
		"INSERT INTO objects (document, name, part, parts, value) SELECT document, 'short', 0, 1, 'plain' FROM documents",
		"INSERT INTO sealed_rows (kind, partition, name, revision, value) VALUES ('', '', '', 1, 'plain')",
	} {
		e.exec(t, sql)
	}
	parts, _ := e.shown(t)
	want := map[store.Part]int{store.PartHeader: 1, store.PartRecord: 3, store.PartUnknown: 5}
	if !maps.Equal(parts, want) {
		t.Errorf("got %v, want %v", parts, want)
	}
}

func TestWalkFindsDamagedObjects(t *testing.T) {
	e, d := openNew(t), storetest.NewDoc(t)
	damage := []string{
		"UPDATE objects SET value = 'plain' WHERE document = $1 AND part = 0",
		"DELETE FROM objects WHERE document = $1 AND part = 1",
		"DELETE FROM objects WHERE document = $1 AND part = 0",
		"DELETE FROM objects WHERE document = $1 AND part = 2",
		"UPDATE objects SET parts = 2147483647 WHERE document = $1",
		"UPDATE objects SET blob = 'x', blob_bytes = 9000000000000 WHERE document = $1 AND part = 2",
	}
	for _, sql := range damage {
		o := d.Object(sql, strings.Repeat("x", 2*partBytes+10))
		if err := e.PutObjects(t.Context(), d.Handle, []store.Object{o, d.Object(sql+", not", "whole")}); err != nil {
			t.Fatal(err)
		}
		e.exec(t, sql+" AND name = $2", d.Handle[:], o.Name[:])
	}
	parts, unsealed := e.shown(t)
	if parts[store.PartObject] != 2*len(damage) || unsealed != len(damage) {
		t.Errorf("%d objects, %d of them damaged; want %d and %d", parts[store.PartObject], unsealed, 2*len(damage), len(damage))
	}
}

// What is in the object store is shown too: the objects, and what belongs to none.
func TestWalkShowsTheObjectStore(t *testing.T) {
	e, st := openBlobs(t, pgtest.Shared(t).NewDatabase(t), 1)
	d := storetest.NewDoc(t)
	for _, id := range []string{"kept", "missing", "longer"} {
		if err := e.PutObjects(t.Context(), d.Handle, []store.Object{d.Object(id, "text")}); err != nil {
			t.Fatal(err)
		}
	}
	if parts, unsealed := e.shown(t); unsealed != 0 || !maps.Equal(parts, map[store.Part]int{store.PartObject: 3}) {
		t.Fatalf("got %v, %d unsealed; want 3 objects", parts, unsealed)
	}
	left := blobs.NewName() // as a crash leaves it
	if err := st.Put(t.Context(), left, d.Object("left", "text").Value); err != nil {
		t.Fatal(err)
	}
	names, err := st.List(t.Context(), blobs.Name{}, 9)
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n blobs.Name) bool { return n == left })
	if err := st.Store.Delete(t.Context(), names[0]); err != nil {
		t.Fatal(err)
	}
	if err := st.Put(t.Context(), names[1], d.Object("another", "longer").Value); err != nil {
		t.Fatal(err)
	}
	parts, unsealed := e.shown(t)
	if want := (map[store.Part]int{store.PartObject: 3, store.PartLoose: 1}); !maps.Equal(parts, want) || unsealed != 2 {
		t.Errorf("got %v, %d unsealed; want %v and 2", parts, unsealed, want)
	}
}

// An object that is replaced while the walk is on its way is shown as it is then.
func TestWalkWhileObjectsAreReplaced(t *testing.T) {
	e, _ := openBlobs(t, pgtest.Shared(t).NewDatabase(t), 1)
	d := storetest.NewDoc(t)
	a, b := d.Object("a", "text"), d.Object("b", "text")
	if err := e.PutObjects(t.Context(), d.Handle, []store.Object{a, b}); err != nil {
		t.Fatal(err)
	}
	objects := 0
	err := e.Walk(t.Context(), func(s store.Stored) error {
		if _, err := envelope.ParseSealed(s.Value); err != nil {
			t.Errorf("part %d: %v", s.Part, err)
		}
		if s.Part != store.PartObject {
			return nil
		}
		if objects++; objects > 1 {
			return nil
		}
		if err := e.PutObjects(t.Context(), d.Handle, []store.Object{d.Object("a", "new"), d.Object("b", "new")}); err != nil {
			return err
		}
		return e.sweep(context.WithoutCancel(t.Context()))
	})
	if err != nil || objects != 2 {
		t.Errorf("%d objects, %v; want 2", objects, err)
	}
}
