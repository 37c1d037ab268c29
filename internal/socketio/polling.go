package socketio

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// maxPolling bounds the sessions that poll. Unlike a WebSocket such a session needs no
// connection to stay alive for a while, so that connections do not bound them.
const maxPolling = 10_000

// polling is the state of a session that polls. A GET takes what is queued, or waits
// for it; a POST brings packets. There may be one of each at a time. Everything but
// over and posts is guarded by Socket.mu.
type polling struct {
	ready chan struct{}  // tells the GET that waits to look
	over  chan struct{}  // closed when no more requests are served
	posts sync.WaitGroup // POSTs being served

	ended    bool        // over is closed
	alarm    *time.Timer // aborts the socket: no pong came, or closeBy has passed
	pongBy   time.Time
	waiting  bool // a GET is
	posting  bool // a POST is read or handled
	goodbye  bool // the last packet is on its way
	probing  bool // a WebSocket wants to take over; one at a time
	probed   bool // it may: no GET waits any longer
	upgraded bool

	// busy are the requests that read or write now and have to be interrupted.
	busy map[deadliner]struct{}
}

// deadliner is a net.Conn or an http.ResponseController.
type deadliner interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

var (
	_ deadliner = net.Conn(nil)
	_ deadliner = (*http.ResponseController)(nil)
)

// newPolling returns a socket that polls. Its keep must be called.
func newPolling(c Config) *Socket {
	s := newSocket(c)
	s.poll = &polling{ready: make(chan struct{}, 1), over: make(chan struct{}), busy: map[deadliner]struct{}{}}
	s.poll.alarm = time.AfterFunc(c.PingInterval, func() { s.abort("ping timeout") })
	s.poll.alarm.Stop()
	return s
}

// wake tells the GET that waits, or the next one, that there is something to look at.
func (p *polling) wake() {
	select {
	case p.ready <- struct{}{}:
	default: // it will look anyway
	}
}

// interrupt ends what the session does at a time, and then the session. One long past
// ends it now.
func (p *polling) interrupt(at time.Time) {
	for d := range p.busy {
		_ = d.SetReadDeadline(at)
		_ = d.SetWriteDeadline(at)
	}
	if left := time.Until(at); left > 0 {
		p.alarm.Reset(left)
	} else {
		p.end()
	}
}

// end stops the serving of requests.
func (p *polling) end() {
	if !p.ended {
		p.ended = true
		p.alarm.Stop()
		close(p.over)
	}
}

// keep pings until polling is over, and says whether a WebSocket took over. If not,
// it was the last: Closed has been called.
func (s *Socket) keep() (upgraded bool) {
	ticker := time.NewTicker(s.config.PingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.mu.Lock()
			if s.conn == nil && s.pingLocked() {
				s.wakeLocked()
			}
			s.mu.Unlock()
			continue
		case <-s.poll.over:
		}
		break
	}
	s.mu.Lock()
	upgraded = s.poll.upgraded
	s.mu.Unlock()
	if upgraded {
		return true
	}
	// It is closing, which gave a POST that is being read its deadline. (To abort it here
	// would cut off the answers that tell the client.)
	s.poll.posts.Wait()
	if s.handler != nil {
		s.handler.Closed(s.reason)
	}
	return false
}

// errOverlap is what a client does that has two requests of a kind open: it has lost
// count, or is two clients.
const errOverlap = "overlapping requests"

// serveGET answers a poll with all that is queued, or with what comes first.
func (s *Socket) serveGET(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.poll.waiting {
		s.abortLocked(errOverlap)
		s.mu.Unlock()
		refuse(w, http.StatusBadRequest, badRequest)
		return
	}
	s.poll.waiting = true
	s.mu.Unlock()

	control := http.NewResponseController(w)
	frames, queued, last := s.awaitFrames(r, control)
	if len(frames) == 0 {
		return // the client is gone
	}
	err := s.answerPoll(w, control, frames)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.poll.busy, control)
	if queued {
		for _, f := range frames {
			s.queued -= f.cost()
		}
	}
	switch {
	case err != nil:
		s.abortLocked(writeReason(err))
	case last:
		s.poll.end()
	}
}

// awaitFrames waits for what a poll is to be answered with. queued says whether it
// counts in Socket.queued, last that the session ends with it. There are no frames if
// the client went away.
func (s *Socket) awaitFrames(r *http.Request, control *http.ResponseController) (frames []Frame, queued, last bool) {
	for {
		s.mu.Lock()
		// The poll is over for the client as soon as it has the answer's last byte, and its
		// next one may overtake the end of this: so waiting ends before we answer.
		frames, queued, last = s.takePoll()
		if len(frames) > 0 {
			s.poll.waiting = false
			s.poll.busy[control] = struct{}{}
			deadline := time.Now().Add(s.config.PingTimeout)
			if s.closing {
				deadline = time.Now().Add(closeWithin)
			}
			_ = control.SetWriteDeadline(deadline)
			s.mu.Unlock()
			s.poll.wake() // in case this poll took the signal from its successor
			return frames, queued, last
		}
		s.mu.Unlock()
		select {
		case <-s.poll.ready:
		case <-r.Context().Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			s.poll.waiting = false
			if s.conn == nil {
				s.abortLocked("connection lost")
			}
			return nil, false, false
		}
	}
}

