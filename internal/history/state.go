package history

import (
	"encoding/json"
	"slices"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// State is what the log says of summaries; it is kept in the relay's checkpoint
// and advanced by Apply. Only service summaries are not in the log: see Served.
type State struct {
	Head    string        `json:"head"`    // commit id of the newest accepted summary
	HeadSeq sequencer.Seq `json:"headSeq"` // the last op in it; where the document begins for the summary that made it
	HeadAt  int64         `json:"headAt"`  // when it was accepted, ms since 1970; 0 likewise

	// Service has the versions that the service made of Head since, oldest first: the
	// same state, with more of the log. At most maxServiceVersions.
	Service []string `json:"service,omitempty"`

	// Pending has what is still to be done, in order: summarize ops without ack or nack,
	// noClient ops that a service summary is due for.
	Pending []sequencer.SequencedOp `json:"pending"`

	Edited  sequencer.Seq `json:"edited,omitempty"`  // the last op that changed something
	Covered sequencer.Seq `json:"covered,omitempty"` // the last op that the newest version could carry
}

// maxServiceVersions is how many service summaries of one state a client may still
// build on.
const maxServiceVersions = 10

// Versions are the commits that a proposal may build on: the newest accepted summary and
// what the service made of it since, the newest version last.
func (s *State) Versions() []string { return append([]string{s.Head}, s.Service...) }

// Newest is the version that is served as the latest.
func (s *State) Newest() string {
	if n := len(s.Service); n > 0 {
		return s.Service[n-1]
	}
	return s.Head
}

// Served settles the noClient op seq with its service summary, the newest version from
// now on; commit is empty if none could be made. If a later summary made it obsolete
// meanwhile, nothing changes.
func (s *State) Served(seq sequencer.Seq, commit string) {
	if !slices.ContainsFunc(s.Pending, func(p sequencer.SequencedOp) bool { return p.Seq == seq }) {
		return
	}
	s.settle(seq)
	if commit != "" {
		s.Service = append(s.Service, commit)
		s.Service = s.Service[max(0, len(s.Service)-maxServiceVersions):]
		s.Covered = seq
	}
}

func (s *State) settle(seq sequencer.Seq) {
	s.Pending = slices.DeleteFunc(s.Pending, func(p sequencer.SequencedOp) bool { return p.Seq == seq })
}

// forgetServices drops the service summaries that were due before seq.
func (s *State) forgetServices(seq sequencer.Seq) {
	s.Pending = slices.DeleteFunc(s.Pending, func(p sequencer.SequencedOp) bool { return p.Type == sequencer.TypeNoClient && p.Seq < seq })
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
// ack or nack settles it, an ack moves the head. When nobody writes any more, a service
// summary is due, if there is anything to add to the newest version.
func (s *State) Apply(op sequencer.SequencedOp) {
	switch {
	case op.Type == sequencer.TypeSummarize:
		s.Pending = append(s.Pending, op)
	case op.Type == sequencer.TypeNoClient && s.Edited > s.Covered:
		s.forgetServices(op.Seq) // it covers what they would
		s.Pending = append(s.Pending, op)
	// The sequencer lets no client send these two; that they are ours is checked
	// all the same, for the head decides what is served.
	case op.ClientID == "" && (op.Type == sequencer.TypeSummaryAck || op.Type == sequencer.TypeSummaryNack):
		s.applyVerdict(op)
	case op.ClientID != "" && op.Type != sequencer.TypeNoop:
		s.Edited = op.Seq
	}
}

func (s *State) applyVerdict(op sequencer.SequencedOp) {
	var a answer
	if err := json.Unmarshal(op.Contents, &a); err != nil {
		return // not made by Judge
	}
	var covers sequencer.Seq
	if i := slices.IndexFunc(s.Pending, func(p sequencer.SequencedOp) bool { return p.Seq == a.Proposal.Seq }); i >= 0 {
		covers = s.Pending[i].RSN
	}
	s.settle(a.Proposal.Seq)
	if op.Type == sequencer.TypeSummaryAck {
		s.Head, s.HeadSeq, s.HeadAt = a.Handle, covers, op.Timestamp
		s.Service, s.Covered = nil, a.Proposal.Seq
		s.forgetServices(a.Proposal.Seq) // what was due before is not the newest version any more
	}
}
