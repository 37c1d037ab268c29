package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func rowKey(k store.RowKey) []byte {
	return append(rowPrefix(k.Table, k.Partition), k.Name[:]...)
}

func rowPrefix(t store.Table, partition envelope.Name) []byte {
	b := append([]byte{spaceRow}, t...)
	b = append(b, 0) // no table's name contains it, so no table is a prefix of another
	return append(b, partition[:]...)
}

// parseRevision splits a stored row into its revision and its sealed value.
func parseRevision(raw []byte) (revision uint64, sealed []byte, err error) {
	if len(raw) < 8 {
		return 0, nil, fmt.Errorf("%w: row of %d bytes", store.ErrCorrupt, len(raw))
	}
	return binary.BigEndian.Uint64(raw), raw[8:], nil
}

func parseRow(k store.RowKey, raw []byte) (store.Row, error) {
	revision, sealed, err := parseRevision(raw)
	if err != nil {
		return store.Row{}, err
	}
	s, err := envelope.ParseSealed(sealed)
	if err != nil {
		return store.Row{}, corrupt("row", err)
	}
	return store.Row{RowKey: k, Value: s, Revision: revision}, nil
}

func (e *engine) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return store.Row{}, err
	}
	defer leave()
	at := rowKey(key)
	raw, err := get(e.db, at)
	e.latches.settle(string(at))
	if err != nil {
		return store.Row{}, err
	}
	return parseRow(key, raw)
}

func (e *engine) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	prefix := rowPrefix(table, partition)
	lower := prefix
	if after != (envelope.Name{}) {
		lower = append(rowKey(store.RowKey{Table: table, Partition: partition, Name: after}), 0)
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return nil, fail("list rows", err)
	}
	defer it.Close()
	var rows []store.Row
	for it.First(); it.Valid() && len(rows) < limit; it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, fail("list rows", err)
		}
		name := it.Key()[len(prefix):]
		if len(name) != len(envelope.Name{}) {
			return nil, fmt.Errorf("%w: row key of %d bytes", store.ErrCorrupt, len(it.Key()))
		}
		key := store.RowKey{Table: table, Partition: partition, Name: envelope.Name(name)}
		row, err := parseRow(key, bytes.Clone(value))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if err := it.Error(); err != nil {
		return nil, fail("list rows", err)
	}
	for _, row := range rows {
		e.latches.settle(string(rowKey(row.RowKey)))
	}
	return rows, nil
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

func (e *engine) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	keys := make([]string, len(writes))
	for i, w := range writes {
		keys[i] = string(rowKey(w.RowKey))
	}
	defer e.latches.lock(keys...)()
	b := e.db.NewBatch()
	defer b.Close()
	for _, w := range writes {
		key := rowKey(w.RowKey)
		revision, err := e.revision(key)
		if err != nil {
			return err
		}
		if !w.Expect.Met(revision) {
			return store.ErrConflict
		}
		if w.Value == nil {
			err = b.Delete(key, nil)
		} else {
			err = b.Set(key, append(binary.BigEndian.AppendUint64(nil, revision+1), w.Value.Bytes()...), nil)
		}
		if err != nil {
			return fail("write rows", err)
		}
	}
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return fail("write rows", err)
	}
	return nil
}

// revision of the row at key; 0 when there is none.
func (e *engine) revision(key []byte) (uint64, error) {
	raw, err := get(e.db, key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	revision, _, err := parseRevision(raw)
	return revision, err
}

func (e *engine) ScanRows(ctx context.Context, after store.RowKey, limit int) ([]store.Row, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	space := []byte{spaceRow}
	lower := space
	if after != (store.RowKey{}) {
		lower = append(rowKey(after), 0)
	}
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: prefixEnd(space)})
	if err != nil {
		return nil, fail("scan rows", err)
	}
	defer it.Close()
	var rows []store.Row
	for it.First(); it.Valid() && len(rows) < limit; it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, fail("scan rows", err)
		}
		found := stored(it.Key(), value)
		if found.Part != store.PartRow {
			return nil, fmt.Errorf("%w: row key of %d bytes", store.ErrCorrupt, len(it.Key()))
		}
		row, err := parseRow(found.Row, bytes.Clone(value))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if err := it.Error(); err != nil {
		return nil, fail("scan rows", err)
	}
	for _, row := range rows {
		e.latches.settle(string(rowKey(row.RowKey)))
	}
	return rows, nil
}

func (e *engine) ResealRows(ctx context.Context, rows []store.Resealed) (int, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	keys := make([]string, len(rows))
	for i, one := range rows {
		keys[i] = string(rowKey(one.RowKey))
	}
	defer e.latches.lock(keys...)()
	b := e.db.NewBatch()
	defer b.Close()
	n := 0
	for _, one := range rows {
		key := rowKey(one.RowKey)
		raw, err := get(e.db, key)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		revision, sealed, err := parseRevision(raw)
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(sealed, one.Old.Bytes()) {
			continue
		}
		if err := b.Set(key, append(binary.BigEndian.AppendUint64(nil, revision), one.New.Bytes()...), nil); err != nil {
			return 0, fail("reseal rows", err)
		}
		n++
	}
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return 0, fail("reseal rows", err)
	}
	return n, nil
}
