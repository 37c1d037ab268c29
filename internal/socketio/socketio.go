package socketio

import (
	"encoding/json"
	"net/http"
	"time"
)

// Config of a server. Zero values take the defaults given.
type Config struct {
	PingInterval time.Duration // 25 s
	PingTimeout  time.Duration // 20 s
	MaxPayload   int           // bytes of one incoming frame; 1 000 000
	QueueBytes   int           // bound of a socket's outbound queue; 8 MiB
}

// Server serves sockets. It is safe for concurrent use.
type Server struct{ todo int }

// New returns a server.
func New(c Config) *Server { panic("todo") }

// Handler is told what happens on one socket. All calls come from one goroutine.
type Handler interface {
	// Event is called for each event; args are the raw JSON values after the name.
	Event(name string, args []json.RawMessage)
	// Closed is the last call, once, whatever ended the socket.
	Closed(reason string)
}

// Serve upgrades the request and runs the socket until it ends. connect is called
// once the default namespace is connected. A request that is no Engine.IO 4
// WebSocket handshake is answered with the protocol's error.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, connect func(*Socket) Handler) {
	panic("todo")
}

// Shutdown closes all sockets with reason and waits for their handlers.
func (s *Server) Shutdown(reason string) { panic("todo") }

// Frame is an encoded event. It is immutable and may be sent to many sockets.
type Frame struct{ b []byte }

// NewEvent encodes an event; args are raw JSON values.
func NewEvent(name string, args ...[]byte) Frame { panic("todo") }

// Len is the frame's size in bytes.
func (f Frame) Len() int { return len(f.b) }

// Socket is one client's connection.
type Socket struct{ todo int }

// ID is the socket's random id.
func (s *Socket) ID() string { panic("todo") }

// Send queues frames in order and never blocks. It returns false if the socket
// is closed, or was closed now because its queue overflowed.
func (s *Socket) Send(frames ...Frame) bool { panic("todo") }

// Close sends what is queued (within a second), then a disconnect, and closes.
// It does not wait. reason goes to Handler.Closed.
func (s *Socket) Close(reason string) { panic("todo") }
