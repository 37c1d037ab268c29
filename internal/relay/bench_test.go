package relay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// One op of 400 B from a writer, through socket, sequencer, seal, engine (in
// memory) and back to all sessions; 32 ops are in flight.
func BenchmarkOps(b *testing.B) {
	for _, readers := range []int{0, 100} {
		b.Run(fmt.Sprintf("Readers%d", readers), func(b *testing.B) {
			r := newRig(b, nil)
			defer r.stop()
			r.limits.ClientOps = 10_000_000 // one client, without a disk, is faster than any is taken for
			r.restart()
			id := r.create()
			done := make(chan struct{}, readers)
			last := sequencer.Seq(b.N + 1) // after the join
			writer := r.join(id)
			for range readers {
				c := r.read(id)
				go func() {
					c.awaitLast(last)
					done <- struct{}{}
				}()
			}
			contents := strings.Repeat("x", 400)
			b.ResetTimer()
			for i := range b.N {
				writer.submit(contents)
				if i >= 32 {
					writer.awaitLast(sequencer.Seq(i - 32 + 2))
				}
			}
			writer.awaitLast(last)
			for range readers {
				<-done
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
