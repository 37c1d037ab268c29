package bench

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// Report says how a run went. It marshals to JSON.
type Report struct {
	Documents int     `json:"documents"`
	Writers   int     `json:"writers"` // in all
	Readers   int     `json:"readers"` // in all
	OpBytes   int     `json:"opBytes"`
	Rate      float64 `json:"rate"`     // asked for, ops per second; 0: closed loop
	InFlight  int     `json:"inFlight"` // of a writer in the closed loop
	Seconds   float64 `json:"seconds"`

	// Sequenced is how many ops came back to their writer with a sequence number.
	Sequenced    int64   `json:"sequenced"`
	OpsPerSecond float64 `json:"opsPerSecond"`
	// Deliveries is how many ops all clients received, writers included.
	Deliveries          int64   `json:"deliveries"`
	DeliveriesPerSecond float64 `json:"deliveriesPerSecond"`

	// RoundTrip is from an op's submit (at a fixed rate: from when it was due) to its
	// writer's receipt of it.
	RoundTrip Percentiles `json:"roundTripMs"`
	Errors    Errors      `json:"errors"`
	Floor     *Floor      `json:"floorMs,omitempty"` // with Config.Directory

	// Drift is the rate in the last quarter of the duration by that in the first; 0 when
	// the run did not last so long.
	Drift  float64 `json:"drift,omitempty"`
	Server *Server `json:"server,omitempty"` // with Config.ServerPID
}

// Percentiles are in milliseconds, within one percent.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Floor is what no round trip can be faster than, beside the round trip of a writer who
// is alone: medians of some hundred of each, in milliseconds, measured in turn after the
// run, so that disk and processors were in the same mood for all three.
type Floor struct {
	RoundTrip float64 `json:"roundTrip"`
	Echo      float64 `json:"echo"`  // of a message that the service answers at once
	Fsync     float64 `json:"fsync"` // of a record that is appended to a file
}

// Errors counts what went wrong while the run was on.
type Errors struct {
	Refused        int64    `json:"refused"`        // attempts to connect again
	Nacked         int64    `json:"nacked"`         // ops; each ends its connection
	Disconnects    int64    `json:"disconnects"`    // not asked for
	Order          int64    `json:"order"`          // gaps and repeats in what a client received
	Unacknowledged int64    `json:"unacknowledged"` // ops that never came back
	Examples       []string `json:"examples,omitempty"`
}

// Total is the number of errors.
func (e Errors) Total() int64 {
	return e.Refused + e.Nacked + e.Disconnects + e.Order + e.Unacknowledged
}

// WriteText writes the report as a table for people.
func (r Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	loop := fmt.Sprintf("closed loop, %d in flight", r.InFlight)
	if r.Rate > 0 {
		loop = fmt.Sprintf("%g ops/s asked for", r.Rate)
	}
	fmt.Fprintf(t, "load\t%d documents, %d writers, %d readers, %d B ops, %s\n", r.Documents, r.Writers, r.Readers, r.OpBytes, loop)
	fmt.Fprintf(t, "time\t%.2f s\n", r.Seconds)
	fmt.Fprintf(t, "sequenced\t%d ops\t%.0f ops/s\n", r.Sequenced, r.OpsPerSecond)
	fmt.Fprintf(t, "delivered\t%d ops\t%.0f ops/s\n", r.Deliveries, r.DeliveriesPerSecond)
	p := r.RoundTrip
	fmt.Fprintf(t, "round trip\tp50 %.2f ms\tp95 %.2f ms\tp99 %.2f ms\tmax %.2f ms\n", p.P50, p.P95, p.P99, p.Max)
	if f := r.Floor; f != nil {
		fmt.Fprintf(t, "floor\techo %.2f ms\tfsync %.2f ms\tround trip %.2f ms: %.2f times both\n", f.Echo, f.Fsync, f.RoundTrip, f.RoundTrip/(f.Echo+f.Fsync))
	}
	if r.Drift > 0 {
		fmt.Fprintf(t, "drift\t%.2f of the first quarter's rate in the last\n", r.Drift)
	}
	if s := r.Server; s != nil {
		fmt.Fprintf(t, "server\t%.1f s CPU\t%.1f µs an op\t%.2f µs a delivery\t%d MB resident\t%.1f KB a client\n",
			s.CPUSeconds, s.CPUPerOp, s.CPUPerDelivery, s.ResidentBytes/1e6, float64(s.ResidentPerClient)/1e3)
	}
	e := r.Errors
	fmt.Fprintf(t, "errors\t%d refused\t%d nacked\t%d disconnects\t%d out of order\t%d unacknowledged\n",
		e.Refused, e.Nacked, e.Disconnects, e.Order, e.Unacknowledged)
	for _, example := range e.Examples {
		fmt.Fprintf(t, "\t%s\n", example)
	}
	return t.Flush()
}

