package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

const (
	// closeWithin is how long a socket that is closed may take to send the rest.
	closeWithin = time.Second
	// writeChunk is how much is handed to the connection at once: each chunk has
	// PingTimeout to go out, so that a large frame on a slow line is no stuck peer.
	writeChunk = 64 << 10
	// maxKeptRead is the largest read buffer that is kept for the next frame.
	maxKeptRead = 64 << 10
	// maxKeptQueue is the longest queue whose memory an idle socket keeps, in frames.
	maxKeptQueue = 8
	// maxAnswers is how many answers may wait for a peer to read them. Unlike what others
	// send it, a peer makes answers wait by itself, as many as it likes and each for a few
	// bytes, and may do so before anybody knows who it is.
	maxAnswers = 1000
)

// Socket is one client's connection. Its methods are safe for concurrent use.
type Socket struct {
	id     string
	config Config
	poll   *polling // nil for a socket that began as a WebSocket

	// Owned by the reader.
	handler Handler         // nil until the namespace is connected
	ws      *websocket.Conn // nil while the socket is polling

	writers sync.WaitGroup // the writer, if there is one

	mu        sync.Mutex
	conn      net.Conn // below ws, for writing; set once
	pinger    *time.Timer
	writing   bool // the writer runs: there is one while there is something to write
	queue     []Frame
	queued    int  // cost of queue, and of what the writer has taken but not written
	answers   int  // frames that answered the peer since the queue was taken last
	pinged    bool // a ping is in queue
	connected bool // the namespace is connected
	waiting   bool // for a pong
	closing   bool // nothing more is queued or handled
	aborted   bool // nothing more is written either
	reason    string
	closeCode int // of the close frame, RFC 6455, 7.4
	closeBy   time.Time
}

func newSocket(c Config) *Socket {
	return &Socket{id: newID(), config: c}
}

func (s *Socket) attach(ws *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attachLocked(ws)
}

// attachLocked makes ws what the socket speaks through from now on. run must follow.
func (s *Socket) attachLocked(ws *websocket.Conn) {
	s.ws, s.conn = ws, ws.NetConn()
	s.pinger = time.AfterFunc(s.config.PingInterval, s.ping)
	ws.SetReadLimit(int64(s.config.MaxPayload))
	// The defaults write to the connection themselves.
	ws.SetPingHandler(func(data string) error {
		s.Answer(controlFrame(websocket.PongMessage, []byte(data)))
		return nil
	})
	ws.SetCloseHandler(func(int, string) error { return nil })
}

// interruptLocked ends what reads and writes for the socket at a time, or now.
func (s *Socket) interruptLocked(at time.Time) {
	if s.conn == nil {
		s.poll.interrupt(at)
		return
	}
	_ = s.conn.SetDeadline(at) // fails only if the connection is dead already
}

// ID is the socket's random id.
func (s *Socket) ID() string { return s.id }

