package bench

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// watched is a client whose ops and errors come out of channels.
type watched struct {
	*Client
	ops    chan Op
	errors chan error
}

func dialFake(t *testing.T, f *fake, o Options) *watched {
	t.Helper()
	w := &watched{ops: make(chan Op, 1000), errors: make(chan error, 1000)}
	o.OnOp = func(op Op) { w.ops <- op }
	o.OnError = func(err error) { w.errors <- err }
	c, err := Dial(t.Context(), f.endpoint(), f.document(), o)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(c.Close)
	w.Client = c
	return w
}

// until returns the first op of a type.
func (w *watched) until(typ string) Op {
	for op := range w.ops {
		if op.Type == typ {
			return op
		}
	}
	panic("not reached: ops is never closed")
}

func (w *watched) submit(t *testing.T) {
	t.Helper()
	if _, err := w.Submit("op", []byte(`"x"`)); err != nil {
		t.Fatalf("Submit: %v", err)
	}
}

func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func TestWriterSeesItsOwnOpAndReadersSeeIt(t *testing.T) {
	f := newFake(t)
	writer := dialFake(t, f, Options{Mode: Write, Record: true})
	reader := dialFake(t, f, Options{Mode: Read})
	csn, err := writer.Submit("op", []byte(`"hello"`))
	if csn != 1 || err != nil {
		t.Fatalf("Submit = %d, %v; want csn 1", csn, err)
	}
	got := writer.until("op")
	if !got.Own || got.ClientID != writer.ID() || got.CSN != 1 || got.Seq != 2 || got.RSN != 1 || got.MSN != 1 {
		t.Errorf("own op = %+v; want csn 1, seq 2, rsn 1, msn 1", got)
	}
	if got := reader.until("op"); got.Own || got.Seq != 2 || !strings.Contains(string(got.Raw), `"contents":"hello"`) {
		t.Errorf("reader's op = %+v (%s)", got, got.Raw)
	}
	recorded := writer.Recorded()
	if len(recorded) != 2 || recorded[0].Type != "join" || recorded[1].Seq != 2 {
		t.Errorf("Recorded = %+v; want join and op", recorded)
	}
	ops, err := f.endpoint().Deltas(t.Context(), "doc", 0, 0)
	if err != nil || len(ops) != 2 || string(ops[1].Raw) != string(recorded[1].Raw) {
		t.Errorf("Deltas = %+v, %v; want what was recorded", ops, err)
	}
}

func TestClientCatchesUpAfterADisconnect(t *testing.T) {
	f := newFake(t)
	a := dialFake(t, f, Options{Mode: Write, Reconnect: true, Record: true})
	b := dialFake(t, f, Options{Mode: Write, Reconnect: true})
	first := a.ID()
	a.submit(t)
	b.until("op")
	f.disconnect()
	for _, c := range []*watched{a, b} {
		if err := <-c.errors; kindOf(err) != Disconnect {
			t.Fatalf("error = %v, want a disconnect", err)
		}
		if err := c.WaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if a.ID() == first {
		t.Error("the client id did not change")
	}
	b.submit(t)
	b.until("op")
	a.until("op") // its first
	last := a.until("op")
	recorded := a.Recorded()
	for i, op := range recorded {
		if op.Seq != int64(i+1) {
			t.Fatalf("recorded op %d has seq %d", i, op.Seq)
		}
	}
	if int64(len(recorded)) < last.Seq || len(a.errors) > 0 {
		t.Errorf("recorded %d ops of %d; further error: %v", len(recorded), last.Seq, len(a.errors))
	}
}

func TestOrderViolationsAreSeen(t *testing.T) {
	cases := map[string]struct {
		tamper func(seq sequencer.Seq, op []byte) [][]byte
		want   string
	}{
		"gap": {func(seq sequencer.Seq, op []byte) [][]byte {
			if seq == 2 {
				return nil
			}
			return [][]byte{op}
		}, "op 3 came after op 1"},
		"repeat": {func(seq sequencer.Seq, op []byte) [][]byte {
			if seq == 3 {
				return [][]byte{op, op}
			}
			return [][]byte{op}
		}, "op 3 came after op 3"},
		"reused_number": {func(seq sequencer.Seq, op []byte) [][]byte {
			if seq == 3 {
				op = []byte(strings.Replace(string(op), `"sequenceNumber":3`, `"sequenceNumber":2`, 1))
			}
			return [][]byte{op}
		}, "op 2 came after op 2"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.tamper = c.tamper
			w := dialFake(t, f, Options{Mode: Write})
			w.submit(t)
			w.submit(t)
			if err := <-w.errors; kindOf(err) != Order || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want order: %s", err, c.want)
			}
		})
	}
}

