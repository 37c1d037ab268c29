package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Keys, all numbers big endian so that Pebble's order is theirs:
//
//	'd' handle 16 's'                    state: term 8, head 8
//	'd' handle 16 'h' first seq 8        header of a segment
//	'd' handle 16 'l' last seq 8         record
//	'd' handle 16 'o' name 32            object
//	'r' table 0 partition 32 name 32     revision 8, row
//
// A record is kept under its last sequence number, so that the first key at or
// after n is the record that holds n.
const (
	spaceDocument = 'd'
	spaceRow      = 'r'

	partState  = 's'
	partHeader = 'h'
	partRecord = 'l'
	partObject = 'o'

	seqOffset = 1 + len(envelope.DocumentHandle{}) + 1 // of the number in a key of a header or record
)

type engine struct {
	db      *pebble.DB
	lock    *pebble.Lock
	disk    *disk
	latches latches
	states  states

	mu     sync.RWMutex // guards closed; held for reading by every call
	closed bool
}

var _ store.Store = (*engine)(nil)

// enter admits a call; the func ends it.
func (e *engine) enter(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.RLock()
	if e.closed {
		e.mu.RUnlock()
		return nil, store.ErrClosed
	}
	return e.mu.RUnlock, nil
}

// Close waits for the calls under way.
func (e *engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	return errors.Join(e.db.Close(), e.lock.Close())
}

func (e *engine) Writable(ctx context.Context) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return e.disk.room(1)
}

func documentKey(doc envelope.DocumentHandle, part byte, rest ...byte) []byte {
	k := make([]byte, 0, seqOffset+len(rest)+8)
	k = append(k, spaceDocument)
	k = append(k, doc[:]...)
	k = append(k, part)
	return append(k, rest...)
}

func seqKey(doc envelope.DocumentHandle, part byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(documentKey(doc, part), seq)
}

// latchKey names what a document's writes exclude each other on: its log under
// partState, its objects under partObject.
func latchKey(doc envelope.DocumentHandle, part byte) string { return string(documentKey(doc, part)) }

// fail says what did not work; damage that Pebble finds by its checksums is
// ErrCorrupt.
func fail(what string, err error) error {
	if pebble.IsCorruptionError(err) {
		return corrupt(what, err)
	}
	return fmt.Errorf("pebble: %s: %w", what, err)
}

func corrupt(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, what, err)
}

// get copies a value out.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	raw, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, fail("read", err)
	}
	return bytes.Clone(raw), closer.Close()
}

type docState struct{ term, head uint64 }

func (s docState) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, s.term)
	return binary.BigEndian.AppendUint64(b, s.head)
}

// readState returns the zero state for a document that was never claimed.
func readState(r pebble.Reader, doc envelope.DocumentHandle) (docState, error) {
	raw, err := get(r, documentKey(doc, partState))
	if errors.Is(err, store.ErrNotFound) {
		return docState{}, nil
	}
	if err != nil {
		return docState{}, err
	}
	if len(raw) != 16 {
		return docState{}, fmt.Errorf("%w: document state of %d bytes", store.ErrCorrupt, len(raw))
	}
	return docState{binary.BigEndian.Uint64(raw), binary.BigEndian.Uint64(raw[8:])}, nil
}

func (e *engine) Claim(ctx context.Context, doc envelope.DocumentHandle) (store.Claim, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return store.Claim{}, err
	}
	defer leave()
	defer e.latches.lock(latchKey(doc, partState))()
	s, err := e.states.read(e.db, doc)
	if err != nil {
		return store.Claim{}, err
	}
	s.term++
	err = e.db.Set(documentKey(doc, partState), s.bytes(), pebble.Sync)
	e.states.wrote(doc, s, err)
	if err != nil {
		return store.Claim{}, fail("claim a document", err)
	}
	return store.Claim{Term: s.term, Head: s.head}, nil
}

