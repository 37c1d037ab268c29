package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.TestStore(t, func(*testing.T) store.Store { return memory.New() })
}

func TestReopen(t *testing.T) {
	storetest.TestReopen(t, func(*testing.T) (store.Store, func() store.Store) {
		st := memory.New()
		return st, func() store.Store { st.Reopen(); return st }
	})
}

var row = store.RowKey{Table: "t", Name: envelope.Name{1}}

// A failed write says nothing about what is stored; to read does, and to claim.
func TestFaults(t *testing.T) {
	sealed, err := envelope.NewServiceKey().SealRow("t", row.Partition, row.Name, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		fault memory.Fault
		done  bool
	}{
		{"Lost", memory.Fault{}, false},
		{"WrittenButReportedAsFailed", memory.Fault{Persist: true, Fail: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, d := memory.New(), storetest.NewDoc(t)
			claim, err := st.Claim(t.Context(), d.Handle)
			if err != nil {
				t.Fatal(err)
			}
			old := d.Object("old", "x")
			if err := st.PutObjects(t.Context(), d.Handle, []store.Object{old}); err != nil {
				t.Fatal(err)
			}
			object := d.Object("new", "x")
			failing := func(what string, write func() error) {
				t.Helper()
				st.SetFault(func(memory.Op) memory.Fault { return c.fault })
				if err := write(); !errors.Is(err, memory.ErrInjected) {
					t.Errorf("%s: got %v, want the injected failure", what, err)
				}
				st.SetFault(nil)
			}

			failing("append", func() error { return st.Append(t.Context(), d.Append(claim, 0, 1, "x")) })
			failing("claim", func() error { _, err := st.Claim(t.Context(), d.Handle); return err })
			failing("objects", func() error { return st.PutObjects(t.Context(), d.Handle, []store.Object{object}) })
			failing("rows", func() error {
				return st.WriteRows(t.Context(), []store.RowWrite{{RowKey: row, Value: &sealed}})
			})

			// The claim that follows shows the truth, whatever was reported.
			again, err := st.Claim(t.Context(), d.Handle)
			wantHead, wantTerm := uint64(0), claim.Term+1
			if c.done {
				wantHead, wantTerm = 1, claim.Term+2
			}
			if err != nil || again.Head != wantHead || again.Term != wantTerm {
				t.Errorf("claim: got %+v, %v; want head %d, term %d", again, err, wantHead, wantTerm)
			}
			if has, err := st.HasObject(t.Context(), d.Handle, object.Name); err != nil || has != c.done {
				t.Errorf("object: %t, %v; want %t", has, err, c.done)
			}
			if _, err := st.GetRow(t.Context(), row); (err == nil) != c.done {
				t.Errorf("row: %v; want it there: %t", err, c.done)
			}
			failing("delete", func() error { return st.DeleteDocument(t.Context(), d.Handle) })
			if has, err := st.HasObject(t.Context(), d.Handle, old.Name); err != nil || has == c.done {
				t.Errorf("object after deletion: %t, %v; want %t", has, err, !c.done)
			}
		})
	}
}

// A fault can hit one kind of write and spare the others.
func TestFaultsChooseTheirWrites(t *testing.T) {
	st, d := memory.New(), storetest.NewDoc(t)
	st.SetFault(func(op memory.Op) memory.Fault { return memory.Fault{Persist: op != memory.OpAppend} })
	c, err := st.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Append(t.Context(), d.Append(c, 0, 1, "x")); !errors.Is(err, memory.ErrInjected) {
		t.Errorf("got %v, want the injected failure", err)
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
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- st.Append(ctx, a) }()
		synctest.Wait()
		if r, err := st.Read(t.Context(), d.Handle, 1, 9, 0); err != nil || r.Head != 0 {
			t.Errorf("head %d, %v while the write waits; want 0", r.Head, err)
		}
		cancel() // too late: the write is under way
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What a test stores behind the engine's back is met like damage on a disk.
func TestTampering(t *testing.T) {
	for _, c := range []struct {
		name   string
		tamper func(n int, raw []byte) []byte // n counts records
		want   error
	}{
		{"Cut", func(_ int, raw []byte) []byte { return raw[:len(raw)-1] }, store.ErrCorrupt},
		{"Removed", func(n int, raw []byte) []byte {
			if n == 1 {
				return nil
			}
			return raw
		}, store.ErrCorrupt},
		// Only a key can tell: the engine gives it out, and it does not open.
		{"Flipped", func(_ int, raw []byte) []byte { raw[len(raw)-1] ^= 1; return raw }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, d := memory.New(), storetest.NewDoc(t)
			claim, err := st.Claim(t.Context(), d.Handle)
			if err != nil {
				t.Fatal(err)
			}
			for head := range uint64(3) {
				if err := st.Append(t.Context(), d.Append(claim, head, head+1, "x")); err != nil {
					t.Fatal(err)
				}
			}
			before, err := st.Read(t.Context(), d.Handle, 1, 3, 0)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			st.Mutate(func(what string, raw []byte) []byte {
				if what == "record" {
					raw = c.tamper(n, raw)
					n++
				}
				return raw
			})
			if _, err := st.Read(t.Context(), d.Handle, 1, 3, 0); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if got := d.Texts(before); len(got) != 3 { // what was read before is the reader's own
				t.Errorf("%d records read before open, want 3", len(got))
			}
		})
	}
}