func TestRestartThatReusesNumbersIsSeen(t *testing.T) {
	f := newFake(t)
	w := dialFake(t, f, Options{Mode: Write, Reconnect: true})
	w.submit(t)
	w.until("op")
	f.mu.Lock()
	f.order, f.log = sequencer.New(sequencer.State{}), nil // it lost everything
	f.mu.Unlock()
	f.disconnect()
	if err := <-w.errors; kindOf(err) != Disconnect {
		t.Fatalf("error = %v, want a disconnect", err)
	}
	if err := <-w.errors; kindOf(err) != Order {
		t.Errorf("error = %v, want order", err)
	}
}

func TestNackEndsTheConnection(t *testing.T) {
	f := newFake(t)
	w := dialFake(t, f, Options{Mode: Write, Reconnect: true})
	if _, err := w.Submit("join", []byte(`null`)); err != nil {
		t.Fatal(err)
	}
	err := <-w.errors
	var e *Error
	if !errors.As(err, &e) || e.Kind != Nacked || e.Code != 400 || !strings.Contains(e.Text, "Op not allowed") {
		t.Errorf("error = %v, want the nack", err)
	}
	if err := w.WaitConnected(t.Context()); err != nil {
		t.Errorf("WaitConnected = %v", err)
	}
}

func TestRefusal(t *testing.T) {
	f := newFake(t)
	e := f.endpoint()
	e.Key = "another key"
	_, err := Dial(t.Context(), e, f.document(), Options{Mode: Write})
	var refused *Error
	if !errors.As(err, &refused) || refused.Kind != Refused || refused.Code != 403 || !strings.Contains(refused.Text, "Invalid token") {
		t.Errorf("Dial with a wrong key = %v, want 403 Invalid token", err)
	}
	if _, err := e.Create(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("Create with a wrong key = %v, want 403", err)
	}
	if _, err := e.Deltas(t.Context(), "doc", 0, 0); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("Deltas with a wrong key = %v, want 403", err)
	}
}

func TestCreateAndDiscover(t *testing.T) {
	f := newFake(t)
	for _, f.local = range []bool{false, true} {
		if got, err := f.endpoint().Create(t.Context()); err != nil || got != f.document() {
			t.Errorf("Create (local %v) = %+v, %v; want %+v", f.local, got, err, f.document())
		}
	}
	if got, err := f.endpoint().Discover(t.Context(), "doc"); err != nil || got != f.document() {
		t.Errorf("Discover = %+v, %v; want %+v", got, err, f.document())
	}
}

func TestRunCountsOps(t *testing.T) {
	f := newFake(t)
	config := Config{Endpoint: f.endpoint(), Documents: 1, Writers: 3, Readers: 2, OpBytes: 50, Ops: 200}
	for _, config.Rate = range []float64{0, 5000} {
		r, err := Run(t.Context(), config, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if r.Sequenced != 200 || r.Errors.Total() != 0 || r.RoundTrip.P50 <= 0 || r.RoundTrip.Max < r.RoundTrip.P99 || r.OpsPerSecond <= 0 {
			t.Errorf("rate %g: report %+v; want 200 ops, no errors", config.Rate, r)
		}
		// The last op's way to the other clients may be cut off by the end.
		if r.Deliveries < 199*3 || r.Deliveries > 200*5 {
			t.Errorf("rate %g: %d deliveries, want about 1000", config.Rate, r.Deliveries)
		}
		var text strings.Builder
		if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "200 ops") {
			t.Errorf("WriteText: %v\n%s", err, text.String())
		}
		if b, err := json.Marshal(r); err != nil || !strings.Contains(string(b), `"roundTripMs":{"p50":`) {
			t.Errorf("JSON: %v %s", err, b)
		}
	}
}

