package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/store"
)

// revokedTokens has one row per revoked token, found by tenant, document and jti:
// who may revoke in one document can end no token of another. The row's plaintext
// is until when it counts, as in usedTokens. By then the token itself has ended.
//
// The rows are read on every check and kept nowhere else: a copy in memory would
// not know what another process on the same store revoked, and to find no row in the
// embedded engine takes 2 µs, where checking claims and signature takes 14.
const revokedTokens store.Table = "revoked-tokens"

// revocationLife is how long a row must stay: no token that is accepted now can
// live longer.
const revocationLife = maxTokenLife + maxTokenAhead

// The answers to a revoked token, by face. Drivers whose connect is refused ask for
// a fresh token and try once more.
var (
	errRevoked     = [2]*authError{{http.StatusForbidden, "Permission denied. Access token has been revoked."}, errRevokedSock}
	errRevokedSock = &authError{http.StatusForbidden, "Permission denied. Token has been revoked"}
)

func (s *Server) revokedKey(tenantID, documentID, jti string) store.RowKey {
	// As JSON, so that no two triples read alike.
	name := string(encode([]string{tenantID, documentID, jti}))
	return store.RowKey{Table: revokedTokens, Name: s.c.Service.Name(string(revokedTokens), name)}
}

// checkRevoked refuses a token that was revoked. It comes after the signature,
// so that nobody without a tenant's key makes us read rows.
func (s *Server) checkRevoked(ctx context.Context, c claims, face tokenFace) error {
	if c.JTI == "" {
		return nil // it has no name to revoke it by
	}
	row, err := s.c.Store.GetRow(ctx, s.revokedKey(c.TenantID, c.DocumentID, c.JTI))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read revoked token: %w", err)
	}
	end, err := s.openEnd(row)
	if err != nil {
		return err
	}
	if time.Now().Before(end) {
		return errRevoked[face]
	}
	return nil // of an earlier token with this jti
}

// revoke makes the tokens of a document with this jti open nothing any more,
// durably, and then cuts the sockets that they opened. Idempotent.
func (s *Server) revoke(ctx context.Context, t Tenant, documentID, jti string) error {
	key := s.revokedKey(t.ID, documentID, jti)
	write, err := s.endWrite(key, time.Now().Add(revocationLife))
	if err != nil {
		return err
	}
	if err := s.c.Store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return fmt.Errorf("store revoked token: %w", err)
	}
	// After the row is there: who joins from now on finds it, see connection.join.
	s.cut(documentKey{t.ID, documentID}, jti)
	s.tell(topicRevoked, documentNotice{Tenant: t.ID, Document: documentID, JTI: jti})
	return s.sweepRevoked(ctx, key)
}

// cut closes the sockets with a session on the document that a token with this jti
// opened.
func (s *Server) cut(key documentKey, jti string) {
	s.mu.Lock()
	e := s.documents[key]
	s.mu.Unlock()
	if e != nil {
		e.cut("token revoked", func(session *session) bool { return session.jti == jti })
	}
}

// cut closes the sockets of a document's sessions that which names. Of one that is still
// loading nobody is in.
func (e *entry) cut(reason string, which func(*session) bool) {
	d := e.loaded()
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, session := range d.sessions {
		if which(session) {
			session.sock.Close(reason)
		}
	}
}

// CutOff closes all sockets of a tenant that its tokens open no more, on every node. Who
// comes back learns why at the door; what was not acknowledged is the client's still.
// The caller has seen to it that Tenants.Lookup says so by now: who joins meanwhile looks
// again, see connection.join.
func (s *Server) CutOff(tenantID string) {
	s.cutTenant(tenantID)
	s.tell(topicClosed, documentNotice{Tenant: tenantID})
}

func (s *Server) cutTenant(tenantID string) {
	s.mu.Lock()
	var entries []*entry
	for key, e := range s.documents {
		if key.tenantID == tenantID {
			entries = append(entries, e)
		}
	}
	s.mu.Unlock()
	for _, e := range entries {
		e.cut("access to the tenant is switched off", func(*session) bool { return true })
	}
}

// sweepRevoked drops some rows that have ended, as useToken does.
func (s *Server) sweepRevoked(ctx context.Context, key store.RowKey) error {
	ended, err := s.endedRows(ctx, key)
	if err != nil || len(ended) == 0 {
		return err
	}
	var writes []store.RowWrite
	for _, row := range ended {
		// At its revision: the same jti may just have been revoked anew.
		writes = append(writes, store.RowWrite{RowKey: row.RowKey, Expect: store.AtRevision(row.Revision)})
	}
	err = s.c.Store.WriteRows(ctx, writes)
	if err != nil && !errors.Is(err, store.ErrConflict) { // then a later one sweeps
		return fmt.Errorf("drop ended revocations: %w", err)
	}
	return nil
}

// endWrite writes a row whose plaintext is a time: milliseconds since 1970, 8
// bytes big endian.
func (s *Server) endWrite(key store.RowKey, end time.Time) (store.RowWrite, error) {
	plain := binary.BigEndian.AppendUint64(nil, uint64(end.UnixMilli())) // numericDate allows no negative one
	sealed, err := s.c.Service.SealRow(string(key.Table), key.Partition, key.Name, plain)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal row of %s: %w", key.Table, err)
	}
	return store.RowWrite{RowKey: key, Value: &sealed}, nil
}

// openEnd reads what endWrite wrote.
func (s *Server) openEnd(row store.Row) (time.Time, error) {
	plain, err := s.c.Service.OpenRow(string(row.Table), row.Partition, row.Name, row.Value)
	if err != nil {
		return time.Time{}, fmt.Errorf("open row of %s: %w: %w", row.Table, err, store.ErrCorrupt)
	}
	if len(plain) != 8 {
		return time.Time{}, fmt.Errorf("row of %s holds %d bytes: %w", row.Table, len(plain), store.ErrCorrupt)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(plain))), nil
}

// endedRows returns those of the next sweepTokens rows after key whose time has
// come. Names are hashes, so the rows after one are a random sample.
func (s *Server) endedRows(ctx context.Context, key store.RowKey) ([]store.Row, error) {
	rows, err := s.c.Store.ListRows(ctx, key.Table, key.Partition, key.Name, sweepTokens)
	if err != nil {
		return nil, fmt.Errorf("list rows of %s: %w", key.Table, err)
	}
	var ended []store.Row
	for _, row := range rows {
		end, err := s.openEnd(row)
		if err != nil {
			return nil, err
		}
		if time.Now().After(end) {
			ended = append(ended, row)
		}
	}
	return ended, nil
}
