package pebble

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// BenchmarkAppend is a durable append of one record of 256 bytes, sealing included,
// by so many documents at once.
func BenchmarkAppend(b *testing.B) {
	for _, documents := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("documents=%d", documents), func(b *testing.B) {
			st := openDir(b, b.TempDir())
			text := make([]byte, 256)
			rand.Read(text)
			docs, claims := make([]*storetest.Doc, documents), make([]store.Claim, documents)
			for i := range docs {
				var err error
				docs[i] = storetest.NewDoc(b)
				if claims[i], err = st.Claim(b.Context(), docs[i].Handle); err != nil {
					b.Fatal(err)
				}
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for i, d := range docs {
				wg.Go(func() {
					for head := uint64(0); left.Add(-1) >= 0; head++ {
						if err := st.Append(context.Background(), d.Append(claims[i], head, head+1, string(text))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}

// BenchmarkSealing is what sealing adds to a durable append: records that are sealed on
// the way and records that were sealed before take turns, on one store.
func BenchmarkSealing(b *testing.B) {
	const block = 256 // records that are sealed ahead
	for _, bytes := range []int{256, 16 * 256} {
		b.Run(fmt.Sprintf("bytes=%d", bytes), func(b *testing.B) {
			st := openDir(b, b.TempDir())
			text := make([]byte, bytes)
			rand.Read(text)
			var docs [2]*storetest.Doc
			var claims [2]store.Claim
			for i := range docs {
				var err error
				docs[i] = storetest.NewDoc(b)
				if claims[i], err = st.Claim(b.Context(), docs[i].Handle); err != nil {
					b.Fatal(err)
				}
			}
			var ahead []store.Append
			var with, without, sealing []time.Duration
			timed := func(f func() error) time.Duration {
				start := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				return time.Since(start)
			}
			for head := range uint64(b.N) {
				if head%block == 0 {
					ahead = ahead[:0]
					for i := head; i < head+block; i++ {
						ahead = append(ahead, docs[1].Append(claims[1], i, i+1, string(text)))
					}
				}
				with = append(with, timed(func() error {
					start := time.Now()
					a := docs[0].Append(claims[0], head, head+1, string(text))
					sealing = append(sealing, time.Since(start))
					return st.Append(context.Background(), a)
				}))
				without = append(without, timed(func() error { return st.Append(context.Background(), ahead[head%block]) }))
			}
			slices.Sort(with)
			slices.Sort(without)
			slices.Sort(sealing)
			micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
			at := func(sorted []time.Duration, percent int) time.Duration { return sorted[len(sorted)*percent/100] }
			b.ReportMetric(micros(at(without, 50)), "p50-µs-without")
			b.ReportMetric(micros(at(with, 50)-at(without, 50)), "p50-µs-added")
			b.ReportMetric(micros(at(without, 99)), "p99-µs-without")
			b.ReportMetric(micros(at(with, 99)-at(without, 99)), "p99-µs-added")
			// Of the same appends, the time that sealing itself took: the disk has no part in it.
			b.ReportMetric(micros(at(sealing, 50)), "p50-µs-sealing")
			b.ReportMetric(micros(at(sealing, 99)), "p99-µs-sealing")
		})
	}
}
