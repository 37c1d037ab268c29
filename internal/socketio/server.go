package socketio

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Config of a server. Zero values take the defaults given.
type Config struct {
	PingInterval time.Duration // 25 s
	PingTimeout  time.Duration // 20 s; also of one write, to a peer that takes nothing
	MaxPayload   int           // bytes of one incoming frame; 1 000 000
	QueueBytes   int           // bound of a socket's outbound queue; 8 MiB
}

// Server serves sockets. It is safe for concurrent use.
type Server struct {
	config   Config
	upgrader websocket.Upgrader

	running sync.WaitGroup // calls of Serve

	mu       sync.Mutex
	sockets  map[*Socket]struct{}
	stopping string // the reason of Shutdown
}

// New returns a server.
func New(c Config) *Server {
	return &Server{
		config: Config{
			PingInterval: cmp.Or(c.PingInterval, 25*time.Second),
			PingTimeout:  cmp.Or(c.PingTimeout, 20*time.Second),
			MaxPayload:   cmp.Or(c.MaxPayload, 1_000_000),
			QueueBytes:   cmp.Or(c.QueueBytes, 8<<20),
		},
		upgrader: websocket.Upgrader{
			// Any origin: the right to connect is in the messages (tokens), and
			// nothing here depends on cookies.
			CheckOrigin: func(*http.Request) bool { return true },
			Error: func(w http.ResponseWriter, _ *http.Request, status int, _ error) {
				refuse(w, status, badRequest)
			},
			// A pool, so that the library keeps no write buffer: we write ourselves.
			WriteBufferPool: &sync.Pool{},
		},
		sockets: map[*Socket]struct{}{},
	}
}

// Handler is told what happens on one socket. All calls come from one goroutine.
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
	shuttingDown       = handshakeError{Code: 3, Message: "Server is shutting down", RetryAfter: 2}
)

func refuse(w http.ResponseWriter, status int, e handshakeError) {
	w.Header().Set("Content-Type", "application/json")
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the peer is gone if it fails
}

// checkHandshake returns nil for a handshake that may be upgraded.
func checkHandshake(r *http.Request) *handshakeError {
	query := r.URL.Query()
	switch {
	case query.Get("transport") != "websocket":
		return &unknownTransport
	case query.Has("sid"): // an upgrade of a polling session, of which there are none
		return &unknownSession
	case r.Method != http.MethodGet:
		return &badMethod
	case query.Get("EIO") != "4":
		return &unsupportedVersion
	}
	return nil
}

// Serve upgrades the request and runs the socket until it ends. connect is called
// once the default namespace is connected. A request that is no Engine.IO 4
// WebSocket handshake is answered with the protocol's error.
//
// w must be an http.Hijacker; headers set on it are sent with the answer.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, connect func(*Socket) Handler) {
	if e := checkHandshake(r); e != nil {
		refuse(w, http.StatusBadRequest, *e)
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
	defer s.running.Done()

	ws, err := s.upgrader.Upgrade(w, r, w.Header())
	if err != nil {
		return // it has answered
	}
	socket := newSocket(ws, s.config)
	s.mu.Lock()
	s.sockets[socket] = struct{}{}
	if s.stopping != "" {
		socket.Close(s.stopping)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.sockets, socket)
		s.mu.Unlock()
	}()
	socket.run(connect)
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
