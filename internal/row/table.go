package row

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Table is one table of rows that hold values of one kind.
type Table[T any] struct {
	name    store.Table
	rows    store.Rows
	service envelope.ServiceKey
}

// NewTable returns the table of this name, sealed under the service key.
func NewTable[T any](rows store.Rows, service envelope.ServiceKey, name store.Table) Table[T] {
	return Table[T]{name: name, rows: rows, service: service}
}

// Row is a stored value, the revision it is at, and its name within its partition.
type Row[T any] struct {
	Value    T
	Revision uint64
	Name     envelope.Name
}

// Key is where the row with this id is, in the table's unnamed partition.
func (t Table[T]) Key(id string) store.RowKey {
	return store.RowKey{Table: t.name, Name: t.service.Name(string(t.name), id)}
}

// KeyIn is where the row with this id is, in a named partition. The partition is
// part of the hashed id, so that equal ids do not show as equal names.
func (t Table[T]) KeyIn(partition, id string) store.RowKey {
	return store.RowKey{
		Table:     t.name,
		Partition: t.Partition(partition),
		Name:      t.service.Name(string(t.name), partition+"\n"+id),
	}
}

// Partition is what a named partition is called in the store.
func (t Table[T]) Partition(name string) envelope.Name {
	return t.service.Name(string(t.name), name)
}

// Get reads a row's value and revision; store.ErrNotFound.
func (t Table[T]) Get(ctx context.Context, key store.RowKey) (T, uint64, error) {
	found, err := t.rows.GetRow(ctx, key)
	if err != nil {
		var none T
		return none, 0, fmt.Errorf("read %s: %w", t.name, err)
	}
	opened, err := t.open(found)
	return opened.Value, opened.Revision, err
}

// Page reads at most limit rows of a partition, those after the given name (zero:
// from the start), in an order that means nothing but does not change.
func (t Table[T]) Page(ctx context.Context, partition, after envelope.Name, limit int) ([]Row[T], error) {
	found, err := t.rows.ListRows(ctx, t.name, partition, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", t.name, err)
	}
	rows := make([]Row[T], len(found))
	for i, one := range found {
		if rows[i], err = t.open(one); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// List reads all rows of a partition.
func (t Table[T]) List(ctx context.Context, partition envelope.Name) ([]Row[T], error) {
	const limit = 256
	var all []Row[T]
	var after envelope.Name
	for {
		rows, err := t.Page(ctx, partition, after, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		if len(rows) < limit {
			return all, nil
		}
		after = rows[len(rows)-1].Name
	}
}

// Put returns the write of a row.
func (t Table[T]) Put(key store.RowKey, value T, expect store.Expect) (store.RowWrite, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("encode a row of %s: %w", t.name, err)
	}
	defer clear(plain) // it may hold a private key
	sealed, err := t.service.SealRow(string(t.name), key.Partition, key.Name, plain)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal a row of %s: %w", t.name, err)
	}
	return store.RowWrite{RowKey: key, Value: &sealed, Expect: expect}, nil
}

// open opens a row. One that does not open, or does not decode, is store.ErrCorrupt.
func (t Table[T]) open(found store.Row) (Row[T], error) {
	plain, err := t.service.OpenRow(string(found.Table), found.Partition, found.Name, found.Value)
	if err != nil {
		return Row[T]{}, fmt.Errorf("open a row of %s: %w: %w", t.name, store.ErrCorrupt, err)
	}
	defer clear(plain)
	opened := Row[T]{Revision: found.Revision, Name: found.Name}
	if err := json.Unmarshal(plain, &opened.Value); err != nil {
		return Row[T]{}, fmt.Errorf("decode a row of %s: %w", t.name, store.ErrCorrupt)
	}
	return opened, nil
}
