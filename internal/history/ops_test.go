package history

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

func TestOps(t *testing.T) {
	r := newRig(t)
	r.log(join("a"), edit(0), edit(0))
	r.log(edit(0))
	r.log(edit(0), edit(0), edit(0))
	size := len(edit(0).AppendJSON(nil))
	for _, test := range []struct {
		name            string
		from, to        sequencer.Seq
		limit, maxBytes int
		want            []sequencer.Seq
	}{
		{"All", 0, 100, 100, 1 << 20, []sequencer.Seq{1, 2, 3, 4, 5, 6, 7}},
		{"BothBoundsAreExclusive", 2, 5, 100, 1 << 20, []sequencer.Seq{3, 4}},
		{"NegativeFrom", -1, 3, 100, 1 << 20, []sequencer.Seq{1, 2}},
		{"LowestFrom", math.MinInt64, 2, 100, 1 << 20, []sequencer.Seq{1}},
		{"HighestBounds", math.MaxInt64 - 1, math.MaxInt64, 100, 1 << 20, nil},
		{"HighestFrom", math.MaxInt64, math.MaxInt64, 100, 1 << 20, nil},
		{"LowestBounds", math.MinInt64, math.MinInt64, 100, 1 << 20, nil},
		{"HighestTo", 5, math.MaxInt64, 100, 1 << 20, []sequencer.Seq{6, 7}},
		{"Between", 3, 4, 100, 1 << 20, nil},
		{"Backwards", 5, 2, 100, 1 << 20, nil},
		{"AfterTheHead", 7, 100, 100, 1 << 20, nil},
		{"Limit", 1, 100, 3, 1 << 20, []sequencer.Seq{2, 3, 4}},
		{"Bytes", 1, 100, 100, 2*size + 50, []sequencer.Seq{2, 3}},
		{"OneByteStillGivesOne", 1, 100, 100, 1, []sequencer.Seq{2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw, err := r.doc.Ops(t.Context(), test.from, test.to, test.limit, test.maxBytes)
			if err != nil {
				t.Fatalf("ops: %v", err)
			}
			var list []json.RawMessage
			if err := json.Unmarshal(raw, &list); err != nil || list == nil {
				t.Fatalf("ops %s: %v", raw, err)
			}
			var got []sequencer.Seq
			for _, b := range list {
				op, err := sequencer.ParseSequencedOp(b)
				if err != nil {
					t.Fatalf("op %s: %v", b, err)
				}
				got = append(got, op.Seq)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// liar is a document's keys that open to other records than were sealed.
type liar struct {
	*custody.Document
	batches []custody.Batch
}

func (l liar) OpenRecords(store.Range) ([]custody.Batch, custody.Tail, error) {
	return l.batches, custody.Tail{}, nil
}

func TestOpsRefusesRecordsThatDoNotFit(t *testing.T) {
	r := newRig(t)
	r.log(edit(0), edit(0))
	two := AppendOp(AppendOp(nil, edit(0)), edit(0))
	for _, test := range []struct {
		name  string
		batch custody.Batch
	}{
		{"FewerOpsThanSaid", custody.Batch{First: 1, Last: 3, Plaintext: two}},
		{"MoreOpsThanSaid", custody.Batch{First: 1, Last: 1, Plaintext: two}},
		{"Gap", custody.Batch{First: 2, Last: 3, Plaintext: two}},
		{"Empty", custody.Batch{First: 1, Last: 0}},
		{"Cut", custody.Batch{First: 1, Last: 2, Plaintext: two[:len(two)-1]}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := &Document{keys: liar{r.keys, []custody.Batch{test.batch}}, st: r.st}
			if ops, err := d.Ops(t.Context(), 0, 3, 10, 1<<20); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("got %s, %v; want ErrCorrupt", ops, err)
			}
		})
	}
}

// A log may begin later than op 1, but only with the record that proves to be its first.
func TestOpsOfALogThatBeginsLater(t *testing.T) {
	r := newRig(t)
	r.log(edit(0), edit(0))
	two := AppendOp(AppendOp(nil, edit(0)), edit(0))
	d := &Document{keys: liar{r.keys, []custody.Batch{{First: 42, Last: 43, Plaintext: two, Begins: true}}}, st: r.st}
	ops, err := d.Ops(t.Context(), 0, 50, 1, 1<<20)
	if want := "[" + string(two[4:len(two)/2]) + "]"; err != nil || string(ops) != want {
		t.Errorf("got %s, %v; want %s", ops, err, want)
	}
}

func FuzzSplitOps(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Add(AppendOp(AppendOp(nil, edit(0)), join("a")))
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := SplitOps(b)
		if err != nil {
			return
		}
		var again []byte
		for _, op := range ops {
			again = binary.BigEndian.AppendUint32(again, uint32(len(op)))
			again = append(again, op...)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x was split and joined to %x", b, again)
		}
	})
}

// Protocol state that was stored and read back is the same state.
func TestProtocolSurvivesStorage(t *testing.T) {
	r := newRig(t)
	p, err := newProtocol([]byte(codeValues), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.log(join("a"), join("b"), propose("k", `"<v>"`), leave("a"), join("c"), propose("k", "2"), propose("code", `"new"`))
	late := edit(6) // agrees on the first two of the three
	r.log(late)
	notOne := edit(0)
	notOne.Type, notOne.Contents = sequencer.TypePropose, literal("no proposal")
	r.log(notOne)
	if err := r.doc.replay(t.Context(), p, r.seq); err != nil {
		t.Fatalf("replay: %v", err)
	}
	b := r.doc.newBatch()
	e, err := b.addProtocol(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.put(t.Context()); err != nil {
		t.Fatal(err)
	}
	read, err := r.doc.loadProtocol(t.Context(), tree{Entries: []entry{e.as(protocolName)}})
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	again := r.doc.newBatch()
	if f, err := again.addProtocol(t.Context(), read); err != nil || f.ID != e.ID {
		t.Errorf("stored again as %s, %v; want %s", f.ID, err, e.ID)
	}
	var values []string
	for _, v := range read.values {
		values = append(values, string(v.body))
	}
	diff(t, "values", values[1:], []string{`{"key":"k","value":2,"approvalSequenceNumber":8,"commitSequenceNumber":-1,"sequenceNumber":6}`})
	if len(read.proposals) != 1 || read.proposals[0].Seq != 7 || !strings.Contains(string(read.proposals[0].Value), "new") {
		t.Errorf("proposals %+v, want the one of 7", read.proposals)
	}
}
