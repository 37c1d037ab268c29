package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// faultyBlobs is an object store that can be away.
type faultyBlobs struct {
	blobs.Store
	away atomic.Bool
}

var errAway = errors.New("the object store is away")

func (f *faultyBlobs) Put(ctx context.Context, n blobs.Name, v envelope.Sealed) error {
	if f.away.Load() {
		// Written all the same: the answer is lost.
		return errors.Join(errAway, f.Store.Put(ctx, n, v))
	}
	return f.Store.Put(ctx, n, v)
}

func (f *faultyBlobs) Delete(ctx context.Context, n blobs.Name) error {
	if f.away.Load() {
		return errAway
	}
	return f.Store.Delete(ctx, n)
}

// openBlobs opens an engine that keeps all objects of at least so many bytes in a directory.
func openBlobs(t *testing.T, url string, least int) (*Engine, *faultyBlobs) {
	t.Helper()
	dir, err := blobs.Open(t.Context(), blobs.Options{Place: "dir:" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	st := &faultyBlobs{Store: dir}
	return openOn(t, Options{URL: url, Blobs: st, blobBytes: least}), st
}

func openOn(t *testing.T, o Options) *Engine {
	t.Helper()
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func (f *faultyBlobs) count(t *testing.T) int {
	t.Helper()
	names, err := f.List(t.Context(), blobs.Name{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestContractWithObjectStore(t *testing.T) {
	pgtest.Shared(t)
	storetest.TestStore(t, func(t *testing.T) store.Store {
		e, _ := openBlobs(t, pgtest.Shared(t).NewDatabase(t), 1)
		return e
	})
}

// Objects change between the database and the object store with their size, and what
// nothing refers to is removed.
func TestBlobsComeAndGo(t *testing.T) {
	e, st := openBlobs(t, pgtest.Shared(t).NewDatabase(t), 10_000)
	d := storetest.NewDoc(t)
	check := func(what string, o store.Object, blobs int) {
		t.Helper()
		if err := e.PutObjects(t.Context(), d.Handle, []store.Object{d.Object("other", "small"), o}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, err := e.GetObject(t.Context(), d.Handle, o.Name)
		if err != nil || !slices.Equal(got.Bytes(), o.Value.Bytes()) {
			t.Errorf("%s: %d bytes, %v; want %d", what, len(got.Bytes()), err, len(o.Value.Bytes()))
		}
		if err := e.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := st.count(t); n != blobs {
			t.Errorf("%s: %d blobs, want %d", what, n, blobs)
		}
	}
	big := strings.Repeat("x", 20_000)
	check("large", d.Object("a", big), 1)
	check("replaced", d.Object("a", big+big), 1)
	check("second", d.Object("b", big), 2)
	check("made small", d.Object("a", "small"), 1)
	check("several parts", d.Object("c", strings.Repeat("x", 9_000)), 1)
	e.blobs.least = 1 << 30
	check("large in the database", d.Object("b", strings.Repeat("x", 3*partBytes)), 0)
	e.blobs.least = 10_000
	check("large again", d.Object("b", big), 1)

	if err := e.DeleteDocument(t.Context(), d.Handle); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); st.count(t) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d blobs of a deleted document are left", st.count(t))
		}
	}
	var noted int
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.pool.QueryRow(t.Context(), "SELECT count(*) FROM blobs").Scan(&noted); err != nil || noted != 0 {
		t.Errorf("%d blobs are still noted, %v", noted, err)
	}
}

// Whatever ends a write or a deletion in the middle, no object is half there and no blob
// stays for ever.
func TestBlobsAfterFaults(t *testing.T) {
	url := pgtest.Shared(t).NewDatabase(t)
	e, st := openBlobs(t, url, 1)
	d := storetest.NewDoc(t)
	old, other := d.Object("a", "old"), d.Object("b", "b")
	if err := e.PutObjects(t.Context(), d.Handle, []store.Object{old}); err != nil {
		t.Fatal(err)
	}
	st.away.Store(true)
	if err := e.PutObjects(t.Context(), d.Handle, []store.Object{d.Object("a", "new"), other}); !errors.Is(err, errAway) {
		t.Errorf("got %v, want the object store's error", err)
	}
	if got, err := e.GetObject(t.Context(), d.Handle, old.Name); err != nil || !slices.Equal(got.Bytes(), old.Value.Bytes()) {
		t.Errorf("after a write that failed: %v, want the old object", err)
	}
	if has, err := e.HasObject(t.Context(), d.Handle, other.Name); err != nil || has {
		t.Errorf("has the other = %t, %v; want none", has, err)
	}
	if st.count(t) < 2 {
		t.Fatalf("%d blobs; the fault left nothing behind", st.count(t))
	}
	st.away.Store(false)
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st.count(t) < 2 {
		t.Error("a blob that may still be written was swept")
	}
	late := openOn(t, Options{URL: url, Blobs: st, blobGrace: time.Nanosecond})
	if err := late.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := st.count(t); n != 1 {
		t.Errorf("%d blobs after the sweep, want that of the object", n)
	}

	st.away.Store(true)
	if err := e.DeleteDocument(t.Context(), d.Handle); err != nil {
		t.Errorf("a deletion needs no object store to be durable: %v", err)
	}
	if _, err := e.GetObject(t.Context(), d.Handle, old.Name); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("object of a deleted document: %v", err)
	}
	if err := e.sweep(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("sweep: got %v, want the object store's error", err)
	}
	st.away.Store(false)
	if err := e.sweep(t.Context()); err != nil || st.count(t) != 0 {
		t.Errorf("%d blobs, %v; want none", st.count(t), err)
	}
}

// A writer whose blobs were swept, for he was too slow, must not refer to them.
func TestSweptWriteFails(t *testing.T) {
	url := pgtest.Shared(t).NewDatabase(t)
	_, st := openBlobs(t, url, 1)
	d := storetest.NewDoc(t)
	slow := &slowBlobs{faultyBlobs: st, put: make(chan struct{}), goOn: make(chan struct{})}
	e := openOn(t, Options{URL: url, Blobs: slow, blobBytes: 1, blobGrace: time.Nanosecond})
	ended := make(chan error, 1)
	o := d.Object("a", "x")
	go func() { ended <- e.PutObjects(context.Background(), d.Handle, []store.Object{o}) }()
	<-slow.put
	if err := e.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(slow.goOn)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "took too long") {
		t.Errorf("got %v, want it refused", err)
	}
	if has, err := e.HasObject(t.Context(), d.Handle, o.Name); err != nil || has {
		t.Errorf("has = %t, %v; want false", has, err)
	}
}

type slowBlobs struct {
	*faultyBlobs
	put, goOn chan struct{}
}

func (s *slowBlobs) Put(ctx context.Context, n blobs.Name, v envelope.Sealed) error {
	close(s.put)
	<-s.goOn
	return s.faultyBlobs.Put(ctx, n, v)
}

func TestMissingBlobIsCorrupt(t *testing.T) {
	url := pgtest.Shared(t).NewDatabase(t)
	e, st := openBlobs(t, url, 1)
	d := storetest.NewDoc(t)
	o := d.Object("a", "x")
	if err := e.PutObjects(t.Context(), d.Handle, []store.Object{o}); err != nil {
		t.Fatal(err)
	}
	names, err := st.List(t.Context(), blobs.Name{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Store.Delete(t.Context(), names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := e.GetObject(t.Context(), d.Handle, o.Name); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("missing: got %v, want ErrCorrupt", err)
	}
	if err := st.Put(t.Context(), names[0], d.Object("longer", "another").Value); err != nil {
		t.Fatal(err)
	}
	if _, err := e.GetObject(t.Context(), d.Handle, o.Name); err == nil {
		t.Error("a longer blob in its place was taken")
	}
	without, err := Open(t.Context(), Options{URL: url})
	if err == nil {
		without.Close()
		t.Fatal("a database whose objects are elsewhere was opened without the object store")
	}
	if !strings.Contains(err.Error(), "--blobs") {
		t.Errorf("got %q, want it to name --blobs", err)
	}
}
