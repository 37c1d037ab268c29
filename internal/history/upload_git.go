package history

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The local dialect uploads a summary object by object: its blobs, then its trees
// from the leaves up, each naming by id what it holds. The id of the topmost tree
// is the handle that the summarize op proposes, as UploadSummary's is.

// gitEntry is one entry of such a tree. Source: ICreateTreeEntry of the Fluid
// gitresources package. Path is one URI-encoded segment.
type gitEntry struct {
	Path string `json:"path"`
	Mode string `json:"mode"`
	SHA  string `json:"sha"`
	Type string `json:"type"`
}

// gitModes are the modes of git's trees that can be in a summary, by type.
var gitModes = map[string]string{typeBlob: "100644", typeTree: "040000"}

// uploadWait is how long a tree waits for what it names. Drivers that have sent a
// blob once take a second one of the same content for stored, and may send the tree
// that holds it before the first has arrived.
const uploadWait = 10 * time.Second

// errAbsent: a tree names what is not there, or not yet.
var errAbsent = errors.New("was not uploaded to this document")

// UploadTree stores a tree of objects of this document, durably, and returns its
// id. body is the JSON of POST /git/trees. What it names may be on its way: for that
// it waits, 10 seconds in all. ErrBadSummary (wrapped).
func (d *Document) UploadTree(ctx context.Context, body []byte) (id string, err error) {
	wire, err := parseGitTree(body)
	if err != nil {
		return "", err
	}
	patience, cancel := context.WithTimeout(ctx, uploadWait)
	defer cancel()
	for {
		stored := d.nextWrite() // before looking: what comes afterwards is not missed
		id, err := d.addGitTree(ctx, wire)
		if !errors.Is(err, errAbsent) {
			return id, err
		}
		select {
		case <-stored:
		case <-patience.Done():
			return "", err
		}
	}
}

func parseGitTree(body []byte) ([]gitEntry, error) {
	var up struct {
		Tree []gitEntry `json:"tree"`
	}
	if err := decodeSummary(body, &up); err != nil {
		return nil, err
	}
	if up.Tree == nil {
		return nil, fmt.Errorf("%w: there is no list \"tree\"", ErrBadSummary)
	}
	return up.Tree, nil
}

func (d *Document) addGitTree(ctx context.Context, wire []gitEntry) (id string, err error) {
	b := d.newBatch()
	entries := make([]entry, 0, len(wire))
	for _, w := range wire {
		e, err := b.addGitEntry(ctx, w)
		if err != nil {
			return "", err
		}
		entries = append(entries, e)
	}
	t, err := b.addTree(ctx, entries)
	if err != nil {
		return "", err
	}
	return t.ID, b.put(ctx)
}

// addGitEntry finds what an entry names and measures it: stored trees have the sums
// of what is below them.
func (b *batch) addGitEntry(ctx context.Context, w gitEntry) (entry, error) {
	name, err := decodeName(w.Path)
	if err != nil {
		return entry{}, err
	}
	if mode := gitModes[w.Type]; mode == "" || w.Mode != mode {
		return entry{}, fmt.Errorf("%w: %q has type %q and mode %q; it must be a blob of 100644 or a tree of 040000", ErrBadSummary, name, cut(w.Type), cut(w.Mode))
	}
	e := entry{Type: typeBlob}
	if w.Type == typeTree {
		var t tree
		if t, err = b.d.loadTree(ctx, w.SHA); err == nil {
			e, err = t.sum(b.d.limits.DocumentBytes)
		}
	} else {
		var content []byte
		content, err = b.d.load(ctx, blobObject, w.SHA)
		e.Bytes = int64(len(content))
	}
	if errors.Is(err, ErrNotFound) {
		return entry{}, fmt.Errorf("%w: %q: %s %q %w", ErrBadSummary, name, w.Type, cut(w.SHA), errAbsent)
	}
	e.ID = w.SHA
	return e.as(name), err
}

// addRoot adds the root tree of a version: the app's tree and, beside it, what the
// service adds. The app's tree is the entry .app or, in a flat document, is not
// there itself: the root holds what it holds. An app that has an entry of one of the
// service's names is refused there.
func (b *batch) addRoot(ctx context.Context, flat bool, app entry, service ...entry) (entry, error) {
	if !flat {
		return b.addTree(ctx, append(service, app.as(appName)))
	}
	t, err := b.treeOf(ctx, app.ID)
	if err != nil {
		return entry{}, err
	}
	for _, e := range t.Entries {
		if isServiceName(e.Name) {
			return entry{}, fmt.Errorf("%w: an entry named %q, which is the service's own", ErrBadSummary, e.Name)
		}
	}
	return b.addTree(ctx, append(service, t.Entries...))
}

// isServiceName says whether the service keeps something of its own under this name in
// the root of a version.
func isServiceName(name string) bool {
	return name == protocolName || name == logTailName || name == serviceName
}

// nextWrite is closed by the next write to this document.
func (d *Document) nextWrite() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stored == nil {
		d.stored = make(chan struct{})
	}
	return d.stored
}

// announce wakes who waits for a write.
func (d *Document) announce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stored != nil {
		close(d.stored)
		d.stored = nil
	}
}
