package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

// testNodes are some nodes on one store. Their ways to it can be cut.
type testNodes struct {
	t       *testing.T
	nodes   []*testNode
	service envelope.ServiceKey
}

type testNode struct {
	*rig
	link *link
}

// link is a node's way to the store: all of it, or nothing.
type link struct {
	store.Store
	cut atomic.Bool
}

var errLinkCut = errors.New("the line to the store is cut")

func (l *link) err() error {
	if l.cut.Load() {
		return errLinkCut
	}
	return nil
}

func (l *link) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	if err := l.err(); err != nil {
		return store.Row{}, err
	}
	return l.Store.GetRow(ctx, key)
}

func (l *link) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	if err := l.err(); err != nil {
		return nil, err
	}
	return l.Store.ListRows(ctx, table, partition, after, limit)
}

func (l *link) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if err := l.err(); err != nil {
		return err
	}
	return l.Store.WriteRows(ctx, writes)
}

func (l *link) Append(ctx context.Context, a store.Append) error {
	if err := l.err(); err != nil {
		return err
	}
	return l.Store.Append(ctx, a)
}

// clustered runs f with n nodes that have seen each other.
func clustered(t *testing.T, n int, f func(t *testing.T, c *testNodes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &testNodes{t: t, service: envelope.NewServiceKey()}
		shared := memory.New()
		peers := &http.Transport{DialContext: c.dialPeer}
		for i := range n {
			c.nodes = append(c.nodes, c.node(i, shared, peers))
		}
		first := c.nodes[0]
		if err := first.keeper.Create(t.Context(), first.tenant.Resource, first.settings()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		defer func() {
			peers.CloseIdleConnections()
			for _, n := range c.nodes {
				n.link.cut.Store(false)
				n.stop()
				if err := n.cluster.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			}
		}()
		f(t, c)
	})
}

func (c *testNodes) node(i int, shared store.Store, peers http.RoundTripper) *testNode {
	l := &link{Store: shared}
	r := &rig{t: c.t, store: &faultyStore{Store: l}, service: c.service, peers: peers}
	r.tenant = Tenant{ID: testTenant, Resource: envelope.ResourceID{1, 2, 3}, Keys: [2]string{testKey, "the other key of this tenant ...."}}
	r.cluster = cluster.New(cluster.Config{
		Store: r.store, Service: c.service, URL: fmt.Sprintf("http://node-%d", i), Log: slog.New(slog.DiscardHandler),
		Load: func() (int, int) { return r.server.Load() }, Lost: func() { r.server.LetGo() }, Missed: func() {},
	})
	r.start()
	if err := r.cluster.Start(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	return &testNode{r, l}
}

func (c *testNodes) dialPeer(ctx context.Context, network, addr string) (net.Conn, error) {
	for _, n := range c.nodes {
		if addr == strings.TrimPrefix(n.cluster.URL(), "http://")+":80" {
			return n.pipes.dial(ctx, network, addr)
		}
	}
	return nil, fmt.Errorf("no node at %s", addr)
}

// owner is the node on which a document is loaded, and the others.
func (c *testNodes) owner(id string) (*testNode, []*testNode) {
	c.t.Helper()
	var owner *testNode
	var others []*testNode
	for _, n := range c.nodes {
		n.server.mu.Lock()
		e := n.server.documents[documentKey{testTenant, id}]
		n.server.mu.Unlock()
		switch {
		case e == nil:
			others = append(others, n)
		case owner != nil:
			c.t.Fatal("the document is on two nodes")
		default:
			owner = n
		}
	}
	if owner == nil {
		c.t.Fatal("the document is on no node")
	}
	return owner, others
}

// joinAt connects for writing through this node, as drivers do: tenant and document are
// in the URL.
func (n *testNode) joinAt(id string) *client {
	n.t.Helper()
	c := n.dialFor("&tenantId=" + testTenant + "&documentId=" + id)
	c.connect(connectBody(id, n.token(id), "write"))
	c.awaitMyJoin()
	return c
}

func (c *client) awaitMyJoin() {
	c.t.Helper()
	for {
		for _, op := range c.seen {
			if strings.Contains(string(op.Data), c.id) {
				return
			}
		}
		c.await("op")
	}
}

// rest asks this node.
func (n *testNode) rest(method, path, token string) (int, string) {
	n.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: n.pipes.dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://relay.test"+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Basic "+token)
	req.Header.Set(correlationHeader, "c-1")
	resp, err := client.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, name := range []string{"Access-Control-Allow-Origin", correlationHeader, "Cache-Control"} {
		if len(resp.Header.Values(name)) != 1 {
			n.t.Errorf("%s %s: header %s is %q, want it once", method, path, name, resp.Header.Values(name))
		}
	}
	return resp.StatusCode, string(body)
}

func TestEveryNodeServesEveryDocument(t *testing.T) {
	clustered(t, 3, func(t *testing.T, c *testNodes) {
		id := c.nodes[0].create()
		var clients []*client
		for i, n := range c.nodes {
			clients = append(clients, n.joinAt(id))
			clients[i].submit(fmt.Sprintf("from node %d", i))
			clients[i].awaitMine(1)
		}
		c.owner(id) // one only
		last := clients[2].awaitMine(1)[0].Seq
		for _, one := range clients {
			one.awaitOp(last)
			checkOrder(t, "client", one.seen)
		}
		for _, n := range c.nodes {
			// An op is readable everywhere as soon as it was seen.
			status, body := n.rest("GET", "/deltas/"+testTenant+"/"+id, n.token(id))
			if status != http.StatusOK {
				t.Fatalf("deltas: %d %s", status, body)
			}
			if got := contentsOf(t, parseOpsJSON(t, []byte(body))); len(got) != 3 {
				t.Errorf("deltas of one node: %q, want the ops of all clients", got)
			}
			status, body = n.rest("GET", "/documents/"+testTenant+"/session/"+id, n.token(id))
			if want := `"deltaStreamUrl":"http://relay.test"`; status != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("discovery: %d %s, want %s", status, body, want)
			}
		}
		for _, one := range clients {
			one.close()
		}
	})
}

