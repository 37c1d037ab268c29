package metered

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.TestStore(t, func(*testing.T) store.Store { return New(memory.New(), prometheus.NewRegistry()) })
}

// broken answers everything with err.
type broken struct {
	store.Store
	err error
}

func (b broken) Append(context.Context, store.Append) error { return b.err }

func (b broken) Read(context.Context, envelope.DocumentHandle, uint64, uint64, int) (store.Range, error) {
	return store.Range{}, b.err
}

func (b broken) GetObject(context.Context, envelope.DocumentHandle, envelope.Name) (envelope.Sealed, error) {
	return envelope.Sealed{}, b.err
}

func (b broken) GetRow(context.Context, store.RowKey) (store.Row, error) { return store.Row{}, b.err }

func (b broken) ListRows(context.Context, store.Table, envelope.Name, envelope.Name, int) ([]store.Row, error) {
	return nil, b.err
}

func TestFailuresAreCounted(t *testing.T) {
	for _, c := range []struct {
		name            string
		err             error
		appends, damage float64
	}{
		{"NoError", nil, 0, 0},
		{"Fenced", store.ErrFenced, 0, 0},
		{"Closed", store.ErrClosed, 0, 0},
		{"NotFound", store.ErrNotFound, 1, 0},
		{"Disk", errors.New("the disk is gone"), 1, 0},
		{"Corrupt", store.ErrCorrupt, 1, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := New(broken{err: c.err}, nil)
			_, readErr := st.Read(t.Context(), envelope.DocumentHandle{}, 1, 2, 0)
			_, objectErr := st.GetObject(t.Context(), envelope.DocumentHandle{}, envelope.Name{})
			_, rowErr := st.GetRow(t.Context(), store.RowKey{})
			_, rowsErr := st.ListRows(t.Context(), "t", envelope.Name{}, envelope.Name{}, 1)
			for _, err := range []error{st.Append(t.Context(), store.Append{}), readErr, objectErr, rowErr, rowsErr} {
				if !errors.Is(err, c.err) {
					t.Errorf("got error %v, want %v as it was", err, c.err)
				}
			}
			m := st.(*metered)
			if got := testutil.ToFloat64(m.appendErrors); got != c.appends {
				t.Errorf("append errors = %v, want %v", got, c.appends)
			}
			if got := testutil.ToFloat64(m.corruptReads); got != c.damage {
				t.Errorf("corrupt reads = %v, want %v", got, c.damage)
			}
		})
	}
}
