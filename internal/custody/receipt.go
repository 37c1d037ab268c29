package custody

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// The tables of receipts. The words are on disk: frozen.
const (
	tableReceipts  = "receipts"
	tableUnaudited = "receipts-unaudited" // those that are not in the log of key uses yet
)

// What a receipt is of.
const (
	receiptOfDocument = "document"
	receiptOfResource = "resource"
)

// Receipt says that a key was destroyed: it is written in one write with the destruction,
// and is in the hash-chained log of key uses as it was then. Its JSON is on disk: field
// by field in docs/formats/custody.md.
type Receipt struct {
	Version  int    `json:"version"`
	ID       string `json:"id"` // 64 hexadecimal digits; begins with the time, so that they sort by it
	Of       string `json:"of"` // document, resource
	Name     string `json:"name"`
	Resource string `json:"resource"` // hexadecimal
	// Of a document: its handle in sealed headers, and the id of the key that is gone.
	Document string    `json:"document,omitempty"`
	KeyID    string    `json:"keyId,omitempty"`
	Epoch    uint32    `json:"epoch"` // of the root key that it was under; of a resource: the last one
	KEK      string    `json:"kid"`   // the key version that wrapped that
	At       time.Time `json:"destroyedAt"`
	// RootKeyAt is when the root key of that epoch was destroyed; absent: it is not yet.
	// OldCopies is when no copy of the data from before can be opened any more. While
	// RootKeyAt is absent that is a plan; absent itself: there is no retention key.
	RootKeyAt *time.Time `json:"rootKeyDestroyedAt,omitempty"`
	OldCopies *time.Time `json:"oldCopiesOpenUntil,omitempty"`
}

// Final says whether nothing of the receipt will change.
func (r Receipt) Final() bool { return r.RootKeyAt != nil }

func (k *Keeper) newReceipt(r envelope.ResourceID, of, name string) Receipt {
	now := time.Now().UTC().Truncate(time.Millisecond)
	var id envelope.Name
	binary.BigEndian.PutUint64(id[:], uint64(now.UnixNano())) // after 1970
	rand.Read(id[8:])
	return Receipt{
		Version: 1, ID: hex.EncodeToString(id[:]), Of: of, Name: name, Resource: hex.EncodeToString(r[:]), At: now,
		OldCopies: k.oldCopies(now.Add(EpochAfterDeletion)),
	}
}

func (k *Keeper) oldCopies(rootKeyAt time.Time) *time.Time {
	if k.c.Retention == nil {
		return nil
	}
	t := k.c.Retention.until(rootKeyAt)
	return &t
}

func (k *Keeper) receiptWrite(table store.Table, r Receipt) (store.RowWrite, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("encode a receipt: %w", err)
	}
	key := store.RowKey{Table: table}
	if _, err := hex.Decode(key.Name[:], []byte(r.ID)); err != nil {
		return store.RowWrite{}, fmt.Errorf("a receipt's id: %w", err)
	}
	s, err := k.c.Service.SealRow(string(table), key.Partition, key.Name, raw)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal a receipt: %w", err)
	}
	return store.RowWrite{RowKey: key, Value: &s}, nil
}

func (k *Keeper) openReceipt(row store.Row) (Receipt, error) {
	raw, err := k.c.Service.OpenRow(string(row.Table), row.Partition, row.Name, row.Value)
	if err != nil {
		return Receipt{}, fmt.Errorf("open a receipt: %w: %w", store.ErrCorrupt, err)
	}
	var r Receipt
	if err := decodeRootRow(raw, &r); err != nil {
		return Receipt{}, err
	}
	if r.Version != 1 || r.ID != hex.EncodeToString(row.Name[:]) {
		return Receipt{}, fmt.Errorf("a receipt does not belong here: %w", store.ErrCorrupt)
	}
	return r, nil
}

