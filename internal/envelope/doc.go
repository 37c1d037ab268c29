// Package envelope holds the sealed formats: what every byte at rest looks like,
// and the only code that seals and opens. It imports the standard library alone,
// and knows nothing of key stores, leases, ops or storage engines.
//
// # Constructions
//
// Everything is AES-256-GCM with a random nonce under a key of its own, made by
// HKDF-SHA-256 from a long-lived key, a fresh 16 byte salt and the header (see
// derive). Numbers are big endian, on disk and frozen: format 1, suite 1.
//
//	every header:  magic "TDLK" 4 | format 1 | suite 1 | kind 1 | flags 1 | facts of the kind | salt 16 | commitment 16
//
//	kind             under         facts                                                     then
//	1 ops            DocumentKey   place 44, term 8, first seq 8, prev 32, prev records 8    records
//	2 checkpoint     DocumentKey   place 44, length 8                                        chunks
//	3 object         DocumentKey   place 44, length 8                                        chunks
//	4 row            ServiceKey    –                                                         a box
//	5 document key   RootKey       place 44                                                  a box
//	6 key            ServiceKey    –                                                         a box
//	7 next root key  RootKey       –                                                         a box
//	8 wrapped root   RetentionKey  –                                                         a box
//	9 anchor         DocumentKey   place 44, term 8, seq 8, chain 32, counter 8              a MAC (no salt or commitment)
//
//	place:         resource 16 | document 16 | key id 8 | root epoch 4
//	box, chunk:    nonce 12 | ciphertext | tag 16
//	record:        length 4 | index 8 | first seq 8 | last seq 8 | prev link 32 | nonce 12 | ciphertext | tag 16
//
// # Invariants
//
//   - A Sealed, Header or Record that is not zero was sealed here or has passed a
//     parser, so an interface that takes one cannot be handed plaintext by mistake.
//   - A value opens only under its key, at its place, under its name, in its order:
//     all of that is in the associated data, length-prefixed.
//   - No key seals more than MaxSegmentRecords times.
//   - Whatever does not open is ErrOpen, and what is not in a known format ErrFormat;
//     nothing that was stored can cause a panic or an allocation beyond its own size.
//   - Keys print as [redacted]; a wiped key seals and opens nothing.
//
// docs/formats/sealed.md draws every byte and gives the reason of every number.
// Sources: NIST SP 800-38D (GCM, section 8.3 on random nonces), RFC 5869 (HKDF),
// RFC 2104 (HMAC), FIPS 180-4 (SHA-256).
package envelope
