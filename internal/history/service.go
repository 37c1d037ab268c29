package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// maxServiceTailBytes bounds the log tail of a service summary. Every op stays
// readable, so the tail only spares the next loader a request; without a bound
// whoever opens and closes a document that nobody summarizes would fill the disk.
const maxServiceTailBytes = 64 << 10

// ServiceSummary stores the version that the service makes by itself when the last
// writer has left, of which op, a noClient, tells: the newest one's contents and protocol
// state, with what came since as its log tail. It returns the commit's id, empty if
// such a version would pass a limit. Nothing announces it; it may be repeated. Source:
// the scribe of the Fluid reference service.
func (d *Document) ServiceSummary(ctx context.Context, s State, op sequencer.SequencedOp) (commit string, err error) {
	parent, err := d.loadCommit(ctx, s.Newest())
	if err != nil {
		return "", missing(err)
	}
	root, err := d.loadTree(ctx, parent.Tree)
	if err != nil {
		return "", missing(err)
	}
	b := d.newBatch()
	tail, err := b.addLogTail(ctx, s.HeadSeq, op.Seq, maxServiceTailBytes)
	if err != nil {
		return "", err
	}
	checkpoints, err := b.addServiceProtocol(ctx, s, op)
	if err != nil {
		return "", err
	}
	entries := slices.DeleteFunc(root.Entries, func(e entry) bool { return e.Name == logTailName || e.Name == serviceName })
	e, err := b.addTree(ctx, append(entries, tail, checkpoints))
	if errors.Is(err, ErrBadSummary) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	next := version{Tree: e.ID, Parents: []string{s.Newest()}, Message: fmt.Sprintf("Summary @%d", op.Seq), Date: op.Timestamp, Flat: parent.Flat}
	if commit, err = b.addCommit(ctx, next); err != nil {
		return "", err
	}
	return commit, b.put(ctx)
}

// deliCheckpoint and scribeCheckpoint say of the reference's two services what is true
// here after a noClient: clients do not read them. The protocol state is not repeated:
// .protocol has it. Source: IDeliState and IScribe of the Fluid services core.
type deliCheckpoint struct {
	Clients     []string      `json:"clients"` // none
	Durable     sequencer.Seq `json:"durableSequenceNumber"`
	Seq         sequencer.Seq `json:"sequenceNumber"`
	LastSentMSN sequencer.Seq `json:"lastSentMSN"`
	Timestamp   int64         `json:"checkpointTimestamp"`
}

type scribeCheckpoint struct {
	Head         string        `json:"lastClientSummaryHead"`
	ProtocolHead sequencer.Seq `json:"protocolHead"`
	MSN          sequencer.Seq `json:"minimumSequenceNumber"`
	Seq          sequencer.Seq `json:"sequenceNumber"`
	LastSummary  sequencer.Seq `json:"lastSummarySequenceNumber"`
	ValidParents []string      `json:"validParentSummaries"`
	Corrupt      bool          `json:"isCorrupt"`
	Timestamp    int64         `json:"checkpointTimestamp"`
}

// addServiceProtocol adds the tree .serviceProtocol.
func (b *batch) addServiceProtocol(ctx context.Context, s State, op sequencer.SequencedOp) (entry, error) {
	var entries []entry
	for _, blob := range []struct {
		name string
		v    any
	}{
		{"deli", deliCheckpoint{Clients: []string{}, Durable: op.Seq, Seq: op.Seq, LastSentMSN: op.MSN, Timestamp: op.Timestamp}},
		{"scribe", scribeCheckpoint{
			Head: s.Head, ProtocolHead: s.HeadSeq, MSN: op.MSN, Seq: op.Seq,
			LastSummary: op.Seq, ValidParents: s.Versions(), Timestamp: op.Timestamp,
		}},
	} {
		content, err := encodeJSON(blob.v)
		if err != nil {
			return entry{}, fmt.Errorf("encode %s: %w", blob.name, err)
		}
		e, err := b.addBlob(ctx, content)
		if err != nil {
			return entry{}, err
		}
		entries = append(entries, e.as(blob.name))
	}
	e, err := b.addTree(ctx, entries)
	return e.as(serviceName), err
}
