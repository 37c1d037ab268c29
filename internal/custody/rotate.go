package custody

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// rotate looks at the key's newest version, and moves to it those members whose key URL
// names none. It also tries whether the identity may wrap, which nothing else but a
// rotation would show.
func (w *watch) rotate(ctx context.Context) {
	w.k.mu.Lock()
	var follow []envelope.ResourceID
	var any *wrapRecord
	for r := range w.members {
		any = r.rec
		if r.rec.followsNewest() {
			follow = append(follow, r.id)
		}
	}
	w.k.mu.Unlock()

	var seen rotation
	if any != nil && !any.kid.IsZero() {
		seen = w.lookAround(ctx, any, follow)
	}

	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.rotating, w.versionSeen = false, time.Now()
	w.noticeRotation(seen)
}

// rotation is what a look at the newest version showed.
type rotation struct {
	newest  keystore.URL // zero: not known
	unfit   error        // why the newest could not be adopted
	wrapped error        // what came of wrapping with the version in use; nil: it works
	looked  bool
}

func (w *watch) lookAround(ctx context.Context, in *wrapRecord, follow []envelope.ResourceID) rotation {
	u := w.k.kek(in.Identity, false, forRotate)
	seen := rotation{looked: true}
	if newest, err := u.describe(ctx, in.kid.WithVersion("")); err == nil {
		if seen.newest = newest.ID; newest.ID != in.kid {
			for _, r := range follow {
				if err := w.k.adopt(ctx, r); err != nil {
					seen.unfit = err
				}
			}
		}
	}
	material := make([]byte, 32)
	rand.Read(material) // never fails, see crypto/rand
	_, seen.wrapped = u.wrap(ctx, in.kid, material)
	return seen
}

// adopt moves a resource to its key's newest version. Whatever goes wrong leaves the
// version in use where it is, and is tried again after VersionEvery.
func (k *Keeper) adopt(ctx context.Context, r envelope.ResourceID) error {
	err := k.adoptNewest(ctx, r)
	for n := 0; n < 3 && errors.Is(err, store.ErrConflict); n++ { // as when the root key was just replaced
		err = k.adoptNewest(ctx, r)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return nil // done, stopping, deleted, or changed by someone meanwhile
	}
	k.c.Log.WarnContext(ctx, "the key's newest version cannot be used; the resource stays on the one it has", "err", err)
	return err
}

func (k *Keeper) adoptNewest(ctx context.Context, r envelope.ResourceID) error {
	old, row, err := k.readRecord(ctx, r)
	if err != nil {
		return err
	}
	if !old.followsNewest() {
		return nil
	}
	s := Settings{Key: old.configured, Identity: old.Identity}
	newest, problems := k.check(ctx, s, forRotate)
	if err := problems.or(); err != nil {
		return err
	}
	if newest.ID == old.kid {
		return k.reload(ctx, r) // another process was faster, and may not have lived to tell
	}
	// Unlike an update, this may unwrap with a version that has expired: then moving
	// on is what the owner asked for by naming none.
	key, err := unwrapOld(ctx, k.kek(old.Identity, false, forRotate).of(r), r, old)
	if err != nil {
		return err
	}
	return k.rewrap(ctx, r, rewrapping{old: old, row: row, key: key, to: s, version: newest, reason: forRotate})
}

// looksForNewest says whether it is time to. A version that expired still unwraps, so
// moving on is possible then too; from one that is disabled only rescue leads on.
func (w *watch) looksForNewest(found evidence) bool {
	asks := found.verdict == proof || found.verdict == refusal && found.reason == reasonExpired
	return asks && time.Since(w.versionSeen) >= w.versionEvery()
}

func (w *watch) versionEvery() time.Duration {
	if !w.expires.IsZero() && time.Until(w.expires) < VersionEvery {
		return versionSoon
	}
	return VersionEvery
}

// rescueAgain is how long a root key waits whose record was replaced while it was rescued.
const rescueAgain = time.Second

