package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// unloadAfter is how long a document that nobody uses stays in memory.
const unloadAfter = 10 * time.Minute

var errUnknownDocument = errors.New("document does not exist")

// documentKey is how clients name a document.
type documentKey struct{ tenantID, id string }

// entry is a document's place in the registry, from the moment someone asks for
// it until nothing of it is left in memory.
type entry struct {
	ready chan struct{} // closed when doc or err is set
	gone  chan struct{} // closed when its goroutines have ended
	doc   *document
	err   error

	// Guarded by Server.mu.
	users   int
	idle    *time.Timer // runs while nobody uses it
	leaving bool        // whoever wants it waits for gone and loads it again
}

// over says that e can take no new users. Server.mu is held.
func (e *entry) over() bool {
	if e.leaving {
		return true
	}
	select {
	case <-e.ready:
	default:
		return false
	}
	if e.err != nil {
		return true
	}
	select {
	case <-e.doc.ended:
		return true
	default:
		return false
	}
}

// open returns the document, loaded if need be, and the function that gives it
// back. The error is errUnknownDocument, errDraining, a *custody.UnusableError, one
// of isElsewhere, or of the store. The document may end at any time; it then answers with why.
func (s *Server) open(ctx context.Context, t Tenant, id string) (*document, func(), error) {
	if err := s.admit(ctx, t); err != nil {
		return nil, nil, err
	}
	if s.c.Cluster != nil && !s.c.Cluster.Serving() {
		return nil, nil, cluster.ErrCutOff
	}
	for {
		e, over, err := s.acquire(t, id)
		if err != nil {
			return nil, nil, err
		}
		if e == nil {
			select {
			case <-over:
				continue
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		release := sync.OnceFunc(func() { s.release(e) })
		select {
		case <-e.ready:
		case <-ctx.Done():
			release()
			return nil, nil, ctx.Err()
		}
		if e.err != nil {
			release()
			return nil, nil, e.err
		}
		return e.doc, release, nil
	}
}

// admit says whether the tenant's data may be served now.
func (s *Server) admit(ctx context.Context, t Tenant) error {
	err := s.c.Custody.Admit(ctx, t.Resource)
	if errors.Is(err, store.ErrNotFound) {
		return errUnknownDocument // the resource is being deleted, and all in it
	}
	return err
}

// acquire returns the entry of a document with its user counted, starting to load
// it for the first one; all others wait for the same load. If a former entry is
// still on its way out, it returns nil and the channel that closes when it is gone.
func (s *Server) acquire(t Tenant, id string) (*entry, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, nil, errDraining
	}
	key := documentKey{t.ID, id}
	e := s.documents[key]
	if e == nil && s.moving {
		return nil, nil, errMoving
	}
	if e == nil {
		e = &entry{ready: make(chan struct{}), gone: make(chan struct{})}
		s.documents[key] = e
		s.work.Go(func() { s.keep(e, t, id) })
	} else if e.over() {
		return nil, e.gone, nil
	}
	e.users++
	if e.idle != nil {
		e.idle.Stop()
		e.idle = nil
	}
	return e, nil, nil
}

func (s *Server) release(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.users--
	if e.users == 0 && !e.over() {
		e.idle = time.AfterFunc(unloadAfter, func() { s.unload(e) })
	}
}

// unload ends a document that nobody uses.
func (s *Server) unload(e *entry) {
	s.mu.Lock()
	unused := e.users == 0 && !e.over()
	if unused {
		e.leaving = true
	}
	s.mu.Unlock()
	if unused {
		e.stop(errIdle)
	}
}

// stop has e's document, once it is loaded, finish what it was given and end.
func (e *entry) stop(cause error) {
	<-e.ready
	if e.doc != nil {
		e.doc.inbox.put(stopCommand{cause}, e.doc.ended)
	}
}

// keep loads a document and runs it to its end.
func (s *Server) keep(e *entry, t Tenant, id string) {
	started := time.Now()
	e.doc, e.err = s.load(s.base, t, id)
	s.m.loadSeconds[loadResult(e.err)].Observe(time.Since(started).Seconds())
	close(e.ready)
	if e.err == nil {
		if s.c.Cluster != nil && !s.c.Cluster.Serving() {
			e.doc.end(cluster.ErrCutOff) // it was lost while we loaded
		}
		e.doc.run(s.base)
		s.logEnd(e.doc)
	}
	s.disown(documentKey{t.ID, id})
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.documents, documentKey{t.ID, id})
	if e.idle != nil {
		e.idle.Stop()
	}
	close(e.gone)
}

// logEnd says why a document ended. Fencing and lost keys are part of life.
func (s *Server) logEnd(d *document) {
	cause := d.endCause()
	var key *custody.UnusableError
	switch {
	case errors.As(cause, &key):
		d.log.Warn("document closed, its key cannot be used", "reason", key.Reason)
	case errors.Is(cause, errIdle), errors.Is(cause, errDraining), errors.Is(cause, errUnknownDocument), isElsewhere(cause):
		d.log.Debug("document unloaded", "reason", cause.Error())
	case errors.Is(cause, store.ErrFenced):
		d.log.Warn("document taken over by another writer")
	default:
		d.log.Error("document dropped, to be read anew", "err", cause)
	}
}

