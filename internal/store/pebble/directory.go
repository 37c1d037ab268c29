package pebble

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Format is the version of the data directory that this code reads and writes.
const Format = "tidelock data 1\n"

const (
	// formatFile holds the version, beside Pebble's own files.
	formatFile = "TIDELOCK"
	// newFormatFile stands in for it while the directory is being made, so that a
	// start that was cut off can be told from somebody else's files, and from a
	// data directory that has lost its own.
	newFormatFile = "TIDELOCK.new"
	lockFile      = "LOCK" // Pebble's
)

// checkFormat makes dir if it is absent and says whether a database has yet to be
// made in it.
func checkFormat(fsys vfs.FS, dir string) (fresh bool, err error) {
	if err := makeDirectory(fsys, dir); err != nil {
		return false, err
	}
	found, err := readFile(fsys, fsys.PathJoin(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, refuseForeign(fsys, dir)
	}
	if err != nil {
		return false, err
	}
	if found != Format {
		return false, fmt.Errorf("%s has the format %q and this tidelock speaks %q: use the tidelock that wrote it, or name another --data",
			dir, strings.TrimSpace(found), strings.TrimSpace(Format))
	}
	return false, nil
}

func refuseForeign(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	other := ""
	for _, name := range names {
		switch name {
		case newFormatFile: // whatever is here is ours, and nobody was ever given it
			return nil
		case lockFile:
		default:
			other = name
		}
	}
	if other != "" {
		return fmt.Errorf("%s is not a Tidelock data directory and not empty (it holds %s): name another --data", dir, other)
	}
	return nil
}

// makeDirectory makes dir and its missing parents, durably.
func makeDirectory(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := fsys.PathDir(dir)
	if parent != dir {
		if err := makeDirectory(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDirectory(fsys, parent)
}

// markNew says that a database is being made in dir.
func markNew(fsys vfs.FS, dir string) error {
	f, err := fsys.Create(fsys.PathJoin(dir, newFormatFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, Format)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDirectory(fsys, dir)
}

// markMade says that dir holds a database from here on.
func markMade(fsys vfs.FS, dir string) error {
	if err := fsys.Rename(fsys.PathJoin(dir, newFormatFile), fsys.PathJoin(dir, formatFile)); err != nil {
		return err
	}
	return syncDirectory(fsys, dir)
}

// lockDirectory keeps other processes out of dir.
func lockDirectory(fsys vfs.FS, dir string) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, fsys)
	if err == nil {
		return lock, nil
	}
	var path *fs.PathError
	var number syscall.Errno
	held := !errors.As(err, &path) && (!errors.As(err, &number) || number == syscall.EAGAIN || number == syscall.EACCES)
	if !held {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return nil, fmt.Errorf("%s is in use by another process: stop that, or name another --data (%w)", dir, err)
}

func syncDirectory(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readFile reads the first bytes of a small file.
func readFile(fsys vfs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, 64))
	return string(b), errors.Join(err, f.Close())
}
