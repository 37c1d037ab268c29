// Package custody keeps the life of keys: the root key of each relay resource,
// wrapped by its owner's key in a key store; the key of each document; and the
// leases under which they may be used. When the key store refuses, the keys are
// wiped and nothing opens or seals any more; when it agrees again, they are back.
//
// Invariants: a root key is used only until its last proof (a successful unwrap)
// plus Lease, or, when the key store does not answer, plus the grace, and never past the
// expiry of the key that wraps it; a lease that ran out is never extended; no wrap
// record is replaced before its successor was unwrapped and compared; keys never
// leave this package and package envelope.
//
// How a key is watched. All resources whose root keys are under the same key version,
// used as the same identity, share a watch: one goroutine that asks the key store
// every ProbeEvery to describe the key and to unwrap one of the wrap records. What it
// learns decides:
//
//	         proof                        refusal
//	Healthy ◄──────── any state    any ──────────► Suspect ─── confirmed ──► Unusable
//	   │                                              ▲                          ▲
//	   │ no answer                            refusal │                          │
//	   └────────────► Unreachable ────────────────────┘                          │
//	                       └──────────── last proof + grace ─────────────────────┘
//
// A refusal is confirmed after ConfirmAfter, so that one wrong answer does not take
// data off line; an expired key needs no confirmation. Once the key store has refused,
// silence does not help any more: the lease runs out.
//
// Formats on disk are in docs/formats/custody.md. The package knows nothing of ops,
// HTTP or Azure resources.
package custody
