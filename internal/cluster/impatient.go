package cluster

import (
	"context"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// impatient gives up on a store when the context ends. An engine may go on waiting for the
// answer to what it has sent, which is right for ops and wrong here: what matters is
// whether the store answers in time, and a write that is made late harms nobody.
type impatient struct{ rows store.Rows }

var _ store.Rows = impatient{}

func (s impatient) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	return within(ctx, func() (store.Row, error) { return s.rows.GetRow(ctx, key) })
}

func (s impatient) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	return within(ctx, func() ([]store.Row, error) { return s.rows.ListRows(ctx, table, partition, after, limit) })
}

func (s impatient) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	_, err := within(ctx, func() (struct{}, error) { return struct{}{}, s.rows.WriteRows(ctx, writes) })
	return err
}

// within returns what do returns, or ctx's error if that comes first.
func within[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
