package sequencer

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"
)

var start = time.UnixMilli(1795438350068)

// room is a sequencer with clients that have joined, at start.
func room(t *testing.T, ids ...ClientID) *Sequencer {
	t.Helper()
	s := New(State{})
	for _, id := range ids {
		if _, ok := s.Join(start, Client{ID: id}); !ok {
			t.Fatalf("Join(%q) = false, want true", id)
		}
	}
	return s
}

func op(csn int64, rsn Seq) Op {
	return Op{CSN: csn, RSN: rsn, Type: TypeOp, Contents: json.RawMessage(`"x"`)}
}

func noop(csn int64, rsn Seq, contents string) Op {
	return Op{CSN: csn, RSN: rsn, Type: TypeNoop, Contents: json.RawMessage(contents)}
}

// accept submits an op that must be sequenced.
func accept(t *testing.T, s *Sequencer, now time.Time, id ClientID, o Op) SequencedOp {
	t.Helper()
	got, nack := s.Submit(now, id, o)
	if nack != nil || got == nil {
		t.Fatalf("Submit(%s, %+v) = %v, %v; want it sequenced", id, o, got, nack)
	}
	return *got
}

// drop submits an op that must neither be sequenced nor nacked.
func drop(t *testing.T, s *Sequencer, now time.Time, id ClientID, o Op) {
	t.Helper()
	if got, nack := s.Submit(now, id, o); got != nil || nack != nil {
		t.Fatalf("Submit(%s, %+v) = %v, %v; want nothing", id, o, got, nack)
	}
}

// refuse submits an op that must be nacked.
func refuse(t *testing.T, s *Sequencer, id ClientID, o Op, want Nack) {
	t.Helper()
	got, nack := s.Submit(start, id, o)
	if got != nil || nack == nil || *nack != want {
		t.Fatalf("Submit(%s, %+v) = %v, %+v; want nack %+v", id, o, got, nack, want)
	}
}

func badRequest(seq Seq, message string) Nack {
	return Nack{Seq: seq, Code: 400, Type: "BadRequestError", Message: message}
}

func TestFreshDocumentStartsWithJoin(t *testing.T) {
	s := New(State{})
	got, ok := s.Join(start, Client{ID: "a", Detail: json.RawMessage(`{"mode":"write"}`)})
	if !ok || got.Seq != 1 || got.MSN != 0 || got.ClientID != "" || got.CSN != -1 || got.RSN != -1 || got.Timestamp != start.UnixMilli() {
		t.Errorf("first join = %+v, %v; want seq 1, msn 0, csn and rsn -1, no client id", got, ok)
	}
	if _, ok := s.Join(start, Client{ID: "a"}); ok || s.State().Seq != 1 {
		t.Errorf("second join of the same client = %v at seq %d; want false, and still seq 1", ok, s.State().Seq)
	}
}

func TestLastLeaveIsFollowedByNoClient(t *testing.T) {
	s := room(t, "a", "b")
	if got := s.Leave(start, "a"); len(got) != 1 || got[0].Type != TypeLeave || got[0].Seq != 3 {
		t.Fatalf("Leave(a) = %+v; want one leave with seq 3", got)
	}
	got := s.Leave(start, "b")
	if len(got) != 2 || got[0].Type != TypeLeave || got[0].MSN != 4 || got[1].Type != TypeNoClient ||
		got[1].Seq != 5 || got[1].RSN != 5 || got[1].MSN != 5 || got[1].CSN != -1 {
		t.Errorf("Leave(b) = %+v; want leave 4 (msn 4) and noClient 5 (rsn 5, msn 5)", got)
	}
	if got := s.Leave(start, "b"); got != nil {
		t.Errorf("second Leave(b) = %+v; want nothing", got)
	}
	if join, _ := s.Join(start, Client{ID: "c"}); join.Seq != 6 || join.MSN != 5 {
		t.Errorf("join after noClient = seq %d msn %d; want 6 and 5", join.Seq, join.MSN)
	}
}

func TestDuplicateIsDroppedAndGapIsRefused(t *testing.T) {
	s := room(t, "a")
	accept(t, s, start, "a", op(1, 1))
	drop(t, s, start, "a", op(1, 1))
	drop(t, s, start, "a", op(0, 1))
	drop(t, s, start, "a", op(-7, 1))
	before := s.State()
	refuse(t, s, "a", op(3, 1), badRequest(1, "Gap detected in incoming op"))
	if after := s.State(); !reflect.DeepEqual(before, after) {
		t.Errorf("a gap changed the state from %+v to %+v", before, after)
	}
	if got := accept(t, s, start, "a", op(2, 1)); got.Seq != 3 {
		t.Errorf("the right csn after a gap got seq %d, want 3", got.Seq)
	}
}

