package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

var (
	// ErrNotFound: no such blob, tree, commit or version in this document.
	ErrNotFound = errors.New("history: not found")
	// ErrBadSummary: an upload that cannot be stored; the wrapping error says why.
	ErrBadSummary = errors.New("history: bad summary")
)

// The limits of a document. Bytes are Azure Fluid Relay's published limits, and may
// be set otherwise (Limits); the others stop a summary of few bytes from unfolding into one of many.
const (
	MaxUploadBytes   = 28 << 20 // of the contents in one upload, or of one attachment blob
	MaxDocumentBytes = 95 << 20 // of all blobs of a summary, each counted where it is
	MaxEntries       = 100_000  // of a summary: trees and blobs
	MaxDepth         = 64       // of its trees
	MaxNameBytes     = 512      // of one path segment, decoded
	MaxLogTailOps    = 2000     // carried in a summary; loaders fetch the rest
	maxLogTailBytes  = 2 << 20
	maxCommits       = 1000 // listed at once
)

// MaxFirstSequenceNumber bounds where a document may begin: clients count in doubles,
// which are exact up to 2^53, so this leaves as many ops as were before.
const MaxFirstSequenceNumber sequencer.Seq = 1 << 52

// TrimmedError says that ops were asked for which are no longer kept: those up to To.
type TrimmedError struct{ To sequencer.Seq }

func (e *TrimmedError) Error() string {
	return fmt.Sprintf("history: the ops up to %d are no longer kept", e.To)
}

// Document is the history of one document. It is safe for concurrent use.
type Document struct {
	keys   keys
	st     store.Store
	limits Limits

	reading sync.RWMutex // held for reading while a page of the log is read; guards trimmed
	trimmed sequencer.Seq

	mu     sync.Mutex
	stored chan struct{} // closed by the next write; nil while nobody waits for it
	shared map[string]*sharedBlob
}

// Limits are the sizes that a document is held to when something is stored; what
// is stored already stays readable. A zero field takes the default given.
type Limits struct {
	UploadBytes   int64 // MaxUploadBytes
	DocumentBytes int64 // MaxDocumentBytes
}

// keys is what history needs of *custody.Document.
type keys interface {
	Err() error
	Handle() envelope.DocumentHandle
	Name(kind envelope.Kind, id string) envelope.Name
	SealObject(kind envelope.Kind, id string, plaintext []byte) (store.Object, error)
	OpenObject(kind envelope.Kind, id string, s envelope.Sealed) ([]byte, error)
	OpenRecords(r store.Range) ([]custody.Batch, custody.Tail, error)
}

// New returns the history of the document whose keys these are.
func New(keys *custody.Document, st store.Store) *Document {
	return (&Document{keys: keys, st: st}).WithLimits(Limits{})
}

// WithLimits puts the document under other limits, before it is used, and returns it.
func (d *Document) WithLimits(l Limits) *Document {
	d.limits = Limits{
		UploadBytes:   cmp.Or(l.UploadBytes, MaxUploadBytes),
		DocumentBytes: cmp.Or(l.DocumentBytes, MaxDocumentBytes),
	}
	return d
}

// Initial is what a document is created with.
type Initial struct {
	Summary        json.RawMessage // .app content, in the 2.x or the 1.x format
	SequenceNumber sequencer.Seq   // of the last op that the summary holds; the document's own begin after it
	Values         json.RawMessage // quorum values: [[key, value], ...]
	AnyBinary      bool            // the 2.x format: enableAnyBinaryBlobOnFirstSummary
	Flat           bool            // the layout of the local dialect, for this and all later versions
}

// Create stores the first summary, durably, and returns its commit id.
// ErrBadSummary (wrapped).
func (d *Document) Create(ctx context.Context, in Initial) (commit string, err error) {
	if in.SequenceNumber < 0 || in.SequenceNumber > MaxFirstSequenceNumber {
		return "", fmt.Errorf("%w: sequenceNumber %d is not from 0 to %d", ErrBadSummary, in.SequenceNumber, MaxFirstSequenceNumber)
	}
	p, err := newProtocol(in.Values, in.SequenceNumber)
	if err != nil {
		return "", err
	}
	b := d.newBatch()
	var app entry
	if in.AnyBinary {
		app, err = b.addWholeTree(ctx, in.Summary)
	} else {
		app, err = b.addClassicTree(ctx, in.Summary)
	}
	if err != nil {
		return "", err
	}
	protocol, err := b.addProtocol(ctx, p)
	if err != nil {
		return "", err
	}
	root, err := b.addRoot(ctx, in.Flat, app, protocol.as(protocolName))
	if err != nil {
		return "", err
	}
	c := version{Tree: root.ID, Message: "New document", Date: time.Now().UnixMilli(), Flat: in.Flat}
	if commit, err = b.addCommit(ctx, c); err != nil {
		return "", err
	}
	return commit, b.put(ctx)
}

// PutBlob stores an attachment blob, durably, and returns its id, which is the one
// git would give it. ErrBadSummary (wrapped) if it is too large.
func (d *Document) PutBlob(ctx context.Context, content []byte) (id string, err error) {
	if int64(len(content)) > d.limits.UploadBytes {
		return "", fmt.Errorf("%w: blob of %d bytes, over the limit of %d", ErrBadSummary, len(content), d.limits.UploadBytes)
	}
	b := d.newBatch()
	e, err := b.addBlob(ctx, content)
	if err != nil {
		return "", err
	}
	return e.ID, b.put(ctx)
}

// Commit is one version of a document.
type Commit struct {
	ID      string
	Tree    string
	Parents []string // none for the first one, else one
	Message string
	Date    time.Time
}

// Commit returns one version. ErrNotFound.
func (d *Document) Commit(ctx context.Context, id string) (Commit, error) {
	c, err := d.loadCommit(ctx, id)
	if err != nil {
		return Commit{}, err
	}
	return Commit{ID: id, Tree: c.Tree, Parents: c.Parents, Message: c.Message, Date: time.UnixMilli(c.Date).UTC()}, nil
}

// Commits returns the version from and those before it, newest first, at most
// count (and at most 1000) of them. ErrNotFound if there is no from.
func (d *Document) Commits(ctx context.Context, from string, count int) ([]Commit, error) {
	var found []Commit
	for count = min(count, maxCommits); len(found) < count; {
		c, err := d.Commit(ctx, from)
		if err != nil {
			return nil, err
		}
		found = append(found, c)
		if len(c.Parents) == 0 {
			break
		}
		from = c.Parents[0]
	}
	return found, nil
}
