package memory

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Walk implements store.Store.
func (s *Store) Walk(ctx context.Context, visit func(store.Stored) error) error {
	var all []store.Stored
	err := s.read(ctx, func() error {
		for handle, d := range s.docs {
			add := func(part store.Part, values [][]byte) {
				for _, raw := range values {
					all = append(all, store.Stored{Part: part, Document: handle, Value: bytes.Clone(raw)})
				}
			}
			add(store.PartHeader, d.headers)
			add(store.PartRecord, d.records)
			names := slices.SortedFunc(maps.Keys(d.objects), func(a, b envelope.Name) int { return bytes.Compare(a[:], b[:]) })
			for _, name := range names {
				all = append(all, store.Stored{Part: store.PartObject, Document: handle, Name: name, Value: bytes.Clone(d.objects[name])})
			}
		}
		for key, r := range s.rows {
			all = append(all, store.Stored{Part: store.PartRow, Row: key, Value: bytes.Clone(r.value)})
		}
		return nil
	})
	for n := 0; n < len(all) && err == nil; n++ {
		err = visit(all[n])
	}
	return err
}
