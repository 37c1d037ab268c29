package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// BenchmarkAppend is a committed append of one record of 256 bytes, sealing included,
// by so many documents at once. The server shares the machine.
func BenchmarkAppend(b *testing.B) {
	for _, documents := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("documents=%d", documents), func(b *testing.B) {
			st := openNew(b)
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
