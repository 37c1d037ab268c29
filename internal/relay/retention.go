package relay

import (
	"context"
	"errors"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// retention is what a document knows of the front of its log, in its checkpoint. Ops
// are dropped up to the state of a version that stopped being the newest one at
// least the window ago, or is it still: whoever loaded the document within the window
// can catch up, and whoever loads its newest version can. See docs/decisions/0006.
//
// One mark does for that. After a window it is as far as ops are dropped, and
// a new one is set; so ops below a summary are kept for one to two windows, while
// their document is in use.
type retention struct {
	Trimmed sequencer.Seq `json:"trimmed,omitempty"` // ops up to here are gone, or going
	Mark    sequencer.Seq `json:"mark,omitempty"`    // the state of the version that was the newest at MarkAt
	MarkAt  int64         `json:"markAt,omitempty"`  // ms since 1970; 0: there is no mark
}

// retain drops the ops that nobody needs any more: when the document is loaded and
// after each summary. All that was sequenced is durable when it is called.
func (d *document) retain(ctx context.Context) {
	now := time.Now().UnixMilli()
	r := &d.retention
	switch {
	case d.window == 0:
		return
	case r.MarkAt == 0:
		r.Mark, r.MarkAt = d.state.HeadSeq, now
		return // in the next checkpoint
	case now-r.MarkAt < d.window.Milliseconds():
		return
	}
	to := r.Mark
	r.Mark, r.MarkAt = d.state.HeadSeq, now
	if to <= max(r.Trimmed, d.base) {
		return
	}
	// First the checkpoint: without its mark the missing ops would be damage.
	r.Trimmed = to
	if !d.checkpoint(ctx) {
		return // whatever became of it; the next trim takes these ops along
	}
	d.jobs.Go(func() {
		d.hist.SetTrimmed(to)
		err := d.st.Trim(ctx, d.keys.Handle(), d.term, uint64(to)+1) // not negative
		switch {
		case err == nil:
			d.log.InfoContext(ctx, "old ops dropped", "seq", to)
		case errors.Is(err, store.ErrFenced), ctx.Err() != nil:
		default:
			d.log.ErrorContext(ctx, "old ops not dropped", "seq", to, "err", err)
		}
	})
}
