package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidelock/tidelock/internal/envelope"
)

var (
	// ErrNotFound: there is no such row, object or document.
	ErrNotFound = errors.New("store: not found")
	// ErrFenced: a writer with a higher term owns the document, or the head is not
	// the expected one; nothing was written. Drop the document, do not retry.
	ErrFenced = errors.New("store: fenced by another writer")
	// ErrConflict: a row was not at the revision the write expected; nothing was written.
	ErrConflict = errors.New("store: row changed meanwhile")
	// ErrCorrupt: what is stored is not in a known sealed format, or records are missing.
	ErrCorrupt = errors.New("store: stored value is damaged")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store: closed")
)

// Store is everything an engine offers. All methods are safe for concurrent use.
// An error other than the sentinels above leaves the outcome of a write unknown:
// the caller reads before it goes on.
//
// What a read returns is durable: it waits for a write of the same thing that is
// under way, for what a client was shown must not be gone after a power cut.
// A context that ends stops a call before it writes, never in between.
type Store interface {
	Log
	Objects
	Rows

	// DeleteDocument removes log and objects of a document, durably. Idempotent.
	// Who held the log is fenced, and claims go on above the terms there were: only
	// the last term outlives the document.
	DeleteDocument(ctx context.Context, doc envelope.DocumentHandle) error

	// ScanRows returns rows of all tables, in an order of the engine's own that does not
	// change: those after the given key (zero: from the start), at most limit (> 0).
	ScanRows(ctx context.Context, after RowKey, limit int) ([]Row, error)

	// ResealRows gives rows another sealing of what they hold, durably, and says how many:
	// each keeps its revision, and one whose value is not Old any more stays as it is.
	// They are written one by one or together, as the engine likes.
	ResealRows(ctx context.Context, rows []Resealed) (int, error)

	// Writable says whether appends are taken now: nil, or why not. It is cheap and
	// writes nothing, so it may be asked often, and a write may fail all the same.
	Writable(ctx context.Context) error

	// Walk hands over every value as it was at one moment: those of a document one after
	// the other, its headers before its records before its objects, each in order. An
	// error of visit ends it. What is handed over is valid during the call alone. Who
	// closes the store ends the walk before.
	Walk(ctx context.Context, visit func(Stored) error) error

	Close() error
}