// load reads a document and takes it over from its last writer.
func (s *Server) load(ctx context.Context, t Tenant, id string) (*document, error) {
	r, _, err := s.record(ctx, t.ID, id)
	if err != nil {
		return nil, err
	}
	handle, err := r.handle()
	if err != nil {
		return nil, err
	}
	if err := s.claim(ctx, documentKey{t.ID, id}); err != nil {
		return nil, err
	}
	keys, err := s.c.Custody.OpenDocument(ctx, t.Resource, handle)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errUnknownDocument // deleted between the two reads
	}
	if err != nil {
		return nil, fmt.Errorf("open document key: %w", err)
	}
	known, err := keys.CheckAnchor(ctx, s.c.Store)
	if err != nil {
		keys.Close()
		return nil, err
	}
	got, err := recoverDocument(ctx, s.c.Store, keys, replayBytes)
	if err != nil {
		keys.Close()
		return nil, err
	}
	d := &document{
		tenantID:   t.ID,
		id:         id,
		base:       got.base,
		term:       got.term,
		window:     s.c.Limits.OpRetention,
		retention:  got.retention,
		idJSON:     encode(id),
		log:        s.c.Log.With("tenant_id", t.ID, "document_id", id),
		st:         s.c.Store,
		keys:       keys,
		hist:       history.New(keys, s.c.Store).WithLimits(s.c.Limits.history()),
		maxClients: s.c.Limits.ClientsPerDocument,
		m:          s.m,
		inbox:      newInbox(),
		ended:      make(chan struct{}),
		seq:        got.seq,
		durable:    got.at,
		writer:     got.writer,
		state:      got.state,
		unsaved:    got.replayed,
		byClient:   map[sequencer.ClientID]*session{},
		commit:     got.state.Newest(),
		lastAccess: r.LastAccess,
	}
	d.hist.SetTrimmed(got.retention.Trimmed)
	d.witness.known = known || got.at == got.base // of a log without ops nobody can have seen more
	d.witness.head.Store(int64(got.at))
	d.tail.summaryAt.Store(r.CreatedAt.UnixMilli())
	d.noteTail()
	return d, nil
}

// newDocument is what a document is made with.
type newDocument struct {
	history.Initial
	ephemeral bool // it is removed by itself once it was left
}

// create makes a document and returns its id, which is random: an id that a
// client chose could be one that exists. Nothing of it is there unless the error
// is nil; history.ErrBadSummary (wrapped), *custody.UnusableError, errDraining.
func (s *Server) create(ctx context.Context, t Tenant, in newDocument) (string, error) {
	if in.SequenceNumber != 0 {
		return "", fmt.Errorf("%w: a new document begins at sequence number 0, not %d; one that comes from elsewhere needs an id, and a token for that id",
			history.ErrBadSummary, in.SequenceNumber)
	}
	id := newUUID()
	if err := s.write(ctx, t, id, in); err != nil {
		return "", err
	}
	return id, nil
}

// write stores a new document; store.ErrConflict (wrapped) if its id is in use.
func (s *Server) write(ctx context.Context, t Tenant, id string, in newDocument) error {
	if s.isDraining() {
		return errDraining
	}
	if err := s.admit(ctx, t); err != nil {
		return err
	}
	keys, err := s.c.Custody.NewDocument(ctx, t.Resource)
	if err != nil {
		return fmt.Errorf("make document key: %w", err)
	}
	defer keys.Close()
	// Without its key the document does not exist; take away what is there of it.
	undo := func(err error) error {
		return errors.Join(err, s.c.Store.DeleteDocument(context.WithoutCancel(ctx), keys.Handle()))
	}
	if err := s.storeInitial(ctx, keys, in.Initial); err != nil {
		return undo(err)
	}
	rows := make([]store.RowWrite, 0, 2)
	if in.ephemeral {
		k := documentKey{t.ID, id}
		mark, err := s.ephemeral.Put(s.ephemeralKey(k), ephemeralDocument{k.tenantID, k.id}, store.Anything)
		if err != nil {
			return err
		}
		rows = append(rows, mark)
	}
	now := time.Now().UTC().Truncate(time.Second)
	handle := keys.Handle()
	record := documentRecord{ID: id, Handle: hex.EncodeToString(handle[:]), CreatedAt: now, LastAccess: now}
	recordRow, err := s.records.Put(s.recordKey(t.ID, id), record, store.Absent)
	if err != nil {
		return err
	}
	// From here on the document exists.
	err = keys.Create(ctx, append(rows, recordRow)...)
	if errors.Is(err, store.ErrConflict) {
		return undo(err)
	}
	if err != nil {
		return fmt.Errorf("write document record: %w", err)
	}
	return nil
}

