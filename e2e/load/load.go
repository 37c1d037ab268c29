// Package load has clients at work on a server, whatever is done to it meanwhile, and
// compares in the end what every client saw with what the server has: one total order of
// each document, without gaps, and nothing that anybody saw missing, changed, repeated or
// moved.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
)

const (
	// attempts is how often what a fault may have got in the way of is tried, a pause
	// apart.
	attempts = 20
	pause    = 500 * time.Millisecond
)

// Options of a load. One more client of each document reads.
type Options struct {
	Documents int
	Writers   int           // of each document
	InFlight  int           // ops that a writer submits at a time
	Pause     time.Duration // of a writer after those
}

// Load is clients at work on several documents. They keep all that they receive.
type Load struct {
	endpoint  bench.Endpoint
	options   Options
	documents []bench.Document
	clients   [][]*bench.Client // of each document
	news      chan struct{}     // has room for one: an op was acknowledged
	cancel    context.CancelFunc
	writing   sync.WaitGroup

	mu           sync.Mutex     // guards the rest
	received     int            // ops, by all clients
	last         time.Time      // when the last one was
	faults       []error        // order errors that clients saw
	acknowledged []acknowledged // ops that their authors saw sequenced
	counts       []int          // of those, by document
}

type acknowledged struct {
	document int
	seq      int64
	contents string
}

// Start returns when all clients are connected and the writers write.
func Start(t *testing.T, e bench.Endpoint, o Options) *Load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &Load{endpoint: e, options: o, news: make(chan struct{}, 1), cancel: cancel, counts: make([]int, o.Documents)}
	for i := range o.Documents {
		var d bench.Document
		must(t, "create a document", func() (err error) {
			d, err = e.Create(ctx)
			return err
		})
		l.documents = append(l.documents, d)
		var clients []*bench.Client
		for range o.Writers {
			clients = append(clients, l.writer(ctx, t, i))
		}
		clients = append(clients, l.dial(ctx, t, d, bench.Options{Mode: bench.Read}))
		l.clients = append(l.clients, clients)
	}
	return l
}

// must tries f a few times: a server may just have come back.
func must(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range attempts {
		if err = f(); err == nil {
			return
		}
		time.Sleep(pause)
	}
	t.Fatalf("%s: %v", what, err)
}

func (l *Load) dial(ctx context.Context, t *testing.T, d bench.Document, o bench.Options) (c *bench.Client) {
	t.Helper()
	o.Reconnect, o.Record = true, true
	inner := o.OnOp
	o.OnOp = func(op bench.Op) {
		l.mu.Lock()
		l.received++
		l.last = time.Now()
		l.mu.Unlock()
		if inner != nil {
			inner(op)
		}
	}
	o.OnError = func(err error) {
		var e *bench.Error
		if errors.As(err, &e) && e.Kind == bench.Order {
			l.mu.Lock()
			l.faults = append(l.faults, err)
			l.mu.Unlock()
		}
	}
	must(t, "connect", func() (err error) {
		c, err = bench.Dial(ctx, l.endpoint, d, o)
		return err
	})
	return c
}

// writer keeps a few ops of its own in flight, over every fault.
func (l *Load) writer(ctx context.Context, t *testing.T, document int) *bench.Client {
	own := make(chan struct{}, 1024)
	c := l.dial(ctx, t, l.documents[document], bench.Options{Mode: bench.Write, OnOp: func(op bench.Op) {
		if !op.Own || op.Type != "op" {
			return
		}
		l.acknowledge(document, op)
		select {
		case own <- struct{}{}:
		default:
		}
	}})
	l.writing.Go(func() {
		for n := 0; ctx.Err() == nil; {
			if err := c.WaitConnected(ctx); err != nil {
				return
			}
			for range l.options.InFlight {
				n++
				contents, _ := json.Marshal(fmt.Sprintf("%p %d", c, n)) // a string always marshals
				if _, err := c.Submit("op", contents); err != nil {
					break // the connection has gone: wait for the next one
				}
			}
			for range l.options.InFlight {
				select {
				case <-own:
				case <-time.After(200 * time.Millisecond): // lost with the connection
				case <-ctx.Done():
					return
				}
			}
			time.Sleep(l.options.Pause)
		}
	})
	return c
}

