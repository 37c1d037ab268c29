package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// Verdict is the answer to a summarize op: contents and data of a summaryAck or
// summaryNack, ready for sequencer.Server.
type Verdict struct {
	Type     string // sequencer.TypeSummaryAck or TypeSummaryNack
	Contents json.RawMessage
	Data     json.RawMessage // contents as a JSON string literal
}

// summarize is the content of a summarize op. Source: ISummaryContent of the Fluid
// driver definitions.
type summarize struct {
	Handle  string   `json:"handle"` // tree id from UploadSummary
	Head    string   `json:"head"`   // commit id it builds on
	Message string   `json:"message"`
	Parents []string `json:"parents"` // as Head
	Details struct {
		IncludesProtocolTree bool `json:"includesProtocolTree"`
	} `json:"details"`
}

// refusal is why a summary is not accepted; it becomes a nack.
type refusal string

func (r refusal) Error() string { return string(r) }

// Judge decides about a pending summarize op against the versions that it may build
// on (State.Versions), and on acceptance stores the commit durably. It may be repeated
// after a crash: the same op and versions give the same commit id. An error means that
// it could not decide (storage, keys): the op stays pending.
func (d *Document) Judge(ctx context.Context, versions []string, op sequencer.SequencedOp) (Verdict, error) {
	a := answer{Proposal: proposed{Seq: op.Seq}}
	typ := sequencer.TypeSummaryAck
	var refused refusal
	commit, err := d.accept(ctx, versions, op)
	switch {
	case errors.As(err, &refused):
		typ, a.Message = sequencer.TypeSummaryNack, refused.Error()
	case err != nil:
		return Verdict{}, fmt.Errorf("judge the summary of op %d: %w", op.Seq, err)
	default:
		a.Handle = commit
	}
	contents, err := encodeJSON(a)
	if err != nil {
		return Verdict{}, err
	}
	data, err := encodeJSON(string(contents))
	if err != nil {
		return Verdict{}, err
	}
	return Verdict{Type: typ, Contents: contents, Data: data}, nil
}

// accept checks a proposal by the reference's rules, in its order, and commits it.
// A refusal says why not.
func (d *Document) accept(ctx context.Context, versions []string, op sequencer.SequencedOp) (commit string, err error) {
	var s summarize
	if err := unmarshalTwice(op.Contents, &s); err != nil {
		return "", refusal("The summarize op's contents are not a JSON string of {handle, head, message, parents}.")
	}
	// Clients may hold any version of the newest accepted state: service summaries change
	// nothing in it. Of two racing proposals the first one wins.
	newest := versions[len(versions)-1]
	if !slices.Contains(versions, s.Head) {
		return "", refusal(fmt.Sprintf("Proposed parent summary %q does not match actual parent summary %q.", cut(s.Head), newest))
	}
	parent, err := d.loadCommit(ctx, newest)
	if err != nil {
		return "", missing(err)
	}
	if parent.Flat && slices.ContainsFunc(s.Parents, func(id string) bool { return !slices.Contains(versions, id) }) {
		return "", refusal("One or more parent summaries are invalid.")
	}
	root, err := d.loadTree(ctx, parent.Tree)
	if err != nil {
		return "", missing(err)
	}
	p, err := d.loadProtocol(ctx, root)
	if err != nil {
		return "", err
	}
	if op.RSN < p.Seq || op.RSN >= op.Seq {
		return "", refusal(fmt.Sprintf("Proposed summary reference sequence number %d must lie between %d, that of its parent, and %d, its own sequence number.",
			op.RSN, p.Seq, op.Seq))
	}
	if s.Details.IncludesProtocolTree {
		return "", refusal("Summaries that include the protocol tree are not supported: the service did not offer enable_single_commit_summary.")
	}
	app, err := d.loadTree(ctx, s.Handle)
	if errors.Is(err, ErrNotFound) {
		return "", refusal(fmt.Sprintf("A non-fatal error happened when trying to write client summary. Error: no summary was uploaded with handle %q.", cut(s.Handle)))
	}
	if err != nil {
		return "", err
	}
	if err := d.replay(ctx, p, op.RSN); err != nil {
		return "", err
	}
	next := version{Parents: []string{newest}, Message: fmt.Sprintf("Summary @%d", op.RSN), Date: op.Timestamp, Flat: parent.Flat}
	if parent.Flat && s.Message != "" {
		next.Message = cut(s.Message) // the local dialect shows the client's own
	}
	commit, err = d.commit(ctx, next, s.Handle, app, p, op)
	if errors.Is(err, ErrBadSummary) { // with what the service adds, it is over a limit
		return "", refusal("A non-fatal error happened when trying to write client summary. Error: " + err.Error())
	}
	return commit, err
}

// replay advances p to exactly to, from the log.
func (d *Document) replay(ctx context.Context, p *protocol, to sequencer.Seq) error {
	var bad error
	err := d.eachOp(ctx, p.Seq+1, to, readBytes, func(_ sequencer.Seq, raw json.RawMessage) bool {
		op, err := sequencer.ParseSequencedOp(raw)
		if err == nil {
			err = p.apply(op)
		}
		bad = err
		return err == nil
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	if p.Seq != to {
		return fmt.Errorf("the log ends at op %d; the summary's state is that of %d", p.Seq, to)
	}
	return nil
}

// commit stores the version that op proposed, next with its tree. Everything in it
// comes from the log, so that a repetition makes the same one.
func (d *Document) commit(ctx context.Context, next version, handle string, app tree, p *protocol, op sequencer.SequencedOp) (string, error) {
	b := d.newBatch()
	e, err := app.sum(d.limits.DocumentBytes)
	if err != nil {
		return "", err
	}
	e.ID = handle
	protocol, err := b.addProtocol(ctx, p)
	if err != nil {
		return "", err
	}
	tail, err := b.addLogTail(ctx, op.RSN, op.Seq, maxLogTailBytes)
	if err != nil {
		return "", err
	}
	root, err := b.addRoot(ctx, next.Flat, e, protocol.as(protocolName), tail)
	if err != nil {
		return "", err
	}
	next.Tree = root.ID
	id, err := b.addCommit(ctx, next)
	if err != nil {
		return "", err
	}
	return id, b.put(ctx)
}

// addLogTail adds the tree .logTail with the ops after from up to last. A prefix of
// them is enough: loaders fetch what comes after it.
func (b *batch) addLogTail(ctx context.Context, from, last sequencer.Seq, maxBytes int) (entry, error) {
	ops, err := b.d.Ops(ctx, from, last+1, MaxLogTailOps, maxBytes)
	if err != nil {
		return entry{}, err
	}
	tail, err := b.addBlob(ctx, ops)
	if err != nil {
		return entry{}, err
	}
	e, err := b.addTree(ctx, []entry{tail.as("logTail")})
	return e.as(logTailName), err
}
