// Package socketio speaks Engine.IO 4 and Socket.IO 5 over WebSocket: handshake,
// pings, events and acknowledgements on the default namespace. It knows nothing
// of what the events mean.
//
// An outgoing event is encoded once, as a Frame, and may be sent to any number of
// sockets. Each socket has an outbound queue bounded in bytes; a socket that
// overflows it is closed, so that one slow reader costs the others nothing.
// Every incoming event that asks for an acknowledgement gets an empty one after
// its handler returned.
package socketio
