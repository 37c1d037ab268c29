package custody

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

var (
	toVersion2  = Settings{Key: keyURL(version2), Identity: identityA}
	toIdentityB = Settings{Key: keyURL(version1), Identity: identityB}
	versionless = Settings{Key: keyURL(""), Identity: identityA}
)

func TestUpdateMovesTheRootKeyAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		o := mustSeal(t, d, "a", "text")
		w := d.NewWriter(store.Claim{Term: 1}, Tail{})
		if _, err := w.Seal(1, 1, []byte("x")); err != nil {
			t.Fatal(err)
		}
		f.vault.addVersion(version2)
		marker := store.RowWrite{RowKey: store.RowKey{Table: "marker"}, Value: &o.Value}
		if err := f.Update(t.Context(), r, toVersion2, marker); err != nil {
			t.Fatalf("update: %v", err)
		}
		if _, err := f.store.GetRow(t.Context(), marker.RowKey); err != nil {
			t.Errorf("the caller's own row: %v", err)
		}
		if s := f.Status(r); s.State != Healthy || s.KeyID != keyURL(version2).String() {
			t.Errorf("status = %+v, want Healthy under version 2", s)
		}
		// Clients go on, and the old version is not needed any more.
		f.vault.change(version1, func(k *keystore.Key) { k.Enabled = false })
		time.Sleep(10 * time.Minute)
		a, err := w.Seal(2, 2, []byte("y"))
		if err != nil || a.Header != nil {
			t.Errorf("seal after update: %v, new segment %v; want the same segment to go on", err, a.Header != nil)
		}
		mustOpen(t, d, "a", o, "text")
		if n := len(f.watches); n != 1 {
			t.Errorf("%d watches, want 1", n)
		}
		f.vault.change(version2, func(k *keystore.Key) { k.Enabled = false })
		<-d.Done()
		wantUnusable(t, d.Err(), reasonDisabled)
	})
}

func TestUpdateNeedsThePreviousVersion(t *testing.T) {
	for _, c := range []struct {
		name, code string
		spoil      func(f *fakeVault)
	}{
		{"Disabled", codePreviousDisabled, func(f *fakeVault) { f.change(version1, func(k *keystore.Key) { k.Enabled = false }) }},
		{"Expired", codePreviousExpired, func(f *fakeVault) {
			f.change(version1, func(k *keystore.Key) { k.Expires = time.Now().Add(-time.Second) })
		}},
		{"Deleted", codePreviousLost, func(f *fakeVault) { f.set(opGet+" "+version1, errNotFound) }},
		{"NoUnwrap", codePreviousLost, func(f *fakeVault) { f.set(opUnwrap+" "+version1, errDenied) }},
		{"Silent", codeUnreachable, func(f *fakeVault) { f.set(opUnwrap+" "+version1, errSilent) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			r := f.resource(pinned)
			f.vault.addVersion(version2)
			before := f.store.clone()
			c.spoil(f.vault)
			if err := f.Update(t.Context(), r, toVersion2); !hasCode(err, c.code) {
				t.Errorf("update: %v, want %s", err, c.code)
			}
			sameRows(t, before, f.store)
			f.vault.refuse = map[string]error{}
			f.vault.addVersion(version1)
			if err := f.Update(t.Context(), r, toVersion2); err != nil {
				t.Errorf("after it was repaired: %v", err)
			}
		})
	}
}

func TestUpdateToABadKeyChangesNothing(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	f.vault.addVersion(version2)
	f.vault.change(version2, func(k *keystore.Key) { k.Enabled = false })
	before := f.store.clone()
	if err := f.Update(t.Context(), r, toVersion2); !hasCode(err, codeKeyDisabled) {
		t.Errorf("update: %v, want %s", err, codeKeyDisabled)
	}
	if err := f.Update(t.Context(), r, Settings{}); !hasCode(err, codeCannotDisable) {
		t.Errorf("update to the service's key: %v, want %s", err, codeCannotDisable)
	}
	sameRows(t, before, f.store)
	if s := f.Status(r); s.KeyID != keyURL(version1).String() {
		t.Errorf("key in use = %s, want version 1", s.KeyID)
	}
}

