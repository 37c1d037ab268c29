package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/sequencer"
)

func noClient() sequencer.SequencedOp {
	return sequencer.SequencedOp{CSN: -1, Type: sequencer.TypeNoClient}
}

// serve has the service summary made that is due for a noClient op.
func (r *rig) serve(s *State, op sequencer.SequencedOp) (commit string) {
	r.t.Helper()
	commit, err := r.doc.ServiceSummary(r.t.Context(), *s, op)
	if err != nil || commit == "" {
		r.t.Fatalf("service summary of op %d: %q, %v", op.Seq, commit, err)
	}
	s.Pending = append(s.Pending, op)
	s.Served(op.Seq, commit)
	return commit
}

func TestServiceSummary(t *testing.T) {
	r := newRig(t)
	first := r.create(blob("x", "old"))
	r.log(join("a"), edit(1))
	head := r.accept(r.upload(blob("x", "new")), first, 2)
	r.log(edit(2), leave("a"))
	op := r.log(noClient())
	s := State{Head: head, HeadSeq: 2}
	commit := r.serve(&s, op)
	known := strings.NewReplacer(first, "FIRST", head, "HEAD")
	golden(t, "summary_service.txt", []byte(known.Replace(strings.Join(r.download(commit).files(t), "\n"))))

	got, err := r.doc.Commit(t.Context(), commit)
	if err != nil || got.Message != fmt.Sprintf("Summary @%d", op.Seq) || !slices.Equal(got.Parents, []string{head}) || got.Date.UnixMilli() != op.Timestamp {
		t.Errorf("commit %+v, %v", got, err)
	}
	if again, err := r.doc.ServiceSummary(t.Context(), State{Head: head, HeadSeq: 2}, op); again != commit || err != nil {
		t.Errorf("made again after a crash it is %s, %v; want %s", again, err, commit)
	}

	// The next one takes over contents and protocol state, not the tail.
	r.log(join("b"), edit(4), leave("b"))
	second := r.serve(&s, r.log(noClient()))
	known = strings.NewReplacer(first, "FIRST", head, "HEAD", commit, "SERVICE")
	golden(t, "summary_service_second.txt", []byte(known.Replace(strings.Join(r.download(second).files(t), "\n"))))
	if s.Newest() != second || !slices.Equal(s.Versions(), []string{head, commit, second}) {
		t.Errorf("versions %v, the newest %s", s.Versions(), s.Newest())
	}
}

func TestServiceSummaryOfAFlatDocument(t *testing.T) {
	r := newRig(t)
	head := r.createFlat(blob(".metadata", "m"), dir(".channels", blob("A", "a")))
	r.log(join("a"), edit(1), leave("a"))
	s := State{Head: head}
	r.serve(&s, r.log(noClient()))
	commit, err := r.doc.Commit(t.Context(), s.Newest())
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.doc.Tree(t.Context(), commit.Tree, true)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range list {
		paths = append(paths, e.Path)
	}
	want := ".channels .channels/A .logTail .logTail/logTail .metadata .protocol .protocol/attributes .protocol/quorumMembers .protocol/quorumProposals " +
		".protocol/quorumValues .serviceProtocol .serviceProtocol/deli .serviceProtocol/scribe"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("it holds %s, want %s", got, want)
	}
}

// A document that nobody summarizes must not write all its ops again each time its
// last client leaves.
func TestServiceSummaryTailIsBounded(t *testing.T) {
	r := newRig(t)
	head := r.create(blob("x", "1"))
	long := edit(0)
	long.Contents = literal(strings.Repeat("x", 20<<10))
	r.log(join("a"), long, long, long, long, long, leave("a"))
	s := State{Head: head}
	commit := r.serve(&s, r.log(noClient()))
	for _, e := range r.download(commit).files(t) {
		if text, ok := strings.CutPrefix(e, ".logTail/logTail: "); ok {
			var ops []struct{ SequenceNumber sequencer.Seq }
			if err := json.Unmarshal([]byte(text), &ops); err != nil || len(ops) < 2 || len(text) > maxServiceTailBytes+100 || ops[0].SequenceNumber != 1 {
				t.Errorf("%d ops in %d bytes, %v; want the first ones, in at most %d bytes", len(ops), len(text), err, maxServiceTailBytes)
			}
		}
	}
}

