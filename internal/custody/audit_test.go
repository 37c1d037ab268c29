package custody

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/store"
)

// uses reads the whole log and verifies its chain, as a reader from outside would.
func (f *fixture) uses() []KeyUse {
	f.t.Helper()
	var all []KeyUse
	prev := ""
	for after := uint64(0); ; {
		found, err := f.KeyUses(f.t.Context(), after, 7)
		if err != nil {
			f.t.Fatalf("key uses after %d: %v", after, err)
		}
		for _, raw := range found.Records {
			var u KeyUse
			if err := json.Unmarshal(raw, &u); err != nil {
				f.t.Fatal(err)
			}
			if after > 0 && (u.Seq != after+1 || u.Prev != prev) {
				f.t.Errorf("record %d names %s before it; it follows record %d, %s", u.Seq, u.Prev, after, prev)
			}
			after, prev = u.Seq, useHash(raw)
			all = append(all, u)
		}
		if after == found.Last {
			if after > 0 && prev != found.Hash {
				f.t.Errorf("the head names %s, the last record is %s", found.Hash, prev)
			}
			return all
		}
	}
}

// counted is how many uses the records stand for.
func counted(all []KeyUse) (n int) {
	for _, u := range all {
		n += max(1, int(u.Count))
	}
	return n
}

// Scenario 45: every call at the vault is in the log, over hours of probes, refusals,
// rotation and restarts.
func TestScenario45EveryUseIsInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(versionless)
		f.resource(pinned)
		time.Sleep(3 * time.Hour)
		f.vault.addVersion(version2)
		time.Sleep(2 * time.Hour)
		f.vault.set("*", errDenied)
		time.Sleep(time.Hour)
		f.vault.set("*", nil)
		time.Sleep(time.Hour)
		f.restart()
		if err := f.Admit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		_ = f.Check(t.Context(), pinned)
		if err := f.Update(t.Context(), r, Settings{Key: keyURL(version2), Identity: identityA}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		all := f.uses()
		f.vault.mu.Lock()
		calls := len(f.vault.calls)
		f.vault.mu.Unlock()
		if got := counted(all); got != calls {
			t.Errorf("the records stand for %d uses, the vault saw %d", got, calls)
		}
		if len(all) > 120 {
			t.Errorf("%d records for %d uses; probes are not taken together", len(all), calls)
		}
		for _, want := range []reason{forStart, forProbe, forCheck, forCreate, forUpdate, forRotate} {
			n := 0
			for _, u := range all {
				if u.Reason != string(want) {
					continue
				}
				n++
				if u.KeyID == "" || u.Identity != identityA || u.Time.IsZero() || (u.Outcome == "ok") == (u.Code != "") {
					t.Errorf("record %+v lacks something", u)
				}
			}
			if n == 0 {
				t.Errorf("no record of %s", want)
			}
		}
	})
}

func TestProbesThatGoAlikeBecomeOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		made := len(f.uses())
		time.Sleep(30 * time.Minute)
		f.vault.set(opUnwrap, errSilent)
		time.Sleep(5 * time.Minute)
		f.vault.set(opUnwrap, nil)
		time.Sleep(5 * time.Minute)
		var outcomes []string
		for _, u := range f.uses()[made:] {
			if u.Op != opUnwrap {
				continue
			}
			outcomes = append(outcomes, u.Outcome)
			if u.Reason != string(forProbe) || u.Count == 0 || u.First == nil || u.Time.Before(*u.First) || u.Resource != "" {
				t.Errorf("record %+v is not that of a run of probes", u)
			}
		}
		if got := strings.Join(outcomes, " "); got != "ok failed ok" {
			t.Errorf("unwraps went %q, want ok failed ok", got)
		}
		if s := f.Status(r); s.State != Healthy {
			t.Errorf("status %+v", s)
		}
	})
}

// An auditor with the vault's log can check a run: its request ids are hashed in order.
func TestRequestIDsOfARunAreHashed(t *testing.T) {
	f := newFixture(t)
	now := time.Now()
	for _, id := range []string{"a", "b", "c"} {
		f.audit.record(t.Context(), KeyUse{Time: now, Op: opUnwrap, Reason: string(forProbe), KeyID: "k", Identity: "i", Outcome: "ok", RequestID: id})
	}
	want := sha256.Sum256([]byte("a\nb\nc\n"))
	got := f.uses()
	if len(got) != 1 || got[0].Count != 3 || got[0].RequestID != "c" || got[0].RequestIDs != hex.EncodeToString(want[:]) {
		t.Errorf("got %+v, want 3 uses with the hash %x", got, want)
	}
}

