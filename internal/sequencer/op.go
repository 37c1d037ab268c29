package sequencer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

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
// broadcast. MSN is the minimum sequence number with this op applied. ClientID is
// empty for the service's own ops (null on the wire), whose CSN and RSN are -1
// (but a noClient's RSN is its Seq). Data is a JSON string literal, or nil.
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

// AppendJSON appends the op's wire form to b (ISequencedDocumentMessage of the
// Fluid protocol definitions, without the optional traces). Raw members must be
// valid JSON; they are copied as they are, without being looked at.
func (o SequencedOp) AppendJSON(b []byte) []byte {
	b = append(b, `{"clientId":`...)
	if o.ClientID == "" {
		b = append(b, "null"...)
	} else {
		b = appendString(b, string(o.ClientID))
	}
	b = append(b, `,"clientSequenceNumber":`...)
	b = strconv.AppendInt(b, o.CSN, 10)
	b = append(b, `,"referenceSequenceNumber":`...)
	b = strconv.AppendInt(b, int64(o.RSN), 10)
	b = append(b, `,"sequenceNumber":`...)
	b = strconv.AppendInt(b, int64(o.Seq), 10)
	b = append(b, `,"minimumSequenceNumber":`...)
	b = strconv.AppendInt(b, int64(o.MSN), 10)
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendInt(b, o.Timestamp, 10)
	b = append(b, `,"type":`...)
	b = appendString(b, o.Type)
	b = append(b, `,"contents":`...)
	if len(o.Contents) == 0 {
		b = append(b, "null"...)
	} else {
		b = append(b, o.Contents...)
	}
	b = appendMember(b, `,"metadata":`, o.Metadata)
	b = appendMember(b, `,"compression":`, o.Compression)
	b = appendMember(b, `,"data":`, o.Data)
	return append(b, '}')
}

func appendMember(b []byte, name string, value json.RawMessage) []byte {
	if len(value) == 0 {
		return b
	}
	return append(append(b, name...), value...)
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic("internal error: a string did not marshal: " + err.Error())
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// wireOp is SequencedOp as encoding/json reads it. Pointers tell absent from zero.
type wireOp struct {
	ClientID    json.RawMessage `json:"clientId"`
	CSN         *int64          `json:"clientSequenceNumber"`
	RSN         *Seq            `json:"referenceSequenceNumber"`
	Seq         *Seq            `json:"sequenceNumber"`
	MSN         *Seq            `json:"minimumSequenceNumber"`
	Timestamp   *int64          `json:"timestamp"`
	Type        *string         `json:"type"`
	Contents    json.RawMessage `json:"contents"`
	Metadata    json.RawMessage `json:"metadata"`
	Compression json.RawMessage `json:"compression"`
	Data        json.RawMessage `json:"data"`
}

// ParseSequencedOp is the inverse of AppendJSON. It refuses trailing bytes, missing
// numbers and members that AppendJSON does not write.
func ParseSequencedOp(b []byte) (SequencedOp, error) {
	var w wireOp
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return SequencedOp{}, fmt.Errorf("parse sequenced op: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return SequencedOp{}, errors.New("parse sequenced op: trailing bytes")
	}
	if w.CSN == nil || w.RSN == nil || w.Seq == nil || w.MSN == nil || w.Timestamp == nil || w.Type == nil {
		return SequencedOp{}, errors.New("parse sequenced op: a number or the type is missing")
	}
	var id ClientID
	switch {
	case len(w.ClientID) == 0:
		return SequencedOp{}, errors.New("parse sequenced op: clientId is missing")
	case !isNull(w.ClientID):
		if err := json.Unmarshal(w.ClientID, &id); err != nil {
			return SequencedOp{}, fmt.Errorf("parse sequenced op: clientId: %w", err)
		}
		if id == "" {
			return SequencedOp{}, errors.New("parse sequenced op: clientId is empty")
		}
	}
	if isNull(w.Contents) {
		w.Contents = nil
	}
	if w.Data != nil && w.Data[0] != '"' {
		return SequencedOp{}, errors.New("parse sequenced op: data is not a string")
	}
	return SequencedOp{
		ClientID: id, CSN: *w.CSN, RSN: *w.RSN, Seq: *w.Seq, MSN: *w.MSN, Timestamp: *w.Timestamp, Type: *w.Type,
		Contents: w.Contents, Metadata: w.Metadata, Compression: w.Compression, Data: w.Data,
	}, nil
}

// isNull tells absent or null raw JSON from any other.
func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null"
}

// joinData is the payload of a join op: {"clientId", "detail"} as a JSON string.
func joinData(c Client) json.RawMessage {
	inner := appendString([]byte(`{"clientId":`), string(c.ID))
	inner = append(inner, `,"detail":`...)
	if len(c.Detail) == 0 {
		inner = append(inner, "null"...)
	} else {
		inner = append(inner, c.Detail...)
	}
	inner = append(inner, '}')
	return appendString(nil, string(inner))
}

// leaveData is the payload of a leave op: the client id as JSON, as a JSON string.
func leaveData(id ClientID) json.RawMessage {
	return appendString(nil, string(appendString(nil, string(id))))
}

// parseData decodes what joinData or leaveData made.
func parseData(data json.RawMessage, v any) error {
	var inner string
	if err := json.Unmarshal(data, &inner); err != nil {
		return err
	}
	return json.Unmarshal([]byte(inner), v)
}
