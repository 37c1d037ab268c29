// Package keystore is the client of a key store: it describes a key, and has key
// material wrapped and unwrapped by it, over the Key Vault REST API, with typed
// refusals. It knows nothing of what the material is for.
//
// Key URLs are untrusted input to which tokens are sent: ParseURL is the only way
// to make one, and it admits registered hosts, https and exact paths only. No
// call is retried here and no redirect is followed: the schedule is the caller's.
package keystore
