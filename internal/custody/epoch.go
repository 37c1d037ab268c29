package custody

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// An epoch is the life of one root key of a resource. Its end makes copies useless: who
// kept the wrapped key of a deleted document has the root key of another epoch at most
// as long as its wrap record can be opened (see Retention), and never again from us.
//
// The change to the next epoch can be cut off anywhere. The next root key is stored
// wrapped by the one in force, so that until the change is over the customer's key
// leads to both; then, in one write, the next one's own wrap record takes the place of
// the old one:
//
//	row next      the root key of epoch e+1, under that of e: new document keys are under it
//	rows closed   no document key is written under e any more
//	(each document key is moved from e to e+1)
//	row current   epoch e+1, under the customer's key; row next goes, and what wrapped e
const (
	EpochEvery         = 30 * day
	EpochAfterDeletion = time.Hour // a document's deletion ends the epoch then
	epochWraps         = 1 << 28   // of document keys, by this process

	nextID   = "next"
	shredID  = "shred"   // when a document was deleted first in this epoch
	rotateID = "rotate"  // document keys that are older are to be replaced
	closedID = "closed/" // and epoch and shard

	closedShards = 16 // so that the making of documents does not queue up behind one row
	turnPage     = 256
	turnEvery    = time.Minute // is looked for what is due
	turnLook     = time.Hour   // in the store, when nothing was
	turnAgain    = 5 * time.Minute
)

// epoch is which root key of a resource, and since when there is one.
type epoch struct {
	number uint32
	since  time.Time
}

func (r *wrapRecord) epoch() epoch { return epoch{r.Epoch, r.EpochAt} }

// nextRecord is the root key that follows, as it is stored meanwhile.
type nextRecord struct {
	Version    int       `json:"version"`
	Resource   string    `json:"resource"` // hexadecimal
	Epoch      uint32    `json:"epoch"`
	Wrapped    []byte    `json:"wrapped"` // base64, by the root key of the epoch before
	Commitment []byte    `json:"commitment"`
	CreatedAt  time.Time `json:"createdAt"`
	Shred      uint64    `json:"shred,omitempty"` // the revision of the row of that name, then

	row store.Row
}

// shredMark is the row shred.
type shredMark struct {
	Version int       `json:"version"`
	Since   time.Time `json:"since"`

	revision uint64
}

// decodeRootRow takes one JSON value: nothing unknown, nothing after it.
func decodeRootRow(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: a row of root keys does not decode", store.ErrCorrupt)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows a row of root keys", store.ErrCorrupt)
	}
	return nil
}

