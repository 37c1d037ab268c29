package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/store"
)

// Document is what nodes share out among each other.
type Document struct{ Tenant, ID string }

func (d Document) id() string { return d.Tenant + "\n" + d.ID } // tenant ids are GUIDs

// placementRow names the node that serves a document. The row of a document that nobody
// serves stays: a row that is made anew begins at revision 1 again, and a write of long
// ago that arrives late could take it for the one it knew.
type placementRow struct {
	Version int       `json:"version"`
	Node    string    `json:"node,omitempty"` // empty: none
	Since   time.Time `json:"since"`
}

const placementVersion = 1

// ElsewhereError: another node serves the document.
type ElsewhereError struct{ Node Member }

func (e *ElsewhereError) Error() string {
	return "cluster: the document is served by node " + e.Node.ID + " at " + e.Node.URL
}

// Locate returns the node that serves d, or, when nobody does, the one that should. The
// error is ErrCutOff when this node does not know, or the store's.
func (n *Node) Locate(ctx context.Context, d Document) (Member, error) {
	if !n.Serving() {
		return Member{}, ErrCutOff
	}
	placed, _, err := n.placements.Get(ctx, n.placements.Key(d.id()))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Member{}, fmt.Errorf("locate document: %w", err)
	}
	if err == nil && placed.Node != "" {
		owner, alive, err := n.living(ctx, placed.Node)
		if err != nil || alive {
			return owner, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m, ok := n.preferred(d)
	if !ok {
		m = n.members.known[n.id] // all are draining: whoever is asked says so
	}
	return n.shown(m), nil
}

// Prefers says whether this node is the one that should serve d.
func (n *Node) Prefers(d Document) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, ok := n.preferred(d)
	return !ok || m.ID == n.id
}

// Claim makes this node the one that serves d. *ElsewhereError if another one does,
// ErrCutOff, or an error of the store.
func (n *Node) Claim(ctx context.Context, d Document) error {
	for {
		if !n.Serving() {
			return ErrCutOff
		}
		key, expect := n.placements.Key(d.id()), store.Absent
		var revision uint64
		dead := false
		placed, at, err := n.placements.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return fmt.Errorf("claim document: %w", err)
		case placed.Node == n.id && n.owns(d, at):
			return nil
		// Ours from before the lease was lost, or from a write of unknown outcome: others
		// may be about to take it, so it must be written anew.
		case placed.Node == "", placed.Node == n.id:
			expect, revision = store.AtRevision(at), at
		default:
			owner, alive, err := n.living(ctx, placed.Node)
			if err != nil {
				return fmt.Errorf("claim document: %w", err)
			}
			if alive {
				return &ElsewhereError{owner}
			}
			expect, revision, dead = store.AtRevision(at), at, true
		}
		write, err := n.placements.Put(key, placementRow{placementVersion, n.id, time.Now().UTC().Truncate(time.Second)}, expect)
		if err != nil {
			return err
		}
		err = n.c.Store.WriteRows(ctx, []store.RowWrite{write})
		if errors.Is(err, store.ErrConflict) {
			continue // somebody was faster
		}
		if err != nil {
			return fmt.Errorf("claim document: %w", err)
		}
		if dead {
			n.takeovers.Inc()
		}
		n.own(d, revision+1)
		return nil
	}
}

// living returns the node with this id, if it may still be serving.
func (n *Node) living(ctx context.Context, id string) (Member, bool, error) {
	n.mu.Lock()
	m, known := n.members.known[id]
	shown, alive := n.shown(m), n.members.alive(m)
	n.mu.Unlock()
	if known && alive {
		return shown, true, nil
	}
	// It joined since the last look, or came back, or it is gone: without a row nobody is
	// a node. Who came back writes its beat first, and its placements anew after that.
	r, _, err := n.nodes.Get(ctx, n.nodes.Key(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && known && r.Beat == m.Beat {
		return Member{}, false, nil
	}
	return Member{ID: r.ID, URL: r.URL, State: r.State, Started: r.Started}, err == nil, err
}

func (n *Node) owns(d Document, revision uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.owned[d] == revision
}

func (n *Node) own(d Document, revision uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.owned[d] = revision
}

// Release gives d up, for anyone to claim. It does nothing if another node has claimed
// it meanwhile.
func (n *Node) Release(ctx context.Context, d Document) error {
	n.mu.Lock()
	revision, ok := n.owned[d]
	delete(n.owned, d)
	n.mu.Unlock()
	if !ok {
		return nil
	}
	free := placementRow{Version: placementVersion, Since: time.Now().UTC().Truncate(time.Second)}
	write, err := n.placements.Put(n.placements.Key(d.id()), free, store.AtRevision(revision))
	if err == nil {
		err = n.c.Store.WriteRows(ctx, []store.RowWrite{write})
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("release document: %w", err)
	}
	return nil
}

// Forgotten is the write that takes away what is known of a document that is deleted.
func (n *Node) Forgotten(d Document) store.RowWrite {
	return store.RowWrite{RowKey: n.placements.Key(d.id())}
}
