package custody

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// retained is a fixture under a retention key.
func newRetained(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.secret = &memoryFile{}
	f.restart()
	return f
}

func (f *fixture) record(r envelope.ResourceID) *wrapRecord {
	f.t.Helper()
	rec, _, err := f.readRecord(f.t.Context(), r)
	if err != nil {
		f.t.Fatalf("read the wrap record: %v", err)
	}
	return rec
}

// turnNow ends the epoch, whether it is time or not.
func (f *fixture) turnNow(r envelope.ResourceID) error {
	f.t.Helper()
	f.epochDue(r)
	return endEpoch(f.t.Context(), f.Keeper, r)
}

// epochDue has r's epoch used up.
func (f *fixture) epochDue(r envelope.ResourceID) {
	f.t.Helper()
	if err := f.Admit(f.t.Context(), r); err != nil {
		f.t.Fatalf("admit: %v", err)
	}
	useUpEpoch(f.Keeper, r)
}

// useUpEpoch has k count as many wraps of r's root key as an epoch has.
func useUpEpoch(k *Keeper, r envelope.ResourceID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.roots[r].wraps = epochWraps
}

// endEpoch ends the epoch of r, also while k's own housekeeping is at it.
func endEpoch(ctx context.Context, k *Keeper, r envelope.ResourceID) error {
	for {
		if _, err := k.turn(ctx, r); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

func (f *fixture) open(r envelope.ResourceID, h envelope.DocumentHandle) *Document {
	f.t.Helper()
	d, err := f.OpenDocument(f.t.Context(), r, h)
	if err != nil {
		f.t.Fatalf("open document: %v", err)
	}
	return d
}

func TestEpochMovesAllKeysAndDisturbsNobody(t *testing.T) {
	f := newRetained(t)
	r := f.resource(pinned)
	open := f.document(r)
	kept := mustSeal(t, open, "o", "text")
	var all []envelope.DocumentHandle
	for range turnPage + 3 {
		d := f.document(r)
		all = append(all, d.Handle())
		d.Close()
	}
	before := f.store.clone()
	if err := f.turnNow(r); err != nil {
		t.Fatalf("turn: %v", err)
	}
	if rec := f.record(r); rec.Epoch != 2 || rec.Generation != 2 || rec.KeyID != keyURL(version1).String() {
		t.Errorf("record in force: %+v", rec)
	}
	mustOpen(t, open, "o", kept, "text") // it was open all the time
	mustSeal(t, open, "p", "more")
	for key, row := range f.store.clone().rows {
		if key.Table == tableDocumentKeys && bytes.Equal(row.Value.Bytes(), before.rows[key].Value.Bytes()) {
			t.Fatal("a document key was not rewrapped")
		}
	}
	if next, err := f.readNext(t.Context(), r); next != nil || err != nil {
		t.Errorf("the next root key is still there: %v, %v", next, err)
	}
	f.restart()
	for _, h := range append(all, open.Handle()) {
		f.open(r, h).Close()
	}
	// What wrapped the root key before is gone, what is told of it is not.
	old, _, err := f.readRecordAt(t.Context(), r, previousRecordID(1))
	if err != nil || len(old.Wrapped) != 0 || old.KeyID != keyURL(version1).String() {
		t.Errorf("the record before: %+v, %v", old, err)
	}
	if h, err := f.History(t.Context(), r); err != nil || len(h) != 2 {
		t.Errorf("history: %v, %v", h, err)
	}
	// A document key of before, put back, does not open.
	key := f.documentKeyRow(r, all[0])
	f.store.put(before.rows[key])
	if _, err := f.OpenDocument(t.Context(), r, all[0]); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a document key of the epoch before: %v, want ErrCorrupt", err)
	}
}

// A process that is killed at any write of an epoch's change leaves a store that opens:
// with the old root key or with the new one, and the change is finished later.
func TestScenario37KillAtEachStepOfAnEpoch(t *testing.T) {
	for step := 1; ; step++ {
		f := newRetained(t)
		r := f.resource(versionless)
		d := f.document(r)
		text := mustSeal(t, d, "o", "text")
		gone := f.document(r).Handle()
		if _, err := f.DestroyDocument(t.Context(), r, gone, "gone"); err != nil {
			t.Fatal(err)
		}
		first := f.record(r).Commitment

		f.store.mu.Lock()
		f.store.writes, f.store.killAt = 0, step
		f.store.mu.Unlock()
		err := f.turnNow(r)
		f.Keeper.Close()
		f.store.mu.Lock()
		killed := f.store.writes >= step
		f.store.killAt = 0
		f.store.mu.Unlock()

		f.start()
		mustOpen(t, f.open(r, d.Handle()), "o", text, "text")
		rec := f.record(r)
		if rec.Epoch == 1 != bytes.Equal(rec.Commitment, first) {
			t.Fatalf("step %d: a root key of epoch %d that nobody made", step, rec.Epoch)
		}
		made := f.document(r) // goes on, under whichever root key is the newest
		// While the change is pending the customer's key may move on.
		f.vault.addVersion(version2)
		f.adopt(t.Context(), r)
		f.vault.change(version1, disabled)
		if err := f.turnNow(r); err != nil {
			t.Fatalf("step %d: going on: %v", step, err)
		}
		if got := f.record(r); got.Epoch < 2 || got.KeyID != keyURL(version2).String() {
			t.Errorf("step %d: after going on: %+v", step, got)
		}
		f.restart()
		mustOpen(t, f.open(r, d.Handle()), "o", text, "text")
		f.open(r, made.Handle())
		if _, err := f.OpenDocument(t.Context(), r, gone); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("step %d: the deleted document: %v", step, err)
		}
		if !killed {
			if err != nil {
				t.Fatalf("not killed, and %v", err)
			}
			t.Logf("killed at each of %d writes", step-1)
			return
		}
	}
}