// readNext reads the root key that is to follow; nil if none is.
func (k *Keeper) readNext(ctx context.Context, r envelope.ResourceID) (*nextRecord, error) {
	b, row, err := k.rootRow(ctx, r, nextID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := nextRecord{row: row}
	if err := decodeRootRow(b, &n); err != nil {
		return nil, err
	}
	if n.Version != 1 || n.Resource != hex.EncodeToString(r[:]) || n.Epoch < firstEpoch+1 || len(n.Commitment) != 32 {
		return nil, fmt.Errorf("%w: the next root key does not belong here", store.ErrCorrupt)
	}
	return &n, nil
}

// readShred reads since when documents were deleted in this epoch; zero if none was.
func (k *Keeper) readShred(ctx context.Context, r envelope.ResourceID) (shredMark, error) {
	b, row, err := k.rootRow(ctx, r, shredID)
	if errors.Is(err, store.ErrNotFound) {
		return shredMark{}, nil
	}
	if err != nil {
		return shredMark{}, err
	}
	var s shredMark
	if err := decodeRootRow(b, &s); err != nil {
		return shredMark{}, err
	}
	s.revision = row.Revision
	return s, nil
}

// unwrapNext opens n with the root key before it.
func (n *nextRecord) unwrap(key envelope.RootKey, r envelope.ResourceID) (envelope.RootKey, error) {
	next, err := key.UnwrapNext(n.Wrapped, r, n.Epoch)
	if err != nil {
		return envelope.RootKey{}, fmt.Errorf("open the next root key: %w: %w", store.ErrCorrupt, err)
	}
	if !committed(next, r, &wrapRecord{Epoch: n.Epoch, Commitment: n.Commitment}) {
		next.Wipe()
		return envelope.RootKey{}, fmt.Errorf("the next root key is another one: %w", store.ErrCorrupt)
	}
	return next, nil
}

// keyOf returns the root key of an epoch, if it is in memory. Keeper.mu is held.
func (r *root) keyOf(epoch uint32) (envelope.RootKey, bool) {
	switch {
	case epoch == r.rec.Epoch:
		return r.key, true
	case r.nextEpoch != 0 && epoch == r.nextEpoch:
		return r.next, true
	}
	return envelope.RootKey{}, false
}

// newest is the root key that new document keys are wrapped under. Keeper.mu is held.
func (r *root) newest() (envelope.RootKey, uint32) {
	if r.nextEpoch != 0 {
		return r.next, r.nextEpoch
	}
	return r.key, r.rec.Epoch
}

// lockFor is lock, with the root key of an epoch in memory. Another process may have
// begun that epoch; store.ErrCorrupt (wrapped) if nobody has.
func (k *Keeper) lockFor(ctx context.Context, r envelope.ResourceID, epoch uint32) (*root, envelope.RootKey, error) {
	for range 3 {
		root, err := k.lock(ctx, r)
		if err != nil {
			return nil, envelope.RootKey{}, err
		}
		if key, ok := root.keyOf(epoch); ok {
			return root, key, nil
		}
		k.mu.Unlock()
		if err := k.refresh(ctx, r); err != nil {
			return nil, envelope.RootKey{}, err
		}
	}
	return nil, envelope.RootKey{}, fmt.Errorf("there is no root key of epoch %d: %w", epoch, store.ErrCorrupt)
}

// refresh takes in what the store has of a resource's epochs that is newer than what is
// in memory.
func (k *Keeper) refresh(ctx context.Context, r envelope.ResourceID) error {
	next, err := k.readNext(ctx, r)
	if err != nil {
		return err
	}
	rec, _, err := k.readRecord(ctx, r)
	if err != nil {
		return err
	}
	root, err := k.lock(ctx, r)
	if err != nil {
		return err
	}
	if root.rec.Epoch == rec.Epoch {
		defer k.mu.Unlock()
		if next == nil || next.Epoch != rec.Epoch+1 || root.nextEpoch != 0 {
			return nil
		}
		key, err := next.unwrap(root.key, r)
		if err == nil {
			root.next, root.nextEpoch = key, next.Epoch
		}
		return err
	}
	older := root.rec.Epoch < rec.Epoch
	k.mu.Unlock()
	if !older {
		return nil // changed since it was read
	}
	key, found := k.examine(ctx, r, rec, forStart)
	if found.verdict != proof {
		return outageError(time.Now())
	}
	k.install(r, rec, key, found)
	return nil
}

// wipe overwrites the root keys that are in memory. Keeper.mu is held.
func (r *root) wipe() {
	r.key.Wipe()
	r.next.Wipe()
	r.key, r.next = envelope.RootKey{}, envelope.RootKey{}
	r.loaded, r.nextEpoch = false, 0
}

// closedKey is a row whose absence says that document keys may be written under an epoch.
func (k *Keeper) closedKey(r envelope.ResourceID, epoch uint32, shard int) store.RowKey {
	return k.recordKey(r, closedID+strconv.FormatUint(uint64(epoch), 10)+"/"+strconv.Itoa(shard))
}

// stillOpen goes with the write of a document key: it fails with store.ErrConflict when
// the epoch is closed. Nothing is written by it.
func (k *Keeper) stillOpen(r envelope.ResourceID, epoch uint32, h envelope.DocumentHandle) store.RowWrite {
	return store.RowWrite{RowKey: k.closedKey(r, epoch, int(h[0])%closedShards), Expect: store.Absent}
}

// housekeep does what is due by time alone, until the keeper is closed.
func (k *Keeper) housekeep(ctx context.Context) {
	ticker := time.NewTicker(turnEvery)
	defer ticker.Stop()
	renewed := uint64(0)
	for {
		if err := k.auditReceipts(ctx); err != nil && ctx.Err() == nil {
			k.c.Log.ErrorContext(ctx, "receipts are not in the log of key uses yet; trying again in a minute", "err", err)
		}
		if now := today(); renewed != now {
			if err := k.renew(ctx); err == nil {
				renewed = now
			} else if ctx.Err() == nil {
				k.c.Log.ErrorContext(ctx, "retention keys are not all moved on; trying again in a minute", "err", err)
			}
		}
		for _, r := range k.dueToLook() {
			k.look(ctx, r)
		}
		k.rotateAged(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// dueToLook returns the resources of whose epoch the store is asked now.
func (k *Keeper) dueToLook() (due []envelope.ResourceID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for id, r := range k.roots {
		if r.loaded && r.refusal() == nil && (!now.Before(r.looked) || r.wraps >= epochWraps) {
			r.looked = now.Add(turnLook)
			due = append(due, id)
		}
	}
	return due
}

func (k *Keeper) look(ctx context.Context, r envelope.ResourceID) {
	again, err := k.turn(ctx, r)
	if err == nil {
		_, err = k.resumeRotation(ctx, r)
	}
	var unusable *UnusableError
	switch {
	case ctx.Err() != nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict), errors.As(err, &unusable):
	case err != nil:
		k.c.Log.ErrorContext(ctx, "the root key is not replaced yet", "err", err)
	}
	if err != nil {
		again = time.Now().Add(turnAgain)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if root := k.roots[r]; root != nil && again.Before(root.looked) {
		root.looked = again
	}
}

// turn begins or finishes the next epoch of a resource, if one is due, and says when to
// look again.
func (k *Keeper) turn(ctx context.Context, r envelope.ResourceID) (again time.Time, err error) {
	next, err := k.readNext(ctx, r)
	if err != nil {
		return again, err
	}
	if next == nil {
		old, row, err := k.readRecord(ctx, r)
		if err != nil {
			return again, err
		}
		mark, err := k.readShred(ctx, r)
		if err != nil {
			return again, err
		}
		due := k.epochEnds(r, old, mark)
		if time.Now().Before(due) {
			return due, nil
		}
		if next, err = k.beginNext(ctx, r, old, row, mark); err != nil {
			return again, err
		}
	}
	return time.Now().Add(turnLook), k.finishNext(ctx, r, next)
}

// epochEnds says when the epoch of rec is to end.
func (k *Keeper) epochEnds(r envelope.ResourceID, rec *wrapRecord, mark shredMark) time.Time {
	ends := rec.EpochAt.Add(EpochEvery)
	if mark.revision > 0 {
		if after := mark.Since.Add(EpochAfterDeletion); after.Before(ends) {
			ends = after
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if root := k.roots[r]; root != nil && root.wraps >= epochWraps {
		ends = time.Time{}
	}
	return ends
}

// beginNext makes the next root key and stores it under the one in force.
func (k *Keeper) beginNext(ctx context.Context, r envelope.ResourceID, old *wrapRecord, row store.Row, mark shredMark) (*nextRecord, error) {
	root, err := k.lock(ctx, r)
	if err != nil {
		return nil, err
	}
	current := root.key
	same := root.rec.Generation == old.Generation
	k.mu.Unlock()
	if !same {
		// Another process replaced the record, and the news of it has not come, or was lost.
		if err := k.refresh(ctx, r); err != nil {
			return nil, err
		}
		if err := k.reload(ctx, r); err != nil {
			return nil, err
		}
		return nil, store.ErrConflict
	}
	key := envelope.NewRootKey()
	defer key.Wipe()
	n := &nextRecord{Version: 1, Resource: hex.EncodeToString(r[:]), Epoch: old.Epoch + 1, CreatedAt: time.Now().UTC(), Shred: mark.revision}
	commitment := key.Commitment(r, n.Epoch)
	n.Commitment = commitment[:]
	if n.Wrapped, err = current.WrapNext(key, r, n.Epoch); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("encode the next root key: %w", err)
	}
	write, err := k.rootWrite(r, nextID, raw, store.Absent)
	if err != nil {
		return nil, err
	}
	// The record in force is named, and not changed: an epoch that another process
	// began and finished meanwhile must not be followed by one that wraps nothing.
	guard, err := k.recordWrite(r, currentID, old, store.AtRevision(row.Revision))
	if err != nil {
		return nil, err
	}
	if err := k.commit(ctx, write, []store.RowWrite{write, guard}); err != nil {
		return nil, fmt.Errorf("store the next root key: %w", err)
	}
	return k.readNext(ctx, r)
}

// finishNext moves all document keys to the next root key and makes that the one in force.
func (k *Keeper) finishNext(ctx context.Context, r envelope.ResourceID, n *nextRecord) error {
	if n == nil {
		return store.ErrConflict
	}
	if err := k.refresh(ctx, r); err != nil { // new documents are under the next one from here on
		return err
	}
	if err := k.closeEpoch(ctx, r, n.Epoch-1); err != nil {
		return err
	}
	// Once more when something was moved: the second pass finds nothing.
	for moved := 1; moved > 0; {
		var err error
		if moved, err = k.moveDocumentKeys(ctx, r, n.Epoch-1, n.Epoch); err != nil {
			return fmt.Errorf("move document keys to the next root key: %w", err)
		}
	}
	old, row, err := k.readRecord(ctx, r)
	if err != nil {
		return err
	}
	if old.Epoch != n.Epoch-1 {
		return store.ErrConflict // another process was faster
	}
	if err := k.crossOver(ctx, r, n, old, row); err != nil {
		return err
	}
	return k.finishReceipts(ctx, r, old, n)
}

// closeEpoch writes the rows that let no document key be written under an epoch.
func (k *Keeper) closeEpoch(ctx context.Context, r envelope.ResourceID, number uint32) error {
	var writes []store.RowWrite
	for shard := range closedShards {
		key := k.closedKey(r, number, shard)
		s, err := k.c.Service.SealRow(tableRootKeys, key.Partition, key.Name, []byte("{}"))
		if err != nil {
			return fmt.Errorf("seal the end of an epoch: %w", err)
		}
		writes = append(writes, store.RowWrite{RowKey: key, Value: &s})
		if number > firstEpoch { // whoever was writing under the one before has long ended
			writes = append(writes, store.RowWrite{RowKey: k.closedKey(r, number-1, shard)})
		}
	}
	if err := k.c.Store.WriteRows(ctx, writes); err != nil {
		return fmt.Errorf("close an epoch: %w", err)
	}
	return nil
}

// moveDocumentKeys rewraps what is still under epoch from, and says how many there were.
func (k *Keeper) moveDocumentKeys(ctx context.Context, r envelope.ResourceID, from, to uint32) (moved int, err error) {
	var after envelope.Name
	for {
		rows, err := k.c.Store.ListRows(ctx, tableDocumentKeys, k.partition(r), after, turnPage)
		if err != nil {
			return moved, err
		}
		var writes []store.RowWrite
		for _, row := range rows {
			after = row.Name
			at, ok := envelope.WrappedPlace(row.Value)
			if !ok {
				return moved, fmt.Errorf("a document key is not one: %w", store.ErrCorrupt)
			}
			if at.Epoch == to {
				continue
			}
			value, err := k.rewrapDocumentKey(ctx, r, row.Value, at, from, to)
			if err != nil {
				return moved, err
			}
			writes = append(writes, store.RowWrite{RowKey: row.RowKey, Value: &value, Expect: store.AtRevision(row.Revision)})
		}
		if err := k.writeMoved(ctx, writes); err != nil {
			return moved, err
		}
		moved += len(writes)
		if len(rows) < turnPage {
			return moved, nil
		}
	}
}

func (k *Keeper) rewrapDocumentKey(ctx context.Context, r envelope.ResourceID, s envelope.Sealed, at envelope.KeyPlace, from, to uint32) (envelope.Sealed, error) {
	if at.Epoch != from {
		return envelope.Sealed{}, fmt.Errorf("a document key is of epoch %d, between %d and %d: %w", at.Epoch, from, to, store.ErrCorrupt)
	}
	// The lease is looked at for each: a refusal stops this as it stops all else.
	root, newer, err := k.lockFor(ctx, r, to)
	if err != nil {
		return envelope.Sealed{}, err
	}
	older, ok := root.keyOf(from)
	k.mu.Unlock()
	if !ok {
		return envelope.Sealed{}, store.ErrConflict // another process finished it
	}
	key, at, err := older.UnwrapDocumentKey(s, r, at.Document)
	if err != nil {
		return envelope.Sealed{}, fmt.Errorf("open a document key: %w: %w", store.ErrCorrupt, err)
	}
	defer key.Wipe()
	at.Epoch = to
	return newer.WrapDocumentKey(key, at)
}

// writeMoved stores rewrapped document keys. One that was deleted meanwhile stays so.
func (k *Keeper) writeMoved(ctx context.Context, writes []store.RowWrite) error {
	if len(writes) == 0 {
		return nil
	}
	err := k.c.Store.WriteRows(ctx, writes)
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	for _, one := range writes {
		if err := k.c.Store.WriteRows(ctx, []store.RowWrite{one}); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// crossOver wraps the next root key with the customer's key and lets its record take the
// place of the old one, in one write with all that led to the old root key.
func (k *Keeper) crossOver(ctx context.Context, r envelope.ResourceID, n *nextRecord, old *wrapRecord, row store.Row) error {
	_, key, err := k.lockFor(ctx, r, n.Epoch)
	if err != nil {
		return err
	}
	var own envelope.RootKey
	err = key.Use(func(b []byte) (err error) { own, err = envelope.ParseRootKey(b); return err })
	k.mu.Unlock()
	if err != nil {
		return err
	}
	to := Settings{Key: old.configured, Identity: old.Identity}
	version := old.kid
	rec, asked, err := k.wrapRoot(ctx, r, own, epoch{n.Epoch, n.CreatedAt}, to, version, old.Generation+1, forEpoch)
	if err != nil {
		own.Wipe()
		return err
	}
	writes, err := k.crossOverWrites(ctx, r, n, old, row, rec)
	if err == nil {
		err = k.commit(ctx, writes[0], writes)
	}
	if err != nil {
		own.Wipe()
		if errors.Is(err, errOutcomeUnknown) {
			k.drop(r, leaseError())
		}
		return fmt.Errorf("store the record of the next root key: %w", err)
	}
	// The others go on without it, and would find out with their next probe: until then they
	// would hold the root key that was given up.
	k.tell(News{Resource: hex.EncodeToString(r[:])})
	k.install(r, rec, own, evidence{verdict: proof, asked: asked})
	k.c.Log.InfoContext(ctx, "root key replaced", "epoch", rec.Epoch, "generation", rec.Generation, "kid", rec.KeyID)
	return nil
}

// crossOverWrites are the writes of crossOver; the first decides.
func (k *Keeper) crossOverWrites(ctx context.Context, r envelope.ResourceID, n *nextRecord, old *wrapRecord, row store.Row, rec *wrapRecord) ([]store.RowWrite, error) {
	current, err := k.recordWrite(r, currentID, rec, store.AtRevision(row.Revision))
	if err != nil {
		return nil, err
	}
	writes := []store.RowWrite{current, {RowKey: n.row.RowKey, Expect: store.AtRevision(n.row.Revision)}}
	for before := old; ; {
		gone := *before
		gone.Wrapped = nil
		w, err := k.recordWrite(r, previousRecordID(before.Generation), &gone, store.Anything)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
		if before.Generation == 1 {
			return writes, nil
		}
		before, _, err = k.readRecordAt(ctx, r, previousRecordID(before.Generation-1))
		if errors.Is(err, store.ErrNotFound) || err == nil && len(before.Wrapped) == 0 {
			return writes, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
