package store

import (
	"context"

	"github.com/tidelock/tidelock/internal/envelope"
)

// Walker is an engine that can show all that it keeps.
type Walker interface {
	// Walk hands over every value as it was at one moment: those of a document one after the
	// other, its headers before its records before its objects, each in order. An error of
	// visit ends it. What is handed over is valid during the call alone.
	Walk(ctx context.Context, visit func(Stored) error) error
}

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
)

// Stored is one value as it is stored, not yet parsed.
type Stored struct {
	Part     Part
	Row      RowKey                  // of a row
	Document envelope.DocumentHandle // of all parts of documents
	Name     envelope.Name           // of an object
	Value    []byte
}
