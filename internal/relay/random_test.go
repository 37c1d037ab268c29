package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// Random sessions, summaries, failing appends, stale writers, restarts and kills.
// Whatever happened: the log has no gap and no repeat, what any client was ever sent
// is in it, byte for byte, and every version can be loaded. With a window, the same
// holds of what is kept, and no two clients were ever sent different ops.
func TestRandomFailures(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, uint64(time.Now().UnixNano())}
	var trimmed sequencer.Seq
	for _, seed := range seeds {
		for name, window := range map[string]time.Duration{"": 0, "Trimmed": 5 * time.Minute} {
			t.Run(fmt.Sprintf("Seed%d%s", seed, name), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					r.limits.OpRetention = window
					r.restart()
					w := &storm{r: r, rand: rand.New(rand.NewPCG(seed, 0)), id: r.create()}
					for range 600 {
						w.step()
					}
					trimmed += w.check(t)
				})
			})
		}
	}
	if trimmed == 0 {
		t.Error("no ops were dropped in any of the histories")
	}
}

// storm is one random history of one document.
type storm struct {
	r       *rig
	rand    *rand.Rand
	id      string
	clients []*client // all there ever were
	live    []*client // as far as is known
}

func (w *storm) step() {
	switch n := w.rand.IntN(100); {
	case n < 20 && len(w.live) < 6:
		c := w.r.dial()
		c.emit("connect_document", connectBody(w.id, w.r.token(w.id), []string{"write", "write", "read"}[w.rand.IntN(3)], summarizer))
		w.clients, w.live = append(w.clients, c), append(w.live, c)
	case n < 84 && len(w.live) > 0:
		c := w.live[w.rand.IntN(len(w.live))]
		if c.id == "" {
			return // not connected yet, as far as is known
		}
		if n < 24 {
			w.summarize(c)
			return
		}
		var batch []string
		for range 1 + w.rand.IntN(4) {
			batch = append(batch, fmt.Sprint(w.rand.Uint64()))
		}
		c.submit(batch...)
	case n < 88 && len(w.live) > 0:
		w.live[w.rand.IntN(len(w.live))].write("41")
	case n < 91:
		w.r.failOnce(w.rand.IntN(2) == 0)
	case n < 93: // another process takes the document over
		synctest.Wait()
		w.r.use(w.id, func(d *document) {
			if _, err := w.r.store.Claim(context.Background(), d.keys.Handle()); err != nil {
				w.r.t.Fatal(err)
			}
		})
	case n < 95:
		w.r.restart()
	case n < 97: // a kill: nothing is written from some moment on
		w.r.store.onAppend(func(context.Context, store.Append) error { return errDisk })
		w.r.stop()
		w.r.store.onAppend(nil)
		w.r.start()
	default:
		time.Sleep(time.Duration(w.rand.Int64N(int64(6 * time.Minute))))
	}
	if w.rand.IntN(2) == 0 {
		w.collect()
	}
}

// summarize has c propose a summary that builds on some version of the last ones.
func (w *storm) summarize(c *client) {
	var up struct{ ID string }
	body := fmt.Sprintf(`{"type":"channel","entries":[{"path":"x","type":"blob","value":{"type":"blob","content":"%d","encoding":"utf-8"}}]}`, w.rand.Uint64())
	token := w.r.token(w.id)
	if a := w.r.call("POST", "/repos/t1/git/summaries", token, body); json.Unmarshal(a.body, &up) != nil {
		return // the document is being read anew
	}
	var versions []struct{ SHA string }
	if a := w.r.call("GET", "/repos/t1/commits?count=3&sha="+w.id, token, ""); json.Unmarshal(a.body, &versions) != nil {
		return
	}
	head := versions[w.rand.IntN(len(versions))].SHA
	op := c.op(string(encode(map[string]any{"handle": up.ID, "head": head, "message": "m", "parents": []string{head}})))
	op["type"] = "summarize"
	c.emit("submitOp", c.id, []any{[]any{op}})
}