// The identity was deleted: naming another one, which may use the key, repairs it.
func TestIdentityAloneCanBeReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		h := f.document(r).Handle()
		for _, op := range []string{opGet, opWrap, opUnwrap} {
			f.vault.set(op+" "+identityA, errIdentity)
		}
		time.Sleep(time.Minute)
		wantUnusable(t, f.Admit(t.Context(), r), reasonIdentity)
		if err := f.Update(t.Context(), r, toIdentityB); err != nil {
			t.Fatalf("update: %v", err)
		}
		if _, err := f.OpenDocument(t.Context(), r, h); err != nil {
			t.Errorf("open document: %v", err)
		}
		before := f.vault.count(identityA)
		time.Sleep(time.Minute)
		if n := f.vault.count(identityA) - before; n != 0 {
			t.Errorf("%d more calls as the old identity", n)
		}
	})
}

func TestUpdateToTheSameSettingsWrapsNothing(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	key := f.recordKey(r, currentID)
	before, _ := f.store.GetRow(t.Context(), key)
	if err := f.Update(t.Context(), r, pinned); err != nil {
		t.Fatal(err)
	}
	after, _ := f.store.GetRow(t.Context(), key)
	if before.Revision != after.Revision {
		t.Error("the wrap record was written again")
	}
	f.vault.change(version1, func(k *keystore.Key) { k.Operations = []string{"sign"} })
	if err := f.Update(t.Context(), r, pinned); !hasCode(err, codeKeyOps) {
		t.Errorf("update: %v, want %s", err, codeKeyOps)
	}
}

func TestConcurrentUpdatesLeaveOneKey(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	h := f.document(r).Handle()
	f.vault.addVersion(version2)
	errs := make(chan error, 2)
	for _, s := range []Settings{toVersion2, toIdentityB} {
		go func() { errs <- f.Update(context.Background(), r, s) }()
	}
	for range 2 {
		if err := <-errs; err != nil && !errors.Is(err, store.ErrConflict) {
			t.Errorf("update: %v, want success or ErrConflict", err)
		}
	}
	rec, _, err := f.readRecord(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if s := f.Status(r); s.KeyID != rec.KeyID {
		t.Errorf("in use: %s, stored: %s", s.KeyID, rec.KeyID)
	}
	f.restart()
	if _, err := f.OpenDocument(t.Context(), r, h); err != nil {
		t.Errorf("open after restart: %v", err)
	}
}

// Two changes that began with the same record: the slower one must not undo the other.
func TestUpdateOvertakenByAnother(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	f.vault.addVersion(version2)
	f.vault.onWrap = func() {
		if err := f.Update(context.Background(), r, toIdentityB); err != nil {
			t.Errorf("the faster update: %v", err)
		}
	}
	if err := f.Update(t.Context(), r, toVersion2); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the slower update: %v, want ErrConflict", err)
	}
	if s := f.Status(r); s.KeyID != keyURL(version1).String() {
		t.Errorf("in use: %s, want version 1", s.KeyID)
	}
}

// An update between the look and the delete leaves one record more; it must go too.
func TestDeleteOvertakenByAnUpdate(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	f.vault.addVersion(version2)
	hook := &listHookStore{rowStore: f.store}
	f.under = hook
	f.restart()
	hook.do(tableRootKeys, func() {
		if err := f.Update(context.Background(), r, toVersion2); err != nil {
			t.Errorf("update: %v", err)
		}
	})
	if _, err := f.Delete(t.Context(), r, "contoso"); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if rows, _ := f.store.ListRows(t.Context(), tableRootKeys, f.partition(r), envelope.Name{}, 10); len(rows) != 0 {
		t.Errorf("%d wrap records are left", len(rows))
	}
}

// listHookStore does something once, after a list was read.
type listHookStore struct {
	*rowStore

	mu    sync.Mutex
	table store.Table
	after func()
}

func (s *listHookStore) do(table store.Table, after func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table, s.after = table, after
}

