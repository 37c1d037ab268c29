package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tidelock/tidelock/internal/rawjson"
)

// The messages of the socket, as far as a client that only writes and reads ops
// needs them. Source: Fluid Framework driver and protocol definitions
// (IConnect, IConnected, IDocumentMessage, ISequencedDocumentMessage, INack).

type connectMessage struct {
	TenantID          string          `json:"tenantId"`
	ID                string          `json:"id"`
	Token             string          `json:"token"`
	Mode              string          `json:"mode"`
	Versions          []string        `json:"versions"`
	Client            clientDetails   `json:"client"`
	SupportedFeatures map[string]bool `json:"supportedFeatures"`
}

type clientDetails struct {
	Mode       string         `json:"mode"`
	Permission []string       `json:"permission"`
	Scopes     []string       `json:"scopes"`
	User       map[string]any `json:"user"`
	Details    map[string]any `json:"details"`
}

func newConnectMessage(tenant, document, token, mode string) connectMessage {
	return connectMessage{
		TenantID: tenant, ID: document, Token: token, Mode: mode,
		Versions: []string{"^0.4.0", "^0.3.0", "^0.2.0", "^0.1.0"},
		Client: clientDetails{
			Mode: mode, Permission: []string{}, Scopes: []string{}, User: map[string]any{"id": ""},
			Details: map[string]any{"capabilities": map[string]bool{"interactive": true}, "environment": "tidelock bench"},
		},
		SupportedFeatures: map[string]bool{"submit_signals_v2": true},
	}
}

// connectedMessage leaves out initialMessages: what they hold is in the deltas too.
type connectedMessage struct {
	ClientID string `json:"clientId"`
	Mode     string `json:"mode"`
}

type refusedMessage struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type nackMessage struct {
	Content struct {
		Code    int    `json:"code"`
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"content"`
}

// appendSubmit appends a submitOp event with one op.
func appendSubmit(b []byte, clientID string, csn, rsn int64, typ string, contents []byte) []byte {
	b = append(b, `42["submitOp",`...)
	b = strconv.AppendQuote(b, clientID) // a UUID
	b = append(b, `,[[{"clientSequenceNumber":`...)
	b = strconv.AppendInt(b, csn, 10)
	b = append(b, `,"referenceSequenceNumber":`...)
	b = strconv.AppendInt(b, rsn, 10)
	b = append(b, `,"type":`...)
	b = strconv.AppendQuote(b, typ)
	b = append(b, `,"contents":`...)
	b = append(b, contents...)
	return append(b, `}]]]`...)
}

// parseArray splits a JSON array. The parts share b.
func parseArray(b []byte) ([]json.RawMessage, error) {
	if rawjson.Kind(b) != '[' || !jsontext.Value(b).IsValid(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)) {
		return nil, fmt.Errorf("not a JSON array: %.100q", b)
	}
	var parts []json.RawMessage
	for part := range rawjson.Elements(b) {
		parts = append(parts, json.RawMessage(part))
	}
	return parts, nil
}

// parseOps parses an array of sequenced ops, which is valid JSON.
func parseOps(b []byte) ([]Op, error) {
	if rawjson.Kind(b) != '[' {
		return nil, fmt.Errorf("not a list of ops: %.100q", b)
	}
	var ops []Op
	for part := range rawjson.Elements(b) {
		op, err := parseOp(part)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// parseOp takes the envelope of an op and leaves its contents alone: the load
// generator reads each op once for each of its clients.
func parseOp(raw json.RawMessage) (Op, error) {
	op := Op{Raw: raw}
	if rawjson.Kind(raw) != '{' {
		return Op{}, fmt.Errorf("op is not an object: %.100q", raw)
	}
	for name, value := range rawjson.Members(raw) {
		if err := op.set(string(name[1:len(name)-1]), value); err != nil {
			return Op{}, fmt.Errorf("op: %s: %w", name, err)
		}
	}
	if op.Seq < 1 || op.Type == "" {
		return Op{}, errors.New("op has no sequence number or no type")
	}
	return op, nil
}

// set takes one member of the envelope.
func (o *Op) set(name string, value []byte) (err error) {
	text := func(s *string) error {
		*s, err = rawjson.String(value)
		return err
	}
	number := func(n *int64) error {
		*n, err = strconv.ParseInt(string(value), 10, 64)
		return err
	}
	switch name {
	case "clientId":
		if string(value) == "null" {
			return nil // of the service itself
		}
		return text(&o.ClientID)
	case "type":
		return text(&o.Type)
	case "sequenceNumber":
		return number(&o.Seq)
	case "minimumSequenceNumber":
		return number(&o.MSN)
	case "clientSequenceNumber":
		return number(&o.CSN)
	case "referenceSequenceNumber":
		return number(&o.RSN)
	}
	return nil
}