func TestDiscoveryNamesTheNode(t *testing.T) {
	clustered(t, 3, func(t *testing.T, c *testNodes) {
		for _, n := range c.nodes {
			n.server.c.DirectNodes = true
		}
		id := c.nodes[0].create()
		found := map[string]bool{}
		for _, n := range c.nodes {
			status, body := n.rest("GET", "/documents/"+testTenant+"/session/"+id, n.token(id))
			var session sessionInfo
			if err := json.Unmarshal([]byte(body), &session); status != http.StatusOK || err != nil {
				t.Fatalf("discovery: %d %s", status, body)
			}
			found[session.Stream] = true
		}
		owner, _ := c.owner(id)
		if len(found) != 1 || !found[owner.cluster.URL()] {
			t.Errorf("nodes were named: %v, want %s by all", found, owner.cluster.URL())
		}
	})
}

func TestDocumentsOfANodeThatIsCutOffAreTakenOver(t *testing.T) {
	clustered(t, 2, func(t *testing.T, c *testNodes) {
		id := c.nodes[0].create()
		writer := c.nodes[0].joinAt(id)
		writer.submit("a")
		writer.awaitMine(1)
		owner, others := c.owner(id)
		owner.link.cut.Store(true)
		writer.submit("b") // it may not be acknowledged
		writer.awaitEnd()
		if got := contentsOf(t, append(writer.seen, writer.drain()...)); len(got) != 1 {
			t.Errorf("the client saw %q of a node that could not store", got)
		}
		// Whoever comes to the node that is cut off is told to try again.
		late := owner.dialFor("&tenantId=" + testTenant + "&documentId=" + id)
		time.Sleep(cluster.Lease)
		late.emit("connect_document", connectBody(id, owner.token(id), "write"))
		if e := late.next(); e.name != "connect_document_error" || !strings.Contains(string(e.args[0]), `"retryAfterMs":1000`) {
			t.Errorf("connect to a node that is cut off: %s %s", e.name, e.args)
		}
		if status, _ := owner.rest("GET", "/readyz", ""); status != http.StatusServiceUnavailable {
			t.Errorf("a node that is cut off is ready: %d", status)
		}
		time.Sleep(3 * time.Second)
		again := others[0].joinAt(id)
		again.submit("c")
		again.awaitMine(1)
		owner.link.cut.Store(false)
		time.Sleep(5 * time.Second)
		through := owner.joinAt(id) // is a node again, and passes on
		through.submit("d")
		through.awaitMine(1)
		if got, want := fmt.Sprint(contentsOf(t, others[0].log(id))), "[a c d]"; got != want {
			t.Errorf("the log has %s, want %s", got, want)
		}
		c.owner(id)
		for _, one := range []*client{again, through, late} {
			one.close()
		}
	})
}

