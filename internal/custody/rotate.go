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
		return nil
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

// rescued is a root key on its way to the newest version without the version in use.
type rescued struct {
	id  envelope.ResourceID
	rec *wrapRecord
	key envelope.RootKey // a copy of its own
}

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
	var all []rescued
	for r := range w.members {
		if !r.loaded || !r.rec.followsNewest() {
			continue
		}
		one := rescued{id: r.id, rec: r.rec}
		if err := r.key.Use(func(b []byte) (err error) { one.key, err = envelope.ParseRootKey(b); return err }); err == nil {
			all = append(all, one)
		}
	}
	if len(all) == 0 {
		return
	}
	w.rescuing = true
	ctx, cancel := context.WithTimeout(w.k.ctx, w.lease.left())
	w.k.wg.Go(func() {
		defer cancel()
		w.k.rescue(ctx, all)
		w.k.mu.Lock()
		defer w.k.mu.Unlock()
		w.rescuing = false
	})
}

// rescue wipes the copies it is given.
func (k *Keeper) rescue(ctx context.Context, all []rescued) {
	defer func() {
		for _, one := range all {
			one.key.Wipe()
		}
	}()
	first := all[0].rec
	newest, problems := k.check(ctx, Settings{Key: first.configured, Identity: first.Identity}, forRescue)
	if newest.ID == first.kid {
		return // the newest was disabled, and means it
	}
	if err := problems.or(); err != nil {
		k.c.Log.WarnContext(ctx, "the key's version in use is disabled, and the newest cannot be used instead", "err", err)
		return
	}
	for _, one := range all {
		err := k.rescueOne(ctx, one, newest)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
			k.c.Log.WarnContext(ctx, "a root key could not be moved off a disabled version", "kid", one.rec.KeyID, "err", err)
		}
	}
}

func (k *Keeper) rescueOne(ctx context.Context, one rescued, newest keystore.Key) error {
	old, row, err := k.readRecord(ctx, one.id)
	if err != nil {
		return err
	}
	if old.Generation != one.rec.Generation {
		return nil // moved meanwhile
	}
	if !committed(one.key, one.id, old) {
		return errMismatch
	}
	to := Settings{Key: old.configured, Identity: old.Identity}
	return k.rewrap(ctx, one.id, rewrapping{old: old, row: row, key: one.key, to: to, version: newest, reason: forRescue})
}
