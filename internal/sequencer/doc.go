// Package sequencer holds the total order of one document as a pure state
// machine: no clock, no I/O, no goroutine. Its caller feeds it joins, leaves and
// ops with the time, makes what comes out durable, and only then shows it.
//
// Invariants: sequence numbers rise by one; the minimum sequence number never
// falls and never passes the reference sequence number of a write client; the
// ops of one client appear in the order of their client sequence numbers, none
// twice; a refused op changes nothing but what the rules of nacks say.
// Replaying the emitted ops over an earlier State gives the same state.
//
// It knows nothing of sockets, summaries or storage. Its rules are those of the
// Fluid reference service's sequencer ("deli").
package sequencer