func TestDrainMovesDocuments(t *testing.T) {
	clustered(t, 2, func(t *testing.T, c *testNodes) {
		id := c.nodes[0].create()
		writer := c.nodes[0].joinAt(id)
		owner, others := c.owner(id)
		moved := make(chan error)
		go func() { moved <- owner.server.Move(t.Context()) }()
		for n := 0; ; n++ { // works until the moment of the move
			writer.submit(fmt.Sprint(n))
			select {
			case <-writer.ended:
			case <-time.After(50 * time.Millisecond):
				continue
			}
			break
		}
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
		seen := contentsOf(t, append(writer.seen, writer.drain()...))
		if len(seen) < 5 {
			t.Errorf("only %d ops were taken before the move", len(seen))
		}
		again := owner.joinAt(id) // at once, where it was
		again.submit("after")
		again.awaitMine(1)
		if now, _ := c.owner(id); now != others[0] {
			t.Error("the document is back on the node that was drained")
		}
		if got, want := contentsOf(t, others[0].log(id)), append(seen, "after"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the log has\n%q, want\n%q", got, want)
		}
		if status, _ := owner.rest("GET", "/readyz", ""); status != http.StatusServiceUnavailable {
			t.Errorf("a node that was drained is ready: %d", status)
		}

		owner.server.Uncordon()
		time.Sleep(3 * time.Second)
		if status, _ := owner.rest("GET", "/readyz", ""); status != http.StatusOK {
			t.Errorf("readiness after the drain was undone: %d", status)
		}
		again.submit("undisturbed")
		again.awaitMine(2)
		if now, _ := c.owner(id); now != others[0] {
			t.Error("a document that is in use moved back when the drain was undone")
		}
		for { // of new documents the node has its share
			id := others[0].create()
			other := others[0].joinAt(id)
			now, _ := c.owner(id)
			other.close()
			if now == owner {
				break
			}
		}
		again.close()
	})
}

func TestRebalanceMovesIdleDocuments(t *testing.T) {
	clustered(t, 3, func(t *testing.T, c *testNodes) {
		// All on the first node, whoever should have them.
		var ids []string
		for range 30 {
			id := c.nodes[0].create()
			ids = append(ids, id)
			c.nodes[0].use(id, func(*document) {})
		}
		inUse := ids[0]
		reader := c.nodes[0].read(inUse)
		moved := c.nodes[0].server.Rebalance()
		if moved < 10 || moved > 29 {
			t.Errorf("%d of 30 documents moved", moved)
		}
		synctest.Wait()
		for _, id := range ids {
			n := c.nodes[1]
			if status, body := n.rest("GET", "/deltas/"+testTenant+"/"+id, n.token(id)); status != http.StatusOK {
				t.Fatalf("%d %s", status, body)
			}
		}
		if documents, _ := c.nodes[0].server.Load(); documents != 30-moved {
			t.Errorf("%d documents are on the first node, want %d", documents, 30-moved)
		}
		c.owner(inUse)
		reader.close()
	})
}