func (l *Load) acknowledge(document int, op bench.Op) {
	l.mu.Lock()
	l.acknowledged = append(l.acknowledged, acknowledged{document, op.Seq, contents(op)})
	l.counts[document]++
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// contents is what the op holds; "" when it is nothing of ours.
func contents(op bench.Op) string {
	var o struct {
		Contents string `json:"contents"`
	}
	_ = json.Unmarshal(op.Raw, &o) // what does not decode is not found later
	return o.Contents
}

// Received is how many ops all clients have received, and when the last one was.
func (l *Load) Received() (ops int, last time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.received, l.last
}

// Await returns once every document got n more ops of its writers acknowledged.
func (l *Load) Await(t *testing.T, n int, within time.Duration) {
	t.Helper()
	count := func() []int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return append([]int(nil), l.counts...)
	}
	before, deadline := count(), time.After(within)
	for {
		now, ready := count(), true
		for i := range now {
			ready = ready && now[i] >= before[i]+n
		}
		if ready {
			return
		}
		select {
		case <-l.news:
		case <-deadline:
			t.Fatalf("not every document took %d ops within %s: %v, before %v", n, within, now, before)
		}
	}
}

// Stop ends all clients.
func (l *Load) Stop() {
	l.cancel()
	l.writing.Wait()
	for _, clients := range l.clients {
		for _, c := range clients {
			c.Close()
		}
	}
}

// Check compares every client's copy with what is stored, after Stop. It returns how many
// ops that is.
func (l *Load) Check(t *testing.T) (ops int) {
	t.Helper()
	for _, err := range l.faults {
		t.Errorf("a client saw: %v", err)
	}
	stored := make([][]bench.Op, len(l.documents))
	for i, d := range l.documents {
		stored[i] = l.stored(t, d)
		ops += len(stored[i])
		checkOrder(t, i, stored[i])
		for j, c := range l.clients[i] {
			checkCopy(t, fmt.Sprintf("document %d, client %d", i, j), c.Recorded(), stored[i])
		}
	}
	for _, a := range l.acknowledged {
		if a.seq > int64(len(stored[a.document])) {
			t.Errorf("document %d: op %d was acknowledged and is gone", a.document, a.seq)
		} else if kept := contents(stored[a.document][a.seq-1]); kept != a.contents {
			t.Errorf("document %d: op %d was acknowledged as %q and is now %q", a.document, a.seq, a.contents, kept)
		}
	}
	return ops
}

// checkOrder: one total order, without gaps, and no op twice.
func checkOrder(t *testing.T, document int, stored []bench.Op) {
	t.Helper()
	type submission struct {
		client string
		csn    int64
	}
	seen := map[submission]int64{}
	for n, op := range stored {
		if op.Seq != int64(n+1) {
			t.Fatalf("document %d: op %d has the sequence number %d", document, n+1, op.Seq)
		}
		if op.ClientID == "" || op.Type != "op" {
			continue
		}
		s := submission{op.ClientID, op.CSN}
		if before, twice := seen[s]; twice {
			t.Errorf("document %d: op %d of client %s was sequenced as %d and again as %d", document, op.CSN, op.ClientID, before, op.Seq)
		}
		seen[s] = op.Seq
	}
}

// checkCopy: a client received what is stored, one op after the other.
func checkCopy(t *testing.T, who string, received, stored []bench.Op) {
	t.Helper()
	for n, op := range received {
		if n > 0 && op.Seq != received[n-1].Seq+1 {
			t.Errorf("%s: op %d was received after op %d", who, op.Seq, received[n-1].Seq)
		}
		if op.Seq > int64(len(stored)) {
			t.Fatalf("%s: op %d was received and is gone; the log ends at %d", who, op.Seq, len(stored))
		}
		if !sameJSON(t, op.Raw, stored[op.Seq-1].Raw) {
			t.Errorf("%s: op %d was received as\n%s\nand is now\n%s", who, op.Seq, op.Raw, stored[op.Seq-1].Raw)
		}
	}
}

func (l *Load) stored(t *testing.T, d bench.Document) (all []bench.Op) {
	t.Helper()
	for {
		var page []bench.Op
		must(t, "read the deltas", func() (err error) {
			from := int64(len(all))
			page, err = l.endpoint.Deltas(t.Context(), d.ID, from, from+2001)
			return err
		})
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
	}
}

func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}
