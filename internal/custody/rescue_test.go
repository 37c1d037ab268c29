package custody

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

func disable(k *keystore.Key) { k.Enabled = false }

// Scenario 23: the owner makes a new version and disables the old one at once.
func TestScenario23NewVersionMadeAndOldOneDisabledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r, second, fixed := f.resource(versionless), f.resource(versionless), f.resource(pinned)
		d, stays := f.document(r), f.document(fixed)
		o := mustSeal(t, d, "a", "text")
		w := d.NewWriter(store.Claim{Term: 1}, Tail{})
		time.Sleep(5 * time.Minute)
		f.vault.addVersion(version2)
		f.vault.change(version1, disable)
		start := time.Now()
		<-stays.Done() // the pinned one stops as promised
		if took := time.Since(start); took > time.Minute {
			t.Errorf("the pinned resource stopped after %s, want at most a minute", took)
		}
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if err := d.Err(); err != nil {
				t.Fatalf("the document ended: %v", err)
			}
		}
		for name, id := range map[string]State{"first": f.Status(r).State, "second": f.Status(second).State} {
			if id != Healthy {
				t.Errorf("%s is %s, want Healthy", name, id)
			}
		}
		rec, _, err := f.readRecord(t.Context(), second)
		if err != nil || rec.KeyID != keyURL(version2).String() || rec.KeyURL != keyURL("").String() || rec.Generation != 2 {
			t.Errorf("record %+v, %v; want version 2 under the URL without version", rec, err)
		}
		if _, err := w.Seal(1, 1, nil); err != nil {
			t.Errorf("seal: %v", err)
		}
		mustOpen(t, d, "a", o, "text")
		f.restart()
		again, err := f.OpenDocument(t.Context(), r, d.Handle())
		if err != nil {
			t.Fatalf("open after a restart: %v", err)
		}
		mustOpen(t, again, "a", o, "text")
		if n := strings.Count(f.log.String(), "reason=rescue"); n == 0 {
			t.Error("the log says nothing of a rescue")
		}
	})
}

// What is held while the old version is in doubt goes on under the new one.
func TestRescueReleasesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(versionless)
		d := f.document(r)
		f.vault.addVersion(version2)
		gate := make(chan struct{})
		f.vault.mu.Lock()
		f.vault.onWrap = func() { <-gate }
		f.vault.mu.Unlock()
		f.vault.change(version1, disable)
		f.awaitState(d, Suspect)
		done := settling(d)
		time.Sleep(2 * ConfirmAfter) // a rescue under way puts off the confirmation
		if s := f.Status(r); s.State != Suspect {
			t.Errorf("status %+v, want Suspect", s)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Errorf("Settled: %v", err)
		}
		if s := f.Status(r); s.State != Healthy || s.KeyID != keyURL(version2).String() {
			t.Errorf("status %+v, want Healthy under version 2", s)
		}
	})
}

// A rescue is no way around the owner.
func TestNoRescue(t *testing.T) {
	for _, c := range []struct {
		name    string
		of      Settings
		revoke  func(f *fixture)
		restart bool
	}{
		{"NewestDisabled", versionless, func(f *fixture) { f.vault.change(version1, disable) }, false},
		{"AllDisabled", versionless, func(f *fixture) {
			f.vault.addVersion(version2)
			f.vault.change(version1, disable)
			f.vault.change(version2, disable)
		}, false},
		{"VersionIsPinned", pinned, func(f *fixture) { f.vault.addVersion(version2); f.vault.change(version1, disable) }, false},
		{"PermissionRemoved", versionless, func(f *fixture) { f.vault.addVersion(version2); f.vault.set("*", errDenied) }, false},
		{"MayNotWrap", versionless, func(f *fixture) {
			f.vault.addVersion(version2)
			f.vault.set(opWrap, errDenied)
			f.vault.change(version1, disable)
		}, false},
		{"DiskFault", versionless, func(f *fixture) {
			f.vault.addVersion(version2)
			f.vault.change(version1, disable)
			f.store.fail(errors.New("disk fault"))
		}, false},
		{"NotInMemory", versionless, func(f *fixture) { f.vault.addVersion(version2); f.vault.change(version1, disable) }, true},
		{"VaultHangs", versionless, func(f *fixture) {
			f.vault.addVersion(version2)
			f.vault.mu.Lock()
			f.vault.onWrap = func() { time.Sleep(5 * time.Minute) }
			f.vault.mu.Unlock()
			f.vault.change(version1, disable)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				r := f.resource(c.of)
				d := f.document(r)
				time.Sleep(5 * time.Minute)
				if c.restart {
					f.restart()
				}
				c.revoke(f)
				if c.restart {
					if err := f.Admit(t.Context(), r); err == nil {
						t.Error("admitted under a disabled version")
					}
				}
				start := time.Now()
				<-d.Done()
				if took := time.Since(start); took > time.Minute {
					t.Errorf("stopped after %s, want at most a minute", took)
				}
				time.Sleep(10 * time.Minute)
				if err := f.Admit(t.Context(), r); err == nil {
					t.Error("came back by itself")
				}
				if s := f.Status(r); s.KeyID != keyURL(version1).String() {
					t.Errorf("moved to %s", s.KeyID)
				}
			})
		})
	}
}

