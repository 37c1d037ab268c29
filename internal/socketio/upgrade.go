package socketio

import (
	"crypto/fips140"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// upgradeWithin is how long a WebSocket may take to replace the polling.
const upgradeWithin = 10 * time.Second

// upgrade lets a WebSocket take over from polling, and then has it served:
//
//	client: 2probe            server: 3probe, and 6 to the poll that waits
//	client: 5, once no request of its is open
//
// A WebSocket that does not get that far is closed, and the polling goes on. The call
// counts in Server.running; it passes that on, or gives it back.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, socket *Socket, connect func(*Socket) Handler) {
	if !socket.beginProbe() {
		s.running.Done()
		refuse(w, http.StatusBadRequest, badRequest)
		return
	}
	ws, err := s.websocket(w, r, nil)
	if err == nil && socket.probe(ws) {
		go s.run(socket, connect)
		return
	}
	if err == nil { // or it has answered
		_ = ws.Close()
	}
	socket.endProbe()
	s.running.Done()
}

// websocket makes a connection a WebSocket. The handshake of RFC 6455 has SHA-1 in it,
// which protects nothing there and is allowed in FIPS mode for that.
func (s *Server) websocket(w http.ResponseWriter, r *http.Request, header http.Header) (ws *websocket.Conn, err error) {
	fips140.WithoutEnforcement(func() { ws, err = s.upgrader.Upgrade(w, r, header) })
	return ws, err
}

// beginProbe makes sure that one WebSocket at a time wants to take over.
func (s *Socket) beginProbe() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.poll
	if p.ended || p.goodbye || p.probing || s.conn != nil {
		return false
	}
	p.probing = true
	return true
}

func (s *Socket) endProbe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poll.probing, s.poll.probed = false, false
}

// probe says whether ws has taken over.
func (s *Socket) probe(ws *websocket.Conn) bool {
	conn := ws.NetConn()
	s.mu.Lock()
	if s.poll.ended {
		s.mu.Unlock()
		return false
	}
	ws.SetReadLimit(int64(len("2probe")))
	_ = conn.SetDeadline(time.Now().Add(upgradeWithin))
	if s.closing {
		_ = conn.SetDeadline(s.closeBy)
	}
	s.poll.busy[conn] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.poll.busy, conn)
		s.mu.Unlock()
	}()

	if !expect(ws, "2probe") {
		return false
	}
	s.mu.Lock()
	s.poll.probed = true
	s.poll.wake()
	s.mu.Unlock()
	if _, err := conn.Write(probeFrame.b); err != nil {
		return false
	}
	return expect(ws, "5") && s.takeOver(ws)
}

func expect(ws *websocket.Conn, text string) bool {
	opcode, b, err := ws.ReadMessage()
	return err == nil && opcode == websocket.TextMessage && string(b) == text
}

// takeOver makes ws what the socket speaks through.
func (s *Socket) takeOver(ws *websocket.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.poll
	switch {
	case p.ended || p.goodbye:
		return false
	case p.posting: // what comes through ws could overtake it
		s.abortLocked(errOverlap)
		return false
	}
	p.upgraded = true
	p.end()
	s.attachLocked(ws)
	_ = s.conn.SetDeadline(time.Time{})
	switch {
	case s.closing:
		_ = s.conn.SetDeadline(s.closeBy)
	case s.waiting:
		_ = s.conn.SetReadDeadline(p.pongBy)
	}
	s.poll.wake()  // a poll that still waits ends
	s.wakeLocked() // for what is queued
	return true
}
