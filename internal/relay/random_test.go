package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// Random sessions, failing appends, stale writers, restarts and kills. Whatever
// happened: the log has no gap and no repeat, and what any client was ever sent is
// in it, byte for byte.
func TestRandomFailures(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, uint64(time.Now().UnixNano())}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("Seed%d", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				w := &storm{r: r, rand: rand.New(rand.NewPCG(seed, 0)), id: r.create()}
				for range 600 {
					w.step()
				}
				w.check(t)
			})
		})
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
		c.emit("connect_document", connectBody(w.id, w.r.token(w.id), []string{"write", "write", "read"}[w.rand.IntN(3)]))
		w.clients, w.live = append(w.clients, c), append(w.live, c)
	case n < 84 && len(w.live) > 0:
		c := w.live[w.rand.IntN(len(w.live))]
		if c.id == "" {
			return // not connected yet, as far as is known
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

func (w *storm) check(t *testing.T) {
	t.Helper()
	w.collect()
	w.r.store.onAppend(nil)
	w.r.restart()
	ops := w.r.log(w.id)
	if len(ops) < 100 {
		t.Fatalf("only %d ops: the test tests nothing", len(ops))
	}
	last := map[sequencer.ClientID]int64{}
	for i, op := range ops {
		if op.Seq != sequencer.Seq(i+1) {
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
	seen := 0
	for _, c := range w.clients {
		checkOrder(t, c.id, c.seen)
		for _, op := range c.seen {
			seen++
			if got, want := string(op.AppendJSON(nil)), string(ops[op.Seq-1].AppendJSON(nil)); got != want {
				t.Errorf("client saw %s, log has %s", got, want)
			}
		}
	}
	t.Logf("%d ops, %d clients saw %d", len(ops), len(w.clients), seen)
}
