package custody

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// News is what a keeper tells those of the other processes on the same store. It says
// that something changed; what it is now, each finds out for itself.
type News struct {
	Resource string      `json:"resource,omitempty"` // hexadecimal: its wrap record was replaced, or deleted
	Refused  *KeyVerdict `json:"refused,omitempty"`
	// Documents says that keys of documents of that resource were replaced, too.
	Documents bool `json:"documents,omitempty"`
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
	if reason == reasonFirewall || !w.noHost.IsZero() || isServiceKey(w.key.kid) || w.drill != nil {
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
			k.wg.Go(func() {
				if err := k.reload(k.ctx, id); err != nil {
					k.c.Log.Warn("a change by another node is taken in with the next probe", "err", err)
				}
				if n.Documents {
					k.adoptDocumentKeys(k.ctx, id)
				}
			})
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

// reload takes over what another process made of a resource's wrap record. An error is the
// store's.
func (k *Keeper) reload(ctx context.Context, id envelope.ResourceID) error {
	k.mu.Lock()
	known := k.roots[id]
	k.mu.Unlock()
	if known == nil {
		return nil // it is read when it is needed
	}
	rec, _, err := k.readRecord(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		k.drop(id, store.ErrNotFound)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the wrap record that another node may have changed: %w", err)
	}
	k.mu.Lock()
	same := k.roots[id] == nil || k.roots[id].rec.Generation >= rec.Generation
	k.mu.Unlock()
	if same {
		return nil
	}
	key, found := k.examine(ctx, id, rec, forStart)
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.roots[id]; found.verdict == outage && r != nil && !r.fallsBehind() {
		return nil // what is open goes on under the lease it has; the next probe tries again
	}
	// A refusal, too: whoever turns the new key off must not find its data served under the old one.
	k.take(id, rec, key, found)
	return nil
}

// fallsBehind says whether the key store has not answered about a newer record for as long as
// an outage is ridden out. Keeper.mu is held.
func (r *root) fallsBehind() bool {
	if r.behind.IsZero() {
		r.behind = time.Now()
	}
	return time.Since(r.behind) >= r.watch.k.c.Policy.grace()
}

// rereadMembers is reloadMembers after each probe, beside the probes. The others tell what
// they change; but a process that is killed may have changed a record and told nobody.
// Keeper.mu is held.
func (w *watch) rereadMembers(ctx context.Context) {
	if w.k.c.Tell == nil || w.rereading {
		return
	}
	w.rereading = true
	w.k.wg.Go(func() {
		w.reloadMembers(ctx)
		w.k.mu.Lock()
		defer w.k.mu.Unlock()
		w.rereading = false
	})
}

// reloadMembers looks whether other processes have moved root keys off this watch's key.
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
		if err := w.k.reload(ctx, id); err != nil {
			w.k.c.Log.WarnContext(ctx, "wrap records are not read again before the next probe", "err", err)
			return
		}
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
