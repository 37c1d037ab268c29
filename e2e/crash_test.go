//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
)

const (
	crashes   = 25
	documents = 3
	writers   = 2 // of each document
)

// TestKilledUnderLoadLosesNothingSeen kills the server again and again while
// clients write and read, and then compares what every client received with what
// the server still has: no op that anybody saw is missing, changed, repeated or
// moved.
func TestKilledUnderLoadLosesNothingSeen(t *testing.T) {
	random := seeded(t)
	server := newServer(t)
	load := startLoad(t, server.endpoint)
	for round := range crashes {
		load.await(t, 50+random.IntN(1000))
		server.kill(t)
		server.start(t, "serve")
		if round%5 == 4 {
			t.Logf("%d crashes, %d ops received so far", round+1, load.received.Load())
		}
	}
	load.await(t, 500) // all are connected again and go on
	load.stop()
	server.stop(t)
	server.start(t, "serve")
	load.check(t)
}

// seeded prints its seed and takes it back.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TIDELOCK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TIDELOCK_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// load is clients at work on several documents.
type load struct {
	endpoint  bench.Endpoint
	documents []bench.Document
	clients   [][]*bench.Client // of each document
	received  atomic.Int64      // ops, by all clients
	news      chan struct{}     // an op was received
	cancel    context.CancelFunc
	writing   sync.WaitGroup

	mu     sync.Mutex
	faults []error // order errors that clients saw
}

func startLoad(t *testing.T, e bench.Endpoint) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{endpoint: e, news: make(chan struct{}, 1), cancel: cancel}
	for range documents {
		d, err := e.Create(ctx)
		if err != nil {
			t.Fatalf("create a document: %v", err)
		}
		l.documents = append(l.documents, d)
		var clients []*bench.Client
		for range writers {
			clients = append(clients, l.writer(ctx, t, d))
		}
		clients = append(clients, l.dial(ctx, t, d, bench.Options{Mode: bench.Read}))
		l.clients = append(l.clients, clients)
	}
	return l
}

func (l *load) dial(ctx context.Context, t *testing.T, d bench.Document, o bench.Options) *bench.Client {
	t.Helper()
	o.Reconnect, o.Record = true, true
	inner := o.OnOp
	o.OnOp = func(op bench.Op) {
		l.received.Add(1)
		select {
		case l.news <- struct{}{}:
		default:
		}
		if inner != nil {
			inner(op)
		}
	}
	o.OnError = func(err error) {
		if e, ok := err.(*bench.Error); ok && e.Kind == bench.Order {
			l.mu.Lock()
			l.faults = append(l.faults, err)
			l.mu.Unlock()
		}
	}
	c, err := bench.Dial(ctx, l.endpoint, d, o)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	return c
}

// writer keeps a few ops of its own in flight, over every crash.
func (l *load) writer(ctx context.Context, t *testing.T, d bench.Document) *bench.Client {
	const inFlight = 4
	own := make(chan struct{}, 1024)
	c := l.dial(ctx, t, d, bench.Options{Mode: bench.Write, OnOp: func(op bench.Op) {
		if op.Own && op.Type == "op" {
			select {
			case own <- struct{}{}:
			default:
			}
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
		}
	}()
	return c
}

// await returns once n more ops were received.
func (l *load) await(t *testing.T, n int) {
	t.Helper()
	goal := l.received.Load() + int64(n)
	deadline := time.After(time.Minute)
	for l.received.Load() < goal {
		select {
		case <-l.news:
		case <-deadline:
			t.Fatalf("only %d of %d ops were received within a minute", n-int(goal-l.received.Load()), n)
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

// check compares every client's copy with the server's.
func (l *load) check(t *testing.T) {
	for _, err := range l.faults {
		t.Errorf("a client saw: %v", err)
	}
	for i, d := range l.documents {
		stored := l.stored(t, d)
		type submission struct {
			client string
			csn    int64
		}
		seen := map[submission]int64{}
		for n, op := range stored {
			if op.Seq != int64(n+1) {
				t.Fatalf("document %d: op %d has the sequence number %d", i, n+1, op.Seq)
			}
			if op.ClientID == "" || op.Type != "op" {
				continue
			}
			s := submission{op.ClientID, op.CSN}
			if before, twice := seen[s]; twice {
				t.Errorf("document %d: op %d of client %s was sequenced as %d and again as %d", i, op.CSN, op.ClientID, before, op.Seq)
			}
			seen[s] = op.Seq
		}
		for j, c := range l.clients[i] {
			recorded := c.Recorded()
			for n, op := range recorded {
				if n > 0 && op.Seq != recorded[n-1].Seq+1 {
					t.Errorf("document %d, client %d: op %d was received after op %d", i, j, op.Seq, recorded[n-1].Seq)
				}
				if op.Seq > int64(len(stored)) {
					t.Fatalf("document %d, client %d: op %d was received and is gone; the server ends at %d", i, j, op.Seq, len(stored))
				}
				if !sameJSON(t, op.Raw, stored[op.Seq-1].Raw) {
					t.Errorf("document %d, client %d: op %d was received as\n%s\nand is now\n%s", i, j, op.Seq, op.Raw, stored[op.Seq-1].Raw)
				}
			}
			t.Logf("document %d, client %d: %d ops compared", i, j, len(recorded))
		}
	}
}

func (l *load) stored(t *testing.T, d bench.Document) []bench.Op {
	t.Helper()
	var all []bench.Op
	for {
		from := int64(len(all))
		page, err := l.endpoint.Deltas(t.Context(), d.ID, from, from+2001)
		if err != nil {
			t.Fatal(err)
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
