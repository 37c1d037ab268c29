package socketio

import (
	"encoding/binary"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// Frame is an encoded event, WebSocket header included. It is immutable and may be
// sent to many sockets.
type Frame struct {
	b         []byte
	unbounded bool
}

// Len is the frame's size in bytes.
func (f Frame) Len() int { return len(f.b) }

// Unbounded returns the frame as one that does not count against the bound of a
// queue: for what a peer must get at the start, however large. The caller bounds it.
func (f Frame) Unbounded() Frame {
	f.unbounded = true
	return f
}

// cost is what the frame takes of a queue's bound.
func (f Frame) cost() int {
	if f.unbounded {
		return 0
	}
	return len(f.b)
}

// payload is what a WebSocket message of f carries: f without its header.
func (f Frame) payload() []byte {
	switch f.b[1] {
	case 126:
		return f.b[4:]
	case 127:
		return f.b[10:]
	}
	return f.b[2:]
}

// maxHeader is the longest header of a server's frame: two bytes and a 64-bit length.
const maxHeader = 10

// NewEvent encodes an event; args are raw JSON values.
func NewEvent(name string, args ...[]byte) Frame {
	b := beginEvent(name, joinedLen(args))
	for _, arg := range args {
		b = append(b, ',')
		b = append(b, arg...)
	}
	return Frame{b: append(b, ']')}
}

// NewListEvent encodes an event with two arguments, raw JSON values: arg, and the list
// of elements, of which there is one at least.
func NewListEvent(name string, arg []byte, elements [][]byte) Frame {
	b := beginEvent(name, len(`,`)+len(arg)+len(`,`)+joinedLen(elements)+len(`]`))
	b = append(b, ',')
	b = append(b, arg...)
	b = append(b, ',')
	separator := byte('[')
	for _, element := range elements {
		b = append(b, separator)
		b = append(b, element...)
		separator = ','
	}
	return Frame{b: append(b, `]]`...)}
}

// joinedLen is the length of parts with a separator before each.
func joinedLen(parts [][]byte) int {
	n := len(parts)
	for _, part := range parts {
		n += len(part)
	}
	return n
}

// beginEvent begins the frame of an event that has n more bytes and a bracket after its
// name.
func beginEvent(name string, n int) []byte {
	quoted, err := json.Marshal(name)
	if err != nil {
		panic("internal error: a string did not marshal: " + err.Error())
	}
	n += len(`42[]`) + len(quoted)
	b := appendHeader(make([]byte, 0, maxHeader+n), websocket.TextMessage, n)
	b = append(b, `42[`...)
	return append(b, quoted...)
}

// appendHeader appends the header of an unmasked, unfragmented frame (RFC 6455, 5.2).
func appendHeader(b []byte, opcode byte, n int) []byte {
	const final = 0x80
	b = append(b, final|opcode)
	switch {
	case n < 126:
		return append(b, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

func controlFrame(opcode byte, payload []byte) Frame {
	return Frame{b: append(appendHeader(nil, opcode, len(payload)), payload...)}
}

func textFrame(payload string) Frame {
	return controlFrame(websocket.TextMessage, []byte(payload))
}

func ackFrame(id uint64) Frame {
	return textFrame("43" + strconv.FormatUint(id, 10) + "[]")
}

// closeFrame carries reason, cut to what a control frame can hold.
func closeFrame(code int, reason string) Frame {
	const maxReason = 125 - 2
	for len(reason) > maxReason || !utf8.ValidString(reason) {
		reason = reason[:len(reason)-1]
	}
	return controlFrame(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason))
}

var (
	pingFrame      = textFrame("2")
	pongFrame      = textFrame("3")
	probeFrame     = textFrame("3probe")
	noopFrame      = textFrame("6")
	goodbyeFrame   = textFrame("1") // polling has no close frame
	disconnectNote = textFrame("41")
)
