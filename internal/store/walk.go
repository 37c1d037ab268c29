package store

import "github.com/tidelock/tidelock/internal/envelope"

// Part says what a stored value is.
type Part byte

// The parts of a store.
const (
	PartRow     Part = iota + 1
	PartHeader       // of a segment
	PartRecord       // of a log
	PartObject       // of a document
	PartState        // of a log: numbers
	PartUnknown      // nothing that an engine keeps
	PartLoose        // in an object store, and of no object: being written, or to be removed
)

// Stored is one value as it is stored, not yet parsed.
type Stored struct {
	Part     Part
	Row      RowKey                  // of a row
	Document envelope.DocumentHandle // of all parts of documents
	Name     envelope.Name           // of an object
	Value    []byte
}
