package memory_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.TestStore(t, func(*testing.T) store.Store { return memory.New() })
}

// A failed append says nothing about the log; a claim does.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault memory.Fault
		head  uint64
	}{
		{"Lost", memory.Fault{}, 0},
		{"WrittenButReportedAsFailed", memory.Fault{Persist: true, Fail: true}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, d := memory.New(), storetest.NewDoc(t)
			claim, err := st.Claim(t.Context(), d.Handle)
			if err != nil {
				t.Fatal(err)
			}
			st.SetFault(func(memory.Op) memory.Fault { return c.fault })
			err = st.Append(t.Context(), d.Append(claim, 0, 1, "x"))
			if !errors.Is(err, memory.ErrInjected) || errors.Is(err, store.ErrFenced) {
				t.Errorf("got %v, want the injected failure", err)
			}
			st.SetFault(nil)
			if claim, err = st.Claim(t.Context(), d.Handle); err != nil || claim.Head != c.head {
				t.Errorf("head %d, %v; want %d", claim.Head, err, c.head)
			}
		})
	}
}

func TestDelayedWriteIsNotSeenBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, d := memory.New(), storetest.NewDoc(t)
		claim, err := st.Claim(t.Context(), d.Handle)
		if err != nil {
			t.Fatal(err)
		}
		release, done := make(chan struct{}), make(chan error, 1)
		st.SetFault(func(memory.Op) memory.Fault { return memory.Fault{Persist: true, Wait: release} })
		a := d.Append(claim, 0, 1, "x")
		go func() { done <- st.Append(t.Context(), a) }()
		synctest.Wait()
		if r, err := st.Read(t.Context(), d.Handle, 1, 9, 0); err != nil || r.Head != 0 {
			t.Errorf("head %d, %v while the write waits; want 0", r.Head, err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
