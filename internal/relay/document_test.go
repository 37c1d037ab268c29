package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

func TestTwoWritersSeeOneOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const rounds = 100
		id := r.create()
		a, b := r.join(id), r.join(id)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range rounds {
				b.submit(fmt.Sprintf("b%d", i), fmt.Sprintf("b%d'", i))
			}
		}()
		for i := range rounds {
			a.submit(fmt.Sprintf("a%d", i))
		}
		<-done
		const last = 2 + 3*rounds // two joins before
		a.awaitOp(last)
		b.awaitOp(last)
		checkOrder(t, "a", a.seen)
		checkOrder(t, "b", b.seen)
		ops := r.log(id)
		checkOrder(t, "log", ops)
		inLog := contentsOf(t, ops)
		if got := contentsOf(t, a.seen); !slices.Equal(got, inLog) {
			t.Errorf("a saw %v, log has %v", got, inLog)
		}
		if got := contentsOf(t, b.seen); !slices.Equal(got, inLog) {
			t.Errorf("b saw %v, log has %v", got, inLog)
		}
	})
}

func TestNothingIsShownBeforeItIsDurable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a, b := r.join(id), r.read(id)
		a.silent("signal")
		b.silent("signal", "op")
		gate := make(chan struct{})
		appends := 0
		r.store.onAppend(func(ctx context.Context, app store.Append) error {
			appends++
			<-gate
			return r.store.Store.Append(ctx, app)
		})
		a.submit("first")
		synctest.Wait()
		a.submit("second")
		a.submit("third")
		a.silent()
		b.silent()
		close(gate)
		mine := b.awaitOp(4)
		if got := string(mine.Contents); got != `"third"` {
			t.Errorf("op 4 has contents %s, want \"third\"", got)
		}
		checkOrder(t, "b", b.seen)
		if appends != 2 {
			t.Errorf("%d appends, want 2: what came while the first was under way is one batch", appends)
		}
	})
}

// failOnce makes the next append fail, after writing it if persist.
func (r *rig) failOnce(persist bool) {
	r.store.onAppend(func(ctx context.Context, a store.Append) error {
		r.store.onAppend(nil)
		if persist {
			if err := r.store.Store.Append(ctx, a); err != nil {
				return err
			}
		}
		return errDisk
	})
}

func TestFailedAppend(t *testing.T) {
	for name, persist := range map[string]bool{"Lost": false, "PersistedButReportedFailed": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				id := r.create()
				a := r.join(id)
				a.submit("kept")
				a.awaitMine(1)
				r.failOnce(persist)
				a.submit("in doubt")
				a.awaitEnd()
				for _, op := range a.drain() {
					t.Errorf("got op %d %s, want none: it was not known to be durable", op.Seq, op.Type)
				}

				b := r.join(id)
				b.submit("later")
				b.awaitMine(1)
				ops := r.log(id)
				checkOrder(t, "log", ops)
				want := []string{"kept", "later"}
				if persist {
					want = []string{"kept", "in doubt", "later"}
				}
				if got := contentsOf(t, ops); !slices.Equal(got, want) {
					t.Errorf("log has %v, want %v", got, want)
				}
				if left := leaversOf(ops); !slices.Contains(left, a.id) {
					t.Errorf("leaves of %v, want one of %s, whose socket was closed", left, a.id)
				}
				b.close()
			})
		})
	}
}

func leaversOf(ops []sequencer.SequencedOp) []string {
	var ids []string
	for _, op := range ops {
		if op.Type != sequencer.TypeLeave {
			continue
		}
		var data, id string
		if json.Unmarshal(op.Data, &data) == nil && json.Unmarshal([]byte(data), &id) == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// A writer with an older term is fenced by the store, not by timing.
func TestFencedDocumentIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		r.use(id, func(d *document) {
			if _, err := r.store.Claim(t.Context(), d.keys.Handle()); err != nil {
				t.Fatal(err)
			}
		})
		a.submit("too late")
		a.awaitEnd()
		b := r.join(id)
		ops := r.log(id)
		checkOrder(t, "log", ops)
		if got := contentsOf(t, ops); len(got) != 0 {
			t.Errorf("log has %v, want nothing of the fenced writer's", got)
		}
		b.close()
	})
}

func TestRestartKeepsAllOps(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		a.submit("one", "two")
		a.awaitMine(2)
		before := r.log(id)
		r.restart()
		a.awaitEnd()

		after := r.log(id)
		checkOrder(t, "log", after)
		if len(after) < len(before) {
			t.Fatalf("%d ops after the restart, %d before", len(after), len(before))
		}
		for i, op := range before {
			if got, want := string(after[i].AppendJSON(nil)), string(op.AppendJSON(nil)); got != want {
				t.Errorf("op %d: %s, was %s", op.Seq, got, want)
			}
		}
		if got := leaversOf(after); !slices.Equal(got, []string{a.id}) {
			t.Errorf("leaves of %v, want of %s", got, a.id)
		}
		b := r.join(id)
		b.submit("three")
		b.awaitMine(1)
		b.close()
	})
}

