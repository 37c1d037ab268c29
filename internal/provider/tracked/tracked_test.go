package tracked_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

type thing struct{ Name string }

func TestTable(t *testing.T) {
	ctx, st, key := t.Context(), memory.New(), envelope.NewServiceKey()
	table := tracked.NewTable[thing](st, key, "things")
	put := func(partition, id string, expect store.Expect) error {
		t.Helper()
		w, err := table.Put(partition, id, thing{partition + id}, expect)
		if err != nil {
			t.Fatal(err)
		}
		return st.WriteRows(ctx, []store.RowWrite{w})
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := put("one", id, store.Absent); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("one", "a", store.Absent); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second row: got %v, want store.ErrConflict", err)
	}
	row, err := table.Get(ctx, "one", "a")
	if err != nil || row.Value.Name != "onea" || row.Revision != 1 {
		t.Errorf("got %+v, %v", row, err)
	}
	if _, err := table.Get(ctx, "two", "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another partition: got %v, want store.ErrNotFound", err)
	}
	if rows, err := table.List(ctx, "one"); err != nil || len(rows) != 3 {
		t.Errorf("got %d rows, %v, want 3", len(rows), err)
	}
	if err := st.WriteRows(ctx, []store.RowWrite{table.Delete("one", "a", store.AtRevision(1))}); err != nil {
		t.Fatal(err)
	}
	if rows, err := table.List(ctx, "one"); err != nil || len(rows) != 2 {
		t.Errorf("after a deletion: got %d rows, %v, want 2", len(rows), err)
	}
}

// Whoever can write the store can move a sealed row, but then it does not open.
func TestMovedRowDoesNotOpen(t *testing.T) {
	ctx, st, key := t.Context(), memory.New(), envelope.NewServiceKey()
	table := tracked.NewTable[thing](st, key, "things")
	from, err := table.Put("one", "a", thing{"secret"}, store.Absent)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(from.Value.Bytes()), "secret") {
		t.Error("the sealed row shows its value")
	}
	to, err := table.Put("one", "b", thing{}, store.Absent)
	if err != nil {
		t.Fatal(err)
	}
	to.Value = from.Value
	if err := st.WriteRows(ctx, []store.RowWrite{to}); err != nil {
		t.Fatal(err)
	}
	if row, err := table.Get(ctx, "one", "b"); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("got %+v, %v, want store.ErrCorrupt", row, err)
	}
}

func TestLocks(t *testing.T) {
	var locks tracked.Locks
	var all sync.WaitGroup
	counts := map[string]*int{"a": new(int), "b": new(int)}
	for key, n := range counts {
		for range 50 {
			all.Go(func() {
				defer locks.Lock(key)()
				*n++ // the race detector watches
			})
		}
	}
	all.Wait()
	if *counts["a"] != 50 || *counts["b"] != 50 {
		t.Errorf("got %d and %d, want 50 each", *counts["a"], *counts["b"])
	}
}
