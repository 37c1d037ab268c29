package history

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/sha1" // git's blob ids are SHA-1, and drivers check them against what they sent
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// objectKind is part of the name an object is kept under, so that the id of a blob
// never finds a tree.
type objectKind string

const (
	blobObject   objectKind = "blob"
	treeObject   objectKind = "tree"
	commitObject objectKind = "commit"
)

// The parts of a summary's root tree.
const (
	appName      = ".app"
	protocolName = ".protocol"
	logTailName  = ".logTail"
	serviceName  = ".serviceProtocol"
)

// entry is one entry of a tree as it is stored: frozen, see docs/formats/history.md.
// The sums are of everything below it, so that limits hold without a walk.
type entry struct {
	Name         string `json:"name"`
	Type         string `json:"type"` // "blob" or "tree"
	ID           string `json:"id"`
	Bytes        int64  `json:"bytes"`             // of the blob, or of all blobs below the tree
	Entries      int    `json:"entries,omitempty"` // below the tree, at any depth
	Depth        int    `json:"depth,omitempty"`   // of the tree: 1 when no tree is in it
	Unreferenced bool   `json:"unreferenced,omitempty"`
	GroupID      string `json:"groupId,omitempty"`
}

// The types of entries.
const (
	typeBlob = "blob"
	typeTree = "tree"
)

func (e entry) as(name string) entry {
	e.Name = name
	return e
}

// tree is a stored tree; entries are in the order of their names' bytes.
type tree struct {
	Entries []entry `json:"entries"`
}

func (t tree) find(name string) (entry, bool) {
	i, ok := slices.BinarySearchFunc(t.Entries, name, func(e entry, name string) int { return strings.Compare(e.Name, name) })
	if !ok {
		return entry{}, false
	}
	return t.Entries[i], true
}

// sum describes the tree as an entry of another one, without its id. maxBytes bounds
// all blobs below it.
func (t tree) sum(maxBytes int64) (entry, error) {
	e := entry{Type: typeTree, Depth: 1}
	for _, below := range t.Entries {
		e.Bytes += below.Bytes
		e.Entries += 1 + below.Entries
		e.Depth = max(e.Depth, 1+below.Depth)
		// Checked at each step: sums of bounded sums cannot overflow.
		switch {
		case e.Bytes > maxBytes:
			return entry{}, fmt.Errorf("%w: over %d bytes of blobs, the limit of a document", ErrBadSummary, maxBytes)
		case e.Entries > MaxEntries:
			return entry{}, fmt.Errorf("%w: more than %d trees and blobs", ErrBadSummary, MaxEntries)
		case e.Depth > MaxDepth:
			return entry{}, fmt.Errorf("%w: trees nested deeper than %d", ErrBadSummary, MaxDepth)
		}
	}
	return e, nil
}

// version is a stored commit; frozen.
type version struct {
	Tree    string   `json:"tree"`
	Parents []string `json:"parents,omitempty"`
	Message string   `json:"message"`
	Date    int64    `json:"date"` // milliseconds since 1970
	// Flat: the app's entries lie in the root itself, not below .app. All versions of
	// a document have the layout of the first.
	Flat bool `json:"flat,omitempty"`
}

// idBytes is the length of all ids: that of git's, which some clients expect.
const idBytes = 20

// objectID is the id of an object of this content. Blobs have git's id. The others
// are opaque to clients and use SHA-256, cut to the same length: whoever can make
// two blobs of one SHA-1 still cannot swap a subtree.
func objectID(kind objectKind, content []byte) string {
	header := fmt.Appendf(nil, "%s %d\x00", kind, len(content))
	if kind == blobObject {
		var id []byte
		fips140.WithoutEnforcement(func() { // a name that clients compute, and no protection
			h := sha1.New()
			h.Write(header)
			h.Write(content)
			id = h.Sum(nil)
		})
		return hex.EncodeToString(id)
	}
	h := sha256.New()
	h.Write(header)
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil)[:idBytes])
}

