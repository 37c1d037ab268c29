package pebble

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func openDir(t testing.TB, dir string) store.Store {
	t.Helper()
	st, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestContract(t *testing.T) {
	storetest.TestStore(t, func(t *testing.T) store.Store { return openDir(t, t.TempDir()) })
}

func TestReopen(t *testing.T) {
	storetest.TestReopen(t, func(t *testing.T) (store.Store, func() store.Store) {
		dir := filepath.Join(t.TempDir(), "a", "b")
		return openDir(t, dir), func() store.Store { return openDir(t, dir) }
	})
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	put := func(t *testing.T, name, content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct {
		name string
		dir  func(t *testing.T) string
		want string
	}{
		{"OtherVersion", func(t *testing.T) string { return put(t, "TIDELOCK", "tidelock data 9\n") }, `the format "tidelock data 9" and this tidelock speaks "tidelock data 1"`},
		{"Foreign", func(t *testing.T) string { return put(t, "letter.txt", "Dear Ada") }, "not a Tidelock data directory and not empty (it holds letter.txt)"},
		{"TornVersion", func(t *testing.T) string { return put(t, "TIDELOCK", "") }, `the format ""`},
		{"File", func(t *testing.T) string { return filepath.Join(put(t, "f", ""), "f") }, "data directory"},
		{"BelowAFile", func(t *testing.T) string { return filepath.Join(put(t, "f", ""), "f", "data") }, "data directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.dir(t)
			before, _ := os.ReadDir(dir)
			st, err := Open(Options{Dir: dir})
			if err == nil {
				st.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("it has %d entries, had %d", len(after), len(before))
			}
		})
	}
}

// What is trimmed is gone from the database, headers of its segments included.
func TestTrimLeavesNoKeys(t *testing.T) {
	e, d := openDir(t, t.TempDir()).(*engine), storetest.NewDoc(t)
	appendAll(t, e, d, 3)
	c, err := e.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	d.NewSegment(c.Term, 4)
	for head := uint64(3); head < 6; head++ {
		if err := e.Append(t.Context(), d.Append(c, head, head+1, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Trim(t.Context(), d.Handle, c.Term, 5); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(8) {
		for part, want := range map[byte]bool{partRecord: seq == 5 || seq == 6, partHeader: seq == 4} {
			if _, err := get(e.db, seqKey(d.Handle, part, seq)); (err == nil) != want {
				t.Errorf("%c of %d: %v, want it there: %t", part, seq, err, want)
			}
		}
	}
}

// A damaged log is not trimmed: what is left may be all there is to rescue.
func TestDamageIsNotTrimmed(t *testing.T) {
	e, d := openDir(t, t.TempDir()).(*engine), storetest.NewDoc(t)
	c := appendAll(t, e, d, 5)
	if err := e.db.Delete(seqKey(d.Handle, partRecord, 3), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := e.Trim(t.Context(), d.Handle, c.Term, 3); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	if _, err := get(e.db, seqKey(d.Handle, partRecord, 1)); err != nil {
		t.Errorf("the first record: %v", err)
	}
}

// Damage that needs no key to be seen is told as such, and is not served.
func TestDamageIsCorrupt(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(db *pebble.DB, d *storetest.Doc) error
	}{
		{"MissingRecord", func(db *pebble.DB, d *storetest.Doc) error {
			return db.Delete(seqKey(d.Handle, partRecord, 2), pebble.Sync)
		}},
		{"MissingFirstRecord", func(db *pebble.DB, d *storetest.Doc) error {
			return db.Delete(seqKey(d.Handle, partRecord, 1), pebble.Sync)
		}},
		{"MissingLastRecord", func(db *pebble.DB, d *storetest.Doc) error {
			return db.Delete(seqKey(d.Handle, partRecord, 6), pebble.Sync)
		}},
		{"MovedRecord", func(db *pebble.DB, d *storetest.Doc) error {
			last, err := get(db, seqKey(d.Handle, partRecord, 6))
			return errors.Join(err, db.Delete(seqKey(d.Handle, partRecord, 6), pebble.Sync), db.Set(seqKey(d.Handle, partRecord, 5), last, pebble.Sync))
		}},
		{"CutRecord", func(db *pebble.DB, d *storetest.Doc) error {
			return change(db, seqKey(d.Handle, partRecord, 2), func(b []byte) []byte { return b[:len(b)-1] })
		}},
		{"NotARecord", func(db *pebble.DB, d *storetest.Doc) error {
			return change(db, seqKey(d.Handle, partRecord, 2), func([]byte) []byte { return []byte("plain") })
		}},
		{"AnotherRecord", func(db *pebble.DB, d *storetest.Doc) error {
			other, err := get(db, seqKey(d.Handle, partRecord, 1))
			return errors.Join(err, change(db, seqKey(d.Handle, partRecord, 2), func([]byte) []byte { return other }))
		}},
		{"MissingHeader", func(db *pebble.DB, d *storetest.Doc) error {
			return db.Delete(seqKey(d.Handle, partHeader, 1), pebble.Sync)
		}},
		{"CutHeader", func(db *pebble.DB, d *storetest.Doc) error {
			return change(db, seqKey(d.Handle, partHeader, 1), func(b []byte) []byte { return b[:len(b)-1] })
		}},
		{"MovedHeader", func(db *pebble.DB, d *storetest.Doc) error {
			h, err := get(db, seqKey(d.Handle, partHeader, 1))
			return errors.Join(err, db.Set(seqKey(d.Handle, partHeader, 2), h, pebble.Sync))
		}},
		{"CutState", func(db *pebble.DB, d *storetest.Doc) error {
			return change(db, documentKey(d.Handle, partState), func(b []byte) []byte { return b[:15] })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, d := openDir(t, t.TempDir()).(*engine), storetest.NewDoc(t)
			claim := appendAll(t, e, d, 3)
			if err := e.Append(t.Context(), d.Append(claim, 3, 6, "three ops")); err != nil {
				t.Fatal(err)
			}
			if err := c.damage(e.db, d); err != nil {
				t.Fatal(err)
			}
			r, err := e.Read(t.Context(), d.Handle, 1, 6, 0)
			if !errors.Is(err, store.ErrCorrupt) || r.Records != nil {
				t.Errorf("got %d records, %v; want none and ErrCorrupt", len(r.Records), err)
			}
			if err := e.DeleteDocument(t.Context(), d.Handle); err != nil {
				t.Errorf("a damaged document cannot be deleted: %v", err)
			}
		})
	}
}

func TestDamagedObjectAndRowAreCorrupt(t *testing.T) {
	e, d := openDir(t, t.TempDir()).(*engine), storetest.NewDoc(t)
	object := d.Object("id", "x")
	row := store.RowKey{Table: "t"}
	bad := []byte("plain")
	for _, key := range [][]byte{documentKey(d.Handle, partObject, object.Name[:]...), rowKey(row)} {
		if err := e.db.Set(key, bad, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	_, objectErr := e.GetObject(t.Context(), d.Handle, object.Name)
	_, rowErr := e.GetRow(t.Context(), row)
	_, listErr := e.ListRows(t.Context(), "t", row.Partition, row.Name, 9)
	for what, err := range map[string]error{"GetObject": objectErr, "GetRow": rowErr, "ListRows": listErr} {
		if !errors.Is(err, store.ErrCorrupt) || strings.Contains(err.Error(), "plain") {
			t.Errorf("%s: got %v, want ErrCorrupt without the contents", what, err)
		}
	}
}

// change replaces what is stored at key, behind the engine's back.
func change(db *pebble.DB, key []byte, f func([]byte) []byte) error {
	b, err := get(db, key)
	if err != nil {
		return err
	}
	return db.Set(key, f(b), pebble.Sync)
}