// storeInitial stores what a document is made with: its first summary and the
// checkpoint that names it, after the last op that the summary holds.
func (s *Server) storeInitial(ctx context.Context, keys *custody.Document, in history.Initial) error {
	commit, err := history.New(keys, s.c.Store).WithLimits(s.c.Limits.history()).Create(ctx, in)
	if err != nil {
		return fmt.Errorf("store first summary: %w", err)
	}
	base := in.SequenceNumber
	state := sequencer.State{Seq: base, MSN: base, LastSentMSN: base}
	first, err := sealCheckpoint(keys, checkpoint{Base: base, Sequencer: state, History: history.State{Head: commit, HeadSeq: base}})
	if err != nil {
		return fmt.Errorf("seal first checkpoint: %w", err)
	}
	if err := s.c.Store.PutObjects(ctx, keys.Handle(), []store.Object{first}); err != nil {
		return fmt.Errorf("store first checkpoint: %w", err)
	}
	return nil
}

// exists says whether there is such a document; it needs no customer key.
func (s *Server) exists(ctx context.Context, t Tenant, id string) (bool, error) {
	_, _, err := s.record(ctx, t.ID, id)
	if errors.Is(err, errUnknownDocument) {
		return false, nil
	}
	return err == nil, err
}

// remove destroys a document's key, which makes it unreadable, and marks its record
// as deleted, then closes its sessions and deletes what is left. It needs no customer
// key. existed is false, and the receipt zero, if there was none, or none any more; what
// an earlier call could not delete then is deleted now.
func (s *Server) remove(ctx context.Context, t Tenant, id string) (receipt custody.Receipt, existed bool, err error) {
	r, _, err := s.recordOrTombstone(ctx, t.ID, id)
	if errors.Is(err, errUnknownDocument) {
		return receipt, false, nil
	}
	if err != nil {
		return receipt, false, err
	}
	handle, err := r.handle()
	if err != nil {
		return receipt, true, err
	}
	existed = !r.deleted()
	if existed {
		// First the key, so that nobody can load the document again.
		r.DeletedAt = time.Now().UTC().Truncate(time.Second)
		mark, err := s.records.Put(s.recordKey(t.ID, id), r, store.Anything)
		if err != nil {
			return receipt, true, err
		}
		also := []store.RowWrite{mark}
		if s.c.Cluster != nil {
			also = append(also, s.c.Cluster.Forgotten(placed(documentKey{t.ID, id})))
		}
		if receipt, err = s.c.Custody.DestroyDocument(ctx, t.Resource, handle, id, also...); err != nil {
			return receipt, true, err
		}
		s.tell(topicDeleted, documentNotice{Tenant: t.ID, Document: id})
	}
	if err := s.evict(ctx, func(k documentKey) bool { return k == documentKey{t.ID, id} }); err != nil {
		return receipt, existed, err
	}
	return receipt, existed, s.deleteStored(ctx, handle)
}

func (s *Server) deleteStored(ctx context.Context, h envelope.DocumentHandle) error {
	if err := s.c.Store.DeleteDocument(ctx, h); err != nil {
		return fmt.Errorf("delete document: %w", err)
	}
	return nil
}

// evict ends the loaded documents that were deleted and waits until they are gone.
func (s *Server) evict(ctx context.Context, deleted func(documentKey) bool) error {
	s.mu.Lock()
	var entries []*entry
	for key, e := range s.documents {
		if deleted(key) {
			e.leaving = true
			entries = append(entries, e)
		}
	}
	s.mu.Unlock()
	for _, e := range entries {
		<-e.ready
		if e.doc != nil {
			e.doc.end(errUnknownDocument)
		}
		select {
		case <-e.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// DeleteTenant disconnects and removes all documents of a tenant whose keys were
// destroyed. Idempotent: after an error it may be called again, and does the rest.
func (s *Server) DeleteTenant(ctx context.Context, tenantID string) error {
	defer s.usage.forget(tenantID)
	if err := s.evict(ctx, func(k documentKey) bool { return k.tenantID == tenantID }); err != nil {
		return err
	}
	const page = 100
	var after envelope.Name
	for {
		rows, err := s.records.Page(ctx, s.tenantPartition(tenantID), after, page)
		if err != nil {
			return fmt.Errorf("documents of tenant %s: %w", tenantID, err)
		}
		for _, row := range rows {
			if err := s.deleteRecorded(ctx, tenantID, row.Value); err != nil {
				return err
			}
			after = row.Name
		}
		if len(rows) < page {
			return nil
		}
	}
}

// deleteRecorded deletes a document whose key is destroyed: the record last, for
// it alone says where the rest is.
func (s *Server) deleteRecorded(ctx context.Context, tenantID string, r documentRecord) error {
	handle, err := r.handle()
	if err != nil {
		return err
	}
	if err := s.deleteStored(ctx, handle); err != nil {
		return err
	}
	if err := s.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: s.recordKey(tenantID, r.ID)}}); err != nil {
		return fmt.Errorf("delete document record: %w", err)
	}
	return nil
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
