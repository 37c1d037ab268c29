package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Member is a node as this one sees it.
type Member struct {
	ID        string
	URL       string
	State     State
	Started   time.Time
	Seen      time.Time // when its last beat was seen
	Documents int
	Sessions  int
	Self      bool
}

// members are the nodes as they were at the last look.
type members struct {
	looked time.Time
	known  map[string]member
}

type member struct {
	nodeRow
	revision uint64
	seen     time.Time // the look that first showed this beat
	gone     chan struct{}
}

// alive says whether m may still be serving. What counts is the last look, not now: who
// was paused himself has seen nothing and knows nothing.
func (s *members) alive(m member) bool { return s.looked.Sub(m.seen) <= Lease }

// lookAround reads all beats. A node is seen to be there from when its beat changes, so
// a node that begins to look takes nobody for dead before it has looked for a Lease.
func (n *Node) lookAround(ctx context.Context, started time.Time) error {
	rows, err := n.nodes.List(ctx, envelope.Name{})
	if err != nil {
		return err
	}
	n.lookAt = started
	read := time.Now() // a beat was written before that, and counts from then
	var forget []store.RowWrite
	n.mu.Lock()
	now := members{looked: started, known: map[string]member{}}
	for _, r := range rows {
		m, before := n.members.known[r.Value.ID]
		if !before {
			m.gone = make(chan struct{})
		}
		if !before || m.Beat != r.Value.Beat {
			m.seen = read
		}
		m.nodeRow, m.revision = r.Value, r.Revision
		now.known[m.ID] = m
		if started.Sub(m.seen) > forgetAfter {
			forget = append(forget, store.RowWrite{RowKey: n.nodes.Key(m.ID), Expect: store.AtRevision(r.Revision)})
		}
	}
	for id, m := range n.members.known {
		after, there := now.known[id]
		if n.members.alive(m) && (!there || !now.alive(after)) {
			close(m.gone)
			n.c.Log.WarnContext(ctx, "a node is gone", "node", m.ID, "url", m.URL)
		}
		if there && !n.members.alive(m) && now.alive(after) {
			after.gone = make(chan struct{}) // it is back
			now.known[id] = after
		}
	}
	n.members = now
	n.mu.Unlock()
	for _, w := range forget {
		if err := n.c.Store.WriteRows(ctx, []store.RowWrite{w}); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// Members returns all nodes, dead ones too until they are forgotten.
func (n *Node) Members() []Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []Member
	for _, m := range n.members.known {
		all = append(all, n.shown(m))
	}
	slices.SortFunc(all, func(a, b Member) int {
		if c := strings.Compare(a.URL, b.URL); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

func (n *Node) shown(m member) Member {
	shown := Member{
		ID: m.ID, URL: m.URL, State: m.State, Started: m.Started, Seen: m.seen,
		Documents: m.Documents, Sessions: m.Sessions, Self: m.ID == n.id,
	}
	if !n.members.alive(m) {
		shown.State = Dead
	}
	return shown
}

// Lacking returns the URLs of the other nodes that are alive and do not say that they have
// this version of the service key.
func (n *Node) Lacking(key string) (urls []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, m := range n.members.known {
		if id != n.id && n.members.alive(m) && !slices.Contains(m.Keys, key) {
			urls = append(urls, m.URL)
		}
	}
	slices.Sort(urls)
	return urls
}

// Leads says whether this node is the one that does what one node is to do: the first of
// those that are alive. Two may think so for a moment.
func (n *Node) Leads() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, m := range n.members.known {
		if id < n.id && n.members.alive(m) {
			return false
		}
	}
	return true
}

// Gone returns a channel that closes when the node with this id is seen to be gone; a
// closed one if it already is.
func (n *Node) Gone(id string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m, ok := n.members.known[id]; ok && n.members.alive(m) {
		return m.gone
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// preferred is the node that should serve d when nobody does: of the active ones, the
// one with the highest hash together with d. This node counts itself by what it knows.
// n.mu is held.
func (n *Node) preferred(d Document) (m member, ok bool) {
	var best uint64
	for id, one := range n.members.known {
		if id == n.id {
			if n.draining {
				continue
			}
		} else if one.State != Active || !n.members.alive(one) {
			continue
		}
		if rank := d.rank(id); !ok || rank > best {
			best, m, ok = rank, one, true
		}
	}
	return m, ok
}

// rank is how well a node suits d, the same on every node.
func (d Document) rank(node string) uint64 {
	h := sha256.Sum256([]byte(node + "\n" + d.id()))
	return binary.BigEndian.Uint64(h[:])
}
