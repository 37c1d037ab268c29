package custody

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// Create checks s, makes the root key of a new resource and stores it wrapped, in
// one write with also. *CheckError, store.ErrConflict.
func (k *Keeper) Create(ctx context.Context, r envelope.ResourceID, s Settings, also ...store.RowWrite) error {
	described, problems := k.check(ctx, s, forCreate)
	if err := problems.or(); err != nil {
		return err
	}
	key := envelope.NewRootKey()
	rec, asked, err := k.wrapRoot(ctx, r, key, epoch{firstEpoch, time.Now().UTC()}, s, described.ID, 1, forCreate)
	if err != nil {
		key.Wipe()
		return err
	}
	write, err := k.recordWrite(r, currentID, rec, store.Absent)
	if err == nil {
		var retain []store.RowWrite
		if retain, err = k.retainWrites(r); err == nil {
			err = k.commit(ctx, write, slices.Concat([]store.RowWrite{write}, retain, also))
		}
	}
	if err != nil {
		key.Wipe()
		return fmt.Errorf("store wrap record: %w", err)
	}
	k.install(r, rec, key, evidence{verdict: proof, asked: asked, described: true, expires: described.Expires, recovery: described.RecoveryLevel})
	return nil
}

// Update checks s, unwraps the root key with the key it has (which must be enabled
// and unexpired), wraps it with the new one, unwraps that and compares, and
// stores the new record in one write with also; the old record is kept beside it. No
// data moves. An update to the same settings checks them and writes also.
//
// *CheckError; store.ErrConflict if the settings were changed meanwhile;
// store.ErrNotFound (wrapped) for an unknown resource.
func (k *Keeper) Update(ctx context.Context, r envelope.ResourceID, s Settings, also ...store.RowWrite) error {
	m, err := k.prepare(ctx, r, s, forUpdate)
	if err != nil {
		return err
	}
	if m.moves() {
		return k.rewrap(ctx, r, m, also...)
	}
	// Perhaps another process has moved it there, and did not live to tell.
	if err := k.reload(ctx, r); err != nil || len(also) == 0 {
		return err
	}
	return k.c.Store.WriteRows(ctx, also)
}

// CheckUpdate does what Update does before it changes anything: errors as there.
func (k *Keeper) CheckUpdate(ctx context.Context, r envelope.ResourceID, s Settings) error {
	m, err := k.prepare(ctx, r, s, forCheck)
	m.key.Wipe()
	return err
}

// prepare checks everything that an update to s needs. Without an error the root key is
// the caller's, if it moves.
func (k *Keeper) prepare(ctx context.Context, r envelope.ResourceID, s Settings, why reason) (rewrapping, error) {
	old, row, err := k.readRecord(ctx, r)
	if err != nil {
		return rewrapping{}, err
	}
	problems := &CheckError{}
	switch {
	case old.kid.IsZero() && !s.Key.IsZero():
		problems.add(codeCannotEnable, "The resource was made without a customer-managed key and cannot get one: make a new resource.")
		return rewrapping{}, problems
	case !old.kid.IsZero() && s.Key.IsZero():
		problems.add(codeCannotDisable, "A resource with a customer-managed key cannot do without: only key, version and identity can be changed.")
		return rewrapping{}, problems
	}
	described, problems := k.check(ctx, s, why)
	m := rewrapping{old: old, row: row, to: s, version: described, reason: why}
	if m.moves() {
		m.key = k.unwrapPrevious(ctx, r, m, problems)
	}
	if err := problems.or(); err != nil {
		m.key.Wipe()
		return rewrapping{}, err
	}
	return m, nil
}

// rewrapping is a root key on its way from one key version to another.
type rewrapping struct {
	old     *wrapRecord
	row     store.Row        // of old
	key     envelope.RootKey // unwrapped from old; rewrap's to keep or wipe
	to      Settings
	version keystore.Key // of to, as it was checked
	reason  reason
}

// moves says whether the settings are others than those in force.
func (m rewrapping) moves() bool {
	return m.old.KeyURL != m.to.Key.String() || !strings.EqualFold(m.old.Identity, m.to.Identity)
}

