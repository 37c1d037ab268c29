// Package bench drives a Fluid service over the protocol that real clients speak,
// to measure it and to watch it: it knows nothing of this repository's server and
// can be pointed at any other, Tinylicious among them.
//
// endpoint.go creates documents, signs tokens and reads deltas over REST; client.go
// is one client of one document over a socket; run.go makes many of them write and
// read, and report.go says how it went.
//
// A Client holds the service to its promise. The ops that one client sees must have
// sequence numbers that rise by one, within a connection and from one connection to
// the next; anything else is an error of kind Order.
package bench
