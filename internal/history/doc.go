// Package history keeps what a document was: its summaries as git-like objects
// (blobs, trees, commits), its attachment blobs, and reading its ops. Every object
// is sealed under the document's key and named by a keyed hash, so one document's
// ids mean nothing in another.
//
// Invariants: a commit is visible only once its ack is in the log; an object is
// durable before an id of it is given out; a handle that does not resolve fails
// the upload. It knows nothing of HTTP, sockets or tokens.
package history