func TestServiceTypesAreRefused(t *testing.T) {
	s := room(t, "a")
	for _, typ := range []string{TypeJoin, TypeLeave, TypeNoClient, TypeControl, TypeSummaryAck, TypeSummaryNack} {
		refuse(t, s, "a", Op{CSN: 1, RSN: 1, Type: typ}, badRequest(0, "Op not allowed"))
		refuse(t, s, "stranger", Op{CSN: 1, RSN: 1, Type: typ}, badRequest(0, "Op not allowed"))
	}
	accept(t, s, start, "a", op(1, 1)) // the csn was not consumed
}

func TestUnknownClientIsRefused(t *testing.T) {
	s := room(t, "a")
	refuse(t, s, "b", op(1, 1), badRequest(0, "Nonexistent client"))
	s.Leave(start, "a")
	refuse(t, s, "a", op(1, 1), badRequest(3, "Nonexistent client"))
}

func TestStaleReferenceNacksTheClientForGood(t *testing.T) {
	s := room(t, "a", "b")
	accept(t, s, start, "a", op(1, 2))
	accept(t, s, start, "b", op(1, 2)) // both at 2: msn 2
	refuse(t, s, "a", op(2, 1), badRequest(2, "Refseq 1 < 2"))
	drop(t, s, start, "a", op(2, 4)) // the csn was consumed
	refuse(t, s, "a", op(4, 4), badRequest(2, "Gap detected in incoming op"))
	refuse(t, s, "a", op(3, 4), badRequest(2, "Nonexistent client"))
	refuse(t, s, "b", op(2, -2), badRequest(2, "Refseq -2 < 2"))
	if got := s.Leave(start, "a"); len(got) != 1 {
		t.Fatalf("Leave of a nacked client = %+v; want one leave", got)
	}
	if _, ok := s.Join(start, Client{ID: "a2"}); !ok {
		t.Fatal("Join with a new id = false")
	}
	accept(t, s, start, "a2", op(1, 4))
}

func TestReferenceAboveHeadIsRefused(t *testing.T) {
	s := room(t, "a")
	before := s.State()
	refuse(t, s, "a", op(1, 2), badRequest(0, "Refseq 2 > 1"))
	if after := s.State(); !reflect.DeepEqual(before, after) {
		t.Errorf("the refused op changed the state from %+v to %+v", before, after)
	}
	accept(t, s, start, "a", op(1, 1))
}

func TestReferenceNowIsTheHead(t *testing.T) {
	s := room(t, "a")
	if got := accept(t, s, start, "a", op(1, -1)); got.RSN != 1 || got.Seq != 2 || got.MSN != 1 {
		t.Errorf("op with rsn -1 = rsn %d, seq %d, msn %d; want 1, 2, 1", got.RSN, got.Seq, got.MSN)
	}
}

func TestSummarizeNeedsItsScope(t *testing.T) {
	s := room(t, "a")
	summarize := Op{CSN: 1, RSN: 1, Type: TypeSummarize, Contents: json.RawMessage(`"{}"`)}
	refuse(t, s, "a", summarize, Nack{Code: 403, Type: "InvalidScopeError", Message: "Client a does not have summary permission"})
	s.Join(start, Client{ID: "s", CanSummarize: true})
	if got := accept(t, s, start, "s", summarize); got.Type != TypeSummarize {
		t.Errorf("summarize came out as %+v", got)
	}
	accept(t, s, start, "a", op(1, 1)) // the refusal did not consume the csn
}

func TestMinimumFollowsTheSlowestWriter(t *testing.T) {
	s := room(t, "a", "b") // seq 2, both at rsn 0
	steps := []struct {
		id   ClientID
		op   Op
		want Seq
	}{
		{"a", op(1, 2), 0},
		{"a", op(2, 3), 0},
		{"b", op(1, 2), 2},
		{"b", op(2, 5), 3},
		{"a", op(3, 4), 4},
	}
	for i, step := range steps {
		if got := accept(t, s, start, step.id, step.op); got.MSN != step.want {
			t.Errorf("step %d, an op of %s at rsn %d: msn %d, want %d", i, step.id, step.op.RSN, got.MSN, step.want)
		}
	}
	if got := s.Leave(start, "a"); got[0].MSN != 5 {
		t.Errorf("msn after the slower one left = %d, want 5", got[0].MSN)
	}
}

