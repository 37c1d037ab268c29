package custody

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// The key of a document is replaced by age, when the document is used, and on demand. All of
// its keys are in one sealed row: the newest seals, each opens what it sealed, one write
// replaces, and one deletion destroys them all. An open document goes on: the next record
// begins a segment under the new key, the next object is under it.
const (
	// DefaultDocumentKeyDays is how old a document's key gets.
	DefaultDocumentKeyDays = 90

	agedEvery = time.Hour // are the keys of open documents looked at
)

// rotateOrder is the row rotate: an order that a crash does not end.
type rotateOrder struct {
	Version int       `json:"version"`
	Before  time.Time `json:"before"` // keys that were made before are to be replaced
}

// agedBefore is when a key must have been made to be due; zero: none ever is.
func (k *Keeper) agedBefore() time.Time {
	switch days := k.c.Policy.DocumentKeyDays; {
	case days < 0:
		return time.Time{}
	case days == 0:
		return time.Now().Add(-DefaultDocumentKeyDays * day)
	default:
		return time.Now().Add(-time.Duration(days) * day)
	}
}

// rotateIfDue replaces the key of a document that was just opened, if it is old enough. What
// goes wrong is said in the log: the key that it has is as good as before.
func (k *Keeper) rotateIfDue(ctx context.Context, d *Document) {
	d.mu.RLock()
	made := d.key.Made()
	d.mu.RUnlock()
	if before := k.agedBefore(); made.Before(before) {
		k.rotateOne(ctx, d.at.Resource, d.at.Document, before)
	}
}

func (k *Keeper) rotateOne(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle, before time.Time) {
	_, err := k.rotateDocument(ctx, r, h, before)
	var unusable *UnusableError
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) && !errors.As(err, &unusable) {
		k.c.Log.WarnContext(ctx, "the key of a document is not replaced yet, though it is old", "document", hex.EncodeToString(h[:]), "err", err)
	}
}

// rotateAged replaces the keys of open documents that are old enough.
func (k *Keeper) rotateAged(ctx context.Context) {
	before := k.agedBefore()
	type one struct {
		r envelope.ResourceID
		h envelope.DocumentHandle
	}
	due := map[one]bool{}
	k.mu.Lock()
	if now := time.Now(); !now.Before(k.agedAt) && !before.IsZero() {
		k.agedAt = now.Add(agedEvery)
		for _, root := range k.roots {
			for d := range root.documents {
				d.mu.RLock()
				if d.err == nil && d.key.Made().Before(before) {
					due[one{d.at.Resource, d.at.Document}] = true
				}
				d.mu.RUnlock()
			}
		}
	}
	k.mu.Unlock()
	for d := range due {
		k.rotateOne(ctx, d.r, d.h, before)
	}
}

// RotateDocument replaces the key of a document; store.ErrNotFound (wrapped) if there is none.
func (k *Keeper) RotateDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) error {
	_, err := k.rotateDocument(ctx, r, h, time.Now().Add(1)) // whatever its age
	return err
}

