package storetest

import (
	"errors"
	"testing"

	"github.com/tidelock/tidelock/internal/store"
)

func writableUntilClosed(t *testing.T, st store.Store) {
	if err := st.Writable(t.Context()); err != nil {
		t.Errorf("writable: %v, want nil", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := st.Writable(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("writable after close: %v, want ErrClosed", err)
	}
}