func TestNoopWithNullIsConsolidated(t *testing.T) {
	s := room(t, "a", "b") // seq 2
	accept(t, s, start, "a", op(1, 2))
	drop(t, s, start, "b", noop(1, 2, `null`)) // raises msn to 2
	due := start.Add(250 * time.Millisecond)
	if got := s.NextTick(); !got.Equal(due) {
		t.Errorf("NextTick = %v, want %v", got, due)
	}
	drop(t, s, start.Add(100*time.Millisecond), "b", Op{CSN: 2, RSN: 3, Type: TypeNoop})
	if got := s.Tick(due.Add(-time.Millisecond)); got != nil {
		t.Errorf("Tick before the time = %+v, want nothing", got)
	}
	got := s.Tick(due)
	if len(got) != 1 || got[0].Type != TypeNoop || got[0].ClientID != "" || got[0].Seq != 4 || got[0].MSN != 2 || got[0].CSN != -1 || got[0].RSN != -1 {
		t.Errorf("Tick = %+v; want one service noop, seq 4, msn 2", got)
	}
	if got := s.Tick(due.Add(time.Second)); got != nil {
		t.Errorf("second Tick = %+v, want nothing", got)
	}
}

func TestNoopThatMovesNothingIsDropped(t *testing.T) {
	s := room(t, "a", "b")
	drop(t, s, start, "a", noop(1, 2, `null`)) // b still at 0
	drop(t, s, start, "a", noop(2, 2, `""`))
	if got := s.NextTick(); !got.Equal(start.Add(ClientTimeout)) {
		t.Errorf("NextTick = %v, want only the eviction at %v", got, start.Add(ClientTimeout))
	}
	accept(t, s, start, "a", op(3, 2)) // both noops consumed a csn
}

func TestNoopWithContentsIsSentWhenMinimumMoved(t *testing.T) {
	s := room(t, "a", "b")
	drop(t, s, start, "a", noop(1, 2, `null`))
	got := accept(t, s, start, "b", noop(1, 2, `""`))
	if got.Type != TypeNoop || got.ClientID != "b" || got.Seq != 3 || got.MSN != 2 || string(got.Contents) != `""` {
		t.Errorf("noop = %+v; want b's noop with seq 3, msn 2", got)
	}
	if got := s.Tick(start.Add(NoopConsolidation)); got != nil {
		t.Errorf("Tick = %+v; the sent noop should have settled it", got)
	}
}

func TestOpSettlesAWaitingNoop(t *testing.T) {
	s := room(t, "a", "b")
	drop(t, s, start, "a", noop(1, 2, `null`))
	drop(t, s, start, "b", noop(1, 2, `null`))
	if got := accept(t, s, start, "a", op(2, 2)); got.MSN != 2 {
		t.Errorf("msn = %d, want 2", got.MSN)
	}
	if got := s.Tick(start.Add(NoopConsolidation)); got != nil {
		t.Errorf("Tick = %+v, want nothing", got)
	}
}

func TestSilentWritersAreEvicted(t *testing.T) {
	s := room(t, "a", "b")
	later := start.Add(4 * time.Minute)
	accept(t, s, later, "a", op(1, 2))
	got := s.Tick(start.Add(5 * time.Minute))
	if len(got) != 1 || string(got[0].Data) != `"\"b\""` {
		t.Fatalf("Tick at 5 min = %+v; want the leave of b", got)
	}
	if got := s.NextTick(); !got.Equal(later.Add(5 * time.Minute)) {
		t.Errorf("NextTick = %v, want %v", got, later.Add(5*time.Minute))
	}
	if got := s.Tick(later.Add(ClientTimeout)); len(got) != 2 || got[1].Type != TypeNoClient {
		t.Errorf("Tick at 9 min = %+v; want leave and noClient", got)
	}
	if got := s.NextTick(); !got.IsZero() {
		t.Errorf("NextTick of an empty room = %v, want zero", got)
	}
}

func TestWaitingNoopSurvivesACheckpoint(t *testing.T) {
	s := room(t, "a")
	drop(t, s, start, "a", noop(1, 1, `null`))
	s = New(s.State())
	due := start.Add(NoopConsolidation)
	if got := s.NextTick(); !got.Equal(due) {
		t.Errorf("NextTick = %v, want %v", got, due)
	}
	if got := s.Tick(due); len(got) != 1 || got[0].Type != TypeNoop || got[0].MSN != 1 {
		t.Errorf("Tick = %+v, want a noop with msn 1", got)
	}
}

