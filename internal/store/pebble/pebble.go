package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tidelock/tidelock/internal/store"
)

// Options of the engine.
type Options struct {
	Dir string       // made if absent
	Log *slog.Logger // default: none
	// ReadOnly changes nothing in Dir but the lock that keeps others out: a data
	// directory that is not there is an error, and so is every write.
	ReadOnly bool
}

const (
	cacheBytes    = 64 << 20
	memTableBytes = 32 << 20

	// formatMajorVersion is pinned: a newer Pebble must not make directories that
	// the Tidelock before it cannot open, as long as both call themselves Format.
	formatMajorVersion = pebble.FormatValueSeparation
)

// Open opens or creates the engine in o.Dir. A directory of another format
// version, one that another process has open, and one that is not a data
// directory are errors that say so, and are left as they were.
func Open(o Options) (store.Store, error) {
	e, err := open(o, vfs.Default)
	if err != nil {
		return nil, err // a nil *engine would make a store that is not nil
	}
	return e, nil
}

func open(o Options, fsys vfs.FS) (_ *engine, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("data directory: %w", err)
		}
	}()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := fsys.Stat(fsys.PathJoin(o.Dir, formatFile)); o.ReadOnly && err != nil {
		return nil, fmt.Errorf("%s holds no data: %w", o.Dir, err)
	}
	fresh, err := checkFormat(fsys, o.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := lockDirectory(fsys, o.Dir)
	if err != nil {
		return nil, err
	}
	if fresh {
		if err := markNew(fsys, o.Dir); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	db, err := openDatabase(o, fsys, lock, fresh)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Dir, err), lock.Close())
	}
	if fresh {
		if err := markMade(fsys, o.Dir); err != nil {
			return nil, errors.Join(err, db.Close(), lock.Close())
		}
	}
	return &engine{db: db, lock: lock, disk: newDisk(fsys, o.Dir)}, nil
}

func openDatabase(o Options, fsys vfs.FS, lock *pebble.Lock, fresh bool) (*pebble.DB, error) {
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	options := &pebble.Options{
		Cache:              cache,
		FS:                 fsys,
		FormatMajorVersion: formatMajorVersion,
		Logger:             logger{o.Log},
		MemTableSize:       memTableBytes,
		ReadOnly:           o.ReadOnly,
		Lock:               lock,
		// A data directory that has lost its files must not become an empty one.
		ErrorIfNotExists: !fresh,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { o.Log.Error("pebble: background work failed", "err", err) },
			// The default ends the process. One bad byte must not stop every document:
			// the read that met it gets ErrCorrupt.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				o.Log.Error("pebble: damaged file", "path", info.Path, "err", info.Details)
			},
			DiskSlow: func(info pebble.DiskSlowInfo) {
				o.Log.Warn("pebble: slow disk", "path", info.Path, "duration", info.Duration)
			},
		},
	}
	// Ciphertext does not compress.
	options.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	options.WithFSDefaults()
	return pebble.Open(o.Dir, options)
}

// logger passes Pebble's own words on: its routine is debugging to us.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("pebble", "text", fmt.Sprintf(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "text", fmt.Sprintf(format, args...))
}

// Fatalf is called when Pebble cannot go on without risking what it has, such as
// when an fsync of the write-ahead log failed: after that nobody knows what is on
// disk, and an fsync that is tried again may report success for pages that the kernel
// has dropped. It must not return, or the append would be acknowledged; a panic would
// be caught by a server's handler and leave the engine's locks taken. So the process
// ends, and the next start finds out what is there.
func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("pebble: cannot go on", "text", fmt.Sprintf(format, args...))
	os.Exit(1)
}
