// Package relay is the Fluid service: its REST and socket faces, the documents
// and sessions behind them, and the tokens that open them.
//
// Invariants: no client is sent a sequenced op before it is durable; one goroutine
// owns a document and is the only one to order its ops; a slow client costs the
// others nothing; every request carries a token of the tenant it names; the
// store's answers decide, never timing: after a failed or fenced append the
// document is dropped and read anew.
//
// Where things are: server.go wires; routes.go is the attack surface on one
// screen; restless.go unwraps the driver's framing; token.go checks tokens,
// revocation.go ends them early; rest_documents.go, rest_storage.go answer;
// document.go is the goroutine; summaries.go has summaries decided on, retention.go
// drops old ops; documents.go finds, creates and drops documents; cluster.go passes on
// what another node serves; migrate.go takes those of other services; containers.go
// shows them to their operator; session.go is one client; socket.go speaks connect_document and its
// kin; limits.go has rates and sizes; codes.go has every nack and error code with
// what the client does on it.
package relay
