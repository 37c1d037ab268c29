package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files")

const (
	testTenant = "t1"
	testKey    = "0123456789abcdef0123456789abcdef"
)

// rig is a relay with everything below it real but the disk and the network: the
// engine is in memory, the connections are pipes. Tests run it in a bubble of
// testing/synctest, so that its time is theirs and no goroutine may be left over.
type rig struct {
	t       testing.TB
	store   *faultyStore
	service envelope.ServiceKey
	tenant  Tenant
	local   []Tenant // from the next start on
	keeper  *custody.Keeper
	vault   keystore.Client // nil: the service-managed key
	limits  Limits          // of the next start
	server  *Server
	http    *http.Server
	pipes   *pipeListener
	metrics *prometheus.Registry // of this start
	output  io.Writer            // takes the log from the next start on; nil: nobody

	cluster *cluster.Node     // of the next start; nil: the only node
	peers   http.RoundTripper // to the other nodes
	direct  bool

	onForget func(tenantID string)
	mu       sync.Mutex // guards tenant.Closed
}

// bubble runs f with a rig under the service-managed key.
func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { runRig(t, nil, f) })
}

func runRig(t *testing.T, vault keystore.Client, f func(t *testing.T, r *rig)) {
	t.Helper()
	r := newRig(t, vault)
	defer r.stop()
	f(t, r)
}

// newRig starts a rig; the caller stops it.
func newRig(t testing.TB, vault keystore.Client) *rig {
	t.Helper()
	r := &rig{t: t, store: &faultyStore{Store: memory.New()}, service: envelope.NewServiceKey(), vault: vault}
	r.tenant = Tenant{ID: testTenant, Resource: envelope.ResourceID{1, 2, 3}, Keys: [2]string{testKey, "the other key of this tenant ...."}}
	r.start()
	if err := r.keeper.Create(t.Context(), r.tenant.Resource, r.settings()); err != nil {
		t.Fatalf("create the resource's key: %v", err)
	}
	return r
}

func (r *rig) settings() custody.Settings {
	if r.vault == nil {
		return custody.Settings{}
	}
	key, err := keystore.ParseURL(vaultKeyURL, vaultHosts)
	if err != nil {
		r.t.Fatalf("parse %s: %v", vaultKeyURL, err)
	}
	return custody.Settings{Key: key, Identity: "id"}
}

// Lookup makes rig the Tenants of its server.
func (r *rig) Lookup(_ context.Context, id string) (Tenant, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tenant, id == r.tenant.ID, nil
}

// close closes the tenant's door; "" opens it.
func (r *rig) close(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tenant.Closed = reason
}

// Forget is what other nodes have this one do.
func (r *rig) Forget(id string) {
	if r.onForget != nil {
		r.onForget(id)
	}
}