func (s *listHookStore) ListRows(ctx context.Context, t store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	rows, err := s.rowStore.ListRows(ctx, t, partition, after, limit)
	s.mu.Lock()
	do := s.after
	if s.table != t {
		do = nil
	} else {
		s.after = nil
	}
	s.mu.Unlock()
	if do != nil {
		do()
	}
	return rows, err
}

func TestVersionlessKeyKeepsTheVersionThatWrapped(t *testing.T) {
	f := newFixture(t)
	r := f.resource(versionless)
	h := f.document(r).Handle()
	f.vault.addVersion(version2)
	f.restart()
	if _, err := f.OpenDocument(t.Context(), r, h); err != nil {
		t.Fatalf("open: %v", err)
	}
	if s := f.Status(r); s.KeyID != keyURL(version1).String() {
		t.Errorf("key in use = %s, want version 1", s.KeyID)
	}
	rec, _, err := f.readRecord(t.Context(), r)
	if err != nil || rec.KeyURL != keyURL("").String() {
		t.Errorf("recorded URL = %v, %v; want it without version", rec, err)
	}
}

// Whatever the store does with the one write of an update, afterwards there is a
// record that opens, and it is the one in use.
func TestStoreFaultsDuringChangesLeaveARecordThatOpens(t *testing.T) {
	errDisk := errors.New("disk fault")
	for _, persist := range []bool{false, true} {
		for _, unreadable := range []bool{false, true} {
			t.Run(fmt.Sprintf("persist=%v,unreadable=%v", persist, unreadable), func(t *testing.T) {
				f := newFixture(t)
				r := f.resource(pinned)
				h := f.document(r).Handle()
				f.vault.addVersion(version2)
				faulty := &writeFaultStore{rowStore: f.store, err: errDisk, persist: persist, unreadable: unreadable}
				f.under = faulty
				f.restart()
				if err := f.Admit(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				faulty.on.Store(true)
				err := f.Update(t.Context(), r, toVersion2)
				wantOK := persist && !unreadable
				if (err == nil) != wantOK {
					t.Errorf("update: %v, want success %v", err, wantOK)
				}
				faulty.on.Store(false)
				for range 2 { // in this process, and after a restart
					if _, err := f.OpenDocument(t.Context(), r, h); err != nil {
						t.Errorf("open: %v", err)
					}
					rec, _, err := f.readRecord(t.Context(), r)
					if err != nil {
						t.Fatal(err)
					}
					if s := f.Status(r); s.KeyID != rec.KeyID {
						t.Errorf("in use: %s, stored: %s", s.KeyID, rec.KeyID)
					}
					f.restart()
				}
			})
		}
	}
}

// writeFaultStore fails all writes while it is on, and then reads.
type writeFaultStore struct {
	*rowStore
	on                  atomic.Bool
	err                 error
	persist, unreadable bool
	failed              atomic.Bool
}

func (s *writeFaultStore) WriteRows(ctx context.Context, w []store.RowWrite) error {
	if !s.on.Load() {
		return s.rowStore.WriteRows(ctx, w)
	}
	s.failed.Store(true)
	if s.persist {
		if err := s.rowStore.WriteRows(ctx, w); err != nil {
			return err
		}
	}
	return s.err
}

func (s *writeFaultStore) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	if s.on.Load() && s.failed.Load() && s.unreadable {
		return store.Row{}, s.err
	}
	return s.rowStore.GetRow(ctx, key)
}

func TestCreateWithLostAnswer(t *testing.T) {
	for _, persist := range []bool{false, true} {
		f := newFixture(t)
		f.store.failNext, f.store.persist = errors.New("disk fault"), persist
		r := envelope.ResourceID{1}
		if err := f.Create(t.Context(), r, pinned); (err == nil) != persist {
			t.Errorf("persist=%v: create: %v", persist, err)
		}
		if err := f.Admit(t.Context(), r); (err == nil) != persist {
			t.Errorf("persist=%v: admit: %v", persist, err)
		}
		if err := f.Create(t.Context(), r, pinned); errors.Is(err, store.ErrConflict) != persist {
			t.Errorf("persist=%v: create again: %v", persist, err)
		}
	}
}

