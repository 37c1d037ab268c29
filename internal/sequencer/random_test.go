package sequencer

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// world drives a Sequencer at random and knows, by the plainest means, what has to
// come out. It is the second opinion on the table, the heap and the timers.
type world struct {
	t    *testing.T
	seed uint64
	r    *rand.Rand
	s    *Sequencer
	now  time.Time

	log     []SequencedOp // everything emitted
	clients map[ClientID]*modelClient
	msn     Seq // with unsequenced noops
	nextID  int

	checkpoint State
	logged     int  // len(log) at the checkpoint
	lossy      bool // since the checkpoint, something happened that no op tells
	counts     map[string]int
}

type modelClient struct {
	csn          int64
	rsn          Seq
	last         int64 // ms
	nacked       bool
	canSummarize bool
}

var seedFlag = flag.Uint64("seed", 0, "the seed of the first random history; 0: any")

// Over 10^5 steps in each run; go test -run Histories -seed N repeats them.
func TestRandomHistories(t *testing.T) {
	const histories, steps = 40, 4000
	seed := cmp.Or(*seedFlag, rand.Uint64())
	t.Logf("seeds %d to %d", seed, seed+histories-1)
	total := map[string]int{}
	for i := range uint64(histories) {
		w := newWorld(t, seed+i)
		for range steps {
			w.step()
			if t.Failed() {
				t.Fatalf("seed %d, after %d ops", w.seed, len(w.log))
			}
		}
		for k, n := range w.counts {
			total[k] += n
		}
	}
	t.Logf("%d steps: %v", histories*steps, total)
	for _, kind := range []string{
		"join", "leave", "op", "noop", "duplicate", "gap", "type", "nonexistent",
		"stale", "future", "scope", "waiting", "evicted", "tick noop", "crash", "exact replay",
	} {
		if total[kind] == 0 {
			t.Errorf("no %q in %d histories; the generator is broken", kind, histories)
		}
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), s: New(State{}), now: start,
		clients: map[ClientID]*modelClient{}, counts: map[string]int{},
	}
}

func (w *world) head() Seq { return Seq(len(w.log)) }

func (w *world) step() {
	switch w.r.IntN(1000) {
	case 0, 1, 2, 3:
		w.now = w.now.Add(-time.Second)
	case 4, 5:
		w.now = w.now.Add(time.Duration(w.r.IntN(600)) * time.Second)
	default:
		w.now = w.now.Add(time.Duration(w.r.IntN(120)) * time.Millisecond)
	}
	switch n := w.r.IntN(100); {
	case n < 4:
		w.join()
	case n < 6:
		w.leave()
	case n < 20:
		w.tick()
	case n < 22:
		w.server()
	case n < 24:
		w.checkpoint, w.logged, w.lossy = w.s.State(), len(w.log), false
	case n < 25 && w.r.IntN(10) == 0:
		w.crash()
	default:
		w.submit()
	}
	w.compare()
}

// emitted checks one op that came out against the order so far.
func (w *world) emitted(op SequencedOp) {
	w.t.Helper()
	var last SequencedOp
	if len(w.log) > 0 {
		last = w.log[len(w.log)-1]
	}
	w.log = append(w.log, op)
	w.msn = max(w.msn, w.minimum())
	if op.Seq != last.Seq+1 || op.MSN != w.msn || op.MSN < last.MSN || op.Timestamp < last.Timestamp {
		w.t.Errorf("op %+v after %+v; want seq %d, msn %d, no earlier time", op, last, last.Seq+1, w.msn)
	}
	for id, c := range w.clients {
		if op.MSN > c.rsn {
			w.t.Errorf("op %d has msn %d above the rsn %d of %s", op.Seq, op.MSN, c.rsn, id)
		}
	}
	w.counts[op.Type]++
}

