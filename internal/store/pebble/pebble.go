package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Options of the engine.
type Options struct {
	Dir string       // made if absent
	Log *slog.Logger // default: none
}

// Format is the version of the data directory that this code reads and writes.
const Format = "tidelock data 1\n"

// formatFile holds the version, beside Pebble's own files.
const formatFile = "TIDELOCK"

const cacheBytes = 64 << 20

// Open opens or creates the engine in o.Dir. A directory of another format
// version, one that another process has open, and one that is not a data
// directory are errors that say so, and are left as they were.
func Open(o Options) (store.Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	fresh, err := checkFormat(o.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := pebble.LockDirectory(o.Dir, vfs.Default)
	if err != nil {
		return nil, fmt.Errorf("the data directory %s is in use by another process: stop that, or choose another with --data (%w)", o.Dir, err)
	}
	if fresh {
		if err := writeFormat(o.Dir); err != nil {
			return nil, errors.Join(fmt.Errorf("data directory: %w", err), lock.Close())
		}
	}
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	db, err := pebble.Open(o.Dir, &pebble.Options{
		Cache:              cache,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             logger{o.Log},
		MemTableSize:       32 << 20,
		Lock:               lock,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the data directory %s: %w", o.Dir, err), lock.Close())
	}
	return &engine{db: db, lock: lock}, nil
}

// checkFormat makes dir if it is absent and says whether it is new.
func checkFormat(dir string) (fresh bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("data directory: %w", err)
	}
	found, err := os.ReadFile(filepath.Join(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, refuseForeign(dir)
	}
	if err != nil {
		return false, fmt.Errorf("data directory: %w", err)
	}
	if string(found) != Format {
		return false, fmt.Errorf("the data directory %s has the format %q and this tidelock speaks %q: use the tidelock that wrote it, or name another --data",
			dir, strings.TrimSpace(string(found[:min(len(found), 64)])), strings.TrimSpace(Format))
	}
	return false, nil
}

func refuseForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "LOCK" { // of a first start that was cut off
			return fmt.Errorf("%s is not a Tidelock data directory and not empty (it holds %s): name another --data", dir, e.Name())
		}
	}
	return nil
}

// writeFormat marks a new directory, durably: from here on it is ours.
func writeFormat(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, formatFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(Format)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// logger passes Pebble's own words on: its routine is debugging to us.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "text", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "text", fmt.Sprintf(format, args...))
}

// Fatalf is called when Pebble cannot go on without risking what it has, such as
// a write-ahead log that does not take an fsync: after that nobody knows what is
// on disk. Ending the process is what start-up can recover from.
func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("pebble: fatal", "text", fmt.Sprintf(format, args...))
	os.Exit(1)
}

// latches let one call at a time work on a document's log, without one latch per
// document that was ever seen.
type latches struct {
	mu   sync.Mutex
	held map[envelope.DocumentHandle]*latch
}

type latch struct {
	mu    sync.Mutex
	users int // under latches.mu
}

// lock takes the document's latch; the func gives it back.
func (l *latches) lock(doc envelope.DocumentHandle) func() {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[envelope.DocumentHandle]*latch{}
	}
	one := l.held[doc]
	if one == nil {
		one = &latch{}
		l.held[doc] = one
	}
	one.users++
	l.mu.Unlock()
	one.mu.Lock()
	return func() {
		one.mu.Unlock()
		l.mu.Lock()
		if one.users--; one.users == 0 {
			delete(l.held, doc)
		}
		l.mu.Unlock()
	}
}