// rotateDocument replaces a document's key if it was made before that; it says whether it
// was. Otherwise open documents get what is stored.
func (k *Keeper) rotateDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle, before time.Time) (bool, error) {
	for range 5 {
		row, err := k.c.Store.GetRow(ctx, k.documentKeyRow(r, h))
		if err != nil {
			return false, fmt.Errorf("read document key: %w", err)
		}
		n, err := k.nextDocumentKey(ctx, r, row, before)
		if err != nil {
			return false, err
		}
		if n == nil {
			return false, k.adoptDocumentKey(ctx, r, h)
		}
		guard := k.stillOpen(r, n.epoch, h)
		err = k.commit(ctx, n.write, []store.RowWrite{n.write, guard})
		if err == nil {
			k.tell(News{Resource: hex.EncodeToString(r[:]), Documents: true})
			return true, k.adoptDocumentKey(ctx, r, h)
		}
		if !errors.Is(err, store.ErrConflict) {
			return false, fmt.Errorf("store the next document key: %w", err)
		}
		// Deleted, rotated or moved to the next root key meanwhile.
		if err := k.refresh(ctx, r); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("store the next document key: %w", store.ErrConflict)
}

// nextKey is the write of a document's next key, and the epoch that it is under.
type nextKey struct {
	write store.RowWrite
	epoch uint32
}

// nextDocumentKey makes the next key of a document, if that of row was made before that; nil
// otherwise.
func (k *Keeper) nextDocumentKey(ctx context.Context, r envelope.ResourceID, row store.Row, before time.Time) (*nextKey, error) {
	at, ok := envelope.WrappedPlace(row.Value)
	if !ok || row.RowKey != k.documentKeyRow(r, at.Document) {
		return nil, fmt.Errorf("open document key: %w: it is of another place", store.ErrCorrupt)
	}
	root, rootKey, err := k.lockFor(ctx, r, at.Epoch)
	if err != nil {
		return nil, err
	}
	defer k.mu.Unlock()
	key, at, err := rootKey.UnwrapDocumentKey(row.Value, r, at.Document)
	if err != nil {
		return nil, fmt.Errorf("open document key: %w: %w", store.ErrCorrupt, err)
	}
	defer key.Wipe()
	if !key.Made().Before(before) {
		return nil, nil
	}
	next, err := key.Next(at.KeyID)
	if err != nil {
		return nil, err
	}
	defer next.Wipe()
	rand.Read(at.KeyID[:]) // never fails, see crypto/rand
	var newest envelope.RootKey
	newest, at.Epoch = root.newest()
	s, err := newest.WrapDocumentKey(next, at)
	if err != nil {
		return nil, err
	}
	root.wraps++
	return &nextKey{store.RowWrite{RowKey: row.RowKey, Value: &s, Expect: store.AtRevision(row.Revision)}, at.Epoch}, nil
}

// adoptDocumentKey has what is open of a document go on with the key that is stored.
func (k *Keeper) adoptDocumentKey(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) error {
	row, err := k.c.Store.GetRow(ctx, k.documentKeyRow(r, h))
	if err != nil {
		return fmt.Errorf("read document key: %w", err)
	}
	at, ok := envelope.WrappedPlace(row.Value)
	if !ok {
		return fmt.Errorf("open document key: %w", store.ErrCorrupt)
	}
	root, rootKey, err := k.lockFor(ctx, r, at.Epoch)
	if err != nil {
		return err
	}
	defer k.mu.Unlock()
	for d := range root.documents {
		if d.at.Document != h {
			continue
		}
		key, at, err := rootKey.UnwrapDocumentKey(row.Value, r, h)
		if err != nil {
			return fmt.Errorf("open document key: %w: %w", store.ErrCorrupt, err)
		}
		d.take(key, at)
	}
	return nil
}

// adoptDocumentKeys is adoptDocumentKey for all that is open of a resource.
func (k *Keeper) adoptDocumentKeys(ctx context.Context, r envelope.ResourceID) {
	open := map[envelope.DocumentHandle]bool{}
	k.mu.Lock()
	if root := k.roots[r]; root != nil {
		for d := range root.documents {
			open[d.at.Document] = true
		}
	}
	k.mu.Unlock()
	for h := range open {
		if err := k.adoptDocumentKey(ctx, r, h); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
			k.c.Log.WarnContext(ctx, "a document's newer key is taken in when it is met", "err", err)
		}
	}
}

// take goes on with another key of the same document; key is d's from here on.
func (d *Document) take(key envelope.DocumentKey, at envelope.KeyPlace) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// An older row than what is in memory, read before it was replaced, is not taken.
	if d.err != nil || at.KeyID == d.at.KeyID || !key.Has(at.KeyID, d.at.KeyID) {
		key.Wipe()
		return
	}
	if d.k.anchors != nil {
		d.k.anchors.ended(d) // under the key that it was noted for
	}
	d.key.Wipe()
	d.key, d.at.KeyID, d.at.Epoch = key, at.KeyID, at.Epoch
	if d.writer != nil {
		d.writer.segment = nil // the next record begins one
	}
}