func TestScenario37KillAtEachStepOfARewrap(t *testing.T) {
	for step := 1; ; step++ {
		f := newRetained(t)
		r := f.resource(pinned)
		h := f.document(r).Handle()
		first := f.record(r).Commitment
		f.vault.addVersion(version2)
		f.store.mu.Lock()
		f.store.writes, f.store.killAt = 0, step
		f.store.mu.Unlock()
		_ = f.Update(t.Context(), r, toVersion2) // killed, or not
		f.Keeper.Close()
		f.store.mu.Lock()
		killed := f.store.writes >= step
		f.store.killAt = 0
		f.store.mu.Unlock()
		f.start()
		f.open(r, h)
		if rec := f.record(r); !bytes.Equal(rec.Commitment, first) {
			t.Fatalf("step %d: a fresh root key", step)
		}
		if !killed {
			return
		}
	}
}

// Documents that are made while their resource's root key is replaced are under a root
// key that stays, whenever they are stored.
func TestDocumentMadeWhileTheEpochEnds(t *testing.T) {
	f := newRetained(t)
	r := f.resource(pinned)
	d, err := f.NewDocument(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	write, number, err := d.wrapped(t.Context()) // under epoch 1, and not stored yet
	if err != nil || number != 1 {
		t.Fatalf("epoch %d, %v", number, err)
	}
	if err := f.turnNow(r); err != nil {
		t.Fatal(err)
	}
	guard := f.stillOpen(r, number, d.Handle())
	if err := f.store.WriteRows(t.Context(), []store.RowWrite{write, guard}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("stored under the epoch that is over: %v, want ErrConflict", err)
	}
	if err := d.Create(t.Context()); err != nil {
		t.Fatalf("create: %v", err)
	}
	f.restart()
	f.open(r, d.Handle())
	taken := store.RowWrite{RowKey: f.recordKey(r, currentID), Expect: store.Absent}
	again, err := f.NewDocument(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Create(t.Context(), taken); !errors.Is(err, store.ErrConflict) {
		t.Errorf("with another row in the way: %v, want ErrConflict", err)
	}
}

// Two processes on one store: the other is told of the new root key, or learns of it by
// meeting it.
func TestEpochEndedByAnotherProcess(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("Told%t", told), func(t *testing.T) { testEpochEndedByAnotherProcess(t, told) })
	}
}

