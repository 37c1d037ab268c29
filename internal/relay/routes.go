package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// The scopes of tokens. Source: ScopeType of the Fluid protocol definitions.
const (
	docRead      = "doc:read"
	docWrite     = "doc:write"
	summaryWrite = "summary:write"
	docDelete    = "doc:delete"
	tokenRevoke  = "token:revoke"
)

// face says how a route is opened: the service has two, and they carry the token
// in different forms.
type face uint8

const (
	openFace    face = iota // needs no token
	ordererFace             // Authorization: Basic <jwt>
	storageFace             // Authorization: Basic base64(<tenant>:<jwt>); the document is the token's
)

// Limits of request bodies, unwrapped. largeBody stands for what an upload may
// take, which is configured.
const (
	noBody    = 0
	smallBody = 64 << 10
	largeBody = -1
)

// Deadlines for reading a request, working on it and writing the answer.
const (
	quick = 30 * time.Second
	slow  = 5 * time.Minute // what carries a summary or a blob, over a thin line
)

// route is one row of the attack surface. The order of checks is the row's: token,
// its scopes, the tenant's rate, body, handler.
type route struct {
	method, path string
	face         face
	scopes       []string // "doc:delete" and "token:revoke" have checks of their own
	body         int64    // limit in bytes
	deadline     time.Duration
	handle       func(*Server, *call) error
}

var (
	toRead      = []string{docRead}
	toWrite     = []string{docRead, docWrite}
	toSummarize = []string{docRead, docWrite, summaryWrite}
)

// restRoutes are all REST routes. {id} is the document, where the path names one.
var restRoutes = []route{
	{"POST", "/documents/{tenant}", ordererFace, toWrite, largeBody, slow, (*Server).createDocument},
	{"GET", "/documents/{tenant}/{id}", ordererFace, toRead, noBody, quick, (*Server).getDocument},
	{"GET", "/documents/{tenant}/session/{id}", ordererFace, toRead, noBody, quick, (*Server).getSession},
	{"DELETE", "/documents/{tenant}/document/{id}", ordererFace, toWrite, noBody, quick, (*Server).deleteDocument},
	{"POST", "/documents/{tenant}/document/{id}/revokeToken", ordererFace, toWrite, smallBody, quick, (*Server).revokeToken},
	{"GET", "/deltas/{tenant}/{id}", ordererFace, toRead, noBody, slow, (*Server).getDeltas},
	// No current client calls these. v1 adds what a summary's log tail has, raw is what
	// was not sequenced yet: here the log has every op, and no op before its number.
	{"GET", "/deltas/v1/{tenant}/{id}", ordererFace, toRead, noBody, slow, (*Server).getDeltas}, // see deltasPath
	{"GET", "/deltas/raw/{tenant}/{id}", ordererFace, toRead, noBody, slow, (*Server).getDeltas},
	{"POST", "/api/v1/{tenant}/{id}/broadcast-signal", ordererFace, toWrite, smallBody, quick, (*Server).broadcastSignal},

	{"POST", "/repos/{tenant}/git/blobs", storageFace, toWrite, largeBody, slow, (*Server).postBlob},
	{"GET", "/repos/{tenant}/git/blobs/{sha}", storageFace, toRead, noBody, slow, (*Server).getBlob},
	{"GET", "/repos/{tenant}/git/trees/{sha}", storageFace, toRead, noBody, slow, (*Server).getTree},
	{"GET", "/repos/{tenant}/git/commits/{sha}", storageFace, toRead, noBody, quick, (*Server).getCommit},
	{"POST", "/repos/{tenant}/git/trees", storageFace, toWrite, largeBody, slow, (*Server).postTree},
	{"GET", "/repos/{tenant}/git/refs", storageFace, toRead, noBody, quick, (*Server).getRefs},
	{"GET", "/repos/{tenant}/git/refs/{ref...}", storageFace, toRead, noBody, quick, (*Server).getRef},
	{"GET", "/repos/{tenant}/commits", storageFace, toRead, noBody, quick, (*Server).getCommits},
	{"POST", "/repos/{tenant}/git/summaries", storageFace, toSummarize, largeBody, slow, (*Server).postSummary},
	{"GET", "/repos/{tenant}/git/summaries/{version}", storageFace, toRead, noBody, slow, (*Server).getSummary},
	{"DELETE", "/repos/{tenant}/git/summaries", storageFace, toSummarize, noBody, quick, (*Server).deleteSummaries},

	{"GET", "/api/v1/ping", openFace, nil, noBody, quick, (*Server).ping},
	{"GET", "/repos/ping", openFace, nil, noBody, quick, (*Server).ping},
	{"GET", "/healthz/startup", openFace, nil, noBody, quick, (*Server).ping},
	{"GET", "/livez", openFace, nil, noBody, quick, (*Server).ping},
	{"GET", "/healthz/ready", openFace, nil, noBody, quick, (*Server).ready},
	{"GET", "/readyz", openFace, nil, noBody, quick, (*Server).ready},
}