// collect takes what the clients got and forgets those that were closed.
func (w *storm) collect() {
	synctest.Wait()
	live := w.live[:0]
	for _, c := range w.live {
		for _, e := range c.all() {
			switch e.name {
			case "op":
				c.seen = append(c.seen, parseOpsJSON(c.t, e.args[1])...)
			case "connect_document_success":
				var m struct{ ClientID string }
				if err := json.Unmarshal(e.args[0], &m); err != nil {
					c.t.Fatal(err)
				}
				c.id = m.ClientID
			case "nack": // a reader, or sent out for its silence: clients connect again
				c.write("41")
			}
		}
		select {
		case <-c.ended:
		default:
			live = append(live, c)
		}
	}
	w.live = live
}

// check returns up to which op the log was trimmed.
func (w *storm) check(t *testing.T) sequencer.Seq {
	t.Helper()
	w.collect()
	w.r.store.onAppend(nil)
	w.r.restart()
	ops, trimmed := w.kept(t)
	if len(ops) < 100 && trimmed == 0 {
		t.Fatalf("only %d ops: the test tests nothing", len(ops))
	}
	last := map[sequencer.ClientID]int64{}
	for i, op := range ops {
		if op.Seq != trimmed+sequencer.Seq(i+1) {
			t.Fatalf("op %d is in place %d of the log", op.Seq, i+1)
		}
		if i > 0 && (op.MSN < ops[i-1].MSN || op.Timestamp < ops[i-1].Timestamp) {
			t.Errorf("op %d: msn or time falls", op.Seq)
		}
		if op.ClientID != "" {
			if op.CSN <= last[op.ClientID] {
				t.Errorf("op %d: csn %d of %s after %d", op.Seq, op.CSN, op.ClientID, last[op.ClientID])
			}
			last[op.ClientID] = op.CSN
		}
	}
	seen := map[sequencer.Seq]string{}
	for _, op := range ops {
		seen[op.Seq] = string(op.AppendJSON(nil))
	}
	for _, c := range w.clients {
		checkOrder(t, c.id, c.seen)
		for _, op := range c.seen {
			got := string(op.AppendJSON(nil))
			if want, ok := seen[op.Seq]; ok && got != want || !ok && op.Seq > trimmed {
				t.Errorf("client saw %s, others or the log have %s", got, want)
			}
			seen[op.Seq] = got
		}
	}
	w.checkVersions(t, trimmed)
	t.Logf("%d ops, those up to %d dropped, %d clients", len(seen), trimmed, len(w.clients))
	return trimmed
}

// kept is the log as it is, and the last op that was dropped from it.
func (w *storm) kept(t *testing.T) (ops []sequencer.SequencedOp, trimmed sequencer.Seq) {
	t.Helper()
	w.r.use(w.id, func(d *document) {
		raw, err := d.store().Ops(t.Context(), 0, 1<<40, 1<<20, 1<<30)
		var gone *history.TrimmedError
		if errors.As(err, &gone) {
			trimmed = gone.To
			raw, err = d.store().Ops(t.Context(), trimmed, 1<<40, 1<<20, 1<<30)
		}
		if err != nil {
			t.Fatalf("read ops after %d: %v", trimmed, err)
		}
		ops = parseOpsJSON(t, raw)
	})
	return ops, trimmed
}

// checkVersions loads every version; the newest one can be caught up from.
func (w *storm) checkVersions(t *testing.T, trimmed sequencer.Seq) {
	t.Helper()
	versions := w.r.versions(t, w.id)
	for i, v := range versions {
		if at := w.r.stateOf(t, w.id, v); i == 0 && at < trimmed {
			t.Errorf("the newest version is of op %d, ops up to %d are gone", at, trimmed)
		}
	}
	t.Logf("%d versions", len(versions))
}
