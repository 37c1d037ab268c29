package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/internal/rawjson"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/socketio"
)

const (
	// maxOpBytes bounds one op as it came in, JSON escapes and all. It leaves room
	// below the limit of a frame for what the service adds.
	maxOpBytes = 950_000
	// connectTimeout bounds a connect_document: clients give up after 20 s.
	connectTimeout = 20 * time.Second
	// maxSessionsPerSocket bounds how often one socket may connect: Azure clients
	// connect once, drivers that multiplex once per document.
	maxSessionsPerSocket = 100
)

var (
	errBadOp       = errors.New("malformed op")
	errNoReadScope = errors.New("token does not let its bearer read")
)

// serveSocket runs one socket to its end.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(correlationHeader)
	if !isCorrelationID(id) {
		id = newUUID()
	}
	w.Header().Set(correlationHeader, id)
	// Who may connect to the document is not known yet; its node asks for the token. What
	// is not passed on is served here, and connect_document says why it cannot be.
	query := r.URL.Query()
	if to, elsewhere := s.nodeOf(r, documentKey{query.Get("tenantId"), query.Get("documentId")}); elsewhere {
		if s.passOn(w, r, to) == nil {
			return
		}
	}
	s.io.Serve(w, r, func(sock *socketio.Socket) socketio.Handler {
		return newConnection(s, sock, id)
	})
}

// connection is one socket and the sessions on it. Calls of its methods never overlap.
type connection struct {
	s             *Server
	sock          *socketio.Socket
	correlationID string // of the handshake; in the log with each session that comes and goes
	sessions      map[sequencer.ClientID]*session
	lonely        *time.Timer // closes the socket that has no session in time
	connects      *bucket     // of connect_document
	refusals      int         // messages over a rate
}

func newConnection(s *Server, sock *socketio.Socket, correlationID string) *connection {
	return &connection{
		s:             s,
		sock:          sock,
		correlationID: correlationID,
		sessions:      map[sequencer.ClientID]*session{},
		lonely:        time.AfterFunc(connectWithin, func() { sock.Close("no document was connected in time") }),
		connects:      newBucket(socketConnects),
	}
}

var _ socketio.Handler = (*connection)(nil)

// Event is one message of the client. Its args are JSON in UTF-8, which matters:
// what is passed on becomes part of everyone's frames. Other events than these are acknowledged
// below us and mean nothing here (ping), or tell what the socket's end tells
// again (client_disconnect).
func (c *connection) Event(name string, args []json.RawMessage) {
	switch name {
	case "connect_document":
		aside(func() { c.connect(args) })
	case "submitOp":
		c.submitOp(args)
	case "submitSignal":
		c.submitSignal(args)
	}
}

// aside runs f on a goroutine of its own and waits for it: what needs a deep stack once
// would leave the goroutine that reads with it for as long as the socket lives.
func aside(f func()) {
	panicked := make(chan any, 1)
	go func() {
		defer func() { panicked <- recover() }()
		f()
	}()
	if v := <-panicked; v != nil {
		panic(v)
	}
}

// Closed ends what is on the socket.
func (c *connection) Closed(reason string) {
	c.lonely.Stop()
	for _, s := range c.sessions {
		s.end()
		c.s.m.sessions(s).Dec()
		s.doc.log.Info("session ended", "client_id", s.id, "correlation_id", c.correlationID, "reason", reason)
		c.s.touch(c.s.base, s.doc) // who came was noted, but may have stayed for hours
	}
}

// nack refuses an op or a signal.
func (c *connection) nack(r refusal) {
	c.s.m.nacked(r.code)
	c.sock.Answer(nackFrame(r))
}

// connect answers a connect_document. Nothing of the client is in the document's
// room before all checks have passed.
func (c *connection) connect(args []json.RawMessage) {
	c.lonely.Stop()
	defer func() {
		if len(c.sessions) == 0 {
			c.lonely.Reset(connectWithin)
		}
	}()
	if wait := c.connects.take(1); wait > 0 {
		c.refuse(connectErrorFrame(connectThrottled(wait)))
		return
	}
	m, err := parseConnect(args)
	if err != nil {
		c.sock.Answer(connectErrorFrame(connectInvalid))
		return
	}
	version, ok := chooseVersion(m.Versions)
	if !ok {
		c.sock.Answer(connectErrorFrame(versionRefusal(m.Versions)))
		return
	}
	ctx, cancel := context.WithTimeout(c.s.base, connectTimeout)
	defer cancel()
	session, err := c.join(ctx, m, version)
	if err == nil {
		c.sessions[session.id] = session
		c.s.m.sessions(session).Inc()
		session.doc.log.InfoContext(ctx, "session connected",
			"client_id", session.id, "mode", session.success.Mode, "correlation_id", c.correlationID)
		c.s.touch(ctx, session.doc)
		return
	}
	r, fault := connectRefusal(err)
	if fault {
		c.s.c.Log.ErrorContext(ctx, "connect failed", "tenant_id", *m.TenantID, "document_id", *m.ID,
			"correlation_id", c.correlationID, "err", err)
	} else {
		c.s.c.Log.InfoContext(ctx, "connect refused", "code", r.code, "correlation_id", c.correlationID)
	}
	c.sock.Answer(connectErrorFrame(r))
}

