package sequencer

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenOps is a short life of a document with one op of each kind.
func goldenOps() map[string]SequencedOp {
	const id = "5a8e5a4f-06a4-4d5c-8b4a-5a5d3c6b8f10"
	ops := map[string]SequencedOp{}
	s := New(State{})
	detail := json.RawMessage(`{"mode":"write","scopes":["doc:read","doc:write"],"user":{"id":"u<1>"}}`)
	ops["join"], _ = s.Join(start, Client{ID: id, Detail: detail})
	first, _ := s.Submit(start, id, Op{
		CSN: 1, RSN: 1, Type: TypeOp, Contents: json.RawMessage(`"{\"type\":\"blobAttach\"}"`),
		Metadata: json.RawMessage(`{"localId":"l","blobId":"b"}`), Compression: json.RawMessage(`"lz4"`),
	})
	ops["op"] = *first
	ops["summaryAck"] = s.Server(start, TypeSummaryAck,
		json.RawMessage(`{"handle":"c0ffee","summaryProposal":{"summarySequenceNumber":2}}`),
		json.RawMessage(`"{\"handle\":\"c0ffee\",\"summaryProposal\":{\"summarySequenceNumber\":2}}"`))
	s.Submit(start, id, Op{CSN: 2, RSN: 3, Type: TypeNoop})
	ops["noop"] = s.Tick(start.Add(NoopConsolidation))[0]
	last := s.Leave(start.Add(time.Second), id)
	ops["leave"], ops["noClient"] = last[0], last[1]
	return ops
}

func TestGoldenOps(t *testing.T) {
	for name, o := range goldenOps() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".json")
			got := append(o.AppendJSON(nil), '\n')
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s:\n got %s\nwant %s", file, got, want)
			}
			parsed, err := ParseSequencedOp(want)
			if err != nil || !reflect.DeepEqual(parsed, o) {
				t.Errorf("ParseSequencedOp = %+v, %v; want %+v", parsed, err, o)
			}
		})
	}
}

func TestStringsAreEscaped(t *testing.T) {
	o := SequencedOp{ClientID: `a"b\`, Type: "naïve\n\u2028", Contents: json.RawMessage("{ \"k\":\n1}")}
	b := o.AppendJSON(nil)
	if !json.Valid(b) {
		t.Fatalf("AppendJSON = %s, not valid JSON", b)
	}
	if got, err := ParseSequencedOp(b); err != nil || !reflect.DeepEqual(got, o) {
		t.Errorf("ParseSequencedOp(%s) = %+v, %v; want %+v", b, got, err, o)
	}
}

func TestParseRefuses(t *testing.T) {
	good := string(goldenOps()["op"].AppendJSON(nil))
	if _, err := ParseSequencedOp([]byte(good)); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"empty":           "",
		"null":            "null",
		"truncated":       good[:len(good)-1],
		"trailing":        good + "{}",
		"no_seq":          strings.Replace(good, `"sequenceNumber":2,`, "", 1),
		"no_client":       strings.Replace(good, `"clientId":"5a8e5a4f-06a4-4d5c-8b4a-5a5d3c6b8f10",`, "", 1),
		"empty_client":    strings.Replace(good, "5a8e5a4f-06a4-4d5c-8b4a-5a5d3c6b8f10", "", 1),
		"client_number":   strings.Replace(good, `"5a8e5a4f-06a4-4d5c-8b4a-5a5d3c6b8f10"`, "7", 1),
		"fractional_seq":  strings.Replace(good, `"sequenceNumber":2,`, `"sequenceNumber":2.5,`, 1),
		"unknown_member":  strings.Replace(good, `"type"`, `"kind":1,"type"`, 1),
		"data_not_string": strings.Replace(good, `"compression":"lz4"`, `"data":{}`, 1),
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			if in == good {
				t.Fatal("the case does not change the good op")
			}
			if got, err := ParseSequencedOp([]byte(in)); err == nil {
				t.Errorf("ParseSequencedOp(%s) = %+v, want an error", in, got)
			}
		})
	}
}

func FuzzParseSequencedOp(f *testing.F) {
	for _, o := range goldenOps() {
		f.Add(o.AppendJSON(nil))
	}
	f.Add([]byte(`{"clientId":null,"clientSequenceNumber":-1}`))
	f.Add([]byte(`{"CLIENTID":"\ud800","clientSequenceNumber":1,"referenceSequenceNumber":1,"sequenceNumber":2,"minimumSequenceNumber":1,"timestamp":0,"type":"\u0000","contents":"\ud800","metadata":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseSequencedOp(b)
		if err != nil {
			return
		}
		again := o.AppendJSON(nil)
		back, err := ParseSequencedOp(again)
		if err != nil || !reflect.DeepEqual(back, o) {
			t.Errorf("%s\nencodes to %s\nand parses to %+v, %v; want %+v", b, again, back, err, o)
		}
	})
}

func BenchmarkSubmitAndEncode(b *testing.B) {
	for _, writers := range []int{1, 100} {
		b.Run(map[int]string{1: "1writer", 100: "100writers"}[writers], func(b *testing.B) {
			s := New(State{})
			ids := make([]ClientID, writers)
			for i := range ids {
				ids[i] = ClientID("client-" + string(rune('A'+i)))
				s.Join(start, Client{ID: ids[i]})
			}
			contents, _ := json.Marshal(strings.Repeat("x", 400))
			csns := make([]int64, writers)
			buf := make([]byte, 0, 1024)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w := i % writers
				csns[w]++
				o, nack := s.Submit(start, ids[w], Op{CSN: csns[w], RSN: -1, Type: TypeOp, Contents: contents})
				if nack != nil {
					b.Fatal(nack)
				}
				buf = o.AppendJSON(buf[:0])
			}
		})
	}
}
