package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/cluster"
)

// A relay that is one of several nodes serves the documents that are placed on it, and
// passes on to their nodes the requests and sockets for others. It is the only way that
// works with unmodified clients: they keep what session discovery told them for five
// minutes, whatever becomes of the node they were sent to, and ask for nothing else. So
// discovery names the address that all nodes share, and whoever is asked there finds
// the document's node. With Config.DirectNodes discovery names the node itself, which
// spares the hop and leaves clients of a node that does not come back without service
// until they ask again.
//
// A request is passed on once. Who got it that way serves the document or says that
// the client should try again.

// forwardedHeader marks what another node passed on; its value is that node's id. Who
// forges it is not passed on, and that is all.
const forwardedHeader = "Tidelock-Forwarded"

var (
	errMoving = errors.New("document moves to another node")
	errPeer   = errors.New("the document's node does not answer")
)

// The topics of notices.
const (
	topicDeleted = "document-deleted"
	topicRevoked = "token-revoked"
	topicClosed  = "tenant-closed"
)

type documentNotice struct {
	Tenant   string `json:"tenant"`
	Document string `json:"document,omitempty"`
	JTI      string `json:"jti,omitempty"`
}

// joinCluster has the server heed what other nodes tell.
func (s *Server) joinCluster() {
	n := s.c.Cluster
	if n == nil {
		return
	}
	n.On(topicDeleted, func(body json.RawMessage) {
		var d documentNotice
		if json.Unmarshal(body, &d) != nil {
			return
		}
		s.mu.Lock()
		e := s.documents[documentKey{d.Tenant, d.Document}]
		s.mu.Unlock()
		if e != nil {
			e.endSoon(errUnknownDocument)
		}
	})
	n.On(topicRevoked, func(body json.RawMessage) {
		var d documentNotice
		if json.Unmarshal(body, &d) == nil {
			s.cut(documentKey{d.Tenant, d.Document}, d.JTI)
		}
	})
	n.On(topicClosed, func(body json.RawMessage) {
		var d documentNotice
		if json.Unmarshal(body, &d) == nil {
			s.c.Tenants.Forget(d.Tenant)
			s.cutTenant(d.Tenant)
		}
	})
}

// tell posts a notice to the other nodes.
func (s *Server) tell(topic string, d documentNotice) {
	if s.c.Cluster != nil {
		s.c.Cluster.Post(topic, d)
	}
}

// endSoon ends e's document now, or as soon as it is loaded. It does not wait.
func (e *entry) endSoon(cause error) {
	if d := e.loaded(); d != nil {
		d.end(cause)
		return
	}
	go func() {
		<-e.ready
		if e.doc != nil {
			e.doc.end(cause)
		}
	}()
}

// LetGo ends all documents at once: this node's lease is over, and others may serve
// them. What was acknowledged is in the store.
func (s *Server) LetGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.documents {
		e.endSoon(cluster.ErrCutOff)
	}
}

// Load is what this node carries.
func (s *Server) Load() (documents, sessions int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.documents {
		if d := e.loaded(); d != nil {
			documents++
			d.mu.Lock()
			sessions += len(d.sessions)
			d.mu.Unlock()
		}
	}
	return documents, sessions
}

