package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

const testWindow = time.Hour

// summaryAfter makes a document with some more ops and a summary of all of them, by a
// client that comes and goes. It returns the version's id and the state it holds.
func (r *rig) summaryAfter(t *testing.T, id string, ops int) (commit string, state sequencer.Seq) {
	t.Helper()
	head := r.head(id)
	c := r.join(id, summarizer)
	var last sequencer.Seq
	for i := range ops {
		c.submit(fmt.Sprint(i))
		mine := c.awaitMine(i + 1)
		last = mine[i].Seq
	}
	var up struct{ ID string }
	upload := fmt.Sprintf(`{"type":"channel","entries":[{"path":"n","type":"blob","value":{"type":"blob","content":"%d","encoding":"utf-8"}}]}`, last)
	r.call("POST", "/repos/t1/git/summaries", r.token(id), upload).decode(t, 201, &up)
	ack := c.summarize(up.ID, head, last)
	if ack.Type != sequencer.TypeSummaryAck {
		t.Fatalf("the summary was answered with %s %s", ack.Type, ack.Contents)
	}
	synctest.Wait()
	commit = r.head(id)
	c.close()
	synctest.Wait()
	return commit, last
}

// firstOps is the sequence number of the first op after from, or the error's status.
func (r *rig) firstAfter(id string, from sequencer.Seq) int64 {
	r.t.Helper()
	a := r.call("GET", fmt.Sprintf("/deltas/t1/%s?from=%d", id, from), r.token(id), "")
	if a.status != 200 {
		return -int64(a.status)
	}
	ops := parseOpsJSON(r.t, a.body)
	checkOrder(r.t, "deltas", ops)
	return int64(ops[0].Seq)
}

// trimmedDocument is a document whose ops up to state were dropped: the state of
// commit, which was the newest version a window ago.
func (r *rig) trimmedDocument(t *testing.T) (id, commit string, state sequencer.Seq) {
	t.Helper()
	r.limits.OpRetention = testWindow
	r.restart()
	id = r.create()
	commit, state = r.summaryAfter(t, id, 3)
	time.Sleep(testWindow)
	r.summaryAfter(t, id, 3) // found that version to be the newest, and marked it
	time.Sleep(testWindow - time.Minute)
	r.summaryAfter(t, id, 3)
	if got := r.firstAfter(id, 0); got != 1 {
		t.Fatalf("within the window the first op is %d", got)
	}
	time.Sleep(time.Minute)
	r.summaryAfter(t, id, 3)
	return id, commit, state
}

func TestRetentionDropsWhatNobodyNeeds(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id, commit, state := r.trimmedDocument(t)
		check := func(when string) {
			t.Helper()
			if got := r.firstAfter(id, state); got != int64(state)+1 {
				t.Errorf("%s: the first op after %d is %d", when, state, got)
			}
			r.call("GET", fmt.Sprintf("/deltas/t1/%s?from=%d", id, state-1), r.token(id), "").
				want(t, 410, fmt.Sprintf("The ops up to %d are no longer kept: load the newest version of the document.", state))
			for _, form := range []string{"/deltas/t1/" + id, "/deltas/v1/t1/" + id, "/deltas/raw/t1/" + id, "/deltas/t1/" + id + "/v1?from=0&to=3"} {
				if a := r.call("GET", form, r.token(id), ""); a.status != 410 {
					t.Errorf("%s: %s: %d, want 410", when, form, a.status)
				}
			}
			// All versions can be viewed; those that were the newest in the last window, caught up from.
			var versions []struct{ SHA string }
			r.call("GET", "/repos/t1/commits?count=100&sha="+id, r.token(id), "").decode(t, 200, &versions)
			seen := false
			for _, v := range versions {
				var got struct{ ID string }
				r.call("GET", "/repos/t1/git/summaries/"+v.SHA, r.token(id), "").decode(t, 200, &got)
				if seen = seen || v.SHA == commit; seen {
					continue
				}
				at := r.stateOf(t, id, v.SHA)
				if first := r.firstAfter(id, at); first != int64(at)+1 {
					t.Errorf("%s: version %s of op %d is followed by %d", when, v.SHA, at, first)
				}
			}
			if !seen {
				t.Errorf("%s: version %s is not listed", when, commit)
			}
		}
		check("after the trim")
		r.restart()
		check("after a restart")
		c := r.join(id)
		c.submit("x")
		c.awaitMine(1)
		c.close()
		r.summaryAfter(t, id, 1)
		check("after more ops")
	})
}

// stateOf is the sequence number that a version holds the state of.
func (r *rig) stateOf(t *testing.T, id, commit string) sequencer.Seq {
	t.Helper()
	var summary struct {
		Trees []struct{ Entries []struct{ Path, ID string } }
		Blobs []struct {
			ID      string
			Content []byte
		}
	}
	r.call("GET", "/repos/t1/git/summaries/"+commit, r.token(id), "").decode(t, 200, &summary)
	for _, e := range summary.Trees[0].Entries {
		for _, b := range summary.Blobs {
			var at sequencer.Seq
			if e.Path == ".protocol/attributes" && e.ID == b.ID {
				if _, err := fmt.Sscanf(string(b.Content[strings.Index(string(b.Content), `"sequenceNumber"`):]), `"sequenceNumber":%d`, &at); err != nil {
					t.Fatal(err)
				}
				return at
			}
		}
	}
	t.Fatalf("version %s has no attributes", commit)
	return 0
}

func TestRetentionWithoutWindowKeepsAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		for range 4 {
			r.summaryAfter(t, id, 2)
			time.Sleep(5 * time.Hour)
		}
		if got := r.firstAfter(id, 0); got != 1 {
			t.Errorf("the first op is %d", got)
		}
	})
}

