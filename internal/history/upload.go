package history

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// wireTree is a whole-summary tree as clients send it. Source: IWholeSummaryPayload
// and IWholeSummaryTree of the Fluid services client.
type wireTree struct {
	Type    string      `json:"type"`
	Entries []wireEntry `json:"entries"`
}

// wireEntry is one of: a tree or blob with its value; one with the id
// "<commit>/.app/<path>", unchanged since that commit; a blob with the id of an
// attachment. Path is one URI-encoded segment.
type wireEntry struct {
	Path         string     `json:"path"`
	Type         string     `json:"type"`
	Value        *wireValue `json:"value"`
	ID           string     `json:"id"`
	Unreferenced bool       `json:"unreferenced"`
	GroupID      string     `json:"groupId"`
}

type wireValue struct {
	Type     string      `json:"type"`
	Entries  []wireEntry `json:"entries"`
	Content  *string     `json:"content"`
	Encoding string      `json:"encoding"`
}

// UploadSummary stores the channel tree that a client means to propose, durably,
// and returns its tree id: the handle of the coming summarize op. Nothing of it is
// visible before a commit has it. body is the JSON of POST /git/summaries.
// ErrBadSummary (wrapped).
func (d *Document) UploadSummary(ctx context.Context, body []byte) (tree string, err error) {
	var up struct {
		Type    string      `json:"type"`
		Entries []wireEntry `json:"entries"`
	}
	if err := decodeSummary(body, &up); err != nil {
		return "", err
	}
	if up.Type != "channel" {
		return "", fmt.Errorf("%w: type %q; only \"channel\" can be uploaded", ErrBadSummary, cut(up.Type))
	}
	b := d.newBatch()
	app, err := b.addWireEntries(ctx, up.Entries)
	if err != nil {
		return "", err
	}
	return app.ID, b.put(ctx)
}

// addWholeTree adds the tree a 2.x client creates a document with.
func (b *batch) addWholeTree(ctx context.Context, body []byte) (entry, error) {
	var t wireTree
	if err := decodeSummary(body, &t); err != nil {
		return entry{}, err
	}
	if t.Type != typeTree {
		return entry{}, fmt.Errorf("%w: summary has type %q instead of \"tree\"", ErrBadSummary, cut(t.Type))
	}
	return b.addWireEntries(ctx, t.Entries)
}

func (b *batch) addWireEntries(ctx context.Context, wire []wireEntry) (entry, error) {
	entries := make([]entry, 0, len(wire))
	for i := range wire {
		e, err := b.addWireEntry(ctx, &wire[i])
		if err != nil {
			return entry{}, err
		}
		entries = append(entries, e)
	}
	return b.addTree(ctx, entries)
}

func (b *batch) addWireEntry(ctx context.Context, w *wireEntry) (entry, error) {
	name, err := decodeName(w.Path)
	if err != nil {
		return entry{}, err
	}
	if w.Type != typeTree && w.Type != typeBlob {
		return entry{}, fmt.Errorf("%w: %q has type %q; it must be \"tree\" or \"blob\"", ErrBadSummary, name, cut(w.Type))
	}
	var e entry
	switch {
	case (w.Value == nil) == (w.ID == ""):
		return entry{}, fmt.Errorf("%w: %q must have either a value or an id", ErrBadSummary, name)
	case w.Value != nil && w.Value.Type != w.Type:
		return entry{}, fmt.Errorf("%w: %q has type %q, its value %q", ErrBadSummary, name, w.Type, cut(w.Value.Type))
	case w.Value != nil && w.Type == typeTree:
		e, err = b.addWireEntries(ctx, w.Value.Entries)
	case w.Value != nil:
		e, err = b.addWireBlob(ctx, name, w.Value)
	case strings.Contains(w.ID, "/"):
		e, err = b.resolve(ctx, w.ID)
	case w.Type == typeBlob:
		e, err = b.attachment(ctx, w.ID)
	default:
		err = fmt.Errorf("%w: %q: a tree's id must be \"<commit>/.app/<path>\"", ErrBadSummary, name)
	}
	if err != nil {
		return entry{}, err
	}
	if e.Type != w.Type {
		return entry{}, fmt.Errorf("%w: %q is a %s, but %q is a %s", ErrBadSummary, name, w.Type, cut(w.ID), e.Type)
	}
	// A subtree taken over from an earlier summary keeps its marks.
	e.Unreferenced = e.Unreferenced || w.Unreferenced
	if w.GroupID != "" {
		e.GroupID = w.GroupID
	}
	return e.as(name), nil
}

func (b *batch) addWireBlob(ctx context.Context, name string, v *wireValue) (entry, error) {
	if v.Content == nil {
		return entry{}, fmt.Errorf("%w: blob %q has no content", ErrBadSummary, name)
	}
	content, err := DecodeContent(*v.Content, v.Encoding)
	if err != nil {
		return entry{}, fmt.Errorf("%w: blob %q: %w", ErrBadSummary, name, err)
	}
	return b.addContent(ctx, content)
}