// A process that was killed left writers in the log; the next one sends them out.
func TestKilledProcess(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		a.submit("one")
		a.awaitMine(1)
		r.store.onAppend(func(context.Context, store.Append) error { return errDisk }) // from here on it is dead
		r.stop()
		r.store.onAppend(nil)
		r.start()
		b := r.join(id)
		join := b.seen[len(b.seen)-1]
		ops := r.log(id)
		checkOrder(t, "log", ops)
		if got := leaversOf(ops); !slices.Equal(got, []string{a.id}) {
			t.Errorf("leaves of %v, want of %s", got, a.id)
		}
		if join.MSN != join.Seq-1 {
			t.Errorf("join %d has msn %d: the dead writer holds it back", join.Seq, join.MSN)
		}
		b.close()
	})
}

func TestNackComesAfterTheOpsBeforeIt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		first := a.op("fine")
		a.csn++
		gap := a.op("after a gap")
		a.emit("submitOp", a.id, []any{first, gap})
		if e := a.next(); e.name != "op" {
			t.Fatalf("first event is %s, want op", e.name)
		}
		nack := a.awaitNack()
		if nack.Content.Code != 400 || nack.Operation == nil || nack.Operation.CSN != 3 {
			t.Errorf("nack %+v of %+v, want 400 of csn 3", nack.Content, nack.Operation)
		}
	})
}

// A batch larger than a record is cut; nothing is lost or moved.
func TestLargeBatchIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		r.use(id, func(d *document) {
			s := d.sessionOf(a.id)
			var ops []sequencer.Op
			for i := range 12 {
				contents := encode(strings.Repeat("x", 200_000))
				ops = append(ops, sequencer.Op{CSN: int64(i + 1), RSN: -1, Type: sequencer.TypeOp, Contents: contents})
			}
			d.submit(s, ops)
		})
		var sizes []int
		for len(a.seen) < 13 {
			e := a.await("op")
			sizes = append(sizes, len(e.args[1]))
		}
		checkOrder(t, "a", a.seen)
		for _, n := range sizes {
			if n > maxBatchBytes+1 {
				t.Errorf("op event of %d bytes, want at most %d", n, maxBatchBytes)
			}
		}
	})
}

func (d *document) sessionOf(id string) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byClient[sequencer.ClientID(id)]
}

const summaryBody = `{"type":"channel","message":"","sequenceNumber":0,"entries":[
	{"path":"b","type":"blob","value":{"type":"blob","content":"y","encoding":"utf-8"}}]}`

// propose uploads a summary of the document's first op and sends its summarize op.
func (c *client) propose(r *rig) {
	c.t.Helper()
	c.proposeAt(r, 1)
}

// proposeAt proposes a summary of the ops up to seq.
func (c *client) proposeAt(r *rig, seq sequencer.Seq) {
	c.t.Helper()
	r.use(c.document, func(d *document) {
		tree, err := d.store().UploadSummary(c.t.Context(), []byte(summaryBody))
		if err != nil {
			c.t.Fatalf("upload summary: %v", err)
		}
		op := c.op("")
		op["type"] = "summarize"
		op["referenceSequenceNumber"] = seq
		op["contents"] = string(encode(map[string]any{
			"handle": tree, "head": d.head(), "message": "Summary @1:1", "parents": []string{d.head()},
			"details": map[string]any{"includesProtocolTree": false},
		}))
		c.emit("submitOp", c.id, []any{op})
	})
}

// settled reads until a summary was acknowledged or refused.
func (c *client) settled() sequencer.SequencedOp {
	c.t.Helper()
	for {
		for _, op := range c.seen {
			if op.Type == sequencer.TypeSummaryAck || op.Type == sequencer.TypeSummaryNack {
				return op
			}
		}
		c.await("op")
	}
}

func (r *rig) headOf(id string) string {
	var head string
	r.use(id, func(d *document) { head = d.head() })
	return head
}

func TestSummaryMovesTheHead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		first := r.headOf(id)
		a := r.join(id, summarizer)
		a.propose(r)
		ack := a.settled()
		if ack.Type != sequencer.TypeSummaryAck {
			t.Fatalf("%s: %s, want summaryAck", ack.Type, ack.Contents)
		}
		synctest.Wait()
		head := r.headOf(id)
		if head == first || !strings.Contains(string(ack.Contents), head) {
			t.Errorf("head %s (was %s), want the one of %s", head, first, ack.Contents)
		}
		r.restart()
		if got := r.headOf(id); got != head {
			t.Errorf("head after a restart %s, want %s", got, head)
		}
	})
}

// A proposal that was in the log when the process died is decided by the next one.
func TestPendingSummarySurvives(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id, summarizer)
		first := r.headOf(id)
		synctest.Wait()
		appends := 0
		r.store.onAppend(func(ctx context.Context, app store.Append) error {
			if appends++; appends > 1 {
				return errDisk // the ack, and everything after it
			}
			return r.store.Store.Append(ctx, app)
		})
		a.propose(r)
		a.awaitEnd()
		r.stop()
		r.store.onAppend(nil)
		r.start()
		b := r.join(id)
		b.submit("x")
		b.awaitMine(1)
		synctest.Wait()
		if got := r.headOf(id); got == first {
			t.Errorf("head is still %s: the pending summary was not decided", got)
		}
		acks := 0
		for _, op := range r.log(id) {
			if op.Type == sequencer.TypeSummaryAck {
				acks++
			}
		}
		if acks != 1 {
			t.Errorf("%d acks in the log, want 1", acks)
		}
		b.close()
	})
}

