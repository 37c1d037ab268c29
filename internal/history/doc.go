// Package history keeps what a document was: its summaries as git-like objects
// (blobs, trees, commits), its attachment blobs, and reading its ops. Every object
// is sealed under the document's key and named by a keyed hash, so one document's
// ids mean nothing in another.
//
// Invariants: a client's commit is visible only once its ack is in the log; an object is
// durable before an id of it is given out; a handle that does not resolve fails
// the upload; what a summary holds in all (bytes, entries, depth) is bounded
// however often it refers to parts of earlier ones. It knows nothing of HTTP,
// sockets or tokens.
//
// Where things are: object.go has the objects and their ids; upload.go takes a
// summary in (upload_git.go object by object, as the local dialect does), download.go
// gives one out; judge.go decides about summarize ops with the help of protocol.go,
// which replays the quorum; service.go makes the service's own versions; ops.go reads the log; state.go follows it.
// docs/formats/history.md has every field, and the two layouts of a version.
//
// The rules are those of the Fluid reference service (gitrest, historian and the
// "scribe" lambda of microsoft/FluidFramework).
package history