func TestRunKeepsSeveralInFlight(t *testing.T) {
	f := newFake(t)
	r, err := Run(t.Context(), Config{
		Endpoint: f.endpoint(), Documents: 1, Writers: 2, OpBytes: 50, Ops: 300, InFlight: 16, Directory: t.TempDir(),
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sequenced != 300 || r.Errors.Total() != 0 || r.Floor == nil || r.Floor.RoundTrip <= 0 || r.Floor.Echo <= 0 || r.Floor.Fsync <= 0 {
		t.Errorf("report = %+v, want 300 ops, no error, and what a round trip takes at least", r)
	}
}

// A writer that holds the MSN has the reference sequence number that it began with in
// all its ops.
func TestWriterHoldsTheMSN(t *testing.T) {
	f := newFake(t)
	reference := map[int64]bool{}
	f.tamper = func(_ sequencer.Seq, op []byte) [][]byte {
		var o struct {
			Type string
			RSN  int64 `json:"referenceSequenceNumber"`
		}
		if err := json.Unmarshal(op, &o); err != nil {
			t.Error(err)
		}
		if o.Type == "op" {
			reference[o.RSN] = true
		}
		return [][]byte{op}
	}
	if _, err := Run(t.Context(), Config{Endpoint: f.endpoint(), Documents: 1, Writers: 1, OpBytes: 50, Ops: 20, HoldMSN: true}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(reference) != 1 {
		t.Errorf("reference sequence numbers %v, want one", reference)
	}
}

func TestRunCountsErrors(t *testing.T) {
	f := newFake(t)
	f.tamper = func(seq sequencer.Seq, op []byte) [][]byte {
		switch seq {
		case 50:
			return [][]byte{op, op}
		case 100:
			for c := range f.clients {
				c.socket.Close("cut")
			}
		}
		return [][]byte{op}
	}
	r, err := Run(t.Context(), Config{Endpoint: f.endpoint(), Documents: 1, Writers: 1, Readers: 1, OpBytes: 50, Ops: 200}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if r.Errors.Order < 2 || r.Errors.Disconnects < 2 || r.Errors.Unacknowledged != 1 || r.Sequenced != 199 || len(r.Errors.Examples) < 2 {
		t.Errorf("errors = %+v, %d sequenced; want a repeat and a disconnect for each client, one op lost", r.Errors, r.Sequenced)
	}
}

func TestRunRefusesNonsense(t *testing.T) {
	good := Config{Endpoint: Endpoint{URL: "http://x", Tenant: "t", Key: "k"}, Documents: 1, Writers: 1, Ops: 1}
	cases := map[string]func(*Config){
		"no_url": func(c *Config) { c.Endpoint.URL = "" }, "no_writers": func(c *Config) { c.Writers = 0 },
		"huge_ops": func(c *Config) { c.OpBytes = 1 << 20 }, "no_end": func(c *Config) { c.Ops = 0 }, "rate": func(c *Config) { c.Rate = -1 },
	}
	for name, spoil := range cases {
		c := good
		spoil(&c)
		if _, err := Run(t.Context(), c, io.Discard); err == nil {
			t.Errorf("%s: Run = nil, want an error", name)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if got := h.percentiles(); got != (Percentiles{}) {
		t.Errorf("empty histogram: %+v", got)
	}
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	got := h.percentiles()
	for _, c := range []struct{ got, want float64 }{{got.P50, 500}, {got.P95, 950}, {got.P99, 990}, {got.Max, 1000}} {
		if c.got > c.want || c.got < c.want*0.99 {
			t.Errorf("percentiles %+v: got %g, want %g within 1%%", got, c.got, c.want)
		}
	}
	for n := uint64(1); n < 1<<62; n = n*3/2 + 1 {
		if low := floorOf(bucketOf(n)); low > n || float64(n-low) > 0.01*float64(n) {
			t.Errorf("%d falls in the bucket from %d", n, low)
		}
	}
}

func FuzzParseOp(f *testing.F) {
	f.Add([]byte(`{"clientId":null,"clientSequenceNumber":-1,"referenceSequenceNumber":-1,"sequenceNumber":1,"minimumSequenceNumber":0,"timestamp":1,"type":"join","contents":null,"data":"{}"}`))
	f.Add([]byte(`{"sequenceNumber":2,"type":"op","contents":{"sequenceNumber":7}}`))
	f.Add([]byte(`{"sequenceNumber":1e3,"type":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		op, err := parseOp(raw)
		if err == nil && (op.Seq < 1 || op.Type == "") {
			t.Errorf("parseOp(%s) = %+v", raw, op)
		}
	})
}
