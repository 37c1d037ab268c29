package tracked

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Table keeps values of one kind as sealed JSON rows, in partitions. Ids and
// partitions are the caller's to make canonical; the store sees only keyed hashes.
type Table[T any] struct {
	name    store.Table
	rows    store.Rows
	service envelope.ServiceKey
}

// NewTable returns the table of this name.
func NewTable[T any](rows store.Rows, service envelope.ServiceKey, name store.Table) Table[T] {
	return Table[T]{name: name, rows: rows, service: service}
}

// Row is a stored value and the revision it is at.
type Row[T any] struct {
	Value    T
	Revision uint64
}

func (t Table[T]) key(partition, id string) store.RowKey {
	return store.RowKey{
		Table:     t.name,
		Partition: t.partition(partition),
		// With the partition, so that equal ids do not show as equal names.
		Name: t.service.Name(string(t.name), partition+"\n"+id),
	}
}

func (t Table[T]) partition(id string) envelope.Name { return t.service.Name(string(t.name), id) }

// Get reads a row; store.ErrNotFound.
func (t Table[T]) Get(ctx context.Context, partition, id string) (Row[T], error) {
	row, err := t.rows.GetRow(ctx, t.key(partition, id))
	if err != nil {
		return Row[T]{}, fmt.Errorf("read %s: %w", t.name, err)
	}
	return t.open(row)
}

// List reads all rows of a partition, in no order that means anything.
func (t Table[T]) List(ctx context.Context, partition string) ([]Row[T], error) {
	const page = 256
	var all []Row[T]
	var after envelope.Name
	for {
		rows, err := t.rows.ListRows(ctx, t.name, t.partition(partition), after, page)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", t.name, err)
		}
		for _, row := range rows {
			value, err := t.open(row)
			if err != nil {
				return nil, err
			}
			all = append(all, value)
			after = row.Name
		}
		if len(rows) < page {
			return all, nil
		}
	}
}

// Put returns the write of a row.
func (t Table[T]) Put(partition, id string, value T, expect store.Expect) (store.RowWrite, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("encode a row of %s: %w", t.name, err)
	}
	defer clear(plain) // it may hold tenant keys
	key := t.key(partition, id)
	sealed, err := t.service.SealRow(string(t.name), key.Partition, key.Name, plain)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal a row of %s: %w", t.name, err)
	}
	return store.RowWrite{RowKey: key, Value: &sealed, Expect: expect}, nil
}

// Delete returns the write that deletes a row.
func (t Table[T]) Delete(partition, id string, expect store.Expect) store.RowWrite {
	return store.RowWrite{RowKey: t.key(partition, id), Expect: expect}
}

func (t Table[T]) open(row store.Row) (Row[T], error) {
	plain, err := t.service.OpenRow(string(row.Table), row.Partition, row.Name, row.Value)
	if err != nil {
		return Row[T]{}, fmt.Errorf("open a row of %s: %w: %w", t.name, store.ErrCorrupt, err)
	}
	defer clear(plain)
	opened := Row[T]{Revision: row.Revision}
	if err := json.Unmarshal(plain, &opened.Value); err != nil {
		return Row[T]{}, fmt.Errorf("decode a row of %s: %w", t.name, store.ErrCorrupt)
	}
	return opened, nil
}