// Scenario 33: the version in use expires, pinned and with a newer one.
func TestScenario33ExpiryWithANewerVersion(t *testing.T) {
	for _, c := range []struct {
		name string
		made time.Duration // of version 2, before the expiry of version 1; negative: after it
	}{{"LongBefore", 3 * time.Hour}, {"JustBefore", 3 * time.Minute}, {"Afterwards", -5 * time.Minute}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				expires := time.Now().Add(12 * time.Hour)
				f.vault.change(version1, func(k *keystore.Key) { k.Expires = expires })
				follows, fixed := f.resource(versionless), f.resource(pinned)
				d, p := f.document(follows), f.document(fixed)
				o := mustSeal(t, d, "a", "text")
				time.Sleep(time.Until(expires.Add(-c.made)))
				f.vault.addVersion(version2)
				<-p.Done()
				wantUnusable(t, p.Err(), reasonExpired)
				if c.made > 0 && d.Err() != nil {
					t.Errorf("the one that follows ended too: %v", d.Err())
				}
				time.Sleep(2 * time.Minute)
				if s := f.Status(follows); s.State != Healthy || s.KeyID != keyURL(version2).String() {
					t.Errorf("status %+v, want Healthy under version 2", s)
				}
				again, err := f.OpenDocument(t.Context(), follows, d.Handle())
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				mustOpen(t, again, "a", o, "text")
				wantUnusable(t, f.Admit(t.Context(), fixed), reasonExpired)
			})
		})
	}
}

func TestScenario23InTheEmbeddedVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newRealVault(t)
		r := v.resource(Settings{Key: v.kek.WithVersion(""), Identity: identityA})
		d := v.document(r)
		time.Sleep(2 * time.Minute)
		next := v.kek.WithVersion(v.newVersion())
		no := false
		v.change(azkeys.KeyAttributes{Enabled: &no}) // of the version in use
		time.Sleep(10 * time.Minute)
		if s := v.Status(r); s.State != Healthy || s.KeyID != next.String() || d.Err() != nil {
			t.Errorf("status %+v, document %v; want Healthy under %s", s, d.Err(), next)
		}
	})
}

// heldStore holds up the first write of several rows of which the first is the given one.
type heldStore struct {
	*rowStore
	at                  atomic.Pointer[store.RowKey]
	reached, goOn, done chan struct{}
}

func (s *heldStore) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if at := s.at.Load(); at != nil && len(writes) > 2 && writes[0].RowKey == *at && s.at.CompareAndSwap(at, nil) {
		close(s.reached)
		<-s.goOn
		defer close(s.done)
	}
	return s.rowStore.WriteRows(ctx, writes)
}

// A root key that is replaced at the moment of its rescue is rescued all the same.
func TestRescueWhileTheEpochEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		wrap int // of the newest version, in which the epoch ends: 1 is the check's, 2 that of the root key itself
	}{{"BeforeTheRecordIsRead", 1}, {"BeforeTheRecordIsWritten", 2}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newRetained(t)
				held := &heldStore{rowStore: f.store, reached: make(chan struct{}), goOn: make(chan struct{}), done: make(chan struct{})}
				f.under = held
				f.restart()
				r, other := f.resource(versionless), f.resource(versionless)
				d, e := f.document(r), f.document(other)
				o := mustSeal(t, d, "a", "text")
				f.vault.addVersion(version2)

				// The epoch's last write waits: its record is under version 1.
				current := f.recordKey(r, currentID)
				held.at.Store(&current)
				f.epochDue(r)
				go f.look(t.Context(), r)
				<-held.reached
				f.vault.mu.Lock()
				wraps := 0
				var hook func()
				hook = func() {
					if wraps++; wraps < c.wrap {
						f.vault.mu.Lock()
						f.vault.onWrap = hook
						f.vault.mu.Unlock()
						return
					}
					close(held.goOn)
					<-held.done
				}
				f.vault.onWrap = hook
				f.vault.mu.Unlock()
				f.vault.change(version1, disable)

				time.Sleep(10 * time.Minute)
				for name, doc := range map[string]*Document{"rescued": d, "other": e} {
					if err := doc.Err(); err != nil {
						t.Errorf("the document of the %s resource ended: %v", name, err)
					}
				}
				for _, one := range []envelope.ResourceID{r, other} {
					if s := f.Status(one); s.State != Healthy || s.KeyID != keyURL(version2).String() {
						t.Errorf("status %+v, want Healthy under version 2", s)
					}
				}
				if rec := f.record(r); rec.Epoch != 2 || rec.KeyID != keyURL(version2).String() {
					t.Errorf("record %+v, want epoch 2 under version 2", rec)
				}
				mustOpen(t, d, "a", o, "text")
				f.restart()
				mustOpen(t, f.open(r, d.Handle()), "a", o, "text")
			})
		})
	}
}