// The log does not decide whether a key may be used, and says what it missed.
func TestUsesTheStoreDoesNotTake(t *testing.T) {
	for name, persist := range map[string]bool{"Lost": false, "WrittenButReportedAsFailed": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.resource(pinned)
			before := len(f.uses())
			f.store.mu.Lock()
			f.store.failUses, f.store.persist = errors.New("disk fault"), persist
			f.store.mu.Unlock()
			if err := f.Check(t.Context(), pinned); err != nil {
				t.Errorf("check: %v", err)
			}
			f.store.mu.Lock()
			f.store.failUses, f.store.persist = nil, false
			f.store.mu.Unlock()
			all := f.uses()
			if got := len(all) - before; got != 3 {
				t.Errorf("%d records of the check, want get, wrapKey and unwrapKey once each", got)
			}
		})
	}
	t.Run("TooMany", func(t *testing.T) {
		f := newFixture(t)
		f.store.mu.Lock()
		f.store.failUses = errors.New("disk fault")
		f.store.mu.Unlock()
		for range maxPending + 5 {
			f.audit.record(t.Context(), KeyUse{Time: time.Now(), Op: opGet, Reason: string(forCheck), KeyID: "k", Identity: "i", Outcome: "ok"})
		}
		if _, err := f.KeyUses(t.Context(), 0, 1); err == nil {
			t.Error("the log is shown though uses are missing")
		}
		f.store.mu.Lock()
		f.store.failUses = nil
		f.store.mu.Unlock()
		all := f.uses()
		if len(all) != maxPending || all[0].Lost != 5 {
			t.Errorf("%d records, %d lost; want %d and 5", len(all), all[0].Lost, maxPending)
		}
	})
}

func TestTheOldestRecordsGo(t *testing.T) {
	f := newFixture(t)
	f.audit.record(t.Context(), KeyUse{Time: time.Now(), Op: opGet, Reason: string(forCheck), KeyID: "k", Identity: "i", Outcome: "ok"})
	f.audit.mu.Lock()
	raw, _, err := f.audit.read(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	// As if the log were full: record 1 stands for the last of all that may be kept.
	f.audit.head.First, f.audit.head.Last = 2, maxUses+1
	w, err := f.audit.sealed(strconv.Itoa(2), raw, store.Absent)
	if err != nil {
		t.Fatal(err)
	}
	f.audit.mu.Unlock()
	if err := f.store.WriteRows(t.Context(), []store.RowWrite{w}); err != nil {
		t.Fatal(err)
	}
	f.audit.record(t.Context(), KeyUse{Time: time.Now(), Op: opGet, Reason: string(forCheck), KeyID: "k", Identity: "i", Outcome: "ok"})
	f.audit.mu.Lock()
	defer f.audit.mu.Unlock()
	if h := f.audit.head; h.First != 3 || h.Last != maxUses+2 {
		t.Errorf("head %+v, want records 3 to %d", h, maxUses+2)
	}
	if _, _, err := f.audit.read(t.Context(), "2"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the oldest record: %v, want ErrNotFound", err)
	}
}

// Whoever writes to the store cannot change, move, drop or hide a record unnoticed.
func TestTamperedLogOfUses(t *testing.T) {
	row := func(f *fixture, id string) store.RowKey { return f.audit.key(id) }
	for name, by := range map[string]func(f *fixture){
		"Dropped":     func(f *fixture) { delete(f.store.rows, row(f, "2")) },
		"LastDropped": func(f *fixture) { delete(f.store.rows, row(f, "5")) },
		"Swapped": func(f *fixture) {
			a, b := f.store.rows[row(f, "2")], f.store.rows[row(f, "3")]
			a.Value, b.Value = b.Value, a.Value
			f.store.rows[row(f, "2")], f.store.rows[row(f, "3")] = a, b
		},
		"HeadDropped": func(f *fixture) { delete(f.store.rows, row(f, headID)) },
		"HeadReplaced": func(f *fixture) {
			a := f.store.rows[row(f, headID)]
			a.Value = f.store.rows[row(f, "1")].Value
			f.store.rows[row(f, headID)] = a
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.resource(pinned)
			if n := len(f.uses()); n != 5 {
				t.Fatalf("%d records, want 5", n)
			}
			f.Keeper.Close()
			f.store.mu.Lock()
			by(f)
			f.store.mu.Unlock()
			f.start()
			if _, err := f.KeyUses(t.Context(), 0, 100); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("the log was read: %v, want ErrCorrupt", err)
			}
			if err := f.Check(t.Context(), pinned); err != nil {
				t.Errorf("a key cannot be used because of it: %v", err)
			}
		})
	}
}

func TestUsesOfManyAtOnceAreOneChain(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_ = f.Check(context.Background(), pinned)
			}
		})
	}
	wg.Wait()
	if n := len(f.uses()); n != 8*20*3 {
		t.Errorf("%d records, want %d", n, 8*20*3)
	}
}

func TestScenario45InTheEmbeddedVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newRealVault(t)
		v.resource(Settings{Key: v.kek, Identity: identityA})
		time.Sleep(time.Minute)
		for _, u := range v.uses() {
			if u.RequestID == "" || u.KeyID != v.kek.String() {
				t.Errorf("record %+v lacks the vault's request id, or the version", u)
			}
		}
	})
}

func FuzzUseHead(f *testing.F) {
	f.Add([]byte(`{"version":1,"first":1,"last":0,"hash":"` + strings.Repeat("00", 32) + `"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := decodeHead(raw)
		if err == nil && (h.First == 0 || len(h.Hash) != 64) {
			t.Errorf("%q became %+v", raw, h)
		}
	})
}
