// Package store is the contract between Tidelock and what keeps its bytes: a log
// of sealed records per document, sealed objects, and sealed rows. It takes and
// gives sealed values only, so no engine ever sees plaintext. storetest holds
// the contract as tests; pebble is the embedded engine, postgres the one for several machines.
package store
