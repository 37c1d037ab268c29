package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/sequencer"
)

func TestJudgeAccepts(t *testing.T) {
	r := newRig(t)
	first := r.create(blob("x", "old"))
	// The state at 6: a has left and come back as c, p1 is agreed on, p2 is not yet.
	r.log(join("a"), join("b"), propose("p1", `"v1"`), propose("p2", `{"v":2}`))
	r.log(leave("a"), edit(3))
	// After it; none of this belongs to the summary.
	r.log(edit(4), leave("b"), join("c"))
	op := r.log(summarizeOp(r.upload(blob("x", "new")), first, 6))

	v, err := r.doc.Judge(t.Context(), []string{first}, op)
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	var data string
	if err := json.Unmarshal(v.Data, &data); err != nil || data != string(v.Contents) {
		t.Errorf("data %s is not contents %s as a string", v.Data, v.Contents)
	}
	state := State{Head: first, Pending: []sequencer.SequencedOp{op}}
	state.Apply(sequencer.SequencedOp{Type: v.Type, Contents: v.Contents})
	if len(state.Pending) != 0 || state.Head == first {
		t.Fatalf("state after the ack: %+v", state)
	}
	want := fmt.Sprintf(`{"handle":"%s","summaryProposal":{"summarySequenceNumber":10}}`, state.Head)
	if v.Type != sequencer.TypeSummaryAck || string(v.Contents) != want {
		t.Errorf("verdict %s %s, want %s", v.Type, v.Contents, want)
	}
	// The first commit's id has the time in it.
	golden(t, "summary.txt", []byte(strings.ReplaceAll(strings.Join(r.download(state.Head).files(t), "\n"), first, "FIRST")))

	commit, err := r.doc.Commit(t.Context(), state.Head)
	if err != nil || commit.Message != "Summary @6" || !slices.Equal(commit.Parents, []string{first}) || commit.Date.UnixMilli() != op.Timestamp {
		t.Errorf("commit %+v, %v", commit, err)
	}
	versions, err := r.doc.Commits(t.Context(), state.Head, 5)
	if err != nil || len(versions) != 2 || versions[0].ID != state.Head || versions[1].ID != first {
		t.Errorf("versions %+v, %v; want the new one and the first", versions, err)
	}
	if versions, err := r.doc.Commits(t.Context(), state.Head, 1); err != nil || len(versions) != 1 {
		t.Errorf("one version: %+v, %v", versions, err)
	}
}

// The next summary starts from what the last one stored, not from the beginning.
func TestJudgeGoesOnFromItsParent(t *testing.T) {
	r := newRig(t)
	head := r.create()
	r.log(join("a"), propose("k", "1"), join("b"))
	head = r.accept(r.upload(blob("x", "1")), head, 3)
	r.log(edit(2), leave("a"), join("c"))
	first := head
	head = r.accept(r.upload(blob("x", "2")), head, 7)
	golden(t, "summary_second.txt", []byte(strings.ReplaceAll(strings.Join(r.download(head).files(t), "\n"), first, "FIRST")))
}

func TestJudgeIsRepeatable(t *testing.T) {
	r := newRig(t)
	first := r.create()
	r.log(join("a"), edit(0))
	op := r.log(summarizeOp(r.upload(blob("x", "1")), first, 2))

	r.st.takePuts()
	r.st.fail = errors.New("disk full")
	if _, err := r.doc.Judge(t.Context(), []string{first}, op); err == nil {
		t.Fatal("the commit was not stored, yet the op was judged")
	}
	verdict, err := r.doc.Judge(t.Context(), []string{first}, op)
	if err != nil {
		t.Fatalf("judge again: %v", err)
	}
	if puts := r.st.takePuts(); len(puts) != 2 {
		t.Errorf("%d writes for two judgements, want 2", len(puts))
	}
	// More was ordered meanwhile; the verdict was lost in a crash.
	r.log(edit(1), join("b"))
	again, err := r.doc.Judge(t.Context(), []string{first}, op)
	if err != nil || string(again.Contents) != string(verdict.Contents) {
		t.Errorf("judged again: %s, %v; want %s", again.Contents, err, verdict.Contents)
	}
	if puts := r.st.takePuts(); len(puts) != 0 {
		t.Errorf("writes %v for a commit that was there", puts)
	}
}