// Send queues frames in order and never blocks. It returns false if the socket
// is closed, or was closed now because its queue overflowed.
func (s *Socket) Send(frames ...Frame) bool {
	n := 0
	for _, f := range frames {
		n += f.cost()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	if s.queued+n > s.config.QueueBytes {
		s.abortLocked("outbound queue overflow")
		return false
	}
	s.queue = append(s.queue, frames...)
	s.queued += n
	s.wakeLocked()
	return true
}

// Answer is Send for a frame that a message of the peer's own calls for: an
// acknowledgement, a pong, a refusal. A peer that goes on without reading any is cut off.
func (s *Socket) Answer(f Frame) bool {
	s.mu.Lock()
	s.answers++
	if s.answers > maxAnswers && !s.closing {
		s.abortLocked("answers are not read")
	}
	s.mu.Unlock()
	return s.Send(f)
}

// Close sends what is queued (within a second), then a disconnect, and closes.
// It does not wait. reason goes to Handler.Closed and into the close frame.
func (s *Socket) Close(reason string) { s.close(websocket.CloseNormalClosure, reason) }

// close ends the socket in order; the first reason stands.
func (s *Socket) close(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.closing, s.reason, s.closeCode = true, reason, code
	s.closeBy = time.Now().Add(closeWithin)
	// For the reader too: it waits for the peer's close frame, because a connection
	// closed with unread data is reset, and takes what we sent last with it.
	s.interruptLocked(s.closeBy)
	s.wakeLocked()
}

// abort ends the socket at once; a reason given before stands.
func (s *Socket) abort(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abortLocked(reason)
}

func (s *Socket) abortLocked(reason string) {
	if !s.closing {
		s.closing, s.reason = true, reason
	}
	s.aborted = true
	// A time long past interrupts both goroutines, and unlike Close never blocks.
	s.interruptLocked(time.Unix(1, 0))
	s.wakeLocked()
}

// wakeLocked has what is queued written: by the writer, or by the poll that waits.
func (s *Socket) wakeLocked() {
	switch {
	case s.conn == nil:
		s.poll.wake()
	case !s.writing && !s.aborted:
		s.writing = true
		s.writers.Go(s.write)
	}
}

func (s *Socket) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// openFrame is the first frame of a connection: the limits that the peer has to keep.
func (s *Socket) openFrame(sid string, upgrades []string) Frame {
	open, err := json.Marshal(struct {
		SID          string   `json:"sid"`
		Upgrades     []string `json:"upgrades"`
		PingInterval int64    `json:"pingInterval"`
		PingTimeout  int64    `json:"pingTimeout"`
		MaxPayload   int      `json:"maxPayload"`
	}{sid, upgrades, s.config.PingInterval.Milliseconds(), s.config.PingTimeout.Milliseconds(), s.config.MaxPayload})
	if err != nil {
		panic("internal error: the open packet did not marshal: " + err.Error())
	}
	return textFrame("0" + string(open))
}

// run serves the socket over its WebSocket. It returns when it and its writer have
// ended.
func (s *Socket) run(connect func(*Socket) Handler) {
	defer func() { // also when the handler panics
		s.abort("internal error")
		s.pinger.Stop()
		s.writers.Wait()
		_ = s.conn.Close() // nothing is left to lose
		if s.handler != nil {
			s.handler.Closed(s.reason)
		}
	}()
	for {
		opcode, frame, err := s.read()
		if err != nil {
			if s.ended(err) {
				s.writers.Wait() // the writer answers the close frame
			}
			return
		}
		if s.isClosing() {
			continue // until the peer closes, or closeBy
		}
		if err := s.handle(opcode, frame, connect); err != nil {
			s.close(closeCode(err), err.Error())
		}
	}
}

// ended closes the socket because reading ended with err, and says whether the peer
// closed it in order and has its close frame to come. (RFC 6455, 5.5.1: without one
// a browser reports a broken connection.)
func (s *Socket) ended(err error) bool {
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code == websocket.CloseAbnormalClosure {
		s.abort(readReason(err))
		return false
	}
	s.mu.Lock()
	s.connected, s.queue = false, nil // nothing may follow a close frame but ours
	s.mu.Unlock()
	s.close(websocket.CloseNormalClosure, fmt.Sprintf("closed by the client (%d)", closed.Code))
	return true
}

// errInvalidUTF8 has a close code of its own.
var errInvalidUTF8 = errors.New("text is not UTF-8")

func closeCode(err error) int {
	switch {
	case errors.Is(err, errBinary):
		return websocket.CloseUnsupportedData
	case errors.Is(err, errInvalidUTF8):
		return websocket.CloseInvalidFramePayloadData
	case errors.Is(err, errPeerDone):
		return websocket.CloseNormalClosure
	}
	return websocket.CloseProtocolError
}

// readReason says in our words why reading failed.
func readReason(err error) string {
	var netErr net.Error
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return "frame is too large"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "ping timeout"
	}
	return "connection lost"
}

// incoming holds *bytes.Buffer in which frames are gathered, each no larger than
// maxKeptRead: a socket that is silent needs none.
var incoming = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// read returns the next frame, which is the caller's.
func (s *Socket) read() (opcode int, frame []byte, err error) {
	opcode, r, err := s.ws.NextReader()
	if err != nil {
		return 0, nil, err
	}
	in := incoming.Get().(*bytes.Buffer)
	defer func() {
		if in.Cap() <= maxKeptRead {
			in.Reset()
			incoming.Put(in)
		}
	}()
	if _, err := in.ReadFrom(r); err != nil {
		return 0, nil, err
	}
	return opcode, bytes.Clone(in.Bytes()), nil
}

