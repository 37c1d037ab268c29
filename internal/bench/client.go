package bench

import (
	"bytes"
	"context"
	"crypto/fips140"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Modes of a client.
const (
	Write = "write"
	Read  = "read"
)

const (
	connectTimeout = 20 * time.Second
	writeTimeout   = 20 * time.Second
	readTimeout    = time.Minute // a service pings more often than that
	// The pause before a client connects again doubles from the first to the last.
	firstPause, lastPause = 50 * time.Millisecond, time.Second
	// catchUpTimeout is how long ops that must exist may stay missing from the deltas:
	// not every service stores an op before it shows it.
	catchUpTimeout = 10 * time.Second
)

// Kind says what went wrong.
type Kind string

// Kinds of errors.
const (
	Refused    Kind = "refused"    // no connection, or connect_document_error
	Nacked     Kind = "nacked"     // an op was refused; the connection ends
	Disconnect Kind = "disconnect" // the connection ended without being asked to
	Order      Kind = "order"      // an op was missing, repeated or out of order
)

// Error is what a client has to complain of.
type Error struct {
	Kind Kind
	Code int // of a nack or connect_document_error
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Kind, e.Text) }

// ErrNotConnected is returned by Submit while there is no connection.
var ErrNotConnected = errors.New("bench: not connected")

// Options of a client. The callbacks come from one goroutine, one at a time; OnOp in
// the order of arrival. They may call Submit, but not Close.
type Options struct {
	Mode      string      // Write or Read
	HoldMSN   bool        // keep the reference sequence number of the connection's first op
	Reconnect bool        // connect again after the connection ended, until Close
	Record    bool        // keep a copy of what was received, for Recorded
	OnOp      func(Op)    // each sequenced op, the client's own join among them
	OnError   func(error) // an *Error for all that goes wrong after Dial
}

// Client is one client of one document: a session over a socket, and after a
// disconnect another one. What it missed in between it reads from the deltas, so
// that OnOp and Recorded see every op from the first connection on. Ops that it had
// submitted and not seen sequenced are not submitted again. It is safe for
// concurrent use.
type Client struct {
	endpoint Endpoint
	document Document
	options  Options
	cancel   context.CancelFunc // ends run
	done     chan struct{}      // run has ended

	// Owned by run (before that, by Dial).
	seq      int64 // of the last op seen, as the next one is judged by it
	started  bool  // an op was seen on this connection
	joined   bool  // this connection is ready to be used
	accepted bool  // connect_document_success has come
	early    []Op  // ops that came before connect_document_success

	// writing is held over each write, so that ops go out in the order of their csn.
	writing sync.Mutex

	mu       sync.Mutex
	ws       *websocket.Conn // nil while not connected
	out      *outgoing       // below ws
	id       string          // of this connection
	csn, rsn int64
	up       chan struct{} // closed while connected
	recorded []Op
	echoes   int           // pings sent
	echo     chan struct{} // has room for one: a ping was answered
}

// Dial connects a client to a document. It returns once the client may submit: it
// has seen its own join op in write mode, the answer to its connect in read mode.
// An *Error of kind Refused tells what the service said.
func Dial(ctx context.Context, e Endpoint, d Document, o Options) (*Client, error) {
	if o.OnOp == nil {
		o.OnOp = func(Op) {}
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	c := &Client{endpoint: e, document: d, options: o, done: make(chan struct{}), up: make(chan struct{}), echo: make(chan struct{}, 1)}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	go func() {
		defer close(c.done)
		c.run(life, conn)
	}()
	return c, nil
}

// ID is the client id of the present, or else the last, connection.
func (c *Client) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Recorded returns all ops received so far.
func (c *Client) Recorded() []Op {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Op(nil), c.recorded...)
}

// Submit submits an op of the given type; contents is JSON. It returns the op's
// client sequence number, which is the client's own under the present ID. That it
// returns does not mean that the op arrived.
func (c *Client) Submit(typ string, contents []byte) (csn int64, err error) {
	return c.SubmitAll(typ, contents, 1)
}

