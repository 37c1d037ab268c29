package history

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tidelock/tidelock/internal/store"
)

// Summary is one version's whole content, ready to be written.
type Summary struct {
	Commit string

	d     *Document
	root  string
	trees map[string]tree // all of it, by id
	blobs []entry         // each blob once, in the order they appear
}

// Summary finds the version with this commit id and reads its trees. ErrNotFound.
func (d *Document) Summary(ctx context.Context, commit string) (*Summary, error) {
	c, err := d.loadCommit(ctx, commit)
	if err != nil {
		return nil, err
	}
	s := &Summary{Commit: commit, d: d, root: c.Tree, trees: map[string]tree{}}
	if err := s.collect(ctx, c.Tree, map[string]bool{}); err != nil {
		return nil, err
	}
	return s, nil
}

// collect reads the tree id and those below it, each once: Write repeats them as
// often as they are referred to, without holding the repetitions.
func (s *Summary) collect(ctx context.Context, id string, seen map[string]bool) error {
	if _, ok := s.trees[id]; ok {
		return nil
	}
	t, err := s.d.loadTree(ctx, id)
	if err != nil {
		return missing(err)
	}
	s.trees[id] = t
	for _, e := range t.Entries {
		if e.Type == typeTree {
			if err := s.collect(ctx, e.ID, seen); err != nil {
				return err
			}
		} else if !seen[e.ID] {
			seen[e.ID] = true
			s.blobs = append(s.blobs, e)
		}
	}
	return nil
}

// missing says of an object that another one refers to that it is not there: our
// damage, not the caller's mistake.
func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %v", store.ErrCorrupt, err) //nolint:errorlint // must no longer match ErrNotFound
	}
	return err
}

// Write writes the answer of GET /git/summaries: the flat list of entries, parents
// before children, and every blob in it, attachments included, as base64. It
// holds one blob in memory at a time, the same for all who write it. After an error the JSON is incomplete.
func (s *Summary) Write(ctx context.Context, w io.Writer) error {
	out := &chunks{w: w}
	out.b = fmt.Appendf(out.b, `{"id":"%s","trees":[{"id":"%s","entries":[`, s.Commit, s.root)
	if err := s.writeEntries(out, s.root, "", ""); err != nil {
		return err
	}
	out.b = append(out.b, `]}],"blobs":[`...)
	for i, e := range s.blobs {
		if i > 0 {
			out.b = append(out.b, ',')
		}
		if err := s.writeBlob(ctx, out, e.ID); err != nil {
			return err
		}
	}
	out.b = append(out.b, `]}`...)
	return out.flush(0)
}

func (s *Summary) writeBlob(ctx context.Context, out *chunks, id string) error {
	content, release, err := s.d.Blob(ctx, id)
	if err != nil {
		return missing(err)
	}
	defer release()
	out.b = fmt.Appendf(out.b, `{"id":"%s","size":%d,"encoding":"base64","content":"`, id, len(content))
	if err := out.base64(content); err != nil {
		return err
	}
	out.b = append(out.b, `"}`...)
	return nil
}

// WriteBase64 writes content as base64, piece by piece.
func WriteBase64(w io.Writer, content []byte) error {
	out := &chunks{w: w}
	if err := out.base64(content); err != nil {
		return err
	}
	return out.flush(0)
}

// writeEntries writes what is below the tree id, at most MaxEntries entries: every
// stored tree keeps that bound.
func (s *Summary) writeEntries(out *chunks, id, path, comma string) error {
	for _, e := range s.trees[id].Entries {
		// Encoded names need no escapes in JSON.
		name := path + encodeName(e.Name)
		out.b = fmt.Appendf(out.b, `%s{"path":"%s","type":"%s"`, comma, name, e.Type)
		comma = ","
		if e.Type == typeBlob {
			out.b = fmt.Appendf(out.b, `,"id":"%s"`, e.ID)
		}
		if e.Unreferenced {
			out.b = append(out.b, `,"unreferenced":true`...)
		}
		if e.GroupID != "" {
			group, err := encodeJSON(e.GroupID)
			if err != nil {
				return err
			}
			out.b = fmt.Appendf(out.b, `,"groupId":%s`, group)
		}
		out.b = append(out.b, '}')
		if err := out.flush(chunkBytes); err != nil {
			return err
		}
		if e.Type == typeTree {
			if err := s.writeEntries(out, e.ID, name+"/", ","); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunks collects output and writes it on in large pieces.
type chunks struct {
	w io.Writer
	b []byte
}

const chunkBytes = 64 << 10

func (c *chunks) base64(content []byte) error {
	// Pieces are a multiple of 3 bytes, so only the last one is padded.
	for piece := range slices.Chunk(content, 48<<10) {
		c.b = base64.StdEncoding.AppendEncode(c.b, piece)
		if err := c.flush(chunkBytes); err != nil {
			return err
		}
	}
	return nil
}

// flush writes what is there once it is at least so many bytes.
func (c *chunks) flush(atLeast int) error {
	if len(c.b) < atLeast {
		return nil
	}
	_, err := c.w.Write(c.b)
	c.b = c.b[:0]
	return err
}

// TreeEntry is one entry of a tree as it is listed.
type TreeEntry struct {
	Path  string // encoded segments, joined with "/"
	Type  string // "blob" or "tree"
	ID    string
	Bytes int64 // of the blob, or of all blobs below the tree
}

// maxListBytes bounds the paths of one listing: deep trees repeat long ones.
const maxListBytes = 32 << 20

// Tree lists a tree; recursive, everything below it too, parents before children.
// ErrNotFound; ErrBadSummary (wrapped) if the listing would be too long.
func (d *Document) Tree(ctx context.Context, id string, recursive bool) ([]TreeEntry, error) {
	t, err := d.loadTree(ctx, id)
	if err != nil {
		return nil, err
	}
	left := maxListBytes
	return d.listTree(ctx, nil, t, "", recursive, &left)
}

func (d *Document) listTree(ctx context.Context, list []TreeEntry, t tree, path string, recursive bool, left *int) ([]TreeEntry, error) {
	for _, e := range t.Entries {
		name := path + encodeName(e.Name)
		if *left -= len(name); *left < 0 {
			return nil, fmt.Errorf("%w: paths of over %d bytes; list tree by tree", ErrBadSummary, maxListBytes)
		}
		list = append(list, TreeEntry{Path: name, Type: e.Type, ID: e.ID, Bytes: e.Bytes})
		if e.Type != typeTree || !recursive {
			continue
		}
		below, err := d.loadTree(ctx, e.ID)
		if err != nil {
			return nil, missing(err)
		}
		if list, err = d.listTree(ctx, list, below, name+"/", recursive, left); err != nil {
			return nil, err
		}
	}
	return list, nil
}
