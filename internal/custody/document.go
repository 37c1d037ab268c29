package custody

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Document is the right to seal and open what belongs to one document, for as
// long as its resource's lease holds. Its methods return *UnusableError once the
// lease is lost; the Document never comes back then: open another one. It is
// safe for concurrent use.
type Document struct {
	k    *Keeper
	root *root
	at   envelope.KeyPlace
	done chan struct{}

	// mu is held for reading by whoever seals or opens, so that a wipe waits for
	// them, and for writing by whoever changes what is below. Order: Keeper.mu first.
	mu     sync.RWMutex
	lease  *lease
	key    envelope.DocumentKey
	writer *Writer
	err    error // why it ended; nil while it lasts
}

// NewDocument makes handle and key of a new document. The document exists once
// the returned write was made, in one with the caller's own.
func (k *Keeper) NewDocument(ctx context.Context, r envelope.ResourceID) (*Document, store.RowWrite, error) {
	at := envelope.KeyPlace{Resource: r}
	rand.Read(at.Document[:]) // never fails, see crypto/rand
	rand.Read(at.KeyID[:])
	root, err := k.lock(ctx, r)
	if err != nil {
		return nil, store.RowWrite{}, err
	}
	defer k.mu.Unlock()
	at.Epoch = root.rec.Epoch
	key := envelope.NewDocumentKey()
	wrapped, err := root.key.WrapDocumentKey(key, at)
	if err != nil {
		key.Wipe()
		return nil, store.RowWrite{}, fmt.Errorf("wrap the key of a new document: %w", err)
	}
	w := store.RowWrite{RowKey: k.documentKeyRow(r, at.Document), Value: &wrapped, Expect: store.Absent}
	return root.open(k, at, key), w, nil
}

// OpenDocument opens the key of an existing document; store.ErrNotFound if it was
// destroyed.
func (k *Keeper) OpenDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) (*Document, error) {
	row, err := k.c.Store.GetRow(ctx, k.documentKeyRow(r, h))
	if err != nil {
		return nil, fmt.Errorf("read document key: %w", err)
	}
	root, err := k.lock(ctx, r)
	if err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	key, at, err := root.key.UnwrapDocumentKey(row.Value, r, h)
	if err != nil {
		return nil, fmt.Errorf("open document key: %w: %w", store.ErrCorrupt, err)
	}
	return root.open(k, at, key), nil
}

// open registers a document; Keeper.mu is held, and the root is usable.
func (r *root) open(k *Keeper, at envelope.KeyPlace, key envelope.DocumentKey) *Document {
	d := &Document{k: k, root: r, at: at, done: make(chan struct{}), lease: r.watch.lease, key: key}
	r.documents[d] = struct{}{}
	return d
}

// DestroyDocument returns the write that destroys the document's key; it needs no
// key store. Whoever has the document open loses it now, before the write is made.
func (k *Keeper) DestroyDocument(r envelope.ResourceID, h envelope.DocumentHandle) store.RowWrite {
	k.mu.Lock()
	defer k.mu.Unlock()
	if root := k.roots[r]; root != nil {
		for d := range root.documents {
			if d.at.Document == h {
				d.end(store.ErrNotFound)
				delete(root.documents, d)
			}
		}
	}
	return store.RowWrite{RowKey: k.documentKeyRow(r, h), Expect: store.Anything}
}

// Handle is the document's name in stores.
func (d *Document) Handle() envelope.DocumentHandle { return d.at.Document }

// Done is closed when the lease is lost or the key destroyed; Err then says why.
func (d *Document) Done() <-chan struct{} { return d.done }

// Err is nil while the lease holds, then an *UnusableError, or store.ErrNotFound
// when the key was destroyed, or store.ErrClosed after Close.
func (d *Document) Err() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.unusable()
}

// Settled waits while a first refusal of the key is being confirmed: what a client
// sent in that time is neither sealed nor acknowledged before it is known whether the
// key may still be used. It returns what Err then does, or ctx's error. The wait ends
// by itself, at the latest when the lease does, which a refusal shortens to
// suspicionAtMost. Without a doubt it costs an atomic load.
func (d *Document) Settled(ctx context.Context) error {
	for {
		d.mu.RLock()
		err, l := d.unusable(), d.lease
		d.mu.RUnlock()
		if err != nil {
			return err
		}
		held := l.held.Load()
		if held == nil {
			return nil
		}
		select {
		case <-*held: // the lease may be another one now
		case <-d.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close gives the Document back; its keys are wiped.
func (d *Document) Close() {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	d.end(store.ErrClosed)
	delete(d.root.documents, d)
}

// end wipes the document's keys and says so to all who wait. Idempotent.
func (d *Document) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return
	}
	d.err = err
	d.key.Wipe()
	if d.writer != nil {
		d.writer.segment = nil // with it goes what AES expanded from its key
	}
	close(d.done)
}

// unusable is nil while keys may be used; mu is held. The lease is looked at each
// time: a process that was paused must not seal in the moment before anyone noticed.
func (d *Document) unusable() error {
	if d.err != nil {
		return d.err
	}
	if !d.lease.valid() {
		return leaseError()
	}
	return nil
}

// SealObject seals a checkpoint or git object under the name that kind and id give.
func (d *Document) SealObject(kind envelope.Kind, id string, plaintext []byte) (store.Object, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.unusable(); err != nil {
		return store.Object{}, err
	}
	name := d.key.Name(kind, id)
	s, err := d.key.SealObject(d.at, kind, name, plaintext)
	if err != nil {
		return store.Object{}, fmt.Errorf("seal object: %w", err)
	}
	return store.Object{Name: name, Value: s}, nil
}

// OpenObject opens what SealObject made for the same kind and id; store.ErrCorrupt
// (wrapped) if it does not open.
func (d *Document) OpenObject(kind envelope.Kind, id string, s envelope.Sealed) ([]byte, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.unusable(); err != nil {
		return nil, err
	}
	b, err := d.key.OpenObject(d.at, kind, d.key.Name(kind, id), s)
	if err != nil {
		return nil, fmt.Errorf("open object: %w: %w", store.ErrCorrupt, err)
	}
	return b, nil
}

// Name is the name under which SealObject keeps kind and id. Of a document that
// ended it is a random name, under which nothing is kept.
func (d *Document) Name(kind envelope.Kind, id string) envelope.Name {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.key.Name(kind, id)
}
