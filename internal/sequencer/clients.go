package sequencer

import (
	"cmp"
	"container/heap"
	"container/list"
	"slices"
)

// client is one row of the table of write clients.
type client struct {
	ClientState
	byRSN    int           // index in table.rsns
	byUpdate *list.Element // place in table.updates
}

// table is the write clients of a document, with the lowest reference sequence
// number and the longest silence at hand: both are asked for with every op.
type table struct {
	byID    map[ClientID]*client
	rsns    rsnHeap
	updates *list.List // of *client, the longest silent first
}

func newTable(states []ClientState) *table {
	t := &table{byID: make(map[ClientID]*client, len(states)), updates: list.New()}
	bySilence := slices.SortedFunc(slices.Values(states), func(a, b ClientState) int {
		return cmp.Or(cmp.Compare(a.LastUpdate, b.LastUpdate), cmp.Compare(a.ID, b.ID))
	})
	for _, c := range bySilence {
		t.add(c)
	}
	return t
}

// add inserts a client that is not there; no one was updated later than it.
func (t *table) add(s ClientState) {
	c := &client{ClientState: s}
	c.byUpdate = t.updates.PushBack(c)
	t.byID[s.ID] = c
	heap.Push(&t.rsns, c)
}

func (t *table) remove(c *client) {
	delete(t.byID, c.ID)
	t.updates.Remove(c.byUpdate)
	heap.Remove(&t.rsns, c.byRSN)
}

// update notes that c spoke at the given time, which is the latest of all.
func (t *table) update(c *client, csn int64, rsn Seq, at int64) {
	c.CSN, c.RSN, c.LastUpdate = csn, rsn, at
	t.updates.MoveToBack(c.byUpdate)
	heap.Fix(&t.rsns, c.byRSN)
}

// raise lifts all reference sequence numbers to at least msn.
func (t *table) raise(msn Seq) {
	for len(t.rsns) > 0 && t.rsns[0].RSN < msn {
		t.rsns[0].RSN = msn
		heap.Fix(&t.rsns, 0)
	}
}

// minRSN is the lowest reference sequence number; false if there is no client.
func (t *table) minRSN() (Seq, bool) {
	if len(t.rsns) == 0 {
		return 0, false
	}
	return t.rsns[0].RSN, true
}

// silent is the client that has been silent longest, nil if there is none.
func (t *table) silent() *client {
	front := t.updates.Front()
	if front == nil {
		return nil
	}
	return front.Value.(*client)
}

func (t *table) len() int { return len(t.byID) }

// states returns the rows by id.
func (t *table) states() []ClientState {
	states := make([]ClientState, 0, len(t.byID))
	for _, c := range t.byID {
		states = append(states, c.ClientState)
	}
	slices.SortFunc(states, func(a, b ClientState) int { return cmp.Compare(a.ID, b.ID) })
	return states
}

// rsnHeap is a container/heap of clients, lowest reference sequence number first.
type rsnHeap []*client

func (h rsnHeap) Len() int           { return len(h) }
func (h rsnHeap) Less(i, j int) bool { return h[i].RSN < h[j].RSN }

func (h rsnHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].byRSN, h[j].byRSN = i, j
}

func (h *rsnHeap) Push(x any) {
	c := x.(*client)
	c.byRSN = len(*h)
	*h = append(*h, c)
}

func (h *rsnHeap) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return c
}
