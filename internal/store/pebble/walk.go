package pebble

import (
	"bytes"
	"context"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Walk reads a snapshot; writers go on meanwhile.
func (e *engine) Walk(ctx context.Context, visit func(store.Stored) error) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	it, err := e.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		return fail("walk", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return fail("walk", err)
		}
		if err := visit(stored(it.Key(), value)); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fail("walk", err)
	}
	return nil
}

// stored tells by its key what a value is.
func stored(key, value []byte) store.Stored {
	s := store.Stored{Part: store.PartUnknown, Value: value}
	switch {
	case len(key) > seqOffset-1 && key[0] == spaceDocument:
		s.Document = envelope.DocumentHandle(key[1 : seqOffset-1])
		rest := len(key) - seqOffset
		switch part := key[seqOffset-1]; {
		case part == partState && rest == 0 && len(value) == 16:
			s.Part = store.PartState
		case part == partHeader && rest == 8:
			s.Part = store.PartHeader
		case part == partRecord && rest == 8:
			s.Part = store.PartRecord
		case part == partObject && rest == len(s.Name):
			s.Part, s.Name = store.PartObject, envelope.Name(key[seqOffset:])
		}
	case len(key) > 1 && key[0] == spaceRow:
		table, names, found := bytes.Cut(key[1:], []byte{0})
		if found && len(table) > 0 && len(names) == 2*len(s.Name) && len(value) >= 8 {
			s.Part, s.Value = store.PartRow, value[8:] // after the revision
			s.Row = store.RowKey{Table: store.Table(table), Partition: envelope.Name(names[:len(s.Name)]), Name: envelope.Name(names[len(s.Name):])}
		}
	}
	return s
}
