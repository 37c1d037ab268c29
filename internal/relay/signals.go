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

// signalV2 is what the service reads of a signal of the second dialect.
type signalV2 struct {
	frame    socketio.Frame
	target   sequencer.ClientID
	targeted bool
}

// parseSignalV2 checks a signal of the second dialect. It is passed on with all
// its members, known or not, but as from: what it says of its sender is dropped.
func parseSignalV2(raw json.RawMessage, from []byte) (signalV2, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members["content"] == nil {
		return signalV2{}, errBadSignal
	}
	var known struct {
		Type             *string  `json:"type"`
		ConnectionNumber *float64 `json:"clientConnectionNumber"`
		RSN              *float64 `json:"referenceSequenceNumber"`
		Target           *string  `json:"targetClientId"`
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return signalV2{}, errBadSignal
	}
	members["clientId"] = from
	b := make([]byte, 0, len(raw)+len(from)+len(`{"clientId":,}`))
	separator := byte('{')
	for _, name := range slices.Sorted(maps.Keys(members)) {
		b = append(b, separator)
		separator = ','
		b = append(b, encode(name)...)
		b = append(b, ':')
		b = append(b, members[name]...)
	}
	s := signalV2{frame: socketio.NewEvent("signal", append(b, '}'))}
	if known.Target != nil {
		s.target, s.targeted = sequencer.ClientID(*known.Target), true
	}
	return s, nil
}

func isArray(raw json.RawMessage) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '['
}
