package vault

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// table is one table of sealed JSON rows.
type table[T any] struct {
	name    store.Table
	rows    store.Rows
	service envelope.ServiceKey
}

func newTable[T any](c Config, name store.Table) table[T] {
	return table[T]{name: name, rows: c.Store, service: c.Service}
}

// key is where the row with this id is, in the table's only partition.
func (t table[T]) key(id string) store.RowKey {
	return store.RowKey{Table: t.name, Name: t.service.Name(string(t.name), id)}
}

// keyIn is where the row with this id is, in a partition of its own kind. The
// partition is part of the hashed id, so that equal ids do not show as equal names.
func (t table[T]) keyIn(partition, id string) store.RowKey {
	return store.RowKey{
		Table:     t.name,
		Partition: t.partition(partition),
		Name:      t.service.Name(string(t.name), partition+"\n"+id),
	}
}

func (t table[T]) partition(id string) envelope.Name {
	return t.service.Name(string(t.name), id)
}

// get reads a row and its revision; store.ErrNotFound.
func (t table[T]) get(ctx context.Context, key store.RowKey) (T, uint64, error) {
	row, err := t.rows.GetRow(ctx, key)
	if err != nil {
		var none T
		return none, 0, fmt.Errorf("read %s: %w", t.name, err)
	}
	value, err := t.open(row)
	return value, row.Revision, err
}

// listed is a row of a page and the name to go on after.
type listed[T any] struct {
	value T
	name  envelope.Name
}

// page reads at most limit rows of a partition after the given name.
func (t table[T]) page(ctx context.Context, partition, after envelope.Name, limit int) ([]listed[T], error) {
	rows, err := t.rows.ListRows(ctx, t.name, partition, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", t.name, err)
	}
	values := make([]listed[T], len(rows))
	for i, row := range rows {
		value, err := t.open(row)
		if err != nil {
			return nil, err
		}
		values[i] = listed[T]{value, row.Name}
	}
	return values, nil
}

// list reads all rows of a partition.
func (t table[T]) list(ctx context.Context, partition envelope.Name) ([]T, error) {
	const limit = 256
	var all []T
	var after envelope.Name
	for {
		rows, err := t.page(ctx, partition, after, limit)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			all = append(all, row.value)
			after = row.name
		}
		if len(rows) < limit {
			return all, nil
		}
	}
}

func (t table[T]) open(row store.Row) (T, error) {
	var value T
	plain, err := t.service.OpenRow(string(row.Table), row.Partition, row.Name, row.Value)
	if err != nil {
		return value, fmt.Errorf("open a row of %s: %w", t.name, err)
	}
	defer clear(plain) // it may hold a private key
	if err := json.Unmarshal(plain, &value); err != nil {
		return value, fmt.Errorf("decode a row of %s: %w", t.name, store.ErrCorrupt)
	}
	return value, nil
}

// put is the write of a row.
func (t table[T]) put(key store.RowKey, value T, expect store.Expect) (store.RowWrite, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("encode a row of %s: %w", t.name, err)
	}
	defer clear(plain)
	sealed, err := t.service.SealRow(string(t.name), key.Partition, key.Name, plain)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal a row of %s: %w", t.name, err)
	}
	return store.RowWrite{RowKey: key, Value: &sealed, Expect: expect}, nil
}
