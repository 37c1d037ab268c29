package custody

import (
	"context"
	"crypto/rand"
	"errors"
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

// NewDocument makes handle and key of a new document. The document exists once Create
// was called.
func (k *Keeper) NewDocument(ctx context.Context, r envelope.ResourceID) (*Document, error) {
	at := envelope.KeyPlace{Resource: r}
	rand.Read(at.Document[:]) // never fails, see crypto/rand
	rand.Read(at.KeyID[:])
	root, err := k.lock(ctx, r)
	if err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	_, at.Epoch = root.newest()
	return root.open(k, at, envelope.NewDocumentKey()), nil
}

// Create stores the key of a new document, wrapped, in one write with also. The document
// exists from then on; store.ErrConflict (wrapped) if one of also is not as expected.
func (d *Document) Create(ctx context.Context, also ...store.RowWrite) error {
	for {
		write, epoch, err := d.wrapped(ctx)
		if err != nil {
			return err
		}
		guard := d.k.stillOpen(d.at.Resource, epoch, d.at.Document)
		err = d.k.c.Store.WriteRows(ctx, append([]store.RowWrite{write, guard}, also...))
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		// Did the epoch end between wrapping and writing?
		_, closed := d.k.c.Store.GetRow(ctx, guard.RowKey)
		if errors.Is(closed, store.ErrNotFound) {
			return fmt.Errorf("store document key: %w", err)
		}
		if closed != nil {
			return fmt.Errorf("read the end of an epoch: %w", closed)
		}
		if err := d.k.refresh(ctx, d.at.Resource); err != nil {
			return err
		}
	}
}

// wrapped is the write of the document's key under the newest root key, and its epoch.
func (d *Document) wrapped(ctx context.Context) (store.RowWrite, uint32, error) {
	root, err := d.k.lock(ctx, d.at.Resource)
	if err != nil {
		return store.RowWrite{}, 0, err
	}
	defer d.k.mu.Unlock()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.unusable(); err != nil {
		return store.RowWrite{}, 0, err
	}
	at := d.at
	var key envelope.RootKey
	key, at.Epoch = root.newest()
	s, err := key.WrapDocumentKey(d.key, at)
	if err != nil {
		return store.RowWrite{}, 0, fmt.Errorf("wrap the key of a new document: %w", err)
	}
	root.wraps++
	return store.RowWrite{RowKey: d.k.documentKeyRow(at.Resource, at.Document), Value: &s, Expect: store.Absent}, at.Epoch, nil
}

// OpenDocument opens the key of an existing document; store.ErrNotFound if it was
// destroyed. A key that is old enough is replaced first.
func (k *Keeper) OpenDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) (*Document, error) {
	d, err := k.openStored(ctx, r, h)
	if err == nil {
		k.rotateIfDue(ctx, d)
	}
	return d, err
}

// openStored is OpenDocument, and writes nothing.
func (k *Keeper) openStored(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) (*Document, error) {
	reloaded := false
	for {
		row, err := k.c.Store.GetRow(ctx, k.documentKeyRow(r, h))
		if err != nil {
			return nil, fmt.Errorf("read document key: %w", err)
		}
		d, err := k.openDocument(ctx, r, h, row.Value)
		if err == nil || !errors.Is(err, store.ErrCorrupt) {
			return d, err
		}
		// It may have been moved to the next root key, and the one before be gone.
		again, readErr := k.c.Store.GetRow(ctx, row.RowKey)
		if readErr != nil {
			return nil, fmt.Errorf("read document key: %w", readErr)
		}
		if again.Revision != row.Revision {
			continue
		}
		if k.c.Tell == nil || reloaded {
			return nil, err
		}
		// Another process made that root key, and its news was lost.
		if err := k.reload(ctx, r); err != nil {
			return nil, err
		}
		reloaded = true
	}
}

func (k *Keeper) openDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle, s envelope.Sealed) (*Document, error) {
	at, ok := envelope.WrappedPlace(s)
	if !ok || at.Resource != r || at.Document != h { // before anything is looked for on its word
		return nil, fmt.Errorf("open document key: %w: it is of another place", store.ErrCorrupt)
	}
	root, rootKey, err := k.lockFor(ctx, r, at.Epoch)
	if err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	key, at, err := rootKey.UnwrapDocumentKey(s, r, h)
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

// catchUp takes a newer key of the document in, if some of what is to be opened is under one
// that is not known here: another process, or another Document, replaced it. d.mu is not held.
func (d *Document) catchUp(ids ...envelope.KeyID) {
	d.mu.RLock()
	lacks := false
	for _, id := range ids {
		lacks = lacks || id != d.at.KeyID && !d.key.Has(d.at.KeyID, id)
	}
	usable := d.unusable() == nil
	d.mu.RUnlock()
	if !lacks || !usable {
		return
	}
	ctx, cancel := context.WithTimeout(d.k.ctx, foreground)
	defer cancel()
	// What goes wrong here shows when it does not open.
	if err := d.k.adoptDocumentKey(ctx, d.at.Resource, d.at.Document); err != nil {
		d.k.c.Log.WarnContext(ctx, "a document's newer key cannot be read", "err", err)
	}
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
	if d.k.anchors != nil {
		d.k.anchors.ended(d)
	}
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
	if place, ok := envelope.ObjectPlace(s); ok {
		d.catchUp(place.KeyID)
	}
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