// join checks the token, opens the document and lets the client in.
func (c *connection) join(ctx context.Context, m connectMessage, version string) (*session, error) {
	var token string
	if m.Token != nil {
		token = *m.Token
	}
	claims, tenant, err := c.s.checkToken(ctx, token, *m.TenantID, *m.ID, socketFace)
	if err != nil {
		return nil, err
	}
	usage := c.s.usage.of(tenant.ID)
	if err := usage.takeConnect(); err != nil {
		return nil, err
	}
	if !claims.has(docRead) {
		return nil, errNoReadScope
	}
	if c.s.isDraining() {
		return nil, errDraining
	}
	if len(c.sessions) >= maxSessionsPerSocket {
		return nil, errTooManyClients
	}
	doc, release, err := c.s.open(ctx, tenant, *m.ID)
	if err != nil {
		return nil, err
	}
	session := newSession(c.sock, m, version, claims, time.Now())
	session.doc = doc
	session.tenant = usage
	who := clientOf(tenant.ID, claims)
	session.allowance = c.s.spent.take(who, c.s.c.Limits)
	session.release = func() {
		c.s.spent.leave(who, session.allowance)
		release()
	}
	if err := doc.join(session); err != nil {
		session.release()
		return nil, err
	}
	if _, local := c.s.localTenant(tenant.ID); !local {
		session.expiry = time.AfterFunc(time.Until(claims.Expires), func() { c.sock.Close("token expired") })
	}
	// A revocation between our check and our arrival looked for us too early, and so did
	// who closed the tenant.
	if err := c.s.checkRevoked(ctx, claims, socketFace); err != nil {
		c.sock.Close("token revoked")
	}
	if err := c.s.checkOpen(ctx, tenant.ID); err != nil {
		c.sock.Close("access to the tenant is switched off")
	}
	return session, nil
}

// versionRefusal says which versions were offered and wanted. The client gives up.
func versionRefusal(wanted []string) refusal {
	const most = 200 // bytes of what was wanted: it is a stranger's
	said := encode(wanted)
	if len(said) > most {
		said = append(bytes.ToValidUTF8(said[:most], nil), "…"...)
	}
	return refusal{
		code:    400,
		message: "Unsupported client protocol. Server: " + string(encode(protocolVersions)) + ". Client: " + string(said),
	}
}

// refuse answers a message that is over a rate. Clients stop at the first answer;
// whoever goes on all the same is cut off.
func (c *connection) refuse(answer socketio.Frame) {
	c.sock.Answer(answer)
	if c.refusals++; c.refusals >= maxRefusals {
		c.sock.Close("too many messages over the limit")
	}
}

// session finds the session that an event's first argument names.
func (c *connection) session(args []json.RawMessage) *session {
	if len(args) < 2 || len(args[0]) < 2 || args[0][0] != '"' {
		return nil
	}
	return c.sessions[sequencer.ClientID(args[0][1:len(args[0])-1])] // ours have nothing to escape
}

// submitOp hands ops to the document. Those before a malformed one are taken.
func (c *connection) submitOp(args []json.RawMessage) {
	s := c.session(args)
	switch {
	case s == nil:
		c.nack(nackClient)
		return
	case !s.mayWrite:
		c.nack(nackScope)
		return
	case !s.writer:
		c.nack(nackReadonly)
		return
	}
	elements := countElements(args[1])
	if elements > maxOpsPerMessage {
		c.nack(nackTooMany)
		return
	}
	if wait := takeAll(messageUnits(elements, len(args[1])), s.allowance.ops, s.tenant.ops); wait > 0 {
		c.s.m.nacked(http.StatusTooManyRequests)
		c.refuse(nackFrame(nackThrottled(wait)))
		return
	}
	ops, refused := parseOps(args[1])
	if n := summaries(ops); n > 0 && n+s.doc.tail.undecided.Load() > maxUndecided {
		c.s.m.nacked(nackSummaries.code)
		c.refuse(nackFrame(nackSummaries))
		return
	}
	if len(ops) > 0 {
		s.doc.submit(s, ops)
	}
	if refused != nil {
		c.nack(*refused)
	}
}