func testEpochEndedByAnotherProcess(t *testing.T, told bool) {
	f := newRetained(t)
	r := f.resource(pinned)
	h := f.document(r).Handle()
	other := &fixture{t: t, vault: f.vault, store: f.store, service: f.service, log: &logBook{}, secret: f.secret}
	other.start()
	defer other.Keeper.Close()
	open := other.open(r, h)
	stale, err := other.NewDocument(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.turnNow(r); err != nil {
		t.Fatal(err)
	}
	if told {
		if err := other.reload(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		made := other.document(r) // under the new root key
		f.open(r, made.Handle())
	}
	if err := open.Err(); err != nil {
		t.Errorf("an open document of the other process: %v", err)
	}
	other.open(r, h)
	if err := stale.Create(t.Context()); err != nil {
		t.Errorf("a document made under the root key before: %v", err)
	}
	f.open(r, stale.Handle())
}

func TestScenario39DeletedDocumentIsGoneFromOldCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRetained(t)
		r := f.resource(pinned)
		d := f.document(r)
		text := mustSeal(t, d, "o", "text")
		other := f.document(r).Handle()
		copied := f.store.clone() // of the data, not of the keys beside it

		receipt, err := f.DestroyDocument(t.Context(), r, d.Handle(), "notes")
		if err != nil {
			t.Fatal(err)
		}
		if receipt.Final() || receipt.OldCopies == nil || receipt.Epoch != 1 || receipt.Name != "notes" ||
			receipt.Document != hex.EncodeToString(d.at.Document[:]) || receipt.KeyID != hex.EncodeToString(d.at.KeyID[:]) {
			t.Errorf("receipt: %+v", receipt)
		}
		time.Sleep(EpochAfterDeletion + 2*turnEvery)
		synctest.Wait()
		if rec := f.record(r); rec.Epoch != 2 {
			t.Fatalf("epoch %d, an hour after a deletion", rec.Epoch)
		}
		all, _, err := f.Receipts(t.Context(), "", 10)
		if err != nil || len(all) != 1 || !all[0].Final() {
			t.Fatalf("receipts: %+v, %v", all, err)
		}
		until := *all[0].OldCopies

		restored := func() *fixture {
			g := &fixture{t: t, vault: f.vault, store: copied.clone(), service: f.service, log: &logBook{}, secret: f.secret}
			g.start()
			return g
		}
		// The same copy with what exists now of the keys in it: see what a thief could do.
		time.Sleep(time.Until(until) - time.Minute)
		synctest.Wait()
		within := restored()
		mustOpen(t, within.open(r, d.Handle()), "o", text, "text")
		within.Keeper.Close()

		time.Sleep(2 * time.Minute)
		synctest.Wait()
		after := restored()
		defer after.Keeper.Close()
		for _, h := range []envelope.DocumentHandle{d.Handle(), other} {
			if _, err := after.OpenDocument(t.Context(), r, h); !errors.Is(err, errRetention) {
				t.Errorf("from the copy, after the retention: %v, want errRetention", err)
			}
		}
		// Not even with the keys of the present: the root key is another one.
		now := f.store.clone()
		for key, row := range copied.rows {
			if key.Table == tableDocumentKeys {
				now.rows[key] = row
			}
		}
		mixed := &fixture{t: t, vault: f.vault, store: now, service: f.service, log: &logBook{}, secret: f.secret}
		mixed.start()
		defer mixed.Keeper.Close()
		if _, err := mixed.OpenDocument(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("its key from the copy, under today's root key: %v, want ErrCorrupt", err)
		}
		// What was not deleted is where it was.
		f.open(r, other)
		f.restart()
		f.open(r, other)
	})
}

func TestEpochEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRetained(t)
		r := f.resource(Settings{}) // the service-managed key goes the same way
		h := f.document(r).Handle()
		f.Keeper.Close()
		time.Sleep(EpochEvery - 2*time.Hour)
		f.start()
		f.open(r, h)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := f.record(r).Epoch; n != 1 {
			t.Errorf("epoch %d too early", n)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := f.record(r).Epoch; n != 2 {
			t.Errorf("epoch %d, want 2", n)
		}
		f.restart()
		f.open(r, h)
	})
}

