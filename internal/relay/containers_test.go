package relay

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// listed returns the ids of all containers, read in pages.
func (r *rig) listed(limit int) []string {
	r.t.Helper()
	var ids []string
	var after envelope.Name
	for {
		page, last, err := r.server.Containers(r.t.Context(), testTenant, after, limit)
		if err != nil {
			r.t.Fatalf("list containers: %v", err)
		}
		for _, c := range page {
			ids = append(ids, c.ID)
		}
		if after = last; after == (envelope.Name{}) {
			return ids
		}
		if len(page) != limit {
			r.t.Errorf("a page of %d that is not the last, want %d", len(page), limit)
		}
	}
}

func TestContainersAreListedInPages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var ids []string
		for range 9 {
			ids = append(ids, r.create())
		}
		// Deleted ones leave no hole in a page.
		for _, id := range ids[:3] {
			if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); err != nil {
				t.Fatalf("delete: %v", err)
			}
		}
		want := slices.Sorted(slices.Values(ids[3:]))
		for limit := 1; limit < 11; limit++ {
			got := r.listed(limit)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("in pages of %d: %v, want %v", limit, got, want)
			}
		}
		if page, last, err := r.server.Containers(t.Context(), "another", envelope.Name{}, 5); len(page) != 0 || last != (envelope.Name{}) || err != nil {
			t.Errorf("of an unknown tenant: %v, %v, %v; want none", page, last, err)
		}
	})
}

func TestContainerTimesAreTrue(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		made := time.Now().UTC().Truncate(time.Second)
		id := r.create()
		want := func(what string, accessed time.Time) {
			t.Helper()
			synctest.Wait()
			c, err := r.server.Container(t.Context(), testTenant, id)
			if err != nil || !c.Created.Equal(made) || !c.Accessed.Equal(accessed) {
				t.Errorf("%s: %+v, %v; want created %v, accessed %v", what, c, err, made, accessed)
			}
		}
		time.Sleep(time.Hour)
		want("nobody came", made)
		a := r.join(id)
		joined := made.Add(time.Hour)
		want("one came", joined)
		time.Sleep(30 * time.Minute)
		want("one stays", joined.Add(30*time.Minute))
		a.close()
		time.Sleep(time.Hour)
		want("one left", joined.Add(30*time.Minute))
		r.restart()
		want("after a restart", joined.Add(30*time.Minute))
	})
}

func TestDeletedContainerStaysDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); err != nil {
			t.Fatalf("delete: %v", err)
		}
		a.awaitEnd()
		for _, when := range []string{"at once", "after a restart"} {
			if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: delete again: %v, want ErrNotFound", when, err)
			}
			if c, err := r.server.Container(t.Context(), testTenant, id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: show: %+v, %v; want ErrNotFound", when, c, err)
			}
			r.plain("GET", "/documents/"+testTenant+"/session/"+id, r.token(id), "").want(t, 404, "Document is deleted and cannot be accessed.")
			if got := r.dial().connectErrorOf(connectBody(id, r.token(id), "write")); got.Code != 404 {
				t.Errorf("%s: connect: %+v, want 404", when, got)
			}
			if ids := r.listed(5); len(ids) != 0 {
				t.Errorf("%s: listed %v, want none", when, ids)
			}
			r.restart()
		}
		// Its tenant's deletion takes what is left of it.
		if _, err := r.keeper.Delete(t.Context(), r.tenant.Resource, "relay"); err != nil {
			t.Fatalf("destroy keys: %v", err)
		}
		if err := r.server.DeleteTenant(t.Context(), testTenant); err != nil {
			t.Fatalf("delete tenant: %v", err)
		}
		if rows, err := r.store.ListRows(t.Context(), documentsTable, r.server.tenantPartition(testTenant), envelope.Name{}, 10); err != nil || len(rows) != 0 {
			t.Errorf("%d records left (%v), want none", len(rows), err)
		}
	})
}

// undeletable is a store that cannot delete documents.
type undeletable struct{ *faultyStore }

func (undeletable) DeleteDocument(context.Context, envelope.DocumentHandle) error { return errDisk }

// TestDeletionGoesOn: when the key is destroyed but the data could not be removed,
// deleting again removes it.
func TestDeletionGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		r.join(id).close()
		var handle envelope.DocumentHandle
		r.use(id, func(d *document) { handle = d.keys.Handle() })
		whole := r.server.c.Store
		r.server.c.Store = undeletable{r.store}
		if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); !errors.Is(err, errDisk) {
			t.Fatalf("delete: %v, want errDisk", err)
		}
		r.server.c.Store = whole
		if claim, err := r.store.Claim(t.Context(), handle); err != nil || claim.Head == 0 {
			t.Fatalf("its log: head %d, %v; want ops left over", claim.Head, err)
		}
		if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("delete again: %v, want ErrNotFound", err)
		}
		if claim, err := r.store.Claim(t.Context(), handle); err != nil || claim.Head != 0 {
			t.Errorf("its log: head %d, %v; want an empty log", claim.Head, err)
		}
	})
}

// TestContainersNeedNoKey: listing and deleting go on while the customer's key is off.
func TestContainersNeedNoKey(t *testing.T) {
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		id := r.create()
		v.set(keystore.Disabled)
		time.Sleep(2 * time.Minute)
		if _, _, err := r.server.open(t.Context(), r.tenant, id); err == nil {
			t.Fatal("the document can still be opened")
		}
		if ids := r.listed(5); !slices.Equal(ids, []string{id}) {
			t.Errorf("listed %v, want %s", ids, id)
		}
		if _, err := r.server.Container(t.Context(), testTenant, id); err != nil {
			t.Errorf("show: %v", err)
		}
		if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
}
