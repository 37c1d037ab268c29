package socketio

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Config of a server. Zero values take the defaults given.
type Config struct {
	PingInterval time.Duration // 25 s
	PingTimeout  time.Duration // 20 s; also of one write, to a peer that takes nothing
	MaxPayload   int           // bytes of one incoming frame, or payload of a POST; 1 000 000
	QueueBytes   int           // bound of a socket's outbound queue; 8 MiB
	Log          *slog.Logger  // of handlers that panic; slog.Default()
}

// Server serves sockets. It is safe for concurrent use.
type Server struct {
	config   Config
	upgrader websocket.Upgrader

	running sync.WaitGroup // calls of Serve

	mu       sync.Mutex
	sockets  map[*Socket]struct{}
	polling  map[string]*Socket // by session id, as long as they poll
	stopping string             // the reason of Shutdown
}

// New returns a server.
func New(c Config) *Server {
	return &Server{
		config: Config{
			PingInterval: cmp.Or(c.PingInterval, 25*time.Second),
			PingTimeout:  cmp.Or(c.PingTimeout, 20*time.Second),
			MaxPayload:   cmp.Or(c.MaxPayload, 1_000_000),
			QueueBytes:   cmp.Or(c.QueueBytes, 8<<20),
			Log:          cmp.Or(c.Log, slog.Default()),
		},
		upgrader: websocket.Upgrader{
			// Any origin: the right to connect is in the messages (tokens), and
			// nothing here depends on cookies.
			CheckOrigin: func(*http.Request) bool { return true },
			Error: func(w http.ResponseWriter, _ *http.Request, status int, _ error) {
				refuse(w, status, badRequest)
			},
			// Enough for most frames; a larger one is read past it.
			ReadBufferSize: 1 << 10,
			// A pool, so that the library keeps no write buffer: we write ourselves.
			WriteBufferPool: &sync.Pool{},
		},
		sockets: map[*Socket]struct{}{},
		polling: map[string]*Socket{},
	}
}

// Handler is told what happens on one socket. Its calls never overlap, and each sees
// what the one before did.
type Handler interface {
	// Event is called for each event; args are the raw JSON values after the name.
	// They are valid JSON in valid UTF-8 and may be kept.
	Event(name string, args []json.RawMessage)
	// Closed is the last call, once, whatever ended the socket.
	Closed(reason string)
}

// handshakeError is what Engine.IO answers to a request that is no handshake.
type handshakeError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	// Seconds: clients of what is built on sockets take a 503 without it for final.
	RetryAfter int `json:"retryAfter,omitempty"`
}

var (
	unknownTransport   = handshakeError{Code: 0, Message: "Transport unknown"}
	unknownSession     = handshakeError{Code: 1, Message: "Session ID unknown"}
	badMethod          = handshakeError{Code: 2, Message: "Bad handshake method"}
	badRequest         = handshakeError{Code: 3, Message: "Bad request"}
	unsupportedVersion = handshakeError{Code: 5, Message: "Unsupported protocol version"}
	tooManyPolling     = handshakeError{Code: 3, Message: "Too many sessions poll, or the server is shutting down", RetryAfter: 5}
	shuttingDown       = handshakeError{Code: 3, Message: "Server is shutting down", RetryAfter: 2}
)

func refuse(w http.ResponseWriter, status int, e handshakeError) {
	// Writers of tests have no deadlines; those of net/http always do. For reading, too: the
	// answer goes out once the server has looked for the body that nobody here read.
	control, by := http.NewResponseController(w), time.Now().Add(answerWithin)
	_ = control.SetReadDeadline(by)
	_ = control.SetWriteDeadline(by)
	w.Header().Set("Content-Type", "application/json")
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the peer is gone if it fails
}

// checkHandshake returns nil for a request that opens a session.
func checkHandshake(method string, query url.Values) *handshakeError {
	switch {
	case method != http.MethodGet:
		return &badMethod
	case query.Get("EIO") != "4":
		return &unsupportedVersion
	}
	return nil
}

