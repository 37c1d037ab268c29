package relay

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// documentsTable holds one row per document, in its tenant's partition, sealed
// under the service key: finding and deleting a document needs no customer key.
const documentsTable store.Table = "documents"

// touchEvery is how exact lastAccess is.
const touchEvery = 5 * time.Minute

// documentRecord is the plaintext of a row of documentsTable. The record of a deleted
// document stays: its id is not used again, for whoever still holds a token that
// names it could bring it back with contents of his own.
type documentRecord struct {
	ID         string    `json:"id"`
	Handle     string    `json:"handle"` // 32 hex digits
	CreatedAt  time.Time `json:"createdAt"`
	LastAccess time.Time `json:"lastAccess"`
	DeletedAt  time.Time `json:"deletedAt,omitzero"`
}

func (r documentRecord) deleted() bool { return !r.DeletedAt.IsZero() }

func (r documentRecord) handle() (envelope.DocumentHandle, error) {
	var h envelope.DocumentHandle
	b, err := hex.DecodeString(r.Handle)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("document record has no handle: %w", store.ErrCorrupt)
	}
	copy(h[:], b)
	return h, nil
}

// tenantPartition is where the records of a tenant's documents are.
func (s *Server) tenantPartition(tenantID string) envelope.Name {
	return s.c.Service.Name("tenant", tenantID)
}

func (s *Server) recordKey(tenantID, id string) store.RowKey {
	return store.RowKey{
		Table:     documentsTable,
		Partition: s.tenantPartition(tenantID),
		Name:      s.c.Service.Name("document", tenantID+"/"+id),
	}
}

// record finds a document and the revision of its record; errUnknownDocument, also for a
// deleted one.
func (s *Server) record(ctx context.Context, tenantID, id string) (documentRecord, uint64, error) {
	r, revision, err := s.recordOrTombstone(ctx, tenantID, id)
	if err == nil && r.deleted() {
		return documentRecord{}, 0, errUnknownDocument
	}
	return r, revision, err
}

// recordOrTombstone finds a document or what a deleted one left behind;
// errUnknownDocument if there never was one.
func (s *Server) recordOrTombstone(ctx context.Context, tenantID, id string) (documentRecord, uint64, error) {
	r, revision, err := s.records.Get(ctx, s.recordKey(tenantID, id))
	if errors.Is(err, store.ErrNotFound) {
		return documentRecord{}, 0, errUnknownDocument
	}
	return r, revision, err
}

// touch notes that d is in use, every few minutes at most. That it fails harms
// nothing that a client sees, so it only logs.
func (s *Server) touch(ctx context.Context, d *document) {
	now := time.Now().UTC().Truncate(time.Second)
	if !d.dueTouch(now) {
		return
	}
	r, revision, err := s.record(ctx, d.tenantID, d.id)
	if err == nil {
		r.LastAccess = now
		var w store.RowWrite
		// Expecting the revision, so that a document deleted meanwhile stays so.
		if w, err = s.records.Put(s.recordKey(d.tenantID, d.id), r, store.AtRevision(revision)); err == nil {
			err = s.c.Store.WriteRows(ctx, []store.RowWrite{w})
		}
	}
	if err != nil && !errors.Is(err, errUnknownDocument) && !errors.Is(err, store.ErrConflict) {
		d.log.WarnContext(ctx, "last access not noted", "err", err)
	}
}

// dueTouch says whether lastAccess should be written now, to the first who asks.
func (d *document) dueTouch(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.lastAccess) < touchEvery {
		return false
	}
	d.lastAccess = now
	return true
}
