package entra

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

// get reads a row; store.ErrNotFound.
func (t table[T]) get(ctx context.Context, key store.RowKey) (T, error) {
	row, err := t.rows.GetRow(ctx, key)
	if err != nil {
		var none T
		return none, fmt.Errorf("read %s: %w", t.name, err)
	}
	return t.open(row)
}

// list reads all rows of a partition.
func (t table[T]) list(ctx context.Context, partition envelope.Name) ([]T, error) {
	const page = 256
	var all []T
	var after envelope.Name
	for {
		rows, err := t.rows.ListRows(ctx, t.name, partition, after, page)
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