// DecodeContent returns the bytes of a blob's content; encoding is "utf-8" or
// "base64".
func DecodeContent(content, encoding string) ([]byte, error) {
	switch encoding {
	case "utf-8":
		return []byte(content), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(content)
		if err != nil {
			return nil, errors.New("content is not base64")
		}
		return b, nil
	default:
		return nil, fmt.Errorf("encoding %q; it must be \"utf-8\" or \"base64\"", cut(encoding))
	}
}

// attachment returns the entry of a blob that was uploaded before.
func (b *batch) attachment(ctx context.Context, id string) (entry, error) {
	content, err := b.d.load(ctx, blobObject, id)
	if errors.Is(err, ErrNotFound) {
		return entry{}, fmt.Errorf("%w: no attachment blob %q in this document", ErrBadSummary, cut(id))
	}
	return entry{Type: typeBlob, ID: id, Bytes: int64(len(content))}, err
}

// resolve finds what a handle "<commit>/.app/<path>" names.
func (b *batch) resolve(ctx context.Context, handle string) (entry, error) {
	commit, path, _ := strings.Cut(handle, "/")
	bad := func(err error) (entry, error) {
		return entry{}, fmt.Errorf("%w: handle %q does not resolve: %w", ErrBadSummary, cut(handle), err)
	}
	at, err := b.rootOf(ctx, commit)
	if errors.Is(err, ErrNotFound) {
		return bad(errors.New("no such commit in this document"))
	}
	if err != nil {
		return entry{}, err
	}
	segments := strings.Split(path, "/")
	if segments[0] != appName {
		return bad(errors.New("the path must begin with .app"))
	}
	var found entry
	for i, segment := range segments {
		name, err := decodeName(segment)
		if err != nil {
			return bad(fmt.Errorf("segment %d is not URI-encoded", i))
		}
		if i > 0 {
			if found.Type != typeTree {
				return bad(fmt.Errorf("%q is not a tree", cut(found.Name)))
			}
			if at, err = b.treeOf(ctx, found.ID); err != nil {
				return entry{}, err
			}
		}
		var ok bool
		if found, ok = at.find(name); !ok {
			return bad(fmt.Errorf("no %q there", name))
		}
	}
	return found, nil
}

// rootOf and treeOf read a tree once per upload: the handles of one upload share
// most of their way.
func (b *batch) rootOf(ctx context.Context, commit string) (tree, error) {
	if t, ok := b.read["commit/"+commit]; ok {
		return t, nil
	}
	c, err := b.d.loadCommit(ctx, commit)
	if err != nil {
		return tree{}, err
	}
	if c.Flat {
		return tree{}, fmt.Errorf("%w: handles are of the remote dialect, and this document is of the local one", ErrBadSummary)
	}
	t, err := b.treeOf(ctx, c.Tree)
	if err == nil {
		b.read["commit/"+commit] = t
	}
	return t, err
}

func (b *batch) treeOf(ctx context.Context, id string) (tree, error) {
	if t, ok := b.read[id]; ok {
		return t, nil
	}
	t, err := b.d.loadTree(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return tree{}, missing(err)
	}
	if err == nil {
		b.read[id] = t
	}
	return t, err
}

// decodeName decodes one URI-encoded path segment and checks it.
func decodeName(encoded string) (string, error) {
	name, err := url.PathUnescape(encoded)
	switch {
	case err != nil || !utf8.ValidString(name):
		return "", fmt.Errorf("%w: path %q is not a URI-encoded segment", ErrBadSummary, cut(encoded))
	case strings.Contains(encoded, "/"):
		return "", fmt.Errorf("%w: path %q has more than one segment", ErrBadSummary, cut(encoded))
	}
	return name, checkName(name)
}

func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: an entry without a name", ErrBadSummary)
	}
	if len(name) > MaxNameBytes {
		return fmt.Errorf("%w: a name of %d bytes, over the limit of %d", ErrBadSummary, len(name), MaxNameBytes)
	}
	return nil
}

// encodeName is decodeName's inverse: encodeURIComponent of JavaScript.
func encodeName(name string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.!~*'()", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}

// decodeSummary decodes an upload after checking that it cannot unfold into much
// more memory than it has bytes.
func decodeSummary(body []byte, v any) error {
	if err := checkShape(body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return fmt.Errorf("%w: %s is a %s where a %s belongs", ErrBadSummary, nameOr(kind.Field, "the summary"), kind.Value, kind.Type.Kind())
		}
		return fmt.Errorf("%w: not JSON: %w", ErrBadSummary, err)
	}
	return nil
}

func nameOr(name, other string) string {
	if name == "" {
		return other
	}
	return name
}

// checkShape refuses JSON that nests deeper, or has more values, than any summary
// within the limits: a tree takes three levels and an entry fewer than 8 commas.
func checkShape(body []byte) error {
	const maxNesting, maxCommas = 3*MaxDepth + 8, 8 * MaxEntries
	depth, commas := 0, 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > maxNesting {
				return fmt.Errorf("%w: trees nested deeper than %d", ErrBadSummary, MaxDepth)
			}
		case '}', ']':
			depth--
		case ',':
			if commas++; commas > maxCommas {
				return fmt.Errorf("%w: more than %d trees and blobs", ErrBadSummary, MaxEntries)
			}
		}
	}
	return nil
}
