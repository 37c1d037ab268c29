package pebble

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// reserveBytes of the disk are kept free of appends and objects. Pebble cannot
	// go on once its write-ahead log meets a full disk, so we stop before: reading,
	// deleting and rows, which include what a key owner orders, go on. It holds what
	// may already be in memory, and a log beside it.
	reserveBytes = 4 * memTableBytes

	// Asking the disk costs a system call; in this time no disk fills the reserve.
	diskInterval = 50 * time.Millisecond
)

// disk knows whether there is room for more.
type disk struct {
	fs    vfs.FS
	dir   string
	start time.Time
	next  atomic.Int64  // when to ask again, in nanoseconds since start
	free  atomic.Uint64 // bytes, as of the last time
}

func newDisk(fsys vfs.FS, dir string) *disk {
	d := &disk{fs: fsys, dir: dir, start: time.Now()}
	d.ask()
	return d
}

func (d *disk) ask() {
	usage, err := d.fs.GetDiskUsage(d.dir)
	if err != nil {
		usage.AvailBytes = math.MaxUint64 // it cannot say: then the write will
	}
	d.free.Store(usage.AvailBytes)
}

// room says whether there is room for so many bytes, or how much is left.
func (d *disk) room(size int) error {
	now := int64(time.Since(d.start))
	if next := d.next.Load(); now >= next && d.next.CompareAndSwap(next, now+int64(diskInterval)) {
		d.ask()
	}
	if free := d.free.Load(); free < reserveBytes+uint64(size) { // a length is not negative
		return fmt.Errorf("pebble: nothing was written: the disk of the data directory has %d MiB left, of which %d are kept in reserve; free some space",
			free>>20, uint64(reserveBytes)>>20)
	}
	return nil
}
