package relay

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/store"
)

func initialOf(content string) history.Initial {
	return history.Initial{
		Summary: encode(map[string]any{"type": "tree", "entries": []any{
			map[string]any{"path": "a", "type": "blob", "value": map[string]any{"type": "blob", "content": content, "encoding": "utf-8"}},
		}}),
		Values:    json.RawMessage(`[]`),
		AnyBinary: true,
	}
}

func TestCreateRefusesABadSummary(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for name, in := range map[string]history.Initial{
			"NoTree":          {Summary: json.RawMessage(`{"type":"blob"}`), Values: json.RawMessage(`[]`), AnyBinary: true},
			"NotAtOpZero":     {Summary: initialOf("x").Summary, Values: json.RawMessage(`[]`), AnyBinary: true, SequenceNumber: 7},
			"ValuesNoPairs":   {Summary: initialOf("x").Summary, Values: json.RawMessage(`{"a":1}`), AnyBinary: true},
			"NothingAtAll":    {},
			"TrailingGarbage": {Summary: json.RawMessage(`{"type":"tree","entries":[]} x`), Values: json.RawMessage(`[]`), AnyBinary: true},
		} {
			if id, err := r.server.create(t.Context(), r.tenant, newDocument{Initial: in}); !errors.Is(err, history.ErrBadSummary) || id != "" {
				t.Errorf("%s: %q, %v; want ErrBadSummary", name, id, err)
			}
		}
		rows, err := r.store.ListRows(t.Context(), documentsTable, r.server.tenantPartition(testTenant), [32]byte{}, 10)
		if err != nil || len(rows) != 0 {
			t.Errorf("%d document records (%v), want none", len(rows), err)
		}
	})
}

func TestUnknownDocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := newUUID()
		if _, _, err := r.server.open(t.Context(), r.tenant, id); !errors.Is(err, errUnknownDocument) {
			t.Errorf("open: %v, want errUnknownDocument", err)
		}
		if ok, err := r.server.exists(t.Context(), r.tenant, id); ok || err != nil {
			t.Errorf("exists: %v, %v; want false", ok, err)
		}
		if _, existed, err := r.server.remove(t.Context(), r.tenant, id); existed || err != nil {
			t.Errorf("remove: %v, %v; want false", existed, err)
		}
		c := r.dial()
		if got := c.connectErrorOf(connectBody(id, r.token(id), "write")); got.Code != 404 {
			t.Errorf("connect: %+v, want 404", got)
		}
	})
}

func TestOpenedByManyIsLoadedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		var wg sync.WaitGroup
		documents := make([]*document, 20)
		for i := range documents {
			wg.Go(func() {
				d, release, err := r.server.open(t.Context(), r.tenant, id)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				defer release()
				documents[i] = d
			})
		}
		wg.Wait()
		for i, d := range documents {
			if d != documents[0] {
				t.Errorf("opener %d got another document", i)
			}
		}
	})
}

func TestRemoveClosesAndDestroys(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		handle := [16]byte{}
		r.use(id, func(d *document) { handle = d.keys.Handle() })
		_, existed, err := r.server.remove(t.Context(), r.tenant, id)
		if !existed || err != nil {
			t.Fatalf("remove: %v, %v; want true", existed, err)
		}
		a.awaitEnd()
		b := r.dial()
		if got := b.connectErrorOf(connectBody(id, r.token(id), "write")); got.Code != 404 {
			t.Errorf("connect: %+v, want 404", got)
		}
		if _, err := r.keeper.OpenDocument(t.Context(), r.tenant.Resource, handle); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("open its key: %v, want ErrNotFound", err)
		}
		claim, err := r.store.Claim(t.Context(), handle)
		if err != nil || claim.Head != 0 {
			t.Errorf("its log: head %d, %v; want an empty log", claim.Head, err)
		}
	})
}

func TestDeleteTenant(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ids := []string{r.create(), r.create(), r.create()}
		a := r.join(ids[0])
		if _, err := r.keeper.Delete(t.Context(), r.tenant.Resource, "relay"); err != nil {
			t.Fatalf("destroy keys: %v", err)
		}
		for range 2 { // the second time there is nothing to do
			if err := r.server.DeleteTenant(t.Context(), testTenant); err != nil {
				t.Fatalf("delete tenant: %v", err)
			}
		}
		a.awaitEnd()
		for _, id := range ids {
			if ok, err := r.server.exists(t.Context(), r.tenant, id); ok || err != nil {
				t.Errorf("%s exists: %v, %v", id, ok, err)
			}
		}
	})
}

func TestLastAccessIsNoted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		lastAccess := func() time.Time {
			synctest.Wait()
			d, _, err := r.server.record(t.Context(), testTenant, id)
			if err != nil {
				t.Fatal(err)
			}
			return d.LastAccess
		}
		created := lastAccess()
		time.Sleep(time.Minute)
		r.join(id).close()
		if got := lastAccess(); !got.Equal(created) {
			t.Errorf("after a minute: %v, want %v still", got, created)
		}
		time.Sleep(touchEvery)
		r.join(id).close()
		if got, want := lastAccess(), created.Add(touchEvery+time.Minute); !got.Equal(want) {
			t.Errorf("after six minutes: %v, want %v", got, want)
		}
	})
}