// rewrap wraps the root key with the new version, stores that in one write with also,
// and goes on under it.
func (k *Keeper) rewrap(ctx context.Context, r envelope.ResourceID, m rewrapping, also ...store.RowWrite) error {
	rec, asked, err := k.wrapRoot(ctx, r, m.key, m.old.epoch(), m.to, m.version.ID, m.old.Generation+1, m.reason)
	if err == nil {
		err = k.replace(ctx, r, m.old, m.row, rec, also)
	}
	if err != nil {
		m.key.Wipe()
		if errors.Is(err, errOutcomeUnknown) {
			// The record in memory may be the wrong one: begin again with what is stored.
			k.drop(r, leaseError())
		}
		return err
	}
	k.install(r, rec, m.key, evidence{verdict: proof, asked: asked, described: true, expires: m.version.Expires, recovery: m.version.RecoveryLevel})
	k.c.Log.InfoContext(ctx, "root key rewrapped", "from", m.old.KeyID, "to", rec.KeyID, "generation", rec.Generation, "reason", string(m.reason))
	return nil
}

// drop forgets a resource, if it is known.
func (k *Keeper) drop(r envelope.ResourceID, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.roots[r]; known != nil {
		k.forget(known, err)
	}
}

// replace stores rec in the place of old, and old beside it, in one write.
func (k *Keeper) replace(ctx context.Context, r envelope.ResourceID, old *wrapRecord, row store.Row, rec *wrapRecord, also []store.RowWrite) error {
	// A rescue has no longer than its lease, and whoever gave up wants no change.
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store wrap record: %w", err)
	}
	current, err := k.recordWrite(r, currentID, rec, store.AtRevision(row.Revision))
	if err != nil {
		return err
	}
	previous, err := k.recordWrite(r, previousRecordID(old.Generation), old, store.Anything)
	if err != nil {
		return err
	}
	if err := k.commit(ctx, current, append([]store.RowWrite{current, previous}, also...)); err != nil {
		return fmt.Errorf("store wrap record: %w", err)
	}
	k.tell(News{Resource: hex.EncodeToString(r[:])})
	return nil
}

// unwrapPrevious gets the root key back with the key version in force. That must be
// enabled and unexpired by its own attributes: Key Vault would unwrap with an
// expired one.
//
// It is used as the identity that is recorded, unless only the identity changes:
// then as the new one, so that a resource whose identity was lost can be repaired.
func (k *Keeper) unwrapPrevious(ctx context.Context, r envelope.ResourceID, m rewrapping, problems *CheckError) envelope.RootKey {
	old, identity := m.old, m.old.Identity
	if old.KeyURL == m.to.Key.String() {
		identity = m.to.Identity
	}
	u := k.kek(identity, old.kid.IsZero(), m.reason).of(r)
	const undo = "The root key can only be moved while the key that holds it works; nothing was changed."
	described, err := u.describe(ctx, old.kid)
	if isOutage(err) {
		problems.unreachable(old.kid, err)
		return envelope.RootKey{}
	}
	if err != nil {
		problems.add(codePreviousLost, "The previous key version %s cannot be read as %s (%s). %s", old.kid, identity, short(err), undo)
		return envelope.RootKey{}
	}
	switch why, _ := unfit(described, time.Now()); why {
	case reasonDisabled:
		problems.add(codePreviousDisabled, "The previous key version %s is disabled: enable it, then update again. %s", old.kid, undo)
		return envelope.RootKey{}
	case reasonExpired:
		problems.add(codePreviousExpired, "The previous key version %s expired on %s: set a later expiration date, then update again. %s",
			old.kid, described.Expires.UTC().Format(time.RFC3339), undo)
		return envelope.RootKey{}
	}
	key, err := unwrapOld(ctx, u, r, old)
	if isOutage(err) {
		problems.unreachable(old.kid, err)
		return envelope.RootKey{}
	}
	if err != nil {
		problems.add(codePreviousLost, "The previous key version %s does not unwrap as %s (%s). %s", old.kid, identity, short(err), undo)
	}
	return key
}

// unwrapOld gets the root key back with the version in force.
func unwrapOld(ctx context.Context, u kek, r envelope.ResourceID, old *wrapRecord) (envelope.RootKey, error) {
	material, err := u.unwrap(ctx, old.wrapped())
	defer clear(material)
	if err != nil {
		return envelope.RootKey{}, err
	}
	key, err := envelope.ParseRootKey(material)
	if err != nil || !committed(key, r, old) {
		key.Wipe()
		return envelope.RootKey{}, errMismatch
	}
	return key, nil
}

// errMismatch: the key store unwrapped another key than the one that was wrapped.
var errMismatch = errors.New(reasonMismatch)

// short is a refusal in a few words.
func short(err error) string {
	if errors.Is(err, errMismatch) {
		return reasonMismatch
	}
	var r *keystore.Error
	if !errors.As(err, &r) || r.Outage() {
		return "the vault does not answer"
	}
	return reasonOf(r)
}

