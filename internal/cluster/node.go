package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

// The times of the promise.
const (
	// Lease is how long a node is taken to be alive after its last beat was seen.
	Lease = 8 * time.Second
	// margin is how much earlier the node itself stops: for clocks that run at
	// different rates and timers that fire late.
	margin = 2 * time.Second
	// BeatEvery is how often a node says that it is there.
	BeatEvery = 2 * time.Second
	// LookEvery is how often a node reads notices; membersEvery, the other nodes' beats.
	LookEvery    = 300 * time.Millisecond
	membersEvery = time.Second
	// turnTimeout bounds one round of reading and writing. Two that fail are within a
	// lease.
	turnTimeout = 2 * time.Second
	// forgetAfter is how long the row of a dead node stays, for its operator to see.
	forgetAfter = time.Hour
)

// ErrCutOff: this node has not reached the store for so long that others may have taken
// its documents.
var ErrCutOff = errors.New("cluster: this node's lease is over")

// State of a node.
type State string

// The states.
const (
	Active   State = "Active"
	Draining State = "Draining" // it takes no documents and gives up those it has
	Dead     State = "Dead"     // no beat was seen for a Lease
)

// Config of a Node.
type Config struct {
	Store   store.Rows
	Service envelope.ServiceKey // seals the rows
	URL     string              // where the other nodes reach this one: http(s)://host:port
	// Load is what this node carries, for its row.
	Load func() (documents, sessions int)
	// Keys are the versions of the service key that this node has, for its row; nil: not said.
	Keys func() []string
	// Lost is called when the lease is over, before there is a new one: nothing of a
	// document may go on. It must be quick.
	Lost func()
	// Missed is called when notices were missed: whatever was read before may have
	// changed. It must be quick.
	Missed  func()
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: nowhere
}

// Node is this process in the cluster. It is safe for concurrent use.
type Node struct {
	c          Config
	id         string
	started    time.Time
	base       time.Time    // where deadline counts from, on the monotonic clock
	deadline   atomic.Int64 // of the lease, nanoseconds since base
	nodes      row.Table[nodeRow]
	placements row.Table[placementRow]
	takeovers  prometheus.Counter

	kick chan struct{} // wakes run
	stop context.CancelFunc
	done chan struct{}

	board board // owned by run

	// Owned by run, and by Start and Stop when it does not run.
	beat     uint64
	revision uint64 // of this node's row; 0: there is none
	beatAt   time.Time
	lookAt   time.Time

	mu       sync.Mutex // guards all below; never held across I/O, but held while Lost runs
	draining bool
	holds    bool // Lost has not been called since the lease was granted
	timer    *time.Timer
	failing  bool // the last turn failed, and the log says so
	outbox   []notice
	members  members
	owned    map[Document]uint64 // revisions of this node's placements
}

// nodeRow is a node as the others see it.
type nodeRow struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	URL       string    `json:"url"`
	State     State     `json:"state"`
	Beat      uint64    `json:"beat"` // counts the writes
	Started   time.Time `json:"started"`
	Documents int       `json:"documents"`
	Sessions  int       `json:"sessions"`
	Keys      []string  `json:"keys,omitempty"` // versions of the service key in its file
}

const nodeVersion = 1

// New returns a node that is not part of the cluster yet; see Start.
func New(c Config) *Node {
	c.Store = impatient{c.Store}
	n := &Node{
		c:          c,
		id:         rand.Text(),
		started:    time.Now().UTC().Truncate(time.Second),
		base:       time.Now(),
		nodes:      row.NewTable[nodeRow](c.Store, c.Service, "cluster-nodes"),
		placements: row.NewTable[placementRow](c.Store, c.Service, "cluster-placements"),
		kick:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		owned:      map[Document]uint64{},
		members:    members{known: map[string]member{}},
	}
	n.board = newBoard(c.Store, c.Service, n.id)
	n.takeovers = newMetrics(c.Metrics, n)
	return n
}

// ID names this process among the nodes.
func (n *Node) ID() string { return n.id }

// URL is where the other nodes reach this one.
func (n *Node) URL() string { return n.c.URL }

// On has f called with the body of each notice on a topic that another node posts. It
// is called before Start. f must be quick: the lease waits for it.
func (n *Node) On(topic string, f func(json.RawMessage)) { n.board.handlers[topic] = f }

// Start makes this process a node. An earlier process at the same URL is dead: we
// listen there now.
func (n *Node) Start(ctx context.Context) error {
	rows, err := n.nodes.List(ctx, envelope.Name{})
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	for _, r := range rows {
		if r.Value.URL != n.c.URL {
			continue
		}
		gone := store.RowWrite{RowKey: n.nodes.Key(r.Value.ID), Expect: store.AtRevision(r.Revision)}
		if err := n.c.Store.WriteRows(ctx, []store.RowWrite{gone}); err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("join the cluster: %w", err)
		}
	}
	if err := n.board.begin(ctx); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if err := n.turn(ctx); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	running, stop := context.WithCancel(context.Background())
	n.stop = stop
	go n.run(running)
	return nil
}

// Stop takes this process out of the cluster. Its documents were released before: what
// is left of them is anybody's at once.
func (n *Node) Stop(ctx context.Context) error {
	if n.stop == nil {
		return nil // it was never started
	}
	n.stop()
	<-n.done
	n.mu.Lock()
	n.deadline.Store(0)
	if n.timer != nil {
		n.timer.Stop()
	}
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	if err := n.board.post(ctx, n.takeOutbox()); err != nil {
		n.c.Log.WarnContext(ctx, "notices to the other nodes are lost", "err", err)
	}
	if err := n.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: n.nodes.Key(n.id)}}); err != nil {
		return fmt.Errorf("leave the cluster: %w; the other nodes wait %s before they take over what is left", err, Lease)
	}
	return nil
}