func TestDeleteDestroysEveryKey(t *testing.T) {
	f := newFixture(t)
	r, other := f.resource(pinned), f.resource(pinned)
	d, kept := f.document(r), f.document(other)
	f.vault.addVersion(version2)
	if err := f.Update(t.Context(), r, toVersion2); err != nil {
		t.Fatal(err)
	}
	documentRow, err := f.store.GetRow(t.Context(), f.documentKeyRow(r, d.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	f.vault.set("*", errSilent) // it needs no key store
	if _, err := f.Delete(t.Context(), r, "contoso"); err != nil {
		t.Fatalf("delete: %v", err)
	}
	f.vault.set("*", nil)
	<-d.Done()
	if err := d.Err(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open document: %v, want ErrNotFound", err)
	}
	if rows, _ := f.store.ListRows(t.Context(), tableRootKeys, f.partition(r), envelope.Name{}, 10); len(rows) != 0 {
		t.Errorf("%d wrap records are left", len(rows))
	}
	// Whoever kept the document's wrapped key and its data has nothing to open them with.
	f.store.put(documentRow)
	f.restart()
	if _, err := f.OpenDocument(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open with the document key put back: %v, want ErrNotFound", err)
	}
	// Nor does the id help, given a new root key.
	if err := f.Create(t.Context(), r, pinned); err != nil {
		t.Fatal(err)
	}
	if _, err := f.OpenDocument(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("open under a new root key: %v, want ErrCorrupt", err)
	}
	if _, err := f.OpenDocument(t.Context(), other, kept.Handle()); err != nil {
		t.Errorf("the other resource: %v", err)
	}
	if _, err := f.Delete(t.Context(), envelope.ResourceID{99}, "contoso"); err != nil {
		t.Errorf("delete of an unknown resource: %v", err)
	}
}

func TestDeleteWithLostAnswer(t *testing.T) {
	for _, persist := range []bool{false, true} {
		f := newFixture(t)
		r := f.resource(pinned)
		f.store.failNext, f.store.persist = errors.New("disk fault"), persist
		if _, err := f.Delete(t.Context(), r, "contoso"); (err == nil) != persist {
			t.Errorf("persist=%v: delete: %v", persist, err)
		}
		if err := f.Admit(t.Context(), r); errors.Is(err, store.ErrNotFound) != persist {
			t.Errorf("persist=%v: admit: %v", persist, err)
		}
	}
}

func TestDeleteInOneWriteWithTheCallersRows(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	stale := store.RowWrite{RowKey: store.RowKey{Table: "marker"}, Expect: store.AtRevision(3)}
	if _, err := f.Delete(t.Context(), r, "contoso", stale); !errors.Is(err, store.ErrConflict) {
		t.Errorf("delete: %v, want ErrConflict", err)
	}
	if err := f.Admit(t.Context(), r); err != nil {
		t.Errorf("after a refused delete: %v", err)
	}
}

func TestDestroyDocumentEndsItAndItsKey(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	d, other := f.document(r), f.document(r)
	f.vault.set("*", errSilent) // it needs no key store
	if _, err := f.DestroyDocument(t.Context(), r, d.Handle(), "notes"); err != nil {
		t.Fatal(err)
	}
	<-d.Done()
	if err := d.Err(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("document: %v, want ErrNotFound", err)
	}
	if _, err := f.OpenDocument(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open: %v, want ErrNotFound", err)
	}
	if err := other.Err(); err != nil {
		t.Errorf("the other document: %v", err)
	}
}

// sameRows: but for the log of key uses, which tells of what changed nothing, too.
func sameRows(t *testing.T, a, b *rowStore) {
	t.Helper()
	if a.count() != b.count() {
		t.Errorf("%d rows, want %d", b.count(), a.count())
	}
	for k, r := range a.clone().rows {
		if k.Table != tableKeyUses && b.at(k).Revision != r.Revision {
			t.Errorf("a row of %s changed", k.Table)
		}
	}
}