// Move gives all documents to the other nodes and goes on as one that only passes on:
// first the others learn that they are to take them, then each document is ended in
// order, and its clients come back to where it is then. It returns when all are gone or
// ctx is over.
func (s *Server) Move(ctx context.Context) error {
	if err := s.c.Cluster.Drain(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.moving = true
	entries := s.leaveAll()
	s.mu.Unlock()
	for _, e := range entries {
		e.stop(errMoving)
	}
	for _, e := range entries {
		select {
		case <-e.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Uncordon undoes Move: the node takes documents again.
func (s *Server) Uncordon() {
	s.mu.Lock()
	s.moving = false
	s.mu.Unlock()
	s.c.Cluster.Uncordon() // only now: whom the others send here is served
}

// leaveAll lets no document take new users. s.mu is held.
func (s *Server) leaveAll() []*entry {
	var entries []*entry
	for _, e := range s.documents {
		e.leaving = true
		entries = append(entries, e)
	}
	return entries
}

// Rebalance unloads the documents that nobody uses and that another node should have,
// as after nodes came; it returns how many.
func (s *Server) Rebalance() int {
	type loaded struct {
		key documentKey
		e   *entry
	}
	var idle []loaded
	s.mu.Lock()
	for key, e := range s.documents {
		if e.users == 0 && !e.over() {
			idle = append(idle, loaded{key, e})
		}
	}
	s.mu.Unlock()
	moved := 0
	for _, one := range idle {
		if !s.c.Cluster.Prefers(placed(one.key)) {
			s.unload(one.e)
			moved++
		}
	}
	return moved
}

func placed(k documentKey) cluster.Document { return cluster.Document{Tenant: k.tenantID, ID: k.id} }

// claim makes this node the document's, before anything of it is read.
func (s *Server) claim(ctx context.Context, k documentKey) error {
	if s.c.Cluster == nil {
		return nil
	}
	return s.c.Cluster.Claim(ctx, placed(k))
}

// disown lets other nodes have the document. If the store does not answer, they have it
// when they ask us for it and we serve it again, or when we are gone.
func (s *Server) disown(k documentKey) {
	if s.c.Cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), disownWithin)
	defer cancel()
	if err := s.c.Cluster.Release(ctx, placed(k)); err != nil {
		s.c.Log.WarnContext(ctx, "document not given up; it stays placed on this node", "tenant_id", k.tenantID, "document_id", k.id, "err", err)
	}
}

const disownWithin = 2 * time.Second

// isElsewhere says that this node cannot serve a document now, and another one may.
func isElsewhere(err error) bool {
	var elsewhere *cluster.ElsewhereError
	return errors.As(err, &elsewhere) || errors.Is(err, cluster.ErrCutOff) || errors.Is(err, errMoving) || errors.Is(err, errPeer)
}

// nodeOf returns the node that r is to be passed on to; false if it is to be served
// here, and also when that cannot be found out: then serving it fails, and says why.
func (s *Server) nodeOf(r *http.Request, k documentKey) (cluster.Member, bool) {
	if s.c.Cluster == nil || r.Header.Get(forwardedHeader) != "" || k.tenantID == "" || k.id == "" {
		return cluster.Member{}, false
	}
	s.mu.Lock()
	e := s.documents[k]
	over := e != nil && e.over()
	s.mu.Unlock()
	if e != nil && !over {
		return cluster.Member{}, false // it is here
	}
	m, err := s.c.Cluster.Locate(r.Context(), placed(k))
	if err == nil && over && m.Self { // it is on its way out, and may be anywhere after that
		select {
		case <-e.gone:
			m, err = s.c.Cluster.Locate(r.Context(), placed(k))
		case <-r.Context().Done():
			return cluster.Member{}, false
		}
	}
	if err != nil {
		if !errors.Is(err, cluster.ErrCutOff) && r.Context().Err() == nil {
			s.c.Log.WarnContext(r.Context(), "document not located", "err", err)
		}
		return cluster.Member{}, false
	}
	return m, !m.Self
}

// passOn has another node answer r. It returns errPeer, and nothing is written, if that
// node does not; the body of r may then be gone.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, to cluster.Member) (err error) {
	target, err := url.Parse(to.URL)
	if err != nil {
		return errPeer
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-s.c.Cluster.Gone(to.ID): // a node that is paused would keep its sockets
		case <-s.serving.Done():
		case <-ctx.Done():
		}
	}()
	correlation := w.Header().Get(correlationHeader)
	saved := w.Header().Clone()
	clear(w.Header()) // the other node sets its own, the same
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host // discovery answers with where the client came in
			p.Out.Header.Set("X-Forwarded-Proto", schemeOf(p.In))
			p.Out.Header.Set(correlationHeader, correlation)
			p.Out.Header.Set(forwardedHeader, s.c.Cluster.ID())
		},
		Transport:     s.peers,
		FlushInterval: -1,
		ErrorLog:      s.proxyLog,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, failed error) {
			if r.Context().Err() == nil {
				s.c.Log.WarnContext(r.Context(), "request not passed on", "node", to.ID, "url", to.URL, "err", failed)
			}
			err = errPeer
		},
	}
	kind := forwardedREST
	if isUpgrade(r) {
		kind = forwardedSocket
	}
	s.m.forwarded[kind].Inc()
	proxy.ServeHTTP(w, r.WithContext(ctx))
	if err != nil {
		for name, values := range saved {
			w.Header()[name] = values
		}
	}
	return err
}

// answeredElsewhere has the document's node answer a call, if that is another one. False
// if it did not: then it is to be answered here.
func (s *Server) answeredElsewhere(c *call) bool {
	to, elsewhere := s.nodeOf(c.r, documentKey{c.tenant.ID, c.documentID()})
	if !elsewhere {
		return false
	}
	// The call as it was unwrapped and read: a plain one of its own.
	r := c.r.Clone(c.r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(c.body)), int64(len(c.body))
	r.TransferEncoding = nil
	r.Header.Del("Content-Length")
	return s.passOn(c.w, r, to) == nil
}

func isUpgrade(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }

// schemeOf is how the client came in; see sessionAt.
func schemeOf(r *http.Request) string {
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		return "https"
	}
	return "http"
}

// session is where clients are told to find a document that is served here.
func (s *Server) session(r *http.Request) sessionInfo {
	if s.c.Cluster != nil && s.c.DirectNodes {
		return sessionOn(s.c.Cluster.URL())
	}
	return sessionAt(r)
}

// newSession is where clients are told to find a document that was just made.
func (s *Server) newSession(r *http.Request, k documentKey) sessionInfo {
	if s.c.Cluster != nil && s.c.DirectNodes {
		if m, err := s.c.Cluster.Locate(r.Context(), placed(k)); err == nil {
			return sessionOn(m.URL)
		}
	}
	return sessionAt(r)
}

func sessionOn(base string) sessionInfo {
	return sessionInfo{Orderer: base, Historian: base, Stream: base}
}

// PeerTransport reaches other nodes, whose certificates are checked as the system says.
func PeerTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.DisableCompression = true // bodies are passed on as they are
	t.MaxIdleConnsPerHost = 256
	return t
}