// A document from elsewhere, whose log begins later.
func TestRetentionOfAMigratedDocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.limits.OpRetention = testWindow
		r.restart()
		const id, base = "moved", 1000
		in := initialOf("x")
		in.SequenceNumber = base
		if err := r.server.createAs(t.Context(), r.tenant, id, newDocument{Initial: in}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // nothing to drop yet: a mark at the beginning, then one at the first summary
			time.Sleep(testWindow)
			if got := r.firstAfterOrNone(id); got != 0 && got != base+1 {
				t.Errorf("the first op is %d", got)
			}
			r.summaryAfter(t, id, 2)
		}
		time.Sleep(testWindow)
		r.summaryAfter(t, id, 2)
		if got := r.firstAfter(id, 0); got != -410 {
			t.Errorf("asked for all: %d, want 410", got)
		}
		r.restart()
		if got := r.firstAfter(id, base); got != -410 {
			t.Errorf("asked from the beginning on: %d, want 410", got)
		}
	})
}

func (r *rig) firstAfterOrNone(id string) int64 {
	r.t.Helper()
	if a := r.call("GET", "/deltas/t1/"+id, r.token(id), ""); a.status == 200 && string(a.body) == "[]" {
		return 0
	}
	return r.firstAfter(id, 0)
}

// trimHook is a store whose trims can be tampered with.
type trimHook struct {
	store.Store
	do func(ctx context.Context, doc envelope.DocumentHandle, term, below uint64) error
}

func (h *trimHook) Trim(ctx context.Context, doc envelope.DocumentHandle, term, below uint64) error {
	return h.do(ctx, doc, term, below)
}

// A trim that did not happen costs space, and the next one makes up for it.
func TestRetentionAfterAFailedTrim(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		whole := r.store.Store
		r.store.swap(&trimHook{whole, func(context.Context, envelope.DocumentHandle, uint64, uint64) error { return errDisk }})
		id, _, state := r.trimmedDocument(t)
		r.store.swap(whole)
		kept := func() bool {
			var there bool
			r.use(id, func(d *document) {
				_, err := whole.Read(t.Context(), d.keys.Handle(), 1, 1, 0)
				there = err == nil
			})
			return there
		}
		if !kept() {
			t.Fatal("the failed trim dropped something")
		}
		r.restart()
		if got := r.firstAfter(id, 0); got != -410 {
			t.Errorf("ops that are to be dropped: %d, want 410", got)
		}
		if got := r.firstAfter(id, state); got != int64(state)+1 {
			t.Errorf("the first op after %d is %d", state, got)
		}
		time.Sleep(testWindow)
		r.summaryAfter(t, id, 1)
		if kept() {
			t.Error("the next trim left them")
		}
	})
}

// Who can write the store can cut the front of a log off, or bring an older checkpoint
// back. Neither passes for a trim.
func TestRetentionHidesNoTampering(t *testing.T) {
	t.Run("CutFurther", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id, _, state := r.trimmedDocument(t)
			r.use(id, func(d *document) {
				if err := r.store.Trim(t.Context(), d.keys.Handle(), d.term, uint64(state)+3); err != nil {
					t.Fatal(err)
				}
				if _, err := d.store().Ops(t.Context(), state, state+10, 100, 1<<20); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("ops after %d: %v, want ErrCorrupt", state, err)
				}
				var gone *history.TrimmedError
				if _, err := d.store().Ops(t.Context(), state-1, state+10, 100, 1<<20); !errors.As(err, &gone) || gone.To != state {
					t.Errorf("ops from %d: %v, want them trimmed up to %d", state, err, state)
				}
			})
		})
	})
	t.Run("OlderCheckpoint", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			r.limits.OpRetention = testWindow
			r.restart()
			id := r.create()
			var old store.Object
			var handle envelope.DocumentHandle
			r.use(id, func(d *document) {
				handle = d.keys.Handle()
				old.Name = d.keys.Name(envelope.KindCheckpoint, checkpointID)
				var err error
				if old.Value, err = r.store.GetObject(t.Context(), handle, old.Name); err != nil {
					t.Fatal(err)
				}
			})
			for range 3 {
				r.summaryAfter(t, id, 2)
				time.Sleep(testWindow)
			}
			r.summaryAfter(t, id, 2)
			if got := r.firstAfter(id, 0); got != -410 {
				t.Fatalf("nothing was dropped: %d", got)
			}
			r.stop()
			if err := r.store.PutObjects(t.Context(), handle, []store.Object{old}); err != nil {
				t.Fatal(err)
			}
			r.start()
			if _, _, err := r.server.open(t.Context(), r.tenant, id); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("opened with an older checkpoint: %v, want ErrCorrupt", err)
			}
		})
	})
}

// Reading goes on while the front of the log goes away.
func TestRetentionWhileReading(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.limits.OpRetention = testWindow
		r.restart()
		id := r.create()
		r.summaryAfter(t, id, 30)
		time.Sleep(testWindow)
		r.summaryAfter(t, id, 30)
		time.Sleep(testWindow)
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				r.use(id, func(d *document) {
					_, err := d.store().Ops(t.Context(), 0, 1<<30, 1<<20, 1<<30)
					if gone := (*history.TrimmedError)(nil); err != nil && !errors.As(err, &gone) {
						t.Errorf("reading: %v", err)
					}
				})
				time.Sleep(time.Millisecond)
			}
		}()
		r.summaryAfter(t, id, 30)
		close(stop)
		<-done
		if got := r.firstAfter(id, 0); got != -410 {
			t.Errorf("nothing was dropped: %d", got)
		}
	})
}
