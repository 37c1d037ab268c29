package history

import (
	"context"
	"fmt"
	"sync"
)

// sharedBlob is the content of a blob while some read it. Everyone who joins a document
// downloads the same blobs, and a thousand at once must not hold a thousand copies of a
// large one.
type sharedBlob struct {
	readers int // guarded by Document.mu

	mu      sync.Mutex // held while it is loaded
	content []byte     // nil until then
}

// Blob returns the content of a blob of a summary or an attachment, not to be changed, and
// what gives it back. ErrNotFound.
func (d *Document) Blob(ctx context.Context, id string) (content []byte, release func(), err error) {
	d.mu.Lock()
	b := d.shared[id]
	if b == nil {
		b = &sharedBlob{}
		if d.shared == nil {
			d.shared = map[string]*sharedBlob{}
		}
		d.shared[id] = b
	}
	b.readers++
	d.mu.Unlock()
	release = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if b.readers--; b.readers == 0 {
			delete(d.shared, id)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.content == nil {
		b.content, err = d.load(ctx, blobObject, id)
	} else if lost := d.keys.Err(); lost != nil { // as if it had to be opened
		err = fmt.Errorf("read blob %s: %w", id, lost)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return b.content, release, nil
}
