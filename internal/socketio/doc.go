// Package socketio speaks Engine.IO 4 and Socket.IO 5 over WebSocket and over long
// polling: handshake, pings, events and acknowledgements on the default namespace. It
// knows nothing of what the events mean, and who uses it not over what they come.
//
// An outgoing event is encoded once, as a Frame, and may be sent to any number of
// sockets. Each socket has an outbound queue bounded in bytes; a socket that
// overflows it is closed, so that one slow reader costs the others nothing. (Only a
// frame that its sender calls Unbounded does not count.)
// Every incoming event that asks for an acknowledgement gets an empty one after
// its handler returned.
//
// A WebSocket has a goroutine that reads and calls the Handler; the request it came
// with is over. Another one lives while there is something to write, and is the only one
// to write data: it takes all that is queued and
// hands it to the connection in few large writes. Frames are therefore written to
// the net.Conn as whole WebSocket frames, past gorilla/websocket, which here only
// upgrades and reads. (When it refuses a frame it writes a close frame of its own;
// a net.Conn's Write is atomic, so that at worst lands inside a frame of more than
// writeChunk bytes, on a connection that is ending.)
//
// A session that polls has one goroutine, which pings and ends it; its requests do the
// rest. A GET takes what is queued, or waits; a POST calls the Handler before it is
// answered, so that there is one of each at most: a second ends the session. A payload
// is packets with 0x1e between them. A WebSocket may take over (upgrade.go): then the
// session goes on as one, with its queue, its Handler and its deadlines. The session id
// is the only right to a session, as the connection is for a WebSocket: it is random
// and must not be logged. Sessions that poll are bounded in number.
//
// What a peer sends is bounded by Config.MaxPayload before it is kept, must be UTF-8,
// and is refused with a close frame, or the answer to the POST, that says why. Binary
// attachments, compression (415) and namespaces other than "/" are not spoken.
//
// Sources: the Engine.IO 4 and Socket.IO 5 protocol documents (socketio/engine.io-protocol,
// socketio/socket.io-protocol), RFC 6455.
package socketio
