package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// createEphemeral makes a document that is removed by itself, as drivers do.
func (r *rig) createEphemeral() (id string) {
	r.t.Helper()
	body := strings.Replace(fmt.Sprintf(createBody, false, false), `"isEphemeralContainer":false`, `"isEphemeralContainer":true`, 1)
	a := r.call("POST", "/documents/t1", r.createToken(), body)
	if a.status != 201 {
		r.t.Fatalf("create: %d %s", a.status, a.body)
	}
	return strings.Trim(string(a.body), `"`)
}

// exists says whether a document is listed, without loading it.
func (r *rig) exists(id string) bool {
	r.t.Helper()
	synctest.Wait()
	_, err := r.server.Container(r.t.Context(), testTenant, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		r.t.Fatalf("container %s: %v", id, err)
	}
	return err == nil
}

// ephemeralRows counts the documents that are to be removed by themselves.
func (r *rig) ephemeralRows() int {
	r.t.Helper()
	rows, err := r.server.ephemeral.List(r.t.Context(), envelope.Name{})
	if err != nil {
		r.t.Fatal(err)
	}
	return len(rows)
}

// An ephemeral container lasts as long as somebody is connected, and not much longer:
// it is unloaded ten minutes after the last has left, and found unused at two looks.
func TestEphemeralContainerGoesWithItsClients(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		kept := r.create()
		id := r.createEphemeral()
		var handle envelope.DocumentHandle
		r.use(id, func(d *document) { handle = d.keys.Handle() })
		a := r.read(id)
		b := r.join(id)
		b.submit("x")
		b.awaitMine(1)
		time.Sleep(50 * time.Minute) // within their tokens' life
		if !r.exists(id) {
			t.Fatal("it is gone while clients are connected")
		}
		a.close()
		b.close()
		time.Sleep(unloadAfter + lookEvery - time.Second)
		if !r.exists(id) {
			t.Error("it is gone before it was found unused twice")
		}
		time.Sleep(lookEvery + 2*time.Second)
		if r.exists(id) {
			t.Error("it is still there 20 minutes after the last has left")
		}
		r.call("GET", "/documents/t1/session/"+id, r.token(id), "").want(t, 404, "Document is deleted and cannot be accessed.")
		if claim, err := r.store.Claim(t.Context(), handle); err != nil || claim.Head != 0 {
			t.Errorf("its log: head %d, %v; want an empty log", claim.Head, err)
		}
		receipts, _, err := r.keeper.Receipts(t.Context(), "", 10)
		if err != nil || len(receipts) != 1 || receipts[0].Name != id {
			t.Errorf("receipts %+v, %v; want one of its key", receipts, err)
		}
		if n := r.ephemeralRows(); n != 0 {
			t.Errorf("%d rows are left of it", n)
		}
		time.Sleep(48 * time.Hour)
		r.restart()
		if !r.exists(kept) {
			t.Error("a container that is not ephemeral is gone")
		}
	})
}

// One that nobody ever came to goes, too; who comes in time has it for as long.
func TestEphemeralContainerNobodyCameTo(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		unused, used := r.createEphemeral(), r.createEphemeral()
		time.Sleep(2*lookEvery - time.Second)
		a := r.join(used)
		time.Sleep(50 * time.Minute)
		if r.exists(unused) || !r.exists(used) {
			t.Errorf("unused one is there: %t, want false; used one: %t, want true", r.exists(unused), r.exists(used))
		}
		a.close()
	})
}

// Clients of a server that was restarted find their container, though nobody was
// connected meanwhile, and nobody noted when they last were.
func TestEphemeralContainerOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.createEphemeral()
		a := r.join(id)
		a.submit("x")
		a.awaitMine(1)
		time.Sleep(50 * time.Minute)
		r.restart()
		a.close()
		time.Sleep(lookEvery + time.Minute)
		b := r.join(id)
		if got := contentsOf(t, r.log(id)); !slices.Equal(got, []string{"x"}) {
			t.Errorf("ops %q, want the one from before", got)
		}
		time.Sleep(50 * time.Minute)
		if !r.exists(id) {
			t.Error("it is gone while a client is connected")
		}
		b.close()
		r.restart()
		time.Sleep(2*lookEvery + time.Second)
		if r.exists(id) {
			t.Error("after another restart, which nobody came back from, it is still there")
		}
	})
}

// What its owner deleted, or the deletion of a tenant took, leaves no row behind; what
// could not be deleted is tried again.
func TestEphemeralContainerThatIsDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id, other := r.createEphemeral(), r.createEphemeral()
		if _, err := r.server.DeleteContainer(t.Context(), testTenant, id); err != nil {
			t.Fatal(err)
		}
		whole := r.store.Store
		r.store.swap(hoarder{whole})
		r.restart()
		time.Sleep(3*lookEvery + time.Second)
		if n := r.ephemeralRows(); n != 2 {
			t.Errorf("%d rows while nothing can be deleted, want both", n)
		}
		r.store.swap(whole)
		r.restart()
		time.Sleep(2*lookEvery + time.Second)
		if n := r.ephemeralRows(); n != 0 || r.exists(other) {
			t.Errorf("%d rows are left", n)
		}

		r.createEphemeral()
		r.tenant.ID = "another" // nobody finds the tenant any more
		r.restart()
		time.Sleep(2*lookEvery + time.Second)
		if n := r.ephemeralRows(); n != 0 {
			t.Errorf("%d rows are left of a tenant that is gone", n)
		}
	})
}

// hoarder is a store that cannot delete documents.
type hoarder struct{ store.Store }

func (hoarder) DeleteDocument(context.Context, envelope.DocumentHandle) error { return errDisk }

// Among several nodes only the document's looks after it: what is in use on one is not
// unused on another.
func TestEphemeralContainerAmongNodes(t *testing.T) {
	clustered(t, 3, func(t *testing.T, c *testNodes) {
		var ids []string
		var clients []*client
		for range 6 {
			id := c.nodes[0].createEphemeral()
			ids = append(ids, id)
			clients = append(clients, c.nodes[1].joinAt(id))
		}
		time.Sleep(50 * time.Minute)
		for i, id := range ids {
			if !c.nodes[0].exists(id) {
				t.Errorf("%s is gone while a client is connected", id)
			}
			clients[i].close()
		}
		time.Sleep(unloadAfter + 2*lookEvery + 2*time.Second)
		for _, id := range ids {
			if c.nodes[0].exists(id) {
				t.Errorf("%s is still there, and nobody is", id)
			}
		}
	})
}
