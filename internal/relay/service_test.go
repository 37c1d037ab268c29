package relay

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// versions lists the versions of a document, newest first.
func (r *rig) versions(t *testing.T, id string) []string {
	t.Helper()
	var list []struct{ SHA string }
	r.call("GET", "/repos/t1/commits?count=100&sha="+id, r.token(id), "").decode(t, 200, &list)
	var ids []string
	for _, v := range list {
		ids = append(ids, v.SHA)
	}
	return ids
}

// visit has a client come, send an op and go.
func (r *rig) visit(id string) {
	r.t.Helper()
	c := r.join(id)
	c.submit("x")
	c.awaitMine(1)
	c.close()
	synctest.Wait()
}

// When the last writer leaves, the service makes a version by itself that nothing
// announces. Clients that hold an older one of the same state can still summarize.
func TestServiceSummaryWhenAllHaveLeft(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		first := r.head(id)
		r.visit(id)
		service := r.head(id)
		if got := r.versions(t, id); service == first || !slices.Equal(got, []string{service, first}) {
			t.Fatalf("versions %v, want one after %s", got, first)
		}
		for _, op := range r.log(id) {
			if op.Type == sequencer.TypeSummaryAck || op.Type == sequencer.TypeSummarize {
				t.Errorf("op %d announces it: %s", op.Seq, op.Type)
			}
		}
		c := r.read(id) // nobody writes, so nobody leaves
		c.close()
		idle := r.join(id)
		idle.close()
		synctest.Wait()
		if got := r.head(id); got != service {
			t.Error("a version was made of nothing")
		}

		var up struct{ ID string }
		r.call("POST", "/repos/t1/git/summaries", r.token(id), `{"type":"channel","entries":[]}`).decode(t, 201, &up)
		s := r.join(id, summarizer)
		at := s.seen[len(s.seen)-1].Seq
		if nack := s.summarize(up.ID, strings.Repeat("0", 40), at); nack.Type != sequencer.TypeSummaryNack {
			t.Errorf("built on nothing: %s", nack.Type)
		}
		if ack := s.summarize(up.ID, first, at); ack.Type != sequencer.TypeSummaryAck {
			t.Errorf("built on the version before: %s %s", ack.Type, ack.Contents)
		}
		if nack := s.summarize(up.ID, service, at); nack.Type != sequencer.TypeSummaryNack {
			t.Errorf("built on what another summary replaced: %s", nack.Type)
		}
		if got := r.versions(t, id); len(got) != 3 || !slices.Equal(got[1:], []string{service, first}) {
			t.Errorf("versions %v", got)
		}
		s.close()
		r.restart()
		if got := r.versions(t, id); len(got) != 3 {
			t.Errorf("versions after a restart: %v", got)
		}
	})
}

// objectHook is a store whose writes of objects can be held back.
type objectHook struct {
	store.Store
	fail func(objects []store.Object) bool
}

func (h *objectHook) PutObjects(ctx context.Context, doc envelope.DocumentHandle, objects []store.Object) error {
	if h.fail(objects) {
		return errDisk
	}
	return h.Store.PutObjects(ctx, doc, objects)
}

// What a crash left undone is made up for when the document is loaded, and no version
// that was seen is lost.
func TestServiceSummaryAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		first := r.head(id)
		whole := r.store.Store
		r.store.swap(&objectHook{whole, func([]store.Object) bool { return true }}) // no version, no checkpoint
		r.visit(id)
		if got := r.head(id); got != first {
			t.Fatalf("the newest version is %s, and nothing could be stored", got)
		}
		r.stop()
		r.store.swap(whole)
		r.start()
		r.head(id) // loads it
		synctest.Wait()
		service := r.head(id)
		if service == first {
			t.Fatal("no version was made after the crash")
		}
		for range 2 {
			r.restart()
			synctest.Wait()
			if got := r.head(id); got != service {
				t.Errorf("the newest version is %s after a restart, was %s", got, service)
			}
		}
	})
}

// A server that stops sends the last writers away.
func TestServiceSummaryAfterAStop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		first := r.head(id)
		c := r.join(id)
		c.submit("x")
		c.awaitMine(1)
		r.restart()
		r.head(id)
		synctest.Wait()
		if got := r.versions(t, id); len(got) != 2 || got[1] != first {
			t.Errorf("versions %v, want one after %s", got, first)
		}
	})
}