func TestJudgeRefuses(t *testing.T) {
	r := newRig(t)
	first := r.create(blob("x", "1"))
	r.log(join("a"), edit(0), edit(0))
	up := r.upload(blob("x", "2"))
	second := r.accept(up, first, 2)
	attachment, err := r.doc.PutBlob(t.Context(), []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	unknown := strings.Repeat("0", 40)
	withProtocol := summarizeOp(up, second, 3)
	withProtocol.Contents = literal(fmt.Sprintf(`{"handle":%q,"head":%q,"details":{"includesProtocolTree":true}}`, up, second))
	notJSON := summarizeOp(up, second, 3)
	notJSON.Contents = literal("{")
	object := summarizeOp(up, second, 3)
	object.Contents = json.RawMessage(`{"handle":"x"}`)
	absent := summarizeOp(up, second, 3)
	absent.Contents = nil

	for _, test := range []struct {
		name string
		op   sequencer.SequencedOp
		want string
	}{
		{"NotJSON", notJSON, "not a JSON string"},
		{"Object", object, "not a JSON string"},
		{"NoContents", absent, "not a JSON string"},
		{"OlderParent", summarizeOp(up, first, 3), `Proposed parent summary "` + first + `" does not match actual parent summary "` + second + `".`},
		{"NoParent", summarizeOp(up, "", 3), `Proposed parent summary "" does not match`},
		{"BeforeItsParent", summarizeOp(up, second, 1), "reference sequence number 1 must lie between 2"},
		{"Now", summarizeOp(up, second, -1), "reference sequence number -1 must lie"},
		{"OfTheFuture", summarizeOp(up, second, 1000), "reference sequence number 1000 must lie"},
		{"UnknownHandle", summarizeOp(unknown, second, 3), `no summary was uploaded with handle "` + unknown + `"`},
		{"HandleIsACommit", summarizeOp(second, second, 3), "no summary was uploaded"},
		{"HandleIsABlob", summarizeOp(attachment, second, 3), "no summary was uploaded"},
		{"HandleIsNoID", summarizeOp("../x", second, 3), "no summary was uploaded"},
		{"WithProtocolTree", withProtocol, "enable_single_commit_summary"},
	} {
		t.Run(test.name, func(t *testing.T) {
			op := r.log(test.op)
			r.st.takePuts()
			v, err := r.doc.Judge(t.Context(), []string{second}, op)
			if err != nil {
				t.Fatalf("judge: %v", err)
			}
			var nack answer
			if err := json.Unmarshal(v.Contents, &nack); err != nil {
				t.Fatal(err)
			}
			if v.Type != sequencer.TypeSummaryNack || !strings.Contains(nack.Message, test.want) || nack.Proposal.Seq != op.Seq {
				t.Errorf("verdict %s %s, want a nack of %d with %q", v.Type, v.Contents, op.Seq, test.want)
			}
			if puts := r.st.takePuts(); len(puts) != 0 {
				t.Errorf("%d writes for a refused summary", len(puts))
			}
		})
	}
}

// With the log's tail and the quorum added, a summary may pass a limit that it kept.
func TestJudgeRefusesWhatGrowsOverALimit(t *testing.T) {
	r := newRig(t)
	first := r.create()
	r.log(join("a"))
	v, err := r.doc.Judge(t.Context(), []string{first}, r.log(summarizeOp(r.upload(nested(MaxDepth-1)), first, 1)))
	if err != nil || v.Type != sequencer.TypeSummaryNack || !strings.Contains(string(v.Contents), "deeper than 64") {
		t.Errorf("verdict %s %s, %v; want a nack", v.Type, v.Contents, err)
	}
}

// A quorum that no object holds is refused, too: it will be as large whenever it is tried.
func TestJudgeRefusesAQuorumThatIsTooLarge(t *testing.T) {
	r := newRig(t)
	first := r.create()
	r.log(join("a"))
	large := `"` + strings.Repeat("x", 700<<10) + `"`
	for i := range envelope.MaxPlaintextBytes/len(large) + 1 {
		r.log(propose(fmt.Sprint(i), large))
	}
	v, err := r.doc.Judge(t.Context(), []string{first}, r.log(summarizeOp(r.upload(), first, r.seq)))
	if err != nil || v.Type != sequencer.TypeSummaryNack || !strings.Contains(string(v.Contents), "whatever the limits") {
		t.Errorf("verdict %s %.200s, %v; want a nack", v.Type, v.Contents, err)
	}
}

func TestJudgeCannotDecideWithoutTheLog(t *testing.T) {
	r := newRig(t)
	first := r.create()
	r.log(join("a"))
	op := summarizeOp(r.upload(), first, 5)
	op.Seq = 6 // of a log that ends at 1
	if v, err := r.doc.Judge(t.Context(), []string{first}, op); err == nil {
		t.Errorf("verdict %s %s, want an error", v.Type, v.Contents)
	}
}

func TestLogTailIsBounded(t *testing.T) {
	r := newRig(t)
	first := r.create()
	r.log(join("a"))
	for range 5 {
		var ops []sequencer.SequencedOp
		for range 500 {
			ops = append(ops, edit(0))
		}
		r.log(ops...)
	}
	head := r.accept(r.upload(), first, 1)
	var tail []json.RawMessage
	if err := json.Unmarshal(r.logTail(head), &tail); err != nil || len(tail) != MaxLogTailOps {
		t.Fatalf("log tail of %d ops, %v; want %d", len(tail), err, MaxLogTailOps)
	}
	if op, err := sequencer.ParseSequencedOp(tail[0]); err != nil || op.Seq != 2 {
		t.Errorf("log tail begins at %d, %v; want 2", op.Seq, err)
	}

	large := edit(0)
	large.Contents = literal(strings.Repeat("x", 700_000))
	at := r.seq
	r.log(large, large)
	r.log(large, large)
	if got := len(r.logTail(r.accept(r.upload(blob("x", "1")), head, at))); got > maxLogTailBytes+1 {
		t.Errorf("log tail of %d bytes, want at most %d", got, maxLogTailBytes)
	}
}

func (r *rig) logTail(commit string) []byte {
	r.t.Helper()
	for _, f := range r.download(commit).files(r.t) {
		if tail, ok := strings.CutPrefix(f, ".logTail/logTail: "); ok {
			return []byte(tail)
		}
	}
	r.t.Fatal("no log tail")
	return nil
}

func TestStateFollowsTheLog(t *testing.T) {
	var s State
	s.Head = "c0"
	propose := func(seq sequencer.Seq) sequencer.SequencedOp {
		return sequencer.SequencedOp{ClientID: "a", Seq: seq, Type: sequencer.TypeSummarize}
	}
	settle := func(client sequencer.ClientID, typ string, seq sequencer.Seq, handle string) sequencer.SequencedOp {
		contents, err := encodeJSON(answer{Handle: handle, Proposal: proposed{Seq: seq}})
		if err != nil {
			t.Fatal(err)
		}
		return sequencer.SequencedOp{ClientID: client, Type: typ, Contents: contents}
	}
	for i, step := range []struct {
		op      sequencer.SequencedOp
		head    string
		pending []sequencer.Seq
	}{
		{edit(0), "c0", nil},
		{propose(2), "c0", []sequencer.Seq{2}},
		{propose(3), "c0", []sequencer.Seq{2, 3}},
		{settle("a", sequencer.TypeSummaryAck, 2, "forged"), "c0", []sequencer.Seq{2, 3}},
		{settle("", sequencer.TypeSummaryAck, 2, "c1"), "c1", []sequencer.Seq{3}},
		{settle("", sequencer.TypeSummaryNack, 3, ""), "c1", nil},
		{settle("", sequencer.TypeSummaryNack, 99, ""), "c1", nil},
	} {
		s.Apply(step.op)
		var pending []sequencer.Seq
		for _, p := range s.Pending {
			pending = append(pending, p.Seq)
		}
		if s.Head != step.head || !slices.Equal(pending, step.pending) {
			t.Errorf("step %d: head %s, pending %v; want %s, %v", i, s.Head, pending, step.head, step.pending)
		}
	}
}

func TestSummaryStopsWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.doc.Summary(ctx, r.create(blob("x", strings.Repeat("x", 200_000))))
	if err != nil {
		t.Fatal(err)
	}
	cut := errors.New("client went away")
	if err := s.Write(ctx, writerFunc(func([]byte) (int, error) { cancel(); return 0, cut })); !errors.Is(err, cut) {
		t.Errorf("got %v, want the writer's error", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Whatever a client writes into a summarize op, there is a verdict: without one the
// op would stay pending, and all summaries after it.
func FuzzJudge(f *testing.F) {
	r := newRig(f)
	first := r.create(blob("x", "1"))
	up := r.upload(blob("x", "2"))
	r.log(join("a"), edit(0))
	f.Add(`{"handle":"`+up+`","head":"`+first+`","message":"m","parents":["`+first+`"],"details":{"includesProtocolTree":false}}`, int64(1))
	f.Add(`{"handle":"`+first+`","head":"`+first+`"}`, int64(0))
	f.Add(`{"handle":"../x","head":"`+first+`","parents":null,"details":null}`, int64(-1))
	f.Add(`[]`, int64(1<<62))
	f.Fuzz(func(t *testing.T, contents string, rsn int64) {
		op := summarizeOp("", "", sequencer.Seq(rsn))
		op.Contents, op.Seq = literal(contents), r.seq+1
		v, err := r.doc.Judge(t.Context(), []string{first}, op)
		if err != nil {
			t.Fatalf("%q at %d: %v", contents, rsn, err)
		}
		if !json.Valid(v.Contents) || !json.Valid(v.Data) || v.Type != sequencer.TypeSummaryAck && v.Type != sequencer.TypeSummaryNack {
			t.Errorf("%q at %d: %s %s", contents, rsn, v.Type, v.Contents)
		}
	})
}
