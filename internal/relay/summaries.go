package relay

import (
	"context"
	"time"

	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
)

// publishVersion has the newest version served from now on.
func (d *document) publishVersion() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commit = d.state.Newest()
}

// judgeNext has the oldest undecided summary decided on, or the oldest service summary
// made, off this goroutine.
func (d *document) judgeNext(ctx context.Context) {
	if d.judging || len(d.state.Pending) == 0 {
		return
	}
	d.judging = true
	state, op := d.state, d.state.Pending[0]
	d.jobs.Go(func() {
		if c := d.judge(ctx, state, op); c != nil {
			d.inbox.put(c, d.ended)
		}
	})
}

// judge tries until it is decided, or returns nil if the document ends before.
func (d *document) judge(ctx context.Context, state history.State, op sequencer.SequencedOp) command {
	const longest = 30 * time.Second
	for wait := time.Second; ; wait = min(2*wait, longest) {
		c, err := d.judgeOnce(ctx, state, op)
		if err == nil {
			return c
		}
		if ctx.Err() != nil {
			return nil
		}
		d.log.ErrorContext(ctx, "summary not decided, trying again", "seq", op.Seq, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *document) judgeOnce(ctx context.Context, state history.State, op sequencer.SequencedOp) (command, error) {
	if op.Type == sequencer.TypeNoClient {
		commit, err := d.hist.ServiceSummary(ctx, state, op)
		return serviceCommand{op.Seq, commit}, err
	}
	v, err := d.hist.Judge(ctx, state.Versions(), op)
	return verdictCommand{op.Seq, v}, err
}
