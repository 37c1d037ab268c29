package relay

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

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
	s.io.Serve(w, r, func(sock *socketio.Socket) socketio.Handler {
		return &connection{s: s, sock: sock, sessions: map[sequencer.ClientID]*session{}}
	})
}

// connection is one socket and the sessions on it. Calls of its methods never overlap.
type connection struct {
	s        *Server
	sock     *socketio.Socket
	sessions map[sequencer.ClientID]*session
}

var _ socketio.Handler = (*connection)(nil)

// Event is one message of the client. Its args are JSON in UTF-8, which matters:
// what is passed on becomes part of everyone's frames. Other events than these are acknowledged
// below us and mean nothing here (ping), or tell what the socket's end tells
// again (client_disconnect).
func (c *connection) Event(name string, args []json.RawMessage) {
	switch name {
	case "connect_document":
		c.connect(args)
	case "submitOp":
		c.submitOp(args)
	case "submitSignal":
		c.submitSignal(args)
	}
}

// Closed ends what is on the socket.
func (c *connection) Closed(string) {
	for _, s := range c.sessions {
		s.end()
	}
}

// connect answers a connect_document. Nothing of the client is in the document's
// room before all checks have passed.
func (c *connection) connect(args []json.RawMessage) {
	m, err := parseConnect(args)
	if err != nil {
		c.sock.Send(connectErrorFrame(connectInvalid))
		return
	}
	version, ok := chooseVersion(m.Versions)
	if !ok {
		c.sock.Send(connectErrorFrame(versionRefusal(m.Versions)))
		return
	}
	ctx, cancel := context.WithTimeout(c.s.base, connectTimeout)
	defer cancel()
	session, err := c.join(ctx, m, version)
	if err == nil {
		c.sessions[session.id] = session
		c.s.touch(ctx, *m.TenantID, session.doc)
		return
	}
	r, fault := connectRefusal(err)
	if fault {
		c.s.c.Log.ErrorContext(ctx, "connect failed", "tenant_id", *m.TenantID, "document_id", *m.ID, "err", err)
	}
	c.sock.Send(connectErrorFrame(r))
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
	session.doc, session.release = doc, release
	if err := doc.join(session); err != nil {
		release()
		return nil, err
	}
	session.expiry = time.AfterFunc(time.Until(claims.Expires), func() { c.sock.Close("token expired") })
	return session, nil
}

// versionRefusal says which versions were offered and wanted. The client gives up.
func versionRefusal(wanted []string) refusal {
	return refusal{
		code:    400,
		message: "Unsupported client protocol. Server: " + string(encode(protocolVersions)) + ". Client: " + string(encode(wanted)),
	}
}

// session finds the session that an event's first argument names.
func (c *connection) session(args []json.RawMessage) *session {
	var id sequencer.ClientID
	if len(args) < 2 || json.Unmarshal(args[0], &id) != nil {
		return nil
	}
	return c.sessions[id]
}

// submitOp hands ops to the document. Those before a malformed one are taken.
func (c *connection) submitOp(args []json.RawMessage) {
	s := c.session(args)
	switch {
	case s == nil:
		c.sock.Send(nackFrame(nackClient))
		return
	case !s.mayWrite:
		c.sock.Send(nackFrame(nackScope))
		return
	case !s.writer:
		c.sock.Send(nackFrame(nackReadonly))
		return
	}
	ops, refused := parseOps(args[1])
	if len(ops) > 0 {
		s.doc.submit(s, ops)
	}
	if refused != nil {
		c.sock.Send(nackFrame(*refused))
	}
}

// parseOps reads the batches of a submitOp: a list whose elements are ops or lists
// of ops. It stops at the first op it refuses. Members that clients may not set
// are not read.
func parseOps(arg json.RawMessage) ([]sequencer.Op, *refusal) {
	var batches []json.RawMessage
	if err := json.Unmarshal(arg, &batches); err != nil {
		return nil, &nackOp
	}
	var ops []sequencer.Op
	for _, batch := range batches {
		list := []json.RawMessage{batch}
		if isArray(batch) {
			list = nil
			if err := json.Unmarshal(batch, &list); err != nil {
				return ops, &nackOp
			}
		}
		for _, raw := range list {
			if len(raw) > maxOpBytes {
				return ops, &nackTooLarge
			}
			op, err := parseOp(raw)
			if err != nil {
				return ops, &nackOp
			}
			ops = append(ops, op)
		}
	}
	return ops, nil
}

func parseOp(raw json.RawMessage) (sequencer.Op, error) {
	var o struct {
		CSN         *int64          `json:"clientSequenceNumber"`
		RSN         *sequencer.Seq  `json:"referenceSequenceNumber"`
		Type        *string         `json:"type"`
		Contents    json.RawMessage `json:"contents"`
		Metadata    json.RawMessage `json:"metadata"`
		Compression json.RawMessage `json:"compression"`
	}
	if err := json.Unmarshal(raw, &o); err != nil || o.CSN == nil || o.RSN == nil || o.Type == nil {
		return sequencer.Op{}, errBadOp
	}
	return sequencer.Op{
		CSN:         *o.CSN,
		RSN:         *o.RSN,
		Type:        *o.Type,
		Contents:    o.Contents,
		Metadata:    o.Metadata,
		Compression: o.Compression,
	}, nil
}

// submitSignal sends signals on, in the dialect that the sender announced. A
// malformed one is refused, and the rest of the message with it.
func (c *connection) submitSignal(args []json.RawMessage) {
	s := c.session(args)
	if s == nil {
		c.sock.Send(nackFrame(nackClient))
		return
	}
	send := s.sendSignals
	if s.signalsV2 {
		send = s.sendSignalsV2
	}
	if send(args[1]) != nil {
		c.sock.Send(nackFrame(nackSignal))
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
		if target != nil {
			s.doc.sendTo(*target, frame)
		} else {
			s.doc.send(frame)
		}
	}
	return nil
}