// start starts a server over what the store has.
func (r *rig) start() {
	log := slog.New(slog.DiscardHandler)
	if r.output != nil {
		log = slog.New(slog.NewTextHandler(r.output, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r.metrics = prometheus.NewRegistry()
	r.keeper = custody.New(custody.Config{
		Store:    r.store,
		Service:  r.service,
		KeyStore: func(string) keystore.Client { return r.vault },
		Hosts:    vaultHosts,
		Log:      log,
		Metrics:  r.metrics,
	})
	r.server = New(Config{Store: r.store, Custody: r.keeper, Service: r.service, Tenants: r, Local: r.local, Log: log, Limits: r.limits, Metrics: r.metrics,
		Cluster: r.cluster, Peers: r.peers, DirectNodes: r.direct})
	r.pipes = &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	r.http = &http.Server{Handler: r.server.Handler(), ReadHeaderTimeout: time.Minute}
	go r.http.Serve(r.pipes)
}

// stop shuts the server down in order.
func (r *rig) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil {
		r.t.Errorf("shut down: %v", err)
	}
	r.http.Close()
	r.keeper.Close()
}

// restart is stop and start over the same store.
func (r *rig) restart() {
	r.stop()
	r.start()
}

// create makes a document with an empty first summary.
func (r *rig) create() string {
	r.t.Helper()
	id, err := r.server.create(r.t.Context(), r.tenant, newDocument{Initial: initialOf("x")})
	if err != nil {
		r.t.Fatalf("create: %v", err)
	}
	return id
}

// use calls f with an open document.
func (r *rig) use(id string, f func(d *document)) {
	r.t.Helper()
	d, release, err := r.server.open(r.t.Context(), r.tenant, id)
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	defer release()
	f(d)
}

// log returns the ops of a document as the log has them.
func (r *rig) log(id string) []sequencer.SequencedOp {
	r.t.Helper()
	var ops []sequencer.SequencedOp
	r.use(id, func(d *document) {
		raw, err := d.store().Ops(r.t.Context(), 0, 1<<40, 1<<20, 1<<30)
		if err != nil {
			r.t.Fatalf("read ops: %v", err)
		}
		ops = parseOpsJSON(r.t, raw)
	})
	return ops
}

func parseOpsJSON(t testing.TB, raw []byte) []sequencer.SequencedOp {
	t.Helper()
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatalf("ops are no JSON array: %v", err)
	}
	ops := make([]sequencer.SequencedOp, len(list))
	for i, raw := range list {
		op, err := sequencer.ParseSequencedOp(raw)
		if err != nil {
			t.Fatalf("op %s: %v", raw, err)
		}
		ops[i] = op
	}
	return ops
}

// token signs claims for a document; change may spoil them.
func (r *rig) token(id string, change ...func(jwt.MapClaims)) string {
	r.t.Helper()
	now := time.Now() // once: a second more is too long a life
	m := jwt.MapClaims{
		"documentId": id,
		"tenantId":   testTenant,
		"scopes":     []string{"doc:read", "doc:write", "summary:write"},
		"user":       map[string]any{"id": "u1", "name": "Ada <ada@contoso.com>"},
		"iat":        now.Unix(),
		"exp":        now.Add(time.Hour).Unix(),
		"ver":        "1.0",
	}
	for _, c := range change {
		c(m)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, m).SignedString([]byte(testKey))
	if err != nil {
		r.t.Fatalf("sign: %v", err)
	}
	return token
}

func withScopes(scopes ...string) func(jwt.MapClaims) {
	return func(m jwt.MapClaims) { m["scopes"] = scopes }
}

// faultyStore is a store whose appends can be tampered with.
type faultyStore struct {
	store.Store

	mu     sync.Mutex
	append func(context.Context, store.Append) error // nil: the real one
}

func (f *faultyStore) Append(ctx context.Context, a store.Append) error {
	f.mu.Lock()
	replaced := f.append
	f.mu.Unlock()
	if replaced != nil {
		return replaced(ctx, a)
	}
	return f.Store.Append(ctx, a)
}

// swap puts another store in the place of what is below, once all is at rest: who is
// in the background reads it, too.
func (f *faultyStore) swap(st store.Store) {
	synctest.Wait()
	f.Store = st
}

func (f *faultyStore) onAppend(do func(context.Context, store.Append) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.append = do
}

var errDisk = errors.New("the disk is gone")

// pipeListener hands out in-memory connections.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// client is a raw Socket.IO client.
type client struct {
	t      testing.TB
	ws     *websocket.Conn
	events chan event
	out    chan string   // frames to be written
	stall  atomic.Bool   // stop reading for good
	ended  chan struct{} // closed when the socket is

	// Set by connect.
	id       string
	document string
	last     sequencer.Seq // by awaitLast
	csn      int64
	seen     []sequencer.SequencedOp // by await and nextOps
}

// event is one event as it came; args are after the name.
type event struct {
	name string
	args []json.RawMessage
}

// acknowledgement is the name that the answer to an event of the client's is kept under.
const acknowledgement = "(acknowledgement)"

// dial opens a socket and waits until its namespace is connected.
func (r *rig) dial() *client { return r.dialFor("") }

// dialFor is dial with more in the query.
func (r *rig) dialFor(hints string) *client {
	r.t.Helper()
	d := websocket.Dialer{NetDialContext: r.pipes.dial}
	ws, response, err := d.DialContext(r.t.Context(), "ws://relay.test/socket.io/?EIO=4&transport=websocket"+hints, nil)
	if err != nil {
		r.t.Fatalf("dial: %v (%v)", err, response)
	}
	c := &client{t: r.t, ws: ws, events: make(chan event, 1<<16), out: make(chan string, 1<<10), ended: make(chan struct{})}
	connected := make(chan struct{})
	go c.read(connected)
	go c.writeAll()
	c.write("40")
	<-connected
	return c
}

func (c *client) read(connected chan struct{}) {
	defer close(c.ended)
	defer c.ws.Close()
	for {
		_, b, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		if c.stall.Load() {
			<-c.t.Context().Done()
			return
		}
		switch frame := string(b); {
		case frame == "2":
			c.write("3")
		case frame == "41":
			return
		case strings.HasPrefix(frame, "40"):
			close(connected)
		case strings.HasPrefix(frame, "43"):
			c.events <- event{name: acknowledgement, args: []json.RawMessage{b}}
		case strings.HasPrefix(frame, "42"):
			var parts []json.RawMessage
			var e event
			if err := json.Unmarshal(b[2:], &parts); err != nil {
				c.t.Errorf("event %q: %v", frame, err)
				return
			}
			if err := json.Unmarshal(parts[0], &e.name); err != nil {
				c.t.Errorf("event %q: %v", frame, err)
			}
			e.args = parts[1:]
			c.events <- e
		}
	}
}

// writeAll writes frames until the socket ends.
func (c *client) writeAll() {
	for {
		select {
		case frame := <-c.out:
			if c.ws.WriteMessage(websocket.TextMessage, []byte(frame)) != nil {
				return
			}
		case <-c.ended:
			return
		}
	}
}

func (c *client) write(frame string) {
	select {
	case c.out <- frame:
	case <-c.ended:
	}
}

// emit sends an event; args are marshalled.
func (c *client) emit(name string, args ...any) {
	c.t.Helper()
	b, err := json.Marshal(append([]any{name}, args...))
	if err != nil {
		c.t.Fatalf("event %s: %v", name, err)
	}
	c.write("42" + string(b))
}

// next returns the next event.
func (c *client) next() event {
	c.t.Helper()
	select {
	case e := <-c.events:
		return e
	default:
	}
	select {
	case e := <-c.events:
		return e
	case <-c.ended:
		select {
		case e := <-c.events:
			return e
		default:
		}
		c.t.Fatal("socket ended; an event was expected")
	case <-time.After(30 * time.Second):
		c.t.Fatal("no event for 30 s")
	}
	panic("unreachable")
}

// await returns the next event of this name, dropping others; ops are kept in seen.
func (c *client) await(name string) event {
	c.t.Helper()
	for {
		e := c.next()
		if e.name == "op" {
			c.seen = append(c.seen, parseOpsJSON(c.t, e.args[1])...)
		}
		if e.name == name {
			return e
		}
	}
}

// awaitOp reads until the op with seq was seen.
func (c *client) awaitOp(seq sequencer.Seq) sequencer.SequencedOp {
	c.t.Helper()
	for {
		for _, op := range c.seen {
			if op.Seq == seq {
				return op
			}
		}
		c.await("op")
	}
}

// awaitLast reads until the op with seq was sent, at little cost: it keeps none.
func (c *client) awaitLast(seq sequencer.Seq) {
	c.t.Helper()
	for c.last < seq {
		e := c.next()
		if e.name != "op" {
			continue
		}
		name := []byte(`"sequenceNumber":`)
		_, err := fmt.Sscanf(string(e.args[1][bytes.LastIndex(e.args[1], name)+len(name):]), "%d", &c.last)
		if err != nil {
			c.t.Fatalf("op event without sequence number: %v", err)
		}
	}
}

// awaitMine reads until n ops that the client submitted were seen, and returns them.
func (c *client) awaitMine(n int) []sequencer.SequencedOp {
	c.t.Helper()
	for {
		var mine []sequencer.SequencedOp
		for _, op := range c.seen {
			if string(op.ClientID) == c.id {
				mine = append(mine, op)
			}
		}
		if len(mine) >= n {
			return mine
		}
		c.await("op")
	}
}

// silent fails if anything arrives before all is at rest.
func (c *client) silent(but ...string) {
	c.t.Helper()
	synctest.Wait()
	for {
		select {
		case e := <-c.events:
			if !strings.Contains(strings.Join(but, " "), e.name) {
				c.t.Errorf("got event %s %s, want none", e.name, e.args)
			}
		default:
			return
		}
	}
}

// drain returns the ops that arrived and were not looked at.
func (c *client) drain() []sequencer.SequencedOp {
	var ops []sequencer.SequencedOp
	for {
		select {
		case e := <-c.events:
			if e.name == "op" {
				ops = append(ops, parseOpsJSON(c.t, e.args[1])...)
			}
		default:
			return ops
		}
	}
}

// awaitEnd waits for the server to close the socket.
func (c *client) awaitEnd() {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(2 * time.Hour):
		c.t.Fatal("socket is still open after two hours")
	}
}