// startRescue moves root keys to their key's newest version when the one in use was
// just refused as disabled: an owner whose key URL names no version may disable the
// old one as soon as there is a new one. It cannot be asked to unwrap any more, so the
// root keys that are in memory are wrapped, and only as long as the lease permits to
// use them. Keeper.mu is held. Disabling the newest version, or a version that the key
// URL names, stops service as ever.
func (w *watch) startRescue() {
	if w.rescuing || !w.lease.valid() {
		return
	}
	var from *wrapRecord
	var all []envelope.ResourceID
	for r := range w.members {
		if r.loaded && r.rec.followsNewest() {
			from, all = r.rec, append(all, r.id)
		}
	}
	if len(all) == 0 {
		return
	}
	w.rescuing = true
	ctx, cancel := context.WithTimeout(w.k.ctx, w.lease.left())
	w.k.wg.Go(func() {
		defer cancel()
		w.k.rescue(ctx, from, all)
		w.k.mu.Lock()
		defer w.k.mu.Unlock()
		w.rescuing = false
	})
}

// rescue moves the root keys of all to the newest version; from is the record of one of
// them. A record may be replaced at the same moment, by the end of an epoch, another
// process or the retention key of a new day, and still be under the disabled version:
// then its root key is tried again for as long as there is time.
func (k *Keeper) rescue(ctx context.Context, from *wrapRecord, all []envelope.ResourceID) {
	newest, problems := k.check(ctx, Settings{Key: from.configured, Identity: from.Identity}, forRescue)
	if newest.ID == from.kid {
		return // the newest was disabled, and means it
	}
	if err := problems.or(); err != nil {
		k.c.Log.WarnContext(ctx, "the key's version in use is disabled, and the newest cannot be used instead", "err", err)
		return
	}
	for {
		var again []envelope.ResourceID
		for _, r := range all {
			err := k.rescueOne(ctx, r, from.kid, newest)
			switch {
			case errors.Is(err, store.ErrConflict):
				again = append(again, r)
			case err != nil && !errors.Is(err, store.ErrNotFound):
				k.c.Log.WarnContext(ctx, "a root key could not be moved off a disabled version", "kid", from.KeyID, "err", err)
			}
		}
		if all = again; len(all) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			k.c.Log.WarnContext(ctx, "root keys whose records kept changing were not moved off a disabled version", "kid", from.KeyID, "count", len(all))
			return
		case <-time.After(rescueAgain):
		}
	}
}

// rescueOne moves one root key. store.ErrConflict if its record was replaced meanwhile, or
// is of an epoch whose root key is not in memory yet.
func (k *Keeper) rescueOne(ctx context.Context, r envelope.ResourceID, from keystore.URL, newest keystore.Key) error {
	old, row, err := k.readRecord(ctx, r)
	if err != nil {
		return err
	}
	if old.kid != from {
		return nil // moved meanwhile
	}
	key, err := k.copyOfKey(r, old.Epoch)
	if err != nil {
		return err
	}
	if !committed(key, r, old) {
		key.Wipe()
		return errMismatch
	}
	to := Settings{Key: old.configured, Identity: old.Identity}
	return k.rewrap(ctx, r, rewrapping{old: old, row: row, key: key, to: to, version: newest, reason: forRescue})
}

// copyOfKey copies the root key of an epoch, without asking the key store; the caller
// wipes it. store.ErrConflict if it is not in memory.
func (k *Keeper) copyOfKey(r envelope.ResourceID, epoch uint32) (key envelope.RootKey, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	root := k.roots[r]
	if root == nil || !root.loaded {
		return key, store.ErrNotFound // the lease is over
	}
	had, ok := root.keyOf(epoch)
	if !ok {
		return key, store.ErrConflict
	}
	err = had.Use(func(b []byte) (err error) { key, err = envelope.ParseRootKey(b); return err })
	return key, err
}