func (w *world) minimum() Seq {
	if len(w.clients) == 0 {
		return w.head()
	}
	var lowest Seq = 1 << 62
	for _, c := range w.clients {
		lowest = min(lowest, c.rsn)
	}
	return lowest
}

// someone picks a client, sometimes one that is not there.
func (w *world) someone() ClientID {
	ids := make([]ClientID, 0, len(w.clients)+1)
	for id := range w.clients {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) == 0 || w.r.IntN(30) == 0 {
		return ClientID(fmt.Sprintf("c%d", w.r.IntN(w.nextID+1)))
	}
	return ids[w.r.IntN(len(ids))]
}

func (w *world) join() {
	id, detail := ClientID(fmt.Sprintf("c%d", w.nextID)), `{"scopes":["doc:write"]}`
	if w.r.IntN(5) == 0 && len(w.clients) > 0 {
		id = w.someone()
	} else {
		w.nextID++
	}
	canSummarize := w.r.IntN(3) == 0
	if canSummarize {
		detail = `{"scopes":["doc:write","summary:write"]}`
	}
	_, there := w.clients[id]
	op, ok := w.s.Join(w.now, Client{ID: id, Detail: json.RawMessage(detail), CanSummarize: canSummarize})
	if ok == there {
		w.t.Errorf("Join(%s) = %v, want %v", id, ok, !there)
	}
	if ok {
		w.clients[id] = &modelClient{rsn: w.msn, last: op.Timestamp, canSummarize: canSummarize}
		w.emitted(op)
	}
}

func (w *world) leave() {
	id := w.someone()
	_, there := w.clients[id]
	ops := w.s.Leave(w.now, id)
	if there != (len(ops) > 0) {
		w.t.Errorf("Leave(%s) = %v; there: %v", id, ops, there)
	}
	w.left(id, ops)
}

// left takes the ops of one leave off ops and returns the rest.
func (w *world) left(id ClientID, ops []SequencedOp) []SequencedOp {
	if len(ops) == 0 {
		return nil
	}
	var got ClientID
	if err := parseData(ops[0].Data, &got); err != nil || ops[0].Type != TypeLeave || got != id {
		w.t.Errorf("op %+v; want the leave of %s", ops[0], id)
	}
	delete(w.clients, id)
	w.emitted(ops[0])
	if len(w.clients) > 0 {
		return ops[1:]
	}
	if len(ops) < 2 || ops[1].Type != TypeNoClient {
		w.t.Fatalf("seed %d: no noClient after the last leave: %+v", w.seed, ops)
	}
	w.emitted(ops[1])
	return ops[2:]
}

func (w *world) tick() {
	due := w.s.NextTick()
	// Go to the time exactly, but seldom to an eviction: the room would soon be empty.
	if due.After(w.now) && (due.Sub(w.now) < time.Second || w.r.IntN(100) == 0) {
		w.now = due
	}
	ops := w.s.Tick(w.now)
	if latest := time.UnixMilli(w.s.now); (due.IsZero() || due.After(latest)) != (len(ops) == 0) {
		w.t.Errorf("Tick at %v = %+v, but NextTick was %v", latest, ops, due)
	}
	for len(ops) > 0 && ops[0].Type == TypeLeave {
		var id ClientID
		if err := parseData(ops[0].Data, &id); err != nil {
			w.t.Fatal(err)
		}
		if c := w.clients[id]; c == nil || c.last+ClientTimeout.Milliseconds() > w.s.now {
			w.t.Errorf("%s was evicted, but it is not known or spoke recently: %+v", id, c)
		}
		w.counts["evicted"]++
		ops = w.left(id, ops)
	}
	if len(ops) > 0 {
		if len(ops) > 1 || ops[0].Type != TypeNoop {
			w.t.Errorf("Tick gave %+v", ops)
		}
		w.counts["tick noop"]++
		w.emitted(ops[0])
	}
}

func (w *world) server() {
	w.emitted(w.s.Server(w.now, TypeSummaryAck, json.RawMessage(`{}`), json.RawMessage(`"{}"`)))
}

