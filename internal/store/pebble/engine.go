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
)

type engine struct {
	db      *pebble.DB
	lock    *pebble.Lock
	latches latches

	rows sync.Mutex // one WriteRows at a time: its checks and its write are one

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

func documentKey(doc envelope.DocumentHandle, part byte, rest ...byte) []byte {
	k := make([]byte, 0, 18+len(rest))
	k = append(k, spaceDocument)
	k = append(k, doc[:]...)
	k = append(k, part)
	return append(k, rest...)
}

func seqKey(doc envelope.DocumentHandle, part byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(documentKey(doc, part), seq)
}

type docState struct{ term, head uint64 }

func (e *engine) state(doc envelope.DocumentHandle) (docState, error) {
	raw, err := e.get(documentKey(doc, partState))
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

func (s docState) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, s.term)
	return binary.BigEndian.AppendUint64(b, s.head)
}

// get copies a value out.
func (e *engine) get(key []byte) ([]byte, error) {
	raw, closer, err := e.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("pebble: read: %w", err)
	}
	defer closer.Close()
	return bytes.Clone(raw), nil
}

func (e *engine) Claim(ctx context.Context, doc envelope.DocumentHandle) (store.Claim, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return store.Claim{}, err
	}
	defer leave()
	defer e.latches.lock(doc)()
	s, err := e.state(doc)
	if err != nil {
		return store.Claim{}, err
	}
	s.term++
	if err := e.db.Set(documentKey(doc, partState), s.bytes(), pebble.Sync); err != nil {
		return store.Claim{}, fmt.Errorf("pebble: claim a document: %w", err)
	}
	return store.Claim{Term: s.term, Head: s.head}, nil
}

func (e *engine) Append(ctx context.Context, a store.Append) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer e.latches.lock(a.Document)()
	s, err := e.state(a.Document)
	if err != nil {
		return err
	}
	if s.term != a.Term || s.head != a.ExpectedHead {
		return store.ErrFenced
	}
	if a.Record.FirstSeq() != s.head+1 || a.Record.LastSeq() < a.Record.FirstSeq() {
		return fmt.Errorf("pebble: record holds %d..%d, the log ends at %d", a.Record.FirstSeq(), a.Record.LastSeq(), s.head)
	}
	s.head = a.Record.LastSeq()
	b := e.db.NewBatch()
	defer b.Close()
	set := func(key, value []byte) {
		err = errors.Join(err, b.Set(key, value, nil))
	}
	if a.Header != nil {
		set(seqKey(a.Document, partHeader, a.Header.Place().FirstSeq), a.Header.Bytes())
	}
	set(seqKey(a.Document, partRecord, s.head), a.Record.Bytes())
	set(documentKey(a.Document, partState), s.bytes())
	if err != nil {
		return fmt.Errorf("pebble: append: %w", err)
	}
	// Pebble's commit pipeline gathers the batches of all documents that wait
	// here into one fsync of its log.
	if err := e.db.Apply(b, pebble.Sync); err != nil {
		return fmt.Errorf("pebble: append: %w", err)
	}
	return nil
}

func (e *engine) Read(ctx context.Context, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (store.Range, error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return store.Range{}, err
	}
	defer leave()
	// One snapshot: head, records and headers of the same moment.
	snap := e.db.NewSnapshot()
	defer snap.Close()
	return readRange(snap, doc, from, to, maxBytes)
}
