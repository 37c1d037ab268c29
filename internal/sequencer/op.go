package sequencer

import "encoding/json"

// Seq is a sequence number: an op's place in its document's total order, from 1.
// As a reference sequence number, -1 means "now".
type Seq int64

// ClientID names one connection of one client to one document.
type ClientID string

// Types of ops that the service gives meaning to; all others pass through.
const (
	TypeOp          = "op"
	TypeNoop        = "noop"
	TypeJoin        = "join"
	TypeLeave       = "leave"
	TypePropose     = "propose"
	TypeNoClient    = "noClient"
	TypeControl     = "control"
	TypeSummarize   = "summarize"
	TypeSummaryAck  = "summaryAck"
	TypeSummaryNack = "summaryNack"
)

// Op is an op as a client submitted it. Raw members are JSON and are passed on
// byte for byte; a nil one was absent. Members a client may not set are dropped
// by whoever parses it.
type Op struct {
	CSN         int64           `json:"clientSequenceNumber"`
	RSN         Seq             `json:"referenceSequenceNumber"`
	Type        string          `json:"type"`
	Contents    json.RawMessage `json:"contents,omitempty"`
	Metadata    json.RawMessage `json:"metadata,omitempty"`
	Compression json.RawMessage `json:"compression,omitempty"`
}

// SequencedOp is an op with its place in the total order, as it is stored and
// broadcast. ClientID is empty for the service's own ops (null on the wire),
// whose CSN and RSN are -1. Data is a JSON string literal, or nil.
type SequencedOp struct {
	ClientID    ClientID
	CSN         int64
	RSN         Seq
	Seq         Seq
	MSN         Seq
	Timestamp   int64 // milliseconds since 1970; never falls within a document
	Type        string
	Contents    json.RawMessage // nil is written as null
	Metadata    json.RawMessage
	Compression json.RawMessage
	Data        json.RawMessage
}

// AppendJSON appends the op's wire form (ISequencedDocumentMessage) to b.
func (o SequencedOp) AppendJSON(b []byte) []byte { panic("todo") }

// ParseSequencedOp is the inverse of AppendJSON. It refuses trailing bytes.
func ParseSequencedOp(b []byte) (SequencedOp, error) { panic("todo") }
