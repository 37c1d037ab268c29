package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// checkpointID is the id of a document's one checkpoint object.
const checkpointID = "checkpoint"

// checkpointVersion is the version of checkpoint's JSON; on disk, never reused.
const checkpointVersion = 1

// replayBytes is how much of the log a restart reads at a time; some records of at
// most maxBatchBytes and what sealing adds.
const replayBytes = 4 << 20

// checkpoint is the state of a document after op Seq. It is never ahead of the
// log: ops up to Seq were durable before it was written. It may be behind.
type checkpoint struct {
	Version   int             `json:"version"`
	Base      sequencer.Seq   `json:"base,omitempty"` // the document's ops begin after it
	Seq       sequencer.Seq   `json:"seq"`
	Sequencer sequencer.State `json:"sequencer"`
	History   history.State   `json:"history"`
	Retention retention       `json:"retention,omitzero"`
}

// sealCheckpoint returns a checkpoint as the object that is stored.
func sealCheckpoint(keys *custody.Document, c checkpoint) (store.Object, error) {
	c.Version, c.Seq = checkpointVersion, c.Sequencer.Seq
	return keys.SealObject(envelope.KindCheckpoint, checkpointID, encode(c))
}

func openCheckpoint(ctx context.Context, st store.Store, keys *custody.Document) (checkpoint, error) {
	sealed, err := st.GetObject(ctx, keys.Handle(), keys.Name(envelope.KindCheckpoint, checkpointID))
	if errors.Is(err, store.ErrNotFound) {
		// A document is made with its checkpoint, so its store has lost something.
		return checkpoint{}, fmt.Errorf("document has no checkpoint: %w", store.ErrCorrupt)
	}
	if err != nil {
		return checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	plain, err := keys.OpenObject(envelope.KindCheckpoint, checkpointID, sealed)
	if err != nil {
		return checkpoint{}, fmt.Errorf("open checkpoint: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(plain, &c); err != nil {
		return checkpoint{}, fmt.Errorf("checkpoint is not of a known form: %w", store.ErrCorrupt)
	}
	if c.Version != checkpointVersion || c.Seq != c.Sequencer.Seq || c.Seq < c.Base || c.Seq < c.Retention.Trimmed {
		return checkpoint{}, fmt.Errorf("checkpoint of version %d at %d: %w", c.Version, c.Seq, store.ErrCorrupt)
	}
	return c, nil
}

// checkpoint saves the present state. All ops are durable when it is called. A
// failure costs the next restart time and nothing else, so it is only logged.
func (d *document) checkpoint(ctx context.Context) (saved bool) {
	object, err := sealCheckpoint(d.keys, checkpoint{Base: d.base, Sequencer: d.seq.State(), History: d.state, Retention: d.retention})
	if err == nil {
		err = d.st.PutObjects(ctx, d.keys.Handle(), []store.Object{object})
	}
	if err != nil {
		d.log.ErrorContext(ctx, "checkpoint not written", "seq", d.seq.State().Seq, "err", err)
	}
	d.unsaved = 0
	return err == nil
}

// recovered is where a document goes on.
type recovered struct {
	base      sequencer.Seq
	term      uint64
	retention retention
	seq       *sequencer.Sequencer
	state     history.State
	writer    *custody.Writer
	at        sequencer.Seq // the last op in the log
	replayed  int           // ops since the checkpoint
}

// recoverDocument takes the document over from whoever wrote it last: from now on
// their appends are refused. It reads the checkpoint and replays what the log has
// after it, about pageBytes at a time: several records.
func recoverDocument(ctx context.Context, st store.Store, keys *custody.Document, pageBytes int) (recovered, error) {
	claim, err := st.Claim(ctx, keys.Handle())
	if err != nil {
		return recovered{}, fmt.Errorf("claim document: %w", err)
	}
	c, err := openCheckpoint(ctx, st, keys)
	if err != nil {
		return recovered{}, err
	}
	head := sequencer.Seq(claim.Head) // heads are sequence numbers that we gave out
	empty := head == 0
	if empty {
		// The base is the checkpoint's, which is sealed: whoever cut all ops off would
		// have to cut the checkpoint back, too.
		head = c.Base
	}
	if c.Seq > head {
		return recovered{}, fmt.Errorf("checkpoint at %d, log ends at %d: %w", c.Seq, head, store.ErrCorrupt)
	}
	r := replay{pageBytes: pageBytes, seq: sequencer.New(c.Sequencer), state: c.History, at: c.Seq, tail: custody.EmptyTail(uint64(c.Base))} // not negative
	// The record at the head is read even if the checkpoint is there already: the
	// writer needs the end of the chain.
	for first := true; !empty && (first || r.at < head); first = false {
		if err := r.page(ctx, st, keys, claim.Head); err != nil {
			return recovered{}, fmt.Errorf("replay the log after %d: %w", r.at, err)
		}
	}
	return recovered{
		base:      c.Base,
		term:      claim.Term,
		retention: c.Retention,
		seq:       r.seq,
		state:     r.state,
		writer:    keys.NewWriter(claim, r.tail),
		at:        r.at,
		replayed:  int(r.at - c.Seq),
	}, nil
}

// replay applies the log to a checkpoint, page by page.
type replay struct {
	pageBytes int

	seq   *sequencer.Sequencer
	state history.State
	at    sequencer.Seq // the last op applied
	tail  custody.Tail
}

// page reads on from the record that holds op at, so that each page's chain
// begins where the one before ended.
func (r *replay) page(ctx context.Context, st store.Store, keys *custody.Document, head uint64) error {
	before := r.at
	from := uint64(max(r.at, 1)) // at least 1
	records, err := st.Read(ctx, keys.Handle(), from, head, r.pageBytes)
	if err != nil {
		return err
	}
	batches, tail, err := keys.OpenRecords(records)
	if err != nil {
		return err
	}
	for _, b := range batches {
		ops, err := history.SplitOps(b.Plaintext)
		if err != nil {
			return err
		}
		for _, raw := range ops {
			if err := r.apply(raw); err != nil {
				return err
			}
		}
	}
	r.tail = tail
	if r.at == before && uint64(before) < head { // not negative
		return fmt.Errorf("nothing after op %d, log ends at %d: %w", before, head, store.ErrCorrupt)
	}
	return nil
}

func (r *replay) apply(raw []byte) error {
	op, err := sequencer.ParseSequencedOp(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", err, store.ErrCorrupt)
	}
	if op.Seq <= r.at {
		return nil // in the checkpoint, or on the page before
	}
	if err := r.seq.Apply(op); err != nil {
		return fmt.Errorf("%w: %w", err, store.ErrCorrupt)
	}
	r.state.Apply(op)
	r.at = op.Seq
	return nil
}