// Receipts returns at most limit receipts after the one with an id (empty: from the
// oldest), and the id of the last one; empty when there are no more.
func (k *Keeper) Receipts(ctx context.Context, after string, limit int) ([]Receipt, string, error) {
	var from envelope.Name
	if n, err := hex.Decode(from[:], []byte(after[:min(len(after), 2*len(from))])); err != nil || n != len(from) && after != "" {
		return nil, "", fmt.Errorf("no receipt has the id %.64q: %w", after, store.ErrNotFound)
	}
	rows, err := k.c.Store.ListRows(ctx, tableReceipts, envelope.Name{}, from, limit)
	if err != nil {
		return nil, "", fmt.Errorf("list receipts: %w", err)
	}
	all := make([]Receipt, len(rows))
	for n, row := range rows {
		if all[n], err = k.openReceipt(row); err != nil {
			return nil, "", err
		}
		if r := &all[n]; !r.Final() { // the plan may have slipped, as when the key cannot be used
			if planned := r.At.Add(EpochAfterDeletion); planned.Before(time.Now()) {
				r.OldCopies = k.oldCopies(time.Now())
			}
		}
	}
	if len(rows) < limit {
		return all, "", nil
	}
	return all, all[len(all)-1].ID, nil
}

// DestroyDocument destroys the document's key, in one write with also and with the
// receipt that it returns; it needs no key store. Whoever has the document open loses it.
// store.ErrNotFound (wrapped) if there is no such key.
func (k *Keeper) DestroyDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle, name string, also ...store.RowWrite) (Receipt, error) {
	k.endDocument(r, h)
	for {
		receipt, err := k.destroyDocument(ctx, r, h, name, also)
		if !errors.Is(err, store.ErrConflict) {
			return receipt, err
		}
		// The key may have moved to the next root key meanwhile; else it is one of also.
		row, readErr := k.c.Store.GetRow(ctx, k.documentKeyRow(r, h))
		if readErr != nil {
			return Receipt{}, readErr
		}
		if at, ok := envelope.WrappedPlace(row.Value); !ok || at.Epoch == receipt.Epoch {
			return Receipt{}, err
		}
	}
}

func (k *Keeper) destroyDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle, name string, also []store.RowWrite) (Receipt, error) {
	row, err := k.c.Store.GetRow(ctx, k.documentKeyRow(r, h))
	if err != nil {
		return Receipt{}, fmt.Errorf("read document key: %w", err)
	}
	receipt := k.newReceipt(r, receiptOfDocument, name)
	receipt.Document = hex.EncodeToString(h[:])
	if err := k.describeRoot(ctx, r, &receipt); err != nil {
		return Receipt{}, err
	}
	if at, ok := envelope.WrappedPlace(row.Value); ok {
		receipt.KeyID, receipt.Epoch = hex.EncodeToString(at.KeyID[:]), at.Epoch
	}
	mark, err := json.Marshal(shredMark{Version: 1, Since: receipt.At})
	if err != nil {
		return receipt, fmt.Errorf("encode a deletion: %w", err)
	}
	if before, err := k.readShred(ctx, r); err != nil {
		return receipt, err
	} else if before.revision > 0 { // the first one counts; two that come at once are as good
		if mark, err = json.Marshal(before); err != nil {
			return receipt, fmt.Errorf("encode a deletion: %w", err)
		}
	}
	marked, err := k.rootWrite(r, shredID, mark, store.Anything)
	if err != nil {
		return receipt, err
	}
	destroyed := store.RowWrite{RowKey: row.RowKey, Expect: store.AtRevision(row.Revision)}
	if err := k.destroy(ctx, receipt, destroyed, append([]store.RowWrite{destroyed, marked}, also...)); err != nil {
		return receipt, fmt.Errorf("destroy document key: %w", err)
	}
	k.endDocument(r, h) // whoever opened it while the write was under way
	if k.anchors != nil {
		if err := k.anchors.forget(h); err != nil {
			k.c.Log.WarnContext(ctx, "the head anchor of a deleted document is left over", "err", err)
		}
	}
	k.lookSoon(r)
	return receipt, nil
}

// describeRoot names the root key in force. What is damaged can be deleted all the same,
// and what is deleted already.
func (k *Keeper) describeRoot(ctx context.Context, r envelope.ResourceID, receipt *Receipt) error {
	rec, _, err := k.readRecordAt(ctx, r, currentID) // as it is stored: what it wraps is not needed
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return nil
	}
	if err == nil {
		receipt.Epoch, receipt.KEK = rec.Epoch, rec.KeyID
	}
	return err
}

