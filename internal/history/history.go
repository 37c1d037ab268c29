package history

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

var (
	// ErrNotFound: no such blob, tree, commit or version in this document.
	ErrNotFound = errors.New("history: not found")
	// ErrBadSummary: an upload that cannot be stored; the wrapping error says why.
	ErrBadSummary = errors.New("history: bad summary")
)

// Document is the history of one document. It is safe for concurrent use.
type Document struct{ todo int }

// New returns the history of the document whose keys these are.
func New(keys *custody.Document, st store.Store) *Document { panic("todo") }

// State is what the log says of summaries; it is kept in the relay's checkpoint
// and advanced by Apply.
type State struct {
	Head    string                  `json:"head"`    // commit id of the newest accepted summary
	Pending []sequencer.SequencedOp `json:"pending"` // summarize ops without ack or nack yet, in order
}

// Apply advances the state by one sequenced op: a summarize op becomes pending, an
// ack or nack settles it, an ack moves the head. All other ops change nothing.
func (s *State) Apply(op sequencer.SequencedOp) { panic("todo") }

// Initial is what a document is created with.
type Initial struct {
	Summary        json.RawMessage // .app content, in the 2.x or the 1.x format
	SequenceNumber sequencer.Seq
	Values         json.RawMessage // quorum values: [[key, value], ...]
	AnyBinary      bool            // the 2.x format: enableAnyBinaryBlobOnFirstSummary
}

// Create stores the first summary, durably, and returns its commit id.
// ErrBadSummary (wrapped).
func (d *Document) Create(ctx context.Context, in Initial) (commit string, err error) { panic("todo") }

// Verdict is the answer to a summarize op: contents and data of a summaryAck or
// summaryNack, ready for sequencer.Server.
type Verdict struct {
	Type     string // sequencer.TypeSummaryAck or TypeSummaryNack
	Contents json.RawMessage
	Data     json.RawMessage // contents as a JSON string literal
}

// Judge decides about a pending summarize op against the head before it, and on
// acceptance stores the commit durably. It may be repeated after a crash. An error
// means that it could not decide (storage, keys): the op stays pending.
func (d *Document) Judge(ctx context.Context, head string, op sequencer.SequencedOp) (Verdict, error) {
	panic("todo")
}

// AppendOp appends op to the plaintext of a log record: [uint32 big-endian length][op JSON].
func AppendOp(b []byte, op sequencer.SequencedOp) []byte { panic("todo") }

// SplitOps returns the JSON of each op of a record's plaintext; the slices share b.
func SplitOps(b []byte) ([]json.RawMessage, error) { panic("todo") }

// Ops returns the ops with from < seq < to in order, as one JSON array, at most
// limit of them and about maxBytes.
func (d *Document) Ops(ctx context.Context, from, to sequencer.Seq, limit, maxBytes int) ([]byte, error) {
	panic("todo")
}
