package custody

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

// keyIDOf is which key a document's objects are sealed under now.
func keyIDOf(t *testing.T, d *Document) envelope.KeyID {
	t.Helper()
	place, ok := envelope.ObjectPlace(mustSeal(t, d, "id", "x").Value)
	if !ok {
		t.Fatal("no object")
	}
	return place.KeyID
}

// Open documents go on under the new key: new segments and objects, old ones readable.
func TestDocumentKeyIsReplacedUnderAnOpenDocument(t *testing.T) {
	f := newRetained(t)
	r := f.resource(pinned)
	d := f.document(r)
	second := f.open(r, d.Handle())
	log := memory.New()
	claim, err := log.Claim(t.Context(), d.Handle())
	if err != nil {
		t.Fatal(err)
	}
	w := d.NewWriter(claim, EmptyTail(0))
	seq := uint64(0)
	appendOp := func() {
		t.Helper()
		seq++
		a, err := w.Seal(seq, seq, fmt.Appendf(nil, "op %d", seq))
		if err == nil {
			err = log.Append(t.Context(), a)
		}
		if err != nil {
			t.Fatalf("op %d: %v", seq, err)
		}
	}
	objects := map[string]store.Object{}
	ids := map[envelope.KeyID]bool{}
	for n := range 4 {
		appendOp()
		appendOp()
		id := fmt.Sprint(n)
		objects[id] = mustSeal(t, d, id, "text "+id)
		ids[keyIDOf(t, d)] = true
		if a, b := keyIDOf(t, d), keyIDOf(t, second); a != b {
			t.Errorf("two open ones seal under keys %x and %x", a, b)
		}
		if err := f.RotateDocument(t.Context(), r, d.Handle()); err != nil {
			t.Fatal(err)
		}
	}
	appendOp()
	if len(ids) != 4 {
		t.Errorf("%d keys were used, want 4", len(ids))
	}
	check := func(what string, d *Document) {
		t.Helper()
		found, err := log.Read(t.Context(), d.Handle(), 1, seq, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Headers) != 5 {
			t.Errorf("%s: %d segments, want one for each key", what, len(found.Headers))
		}
		batches, _, err := d.OpenRecords(found)
		if err != nil || len(batches) != int(seq) {
			t.Errorf("%s: %d records, %v", what, len(batches), err)
		}
		for id, o := range objects {
			mustOpen(t, d, id, o, "text "+id)
		}
	}
	check("open all the time", d)
	check("another", second)
	if err := f.turnNow(r); err != nil { // they move to the next root key together
		t.Fatal(err)
	}
	f.restart()
	check("after a restart", f.open(r, d.Handle()))

	if _, err := f.DestroyDocument(t.Context(), r, d.Handle(), "gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.OpenDocument(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after its deletion: %v, want ErrNotFound", err)
	}
	for key := range f.store.clone().rows {
		if key.Table == tableDocumentKeys {
			t.Error("a key of the deleted document is left")
		}
	}
	if err := f.RotateDocument(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("rotate a deleted document: %v", err)
	}
}

// A row that was read before it was replaced, and comes late, is not taken.
func TestDocumentKeyOfAnOlderRowIsNotTaken(t *testing.T) {
	f := newFixture(t)
	r := f.resource(Settings{})
	d := f.document(r)
	older, err := f.c.Store.GetRow(t.Context(), f.documentKeyRow(r, d.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.RotateDocument(t.Context(), r, d.Handle()); err != nil {
		t.Fatal(err)
	}
	newest := keyIDOf(t, d)
	at, _ := envelope.WrappedPlace(older.Value)
	_, rootKey, err := f.lockFor(t.Context(), r, at.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	key, at, err := rootKey.UnwrapDocumentKey(older.Value, r, d.Handle())
	f.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	d.take(key, at)
	if keyIDOf(t, d) != newest {
		t.Error("the document goes on under the key of before")
	}
}

// Keys are replaced by age: of an open document, and of one that is opened.
func TestDocumentKeysAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(Settings{})
		open, closed := f.document(r), f.document(r)
		first, o := keyIDOf(t, open), mustSeal(t, closed, "a", "text")
		closedFirst := keyIDOf(t, closed)
		closed.Close()
		f.Keeper.Close() // what follows would be thousands of probes
		time.Sleep(DefaultDocumentKeyDays*day - 2*time.Hour)
		f.start()
		open = f.open(r, open.Handle())
		time.Sleep(time.Hour)
		synctest.Wait()
		if keyIDOf(t, open) != first {
			t.Error("the key was replaced too early")
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if keyIDOf(t, open) == first {
			t.Error("the key of an open document was not replaced")
		}
		d := f.open(r, closed.Handle())
		if keyIDOf(t, d) == closedFirst {
			t.Error("the key of a document that was opened was not replaced")
		}
		mustOpen(t, d, "a", o, "text")
		again := keyIDOf(t, d)
		time.Sleep(day)
		synctest.Wait()
		if keyIDOf(t, d) != again {
			t.Error("it was replaced again")
		}
	})
}

func TestDocumentKeysAgeOnDemandOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.Keeper.Close()
		f.Keeper = New(Config{Store: f.store, Service: f.service, KeyStore: f.vault.as, Hosts: hosts, Log: f.c.Log, Policy: Policy{DocumentKeyDays: -1}})
		r := f.resource(Settings{})
		d := f.document(r)
		first := keyIDOf(t, d)
		time.Sleep(2 * day)
		f.mu.Lock()
		f.agedAt = time.Time{}
		f.mu.Unlock()
		f.rotateAged(t.Context())
		if keyIDOf(t, d) != first {
			t.Error("replaced by itself")
		}
		if err := f.RotateDocument(t.Context(), r, d.Handle()); err != nil || keyIDOf(t, d) == first {
			t.Errorf("on demand: %v", err)
		}
	})
}

