// Package eventgrid is as much of the resource provider Microsoft.EventGrid as key
// vaults need: event subscriptions on a vault, with a webhook as destination, and the
// delivery of the vault's events to them. Receive is the other end: what a webhook does
// with what Event Grid, this one or Azure's, sends it.
//
// Invariants: an event is queued in the write of the change it is about, so it is
// delivered at least once, or counted as dropped; nothing is sent to a host that the
// operator did not allow, over anything but https, or to an address that is not public,
// but to a loopback host that was allowed as such; an endpoint gets events only after it
// has proved, by the validation handshake, that it wants them.
package eventgrid