// RotateDocuments replaces the keys of all documents of a resource, and says how many it
// replaced. What a crash or an error leaves undone is done later by itself.
func (k *Keeper) RotateDocuments(ctx context.Context, r envelope.ResourceID) (int, error) {
	if err := k.Admit(ctx, r); err != nil {
		return 0, err
	}
	raw, err := json.Marshal(rotateOrder{Version: 1, Before: time.Now().UTC()})
	if err != nil {
		return 0, fmt.Errorf("encode the order to replace document keys: %w", err)
	}
	write, err := k.rootWrite(r, rotateID, raw, store.Anything)
	if err != nil {
		return 0, err
	}
	// Only while the resource is there.
	rec, row, err := k.readRecord(ctx, r)
	if err != nil {
		return 0, err
	}
	guard, err := k.recordWrite(r, currentID, rec, store.AtRevision(row.Revision))
	if err != nil {
		return 0, err
	}
	if err := k.commit(ctx, write, []store.RowWrite{write, guard}); err != nil {
		return 0, fmt.Errorf("store the order to replace document keys: %w", err)
	}
	return k.resumeRotation(ctx, r)
}

// resumeRotation does what an order is left to do, if there is one.
func (k *Keeper) resumeRotation(ctx context.Context, r envelope.ResourceID) (n int, err error) {
	raw, row, err := k.rootRow(ctx, r, rotateID)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var order rotateOrder
	if err := decodeRootRow(raw, &order); err != nil || order.Version != 1 {
		return 0, fmt.Errorf("the order to replace document keys is of no known form: %w", store.ErrCorrupt)
	}
	var after envelope.Name
	for {
		rows, err := k.c.Store.ListRows(ctx, tableDocumentKeys, k.partition(r), after, turnPage)
		if err != nil {
			return n, err
		}
		rotated, err := k.rotatePage(ctx, r, rows, order.Before)
		n += rotated
		if err != nil {
			return n, err
		}
		if len(rows) < turnPage {
			break
		}
		after = rows[len(rows)-1].Name
	}
	if n > 0 {
		k.tell(News{Resource: hex.EncodeToString(r[:]), Documents: true})
		k.adoptDocumentKeys(ctx, r)
		k.c.Log.InfoContext(ctx, "document keys replaced", "resource", hex.EncodeToString(r[:]), "documents", n)
	}
	err = k.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: row.RowKey, Expect: store.AtRevision(row.Revision)}})
	if errors.Is(err, store.ErrConflict) {
		return n, nil // ordered again, or deleted
	}
	return n, err
}

// rotatePage replaces keys in one write; one by one, if somebody else changed some of them.
func (k *Keeper) rotatePage(ctx context.Context, r envelope.ResourceID, rows []store.Row, before time.Time) (n int, err error) {
	var writes []store.RowWrite
	var due []envelope.DocumentHandle
	guards := map[store.RowKey]store.RowWrite{}
	for _, row := range rows {
		next, err := k.nextDocumentKey(ctx, r, row, before)
		if err != nil {
			return 0, err
		}
		if next == nil {
			continue
		}
		at, _ := envelope.WrappedPlace(*next.write.Value)
		guard := k.stillOpen(r, next.epoch, at.Document)
		guards[guard.RowKey] = guard
		writes, due = append(writes, next.write), append(due, at.Document)
	}
	if len(due) == 0 {
		return 0, nil
	}
	for _, guard := range guards {
		writes = append(writes, guard)
	}
	if err = k.commit(ctx, writes[0], writes); err == nil {
		return len(due), nil
	}
	if !errors.Is(err, store.ErrConflict) {
		return 0, fmt.Errorf("store the next document keys: %w", err)
	}
	for _, h := range due {
		rotated, err := k.rotateDocument(ctx, r, h, before)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return n, err
		}
		if rotated {
			n++
		}
	}
	return n, nil
}