func (r *run) report() Report {
	elapsed := time.Duration(r.lastNanos.Load())
	if elapsed == 0 {
		elapsed = time.Since(r.start)
	}
	report := Report{
		Documents: r.config.Documents, Writers: len(r.writers), Readers: len(r.readers),
		OpBytes: r.config.OpBytes, Rate: r.config.Rate, InFlight: r.config.InFlight, Seconds: elapsed.Seconds(),
		Sequenced: r.sequenced.Load(), Deliveries: r.deliveries.Load(),
		RoundTrip: r.roundTrips.percentiles(), Errors: r.errors.report(),
	}
	report.OpsPerSecond = float64(report.Sequenced) / report.Seconds
	report.DeliveriesPerSecond = float64(report.Deliveries) / report.Seconds
	if first, third := r.quarters[0].Load(), r.quarters[1].Load(); first > 0 && third > 0 {
		report.Drift = float64(report.Sequenced-third) / float64(first)
	}
	return report
}

// errorCounts counts errors by kind and keeps the first of each as an example.
type errorCounts struct {
	refused, nacked, disconnects, order, unacknowledged atomic.Int64

	examples [4]atomic.Pointer[string] // by kind, in the order above
}

func (c *errorCounts) add(err error) {
	kind, count := 2, &c.disconnects
	var e *Error
	if errors.As(err, &e) {
		switch e.Kind {
		case Refused:
			kind, count = 0, &c.refused
		case Nacked:
			kind, count = 1, &c.nacked
		case Order:
			kind, count = 3, &c.order
		case Disconnect:
		}
	}
	count.Add(1)
	text := err.Error()
	c.examples[kind].CompareAndSwap(nil, &text)
}

func (c *errorCounts) report() Errors {
	e := Errors{
		Refused: c.refused.Load(), Nacked: c.nacked.Load(), Disconnects: c.disconnects.Load(),
		Order: c.order.Load(), Unacknowledged: c.unacknowledged.Load(),
	}
	for i := range c.examples {
		if text := c.examples[i].Load(); text != nil {
			e.Examples = append(e.Examples, *text)
		}
	}
	return e
}

// histogram counts durations in buckets that are less than a percent wide: the
// exponent of a power of two and the 7 bits below it. The zero value is empty.
type histogram struct {
	buckets [64 << mantissaBits]atomic.Int64
	max     atomic.Int64
}

const mantissaBits = 7

func (h *histogram) add(d time.Duration) {
	n := max(int64(d), 0)
	h.buckets[bucketOf(uint64(n))].Add(1)
	for old := h.max.Load(); n > old && !h.max.CompareAndSwap(old, n); old = h.max.Load() {
	}
}

func bucketOf(n uint64) int {
	shift := max(bits.Len64(n)-1-mantissaBits, 0)
	return shift<<mantissaBits + int(n>>shift)
}

// floorOf is the least value in a bucket.
func floorOf(bucket int) uint64 {
	if bucket < 2<<mantissaBits {
		return uint64(bucket)
	}
	shift := bucket>>mantissaBits - 1
	return uint64(bucket-shift<<mantissaBits) << shift
}

func (h *histogram) percentiles() Percentiles {
	var total int64
	for i := range h.buckets {
		total += h.buckets[i].Load()
	}
	ms := func(n uint64) float64 { return float64(n) / float64(time.Millisecond) }
	at := func(share float64) float64 {
		rank, seen := int64(share*float64(total)+0.5), int64(0)
		for i := range h.buckets {
			if seen += h.buckets[i].Load(); seen >= max(rank, 1) {
				return ms(floorOf(i))
			}
		}
		return 0
	}
	return Percentiles{P50: at(0.50), P95: at(0.95), P99: at(0.99), Max: ms(uint64(h.max.Load()))}
}