// takePoll takes what a poll is answered with now, if anything.
func (s *Socket) takePoll() (frames []Frame, queued, last bool) {
	p := s.poll
	switch {
	case s.aborted || p.goodbye:
		return []Frame{goodbyeFrame}, false, true
	case s.conn != nil: // what is queued goes to the WebSocket
		return []Frame{noopFrame}, false, false
	}
	frames, last = s.takeLocked(nil)
	p.goodbye = last
	if len(frames) == 0 && p.probed {
		return []Frame{noopFrame}, false, false
	}
	return frames, true, last
}

// separator stands between the packets of a payload. It is in no packet: JSON escapes
// control characters.
const separator = 0x1e

// answerPoll writes frames as one payload.
func (s *Socket) answerPoll(w http.ResponseWriter, control *http.ResponseController, frames []Frame) error {
	parts := make([]Frame, 0, 2*len(frames))
	between, n := Frame{b: []byte{separator}}, 0
	for i, f := range frames {
		if i > 0 {
			parts = append(parts, between)
		}
		parts = append(parts, Frame{b: f.payload()})
	}
	for _, part := range parts {
		n += part.Len()
	}
	pollHeader(w, n)
	if err := s.writeFrames(pollOutlet{w, control}, parts); err != nil {
		return err
	}
	return control.Flush()
}

// pollOutlet is the answer to a poll.
type pollOutlet struct {
	io.Writer
	*http.ResponseController
}

// servePOST handles the packets of a payload and says "ok" when that is done: the
// client sends no more before. What is wrong with them closes the socket.
func (s *Socket) servePOST(w http.ResponseWriter, r *http.Request, connect func(*Socket) Handler) {
	control := http.NewResponseController(w)
	if !s.beginPost(control) {
		refuse(w, http.StatusBadRequest, badRequest)
		return
	}
	switch err := s.post(control, r, connect); {
	case err == nil, errors.Is(err, errPeerDone):
		answer(w, []byte("ok"))
	case errors.Is(err, errTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, handshakeError{Code: badRequest.Code, Message: err.Error()})
	case errors.Is(err, errEncoded):
		refuse(w, http.StatusUnsupportedMediaType, handshakeError{Code: badRequest.Code, Message: err.Error()})
	default:
		refuse(w, http.StatusBadRequest, handshakeError{Code: badRequest.Code, Message: err.Error()})
	}
}

func (s *Socket) beginPost(control *http.ResponseController) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.poll
	switch {
	case p.ended || s.conn != nil:
		return false
	case p.posting:
		s.abortLocked(errOverlap)
		return false
	}
	p.posting = true
	p.posts.Add(1)
	p.busy[control] = struct{}{}
	// There is no deadline of its own: the pong has to wait behind this payload, and in
	// time nothing else but its absence ends both.
	if s.closing {
		_ = control.SetReadDeadline(s.closeBy)
	}
	return true
}

// post reads and handles one payload. An error has closed the socket.
func (s *Socket) post(control *http.ResponseController, r *http.Request, connect func(*Socket) Handler) error {
	done := false
	defer func() {
		if !done { // the handler panicked
			s.abort("internal error")
		}
		s.mu.Lock()
		s.poll.posting = false
		s.mu.Unlock()
		s.poll.posts.Done()
	}()
	body, err := readPayload(r, s.config.MaxPayload)
	// Neither the handler nor the answer, which says what was wrong, is interrupted by
	// the session's end.
	s.mu.Lock()
	delete(s.poll.busy, control)
	s.mu.Unlock()
	if err == nil {
		_ = control.SetReadDeadline(time.Time{})
		for packet := range splitPayload(body) {
			if s.isClosing() {
				break
			}
			if err = s.handle(websocket.TextMessage, packet, connect); err != nil {
				break
			}
		}
	}
	if err != nil {
		s.close(closeCode(err), err.Error())
	}
	done = true
	return err
}

var (
	errTooLarge = errors.New("payload is too large")
	errEncoded  = errors.New("compressed payloads are not accepted: send them without Content-Encoding")
	errLost     = errors.New("payload could not be read to its end")
)

// readPayload reads a body of at most limit bytes.
func readPayload(r *http.Request, limit int) ([]byte, error) {
	switch encoding := r.Header.Get("Content-Encoding"); {
	case encoding != "" && encoding != "identity":
		return nil, errEncoded
	case r.Header.Get("Content-Type") == "application/octet-stream":
		return nil, errBinary
	case r.ContentLength > int64(limit):
		return nil, errTooLarge
	}
	// A length that is only announced takes no memory.
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, errLost
	case len(body) > limit:
		return nil, errTooLarge
	}
	return body, nil
}

// splitPayload yields the packets of a payload:
//
//	<packet>[0x1e<packet>]...
//
// A packet may be empty, which handle refuses. They are parts of b.
func splitPayload(b []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for more := true; more; {
			var packet []byte
			packet, b, more = bytes.Cut(b, []byte{separator})
			if !yield(packet[:len(packet):len(packet)]) {
				return
			}
		}
	}
}

// answerWithin is how long the client may take to read a short answer.
const answerWithin = 20 * time.Second

// answer gives a short answer. A lost one ends the connection, which the client sees;
// here it ends the session for want of a pong.
func answer(w http.ResponseWriter, text []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerWithin))
	pollHeader(w, len(text))
	_, _ = w.Write(text)
}

// pollHeader begins an answer of n bytes.
func pollHeader(w http.ResponseWriter, n int) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(n))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}
