package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Container is a document as its owner's management plane shows it. Times are UTC,
// of a second; Accessed is exact to touchEvery.
type Container struct {
	ID       string
	Created  time.Time
	Accessed time.Time // of the last client; now, while one is connected
}

// Containers returns the documents of a tenant that come after a place in the list
// (zero: from the start), at most limit (> 0) of them, and the place of the last one;
// zero when there are no more. Their order means nothing but never changes, so a
// document that comes or goes between two pages moves no other. No customer key is
// needed. For an unknown tenant there are none.
func (s *Server) Containers(ctx context.Context, tenantID string, after envelope.Name, limit int) ([]Container, envelope.Name, error) {
	var page []Container
	for {
		want := limit - len(page)
		rows, err := s.records.Page(ctx, s.tenantPartition(tenantID), after, want)
		if err != nil {
			return nil, envelope.Name{}, fmt.Errorf("documents of tenant %s: %w", tenantID, err)
		}
		for _, row := range rows {
			if !row.Value.deleted() {
				page = append(page, s.container(tenantID, row.Value))
			}
			after = row.Name
		}
		switch {
		case len(rows) < want:
			return page, envelope.Name{}, nil
		case len(page) == limit:
			return page, after, nil
		}
	}
}

// Container returns one document; store.ErrNotFound.
func (s *Server) Container(ctx context.Context, tenantID, id string) (Container, error) {
	r, _, err := s.record(ctx, tenantID, id)
	if errors.Is(err, errUnknownDocument) {
		return Container{}, fmt.Errorf("document %q: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return Container{}, err
	}
	return s.container(tenantID, r), nil
}

// DeleteContainer disconnects the clients of a document, destroys its key and removes
// it; its id stays deleted. store.ErrNotFound if it is not there. After another error
// the key may be destroyed and something left to remove: the next call does the rest.
func (s *Server) DeleteContainer(ctx context.Context, tenantID, id string) (custody.Receipt, error) {
	t, found, err := s.c.Tenants.Lookup(ctx, tenantID)
	if err != nil {
		return custody.Receipt{}, fmt.Errorf("look up tenant %s: %w", tenantID, err)
	}
	var receipt custody.Receipt
	existed := false
	if found {
		receipt, existed, err = s.remove(ctx, t, id)
	}
	if err == nil && !existed {
		err = fmt.Errorf("document %q: %w", id, store.ErrNotFound)
	}
	return receipt, err
}

// AcceptRollback says that a document is to be served as it is, though its head anchor
// says that more of it was there. store.ErrNotFound if there is no such document, or
// nothing to accept.
func (s *Server) AcceptRollback(ctx context.Context, tenantID, id string) error {
	resource, handle, err := s.find(ctx, tenantID, id)
	if err != nil {
		return err
	}
	return s.c.Custody.AcceptRollback(ctx, resource, handle)
}

// RotateContainerKey has what is new in a document sealed under a new key of its own; whoever
// is connected goes on. store.ErrNotFound if it is not there.
func (s *Server) RotateContainerKey(ctx context.Context, tenantID, id string) error {
	resource, handle, err := s.find(ctx, tenantID, id)
	if err != nil {
		return err
	}
	return s.c.Custody.RotateDocument(ctx, resource, handle)
}

// find says under which handle a document is, of which resource; store.ErrNotFound if it is not
// there.
func (s *Server) find(ctx context.Context, tenantID, id string) (envelope.ResourceID, envelope.DocumentHandle, error) {
	none := envelope.DocumentHandle{}
	t, found, err := s.c.Tenants.Lookup(ctx, tenantID)
	if err != nil {
		return t.Resource, none, fmt.Errorf("look up tenant %s: %w", tenantID, err)
	}
	r, _, err := s.record(ctx, tenantID, id)
	if !found || errors.Is(err, errUnknownDocument) {
		return t.Resource, none, fmt.Errorf("document %q: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return t.Resource, none, err
	}
	handle, err := r.handle()
	return t.Resource, handle, err
}

func (s *Server) container(tenantID string, r documentRecord) Container {
	c := Container{ID: r.ID, Created: r.CreatedAt, Accessed: r.LastAccess}
	if s.inUse(documentKey{tenantID, r.ID}) {
		c.Accessed = time.Now().UTC().Truncate(time.Second)
	}
	return c
}

// inUse says whether a client is connected to a document.
func (s *Server) inUse(key documentKey) bool {
	s.mu.Lock()
	e := s.documents[key]
	s.mu.Unlock()
	if e == nil {
		return false
	}
	select {
	case <-e.ready:
		return e.doc != nil && e.doc.active()
	default:
		return false
	}
}