// wrapRoot wraps key with one version of the key store's key, unwraps the result and
// compares. asked is when that last unwrap was sent: the new record's first proof.
func (k *Keeper) wrapRoot(ctx context.Context, r envelope.ResourceID, key envelope.RootKey, e epoch, s Settings, version keystore.URL, generation uint64, why reason) (rec *wrapRecord, asked time.Time, err error) {
	u := k.kek(s.Identity, s.Key.IsZero(), why).of(r)
	problems := &CheckError{}
	var w keystore.Wrapped
	if err := key.Use(func(b []byte) (err error) {
		w, err = u.wrap(ctx, version, b)
		return err
	}); err != nil {
		problems.refused(ctx, u, version, opWrap, err)
		return nil, asked, problems
	}
	commitment := key.Commitment(r, e.number)
	kid := keyIDText(w.ID)
	if w.ID.IsZero() {
		if kid, err = k.serviceKeyOf(w); err != nil {
			return nil, asked, err
		}
	}
	rec = &wrapRecord{
		Version: recordVersion, Resource: hex.EncodeToString(r[:]), Epoch: e.number, EpochAt: e.since, Generation: generation,
		KeyURL: s.Key.String(), KeyID: kid, Identity: s.Identity, Algorithm: w.Algorithm,
		Wrapped: w.Value, Commitment: commitment[:], CreatedAt: time.Now().UTC(), RequestID: w.RequestID, kid: w.ID, configured: s.Key,
	}
	asked = time.Now()
	material, err := u.unwrap(ctx, rec.wrapped())
	defer clear(material)
	if err != nil {
		problems.refused(ctx, u, version, opUnwrap, err)
		return nil, asked, problems
	}
	back, err := envelope.ParseRootKey(material)
	defer back.Wipe()
	if err != nil || !committed(back, r, rec) {
		problems.add(codeWrapMismatch, "The key %s unwrapped something else than it had wrapped; nothing was stored.", w.ID)
		return nil, asked, problems
	}
	return rec, asked, nil
}

// errOutcomeUnknown: a write failed, and whether it was made nevertheless cannot be read.
var errOutcomeUnknown = errors.New("the outcome of the write is unknown")

// commit makes the writes, of which deciding is one. When the store cannot say
// whether they were made, that row does.
func (k *Keeper) commit(ctx context.Context, deciding store.RowWrite, writes []store.RowWrite) error {
	err := k.c.Store.WriteRows(ctx, writes)
	if err == nil || errors.Is(err, store.ErrConflict) {
		return err
	}
	// The caller may have given up; the question must be answered nevertheless.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), foreground)
	defer cancel()
	row, readErr := k.c.Store.GetRow(ctx, deciding.RowKey)
	switch {
	case readErr == nil && deciding.Value != nil && bytes.Equal(row.Value.Bytes(), deciding.Value.Bytes()):
		return nil
	case errors.Is(readErr, store.ErrNotFound) && deciding.Value == nil:
		return nil
	case readErr != nil && !errors.Is(readErr, store.ErrNotFound):
		return errors.Join(errOutcomeUnknown, err, fmt.Errorf("read back: %w", readErr))
	}
	return err
}

// install makes a stored record the one in use. Documents that are open go on: their
// keys stay in memory, under the lease of the new key version. key is k's from here on.
func (k *Keeper) install(id envelope.ResourceID, rec *wrapRecord, key envelope.RootKey, found evidence) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.take(id, rec, key, found)
}

// take is install; Keeper.mu is held.
func (k *Keeper) take(id envelope.ResourceID, rec *wrapRecord, key envelope.RootKey, found evidence) {
	if k.closed {
		key.Wipe()
		return
	}
	r := k.roots[id]
	if r == nil {
		r = k.attach(id, rec)
		r.learn(key, found)
		return
	}
	if r.rec.Generation >= rec.Generation {
		key.Wipe() // a later change was faster
		return
	}
	if r.rec.Epoch != rec.Epoch {
		r.wipe() // it is another root key; documents have theirs
		r.wraps = 0
	}
	before := r.watch
	r.rec, r.mismatch, r.behind, r.watch = rec, time.Time{}, time.Time{}, k.watchFor(rec)
	r.watch.members[r] = struct{}{}
	r.learn(key, found)
	if l := r.watch.lease; l.valid() {
		r.underLease(l)
	} else {
		r.end(r.watch.unusableError())
	}
	// Only now: the lease that the documents had until here ends with its watch.
	if before != r.watch {
		before.leave(r)
	}
}

