package history

import (
	"encoding/json"
	"slices"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// State is what the log says of summaries; it is kept in the relay's checkpoint
// and advanced by Apply.
type State struct {
	Head    string                  `json:"head"`    // commit id of the newest accepted summary
	HeadSeq sequencer.Seq           `json:"headSeq"` // the last op in it; where the document begins for the summary that made it
	HeadAt  int64                   `json:"headAt"`  // when it was accepted, ms since 1970; 0 likewise
	Pending []sequencer.SequencedOp `json:"pending"` // summarize ops without ack or nack yet, in order
}

// answer is the content of a summaryAck or summaryNack. Source: ISummaryAck and
// ISummaryNack of the Fluid driver definitions.
type answer struct {
	Handle   string   `json:"handle,omitempty"`  // ack: the commit id
	Message  string   `json:"message,omitempty"` // nack: why
	Proposal proposed `json:"summaryProposal"`
}

type proposed struct {
	Seq sequencer.Seq `json:"summarySequenceNumber"`
}

// Apply advances the state by one sequenced op: a summarize op becomes pending, an
// ack or nack settles it, an ack moves the head. All other ops change nothing.
func (s *State) Apply(op sequencer.SequencedOp) {
	switch {
	case op.Type == sequencer.TypeSummarize:
		s.Pending = append(s.Pending, op)
	// The sequencer lets no client send these two; that they are ours is checked
	// all the same, for the head decides what is served.
	case op.ClientID == "" && (op.Type == sequencer.TypeSummaryAck || op.Type == sequencer.TypeSummaryNack):
		var a answer
		if err := json.Unmarshal(op.Contents, &a); err != nil {
			return // not made by Judge
		}
		var covers sequencer.Seq
		if i := slices.IndexFunc(s.Pending, func(p sequencer.SequencedOp) bool { return p.Seq == a.Proposal.Seq }); i >= 0 {
			covers = s.Pending[i].RSN
		}
		s.Pending = slices.DeleteFunc(s.Pending, func(p sequencer.SequencedOp) bool { return p.Seq == a.Proposal.Seq })
		if op.Type == sequencer.TypeSummaryAck {
			s.Head, s.HeadSeq, s.HeadAt = a.Handle, covers, op.Timestamp
		}
	}
}
