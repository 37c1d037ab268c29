// Package pebble is the embedded engine: log, objects and rows of all documents in
// one Pebble database.
//
// # Invariants
//
//   - A write returns after the fsync of the write-ahead log that holds it. Writes of
//     many documents that arrive together share one.
//   - Nothing is read before it is durable. Pebble alone shows a batch to readers
//     while its fsync is still under way; see latches.
//   - Term, head, record and header of an append are one batch.
//   - No lock is held across an fsync but that of the document or row written.
//   - Damage is an error of the call that meets it. Only when Pebble can no longer
//     say what is on disk does the process end; see logger.
//
// docs/formats/store.md draws every key and says what is in the clear.
package pebble