func (r *route) pattern() string { return r.method + " " + r.path }

// opens says whether the row's handler opens the document, which only its node can.
func (r *route) opens() bool {
	return r.face == storageFace || strings.HasPrefix(r.path, "/deltas/") ||
		strings.HasPrefix(r.path, "/documents/{tenant}/session/") || strings.HasSuffix(r.path, "/broadcast-signal")
}

// localRoutes are the REST routes that only the tenants of local mode have; without
// local mode they are not there.
var localRoutes = []route{
	{"POST", "/{tenant}/{id}/broadcast-signal", ordererFace, toWrite, smallBody, quick, (*Server).broadcastSignal},
}

// call is one REST request that passed the checks of its route.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	tenant Tenant
	claims claims
	token  string // as sent; for what must be used once
	body   []byte
}

// documentID is the document a call is about: the path's on the orderer face,
// where it equals the token's, and the token's on the storage face.
func (c *call) documentID() string { return c.claims.DocumentID }

// routes returns the handler of the relay listener.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for i := range restRoutes {
		row := &restRoutes[i]
		mux.HandleFunc(row.pattern(), s.observed(row.pattern(), func(w *answer, r *http.Request) { s.serveREST(row, w, r) }))
	}
	s.addLocalRoutes(mux)
	mux.HandleFunc("/", s.observed(otherLabel, notFound))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/socket.io/") {
			// Polling is plain HTTP from any origin; what it takes of methods, bodies and
			// time is up to socketio.
			if answerFraming(w, r) {
				s.serveSocket(w, r)
			}
			return
		}
		setDeadline(w, quick)
		if !answerFraming(w, r) {
			return
		}
		if isRestLess(r) {
			// The fields before the body are small; the body is read by the route.
			if err := unwrapRestLess(r); err != nil {
				s.observed(otherLabel, func(w *answer, r *http.Request) { s.answerError(w, r, err) })(w, r)
				return
			}
			if id := r.Header.Get(correlationHeader); isCorrelationID(id) {
				w.Header().Set(correlationHeader, id)
			}
		}
		r.URL.Path, r.URL.RawPath = deltasPath(r.URL.Path), deltasPath(r.URL.RawPath)
		mux.ServeHTTP(w, r)
	})
}

// deltasPath turns /deltas/{tenant}/{id}/v1 into /deltas/v1/{tenant}/{id}, which
// means the same. The mux takes only one of them: with a tenant or document called
// v1 either could be meant.
func deltasPath(path string) string {
	rest, ok := strings.CutPrefix(path, "/deltas/")
	if !ok || strings.Count(rest, "/") != 2 {
		return path
	}
	if names, ok := strings.CutSuffix(rest, "/v1"); ok {
		return "/deltas/v1/" + names
	}
	return path
}

const correlationHeader = "X-Correlation-Id"