// All documents of a relay, killed at any write: everything opens, and the order is finished
// by itself.
func TestDocumentKeysOfARelayKillAtEachStep(t *testing.T) {
	for step := 1; ; step++ {
		killed := false
		synctest.Test(t, func(t *testing.T) {
			f := newRetained(t)
			r := f.resource(pinned)
			type doc struct {
				h     envelope.DocumentHandle
				first envelope.KeyID
				o     store.Object
			}
			var all []doc
			for range turnPage + 2 {
				d := f.document(r)
				all = append(all, doc{d.Handle(), keyIDOf(t, d), mustSeal(t, d, "a", "text")})
				d.Close()
			}
			time.Sleep(time.Second)
			f.store.mu.Lock()
			f.store.writes, f.store.killAt = 0, step
			f.store.mu.Unlock()
			n, err := f.RotateDocuments(t.Context(), r)
			f.Keeper.Close()
			f.store.mu.Lock()
			killed = f.store.writes >= step
			f.store.killAt = 0
			f.store.mu.Unlock()
			if !killed && (err != nil || n != len(all)) {
				t.Errorf("rotated %d, %v; want %d", n, err, len(all))
			}
			f.start()
			f.open(r, all[0].h) // the relay is in use again
			time.Sleep(2 * turnEvery)
			synctest.Wait()
			replaced := 0
			for _, one := range all {
				d := f.open(r, one.h)
				mustOpen(t, d, "a", one.o, "text")
				if keyIDOf(t, d) != one.first {
					replaced++
				}
				if d.key.Older() > 1 {
					t.Errorf("step %d: a key was replaced %d times", step, d.key.Older())
				}
				d.Close()
			}
			// The order itself may not have been stored.
			if replaced != len(all) && (step > 1 || replaced != 0) {
				t.Errorf("step %d: %d of %d keys were replaced", step, replaced, len(all))
			}
			if _, _, err := f.rootRow(t.Context(), r, rotateID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("step %d: the order is still there: %v", step, err)
			}
		})
		if !killed {
			t.Logf("killed at each of %d writes", step-1)
			return
		}
	}
}

// A process that has a document open learns of a key that another one made, at the latest
// when it meets it.
func TestDocumentKeyReplacedByAnotherProcess(t *testing.T) {
	f := newFixture(t)
	r := f.resource(Settings{})
	here := f.document(r)
	g := &fixture{t: t, vault: f.vault, store: f.store, service: f.service, log: &logBook{}}
	g.start()
	defer func() { g.Keeper.Close() }()
	there := g.open(r, here.Handle())
	if err := g.RotateDocument(t.Context(), r, here.Handle()); err != nil {
		t.Fatal(err)
	}
	o := mustSeal(t, there, "a", "text")
	mustOpen(t, here, "a", o, "text")
	if keyIDOf(t, here) != keyIDOf(t, there) {
		t.Error("it was not taken in")
	}
	// What this one sealed meanwhile is under the key of before, which is still there.
	mustOpen(t, there, "b", mustSeal(t, here, "b", "text"), "text")
}

// A log that is put back goes on in a segment of its own: what is sealed twice under one
// sequence number is not sealed twice under one key.
func TestRestoredCopyBeginsANewSegment(t *testing.T) {
	f := newFixture(t)
	r := f.resource(Settings{})
	h := f.document(r).Handle()
	seen := map[string]bool{} // salts of segments, which make their keys
	// Both go on behind the same state: the original, and the copy that was restored.
	for what, disk := range map[string]*rowStore{"original": f.store, "copy": f.store.clone()} {
		g := &fixture{t: t, vault: f.vault, store: disk, service: f.service, log: &logBook{}}
		g.start()
		w := g.open(r, h).NewWriter(store.Claim{Term: 1}, EmptyTail(0))
		a, err := w.Seal(1, 1, []byte("op"))
		g.Keeper.Close()
		if err != nil || a.Header == nil {
			t.Fatalf("%s: no segment of its own, %v", what, err)
		}
		b := a.Header.Bytes()
		salt := string(b[108:124])
		if seen[salt] {
			t.Errorf("%s: a segment id came twice", what)
		}
		seen[salt] = true
	}
}
