package custody

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// News is what a keeper tells those of the other processes on the same store. It says
// that something changed; what it is now, each finds out for itself.
type News struct {
	Resource string      `json:"resource,omitempty"` // hexadecimal: its wrap record was replaced, or deleted
	Refused  *KeyVerdict `json:"refused,omitempty"`
}

// KeyVerdict is a confirmed refusal of a key version to an identity.
type KeyVerdict struct {
	KeyID    string `json:"kid"`
	Identity string `json:"identity"` // lower case
	Reason   string `json:"reason"`
}

// tell passes news on, if there is anyone. It does not block; Keeper.mu may be held.
func (k *Keeper) tell(n News) {
	if k.c.Tell != nil {
		k.c.Tell(n)
	}
}

// tellRefusal passes a confirmed refusal on, unless it may be about this process's way to
// the key store: then the others find out for themselves whether it is about theirs.
// Keeper.mu is held.
func (w *watch) tellRefusal(reason string) {
	if reason == reasonFirewall || !w.noHost.IsZero() || w.key.kid == serviceKeyID || w.drill != nil {
		return
	}
	w.k.tell(News{Refused: &KeyVerdict{KeyID: w.key.kid, Identity: w.key.identity, Reason: reason}})
}

// Heed takes in what another process tells. It does not block on I/O.
func (k *Keeper) Heed(n News) {
	if n.Refused != nil {
		k.heedRefusal(*n.Refused)
	}
	var id envelope.ResourceID
	if b, err := hex.DecodeString(n.Resource); err == nil && len(b) == len(id) {
		copy(id[:], b)
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.closed {
			k.wg.Go(func() { k.reload(k.ctx, id) })
		}
	}
}

// heedRefusal fences at once what is under the key, and then asks the key store: if it
// was the other process that was mistaken, this one serves again a moment later.
func (k *Keeper) heedRefusal(v KeyVerdict) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.watches[watchKey{identity: strings.ToLower(v.Identity), kid: v.KeyID}]
	if k.closed || w == nil || w.state == Unusable {
		return
	}
	w.unusable(v.Reason)
	w.askNow = true
	w.wake()
}

// reload takes over what another process made of a resource's wrap record.
func (k *Keeper) reload(ctx context.Context, id envelope.ResourceID) {
	k.mu.Lock()
	known := k.roots[id]
	k.mu.Unlock()
	if known == nil {
		return // it is read when it is needed
	}
	rec, _, err := k.readRecord(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		k.drop(id, store.ErrNotFound)
		return
	}
	if err != nil {
		k.c.Log.WarnContext(ctx, "a wrap record that another node changed cannot be read yet", "err", err)
		return
	}
	k.mu.Lock()
	same := k.roots[id] == nil || k.roots[id].rec.Generation >= rec.Generation
	k.mu.Unlock()
	if same {
		return
	}
	key, found := k.examine(ctx, id, rec, forStart)
	if found.verdict != proof {
		key.Wipe() // what is open goes on under the lease it has; the next probe tries again
		return
	}
	k.install(id, rec, key, found)
}

// reloadMembers looks whether other processes have moved root keys off this watch's key,
// before a refusal of it counts.
func (w *watch) reloadMembers(ctx context.Context) {
	if w.k.c.Tell == nil {
		return
	}
	w.k.mu.Lock()
	var ids []envelope.ResourceID
	for r := range w.members {
		ids = append(ids, r.id)
	}
	w.k.mu.Unlock()
	for _, id := range ids {
		w.k.reload(ctx, id)
	}
}

// DropAll forgets what is known of all resources: it may have changed. Open documents
// end; whatever is asked for next is read anew.
func (k *Keeper) DropAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.roots {
		k.forget(r, leaseError())
	}
}