// close disconnects as clients do; the server ends the socket.
func (c *client) close() {
	c.write("41")
	c.awaitEnd()
}

// connectBody is a connect_document as azure-client sends it; change may spoil it.
func connectBody(id, token, mode string, change ...func(map[string]any)) map[string]any {
	m := map[string]any{
		"tenantId": testTenant,
		"id":       id,
		"token":    token,
		"mode":     mode,
		"versions": []string{"^0.4.0", "^0.3.0", "^0.2.0", "^0.1.0"},
		"client": map[string]any{
			"mode": mode, "permission": []string{}, "scopes": []string{},
			"user":    map[string]any{"id": "forged"},
			"details": map[string]any{"capabilities": map[string]any{"interactive": true}, "environment": "; loaderVersion:2.113.1"},
		},
		"supportedFeatures": map[string]any{"submit_signals_v2": true},
	}
	for _, c := range change {
		c(m)
	}
	return m
}

func summarizer(m map[string]any) {
	m["client"].(map[string]any)["details"].(map[string]any)["type"] = "summarizer"
}

func signalsV1(m map[string]any) { delete(m, "supportedFeatures") }

// connect sends a connect_document and returns the success, which must come.
func (c *client) connect(body map[string]any) map[string]json.RawMessage {
	c.t.Helper()
	c.emit("connect_document", body)
	for {
		e := c.next()
		switch e.name {
		case "op":
			c.seen = append(c.seen, parseOpsJSON(c.t, e.args[1])...)
		case "connect_document_error":
			c.t.Fatalf("connect_document: %s", e.args[0])
		case "connect_document_success":
			var m map[string]json.RawMessage
			if err := json.Unmarshal(e.args[0], &m); err != nil {
				c.t.Fatal(err)
			}
			if err := json.Unmarshal(m["clientId"], &c.id); err != nil {
				c.t.Fatal(err)
			}
			c.document = body["id"].(string)
			return m
		}
	}
}

