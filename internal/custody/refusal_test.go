package custody

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// notes counts the stored refusals.
func (f *fixture) notes() (n int) {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	for key := range f.store.rows {
		if key.Table == tableRefusals {
			n++
		}
	}
	return n
}

func TestHoldDoesNotBeginAnewWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.set("*", errDenied)
		<-d.Done()
		since := f.Status(r).Since
		for range 5 {
			time.Sleep(11 * time.Minute)
			f.restart()
			_ = f.Admit(t.Context(), r)
			time.Sleep(ConfirmAfter + time.Second)
			u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied)
			if !u.Since.Equal(since) || u.Close {
				t.Fatalf("after a restart refused since %s, want %s; Close %v", u.Since, since, u.Close)
			}
		}
		time.Sleep(time.Until(since.Add(Hold)))
		if u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied); !u.Close {
			t.Error("not Close an hour after the first refusal")
		}
		f.restart()
		_ = f.Admit(t.Context(), r)
		time.Sleep(ConfirmAfter + time.Second)
		if u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied); !u.Close {
			t.Error("not Close after a restart")
		}

		// Agreement ends it: the next refusal is a new one.
		f.vault.set("*", nil)
		time.Sleep(time.Minute)
		if n := f.notes(); n != 0 {
			t.Errorf("%d notes after the key store agreed, want none", n)
		}
		f.vault.set("*", errDenied)
		time.Sleep(time.Minute)
		if u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied); u.Close || time.Since(u.Since) > time.Minute {
			t.Errorf("a new refusal is %+v, want one that begins now", u)
		}
	})
}

// The key store agreed while no process ran: what was noted before means nothing.
func TestANoteFromBeforeAProofMeansNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		f.vault.set("*", errDenied)
		time.Sleep(2 * Hold)
		f.Keeper.Close()
		f.vault.set("*", nil)
		f.start()
		if err := f.Admit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		f.vault.set("*", errDenied)
		time.Sleep(time.Minute)
		if u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied); u.Close {
			t.Error("clients are closed at once")
		}
	})
}

// An outage between two processes of one refusal changes nothing of it.
func TestARestartIntoAnOutageRemembersTheRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		f.vault.set("*", errDenied)
		time.Sleep(time.Minute)
		since := f.Status(r).Since
		f.vault.set("*", errSilent)
		f.restart()
		wantUnusable(t, f.Admit(t.Context(), r), reasonUnreachable)
		time.Sleep(10 * time.Minute)
		f.vault.set("*", errDenied)
		time.Sleep(time.Minute)
		if u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied); !u.Since.Equal(since) {
			t.Errorf("refused since %s, want %s", u.Since, since)
		}
	})
}

// One after another: the answers of a former look must not undo a refusal, though that
// is older than this process.
func TestAProofOfYesterdayAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		f.vault.set("*", errDenied)
		time.Sleep(10 * time.Minute)
		f.restart()
		asked := time.Now()
		time.Sleep(time.Second)
		_ = f.Admit(t.Context(), r)
		time.Sleep(ConfirmAfter + time.Second)
		f.mu.Lock()
		defer f.mu.Unlock()
		w := f.roots[r].watch
		w.learn(evidence{verdict: proof, asked: asked})
		if w.state != Unusable {
			t.Errorf("state %s, want Unusable", w.state)
		}
	})
}

func TestNotesGoWithTheLastResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		f.vault.set("*", errDenied)
		time.Sleep(time.Minute)
		if n := f.notes(); n != 1 {
			t.Fatalf("%d notes, want 1", n)
		}
		if _, err := f.Delete(t.Context(), r, "contoso"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := f.notes(); n != 0 {
			t.Errorf("%d notes are left, want none", n)
		}
	})
}

func TestANoteThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.resource(pinned)
		time.Sleep(time.Minute)
		f.store.fail(errors.New("disk fault"))
		f.vault.set("*", errDenied)
		time.Sleep(2 * time.Minute)
		if n := f.notes(); n != 1 {
			t.Errorf("%d notes, want 1", n)
		}
	})
}

func TestHoldInTheEmbeddedVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newRealVault(t)
		r := v.resource(Settings{Key: v.kek, Identity: identityA})
		no := false
		v.change(azkeys.KeyAttributes{Enabled: &no})
		time.Sleep(50 * time.Minute)
		config := v.Keeper.c
		v.Keeper.Close()
		v.Keeper = New(config)
		_ = v.Admit(t.Context(), r)
		time.Sleep(11 * time.Minute)
		if u := wantUnusable(t, v.Admit(t.Context(), r), reasonDisabled); !u.Close {
			t.Errorf("an hour after the key was disabled: %+v, want Close", u)
		}
	})
}

func FuzzRefusal(f *testing.F) {
	f.Add([]byte(`{"version":1,"since":"2026-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if since, err := decodeRefusal(raw); err == nil && since.IsZero() {
			t.Errorf("%q has no time", raw)
		}
	})
}
