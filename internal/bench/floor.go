package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// floorSamples is how many of each are measured.
const floorSamples = 1000

// floor measures Floor with a writer who has nothing under way.
func (w *writer) floor(ctx context.Context, contents []byte) (f *Floor, err error) {
	file, err := os.CreateTemp(w.run.config.Directory, ".tidelock-bench-*")
	if err != nil {
		return nil, fmt.Errorf("measure an fsync: %w", err)
	}
	defer func() {
		if failed := errors.Join(file.Close(), os.Remove(file.Name())); err == nil && failed != nil {
			f, err = nil, fmt.Errorf("measure an fsync: %w", failed)
		}
	}()
	record := make([]byte, 400)
	var trips, echoes, fsyncs []time.Duration
	for range floorSamples {
		if !w.ready(ctx) {
			return nil, fmt.Errorf("measure a round trip: %w", ErrNotConnected)
		}
		start := time.Now()
		w.submit(start, contents, 1)
		w.wait(ctx, 1)
		trips = append(trips, time.Since(start))
		echo, err := w.client.Echo(ctx)
		if err != nil {
			return nil, fmt.Errorf("measure an echo: %w", err)
		}
		echoes = append(echoes, echo)
		start = time.Now()
		_, err = file.Write(record)
		if err = errors.Join(err, file.Sync()); err != nil {
			return nil, fmt.Errorf("measure an fsync: %w", err)
		}
		fsyncs = append(fsyncs, time.Since(start))
	}
	return &Floor{RoundTrip: median(trips), Echo: median(echoes), Fsync: median(fsyncs)}, nil
}

// median is in milliseconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return all[len(all)/2].Seconds() * 1e3
}
