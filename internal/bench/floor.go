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
const floorSamples = 500

// floor measures Floor with one of the connected clients, before any load.
func (r *run) floor(ctx context.Context) (f Floor, err error) {
	if f.Echo, err = median(func() (time.Duration, error) { return r.anyClient().Echo(ctx) }); err != nil {
		return Floor{}, fmt.Errorf("echo: %w", err)
	}
	if r.config.Directory == "" {
		return f, nil
	}
	file, err := os.CreateTemp(r.config.Directory, ".tidelock-bench-*")
	if err != nil {
		return Floor{}, fmt.Errorf("measure an fsync: %w", err)
	}
	record := make([]byte, 400)
	f.Fsync, err = median(func() (time.Duration, error) {
		start := time.Now()
		_, err := file.Write(record)
		err = errors.Join(err, file.Sync())
		return time.Since(start), err
	})
	if err := errors.Join(err, file.Close(), os.Remove(file.Name())); err != nil {
		return Floor{}, fmt.Errorf("measure an fsync: %w", err)
	}
	return f, nil
}

func (r *run) anyClient() *Client {
	if len(r.writers) > 0 {
		return r.writers[0].client
	}
	return r.readers[0]
}

// median is that of floorSamples measurements, in milliseconds.
func median(measure func() (time.Duration, error)) (float64, error) {
	var all []time.Duration
	for range floorSamples {
		d, err := measure()
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	slices.Sort(all)
	return all[len(all)/2].Seconds() * 1e3, nil
}
