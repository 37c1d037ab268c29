package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
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

// lenient takes what the service sends as it is; only its order is judged here.
var lenient = []jsontext.Options{jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)}

// parseArray splits a JSON array. The parts share b.
func parseArray(b []byte) ([]json.RawMessage, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(b), lenient...)
	if open, err := d.ReadToken(); err != nil || open.Kind() != '[' {
		return nil, fmt.Errorf("not a JSON array: %.100q", b)
	}
	var parts []json.RawMessage
	for d.PeekKind() != ']' {
		value, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		end := d.InputOffset()
		parts = append(parts, json.RawMessage(b[end-int64(len(value)):end]))
	}
	return parts, nil
}

// parseOps parses an array of sequenced ops.
func parseOps(b []byte) ([]Op, error) {
	parts, err := parseArray(b)
	if err != nil {
		return nil, err
	}
	ops := make([]Op, len(parts))
	for i, part := range parts {
		if ops[i], err = parseOp(part); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

// parseOp takes the envelope of an op and leaves its contents alone: the load
// generator reads each op once for each of its clients.
func parseOp(raw json.RawMessage) (Op, error) {
	op := Op{Raw: raw}
	d := jsontext.NewDecoder(bytes.NewBuffer(raw), lenient...)
	if open, err := d.ReadToken(); err != nil || open.Kind() != '{' {
		return Op{}, fmt.Errorf("op is not an object: %.100q", raw)
	}
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if err != nil {
			return Op{}, fmt.Errorf("op: %w", err)
		}
		name := token.String()
		value, err := d.ReadValue()
		if err != nil {
			return Op{}, fmt.Errorf("op: %w", err)
		}
		if err := op.set(name, value); err != nil {
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
	number := func(n *int64) error {
		*n, err = strconv.ParseInt(string(value), 10, 64)
		return err
	}
	switch name {
	case "clientId":
		return json.Unmarshal(value, &o.ClientID) // null leaves it empty
	case "type":
		return json.Unmarshal(value, &o.Type)
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