// SubmitAll submits n ops alike, each in a frame of its own, all of them in one write.
// It returns the client sequence number of the last.
func (c *Client) SubmitAll(typ string, contents []byte, n int) (csn int64, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	ws, out := c.ws, c.out
	if ws == nil {
		c.mu.Unlock()
		return 0, ErrNotConnected
	}
	id, rsn, first := c.id, c.rsn, c.csn+1
	c.csn += int64(n)
	csn = c.csn
	c.mu.Unlock()
	if err := ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return csn, err
	}
	out.hold()
	frame := make([]byte, 0, 160+len(contents))
	for i := first; i <= csn; i++ {
		frame = appendSubmit(frame[:0], id, i, rsn, typ, contents)
		if err := ws.WriteMessage(websocket.TextMessage, frame); err != nil {
			return csn, err
		}
	}
	return csn, out.release()
}

// Echo is how long the service takes to answer a client's latency probe, which it does
// not order, store or show to anybody.
func (c *Client) Echo(ctx context.Context) (time.Duration, error) {
	c.mu.Lock()
	ws := c.ws
	probe := fmt.Appendf(nil, `42%d["ping"]`, c.echoes)
	c.echoes++
	c.mu.Unlock()
	if ws == nil {
		return 0, ErrNotConnected
	}
	c.writing.Lock()
	start := time.Now()
	err := write(ws, probe)
	c.writing.Unlock()
	if err != nil {
		return 0, err
	}
	select {
	case <-c.echo:
		return time.Since(start), nil
	case <-c.done:
		return 0, ErrNotConnected
	case <-time.After(connectTimeout):
		return 0, errors.New("the service does not answer a latency probe")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// WaitConnected returns once the client is connected, or ctx or the client has ended.
func (c *Client) WaitConnected(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-c.done:
		return ErrNotConnected
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close disconnects as a client does that is disposed of, and waits for the last
// callback.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}

// write writes one text frame. The caller holds c.writing, or no one else has ws.
func write(ws *websocket.Conn, frame []byte) error {
	if err := ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return ws.WriteMessage(websocket.TextMessage, frame)
}

func read(ws *websocket.Conn) ([]byte, error) {
	if err := ws.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return nil, err
	}
	_, frame, err := ws.ReadMessage()
	return frame, err
}

// run serves one connection after the other.
func (c *Client) run(ctx context.Context, ws *websocket.Conn) {
	for {
		err := c.serve(ctx, ws)
		c.setDown()
		if ctx.Err() != nil {
			return
		}
		c.options.OnError(err)
		if !c.options.Reconnect {
			return
		}
		for pause := firstPause; ; pause = min(2*pause, lastPause) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if ws, err = c.connect(ctx); err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			c.options.OnError(err)
		}
	}
}

func (c *Client) setDown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ws, c.up = nil, make(chan struct{})
}

// serve reads until the connection ends, and closes it. The error is an *Error.
func (c *Client) serve(ctx context.Context, ws *websocket.Conn) error {
	defer ws.Close()
	stop := context.AfterFunc(ctx, func() {
		c.writing.Lock()
		defer c.writing.Unlock()
		_ = write(ws, []byte("41")) // a goodbye; the connection ends in any case
		ws.Close()
	})
	defer stop()
	for {
		frame, err := read(ws)
		if err == nil {
			err = c.handle(ctx, ws, frame)
		}
		var known *Error
		switch {
		case err == nil:
		case errors.As(err, &known):
			return known
		default:
			return &Error{Kind: Disconnect, Text: err.Error()}
		}
	}
}

