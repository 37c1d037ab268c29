package custody

import (
	"context"
	"errors"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// rotate moves those members to the key's newest version whose key URL names none.
func (w *watch) rotate(ctx context.Context) {
	w.k.mu.Lock()
	var follow []envelope.ResourceID
	var any *wrapRecord
	for r := range w.members {
		if r.rec.followsNewest() {
			follow, any = append(follow, r.id), r.rec
		}
	}
	w.k.mu.Unlock()

	if any != nil {
		newest, err := w.k.kek(any.Identity, false, forRotate).describe(ctx, any.configured)
		if err == nil && newest.ID != any.kid {
			for _, r := range follow {
				w.k.adopt(ctx, r)
			}
		}
	}

	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.rotating, w.versionSeen = false, time.Now()
}

// adopt moves a resource to its key's newest version. Whatever goes wrong leaves the
// version in use where it is, and is tried again after VersionEvery.
func (k *Keeper) adopt(ctx context.Context, r envelope.ResourceID) {
	err := k.adoptNewest(ctx, r)
	if err == nil || ctx.Err() != nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return // done, stopping, deleted, or changed by someone meanwhile
	}
	k.c.Log.WarnContext(ctx, "the key's newest version cannot be used; the resource stays on the one it has", "err", err)
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
	key, err := unwrapOld(ctx, k.kek(old.Identity, false, forRotate), r, old)
	if err != nil {
		return err
	}
	return k.rewrap(ctx, r, rewrapping{old: old, row: row, key: key, to: s, version: newest, reason: forRotate})
}