func TestDeletionAndRevocationReachTheNode(t *testing.T) {
	clustered(t, 2, func(t *testing.T, c *testNodes) {
		id, kept := c.nodes[0].create(), c.nodes[0].create()
		reader := c.nodes[0].joinAt(id)
		_, others := c.owner(id)
		if status, body := others[0].rest("DELETE", "/documents/"+testTenant+"/document/"+id, others[0].token(id, withScopes("doc:read", "doc:write", "doc:delete"))); status != http.StatusNoContent {
			t.Fatalf("delete: %d %s", status, body)
		}
		deleted := time.Now()
		reader.awaitEnd()
		if took := time.Since(deleted); took > time.Second {
			t.Errorf("clients of another node were cut %s after the deletion", took)
		}
		named := func(m jwt.MapClaims) { m["jti"] = "j1" }
		writer := c.nodes[0].dialFor("&tenantId=" + testTenant + "&documentId=" + kept)
		writer.connect(connectBody(kept, c.nodes[0].token(kept, named), "write"))
		_, others = c.owner(kept)
		if err := others[0].server.revoke(t.Context(), others[0].tenant, kept, "j1"); err != nil {
			t.Fatal(err)
		}
		revoked := time.Now()
		writer.awaitEnd()
		if took := time.Since(revoked); took > time.Second {
			t.Errorf("the socket on another node was cut %s after the revocation", took)
		}
	})
}

func TestClosingATenantReachesTheNode(t *testing.T) {
	clustered(t, 2, func(t *testing.T, c *testNodes) {
		id := c.nodes[0].create()
		writer := c.nodes[0].joinAt(id)
		owner, others := c.owner(id)
		forgotten := make(chan string, 1)
		owner.onForget = func(tenant string) { forgotten <- tenant }
		others[0].server.CutOff(testTenant)
		closed := time.Now()
		writer.awaitEnd()
		if took := time.Since(closed); took > time.Second {
			t.Errorf("the socket on another node was cut %s after the tenant was closed", took)
		}
		if tenant := <-forgotten; tenant != testTenant {
			t.Errorf("the other node read tenant %s again", tenant)
		}
	})
}

func TestSocketsWithoutHintsAreToldToTryAgain(t *testing.T) {
	clustered(t, 2, func(t *testing.T, c *testNodes) {
		id := c.nodes[0].create()
		writer := c.nodes[0].joinAt(id)
		_, others := c.owner(id)
		blind := others[0].dial()
		blind.emit("connect_document", connectBody(id, others[0].token(id), "write"))
		if e := blind.next(); e.name != "connect_document_error" || !strings.Contains(string(e.args[0]), `"retryAfterMs":1000`) {
			t.Errorf("connect without hints at the wrong node: %s %s", e.name, e.args)
		}
		blind.close()
		writer.close()
	})
}

// A node that is gone and not yet taken for dead: what it does not serve is served by
// whoever is asked; what it does serve must wait.
func TestANodeThatDoesNotAnswer(t *testing.T) {
	clustered(t, 3, func(t *testing.T, c *testNodes) {
		gone, asked := c.nodes[2], c.nodes[0]
		var theirs, free string
		for theirs == "" || free == "" {
			id := asked.create()
			if !gone.cluster.Prefers(cluster.Document{Tenant: testTenant, ID: id}) {
				continue
			}
			if theirs == "" {
				gone.joinAt(id)
				theirs = id
			} else {
				free = id
			}
		}
		gone.http.Close()
		gone.pipes.Close()
		gone.link.cut.Store(true)
		one := asked.joinAt(free)
		one.submit("a")
		one.awaitMine(1)
		status, body := asked.rest("GET", "/deltas/"+testTenant+"/"+theirs, asked.token(theirs))
		if status != http.StatusServiceUnavailable || !strings.Contains(body, `"retryAfter":1`) {
			t.Errorf("deltas of a document whose node does not answer: %d %s", status, body)
		}
		time.Sleep(cluster.Lease + 3*time.Second)
		two := asked.joinAt(theirs)
		two.submit("b")
		two.awaitMine(1)
		one.close()
		two.close()
	})
}
