// Package custody keeps the life of keys: the root key of each relay resource,
// wrapped by its owner's key in a key store; the key of each document; and the
// leases under which they may be used. When the key store refuses, the keys are
// wiped and nothing opens or seals any more; when it agrees again, they are back.
//
// Invariants: a root key is used only until its last proof (a successful unwrap)
// plus Lease, or, when the key store does not answer, plus Grace; no wrap record
// is overwritten before its successor was unwrapped and compared; keys never
// leave this package and package envelope.
//
// It knows nothing of ops, HTTP or Azure resources.
package custody