// submit makes an op that may be wrong in one or more ways.
func (w *world) submit() {
	id := w.someone()
	c := w.clients[id]
	o := Op{Type: TypeOp, CSN: 1, RSN: w.head() - Seq(w.r.IntN(6)), Contents: json.RawMessage(`"x"`)}
	if c != nil {
		o.CSN = c.csn + 1
		o.RSN = max(o.RSN, w.msn)
	}
	switch w.r.IntN(20) {
	case 0:
		o.CSN -= int64(1 + w.r.IntN(3))
	case 1:
		o.CSN += int64(1 + w.r.IntN(3))
	case 2:
		if w.r.IntN(10) == 0 { // rare, for it ends the client
			o.RSN = w.msn - Seq(1+w.r.IntN(3))
		}
	case 3:
		o.RSN = w.head() + Seq(1+w.r.IntN(3))
	case 4:
		o.RSN = -1
	case 5:
		o.Type = TypeSummarize
	case 6:
		o.Type = []string{TypeJoin, TypeLeave, TypeNoClient, TypeControl, TypeSummaryAck, TypeSummaryNack}[w.r.IntN(6)]
	case 7, 8, 9, 10:
		o.Type, o.Contents = TypeNoop, nil
	case 11:
		o.Type, o.Contents = TypeNoop, json.RawMessage(`""`)
	}
	outcome, nacks := w.expect(c, o)
	sentMSN := w.s.State().LastSentMSN
	got, nack := w.s.Submit(w.now, id, o)
	if nacks != (nack != nil) || nack != nil && (nack.Message == "" || nack.Seq != w.msn) {
		w.t.Errorf("Submit(%s, %+v) nack %+v, want %q", id, o, nack, outcome)
	}
	switch {
	case nacks && outcome == "stale":
		c.nacked, c.csn, w.lossy = true, o.CSN, true
	case outcome == "accept":
		if o.RSN == -1 {
			o.RSN = w.head()
		}
		c.csn, c.rsn, c.last = o.CSN, o.RSN, w.s.now
		w.msn = max(w.msn, w.minimum())
		if o.Type == TypeNoop && (isNull(o.Contents) || w.msn == sentMSN) {
			outcome, w.lossy = "waiting", true
		}
	}
	w.counts[outcome]++
	if (got != nil) != (outcome == "accept") {
		w.t.Errorf("Submit(%s, %+v) = %+v, want %q", id, o, got, outcome)
	}
	if got != nil {
		if got.ClientID != id || got.CSN != o.CSN || got.RSN != o.RSN || got.Type != o.Type {
			w.t.Errorf("Submit(%s, %+v) = %+v", id, o, got)
		}
		w.emitted(*got)
	}
}

// expect says what the rules make of an op, and whether that is a nack.
func (w *world) expect(c *modelClient, o Op) (outcome string, nacks bool) {
	forbidden := slices.Contains([]string{TypeJoin, TypeLeave, TypeNoClient, TypeControl, TypeSummaryAck, TypeSummaryNack}, o.Type)
	switch {
	case c != nil && o.CSN <= c.csn:
		return "duplicate", false
	case c != nil && o.CSN != c.csn+1:
		return "gap", true
	case forbidden:
		return "type", true
	case c == nil || c.nacked:
		return "nonexistent", true
	case o.RSN != -1 && o.RSN < w.msn:
		return "stale", true
	case o.RSN > w.head():
		return "future", true
	case o.Type == TypeSummarize && !c.canSummarize:
		return "scope", true
	}
	return "accept", false
}