// join dials and connects for writing; it returns when the client saw its join op.
func (r *rig) join(id string, change ...func(map[string]any)) *client {
	r.t.Helper()
	c := r.dial()
	c.connect(connectBody(id, r.token(id), "write", change...))
	for {
		for _, op := range c.seen {
			if op.Type == sequencer.TypeJoin && strings.Contains(string(op.Data), c.id) {
				return c
			}
		}
		c.await("op")
	}
}

// read dials and connects for reading.
func (r *rig) read(id string, change ...func(map[string]any)) *client {
	r.t.Helper()
	c := r.dial()
	c.connect(connectBody(id, r.token(id), "read", change...))
	return c
}

// op is the client's next op.
func (c *client) op(contents any) map[string]any {
	c.csn++
	return map[string]any{"clientSequenceNumber": c.csn, "referenceSequenceNumber": -1, "type": "op", "contents": contents}
}

// submit sends contents as one op each, in one batch.
func (c *client) submit(contents ...string) {
	c.t.Helper()
	var batch []any
	for _, s := range contents {
		batch = append(batch, c.op(s))
	}
	c.emit("submitOp", c.id, []any{batch})
}

// summarize proposes a summary of the state at rsn and returns its ack or nack.
func (c *client) summarize(handle, head string, rsn sequencer.Seq) sequencer.SequencedOp {
	c.t.Helper()
	op := c.op(string(encode(map[string]any{"handle": handle, "head": head, "message": "m", "parents": []string{head}})))
	op["type"], op["referenceSequenceNumber"] = "summarize", rsn
	c.emit("submitOp", c.id, []any{[]any{op}})
	var proposal sequencer.Seq
	for {
		for _, seen := range c.seen {
			switch {
			case string(seen.ClientID) == c.id && seen.Type == sequencer.TypeSummarize && seen.CSN == c.csn:
				proposal = seen.Seq
			case proposal > 0 && strings.Contains(string(seen.Contents), fmt.Sprintf(`"summarySequenceNumber":%d}`, proposal)):
				return seen
			}
		}
		c.await("op")
	}
}

