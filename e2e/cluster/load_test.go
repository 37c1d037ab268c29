//go:build e2e

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
)

const (
	documents = 6
	writers   = 2 // of each document
)

// load is clients at work on several documents, over every fault. They keep all that
// they receive.
type load struct {
	endpoint  bench.Endpoint
	documents []bench.Document
	clients   [][]*bench.Client // of each document
	received  atomic.Int64      // ops, by all clients
	last      atomic.Int64      // when the last one was received, ns since 1970
	pause     time.Duration     // of a writer after each few ops
	cancel    context.CancelFunc
	writing   sync.WaitGroup

	mu           sync.Mutex // guards the rest
	faults       []error    // order errors that clients saw
	acknowledged []acknowledged
}

// acknowledged is an op whose author saw it sequenced.
type acknowledged struct {
	document int
	seq      int64
	contents string
}

func startLoad(t *testing.T, e bench.Endpoint, pause time.Duration) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{endpoint: e, pause: pause, cancel: cancel}
	for i := range documents {
		d, err := create(ctx, e)
		if err != nil {
			t.Fatalf("create a document: %v", err)
		}
		l.documents = append(l.documents, d)
		var clients []*bench.Client
		for range writers {
			clients = append(clients, l.writer(ctx, t, i))
		}
		clients = append(clients, l.dial(ctx, t, d, bench.Options{Mode: bench.Read}))
		l.clients = append(l.clients, clients)
	}
	return l
}

// create tries until it works: a node may just have come back.
func create(ctx context.Context, e bench.Endpoint) (d bench.Document, err error) {
	for range 20 {
		if d, err = e.Create(ctx); err == nil {
			return d, nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return d, err
}

func (l *load) dial(ctx context.Context, t *testing.T, d bench.Document, o bench.Options) *bench.Client {
	t.Helper()
	o.Reconnect, o.Record = true, true
	inner := o.OnOp
	o.OnOp = func(op bench.Op) {
		l.received.Add(1)
		l.last.Store(time.Now().UnixNano())
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
	var c *bench.Client
	var err error
	for range 20 {
		if c, err = bench.Dial(ctx, l.endpoint, d, o); err == nil {
			return c
		}
		time.Sleep(500 * time.Millisecond)
	}
	t.Fatalf("connect: %v", err)
	return nil
}

// writer keeps a few ops of its own in flight.
func (l *load) writer(ctx context.Context, t *testing.T, document int) *bench.Client {
	const inFlight = 3
	own := make(chan struct{}, 1024)
	c := l.dial(ctx, t, l.documents[document], bench.Options{Mode: bench.Write, OnOp: func(op bench.Op) {
		if !op.Own || op.Type != "op" {
			return
		}
		var sent struct {
			Contents string `json:"contents"`
		}
		_ = json.Unmarshal(op.Raw, &sent) // what does not decode is not found later
		l.mu.Lock()
		l.acknowledged = append(l.acknowledged, acknowledged{document, op.Seq, sent.Contents})
		l.mu.Unlock()
		select {
		case own <- struct{}{}:
		default:
		}
	}})
	l.writing.Add(1)
	go func() {
		defer l.writing.Done()
		for n := 0; ctx.Err() == nil; {
			if err := c.WaitConnected(ctx); err != nil {
				return
			}
			for range inFlight {
				n++
				contents, _ := json.Marshal(fmt.Sprintf("%p %d", c, n)) // a string always marshals
				if _, err := c.Submit("op", contents); err != nil {
					break // the connection has gone: wait for the next one
				}
			}
			for range inFlight {
				select {
				case <-own:
				case <-time.After(200 * time.Millisecond): // lost with the connection
				case <-ctx.Done():
					return
				}
			}
			time.Sleep(l.pause) // the faults are the point, not the rate
		}
	}()
	return c
}

// await returns once every document got n more ops of its writers acknowledged.
func (l *load) await(t *testing.T, n int, within time.Duration) {
	t.Helper()
	count := func() (per [documents]int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, a := range l.acknowledged {
			per[a.document]++
		}
		return per
	}
	before := count()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		now, ready := count(), true
		for i := range now {
			ready = ready && now[i] >= before[i]+n
		}
		if ready {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not every document took %d ops within %s of the last fault: %v, before %v", n, within, now, before)
		}
	}
}

func (l *load) stop() {
	l.cancel()
	l.writing.Wait()
	for _, clients := range l.clients {
		for _, c := range clients {
			c.Close()
		}
	}
}

// check compares every client's copy with what is stored.
func (l *load) check(t *testing.T) (ops int) {
	t.Helper()
	for _, err := range l.faults {
		t.Errorf("a client saw: %v", err)
	}
	stored := make([][]bench.Op, documents)
	for i, d := range l.documents {
		stored[i] = l.stored(t, d)
		ops += len(stored[i])
		checkOrder(t, i, stored[i])
		for j, c := range l.clients[i] {
			recorded := c.Recorded()
			for n, op := range recorded {
				if n > 0 && op.Seq != recorded[n-1].Seq+1 {
					t.Errorf("document %d, client %d: op %d was received after op %d", i, j, op.Seq, recorded[n-1].Seq)
				}
				if op.Seq > int64(len(stored[i])) {
					t.Fatalf("document %d, client %d: op %d was received and is gone; the log ends at %d", i, j, op.Seq, len(stored[i]))
				}
				if !sameJSON(t, op.Raw, stored[i][op.Seq-1].Raw) {
					t.Errorf("document %d, client %d: op %d was received as\n%s\nand is now\n%s", i, j, op.Seq, op.Raw, stored[i][op.Seq-1].Raw)
				}
			}
		}
	}
	for _, a := range l.acknowledged {
		if a.seq > int64(len(stored[a.document])) {
			t.Errorf("document %d: op %d was acknowledged and is gone", a.document, a.seq)
			continue
		}
		var kept struct {
			Contents string `json:"contents"`
		}
		if err := json.Unmarshal(stored[a.document][a.seq-1].Raw, &kept); err != nil || kept.Contents != a.contents {
			t.Errorf("document %d: op %d was acknowledged as %q and is now %q", a.document, a.seq, a.contents, kept.Contents)
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

func (l *load) stored(t *testing.T, d bench.Document) []bench.Op {
	t.Helper()
	var all []bench.Op
	for failures := 0; ; {
		from := int64(len(all))
		page, err := l.endpoint.Deltas(t.Context(), d.ID, from, from+2001)
		if err != nil {
			if failures++; failures > 20 {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			continue
		}
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