// summaries counts the proposals of summaries among ops.
func summaries(ops []sequencer.Op) (n int64) {
	for _, op := range ops {
		if op.Type == sequencer.TypeSummarize {
			n++
		}
	}
	return n
}

// parseOps reads the batches of a submitOp: a list whose elements are ops or lists
// of ops. It stops at the first op it refuses. Members that clients may not set
// are not read.
func parseOps(arg json.RawMessage) ([]sequencer.Op, *refusal) {
	if rawjson.Kind(arg) != '[' {
		return nil, &nackOp
	}
	ops := make([]sequencer.Op, 0, 1) // what most messages have
	for batch := range rawjson.Elements(arg) {
		var refused *refusal
		if batch[0] != '[' {
			ops, refused = appendOp(ops, batch)
		} else {
			for raw := range rawjson.Elements(batch) {
				if ops, refused = appendOp(ops, raw); refused != nil {
					break
				}
			}
		}
		if refused != nil {
			return ops, refused
		}
	}
	return ops, nil
}

// appendOp adds an op to ops, unless it is refused.
func appendOp(ops []sequencer.Op, raw []byte) ([]sequencer.Op, *refusal) {
	if len(raw) > maxOpBytes {
		return ops, &nackTooLarge
	}
	op, err := parseOp(raw)
	if err != nil {
		return ops, &nackOp
	}
	if opTooLarge(op) {
		return ops, &nackTooLarge
	}
	return append(ops, op), nil
}

// parseOp reads an op. Where a member is named twice the last one counts.
func parseOp(raw json.RawMessage) (op sequencer.Op, err error) {
	var hasCSN, hasRSN, hasType bool
	for name, value := range rawjson.Members(raw) {
		switch string(name) {
		case `"clientSequenceNumber"`:
			hasCSN = true
			op.CSN, err = strconv.ParseInt(string(value), 10, 64)
		case `"referenceSequenceNumber"`:
			hasRSN = true
			var n int64
			n, err = strconv.ParseInt(string(value), 10, 64)
			op.RSN = sequencer.Seq(n)
		case `"type"`:
			hasType = true
			op.Type, err = rawjson.String(value)
		case `"contents"`:
			op.Contents = value
		case `"metadata"`:
			op.Metadata = value
		case `"compression"`:
			op.Compression = value
		}
		if err != nil {
			return sequencer.Op{}, errBadOp
		}
	}
	if !hasCSN || !hasRSN || !hasType {
		return sequencer.Op{}, errBadOp
	}
	return op, nil
}

// submitSignal sends signals on, in the dialect that the sender announced. A
// malformed one is refused, and the rest of the message with it.
func (c *connection) submitSignal(args []json.RawMessage) {
	s := c.session(args)
	if s == nil {
		c.nack(nackClient)
		return
	}
	elements := countElements(args[1])
	if elements > maxOpsPerMessage {
		c.nack(nackTooMany)
		return
	}
	if wait := takeAll(messageUnits(elements, len(args[1])), s.allowance.signals, s.tenant.signals); wait > 0 {
		c.s.m.nacked(http.StatusTooManyRequests)
		c.refuse(nackFrame(nackThrottled(wait)))
		return
	}
	send := s.sendSignals
	if s.signalsV2 {
		send = s.sendSignalsV2
	}
	if send(args[1]) != nil {
		c.nack(nackSignal)
	}
}

// sendSignals sends signals of the first dialect to everyone, the sender included.
func (s *session) sendSignals(arg json.RawMessage) error {
	contents, err := splitSignals(arg)
	if err != nil {
		return err
	}
	from := encode(s.id)
	for _, content := range contents {
		s.doc.m.signals.Inc()
		s.doc.send(signalFrame(from, content))
	}
	return nil
}

// sendSignalsV2 sends signals of the second dialect: to everyone, the sender
// included, or to their target alone, which is looked for in this document only.
func (s *session) sendSignalsV2(arg json.RawMessage) error {
	var signals []json.RawMessage
	if err := json.Unmarshal(arg, &signals); err != nil {
		return errBadSignal
	}
	from := encode(s.id)
	for _, raw := range signals {
		body, target, err := rewriteSignal(raw, from)
		if err != nil {
			return err
		}
		frame := socketio.NewEvent("signal", body)
		s.doc.m.signals.Inc()
		if target != nil {
			s.doc.sendTo(*target, frame)
		} else {
			s.doc.send(frame)
		}
	}
	return nil
}