// underLease has the documents that are open go on under l.
func (r *root) underLease(l *lease) {
	for d := range r.documents {
		d.mu.Lock()
		d.lease = l
		d.mu.Unlock()
	}
}

// Delete destroys all keys of a resource, in one write with also and with the receipt
// that it returns; it needs no key store. Open documents end. What is left of them cannot
// be opened again. A resource that is not there is fine; its receipt is zero.
func (k *Keeper) Delete(ctx context.Context, r envelope.ResourceID, name string, also ...store.RowWrite) (Receipt, error) {
	mark, err := k.readShred(ctx, r)
	if err != nil {
		return Receipt{}, err
	}
	receipt, err := k.deleteRecords(ctx, r, name, also)
	if err != nil {
		return Receipt{}, fmt.Errorf("delete wrap records: %w", err)
	}
	k.drop(r, store.ErrNotFound)
	k.tell(News{Resource: hex.EncodeToString(r[:])})
	if mark.revision > 0 {
		if err := k.completeReceipts(ctx, r, mark.Since, receipt.Epoch+1); err != nil {
			k.c.Log.WarnContext(ctx, "receipts of documents of a deleted resource are not completed; its own says what holds for them", "err", err)
		}
	}
	// The document keys are under a root key that no longer exists. Their rows only
	// take up space; what a crash leaves of them cannot be opened.
	if err := k.deleteDocumentKeys(ctx, r); err != nil {
		k.c.Log.WarnContext(ctx, "document keys of a deleted resource are left over; without its root key they open nothing", "err", err)
	}
	return receipt, nil
}

const deletePage = 256

func (k *Keeper) deleteRecords(ctx context.Context, r envelope.ResourceID, name string, also []store.RowWrite) (Receipt, error) {
	for {
		rows, err := k.c.Store.ListRows(ctx, tableRootKeys, k.partition(r), envelope.Name{}, deletePage)
		if err != nil {
			return Receipt{}, err
		}
		if len(rows) == 0 {
			if len(also) == 0 {
				return Receipt{}, nil
			}
			return Receipt{}, k.c.Store.WriteRows(ctx, also)
		}
		deciding := store.RowWrite{RowKey: k.recordKey(r, currentID), Expect: store.Absent}
		var writes []store.RowWrite
		for _, row := range rows {
			// At this revision: an update that comes between would leave a record behind.
			w := store.RowWrite{RowKey: row.RowKey, Expect: store.AtRevision(row.Revision)}
			if row.RowKey == deciding.RowKey {
				deciding = w
				continue
			}
			writes = append(writes, w)
		}
		if len(rows) == deletePage {
			// So many earlier records that one write does not take them all: the oldest
			// of them go first, the one in force stays until the end.
			if err := k.c.Store.WriteRows(ctx, writes); err != nil && !errors.Is(err, store.ErrConflict) {
				return Receipt{}, err
			}
			continue
		}
		receipt := k.newReceipt(r, receiptOfResource, name)
		if err := k.describeRoot(ctx, r, &receipt); err != nil {
			return Receipt{}, err
		}
		receipt.RootKeyAt, receipt.OldCopies = &receipt.At, k.oldCopies(receipt.At)
		writes = append(append([]store.RowWrite{deciding, {RowKey: k.retainedKey(r)}}, writes...), also...)
		err = k.destroy(ctx, receipt, deciding, writes)
		if !errors.Is(err, store.ErrConflict) {
			return receipt, err
		}
		// Either an update came between, or one of also is not as expected: then the
		// records are as they were listed, and trying again is of no use.
		again, listErr := k.c.Store.ListRows(ctx, tableRootKeys, k.partition(r), envelope.Name{}, deletePage)
		if listErr != nil || sameRevisions(rows, again) {
			return Receipt{}, err
		}
	}
}

func sameRevisions(a, b []store.Row) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].RowKey != b[i].RowKey || a[i].Revision != b[i].Revision {
			return false
		}
	}
	return true
}

func (k *Keeper) deleteDocumentKeys(ctx context.Context, r envelope.ResourceID) error {
	for {
		rows, err := k.c.Store.ListRows(ctx, tableDocumentKeys, k.partition(r), envelope.Name{}, deletePage)
		if err != nil || len(rows) == 0 {
			return err
		}
		writes := make([]store.RowWrite, len(rows))
		for i, row := range rows {
			writes[i] = store.RowWrite{RowKey: row.RowKey, Expect: store.Anything}
		}
		if err := k.c.Store.WriteRows(ctx, writes); err != nil {
			return err
		}
	}
}
