package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// A document that was created as an ephemeral container lasts as long as it is used: the
// service removes it by itself, as if its owner had. Source: createAsEphemeral of
// IRouterliciousResolvedUrl, "the service will not retain it after the collaboration
// session ends"; the reference's deli removes one that has been idle for ten minutes.

// lookEvery is how often ephemeral documents are looked at. Whichever nobody has in
// memory at two looks in a row is removed. What was used between them still is in
// memory, for lookEvery is less than unloadAfter; and the first look after a start, or
// after the end of another node, removes nothing, so that clients have time to come back.
const lookEvery = 5 * time.Minute

// ephemeralDocuments has a row for each document that is to be removed by itself, from
// the write that makes it on.
const ephemeralDocuments store.Table = "ephemeral-documents"

type ephemeralDocument struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
}

func (s *Server) ephemeralKey(k documentKey) store.RowKey {
	return s.ephemeral.Key(k.tenantID + "/" + k.id)
}

// removeEphemeral removes ephemeral documents that were left, until ctx is over.
func (s *Server) removeEphemeral(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var left map[documentKey]bool
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var err error
		if left, err = s.lookAtEphemeral(ctx, left); err != nil && ctx.Err() == nil {
			s.c.Log.ErrorContext(ctx, "ephemeral documents not looked at", "err", err)
		}
	}
}

// lookAtEphemeral returns the ephemeral documents that nobody uses, and removes those
// that nobody used at the look before. What it could not remove it returns again.
func (s *Server) lookAtEphemeral(ctx context.Context, before map[documentKey]bool) (left map[documentKey]bool, err error) {
	const limit = 256
	left = map[documentKey]bool{}
	var after envelope.Name
	for {
		page, err := s.ephemeral.Page(ctx, envelope.Name{}, after, limit)
		if err != nil {
			return nil, err
		}
		for _, one := range page {
			after = one.Name
			k := documentKey{one.Value.Tenant, one.Value.ID}
			unused, err := s.unusedHere(ctx, k)
			if err != nil {
				return nil, err
			}
			if !unused {
				continue
			}
			left[k] = true
			if !before[k] {
				continue
			}
			switch err := s.removeLeft(ctx, k); {
			case err == nil:
				delete(left, k)
				s.c.Log.InfoContext(ctx, "ephemeral document removed", "tenant_id", k.tenantID, "document_id", k.id)
			case ctx.Err() == nil:
				s.c.Log.ErrorContext(ctx, "ephemeral document not removed", "tenant_id", k.tenantID, "document_id", k.id, "err", err)
			}
		}
		if len(page) < limit {
			return left, nil
		}
	}
}

// unusedHere says that a document is not in memory, and this node's to look after.
func (s *Server) unusedHere(ctx context.Context, k documentKey) (bool, error) {
	s.mu.Lock()
	loaded := s.documents[k] != nil
	s.mu.Unlock()
	if loaded || s.c.Cluster == nil {
		return !loaded, nil
	}
	m, err := s.c.Cluster.Locate(ctx, placed(k))
	if errors.Is(err, cluster.ErrCutOff) {
		return false, nil
	}
	return m.Self, err
}

// removeLeft removes an ephemeral document, and then the row that says that it is one.
func (s *Server) removeLeft(ctx context.Context, k documentKey) error {
	t, found := s.localTenant(k.tenantID)
	if !found {
		var err error
		if t, found, err = s.c.Tenants.Lookup(ctx, k.tenantID); err != nil {
			return fmt.Errorf("look up tenant %s: %w", k.tenantID, err)
		}
	}
	if found { // or the tenant is gone, and its documents with it
		if _, _, err := s.remove(ctx, t, k.id); err != nil {
			return err
		}
	}
	if err := s.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: s.ephemeralKey(k)}}); err != nil {
		return fmt.Errorf("forget ephemeral document: %w", err)
	}
	return nil
}