// errPeerDone is a client's orderly goodbye.
var errPeerDone = errors.New("disconnected by the client")

// handle does what one frame asks for, and may keep parts of it. An error closes the
// socket.
func (s *Socket) handle(opcode int, frame []byte, connect func(*Socket) Handler) error {
	if opcode != websocket.TextMessage {
		return errBinary
	}
	if len(frame) == 0 {
		return errors.New("empty frame")
	}
	// The event's contents go on to every other client, and a WebSocket client must
	// fail a connection that brings it anything but UTF-8 (RFC 6455, 8.1).
	if !utf8.Valid(frame) {
		return errInvalidUTF8
	}
	switch kind, rest := frame[0], string(frame[1:min(len(frame), 8)]); {
	case kind == engineMessage:
		return s.message(frame[1:], connect)
	case kind == enginePong && rest == "":
		s.pong()
	case kind == enginePing && rest == "":
		s.Answer(pongFrame)
	case kind == enginePing && rest == "probe":
		s.Answer(probeFrame)
	case kind == engineUpgrade && rest == "", kind == engineNoop && rest == "":
		// The end of an upgrade from polling, which there was none of: harmless.
	case kind == engineClose && rest == "":
		return errPeerDone
	case kind == 'b':
		return errBinary
	default:
		return errors.New("malformed frame")
	}
	return nil
}

// message does what one Socket.IO packet asks for. It may keep parts of b.
func (s *Socket) message(b []byte, connect func(*Socket) Handler) error {
	p, err := parsePacket(b)
	if err != nil {
		return err
	}
	if p.namespace != "/" {
		return s.foreign(p)
	}
	if p.typ == packetConnect {
		if s.handler != nil {
			return errors.New("namespace is connected already")
		}
		s.mu.Lock()
		s.connected = true
		s.mu.Unlock()
		s.Send(textFrame(`40{"sid":"` + s.id + `"}`))
		s.handler = connect(s)
		return nil
	}
	if s.handler == nil {
		return errors.New("namespace is not connected")
	}
	switch p.typ {
	case packetDisconnect:
		s.mu.Lock()
		s.connected = false
		s.mu.Unlock()
		return errPeerDone
	case packetEvent:
		name, args, err := parseEvent(p.payload)
		if err != nil {
			return err
		}
		s.handler.Event(name, args)
		if p.ack {
			s.Answer(ackFrame(p.ackID))
		}
	}
	return nil // an acknowledgement: we never ask for one, so it means nothing
}

// foreign answers a packet for a namespace that does not exist.
func (s *Socket) foreign(p packet) error {
	switch p.typ {
	case packetConnect:
		s.Answer(textFrame("44" + p.namespace + `,{"message":"Invalid namespace"}`))
		return nil
	case packetDisconnect:
		return nil
	}
	return errors.New("namespace is not connected")
}

// pong takes note that the peer lives.
func (s *Socket) pong() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
	switch {
	case s.closing:
	case s.conn == nil:
		s.poll.alarm.Stop()
	default:
		_ = s.conn.SetReadDeadline(time.Time{})
	}
}

// write is the writer: it sends what is queued, until nothing is.
func (s *Socket) write() {
	var batch []Frame
	for {
		var pinged, last bool
		batch, pinged, last = s.take(batch)
		if len(batch) == 0 {
			return
		}
		if err := s.writeFrames(s.conn, batch); err != nil {
			s.abort(writeReason(err))
			return
		}
		s.wrote(batch, pinged)
		if last {
			return
		}
	}
}

func writeReason(err error) string {
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return "write timeout"
	}
	return "connection lost"
}

// take moves the queue into batch, whose frames have been written, and adds the
// goodbye if the socket is closing: then this batch is the last. pinged says that a
// ping is in it. When there is nothing to write the writer has ended.
func (s *Socket) take(batch []Frame) (taken []Frame, pinged, last bool) {
	clear(batch) // let go of what was sent
	s.mu.Lock()
	defer s.mu.Unlock()
	taken, last = s.takeLocked(batch)
	if len(taken) == 0 {
		s.writing = false
		if cap(taken) > 0 && cap(taken) <= maxKeptQueue {
			s.queue = taken
		} else if cap(s.queue) > maxKeptQueue {
			s.queue = nil
		}
		return nil, false, last
	}
	pinged, s.pinged = s.pinged, false
	return taken, pinged, last
}