func TestOnlySummarizersMaySummarize(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		a.propose(r)
		if nack := a.awaitNack(); nack.Content.Code != 403 || nack.Content.Type != invalidScope {
			t.Errorf("nack %+v, want 403 InvalidScopeError", nack.Content)
		}
	})
}

func TestUnusedDocumentIsUnloaded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		a.submit("x")
		a.awaitMine(1)
		a.close()
		synctest.Wait()
		loaded := func() int {
			r.server.mu.Lock()
			defer r.server.mu.Unlock()
			return len(r.server.documents)
		}
		time.Sleep(10*time.Minute - time.Second)
		synctest.Wait()
		if loaded() != 1 {
			t.Fatal("unloaded too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if loaded() != 0 {
			t.Fatal("still loaded")
		}
		r.use(id, func(d *document) {
			if d.unsaved != 0 {
				t.Errorf("%d ops replayed, want none: a checkpoint was written at the end", d.unsaved)
			}
		})
		checkOrder(t, "log", r.log(id))
	})
}

// However the log is cut into pages, replaying it gives the same state.
func TestReplayInPages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a, b := r.join(id), r.join(id)
		for i := range 60 {
			a.submit(strings.Repeat("a", i))
			b.submit("b", "b")
			synctest.Wait()
		}
		a.close()
		synctest.Wait()
		var want sequencer.State
		r.use(id, func(d *document) {
			want = d.seq.State() // at rest: nobody else looks
			for _, pageBytes := range []int{2000, 5000, replayBytes} {
				got, err := recoverDocument(t.Context(), r.store, d.keys, pageBytes)
				if err != nil {
					t.Fatalf("pages of %d bytes: %v", pageBytes, err)
				}
				if state := got.seq.State(); !reflect.DeepEqual(state, want) {
					t.Errorf("pages of %d bytes: %+v, want %+v", pageBytes, state, want)
				}
				if int(got.at) != got.replayed || got.at != want.Seq {
					t.Errorf("pages of %d bytes: replayed %d up to %d, want %d", pageBytes, got.replayed, got.at, want.Seq)
				}
			}
		})
	})
}

func TestIdleWriterIsSentOut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		b := r.read(id)
		time.Sleep(sequencer.ClientTimeout + time.Minute)
		synctest.Wait()
		for _, op := range b.drain() {
			b.seen = append(b.seen, op)
		}
		if got := leaversOf(b.seen); !slices.Equal(got, []string{a.id}) {
			t.Errorf("leaves of %v, want of %s", got, a.id)
		}
	})
}

// Who does not read is cut off, and costs the others nothing.
func TestClientThatDoesNotRead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a, slow := r.join(id), r.join(id)
		slow.stall.Store(true)
		start := time.Now()
		const n = 20 // more than a socket's queue holds
		for range n {
			a.submit(strings.Repeat("x", 500_000))
		}
		a.awaitLast(2 + n + 1) // with the slow one's leave
		if took := time.Since(start); took > time.Second {
			t.Errorf("the writer had to wait %v for a client that does not read", took)
		}
		if got := leaversOf(r.log(id)); !slices.Equal(got, []string{slow.id}) {
			t.Errorf("leaves of %v, want of %s", got, slow.id)
		}
	})
}

func TestShutdown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		gate := make(chan struct{})
		r.store.onAppend(func(ctx context.Context, app store.Append) error {
			<-gate
			return r.store.Store.Append(ctx, app)
		})
		a.submit("accepted")
		synctest.Wait()
		a.submit("waiting")
		synctest.Wait()
		down := make(chan error)
		go func() { down <- r.server.Shutdown(context.Background()) }()
		synctest.Wait()

		b := r.dial()
		got := b.connectErrorOf(connectBody(id, r.token(id), "write"))
		want := connectError{Code: 503, Message: connectDraining.message, CanRetry: true, RetryAfter: 2, RetryAfterMS: 2000, InternalCode: "ClusterDraining"}
		if got != want {
			t.Errorf("connect while draining: %+v, want %+v", got, want)
		}
		if _, err := r.server.create(t.Context(), r.tenant, newDocument{Initial: initialOf("x")}); !errors.Is(err, errDraining) {
			t.Errorf("create while draining: %v, want errDraining", err)
		}
		close(gate)
		if err := <-down; err != nil {
			t.Errorf("shut down: %v", err)
		}
		a.awaitEnd()
		b.awaitEnd()
		a.seen = append(a.seen, a.drain()...)
		if got := contentsOf(t, a.seen); !slices.Equal(got, []string{"accepted", "waiting"}) {
			t.Errorf("client saw %v, want what it sent", got)
		}
		if got := leaversOf(a.seen); len(got) != 0 {
			t.Errorf("client saw its own leave")
		}
	})
}
