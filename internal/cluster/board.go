package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

const (
	// keptNotices stay on the board: what a node that is cut off may miss without having
	// to read everything again.
	keptNotices = 1000
	// postAtOnce bounds one write.
	postAtOnce = 50
)

// notice tells the other nodes that something changed.
type notice struct {
	Topic string          `json:"topic"`
	From  string          `json:"from"` // the node that posted it
	Body  json.RawMessage `json:"body"`
}

// boardHead says which notices there are.
type boardHead struct {
	Version int    `json:"version"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"` // First-1: none
}

const boardVersion = 1

// headID is the id of the head's row; notices have their numbers.
const headID = "head"

// board is the numbered list of notices. It is not safe for concurrent use.
type board struct {
	rows     store.Rows
	heads    row.Table[boardHead]
	notices  row.Table[notice]
	self     string
	handlers map[string]func(json.RawMessage)

	head     boardHead // as it was read last
	revision uint64    // of its row
	heeded   uint64    // the last notice that was heeded
}

func newBoard(rows store.Rows, service envelope.ServiceKey, self string) board {
	return board{
		rows:     rows,
		heads:    row.NewTable[boardHead](rows, service, "cluster-notices"),
		notices:  row.NewTable[notice](rows, service, "cluster-notices"),
		self:     self,
		handlers: map[string]func(json.RawMessage){},
	}
}

func (b *board) readHead(ctx context.Context) error {
	head, revision, err := b.heads.Get(ctx, b.heads.Key(headID))
	if errors.Is(err, store.ErrNotFound) {
		b.head, b.revision = boardHead{Version: boardVersion, First: 1}, 0
		return nil
	}
	if err != nil {
		return err
	}
	if head.Version != boardVersion {
		return fmt.Errorf("the nodes' notices are of version %d, which is not known: upgrade this node", head.Version)
	}
	b.head, b.revision = head, revision
	return nil
}

// begin starts at the end of the list: who begins has read nothing that could have
// changed.
func (b *board) begin(ctx context.Context) error {
	err := b.readHead(ctx)
	b.heeded = b.head.Last
	return err
}

// read heeds what is new. missed says that notices are gone which were not heeded.
func (b *board) read(ctx context.Context) (missed bool, err error) {
	if err := b.readHead(ctx); err != nil {
		return false, err
	}
	if b.heeded+1 < b.head.First || b.heeded > b.head.Last {
		b.heeded = b.head.Last
		return true, nil
	}
	for b.heeded < b.head.Last {
		one, _, err := b.notices.Get(ctx, b.notices.Key(number(b.heeded+1)))
		if errors.Is(err, store.ErrNotFound) { // taken off since the head was read
			b.heeded = b.head.Last
			return true, nil
		}
		if err != nil {
			return false, err
		}
		b.heeded++
		if f := b.handlers[one.Topic]; f != nil && one.From != b.self {
			f(one.Body)
		}
	}
	return false, nil
}

// post appends notices. After an error some of them may be there.
func (b *board) post(ctx context.Context, all []notice) error {
	for len(all) > 0 {
		some := all[:min(len(all), postAtOnce)]
		err := b.append(ctx, some)
		if errors.Is(err, store.ErrConflict) { // another node posts, too
			if err = b.readHead(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("post notices: %w", err)
		}
		all = all[len(some):]
	}
	return nil
}

func (b *board) append(ctx context.Context, some []notice) error {
	next := b.head
	var writes []store.RowWrite
	for _, one := range some {
		next.Last++
		w, err := b.notices.Put(b.notices.Key(number(next.Last)), one, store.Absent)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	for ; next.Last-next.First >= keptNotices; next.First++ {
		writes = append(writes, store.RowWrite{RowKey: b.notices.Key(number(next.First))})
	}
	expect := store.Absent
	if b.revision > 0 {
		expect = store.AtRevision(b.revision)
	}
	w, err := b.heads.Put(b.heads.Key(headID), next, expect)
	if err != nil {
		return err
	}
	if err := b.rows.WriteRows(ctx, append(writes, w)); err != nil {
		return err
	}
	b.head, b.revision = next, b.revision+1
	return nil
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// Post tells the other nodes, within LookEvery of the next turn. It does not wait: while
// the store does not answer, the notice is kept.
func (n *Node) Post(topic string, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		panic("internal error: encode a notice: " + err.Error()) // of our own types
	}
	n.mu.Lock()
	n.outbox = append(n.outbox, notice{Topic: topic, From: n.id, Body: raw})
	n.mu.Unlock()
	n.wake()
}

func (n *Node) takeOutbox() []notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.outbox
	n.outbox = nil
	return out
}
