package history

import (
	"context"
	"fmt"
)

// classicNode is a summary tree as 1.x clients create documents with it. Names are
// the members of tree, not encoded. Source: ISummaryTree of the Fluid protocol
// definitions.
type classicNode struct {
	Type         int                     `json:"type"`
	Tree         map[string]*classicNode `json:"tree"`
	Content      *string                 `json:"content"`
	Unreferenced bool                    `json:"unreferenced"`
	GroupID      string                  `json:"groupId"`
}

// The types of nodes; handles and attachments cannot be in a first summary.
const (
	classicTree = 1
	classicBlob = 2
)

// addClassicTree adds the tree a 1.x client creates a document with. A binary blob
// cannot travel in this format: it arrives as an object and is refused.
func (b *batch) addClassicTree(ctx context.Context, body []byte) (entry, error) {
	var root classicNode
	if err := decodeSummary(body, &root); err != nil {
		return entry{}, err
	}
	if root.Type != classicTree {
		return entry{}, fmt.Errorf("%w: summary has type %d instead of %d, a tree; the 2.x format needs enableAnyBinaryBlobOnFirstSummary",
			ErrBadSummary, root.Type, classicTree)
	}
	return b.addClassicNode(ctx, "summary", &root)
}

func (b *batch) addClassicNode(ctx context.Context, name string, n *classicNode) (e entry, err error) {
	switch {
	case n == nil:
		return entry{}, fmt.Errorf("%w: %q is null", ErrBadSummary, name)
	case n.Type == classicTree:
		entries := make([]entry, 0, len(n.Tree))
		for name, below := range n.Tree {
			if err := checkName(name); err != nil {
				return entry{}, err
			}
			e, err := b.addClassicNode(ctx, name, below)
			if err != nil {
				return entry{}, err
			}
			entries = append(entries, e.as(name))
		}
		if e, err = b.addTree(ctx, entries); err != nil {
			return entry{}, err
		}
	case n.Type == classicBlob && n.Content != nil:
		if e, err = b.addContent(ctx, []byte(*n.Content)); err != nil {
			return entry{}, err
		}
	case n.Type == classicBlob:
		return entry{}, fmt.Errorf("%w: blob %q has no content", ErrBadSummary, name)
	default:
		return entry{}, fmt.Errorf("%w: %q has type %d; it must be %d, a tree, or %d, a blob", ErrBadSummary, name, n.Type, classicTree, classicBlob)
	}
	e.Unreferenced, e.GroupID = n.Unreferenced, n.GroupID
	return e, nil
}
