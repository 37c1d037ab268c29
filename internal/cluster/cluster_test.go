package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

var errCut = errors.New("the line to the store is cut")

// line is one node's way to the store.
type line struct {
	store.Rows
	cut  atomic.Bool
	hang atomic.Bool // calls wait until their context ends
}

func (l *line) fail(ctx context.Context) error {
	switch {
	case l.hang.Load():
		<-ctx.Done()
		return ctx.Err()
	case l.cut.Load():
		return errCut
	}
	return nil
}

func (l *line) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	if err := l.fail(ctx); err != nil {
		return store.Row{}, err
	}
	return l.Rows.GetRow(ctx, key)
}

func (l *line) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	if err := l.fail(ctx); err != nil {
		return nil, err
	}
	return l.Rows.ListRows(ctx, table, partition, after, limit)
}

func (l *line) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if err := l.fail(ctx); err != nil {
		return err
	}
	return l.Rows.WriteRows(ctx, writes)
}

// rig is some nodes on one store, in a bubble.
type rig struct {
	t       *testing.T
	store   *memory.Store
	service envelope.ServiceKey
	made    int
}

type testNode struct {
	*Node
	line *line

	mu     sync.Mutex
	serves map[Document]bool // claimed, and the lease has not been lost since
	missed int
}

func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, &rig{t: t, store: memory.New(), service: envelope.NewServiceKey()})
	})
}

// node starts a node, which is stopped when the test is over.
func (r *rig) node() *testNode {
	r.t.Helper()
	r.made++
	n := r.newNode(fmt.Sprintf("http://node-%d", r.made))
	if err := n.Start(r.t.Context()); err != nil {
		r.t.Fatalf("start: %v", err)
	}
	return n
}

func (r *rig) newNode(url string) *testNode {
	n := &testNode{line: &line{Rows: r.store}, serves: map[Document]bool{}}
	n.Node = New(Config{
		Store: n.line, Service: r.service, URL: url, Log: slog.New(slog.DiscardHandler),
		Load: func() (int, int) { return 1, 2 },
		Lost: func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			clear(n.serves)
		},
		Missed: func() { n.missed++ },
	})
	r.t.Cleanup(func() {
		n.line.cut.Store(false)
		n.line.hang.Store(false)
		if err := n.Stop(context.Background()); err != nil {
			r.t.Errorf("stop: %v", err)
		}
	})
	return n
}

// claim makes n serve d, as the relay does.
func (n *testNode) claim(ctx context.Context, d Document) error {
	if err := n.Claim(ctx, d); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.Serving() {
		return ErrCutOff
	}
	n.serves[d] = true
	return nil
}

func (n *testNode) serving(d Document) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.serves[d] && n.Serving()
}

func TestOneNodeServesADocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.node(), r.node()
		time.Sleep(membersEvery + LookEvery)
		d := Document{"t", "d"}
		if err := a.claim(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		var elsewhere *ElsewhereError
		if err := b.claim(t.Context(), d); !errors.As(err, &elsewhere) || elsewhere.Node.URL != a.URL() {
			t.Errorf("the second claim: %v, want that it is at %s", err, a.URL())
		}
		for _, n := range []*testNode{a, b} {
			if m, err := n.Locate(t.Context(), d); err != nil || m.ID != a.ID() || m.Self != (n == a) {
				t.Errorf("located at %+v, %v; want node %s", m, err, a.ID())
			}
		}
		if err := a.Release(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if err := b.claim(t.Context(), d); err != nil {
			t.Errorf("claim of a released document: %v", err)
		}
		if err := a.Release(t.Context(), d); err != nil { // no longer ours
			t.Fatal(err)
		}
		if m, err := a.Locate(t.Context(), d); err != nil || m.ID != b.ID() {
			t.Errorf("a second release took the document from its new node: %+v, %v", m, err)
		}
	})
}

func TestANodeThatJustJoinedIsNotTakenForDead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.node()
		time.Sleep(membersEvery / 2) // a has not looked around since
		b := r.node()
		d := Document{"t", "d"}
		if err := b.claim(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		var elsewhere *ElsewhereError
		if err := a.claim(t.Context(), d); !errors.As(err, &elsewhere) {
			t.Errorf("claim from a node not seen yet: %v", err)
		}
	})
}

func TestDocumentsOfADeadNodeAreTakenOver(t *testing.T) {
	for _, how := range []string{"Cut", "Hangs"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				a, b := r.node(), r.node()
				time.Sleep(membersEvery + LookEvery)
				d := Document{"t", "d"}
				if err := a.claim(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				a.line.cut.Store(how == "Cut")
				a.line.hang.Store(how == "Hangs")
				cut := time.Now()
				for b.claim(t.Context(), d) != nil {
					if time.Since(cut) > Lease+3*time.Second {
						t.Fatalf("not taken over %s after the node was cut off", time.Since(cut))
					}
					time.Sleep(10 * time.Millisecond)
				}
				if a.serving(d) {
					t.Error("the node that was cut off still serves the document")
				}
				if _, err := a.Locate(t.Context(), d); !errors.Is(err, ErrCutOff) {
					t.Errorf("locate on a node that is cut off: %v", err)
				}
				a.line.cut.Store(false)
				a.line.hang.Store(false)
				time.Sleep(2 * BeatEvery)
				if m, err := a.Locate(t.Context(), d); err != nil || m.ID != b.ID() {
					t.Errorf("after the node is back: %+v, %v", m, err)
				}
			})
		})
	}
}

