package tracked

import (
	"context"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

// Table keeps values of one kind as sealed rows, in partitions. Ids and
// partitions are the caller's to make canonical.
type Table[T any] struct{ rows row.Table[T] }

// NewTable returns the table of this name.
func NewTable[T any](rows store.Rows, service envelope.ServiceKey, name store.Table) Table[T] {
	return Table[T]{row.NewTable[T](rows, service, name)}
}

// Row is a stored value and the revision it is at.
type Row[T any] = row.Row[T]

// Get reads a row; store.ErrNotFound.
func (t Table[T]) Get(ctx context.Context, partition, id string) (Row[T], error) {
	value, revision, err := t.rows.Get(ctx, t.rows.KeyIn(partition, id))
	return Row[T]{Value: value, Revision: revision}, err
}

// List reads all rows of a partition, in no order that means anything.
func (t Table[T]) List(ctx context.Context, partition string) ([]Row[T], error) {
	return t.rows.List(ctx, t.rows.Partition(partition))
}

// InGroup reads the resources of a subscription, or of one of its groups; group ""
// is all. The table has a partition for each subscription, in lower case, and id is
// that of a resource.
func (t Table[T]) InGroup(ctx context.Context, subscription, group string, id func(T) (arm.ResourceID, error)) ([]T, error) {
	rows, err := t.List(ctx, strings.ToLower(subscription))
	if err != nil {
		return nil, err
	}
	var some []T
	for _, r := range rows {
		at, err := id(r.Value)
		if err != nil {
			return nil, err
		}
		if group == "" || strings.EqualFold(group, at.ResourceGroup) {
			some = append(some, r.Value)
		}
	}
	return some, nil
}

// Put returns the write of a row.
func (t Table[T]) Put(partition, id string, value T, expect store.Expect) (store.RowWrite, error) {
	return t.rows.Put(t.rows.KeyIn(partition, id), value, expect)
}

// Delete returns the write that deletes a row.
func (t Table[T]) Delete(partition, id string, expect store.Expect) store.RowWrite {
	return store.RowWrite{RowKey: t.rows.KeyIn(partition, id), Expect: expect}
}