// Serving says whether this node may serve documents now: one atomic load.
func (n *Node) Serving() bool { return int64(time.Since(n.base)) < n.deadline.Load() }

// Drain makes the others take all documents from now on, and returns when they know. The
// caller then ends those that are here. Uncordon undoes it.
func (n *Node) Drain(ctx context.Context) error {
	n.mu.Lock()
	n.draining = true
	n.mu.Unlock()
	n.wake()
	if !n.hasPeers() {
		return nil // nobody to tell
	}
	select {
	case <-time.After(drainNotice):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Uncordon has this node take documents again after Drain. The others know a moment later;
// documents that they took meanwhile stay where they are.
func (n *Node) Uncordon() {
	n.mu.Lock()
	n.draining = false
	n.mu.Unlock()
	n.wake()
}

// drainNotice is how long the others need at most, unless the store is slow, to see a
// change of state.
const drainNotice = membersEvery + 2*LookEvery

func (n *Node) hasPeers() bool {
	for _, m := range n.Members() {
		if !m.Self && m.State == Active {
			return true
		}
	}
	return false
}

func (n *Node) isDraining() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.draining
}

func (n *Node) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

func (n *Node) run(ctx context.Context) {
	defer close(n.done)
	for {
		timer := time.NewTimer(LookEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-n.kick:
			timer.Stop()
			n.beatAt = time.Time{} // a change of state is news for the others
		case <-timer.C:
		}
		n.note(ctx, n.turn(ctx))
	}
}

// note logs when turns begin to fail and when they stop to.
func (n *Node) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	before := n.failing
	n.failing = err != nil
	n.mu.Unlock()
	switch {
	case err != nil && !before:
		n.c.Log.WarnContext(ctx, "the store does not answer; this node stops serving when its lease ends", "err", err)
	case err == nil && before:
		n.c.Log.InfoContext(ctx, "the store answers again")
	}
}

// turn does what is due: notices first, for the lease vouches for them.
func (n *Node) turn(ctx context.Context) error {
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	missed, err := n.board.read(ctx)
	if missed {
		n.c.Log.WarnContext(ctx, "notices of other nodes were missed; everything is read again")
		n.c.Missed()
	}
	if err != nil {
		return err
	}
	if out := n.takeOutbox(); len(out) > 0 {
		if err := n.board.post(ctx, out); err != nil {
			n.mu.Lock()
			n.outbox = append(out, n.outbox...)
			n.mu.Unlock()
			return err
		}
	}
	if started.Sub(n.beatAt) >= BeatEvery {
		if err := n.sendBeat(ctx, started); err != nil {
			return err
		}
	}
	if started.Sub(n.lookAt) >= membersEvery {
		return n.lookAround(ctx, started)
	}
	return nil
}

// sendBeat writes this node's row. Once it is there, the lease counts from started.
func (n *Node) sendBeat(ctx context.Context, started time.Time) error {
	documents, sessions := n.c.Load()
	mine := nodeRow{
		Version: nodeVersion, ID: n.id, URL: n.c.URL, State: Active, Beat: n.beat + 1,
		Started: n.started, Documents: documents, Sessions: sessions,
	}
	if n.c.Keys != nil {
		mine.Keys = n.c.Keys()
	}
	if n.isDraining() {
		mine.State = Draining
	}
	key, expect := n.nodes.Key(n.id), store.Absent
	if n.revision > 0 {
		expect = store.AtRevision(n.revision)
	}
	write, err := n.nodes.Put(key, mine, expect)
	if err != nil {
		return err
	}
	err = n.c.Store.WriteRows(ctx, []store.RowWrite{write})
	switch {
	case err == nil:
		n.beat, n.revision, n.beatAt = mine.Beat, n.revision+1, started
		n.grant(started.Add(Lease - margin))
		return nil
	case !errors.Is(err, store.ErrConflict):
		return fmt.Errorf("write this node's row: %w", err)
	}
	// A write of unknown outcome was made after all, or the others hold us for dead.
	stored, revision, err := n.nodes.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		n.c.Log.ErrorContext(ctx, "this node was taken out of the cluster and joins again; is another node at the same URL? each needs a --node-url of its own", "url", n.c.URL)
		n.end()
		n.beat, n.revision = mine.Beat, 0
		n.wake()
		return nil
	}
	if err != nil {
		return err
	}
	n.beat, n.revision = max(mine.Beat, stored.Beat), revision
	n.wake()
	return nil
}

// grant prolongs the lease, or begins a new one after the old one's end was told.
func (n *Node) grant(until time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.holds && !n.Serving() {
		n.endLocked() // the process was paused, and the timer has not fired yet
	}
	n.deadline.Store(int64(until.Sub(n.base)))
	n.holds = true
	if n.timer != nil {
		n.timer.Stop()
	}
	n.timer = time.AfterFunc(time.Until(until), func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.Serving() {
			n.endLocked()
		}
	})
}

// end gives the lease up.
func (n *Node) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endLocked()
}

func (n *Node) endLocked() {
	if !n.holds {
		return
	}
	n.holds = false
	n.deadline.Store(0)
	clear(n.owned) // they may be others' by now
	n.c.Log.Error("this node's lease is over: its documents end, others may take them")
	n.c.Lost()
}