func TestANodeThatCannotLookTakesNobodyForDead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a, b := r.node(), r.node()
		time.Sleep(membersEvery + LookEvery)
		d := Document{"t", "d"}
		if err := a.claim(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		b.line.cut.Store(true)
		time.Sleep(time.Hour)
		b.line.cut.Store(false)
		for range 20 {
			if err := b.claim(t.Context(), d); err == nil {
				t.Fatal("claimed a document of a living node")
			}
			time.Sleep(LookEvery)
		}
		if !a.serving(d) {
			t.Error("the other node lost its lease")
		}
	})
}

func TestASuccessorAtTheSameAddressNeedNotWait(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.node()
		b := r.node()
		d := Document{"t", "d"}
		if err := a.claim(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		a.line.hang.Store(true) // killed
		next := r.newNode(a.URL())
		if err := next.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(membersEvery + LookEvery)
		if err := b.claim(t.Context(), d); err != nil {
			t.Errorf("claim after the node was started again: %v", err)
		}
	})
}

func TestNoticesReachAllNodes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		a := r.node()
		b := r.newNode("http://b")
		var got []string
		b.On("news", func(body json.RawMessage) { got = append(got, string(body)) })
		a.On("news", func(json.RawMessage) { t.Error("a node heeds its own notice") })
		a.Post("news", 0) // before b is there
		time.Sleep(LookEvery)
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.Post("news", 1)
		a.Post("other", 2)
		a.Post("news", 3)
		time.Sleep(2 * LookEvery)
		synctest.Wait()
		if want := "[1 3]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
		b.line.cut.Store(true)
		for n := range keptNotices + 10 {
			a.Post("news", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		got, b.missed = nil, 0
		b.line.cut.Store(false)
		time.Sleep(2 * LookEvery)
		synctest.Wait()
		if b.missed != 1 || len(got) != 0 {
			t.Errorf("after a long cut: %d notices, missed %d times; want none, once", len(got), b.missed)
		}
	})
}

func TestNoticesOfManyNodesAreAllKept(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		reader := r.newNode("http://reader")
		seen := map[string]int{}
		reader.On("news", func(body json.RawMessage) { seen[string(body)]++ })
		if err := reader.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			n := r.node()
			go func() {
				for j := range 20 {
					n.Post("news", 100*i+j)
					time.Sleep(time.Duration(j) * time.Millisecond)
				}
			}()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(seen) != 100 {
			t.Errorf("%d of 100 notices arrived", len(seen))
		}
	})
}

func TestDocumentsSpreadAndMoveLittle(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		nodes := []*testNode{r.node(), r.node(), r.node()}
		time.Sleep(2 * membersEvery)
		const documents = 3000
		before := map[int]string{}
		count := map[string]int{}
		for i := range documents {
			m, err := nodes[i%3].Locate(t.Context(), Document{"t", fmt.Sprint(i)})
			if err != nil {
				t.Fatal(err)
			}
			before[i] = m.ID
			count[m.ID]++
		}
		for id, n := range count {
			if n < documents/4 || n > documents/2 {
				t.Errorf("node %s gets %d of %d documents", id, n, documents)
			}
		}
		if err := nodes[0].Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for i := range documents {
			m, err := nodes[i%3].Locate(t.Context(), Document{"t", fmt.Sprint(i)})
			if err != nil || m.ID == nodes[0].ID() {
				t.Fatalf("located at the node that drains: %+v, %v", m, err)
			}
			if m.ID != before[i] {
				moved++
			}
		}
		if moved != count[nodes[0].ID()] {
			t.Errorf("%d documents moved, want the %d of the node that drains", moved, count[nodes[0].ID()])
		}
	})
}

// TestNeverTwoNodesServeADocument has nodes come, go, and be cut off, and looks at every
// step whether two of them believe that they serve the same document.
func TestNeverTwoNodesServeADocument(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TIDELOCK_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("seed %d", seed)
	bubble(t, func(t *testing.T, r *rig) {
		random := rand.New(rand.NewPCG(seed, 0))
		var nodes []*testNode
		for range 4 {
			nodes = append(nodes, r.node())
		}
		documents := make([]Document, 8)
		for i := range documents {
			documents[i] = Document{"t", fmt.Sprint(i)}
		}
		claims := 0
		for range 4000 {
			time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
			n, d := nodes[random.IntN(len(nodes))], documents[random.IntN(len(documents))]
			switch k := random.IntN(20); {
			case k == 0:
				n.line.cut.Store(!n.line.cut.Load())
			case k == 1:
				n.line.hang.Store(!n.line.hang.Load())
			case k == 2 && n.serving(d):
				n.mu.Lock()
				delete(n.serves, d)
				n.mu.Unlock()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_ = n.Release(ctx, d) // what it cannot release, it may claim again
				cancel()
			default:
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if n.claim(ctx, d) == nil {
					claims++
				}
				cancel()
			}
			for _, d := range documents {
				var who []string
				for _, n := range nodes {
					if n.serving(d) {
						who = append(who, n.ID())
					}
				}
				if len(who) > 1 {
					t.Fatalf("seed %d: %v serve %s", seed, who, d.ID)
				}
			}
		}
		if claims < 100 {
			t.Errorf("only %d claims: the test shows little", claims)
		}
	})
}