func (e *engine) Append(ctx context.Context, a store.Append) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer e.latches.lock(latchKey(a.Document, partState))()
	s, err := e.states.read(e.db, a.Document)
	if err != nil {
		return err
	}
	if s.term == 0 || s.term != a.Term || s.head != a.ExpectedHead {
		return store.ErrFenced
	}
	if err := a.Check(); err != nil {
		return err
	}
	if err := e.disk.room(len(a.Record.Bytes())); err != nil {
		return err
	}
	s.head = a.Record.LastSeq()
	b := e.db.NewBatch()
	defer b.Close()
	if a.Header != nil {
		err = b.Set(seqKey(a.Document, partHeader, a.Header.Place().FirstSeq), a.Header.Bytes(), nil)
	}
	err = errors.Join(err,
		b.Set(seqKey(a.Document, partRecord, s.head), a.Record.Bytes(), nil),
		b.Set(documentKey(a.Document, partState), s.bytes(), nil))
	if err != nil {
		return fail("append", err)
	}
	// Pebble's commit pipeline gathers the batches of all documents that wait
	// here into one fsync of its log.
	err = e.db.Apply(b, pebble.Sync)
	e.states.wrote(a.Document, s, err)
	if err != nil {
		return fail("append", err)
	}
	return nil
}

func (e *engine) Read(ctx context.Context, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (store.Range, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return store.Range{}, err
	}
	defer leave()
	// One snapshot: head, records and headers of the same moment, all of them durable.
	snap := e.db.NewSnapshot()
	defer snap.Close()
	e.latches.settle(latchKey(doc, partState))
	return readRange(snap, doc, span{from, to, maxBytes})
}

// Trim works on a full disk, too: it makes room.
func (e *engine) Trim(ctx context.Context, doc envelope.DocumentHandle, term, below uint64) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer e.latches.lock(latchKey(doc, partState))()
	s, err := readState(e.db, doc)
	if err != nil {
		return err
	}
	if s.term == 0 || s.term != term {
		return store.ErrFenced
	}
	if below = min(below, s.head); below == 0 {
		return nil
	}
	// What stays, read as any reader would: nothing is dropped from a damaged log.
	kept, err := readRange(e.db, doc, span{below, below, 0})
	if err != nil || len(kept.Records) == 0 {
		return err
	}
	b := e.db.NewBatch()
	defer b.Close()
	// Records are kept under their last op, headers under their segment's first.
	err = errors.Join(
		b.DeleteRange(seqKey(doc, partRecord, 0), seqKey(doc, partRecord, below), nil),
		b.DeleteRange(seqKey(doc, partHeader, 0), seqKey(doc, partHeader, kept.Headers[0].Place().FirstSeq), nil))
	if err != nil {
		return fail("trim a log", err)
	}
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return fail("trim a log", err)
	}
	return nil
}

func (e *engine) DeleteDocument(ctx context.Context, doc envelope.DocumentHandle) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer e.latches.lock(latchKey(doc, partState), latchKey(doc, partObject))()
	s, err := readState(e.db, doc)
	if err != nil && !errors.Is(err, store.ErrCorrupt) { // a damaged document can still be deleted
		return err
	}
	b := e.db.NewBatch()
	defer b.Close()
	// All keys of a document begin with its handle and a part below 0xff.
	err = b.DeleteRange(documentKey(doc, 0), documentKey(doc, 0xff), nil)
	if s.term > 0 {
		// Without the term the next claim would get a writer of the old log's
		// term, and both could append.
		s = docState{term: s.term + 1}
		err = errors.Join(err, b.Set(documentKey(doc, partState), s.bytes(), nil))
	}
	if err != nil {
		return fail("delete a document", err)
	}
	err = e.db.Apply(b, pebble.Sync)
	e.states.wrote(doc, s, err)
	if err != nil {
		return fail("delete a document", err)
	}
	return nil
}
