// Package cluster lets several processes on one store be one relay: it knows which
// nodes there are, which of them serves which document, and tells all of them what
// one of them found out.
//
// A node is a running process. It writes a row, its beat, every BeatEvery. The others
// take it for dead when they have looked for Lease and seen no new beat; the node itself
// stops serving a margin earlier, counted from when it sent the last one that was
// written. Both sides count on their own monotonic clocks, so no two clocks must agree,
// not even with the database's. A node that was paused, or is cut off from the store,
// therefore has let go of its documents before another may take them.
//
// A document that is in use has a placement: the row that names its node. It is made by
// compare-and-set, and only when there is none or its node is dead. Where there is none,
// all nodes agree who should make it: each document ranks the nodes by a hash
// (rendezvous hashing), so that documents spread evenly, and those of a dead node over
// all that are left.
//
// Invariants: nothing here is needed for safety. The order of ops is kept by the log,
// which refuses a writer whose term is old (store.ErrFenced); a wrong placement costs a
// reload. No document is claimed from a node that could still be serving it. A node
// holds its lease only if it has heeded every notice posted before the beat that gave
// it.
//
// Notices are rows in a numbered list that every node reads every LookEvery. They say
// that something in the store changed, never what it is now: whoever heeds one reads
// the rows themselves. So they may come twice, and one that is missed for too long is
// made up for by reading everything again.
//
// The package knows no Fluid words, no keys and no HTTP. Formats at rest are in
// docs/formats/cluster.md.
package cluster
