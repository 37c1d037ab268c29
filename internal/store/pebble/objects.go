package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func (e *engine) PutObjects(ctx context.Context, doc envelope.DocumentHandle, objects []store.Object) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	b := e.db.NewBatch()
	defer b.Close()
	for _, o := range objects {
		if err := b.Set(documentKey(doc, partObject, o.Name[:]...), o.Value.Bytes(), nil); err != nil {
			return fmt.Errorf("pebble: put objects: %w", err)
		}
	}
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return fmt.Errorf("pebble: put objects: %w", err)
	}
	return nil
}

func (e *engine) GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (envelope.Sealed, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return envelope.Sealed{}, err
	}
	defer leave()
	raw, err := e.get(documentKey(doc, partObject, name[:]...))
	if err != nil {
		return envelope.Sealed{}, err
	}
	s, err := envelope.ParseSealed(raw)
	if err != nil {
		return envelope.Sealed{}, corrupt("object", err)
	}
	return s, nil
}

func (e *engine) HasObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (bool, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	_, closer, err := e.db.Get(documentKey(doc, partObject, name[:]...))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pebble: read: %w", err)
	}
	return true, closer.Close()
}

func (e *engine) DeleteDocument(ctx context.Context, doc envelope.DocumentHandle) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer e.latches.lock(doc)()
	// All keys of a document begin with its handle and a part below 0xff.
	if err := e.db.DeleteRange(documentKey(doc, 0), documentKey(doc, 0xff), pebble.Sync); err != nil {
		return fmt.Errorf("pebble: delete a document: %w", err)
	}
	return nil
}

func rowKey(k store.RowKey) []byte {
	b := rowPrefix(k.Table, k.Partition)
	return append(b, k.Name[:]...)
}

func rowPrefix(t store.Table, partition envelope.Name) []byte {
	b := append([]byte{spaceRow}, t...)
	b = append(b, 0) // no table's name contains it, so no table is a prefix of another
	return append(b, partition[:]...)
}

func parseRow(k store.RowKey, raw []byte) (store.Row, error) {
	if len(raw) < 8 {
		return store.Row{}, fmt.Errorf("%w: row of %d bytes", store.ErrCorrupt, len(raw))
	}
	s, err := envelope.ParseSealed(raw[8:])
	if err != nil {
		return store.Row{}, corrupt("row", err)
	}
	return store.Row{RowKey: k, Value: s, Revision: binary.BigEndian.Uint64(raw)}, nil
}

func (e *engine) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return store.Row{}, err
	}
	defer leave()
	raw, err := e.get(rowKey(key))
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
		return nil, fmt.Errorf("pebble: list rows: %w", err)
	}
	defer it.Close()
	var rows []store.Row
	for it.First(); it.Valid() && len(rows) < limit; it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, fmt.Errorf("pebble: list rows: %w", err)
		}
		if len(it.Key()) != len(prefix)+len(envelope.Name{}) {
			return nil, fmt.Errorf("%w: row key of %d bytes", store.ErrCorrupt, len(it.Key()))
		}
		key := store.RowKey{Table: table, Partition: partition, Name: envelope.Name(it.Key()[len(prefix):])}
		row, err := parseRow(key, append([]byte(nil), value...))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("pebble: list rows: %w", err)
	}
	return rows, nil
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
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
	e.rows.Lock()
	defer e.rows.Unlock()
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
			return fmt.Errorf("pebble: write rows: %w", err)
		}
	}
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return fmt.Errorf("pebble: write rows: %w", err)
	}
	return nil
}

// revision of the row at key; 0 when there is none.
func (e *engine) revision(key []byte) (uint64, error) {
	raw, err := e.get(key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(raw) < 8 {
		return 0, fmt.Errorf("%w: row of %d bytes", store.ErrCorrupt, len(raw))
	}
	return binary.BigEndian.Uint64(raw), nil
}
