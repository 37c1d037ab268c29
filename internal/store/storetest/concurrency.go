package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/store"
)

// oneOfManyWritersWins: all writers claim and append at once; whatever the order,
// the log has one order and no writer succeeded under a term that was over.
func oneOfManyWritersWins(t *testing.T, st store.Store) {
	d := NewDoc(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[uint64]bool{} // head after each success
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 8 {
				c, err := st.Claim(context.Background(), d.Handle)
				if err != nil {
					t.Error(err)
					return
				}
				err = st.Append(context.Background(), d.fresh().Append(c, c.Head, c.Head+1, "x"))
				if err != nil && !errors.Is(err, store.ErrFenced) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					if won[c.Head+1] {
						t.Errorf("two writers wrote op %d", c.Head+1)
					}
					won[c.Head+1] = true
					mu.Unlock()
				}
			}
		}()
	}
	wg.Wait()
	r, err := st.Read(t.Context(), d.Handle, 1, 1<<30, 0)
	if err != nil || int(r.Head) != len(won) || len(r.Records) != len(won) {
		t.Errorf("%d appends succeeded; the log has head %d and %d records, %v", len(won), r.Head, len(r.Records), err)
	}
}

func manyDocumentsAtOnce(t *testing.T, st store.Store) {
	var wg sync.WaitGroup
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			d := NewDoc(t)
			c, err := st.Claim(context.Background(), d.Handle)
			if err != nil {
				t.Error(err)
				return
			}
			for head := range uint64(10) {
				if err := st.Append(context.Background(), d.Append(c, head, head+1, fmt.Sprint(head))); err != nil {
					t.Error(err)
					return
				}
			}
			r, err := st.Read(context.Background(), d.Handle, 1, 10, 0)
			if err != nil || len(d.Texts(r)) != 10 {
				t.Errorf("read back %d records, %v; want 10", len(r.Records), err)
			}
		}()
	}
	wg.Wait()
}

// onlyTheLastClaimCounts: of writers that claim one after another and then all
// append at the same head, the last one succeeds and nobody else.
func onlyTheLastClaimCounts(t *testing.T, st store.Store) {
	d, _ := filled(t, st)
	const writers = 16
	appends := make([]store.Append, writers)
	for i := range appends {
		appends[i] = d.fresh().Append(claim(t, st, d.Handle), 9, 10, fmt.Sprint(i))
	}
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i, a := range appends {
		wg.Go(func() { errs[i] = st.Append(context.Background(), a) })
	}
	wg.Wait()
	for i, err := range errs {
		if i == writers-1 {
			wantErr(t, "append of the last claim", err, nil)
		} else {
			wantErr(t, fmt.Sprintf("append of claim %d of %d", i+1, writers), err, store.ErrFenced)
		}
	}
	want(t, "the log", read(t, st, d, 10, 100, 0), []string{fmt.Sprintf("10-10 %d", writers-1)})
}

// readersSeeAPrefix: whoever reads while others write gets all records up to some
// head, and never a lower head than before.
func readersSeeAPrefix(t *testing.T, st store.Store) {
	d := NewDoc(t)
	c := claim(t, st, d.Handle)
	const ops = 100
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		w := d.fresh()
		for head := range uint64(ops) {
			if err := st.Append(context.Background(), w.Append(c, head, head+1, "x")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			for last, over := uint64(0), false; !over; {
				select {
				case <-done:
					over = true // once more, for the whole log
				default:
				}
				r, err := st.Read(context.Background(), d.Handle, 1, ops, 0)
				if err != nil || r.Head < last || uint64(len(r.Records)) != r.Head {
					t.Errorf("after head %d: head %d with %d records, %v", last, r.Head, len(r.Records), err)
					return
				}
				last = r.Head
			}
		})
	}
	wg.Wait()
}