// While the owner refuses his key, no epoch can end; his data stays as good as it is, for
// years, and the epoch ends when he agrees again.
func TestRefusedResourceOutlivesTheRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRetained(t)
		r := f.resource(pinned)
		gone, kept := f.document(r).Handle(), f.document(r).Handle()
		f.vault.change(version1, disabled)
		if _, err := f.DestroyDocument(t.Context(), r, gone, "gone"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * day)
		synctest.Wait()
		all, _, err := f.Receipts(t.Context(), "", 10)
		if err != nil || len(all) != 1 || all[0].Final() || !all[0].OldCopies.After(time.Now().Add(retentionDays*day)) {
			t.Errorf("receipts: %+v, %v", all, err)
		}
		f.restart()
		f.vault.change(version1, enabled)
		if err := f.Admit(t.Context(), r); err != nil {
			t.Fatalf("admit: %v", err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := f.record(r).Epoch; n != 2 {
			t.Errorf("epoch %d, want 2", n)
		}
		f.open(r, kept)
	})
}

// A server that was off for longer than the retention finds its data.
func TestServerOffForLongerThanTheRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRetained(t)
		r := f.resource(pinned)
		h := f.document(r).Handle()
		f.Keeper.Close()
		time.Sleep(400 * day)
		f.start()
		f.open(r, h)
		time.Sleep(turnEvery)
		synctest.Wait()
		if got := f.record(r).Retention; got != today() {
			t.Errorf("the record is under day %d, want %d", got, today())
		}
		f.restart()
		f.open(r, h)
	})
}

// A disk that does not take the records must not cost them.
func TestRetentionKeyStaysWhileARecordNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRetained(t)
		r := f.resource(pinned)
		h := f.document(r).Handle()
		f.Keeper.Close()
		time.Sleep(4 * day)
		f.store.mu.Lock()
		f.store.writes, f.store.killAt = 0, 1
		f.store.mu.Unlock()
		f.start()
		time.Sleep(time.Hour)
		synctest.Wait()
		f.store.mu.Lock()
		f.store.killAt = 0
		f.store.mu.Unlock()
		f.restart()
		f.open(r, h)
	})
}

// Data of the format before is taken over: its first epoch ends at once, for copies of
// it were not under a retention key.
func TestRecordOfVersion1IsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		h := f.document(r).Handle()
		rec := f.record(r)
		rec.Version, rec.EpochAt = 1, time.Time{}
		raw, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		write, err := f.rootWrite(r, currentID, raw, store.Anything)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.store.WriteRows(t.Context(), []store.RowWrite{write}); err != nil {
			t.Fatal(err)
		}
		f.secret = &memoryFile{}
		f.restart()
		f.open(r, h)
		if rec := f.record(r); rec.Version != recordVersion || rec.Retention == 0 {
			t.Errorf("the record was not taken over: %+v", rec)
		}
		time.Sleep(2 * turnEvery)
		synctest.Wait()
		if n := f.record(r).Epoch; n != 2 {
			t.Errorf("epoch %d, want 2", n)
		}
		f.restart()
		f.open(r, h)
	})
}

func TestReceiptsAreInTheLogOfKeyUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRetained(t)
		r := f.resource(pinned)
		h := f.document(r).Handle()
		last := f.document(r).Handle()
		first, err := f.DestroyDocument(t.Context(), r, h, "first")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		// Killed between the destruction and the log: the receipt is there all the same.
		f.store.mu.Lock()
		f.store.writes, f.store.killAt = 0, 2
		f.store.mu.Unlock()
		if _, err = f.DestroyDocument(t.Context(), r, last, "second"); err != nil {
			t.Fatal(err)
		}
		f.Keeper.Close()
		f.store.mu.Lock()
		f.store.killAt = 0
		f.store.mu.Unlock()
		f.start()
		time.Sleep(2 * turnEvery)
		synctest.Wait()
		if _, err := f.Delete(t.Context(), r, "contoso"); err != nil {
			t.Fatal(err)
		}
		uses, err := f.KeyUses(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, raw := range uses.Records {
			var u KeyUse
			if err := json.Unmarshal(raw, &u); err != nil {
				t.Fatal(err)
			}
			if u.Op == opDestroy {
				names = append(names, u.Receipt.Of+" "+u.Receipt.Name)
				if u.Receipt.Name == "first" && u.Receipt.ID != first.ID {
					t.Error("another receipt is in the log than the one that was given")
				}
			}
		}
		if got := strings.Join(names, ", "); got != "document first, document second, resource contoso" {
			t.Errorf("in the log: %s", got)
		}
		var listed []string
		for after := ""; ; {
			page, next, err := f.Receipts(t.Context(), after, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range page {
				if !one.Final() {
					t.Errorf("%s is not final after its resource was deleted", one.Name)
				}
				listed = append(listed, one.Name)
			}
			if after = next; next == "" {
				break
			}
		}
		if got := fmt.Sprint(listed); got != "[first second contoso]" {
			t.Errorf("listed: %s", got)
		}
	})
}

func TestRetentionKeyOnlyMovesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &memoryFile{}
		if _, err := openRetention(file, 30, false); err == nil {
			t.Fatal("a missing key was made anew")
		}
		r, err := openRetention(file, 2, true)
		if err != nil {
			t.Fatal(err)
		}
		at := envelope.RootPlace{Resource: envelope.ResourceID{1}, Epoch: 1, Generation: 1}
		first, sealed, err := r.seal(at, []byte("wrapped"))
		if err != nil {
			t.Fatal(err)
		}
		start := bytes.Clone(file.content)
		time.Sleep(2 * day)
		if err := r.forget(today()); err != nil {
			t.Fatal(err)
		}
		if got, err := r.open(at, first, sealed); err != nil || string(got) != "wrapped" {
			t.Errorf("within the retention: %q, %v", got, err)
		}
		time.Sleep(day)
		if err := r.forget(first); err != nil {
			t.Fatal(err)
		}
		if _, err := r.open(at, first, sealed); err != nil {
			t.Errorf("still needed: %v", err)
		}
		if err := r.forget(today()); err != nil {
			t.Fatal(err)
		}
		again, err := openRetention(file, 2, false)
		if err != nil {
			t.Fatal(err)
		}
		for name, one := range map[string]*Retention{"Memory": r, "File": again} {
			if _, err := one.open(at, first, sealed); !errors.Is(err, errRetention) {
				t.Errorf("%s: after the retention: %v, want errRetention", name, err)
			}
		}
		if bytes.Equal(start, file.content) {
			t.Error("the file is as it was")
		}
		// A copy of the key from before opens what is newer: a backup of it stays good.
		old, err := openRetention(&memoryFile{content: start}, 2, false)
		if err != nil {
			t.Fatal(err)
		}
		now, sealed, err := r.seal(at, []byte("newer"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := old.open(at, now, sealed); err != nil || string(got) != "newer" {
			t.Errorf("with an older key: %q, %v", got, err)
		}
		at.Generation++
		if _, err := old.open(at, now, sealed); err == nil {
			t.Error("it opens at another place")
		}
		for _, bad := range []string{"", "{}", `{"version":1,"day":0,"key":""}`, `{"version":2,"day":1,"key":"AAAA"}`, string(start) + "x", string(start[:len(start)-2])} {
			if _, err := openRetention(&memoryFile{content: []byte(bad)}, 2, true); err == nil {
				t.Errorf("%q was taken for a key", bad)
			}
		}
		for _, days := range []int{0, -1, MaxRetentionDays + 1} {
			if _, err := openRetention(file, days, false); err == nil {
				t.Errorf("%d days were taken", days)
			}
		}
	})
}

func disabled(k *keystore.Key) { k.Enabled = false }
func enabled(k *keystore.Key)  { k.Enabled = true }