// answerFraming sets the headers that every answer has, and answers preflights
// (false). Any origin may call: what opens a document is its token, never a cookie.
func answerFraming(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	id := r.Header.Get(correlationHeader)
	if !isCorrelationID(id) {
		id = newUUID()
	}
	h.Set(correlationHeader, id)
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodOptions {
		setDeadline(w, quick)
		h.Set("Access-Control-Allow-Methods", "GET,HEAD,PUT,PATCH,POST,DELETE")
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Set("Access-Control-Allow-Headers", asked)
			h.Add("Vary", "Access-Control-Request-Headers")
		}
		w.WriteHeader(http.StatusNoContent)
		return false
	}
	h.Set("Access-Control-Expose-Headers", "Content-Encoding, Content-Length, Content-Type")
	h.Set("Timing-Allow-Origin", "*")
	// What a customer's key protects is in no cache unless a route says so.
	h.Set("Cache-Control", noStore)
	return true
}

// isCorrelationID says whether a client's correlation id is fit for a header and a log.
func isCorrelationID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	return !strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' })
}

func setDeadline(w http.ResponseWriter, d time.Duration) {
	c, at := http.NewResponseController(w), time.Now().Add(d)
	// Writers of tests have no deadlines; those of net/http always do.
	_ = c.SetReadDeadline(at)
	_ = c.SetWriteDeadline(at)
}

// serveREST runs one row: token, scopes, rate, body, handler.
func (s *Server) serveREST(row *route, w *answer, r *http.Request) {
	setDeadline(w, row.deadline)
	ctx, cancel := context.WithTimeout(r.Context(), row.deadline)
	defer cancel()
	c := &call{w: w, r: r.WithContext(ctx)}
	err := s.authorize(row, c)
	if err == nil && row.face != openFace {
		err = s.usage.of(c.tenant.ID).takeRequest()
	}
	if err == nil {
		w.tenantID, w.documentID = c.tenant.ID, c.claims.DocumentID
		var done func()
		if done, err = s.readCall(row, c); err == nil {
			defer done()
		}
	}
	if err == nil && (!row.opens() || !s.answeredElsewhere(c)) {
		err = row.handle(s, c)
	}
	if err != nil {
		// Read on what the client still sends, however much, for as long as the call may
		// take: a connection that closes meanwhile looks like a network failure. 401 would not
		// make the client renew its token, and what is too large would come again and again.
		_, _ = io.Copy(io.Discard, c.r.Body)
		setDeadline(w, quick)
		s.answerError(w, c.r, err)
	}
}

// readCall reads the body of a call. A large one takes its place among the uploads
// until done is called.
func (s *Server) readCall(row *route, c *call) (done func(), err error) {
	if row.body != largeBody {
		c.body, err = readBody(c.r, row.body)
		return func() {}, err
	}
	limit := s.c.Limits.uploadBody()
	if c.r.ContentLength > limit { // before it waits
		return nil, &http.MaxBytesError{Limit: limit}
	}
	held, err := s.takeUpload(c.r.Context(), s.usage.of(c.tenant.ID), bodyBound(c.r, limit))
	if err != nil {
		return nil, err
	}
	if c.body, err = readBody(c.r, limit); err != nil {
		held.release()
		return nil, err
	}
	held.shrink(int64(len(c.body)))
	return held.release, nil
}

// readBody reads a body of at most limit bytes.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	if limit == noBody {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	var malformed *restError
	switch {
	case errors.As(err, &malformed):
		return nil, err
	case err != nil:
		return nil, badRequestf("The request body could not be read to its end.")
	case int64(len(b)) > limit:
		return nil, &http.MaxBytesError{Limit: limit}
	}
	return b, nil
}

func notFound(w *answer, _ *http.Request) {
	answerJSON(w, http.StatusNotFound, map[string]string{"error": `{"status":404}`, "message": "Not Found"})
}

// ping says that the process is there.
func (s *Server) ping(c *call) error {
	answerText(c.w, http.StatusOK, "OK")
	return nil
}
