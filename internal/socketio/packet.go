package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tidelock/tidelock/internal/rawjson"
)

// Engine.IO packet types: the first byte of every frame.
const (
	engineClose   = '1'
	enginePing    = '2'
	enginePong    = '3'
	engineMessage = '4'
	engineUpgrade = '5'
	engineNoop    = '6'
)

// Socket.IO packet types: the second byte of a message.
const (
	packetConnect      = '0'
	packetDisconnect   = '1'
	packetEvent        = '2'
	packetAck          = '3'
	packetConnectError = '4'
	packetBinaryEvent  = '5'
	packetBinaryAck    = '6'
)

// maxNamespace bounds the name of a namespace, which comes back in its refusal.
const maxNamespace = 256

var errBinary = errors.New("binary data is not supported")

// packet is one Socket.IO packet, as far as it can be told without its payload.
type packet struct {
	typ       byte
	namespace string
	ack       bool // ackID is set
	ackID     uint64
	payload   []byte
}

// parsePacket parses what follows the Engine.IO type:
//
//	<type>[<namespace>,][<ack id>][<JSON>]
//
// The payload of an event is checked by parseEvent.
func parsePacket(b []byte) (packet, error) {
	if len(b) == 0 {
		return packet{}, errors.New("empty packet")
	}
	p := packet{typ: b[0], namespace: "/"}
	b = b[1:]
	switch p.typ {
	case packetConnect, packetDisconnect, packetEvent, packetAck:
	case packetBinaryEvent, packetBinaryAck:
		return packet{}, errBinary
	default:
		return packet{}, fmt.Errorf("packet type %q from a client", p.typ)
	}
	if len(b) > 0 && b[0] == '/' {
		name, rest, _ := bytes.Cut(b, []byte{','})
		if len(name) > maxNamespace {
			return packet{}, errors.New("namespace is too long")
		}
		p.namespace, b = string(name), rest
	}
	digits := 0
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		digits++
	}
	if digits > 0 {
		id, err := strconv.ParseUint(string(b[:digits]), 10, 63)
		if err != nil || p.typ == packetConnect || p.typ == packetDisconnect {
			return packet{}, errors.New("bad acknowledgement id")
		}
		p.ack, p.ackID, b = true, id, b[digits:]
	}
	p.payload = b
	if p.typ == packetConnect && len(b) > 0 && (b[0] != '{' || !json.Valid(b)) {
		return packet{}, errors.New("connect payload is not an object")
	}
	if p.typ == packetDisconnect && len(b) > 0 {
		return packet{}, errors.New("disconnect has a payload")
	}
	return p, nil
}

// reserved are the names that Socket.IO keeps for itself.
var reserved = []string{"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}

// parseEvent parses the payload of an event, ["name", args...]. The args are parts
// of payload. Whether strings are well-formed Unicode is not looked at: a client may
// well cut a text between the halves of a surrogate pair and send the escape of one.
func parseEvent(payload []byte) (name string, args []json.RawMessage, err error) {
	if rawjson.Kind(payload) != '[' {
		return "", nil, errors.New("event is not a JSON array")
	}
	if !jsontext.Value(payload).IsValid(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)) {
		return "", nil, errors.New("event is not JSON")
	}
	args = make([]json.RawMessage, 0, 2) // of a submitOp
	named := false
	for part := range rawjson.Elements(payload) {
		if named {
			args = append(args, json.RawMessage(part))
			continue
		}
		if name, err = rawjson.String(part); err != nil {
			break
		}
		named = true
	}
	switch {
	case !named:
		return "", nil, errors.New("event has no name")
	case slices.Contains(reserved, name):
		return "", nil, fmt.Errorf("event name %q is reserved", name)
	}
	return name, args, nil
}