// Clients hold whatever was the newest version when they came.
func TestJudgeTakesServiceVersionsAsParents(t *testing.T) {
	r := newRig(t)
	head := r.create(blob("x", "1"))
	s := State{Head: head}
	for range maxServiceVersions + 1 {
		r.log(join("a"), edit(0), leave("a"))
		r.serve(&s, r.log(noClient()))
	}
	versions := s.Versions()
	if len(versions) != maxServiceVersions+1 {
		t.Fatalf("%d versions to build on, want %d", len(versions), maxServiceVersions+1)
	}
	forgotten, err := r.doc.Commit(t.Context(), versions[1])
	if err != nil {
		t.Fatal(err)
	}
	r.log(join("a"), edit(0))
	up := r.upload(blob("x", "2"))
	judge := func(parent string) Verdict {
		t.Helper()
		v, err := r.doc.Judge(t.Context(), versions, r.log(summarizeOp(up, parent, r.seq)))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, parent := range versions {
		if v := judge(parent); v.Type != sequencer.TypeSummaryAck {
			t.Errorf("built on %s: %s", parent, v.Contents)
		}
	}
	if v := judge(forgotten.Parents[0]); v.Type != sequencer.TypeSummaryNack {
		t.Errorf("built on a service summary that is too old: %s", v.Contents)
	}
	// The first one that is accepted wins, and follows the newest version.
	op := r.log(summarizeOp(up, head, r.seq))
	v, err := r.doc.Judge(t.Context(), versions, op)
	if err != nil {
		t.Fatal(err)
	}
	s.Pending = []sequencer.SequencedOp{op}
	s.Apply(sequencer.SequencedOp{Type: v.Type, Contents: v.Contents, Seq: op.Seq + 1})
	if s.Newest() != s.Head || len(s.Versions()) != 1 || s.HeadSeq != op.RSN {
		t.Fatalf("state after the ack: %+v", s)
	}
	made, err := r.doc.Commit(t.Context(), s.Head)
	if err != nil || !slices.Equal(made.Parents, versions[len(versions)-1:]) {
		t.Errorf("it follows %v, %v; want the newest version before it", made.Parents, err)
	}
	versions = s.Versions()
	if v := judge(head); v.Type != sequencer.TypeSummaryNack {
		t.Errorf("a second proposal on the same parent: %s", v.Contents)
	}
}

func TestServiceSummariesThatAreDue(t *testing.T) {
	ack := func(proposal sequencer.Seq) sequencer.SequencedOp {
		return sequencer.SequencedOp{Type: sequencer.TypeSummaryAck, Contents: fmt.Appendf(nil, `{"handle":"h%d","summaryProposal":{"summarySequenceNumber":%d}}`, proposal, proposal)}
	}
	noop := sequencer.SequencedOp{ClientID: "a", Type: sequencer.TypeNoop}
	proposed := summarizeOp("t", "h", 1)
	for _, test := range []struct {
		name string
		ops  []sequencer.SequencedOp // from 1 on
		want []sequencer.Seq
	}{
		{"NothingHappened", []sequencer.SequencedOp{join("a"), leave("a"), noClient()}, nil},
		{"OnlyNoops", []sequencer.SequencedOp{join("a"), noop, leave("a"), noClient()}, nil},
		{"Edited", []sequencer.SequencedOp{join("a"), edit(0), leave("a"), noClient()}, []sequencer.Seq{4}},
		{"TheLastOneCoversAll", []sequencer.SequencedOp{edit(0), noClient(), join("a"), leave("a"), noClient()}, []sequencer.Seq{5}},
		{"AfterTheSummaryBeforeIt", []sequencer.SequencedOp{edit(0), proposed, noClient()}, []sequencer.Seq{2, 3}},
		{"DecidedLater", []sequencer.SequencedOp{edit(0), proposed, noClient(), ack(2)}, []sequencer.Seq{3}},
		{"AckedAfterIt", []sequencer.SequencedOp{edit(0), noClient(), proposed, ack(3)}, nil},
		{"AllInTheSummary", []sequencer.SequencedOp{edit(0), proposed, ack(2), leave("a"), noClient()}, nil},
		{"EditedAfterTheSummary", []sequencer.SequencedOp{edit(0), proposed, ack(2), edit(0), noClient()}, []sequencer.Seq{5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := State{Head: "h"}
			for i, op := range test.ops {
				op.Seq = sequencer.Seq(i + 1)
				s.Apply(op)
			}
			var got []sequencer.Seq
			for _, p := range s.Pending {
				got = append(got, p.Seq)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("pending %v, want %v", got, test.want)
			}
		})
	}
	t.Run("MadeObsoleteMeanwhile", func(t *testing.T) {
		s := State{Head: "h"}
		s.Served(7, "late")
		if s.Newest() != "h" {
			t.Errorf("the newest version is %s", s.Newest())
		}
	})
}