func isID(s string) bool {
	if len(s) != 2*idBytes {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// load returns an object's content. ErrNotFound, also for what is no id at all.
func (d *Document) load(ctx context.Context, kind objectKind, id string) ([]byte, error) {
	if !isID(id) {
		return nil, fmt.Errorf("%w: %q is not the id of a %s", ErrNotFound, cut(id), kind)
	}
	name := string(kind) + "/" + id
	sealed, err := d.st.GetObject(ctx, d.keys.Handle(), d.keys.Name(envelope.KindObject, name))
	if errors.Is(err, store.ErrNotFound) {
		// Names come from the keys: once those are gone, nothing is found under any.
		if lost := d.keys.Err(); lost != nil {
			return nil, fmt.Errorf("read %s %s: %w", kind, id, lost)
		}
		return nil, fmt.Errorf("%w: %s %s", ErrNotFound, kind, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, id, err)
	}
	content, err := d.keys.OpenObject(envelope.KindObject, name, sealed)
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", kind, id, err)
	}
	return content, nil
}

func (d *Document) loadTree(ctx context.Context, id string) (tree, error) {
	var t tree
	return t, d.loadJSON(ctx, treeObject, id, &t)
}

func (d *Document) loadCommit(ctx context.Context, id string) (version, error) {
	var c version
	return c, d.loadJSON(ctx, commitObject, id, &c)
}

func (d *Document) loadJSON(ctx context.Context, kind objectKind, id string, v any) error {
	content, err := d.load(ctx, kind, id)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("%w: %s %s: %w", store.ErrCorrupt, kind, id, err)
	}
	return nil
}

// batch collects new objects, to be made durable in one write.
type batch struct {
	d       *Document
	seen    map[string]bool
	objects []store.Object
	content int64           // bytes of the blobs that came with an upload
	read    map[string]tree // trees that were added or, as root trees by commit id, that handles went through
}

func (d *Document) newBatch() *batch {
	return &batch{d: d, seen: map[string]bool{}, read: map[string]tree{}}
}

func (b *batch) add(ctx context.Context, kind objectKind, content []byte) (id string, err error) {
	id = objectID(kind, content)
	name := string(kind) + "/" + id
	if b.seen[name] {
		return id, nil
	}
	b.seen[name] = true
	// Most of what a summary holds was there before: do not write it again.
	stored, err := b.d.st.HasObject(ctx, b.d.keys.Handle(), b.d.keys.Name(envelope.KindObject, name))
	if err != nil {
		return "", fmt.Errorf("look for %s %s: %w", kind, id, err)
	}
	if stored {
		return id, nil
	}
	object, err := b.d.keys.SealObject(envelope.KindObject, name, content)
	if errors.Is(err, envelope.ErrTooLarge) {
		return "", fmt.Errorf("%w: a %s of %d bytes; one can have %d, whatever the limits", ErrBadSummary, kind, len(content), envelope.MaxPlaintextBytes)
	}
	if err != nil {
		return "", fmt.Errorf("seal %s %s: %w", kind, id, err)
	}
	b.objects = append(b.objects, object)
	return id, nil
}

func (b *batch) addBlob(ctx context.Context, content []byte) (entry, error) {
	id, err := b.add(ctx, blobObject, content)
	return entry{Type: typeBlob, ID: id, Bytes: int64(len(content))}, err
}

// addContent adds a blob that came with an upload.
func (b *batch) addContent(ctx context.Context, content []byte) (entry, error) {
	if b.content += int64(len(content)); b.content > b.d.limits.UploadBytes {
		return entry{}, fmt.Errorf("%w: more than %d bytes of blobs in one upload", ErrBadSummary, b.d.limits.UploadBytes)
	}
	return b.addBlob(ctx, content)
}

// addTree adds the tree of these entries, which it sorts.
func (b *batch) addTree(ctx context.Context, entries []entry) (entry, error) {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(entries); i++ {
		if entries[i].Name == entries[i-1].Name {
			return entry{}, fmt.Errorf("%w: two entries named %q", ErrBadSummary, entries[i].Name)
		}
	}
	t := tree{Entries: entries}
	e, err := t.sum(b.d.limits.DocumentBytes)
	if err != nil {
		return entry{}, err
	}
	e.ID, err = b.addJSON(ctx, treeObject, t)
	b.read[e.ID] = t
	return e, err
}

func (b *batch) addCommit(ctx context.Context, c version) (id string, err error) {
	return b.addJSON(ctx, commitObject, c)
}

func (b *batch) addJSON(ctx context.Context, kind objectKind, v any) (id string, err error) {
	content, err := encodeJSON(v)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", kind, err)
	}
	return b.add(ctx, kind, content)
}

// put makes everything that was added durable.
func (b *batch) put(ctx context.Context) error {
	if len(b.objects) == 0 {
		return nil
	}
	if err := b.d.st.PutObjects(ctx, b.d.keys.Handle(), b.objects); err != nil {
		return fmt.Errorf("store %d objects: %w", len(b.objects), err)
	}
	b.d.announce()
	return nil
}

// encodeJSON is json.Marshal without its escapes for HTML.
func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// cut shortens text of a stranger for an error message.
func cut(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
