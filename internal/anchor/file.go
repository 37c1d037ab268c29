package anchor

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tidelock/tidelock/internal/envelope"
)

const (
	header     = "tidelock anchors 1\n"
	entryBytes = 16 + envelope.AnchorBytes + 4
	// MaxDocuments is how many documents have an anchor: those that were written to
	// last. 40 MB of file, and about twice that of memory.
	MaxDocuments = 250_000
	slack        = 4096 // entries that are superseded, before the file is written anew
)

// ErrDamaged says that the file is not what was written.
var ErrDamaged = errors.New("the file of head anchors is damaged")

// File is an open file of anchors. It is safe for concurrent use.
type File struct {
	path string
	max  int

	mu      sync.Mutex // guards what follows; held across I/O
	file    *os.File
	values  map[envelope.DocumentHandle]value
	entries int    // in the file
	count   uint64 // of all that were put
}

type value struct {
	anchor [envelope.AnchorBytes]byte
	at     uint64 // when it was put, by File.count
}

// Anchor is the newest anchor of a document; a nil Value takes it away.
type Anchor struct {
	Document envelope.DocumentHandle
	Value    []byte // envelope.AnchorBytes
}

// Open opens the file, or makes it. An end that was cut off while it was written is
// dropped; anything else that does not fit is ErrDamaged.
func Open(path string) (*File, error) {
	f := &File{path: path, max: MaxDocuments, values: map[envelope.DocumentHandle]value{}}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read head anchors: %w", err)
	}
	if err == nil {
		if err := f.load(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("head anchors: %w", err)
	}
	// Always written anew: what was cut off is gone then, and the file is ours to write.
	if err := f.rewrite(); err != nil {
		return nil, fmt.Errorf("write head anchors: %w", err)
	}
	return f, nil
}

func (f *File) load(raw []byte) error {
	if len(raw) < len(header) && string(raw) == header[:len(raw)] {
		return nil
	}
	rest, ok := bytes.CutPrefix(raw, []byte(header))
	if !ok {
		return ErrDamaged
	}
	for len(rest) >= entryBytes {
		e := rest[:entryBytes]
		rest = rest[entryBytes:]
		if crc32.Checksum(e[:entryBytes-4], castagnoli) != uint32(e[entryBytes-4])<<24|uint32(e[entryBytes-3])<<16|uint32(e[entryBytes-2])<<8|uint32(e[entryBytes-1]) {
			if len(bytes.Trim(e, "\x00")) == 0 || len(rest) < entryBytes {
				return nil // what a power cut leaves at the end of a file
			}
			return ErrDamaged
		}
		f.put(envelope.DocumentHandle(e[:16]), e[16:16+envelope.AnchorBytes])
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendEntry(b []byte, h envelope.DocumentHandle, anchor []byte) []byte {
	start := len(b)
	b = append(append(b, h[:]...), anchor...)
	sum := crc32.Checksum(b[start:], castagnoli)
	return append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

var none [envelope.AnchorBytes]byte

// put takes one in; all zeros take it away.
func (f *File) put(h envelope.DocumentHandle, anchor []byte) {
	if bytes.Equal(anchor, none[:]) {
		delete(f.values, h)
		return
	}
	f.count++
	f.values[h] = value{[envelope.AnchorBytes]byte(anchor), f.count}
}

// Get returns a document's anchor; nil if there is none.
func (f *File) Get(h envelope.DocumentHandle) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.values[h]
	if !ok {
		return nil
	}
	return v.anchor[:]
}

// Put makes anchors durable. After an error they may be or not; they may be put again.
func (f *File) Put(all ...Anchor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return fs.ErrClosed
	}
	var b []byte
	for _, a := range all {
		anchor := a.Value
		if anchor == nil {
			anchor = none[:]
		}
		if len(anchor) != envelope.AnchorBytes {
			return fmt.Errorf("an anchor of %d bytes", len(anchor))
		}
		b = appendEntry(b, a.Document, anchor)
		f.put(a.Document, anchor)
		f.entries++
	}
	if f.entries > 2*len(f.values)+slack || len(f.values) > f.max {
		return f.rewrite()
	}
	if _, err := f.file.Write(b); err != nil {
		return errors.Join(err, f.rewrite()) // what was half written must not stay in the middle
	}
	return f.file.Sync()
}

// rewrite writes the file anew, with the anchors that there are.
func (f *File) rewrite() error {
	handles := make([]envelope.DocumentHandle, 0, len(f.values))
	for h := range f.values {
		handles = append(handles, h)
	}
	slices.SortFunc(handles, func(a, b envelope.DocumentHandle) int { return int(int64(f.values[a].at - f.values[b].at)) })
	for len(handles) > f.max {
		delete(f.values, handles[0])
		handles = handles[1:]
	}
	b := []byte(header)
	for _, h := range handles {
		v := f.values[h]
		b = appendEntry(b, h, v.anchor[:])
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.path), ".anchors-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once it is renamed, as it should
	_, err = bytes.NewReader(b).WriteTo(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		_ = tmp.Close() // it is given up
		return err
	}
	if f.file != nil {
		_ = f.file.Close() // all of it was synced, and it is no longer the file
	}
	f.file, f.entries = tmp, len(handles)
	_, err = tmp.Seek(0, io.SeekEnd)
	return err
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Close closes the file. What was put is durable.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