// head is the newest version of a document, as its ref says.
func (r *rig) head(id string) string {
	r.t.Helper()
	var ref gitRef
	a := r.call("GET", "/repos/t1/git/refs/heads%2F"+id, r.token(id), "")
	if err := json.Unmarshal(a.body, &ref); err != nil || a.status != 200 {
		r.t.Fatalf("ref of %s: %d %s", id, a.status, a.body)
	}
	return ref.Object.SHA
}

// contentsOf lists the contents of ops of type op, in order.
func contentsOf(t testing.TB, ops []sequencer.SequencedOp) []string {
	t.Helper()
	var list []string
	for _, op := range ops {
		if op.Type != sequencer.TypeOp {
			continue
		}
		var s string
		if err := json.Unmarshal(op.Contents, &s); err != nil {
			t.Fatalf("contents %s: %v", op.Contents, err)
		}
		list = append(list, s)
	}
	return list
}

// checkOrder fails unless the sequence numbers rise by one.
func checkOrder(t testing.TB, who string, ops []sequencer.SequencedOp) {
	t.Helper()
	for i := 1; i < len(ops); i++ {
		if ops[i].Seq != ops[i-1].Seq+1 {
			t.Fatalf("%s: op %d follows op %d", who, ops[i].Seq, ops[i-1].Seq)
		}
	}
}

func rawBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i, raw := range list {
		out[i] = raw
	}
	return out
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// golden compares events with testdata/<name>.json, one line each. Random ids are
// numbered in order of appearance; time is the bubble's.
func golden(t *testing.T, name string, events ...event) {
	t.Helper()
	names := map[string]string{}
	var b strings.Builder
	for _, e := range events {
		line := bytes.Join(append([][]byte{encode(e.name)}, rawBytes(e.args)...), []byte(","))
		b.WriteString(uuidPattern.ReplaceAllStringFunc("["+string(line)+"]", func(id string) string {
			if names[id] == "" {
				names[id] = fmt.Sprintf("uuid-%d", len(names)+1)
			}
			return names[id]
		}))
		b.WriteByte('\n')
	}
	path := filepath.Join("testdata", name+".json")
	if *updateGolden {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s:\n got %s\nwant %s", path, b.String(), want)
	}
}