// Log keeps one append-only log of sealed records per document.
type Log interface {
	// Claim makes the caller the document's only writer: its term is higher than
	// every one before, durably, and appends of older terms get ErrFenced. A
	// document without records has head 0.
	Claim(ctx context.Context, doc envelope.DocumentHandle) (Claim, error)

	// Append makes a.Record durable (fsynced) before it returns. ErrFenced if
	// a.Term is not the current one or a.ExpectedHead is not the head; an error
	// from a.Check, and nothing written, if a is malformed. After any other error
	// the record may or may not be there.
	Append(ctx context.Context, a Append) error

	// Read returns the records that hold any of the sequence numbers from..to
	// (inclusive), in order and without a gap, and the headers of their segments.
	// It stops early once maxBytes (> 0) of records are collected, never before
	// the first record. A missing record inside the known log is ErrCorrupt; ops
	// before the record that Begins the log are not missing: there never were any.
	Read(ctx context.Context, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (Range, error)

	// Trim durably drops the records that hold only ops below below, and the headers
	// of segments of which no record is left; never the last record, whose chain the
	// next one follows. ErrFenced if term is not the current one. Idempotent. The
	// log does not know how far it was trimmed: to Read, what was dropped is missing.
	// Whoever trims keeps, sealed, from where on the log is whole, and asks for no op
	// before that; so a front that somebody else cut off is found out.
	Trim(ctx context.Context, doc envelope.DocumentHandle, term, below uint64) error
}

// Claim is the right to append to a document.
type Claim struct {
	Term uint64 // from 1
	Head uint64 // sequence number of the last op; 0 when there is none
}

// Append is one record for the end of a log.
type Append struct {
	Document     envelope.DocumentHandle
	Term         uint64
	ExpectedHead uint64           // 0 for a log without records, which may begin at any op
	Header       *envelope.Header // set when Record is the first of its segment
	Record       envelope.Record
}

// Check says what makes a unfit for any log; nil is fit. It needs no key: that the
// record is what it says it is comes out when it is opened.
func (a Append) Check() error {
	first, last, index := a.Record.FirstSeq(), a.Record.LastSeq(), a.Record.Index()
	switch {
	case first != a.ExpectedHead+1 && a.ExpectedHead != 0, first == 0, last < first:
		return fmt.Errorf("store: a record of %d..%d does not follow %d", first, last, a.ExpectedHead)
	case a.Header == nil && (index == 0 || a.ExpectedHead == 0):
		return fmt.Errorf("store: the record of %d begins a segment and comes without its header", first)
	case a.Header == nil:
		return nil
	}
	place := a.Header.Place()
	if index != 0 || place.FirstSeq != first || place.Term != a.Term || place.Document != a.Document {
		return fmt.Errorf("store: the header with the record of %d is of another place", first)
	}
	if a.ExpectedHead == 0 && !Begins(*a.Header, a.Record) {
		return fmt.Errorf("store: the record of %d begins a log and follows another one", first)
	}
	return nil
}

// Begins says whether rec, of the segment of h, is the first record of a log: nothing
// was sealed before it. It tells a log that begins at a later op than 1, as that of a
// document from elsewhere, from one whose beginning is lost. Only opening h and rec
// proves it.
func Begins(h envelope.Header, rec envelope.Record) bool {
	place := h.Place()
	return rec.Index() == 0 && rec.FirstSeq() == place.FirstSeq && place.Prev == envelope.Chain{} && place.PrevRecords == 0
}

// Range is a run of consecutive records. Record i belongs to the last header
// whose Place().FirstSeq is not above the record's FirstSeq.
type Range struct {
	Headers []envelope.Header
	Records []envelope.Record
	Head    uint64 // the log's head when it was read
}

// Objects keeps the sealed objects of a document: blobs, trees, commits, checkpoints.
type Objects interface {
	// PutObjects makes all of them durable, or none. An existing name is replaced.
	PutObjects(ctx context.Context, doc envelope.DocumentHandle, objects []Object) error
	// GetObject returns ErrNotFound for an unknown name.
	GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (envelope.Sealed, error)
	// HasObject is GetObject without the bytes.
	HasObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (bool, error)
}

// Object is a sealed object and the name it is kept under.
type Object struct {
	Name  envelope.Name
	Value envelope.Sealed
}

// Table is a kind of row; a few lower-case letters and hyphens.
type Table string

// Rows keeps small sealed rows of management data.
type Rows interface {
	GetRow(ctx context.Context, key RowKey) (Row, error)
	// ListRows returns rows of one partition in order of name, those after the
	// given name (zero: from the start), at most limit (> 0).
	ListRows(ctx context.Context, table Table, partition envelope.Name, after envelope.Name, limit int) ([]Row, error)
	// WriteRows applies all writes durably, or none: ErrConflict if any row is not
	// at its expected revision, an error of CheckWrites if a row is there twice.
	WriteRows(ctx context.Context, writes []RowWrite) error
}

// RowKey says where a row is.
type RowKey struct {
	Table     Table
	Partition envelope.Name // the zero name is a partition too
	Name      envelope.Name
}

// Row is a stored row. Revision is 1 for a new row and grows by one with each
// write; a row deleted and made again starts at 1.
type Row struct {
	RowKey
	Value    envelope.Sealed
	Revision uint64
}

// Resealed is a row whose value was sealed anew. Values are compared, not revisions: a row
// that was deleted and made again meanwhile must not get back what it held.
type Resealed struct {
	RowKey
	Old, New envelope.Sealed
}

// RowWrite puts or deletes one row.
type RowWrite struct {
	RowKey
	Value  *envelope.Sealed // nil deletes; deleting what is not there is fine when Expect allows it
	Expect Expect
}

// CheckWrites refuses writes that name a row twice: which of two revisions the
// second one would expect, nobody could say.
func CheckWrites(writes []RowWrite) error {
	seen := make(map[RowKey]bool, len(writes))
	for _, w := range writes {
		if seen[w.RowKey] {
			return fmt.Errorf("store: a row of table %s is written twice at once", w.Table)
		}
		seen[w.RowKey] = true
	}
	return nil
}

// Expect is what a write expects to find.
type Expect struct {
	mode     uint8
	revision uint64
}

// The three expectations.
var (
	Anything = Expect{}        // whatever is there
	Absent   = Expect{mode: 1} // no row
)

// AtRevision expects the row at exactly this revision.
func AtRevision(r uint64) Expect { return Expect{mode: 2, revision: r} }

// Met says whether a row at revision (0: no row) meets the expectation.
func (e Expect) Met(revision uint64) bool {
	switch e.mode {
	case 0:
		return true
	case 1:
		return revision == 0
	default:
		return revision != 0 && revision == e.revision
	}
}

// Revision is the one of AtRevision.
func (e Expect) Revision() (r uint64, exact bool) { return e.revision, e.mode == 2 }
