// Package socketio speaks Engine.IO 4 and Socket.IO 5 over WebSocket: handshake,
// pings, events and acknowledgements on the default namespace. It knows nothing
// of what the events mean.
//
// An outgoing event is encoded once, as a Frame, and may be sent to any number of
// sockets. Each socket has an outbound queue bounded in bytes; a socket that
// overflows it is closed, so that one slow reader costs the others nothing. (Only a
// frame that its sender calls Unbounded does not count.)
// Every incoming event that asks for an acknowledgement gets an empty one after
// its handler returned.
//
// A socket has two goroutines. The one of the HTTP request reads and calls the
// Handler. The other is the only one to write data: it takes all that is queued and
// hands it to the connection in few large writes. Frames are therefore written to
// the net.Conn as whole WebSocket frames, past gorilla/websocket, which here only
// upgrades and reads. (When it refuses a frame it writes a close frame of its own;
// a net.Conn's Write is atomic, so that at worst lands inside a frame of more than
// writeChunk bytes, on a connection that is ending.)
//
// What a peer sends is bounded by Config.MaxPayload, must be UTF-8, and is refused
// with a close frame that says why. Polling, binary attachments, compression and
// namespaces other than "/" are not spoken.
//
// Sources: the Engine.IO 4 and Socket.IO 5 protocol documents (socketio/engine.io-protocol,
// socketio/socket.io-protocol), RFC 6455.
package socketio