func TestTimestampsNeverFall(t *testing.T) {
	s := room(t, "a")
	first := accept(t, s, start.Add(time.Second), "a", op(1, 1))
	second := accept(t, s, start.Add(-time.Hour), "a", op(2, 1))
	if second.Timestamp != first.Timestamp {
		t.Errorf("timestamp went from %d to %d after the clock stepped back; want it to stand still", first.Timestamp, second.Timestamp)
	}
	if got := New(s.State()).Server(start, TypeSummaryAck, nil, nil); got.Timestamp != first.Timestamp {
		t.Errorf("timestamp after restart = %d, want %d", got.Timestamp, first.Timestamp)
	}
}

func TestServerOp(t *testing.T) {
	s := room(t, "a")
	got := s.Server(start, TypeSummaryAck, json.RawMessage(`{"handle":"h"}`), json.RawMessage(`"{\"handle\":\"h\"}"`))
	if got.Seq != 2 || got.CSN != -1 || got.RSN != -1 || got.ClientID != "" || got.MSN != 0 {
		t.Errorf("Server = %+v; want seq 2, msn 0, csn and rsn -1", got)
	}
}

func TestReplayRefusesAForeignLog(t *testing.T) {
	base := room(t, "a").State()
	good := SequencedOp{ClientID: "a", CSN: 1, RSN: 1, Seq: 2, MSN: 1, Timestamp: start.UnixMilli(), Type: TypeOp}
	cases := map[string]func(*SequencedOp){
		"gap":           func(o *SequencedOp) { o.Seq = 3 },
		"repeat":        func(o *SequencedOp) { o.Seq = 1 },
		"msn_above":     func(o *SequencedOp) { o.MSN = 3 },
		"msn_falls":     func(o *SequencedOp) { o.MSN = -1 },
		"time_falls":    func(o *SequencedOp) { o.Timestamp-- },
		"stranger":      func(o *SequencedOp) { o.ClientID = "b" },
		"csn_repeat":    func(o *SequencedOp) { o.CSN = 0 },
		"join_twice":    func(o *SequencedOp) { o.ClientID, o.Type, o.Data = "", TypeJoin, joinData(Client{ID: "a"}) },
		"join_nobody":   func(o *SequencedOp) { o.ClientID, o.Type, o.Data = "", TypeJoin, json.RawMessage(`"{}"`) },
		"join_no_data":  func(o *SequencedOp) { o.ClientID, o.Type = "", TypeJoin },
		"leave_unknown": func(o *SequencedOp) { o.ClientID, o.Type, o.Data = "", TypeLeave, leaveData("b") },
		"leave_no_json": func(o *SequencedOp) { o.ClientID, o.Type, o.Data = "", TypeLeave, json.RawMessage(`"b"`) },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			o := good
			spoil(&o)
			if err := New(base).Apply(o); err == nil {
				t.Errorf("Apply(%+v) = nil, want an error", o)
			}
		})
	}
	if err := New(base).Apply(good); err != nil {
		t.Errorf("Apply(%+v) = %v, want nil", good, err)
	}
}

func TestReplayReadsScopesOfTheJoin(t *testing.T) {
	live := New(State{})
	join, _ := live.Join(start, Client{ID: "s", Detail: json.RawMessage(`{"scopes":["doc:read","summary:write"]}`), CanSummarize: true})
	replayed := New(State{})
	if err := replayed.Apply(join); err != nil {
		t.Fatal(err)
	}
	if got, want := replayed.State(), live.State(); !reflect.DeepEqual(got, want) {
		t.Errorf("replayed state = %+v, want %+v", got, want)
	}
}

func TestRecoveredClientsLeaveNothingBehind(t *testing.T) {
	s := room(t, "a", "b", "c")
	accept(t, s, start, "a", op(1, 3))
	recovered := New(s.State())
	var ops []SequencedOp
	for _, c := range recovered.State().Clients {
		ops = append(ops, recovered.Leave(start, c.ID)...)
	}
	types := make([]string, len(ops))
	for i, o := range ops {
		types[i] = o.Type
	}
	if want := []string{TypeLeave, TypeLeave, TypeLeave, TypeNoClient}; !slices.Equal(types, want) {
		t.Errorf("ops = %v, want %v", types, want)
	}
	if st := recovered.State(); st.MSN != st.Seq || len(st.Clients) != 0 {
		t.Errorf("state = %+v; want msn at the head and no clients", st)
	}
}
