// Package cli is the command line's side that speaks the public API alone: the
// management plane and the vaults over TLS, as any other client would. What it can
// do, a script with the same credentials can do.
package cli