// destroy makes the writes, with the receipt, and then puts it into the log of key uses.
func (k *Keeper) destroy(ctx context.Context, receipt Receipt, deciding store.RowWrite, writes []store.RowWrite) error {
	for _, table := range []store.Table{tableReceipts, tableUnaudited} {
		w, err := k.receiptWrite(table, receipt)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	if err := k.commit(ctx, deciding, writes); err != nil {
		return err
	}
	k.auditReceipt(ctx, receipt)
	return nil
}

// auditReceipt puts a receipt into the log of key uses; auditReceipts those that a crash
// left out. One may come twice then, under the same id.
func (k *Keeper) auditReceipt(ctx context.Context, receipt Receipt) {
	k.audit.record(ctx, KeyUse{
		Time: receipt.At, Op: opDestroy, Reason: string(forDelete), KeyID: receipt.KEK,
		Resource: receipt.Resource, Outcome: "ok", Receipt: &receipt,
	})
	done, err := k.receiptWrite(tableUnaudited, receipt)
	if err == nil {
		done.Value = nil
		err = k.c.Store.WriteRows(context.WithoutCancel(ctx), []store.RowWrite{done})
	}
	if err != nil {
		k.c.Log.WarnContext(ctx, "a receipt will be in the log of key uses twice", "receipt", receipt.ID, "err", err)
	}
}

func (k *Keeper) auditReceipts(ctx context.Context) error {
	rows, err := k.c.Store.ListRows(ctx, tableUnaudited, envelope.Name{}, envelope.Name{}, deletePage)
	if err != nil {
		return fmt.Errorf("list receipts: %w", err)
	}
	for _, row := range rows {
		receipt, err := k.openReceipt(row)
		if err != nil {
			return err
		}
		if time.Since(receipt.At) > turnEvery { // else its own process may be at it
			k.auditReceipt(ctx, receipt)
		}
	}
	return nil
}

// endDocument takes the document away from whoever has it open.
func (k *Keeper) endDocument(r envelope.ResourceID, h envelope.DocumentHandle) {
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
}

// lookSoon has the epoch looked at when a deletion that was made now is to end it.
func (k *Keeper) lookSoon(r envelope.ResourceID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if root := k.roots[r]; root != nil {
		if soon := time.Now().Add(EpochAfterDeletion); soon.Before(root.looked) {
			root.looked = soon
		}
	}
}

// finishReceipts completes the receipts of what was under the root key that is destroyed
// now, and takes the mark away that asked for that.
func (k *Keeper) finishReceipts(ctx context.Context, r envelope.ResourceID, old *wrapRecord, n *nextRecord) error {
	mark, err := k.readShred(ctx, r)
	if err != nil || mark.revision == 0 {
		return err
	}
	if err := k.completeReceipts(ctx, r, mark.Since, old.Epoch); err != nil {
		return err
	}
	if mark.revision != n.Shred {
		return nil // of documents that were deleted while their keys moved: the next epoch is theirs
	}
	err = k.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: k.recordKey(r, shredID), Expect: store.AtRevision(mark.revision)}})
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// completeReceipts marks the receipts since a time as final whose root key, of the epoch
// or one before, was destroyed now.
func (k *Keeper) completeReceipts(ctx context.Context, r envelope.ResourceID, since time.Time, epoch uint32) error {
	now := time.Now().UTC().Truncate(time.Millisecond)
	var after envelope.Name
	binary.BigEndian.PutUint64(after[:], uint64(since.Add(-time.Second).UnixNano()))
	resource := hex.EncodeToString(r[:])
	for {
		rows, err := k.c.Store.ListRows(ctx, tableReceipts, envelope.Name{}, after, turnPage)
		if err != nil {
			return fmt.Errorf("list receipts: %w", err)
		}
		var writes []store.RowWrite
		for _, row := range rows {
			after = row.Name
			receipt, err := k.openReceipt(row)
			if err != nil {
				return err
			}
			if receipt.Resource != resource || receipt.Final() || receipt.Epoch > epoch {
				continue
			}
			receipt.RootKeyAt, receipt.OldCopies = &now, k.oldCopies(now)
			w, err := k.receiptWrite(tableReceipts, receipt)
			if err != nil {
				return err
			}
			writes = append(writes, w)
		}
		if len(writes) > 0 {
			if err := k.c.Store.WriteRows(ctx, writes); err != nil {
				return fmt.Errorf("complete receipts: %w", err)
			}
		}
		if len(rows) < turnPage {
			return nil
		}
	}
}
