package custody

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/anchor"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// While a document is written to, its head anchor is at most that far behind.
const (
	anchorEvery = time.Second
	anchorOps   = 1000
)

// reasonRollback: the document's log is not what it was.
const reasonRollback = "RollbackSuspected"

// Anchors keeps the newest head anchor of each document elsewhere than the store.
type Anchors interface {
	// Get returns a document's anchor; nil if there is none.
	Get(h envelope.DocumentHandle) []byte
	// Put makes anchors durable; a nil value takes one away.
	Put(all ...anchor.Anchor) error
}

// anchorer writes the anchors of documents that were written to.
type anchorer struct {
	k    *Keeper
	kick chan struct{}

	mu      sync.Mutex // guards what follows; a leaf
	counter uint64
	dirty   map[*Document]newAnchor
	sealed  map[envelope.DocumentHandle][]byte // of documents that ended, and what could not be written
}

type newAnchor struct {
	envelope.Anchor
	from  uint64 // the last op that the one before says, about
	key   envelope.DocumentKey
	place envelope.KeyPlace // of key
}

func newAnchorer(k *Keeper) *anchorer {
	return &anchorer{
		k: k, kick: make(chan struct{}, 1), counter: uint64(time.Now().UnixNano()), // not negative
		dirty: map[*Document]newAnchor{}, sealed: map[envelope.DocumentHandle][]byte{},
	}
}

// note takes in how far a document's log has come, durably.
func (a *anchorer) note(d *Document, key envelope.DocumentKey, place envelope.KeyPlace, at envelope.Anchor) {
	a.mu.Lock()
	before, ok := a.dirty[d]
	if !ok {
		before.from = at.Seq
	}
	before.Anchor, before.key, before.place = at, key, place
	a.dirty[d] = before
	a.mu.Unlock()
	if at.Seq-before.from >= anchorOps {
		select {
		case a.kick <- struct{}{}:
		default:
		}
	}
}

// ended seals the last anchor of a document whose key is about to be wiped, or replaced.
func (a *anchorer) ended(d *Document) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, ok := a.dirty[d]; ok {
		delete(a.dirty, d)
		a.seal(d, at)
	}
}

func (a *anchorer) seal(d *Document, at newAnchor) {
	a.counter++
	at.Counter = a.counter
	if b, err := at.key.SealAnchor(at.place, at.Anchor); err == nil { // else it was wiped, and ended sealed it
		a.sealed[d.at.Document] = b
	}
}

// run writes anchors until ctx is over.
func (a *anchorer) run(ctx context.Context) {
	ticker := time.NewTicker(anchorEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-a.kick:
		}
		a.flush()
	}
}

func (a *anchorer) flush() {
	a.mu.Lock()
	for d, at := range a.dirty {
		a.seal(d, at)
	}
	clear(a.dirty)
	all := make([]anchor.Anchor, 0, len(a.sealed))
	for h, b := range a.sealed {
		all = append(all, anchor.Anchor{Document: h, Value: b})
	}
	a.mu.Unlock()
	if len(all) == 0 {
		return
	}
	if err := a.k.c.Anchors.Put(all...); err != nil {
		a.k.c.Log.Error("head anchors cannot be written; a log that is put back now is not found out", "documents", len(all), "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range all {
		if b := a.sealed[one.Document]; len(b) > 0 && &b[0] == &one.Value[0] {
			delete(a.sealed, one.Document)
		}
	}
}

// forget takes a document's anchor away.
func (a *anchorer) forget(h envelope.DocumentHandle) error {
	a.mu.Lock()
	delete(a.sealed, h)
	a.mu.Unlock()
	return a.k.c.Anchors.Put(anchor.Anchor{Document: h})
}

// Appended says that what was sealed last is durable.
func (w *Writer) Appended() {
	if a := w.d.k.anchors; a != nil {
		w.d.mu.RLock()
		key, place := w.d.key, w.d.at
		w.d.mu.RUnlock()
		a.note(w.d, key, place, envelope.Anchor{Term: w.term, Seq: w.tail.head, Chain: w.tail.chain})
	}
}

// CheckAnchor compares the document's log with its head anchor, before anyone claims it.
// An *UnusableError with Rollback says that the log has lost ops that were there, or has
// others in their place. known is false if there is no anchor to compare with.
func (d *Document) CheckAnchor(ctx context.Context, log store.Log) (known bool, err error) {
	a := d.k.anchors
	if a == nil {
		return false, nil
	}
	raw := d.k.c.Anchors.Get(d.at.Document)
	if raw == nil {
		return false, nil
	}
	d.mu.RLock()
	err = d.unusable()
	var at envelope.Anchor
	if err == nil {
		if at, err = d.key.OpenAnchor(d.at, raw); err != nil {
			err = d.rollback(0, 0, "its head anchor is not authentic")
		}
	}
	d.mu.RUnlock()
	if err != nil {
		return true, err
	}
	found, err := log.Read(ctx, d.at.Document, at.Seq, at.Seq, 1)
	switch {
	case err != nil:
		return true, fmt.Errorf("read the op of the head anchor: %w", err)
	case found.Head < at.Seq:
		return true, d.rollback(at.Seq, found.Head, "its log ends before its head anchor")
	case len(found.Records) == 0 || found.Records[0].FirstSeq() > at.Seq:
		return false, nil // an old anchor: the op was dropped since
	}
	if rec := found.Records[0]; rec.LastSeq() != at.Seq || rec.Link() != at.Chain {
		return true, d.rollback(at.Seq, found.Head, "its log has another record at its head anchor")
	}
	return true, nil
}

func (d *Document) rollback(anchored, head uint64, why string) error {
	d.k.m.rollbacks.Inc()
	d.k.c.Log.Error("a document is not served: it seems to have been put back to an older state", "why", why,
		"document", fmt.Sprintf("%x", d.at.Document), "resource", fmt.Sprintf("%x", d.at.Resource), "anchor_seq", anchored, "head_seq", head)
	return &UnusableError{Reason: reasonRollback, Since: time.Now(), RetryAfter: retryRevoked, Rollback: true}
}

// AcceptRollback says that a document is to be served as it is now. That is written
// into the log of key uses.
func (k *Keeper) AcceptRollback(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) error {
	if k.anchors == nil || k.c.Anchors.Get(h) == nil {
		return fmt.Errorf("the document has no head anchor: %w", store.ErrNotFound)
	}
	rec, _, err := k.readRecordAt(ctx, r, currentID)
	if err != nil {
		return err
	}
	k.audit.record(ctx, KeyUse{
		Time: time.Now().UTC(), Op: opAccept, Reason: string(forRollback), KeyID: rec.KeyID,
		Resource: rec.Resource, Outcome: "ok", Document: fmt.Sprintf("%x", h),
	})
	if err := k.anchors.forget(h); err != nil {
		return fmt.Errorf("take the head anchor away: %w", err)
	}
	return nil
}