func (s *Socket) takeLocked(batch []Frame) (taken []Frame, last bool) {
	if s.aborted {
		return nil, true
	}
	taken, s.queue = s.queue, batch[:0]
	s.answers = 0
	if !s.closing {
		return taken, false
	}
	if s.connected {
		taken = append(taken, disconnectNote)
	}
	if s.conn == nil {
		return append(taken, goodbyeFrame), true
	}
	return append(taken, closeFrame(s.closeCode, s.reason)), true
}

// wrote takes a written batch off the account. After a ping the time runs in which
// the pong has to come.
func (s *Socket) wrote(batch []Frame, pinged bool) {
	n := 0
	for _, f := range batch {
		n += f.cost()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queued -= n
	// waiting may be over already: a pong can be faster than this goroutine.
	if pinged && s.waiting && !s.closing {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.config.PingTimeout))
	}
}

// ping is called every PingInterval.
func (s *Socket) ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pingLocked() {
		s.pinged = true
		s.wakeLocked()
	}
	if !s.closing {
		s.pinger.Reset(s.config.PingInterval)
	}
}

// pingLocked queues a ping, but closes a socket that has not connected the namespace by
// now. It does not ping while a pong is due.
func (s *Socket) pingLocked() bool {
	switch {
	case s.closing || s.waiting:
		return false
	case !s.connected:
		s.abortLocked("namespace was not connected in time")
		return false
	}
	s.waiting = true
	if s.conn == nil {
		// The time runs from now: who has no poll open to take the ping is as silent as
		// who does not answer it.
		s.poll.pongBy = time.Now().Add(s.config.PingTimeout)
		s.poll.alarm.Reset(s.config.PingTimeout)
	}
	s.queue = append(s.queue, pingFrame)
	s.queued += pingFrame.Len()
	return true
}

// Frames are joined in buffers, *[]byte of either size; what is larger is written as it
// is. A peer that does not read holds one until its deadline, so that they are small: the
// first is enough for what waits for most sockets at a time.
const smallJoin, largeJoin = 4 << 10, 16 << 10

var smallBuffers, largeBuffers = bufferPool(smallJoin), bufferPool(largeJoin)

func bufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, 0, size)
		return &b
	}}
}

// joining returns the pool of buffers that are large enough to join frames in.
func joining(frames []Frame) *sync.Pool {
	n := 0
	for _, f := range frames {
		if len(f.b) <= largeJoin {
			n += len(f.b)
		}
		if n > smallJoin {
			return largeBuffers
		}
	}
	return smallBuffers
}

// outlet is where frames are written: a connection, or the answer to a poll.
type outlet interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}

// writeFrames hands frames to out in as few writes as it takes.
func (s *Socket) writeFrames(out outlet, frames []Frame) error {
	if len(frames) == 1 {
		return s.writeBytes(out, frames[0].b)
	}
	pool := joining(frames)
	pooled := pool.Get().(*[]byte)
	defer pool.Put(pooled)
	joined := (*pooled)[:0]
	for _, f := range frames {
		if len(joined)+len(f.b) > largeJoin {
			if err := s.writeBytes(out, joined); err != nil {
				return err
			}
			joined = joined[:0]
		}
		if len(f.b) > largeJoin {
			if err := s.writeBytes(out, f.b); err != nil {
				return err
			}
			continue
		}
		joined = append(joined, f.b...)
	}
	return s.writeBytes(out, joined)
}

// writeBytes writes b in chunks, each with a deadline of its own.
func (s *Socket) writeBytes(out outlet, b []byte) error {
	for len(b) > 0 {
		chunk := b[:min(len(b), writeChunk)]
		s.mu.Lock()
		if !s.closing { // or the deadline is set, to closeBy or to the past
			_ = out.SetWriteDeadline(time.Now().Add(s.config.PingTimeout))
		}
		s.mu.Unlock()
		if _, err := out.Write(chunk); err != nil {
			return err
		}
		b = b[len(chunk):]
	}
	return nil
}
