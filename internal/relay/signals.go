package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/socketio"
)

var errBadSignal = errors.New("malformed signal")

// signalFrame is a signal with nothing but content, a JSON value; a nil from is
// the service itself.
func signalFrame(from, content []byte) socketio.Frame {
	if from == nil {
		from = []byte("null")
	}
	b := make([]byte, 0, len(`{"clientId":,"content":}`)+len(from)+len(content))
	b = append(b, `{"clientId":`...)
	b = append(b, from...)
	b = append(b, `,"content":`...)
	b = append(b, content...)
	return socketio.NewEvent("signal", append(b, '}'))
}

// audienceContent is the content of the signals that announce who comes and goes:
// a JSON string that holds JSON.
func audienceContent(typ string, content []byte) []byte {
	return encode(string(encode(struct {
		Type    string          `json:"type"`
		Content json.RawMessage `json:"content"`
	}{typ, content})))
}

// splitSignals returns the contents of a submitSignal of the first dialect: a list
// whose elements are contents or lists of them.
func splitSignals(arg json.RawMessage) ([]json.RawMessage, error) {
	var batches []json.RawMessage
	if err := json.Unmarshal(arg, &batches); err != nil {
		return nil, errBadSignal
	}
	var contents []json.RawMessage
	for _, batch := range batches {
		if !isArray(batch) {
			contents = append(contents, batch)
			continue
		}
		var inner []json.RawMessage
		if err := json.Unmarshal(batch, &inner); err != nil {
			return nil, errBadSignal
		}
		contents = append(contents, inner...)
	}
	return contents, nil
}

// rewriteSignal checks a signal of the second dialect and returns it as from, a
// JSON string: with all its members, known or not, but what it said of its sender.
// target is nil if it is for everyone.
func rewriteSignal(raw json.RawMessage, from []byte) (body []byte, target *sequencer.ClientID, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members["content"] == nil {
		return nil, nil, errBadSignal
	}
	for name, into := range map[string]any{
		"type":                    new(*string),
		"clientConnectionNumber":  new(*float64),
		"referenceSequenceNumber": new(*float64),
		"targetClientId":          &target,
	} {
		if value, ok := members[name]; ok && json.Unmarshal(value, into) != nil {
			return nil, nil, errBadSignal
		}
	}
	members["clientId"] = from
	body = make([]byte, 0, len(raw)+len(from)+len(`{"clientId":,}`))
	separator := byte('{')
	for _, name := range slices.Sorted(maps.Keys(members)) {
		body = append(body, separator)
		separator = ','
		body = append(body, encode(name)...)
		body = append(body, ':')
		body = append(body, members[name]...)
	}
	return append(body, '}'), target, nil
}

func isArray(raw json.RawMessage) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '['
}
