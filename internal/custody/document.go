package custody

import (
	"context"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Document is the right to seal and open what belongs to one document, for as
// long as its resource's lease holds. Its methods return *UnusableError once the
// lease is lost; the Document never comes back then: open another one. It is
// safe for concurrent use.
type Document struct{ todo int }

// NewDocument makes handle and key of a new document. The document exists once
// the returned write was made, in one with the caller's own.
func (k *Keeper) NewDocument(ctx context.Context, r envelope.ResourceID) (*Document, store.RowWrite, error) {
	panic("todo")
}

// OpenDocument opens the key of an existing document; store.ErrNotFound if it was
// destroyed.
func (k *Keeper) OpenDocument(ctx context.Context, r envelope.ResourceID, h envelope.DocumentHandle) (*Document, error) {
	panic("todo")
}

// DestroyDocument returns the write that destroys the document's key; it needs no
// key store.
func (k *Keeper) DestroyDocument(r envelope.ResourceID, h envelope.DocumentHandle) store.RowWrite {
	panic("todo")
}

// Handle is the document's name in stores.
func (d *Document) Handle() envelope.DocumentHandle { panic("todo") }

// Done is closed when the lease is lost or the key destroyed; Err then says why.
func (d *Document) Done() <-chan struct{} { panic("todo") }

// Err is nil while the lease holds, then an *UnusableError, or store.ErrNotFound
// when the key was destroyed.
func (d *Document) Err() error { panic("todo") }

// Close gives the Document back; its keys are wiped.
func (d *Document) Close() { panic("todo") }

// Batch is an opened record: the ops First..Last as they were sealed.
type Batch struct {
	First, Last uint64
	Plaintext   []byte
}

// Tail is where a log ends; only OpenRecords makes one. The zero Tail is that of
// an empty log.
type Tail struct {
	chain   envelope.Chain
	records uint64
}

// OpenRecords opens a run of records, checking the chain through all of them. Tail
// is the end of the run. store.ErrCorrupt (wrapped) if anything does not open.
func (d *Document) OpenRecords(r store.Range) ([]Batch, Tail, error) { panic("todo") }

// Writer seals the records of one claim, in order, and starts new segments as
// their bounds demand. It is not safe for concurrent use.
type Writer struct{ todo int }

// NewWriter returns a writer for a claim; tail is the end of the log at c.Head.
func (d *Document) NewWriter(c store.Claim, tail Tail) *Writer { panic("todo") }

// Seal seals the ops first..last, which follow the last ones sealed, and returns
// the append that stores them. After a failed append the writer must be dropped.
func (w *Writer) Seal(first, last uint64, plaintext []byte) (store.Append, error) { panic("todo") }

// SealObject seals a checkpoint or git object under the name that kind and id give.
func (d *Document) SealObject(kind envelope.Kind, id string, plaintext []byte) (store.Object, error) {
	panic("todo")
}

// OpenObject opens what SealObject made for the same kind and id; store.ErrCorrupt
// (wrapped) if it does not open.
func (d *Document) OpenObject(kind envelope.Kind, id string, s envelope.Sealed) ([]byte, error) {
	panic("todo")
}

// Name is the name under which SealObject keeps kind and id.
func (d *Document) Name(kind envelope.Kind, id string) envelope.Name { panic("todo") }