// compare checks the live state against the model.
func (w *world) compare() {
	st := w.s.State()
	if st.Seq != w.head() || st.MSN != w.msn || st.MSN < st.LastSentMSN || len(st.Clients) != len(w.clients) {
		w.t.Errorf("state %+v; want seq %d, msn %d, %d clients", st, w.head(), w.msn, len(w.clients))
	}
	for _, got := range st.Clients {
		c := w.clients[got.ID]
		want := ClientState{ID: got.ID}
		if c != nil {
			want = ClientState{ID: got.ID, CSN: c.csn, RSN: c.rsn, LastUpdate: c.last, Nacked: c.nacked, CanSummarize: c.canSummarize}
		}
		if got != want {
			w.t.Errorf("client %+v, want %+v", got, want)
		}
	}
	var eviction time.Time // of the longest silent client
	for _, c := range w.clients {
		if due := time.UnixMilli(c.last).Add(ClientTimeout); eviction.IsZero() || due.Before(eviction) {
			eviction = due
		}
	}
	due := w.s.NextTick()
	if waiting := st.MSN > st.LastSentMSN; waiting && (due.IsZero() || due.After(eviction)) || !waiting && !due.Equal(eviction) {
		w.t.Errorf("NextTick = %v, want the eviction at %v, or before it the noop (waiting: %v)", due, eviction, waiting)
	}
}

// crash loses a tail of ops that was not durable, or none, and replays the log
// over the checkpoint as a restarted process does.
func (w *world) crash() {
	w.counts["crash"]++
	live := w.s.State()
	whole := w.r.IntN(3) > 0
	if !whole {
		w.log = w.log[:w.logged+w.r.IntN(len(w.log)-w.logged+1)]
	}
	s := New(w.checkpoint)
	for _, op := range w.log[w.logged:] {
		// What is applied is what was stored, so it goes through its wire form.
		stored, err := ParseSequencedOp(op.AppendJSON(nil))
		if err != nil {
			w.t.Fatalf("seed %d: %v", w.seed, err)
		}
		if err := s.Apply(stored); err != nil {
			w.t.Fatalf("seed %d: %v", w.seed, err)
		}
	}
	if whole {
		w.compareReplay(live, s.State())
	}
	w.recover(s)
}

// compareReplay checks what the package comment says of replay.
func (w *world) compareReplay(live, got State) {
	if !w.lossy {
		w.counts["exact replay"]++
		if !reflect.DeepEqual(got, live) {
			w.t.Errorf("replay gave %+v, want the live state %+v", got, live)
		}
		return
	}
	if got.Seq != live.Seq || got.LastSentMSN != live.LastSentMSN || got.Timestamp != live.Timestamp || len(got.Clients) != len(live.Clients) ||
		got.MSN > live.MSN || got.MSN < live.LastSentMSN {
		w.t.Fatalf("seed %d: replay gave %+v, live was %+v", w.seed, got, live)
	}
	for i, c := range got.Clients {
		l := live.Clients[i]
		if c.ID != l.ID || c.CSN > l.CSN || c.RSN < got.MSN || c.LastUpdate > l.LastUpdate || c.CanSummarize != l.CanSummarize {
			w.t.Errorf("replay gave client %+v, live was %+v", c, l)
		}
	}
}

// recover goes on with s as whoever replays must: all old clients leave.
func (w *world) recover(s *Sequencer) {
	w.s = s
	recovered := s.State()
	w.msn = recovered.MSN
	w.clients = map[ClientID]*modelClient{}
	for _, c := range recovered.Clients {
		w.clients[c.ID] = &modelClient{csn: c.CSN, rsn: c.RSN, last: c.LastUpdate, nacked: c.Nacked, canSummarize: c.CanSummarize}
	}
	for _, c := range recovered.Clients {
		w.left(c.ID, s.Leave(w.now, c.ID))
	}
	if st := s.State(); len(st.Clients) > 0 || len(recovered.Clients) > 0 && st.MSN != st.Seq {
		w.t.Errorf("after all have left: %+v; want no clients and the msn at the head", st)
	}
	w.checkpoint, w.logged, w.lossy = s.State(), len(w.log), false
}