// Serve answers one request. What it opened goes on after Serve returned, so that an
// idle WebSocket does not hold the request it came with. connect is called once the
// default namespace is connected. A request that is not of Engine.IO 4 is answered
// with the protocol's error.
//
// w must be an http.Hijacker for WebSockets, and an http.Flusher with deadlines for
// polling, as those of net/http are. Headers set on it are sent with the
// answer.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, connect func(*Socket) Handler) {
	if r.Method == http.MethodGet && r.ContentLength != 0 { // to wait for
		refuse(w, http.StatusBadRequest, badRequest)
		return
	}
	query := r.URL.Query()
	transport := query.Get("transport")
	if transport != "websocket" && transport != "polling" {
		refuse(w, http.StatusBadRequest, unknownTransport)
		return
	}
	if query.Has("sid") {
		s.resume(w, r, transport, connect)
		return
	}
	if e := checkHandshake(r.Method, query); e != nil {
		refuse(w, http.StatusBadRequest, *e)
		return
	}
	if transport == "polling" {
		s.openPolling(w)
		return
	}
	s.mu.Lock()
	if s.stopping != "" {
		s.mu.Unlock()
		refuse(w, http.StatusServiceUnavailable, shuttingDown)
		return
	}
	s.running.Add(1)
	s.mu.Unlock()

	ws, err := s.websocket(w, r, w.Header())
	if err != nil {
		s.running.Done()
		return // it has answered
	}
	socket := newSocket(s.config)
	socket.attach(ws)
	s.mu.Lock()
	s.sockets[socket] = struct{}{}
	if s.stopping != "" {
		socket.Close(s.stopping)
	}
	s.mu.Unlock()
	socket.Send(socket.openFrame(newID(), []string{}))
	go s.run(socket, connect)
}

// run serves a socket over its WebSocket until it ends. A handler that panics ends its
// socket and no other.
func (s *Server) run(socket *Socket, connect func(*Socket) Handler) {
	defer s.running.Done()
	defer s.forget(socket)
	defer func() {
		if v := recover(); v != nil {
			s.config.Log.Error("socket handler panicked", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	socket.run(connect)
}

// openPolling opens a session that polls.
func (s *Server) openPolling(w http.ResponseWriter) {
	socket, sid := newPolling(s.config), newID()
	s.mu.Lock()
	if s.stopping != "" || len(s.polling) >= maxPolling {
		s.mu.Unlock()
		refuse(w, http.StatusServiceUnavailable, tooManyPolling)
		return
	}
	s.sockets[socket], s.polling[sid] = struct{}{}, socket
	s.running.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.running.Done()
		upgraded := socket.keep()
		s.mu.Lock()
		delete(s.polling, sid)
		s.mu.Unlock()
		if !upgraded {
			s.forget(socket)
		}
	}()
	answer(w, socket.openFrame(sid, []string{"websocket"}).payload())
}

// resume serves a request of a session that polls.
func (s *Server) resume(w http.ResponseWriter, r *http.Request, transport string, connect func(*Socket) Handler) {
	s.mu.Lock()
	socket := s.polling[r.URL.Query().Get("sid")]
	if socket != nil {
		s.running.Add(1) // beside the session's own: Shutdown cannot have seen the last yet
	}
	s.mu.Unlock()
	if socket == nil {
		refuse(w, http.StatusBadRequest, unknownSession)
		return
	}
	if transport == "websocket" {
		s.upgrade(w, r, socket, connect)
		return
	}
	defer s.running.Done()
	switch {
	case r.Method == http.MethodGet:
		socket.serveGET(w, r)
	case r.Method == http.MethodPost:
		socket.servePOST(w, r, connect)
	default:
		refuse(w, http.StatusBadRequest, badRequest)
	}
}

// forget is called when socket has ended.
func (s *Server) forget(socket *Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, socket)
}

// Shutdown closes all sockets with reason and waits for their handlers. Later
// handshakes are refused.
func (s *Server) Shutdown(reason string) {
	s.mu.Lock()
	s.stopping = cmp.Or(s.stopping, reason, "shutdown")
	for socket := range s.sockets {
		socket.Close(s.stopping)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// newID returns an unguessable socket or session id.
func newID() string { return rand.Text() }
