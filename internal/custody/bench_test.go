package custody

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store/pebble"
)

// BenchmarkRewrap moves a relay of 100,000 documents, on the embedded engine with fsync:
// to another version of the customer's key, which rewraps the root key alone, and to
// the root key of a new epoch, which rewraps every document's key.
func BenchmarkRewrap(b *testing.B) {
	const documents = 100_000
	st, err := pebble.Open(pebble.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	vault := newFakeVault()
	vault.addVersion(version2)
	k := New(Config{Store: st, Service: envelope.NewServiceKey(), KeyStore: vault.as, Hosts: hosts, Log: slog.New(slog.DiscardHandler)})
	defer k.Close()
	r := envelope.ResourceID{1}
	ctx := context.Background()
	if err := k.Create(ctx, r, pinned); err != nil {
		b.Fatal(err)
	}
	var all sync.WaitGroup
	const writers = 100 // they share fsyncs
	for range writers {
		all.Go(func() {
			for range documents / writers {
				d, err := k.NewDocument(ctx, r)
				if err == nil {
					err = d.Create(ctx)
				}
				if err != nil {
					b.Error(err)
					return
				}
				d.Close()
			}
		})
	}
	all.Wait()
	b.Run("KeyVersion", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			to := Settings{Key: keyURL([]string{version2, version1}[n%2]), Identity: identityA}
			if err := k.Update(ctx, r, to); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Epoch", func(b *testing.B) {
		began := time.Now()
		for b.Loop() {
			useUpEpoch(k, r)
			if _, err := k.turn(ctx, r); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(time.Since(began).Seconds()/float64(b.N)/documents*1e6, "µs/document")
	})
}
