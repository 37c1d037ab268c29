package custody

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// tableRefusals is on disk (hashed): frozen.
const tableRefusals = "key-refusals"

const refusalVersion = 1

// refusalRecord is since when a key store refuses a key version to an identity. Without
// it each restart would begin Hold anew, and clients of a revoked key would be held for
// as long as somebody restarts the server.
type refusalRecord struct {
	Version int       `json:"version"`
	Since   time.Time `json:"since"`
}

// refusalNote keeps a watch's refusal in the store. Only the watch's goroutine uses it.
type refusalNote struct {
	w      *watch
	rows   store.Rows
	read   bool      // what is stored is known
	stored time.Time // zero: nothing
}

// keep reads what a former process left, then makes the store say what the watch knows.
// What fails is tried again after the next probe.
func (n *refusalNote) keep(ctx context.Context) {
	if isServiceKey(n.w.key.kid) || n.w.key.drill != "" {
		return
	}
	if err := n.try(ctx); err != nil && ctx.Err() == nil {
		n.w.k.c.Log.WarnContext(ctx, "since when the key store refuses cannot be kept; a restart would hold clients anew", "kid", n.w.key.kid, "err", err)
	}
}

func (n *refusalNote) try(ctx context.Context) error {
	k := n.w.k
	ctx, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	if !n.read {
		since, err := n.readRefusal(ctx)
		if err != nil {
			return err
		}
		n.read, n.stored = true, since
		n.w.remember(since)
	}
	k.mu.Lock()
	since, healthy := n.w.refusedSince, n.w.state == Healthy
	k.mu.Unlock()
	if since.Equal(n.stored) || since.IsZero() && !healthy {
		return nil // as it is; or not known yet
	}
	write, err := k.refusalWrite(n.w.key, since)
	if err != nil {
		return err
	}
	if err := n.rows.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return fmt.Errorf("store refusal: %w", err)
	}
	n.stored = since
	return nil
}

// drop takes the note back when nothing is under the key any more. A process that stops
// leaves it.
func (n *refusalNote) drop() {
	k := n.w.k
	k.mu.Lock()
	closed := k.closed // its context ends a moment later than those of the watches
	k.mu.Unlock()
	if n.stored.IsZero() || closed {
		return
	}
	ctx, cancel := context.WithTimeout(k.ctx, ProbeTimeout)
	defer cancel()
	if err := n.rows.WriteRows(ctx, []store.RowWrite{{RowKey: k.refusalKey(n.w.key)}}); err != nil {
		k.c.Log.WarnContext(ctx, "the note of a refusal is left over; it means nothing any more", "kid", n.w.key.kid, "err", err)
	}
}

// remember takes in what a former process saw: unless there was a proof since, the
// refusal is still the same one.
func (w *watch) remember(since time.Time) {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	if since.IsZero() || !w.lastProof.IsZero() || since.After(time.Now()) {
		return
	}
	w.refusedSince = since
	if w.state == Unusable && revoked(w.reason) {
		w.holdFrom()
	}
}

// holdFrom says from when clients are held: from the first confirmed refusal since the
// last proof, whichever process saw it. Keeper.mu is held.
func (w *watch) holdFrom() {
	if w.refusedSince.IsZero() {
		w.refusedSince = w.since
	}
	w.since = w.refusedSince
}

func (k *Keeper) refusalKey(w watchKey) store.RowKey {
	return store.RowKey{Table: tableRefusals, Name: k.c.Service.Name(tableRefusals, w.kid+"\n"+w.identity)}
}

func (k *Keeper) refusalWrite(w watchKey, since time.Time) (store.RowWrite, error) {
	key := k.refusalKey(w)
	if since.IsZero() {
		return store.RowWrite{RowKey: key}, nil
	}
	raw, err := json.Marshal(refusalRecord{Version: refusalVersion, Since: since.UTC()})
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("encode refusal: %w", err)
	}
	var s envelope.Sealed
	if s, err = k.c.Service.SealRow(tableRefusals, key.Partition, key.Name, raw); err != nil {
		return store.RowWrite{}, fmt.Errorf("seal refusal: %w", err)
	}
	return store.RowWrite{RowKey: key, Value: &s}, nil
}

// readRefusal returns since when, zero if nothing is stored.
func (n *refusalNote) readRefusal(ctx context.Context) (time.Time, error) {
	k := n.w.k
	key := k.refusalKey(n.w.key)
	row, err := n.rows.GetRow(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read refusal: %w", err)
	}
	raw, err := k.c.Service.OpenRow(tableRefusals, key.Partition, key.Name, row.Value)
	if err != nil {
		return time.Time{}, fmt.Errorf("open refusal: %w: %w", store.ErrCorrupt, err)
	}
	since, err := decodeRefusal(raw)
	if err != nil {
		return time.Time{}, fmt.Errorf("decode refusal: %w: %w", store.ErrCorrupt, err)
	}
	return since, nil
}

func decodeRefusal(raw []byte) (time.Time, error) {
	var r refusalRecord
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return time.Time{}, err
	}
	switch {
	case r.Version != refusalVersion:
		return time.Time{}, fmt.Errorf("version %d is not known", r.Version)
	case r.Since.IsZero():
		return time.Time{}, errors.New("it has no time")
	}
	return r.Since, nil
}
