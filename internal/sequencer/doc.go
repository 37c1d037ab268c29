// Package sequencer holds the total order of one document as a pure state
// machine: no clock, no I/O, no goroutine. Its caller feeds it joins, leaves and
// ops with the time, makes what comes out durable, and only then shows it.
//
// Invariants: sequence numbers rise by one; the minimum sequence number never
// falls and never passes the reference sequence number of a write client; the
// ops of one client appear in the order of their client sequence numbers, none
// twice; timestamps never fall; a refused op changes nothing but what the rules
// of nacks say.
//
// # Replay
//
// Applying the emitted ops, in order, to an earlier State gives the sequence
// number, the sent minimum sequence number, the timestamp and the set of write
// clients exactly as they were. What left no op behind cannot come back:
//
//   - the csn, rsn and time of client noops that got no sequence number. A client's
//     csn may therefore be too low after replay, and its rsn is the one of its
//     last sequenced op, raised to the minimum sequence number where that is higher;
//   - a minimum sequence number that such noops had raised and no op had carried yet:
//     after replay MSN is LastSentMSN, and the noop that would have carried it is
//     not pending;
//   - that a client was nacked for its reference sequence number. It is admitted again;
//   - CanSummarize where it differs from what the scopes of the client's Detail say.
//
// None of it was ever shown to a client as part of the order, and all of it is about
// clients that were connected to the process that died. So whoever replays must call
// Leave for every recovered client before it admits anyone: the ids are never used
// again, their lost state with them, and the last Leave sets the minimum sequence
// number to the head. A client that comes back does so under a new id, after it has
// caught up, and submits again what it has not seen sequenced.
//
// The package knows nothing of sockets, summaries or storage. Its rules are those
// of the Fluid reference service's sequencer ("deli", server/routerlicious in
// microsoft/FluidFramework), but for two. An op whose reference sequence number
// lies above the head is refused: it would raise the minimum above what others have
// seen. And an op that says "now" (rsn -1) gets the head before it as its reference
// sequence number, not its own sequence number.
package sequencer
