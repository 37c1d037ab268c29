package pebble

import (
	"context"
	"errors"

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
	defer e.latches.lock(latchKey(doc, partObject))()
	b := e.db.NewBatch()
	defer b.Close()
	size := 0
	for _, o := range objects {
		size += len(o.Value.Bytes())
		if err := b.Set(documentKey(doc, partObject, o.Name[:]...), o.Value.Bytes(), nil); err != nil {
			return fail("put objects", err)
		}
	}
	if err := e.disk.room(size); err != nil {
		return err
	}
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return fail("put objects", err)
	}
	return nil
}

func (e *engine) GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (envelope.Sealed, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return envelope.Sealed{}, err
	}
	defer leave()
	raw, err := get(e.db, documentKey(doc, partObject, name[:]...))
	e.latches.settle(latchKey(doc, partObject))
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
	e.latches.settle(latchKey(doc, partObject))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fail("read", err)
	}
	return true, closer.Close()
}
