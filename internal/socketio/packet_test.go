package socketio

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
	"unicode/utf8"
)

func TestParsePacket(t *testing.T) {
	cases := []struct {
		in   string
		want packet
	}{
		{`0`, packet{typ: '0', namespace: "/"}},
		{`0{"token":"t"}`, packet{typ: '0', namespace: "/", payload: []byte(`{"token":"t"}`)}},
		{`0/admin`, packet{typ: '0', namespace: "/admin"}},
		{`0/admin,{}`, packet{typ: '0', namespace: "/admin", payload: []byte(`{}`)}},
		{`1`, packet{typ: '1', namespace: "/"}},
		{`2["a"]`, packet{typ: '2', namespace: "/", payload: []byte(`["a"]`)}},
		{`212["a"]`, packet{typ: '2', namespace: "/", ack: true, ackID: 12, payload: []byte(`["a"]`)}},
		{`2/n,0["a"]`, packet{typ: '2', namespace: "/n", ack: true, payload: []byte(`["a"]`)}},
		{`37[]`, packet{typ: '3', namespace: "/", ack: true, ackID: 7, payload: []byte(`[]`)}},
	}
	for _, c := range cases {
		got, err := parsePacket([]byte(c.in))
		if len(got.payload) == 0 {
			got.payload = nil
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("parsePacket(%s) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
	}
}

func TestHeaderLengths(t *testing.T) {
	cases := []struct {
		n    int
		want []byte
	}{
		{0, []byte{0x81, 0}},
		{125, []byte{0x81, 125}},
		{126, []byte{0x81, 126, 0, 126}},
		{65535, []byte{0x81, 126, 0xff, 0xff}},
		{65536, []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	}
	for _, c := range cases {
		if got := appendHeader(nil, 1, c.n); !bytes.Equal(got, c.want) {
			t.Errorf("header of %d bytes = %x, want %x", c.n, got, c.want)
		}
	}
}

func TestCloseReasonIsCutToFit(t *testing.T) {
	f := closeFrame(1000, string(bytes.Repeat([]byte("é"), 100)))
	if text := f.b[4:]; len(f.b) > 2+125 || !utf8.Valid(text) || len(text) < 120 {
		t.Errorf("close frame of %d bytes with text %q", len(f.b), text)
	}
}

// FuzzParsePacket: what parses as an event is, written again as one, the same event.
func FuzzParsePacket(f *testing.F) {
	for _, in := range []string{
		`0`, `0{"token":"t"}`, `0/admin,{}`, `1`, `2["a"]`, `212["a",{"b":[1,2,null]},"\ud83d"]`, `2/n,0["a"]`, `37[]`, `4{}`,
		`51-["a"]`, "2[\"a\" , 1 ]\n", `2["a",]`, `2["a"]]`, `299999999999999999999["a"]`,
	} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := parsePacket(in)
		if err != nil || p.typ != packetEvent {
			return
		}
		name, args, err := parseEvent(p.payload)
		if err != nil {
			return
		}
		raw := make([][]byte, len(args))
		for i, arg := range args {
			if !json.Valid(arg) {
				t.Errorf("%s: argument %s is not JSON", in, arg)
			}
			raw[i] = arg
		}
		header := NewEvent(name, raw...)
		again := header.b[bytes.Index(header.b, []byte("42["))+1:]
		if p.ack {
			again = append([]byte("2"+strconv.FormatUint(p.ackID, 10)), again[1:]...)
		}
		q, err := parsePacket(again)
		if err != nil || q.ack != p.ack || q.ackID != p.ackID {
			t.Fatalf("%s written again as %s gives %+v, %v", in, again, q, err)
		}
		name2, args2, err := parseEvent(q.payload)
		if err != nil || name2 != name || !reflect.DeepEqual(args2, args) {
			t.Errorf("%s written again as %s gives %q %s, %v", in, again, name2, args2, err)
		}
	})
}

func BenchmarkParseEvent(b *testing.B) {
	contents, _ := json.Marshal(`{"type":"component","contents":{"address":"default","contents":{"content":{"address":"root","contents":{"key":"k","path":"/","type":"set","value":{"type":"Plain","value":"` + string(bytes.Repeat([]byte("x"), 250)) + `"}}},"type":"op"}}}`)
	frame := []byte(`2["submitOp","5a8e5a4f-06a4-4d5c-8b4a-5a5d3c6b8f10",[[{"clientSequenceNumber":12,"referenceSequenceNumber":34,"type":"op","contents":` + string(contents) + `}]]]`)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		p, err := parsePacket(frame)
		if err != nil {
			b.Fatal(err)
		}
		if _, args, err := parseEvent(p.payload); err != nil || len(args) != 2 {
			b.Fatal(args, err)
		}
	}
}