// connect opens a socket and connects the document. It returns when the client may
// submit.
func (c *Client) connect(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	ws, err := c.open(ctx)
	if err != nil {
		return nil, &Error{Kind: Refused, Text: err.Error()}
	}
	stop := context.AfterFunc(ctx, func() { ws.Close() })
	defer stop()
	c.started, c.joined, c.accepted, c.early = false, false, false, nil
	for !c.joined {
		frame, err := read(ws)
		if err == nil {
			err = c.handle(ctx, ws, frame)
		}
		if err != nil {
			ws.Close()
			var known *Error
			if errors.As(err, &known) {
				return nil, known
			}
			return nil, &Error{Kind: Refused, Text: err.Error()}
		}
	}
	if !stop() {
		return nil, &Error{Kind: Refused, Text: context.Cause(ctx).Error()}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ws, c.out = ws, ws.NetConn().(*outgoing)
	close(c.up)
	return ws, nil
}

// open dials the socket, connects the namespace and sends connect_document.
func (c *Client) open(ctx context.Context) (*websocket.Conn, error) {
	u, err := url.Parse(c.document.StreamURL)
	if err != nil {
		return nil, err
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	u.Path = "/socket.io/"
	u.RawQuery = url.Values{
		"documentId": {c.document.ID}, "tenantId": {c.endpoint.Tenant}, "EIO": {"4"}, "transport": {"websocket"},
	}.Encode()
	token, err := c.endpoint.Token(c.document.ID)
	if err != nil {
		return nil, err
	}
	message, err := json.Marshal(newConnectMessage(c.endpoint.Tenant, c.document.ID, token, c.options.Mode))
	if err != nil {
		return nil, err
	}
	dialer := *websocket.DefaultDialer
	dialer.NetDialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dial := c.endpoint.Dial
		if dial == nil {
			dial = new(net.Dialer).DialContext
		}
		conn, err := dial(ctx, network, address)
		return &outgoing{Conn: conn}, err
	}
	var ws *websocket.Conn
	var resp *http.Response
	fips140.WithoutEnforcement(func() { // the handshake has SHA-1 in it (RFC 6455)
		ws, resp, err = dialer.DialContext(ctx, u.String(), nil)
	})
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if err := c.greet(ws, message); err != nil {
		ws.Close()
		return nil, err
	}
	return ws, nil
}

// greet connects the namespace, waits for it, and sends connect_document.
func (c *Client) greet(ws *websocket.Conn, message []byte) error {
	if err := write(ws, []byte("40")); err != nil {
		return err
	}
	for _, prefix := range []string{"0{", "40{"} { // engine and namespace are open
		frame, err := read(ws)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(frame, []byte(prefix)) {
			return fmt.Errorf("unexpected frame %.100q, want %s…", frame, prefix)
		}
	}
	return write(ws, append(append([]byte(`42["connect_document",`), message...), ']'))
}

// handle does what one frame asks for. An error ends the connection.
func (c *Client) handle(ctx context.Context, ws *websocket.Conn, frame []byte) error {
	switch {
	case string(frame) == "2":
		c.writing.Lock()
		defer c.writing.Unlock()
		return write(ws, []byte("3"))
	case bytes.HasPrefix(frame, []byte("42[")):
		return c.event(ctx, frame[2:])
	case bytes.HasPrefix(frame, []byte("43")):
		select {
		case c.echo <- struct{}{}:
		default:
		}
		return nil
	case bytes.HasPrefix(frame, []byte("41")):
		return errors.New("disconnected by the service")
	}
	return fmt.Errorf("unexpected frame %.100q", frame)
}

func (c *Client) event(ctx context.Context, payload []byte) error {
	args, err := parseArray(payload)
	if err != nil {
		return err
	}
	switch name := string(args[0]); {
	case name == `"op"` && len(args) == 3:
		ops, err := parseOps(args[2])
		if err != nil {
			return err
		}
		if !c.accepted {
			c.early = append(c.early, ops...) // we do not yet know who we are
			return nil
		}
		return c.receive(ctx, ops)
	case name == `"nack"` && len(args) == 3:
		var nacks []nackMessage
		if err := json.Unmarshal(args[2], &nacks); err != nil || len(nacks) == 0 {
			return fmt.Errorf("nack: %.200q", args[2])
		}
		n := nacks[0].Content
		return &Error{Kind: Nacked, Code: n.Code, Text: fmt.Sprintf("%d %s: %s", n.Code, n.Type, n.Message)}
	case name == `"connect_document_success"` && len(args) == 2:
		return c.connected(ctx, args[1])
	case name == `"connect_document_error"` && len(args) == 2:
		var r refusedMessage
		if err := json.Unmarshal(args[1], &r); err != nil {
			return fmt.Errorf("connect_document_error: %.200q", args[1])
		}
		return &Error{Kind: Refused, Code: r.Code, Text: fmt.Sprintf("%d %s", r.Code, r.Message)}
	}
	return nil // a signal, or something newer than we are
}

// connected takes the answer to connect_document.
func (c *Client) connected(ctx context.Context, answer []byte) error {
	var m connectedMessage
	if err := json.Unmarshal(answer, &m); err != nil {
		return fmt.Errorf("connect_document_success: %w", err)
	}
	if m.ClientID == "" || m.Mode != c.options.Mode {
		return &Error{Kind: Refused, Text: fmt.Sprintf("connected as %q in mode %q, want mode %q", m.ClientID, m.Mode, c.options.Mode)}
	}
	c.mu.Lock()
	c.id, c.csn = m.ClientID, 0
	c.mu.Unlock()
	c.accepted = true
	if m.Mode == Read {
		c.joined = true
	}
	early := c.early
	c.early = nil
	return c.receive(ctx, early)
}

// receive judges the order of what has come and passes it on.
func (c *Client) receive(ctx context.Context, ops []Op) error {
	for _, op := range ops {
		// Before its first op a connection may have missed some; after, it may not.
		missed := !c.started && c.seq > 0 && op.Seq > c.seq+1
		c.started = true
		if missed {
			if err := c.catchUp(ctx, op.Seq); err != nil {
				return err
			}
		}
		if c.seq > 0 && op.Seq != c.seq+1 {
			c.options.OnError(&Error{Kind: Order, Text: fmt.Sprintf("op %d came after op %d", op.Seq, c.seq)})
			if op.Seq <= c.seq {
				continue
			}
		}
		c.deliver(op)
	}
	return nil
}

// catchUp reads the ops between the last one seen and next from the deltas.
func (c *Client) catchUp(ctx context.Context, next int64) error {
	deadline := time.Now().Add(catchUpTimeout)
	for {
		ops, err := c.endpoint.Deltas(ctx, c.document.ID, c.seq, next)
		if err != nil {
			return err
		}
		for _, op := range ops {
			if op.Seq != c.seq+1 {
				c.options.OnError(&Error{Kind: Order, Text: fmt.Sprintf("in the deltas op %d came after op %d", op.Seq, c.seq)})
			}
			if op.Seq > c.seq {
				c.deliver(op)
			}
		}
		if c.seq+1 >= next || time.Now().After(deadline) {
			return nil // what is still missing is a gap, and receive will say so
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(firstPause):
		}
	}
}

// deliver passes on an op.
func (c *Client) deliver(op Op) {
	c.seq = op.Seq
	c.mu.Lock()
	if !c.options.HoldMSN || !c.joined {
		c.rsn = op.Seq
	}
	op.Own = op.ClientID != "" && op.ClientID == c.id
	if c.options.Record {
		c.recorded = append(c.recorded, op)
	}
	id := c.id
	c.mu.Unlock()
	if op.Type == "join" && !c.joined && joins(op, id) {
		c.joined = true
	}
	c.options.OnOp(op)
}

// joins tells whether op is the join of the client with that id.
func joins(op Op, id string) bool {
	var join struct {
		Data string `json:"data"`
	}
	var data struct {
		ClientID string `json:"clientId"`
	}
	return json.Unmarshal(op.Raw, &join) == nil && json.Unmarshal([]byte(join.Data), &data) == nil && id != "" && data.ClientID == id
}

// outgoing is a connection that can gather what is written, to send it at once.
type outgoing struct {
	net.Conn
	holding bool
	held    []byte
}

func (o *outgoing) Write(b []byte) (int, error) {
	if !o.holding {
		return o.Conn.Write(b)
	}
	o.held = append(o.held, b...)
	return len(b), nil
}

func (o *outgoing) hold() { o.holding = true }

func (o *outgoing) release() error {
	o.holding = false
	_, err := o.Conn.Write(o.held)
	o.held = o.held[:0]
	return err
}
