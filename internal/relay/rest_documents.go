package relay

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
)

// sessionInfo tells a client where a document is served. Source: ISession of the
// Fluid services client. Clients read only the three URLs.
type sessionInfo struct {
	Orderer   string `json:"ordererUrl"`
	Historian string `json:"historianUrl"`
	Stream    string `json:"deltaStreamUrl"`
	Alive     bool   `json:"isSessionAlive"`
	Active    bool   `json:"isSessionActive"`
}

// sessionAt is a session served where r came in. The client reached us there, so it
// will again: behind a proxy the scheme is what the proxy says, the host what it
// passed on. The answer is cached by nobody, so whoever forges the header fools
// only himself.
func sessionAt(r *http.Request) sessionInfo {
	return sessionOn(schemeOf(r) + "://" + r.Host)
}

// createDocument answers POST /documents/{tenant}. The id is new, unless the document
// comes from elsewhere; see requestedID.
func (s *Server) createDocument(c *call) error {
	var in struct {
		ID              string          `json:"id"`
		Summary         json.RawMessage `json:"summary"`
		SequenceNumber  sequencer.Seq   `json:"sequenceNumber"`
		Values          json.RawMessage `json:"values"`
		EnableDiscovery bool            `json:"enableDiscovery"`
		GenerateToken   bool            `json:"generateToken"`
		Ephemeral       bool            `json:"isEphemeralContainer"`
		AnyBinary       bool            `json:"enableAnyBinaryBlobOnFirstSummary"`
	}
	if err := decodeBody(c.body, &in); err != nil {
		return err
	}
	if len(in.Summary) == 0 {
		return badRequestf("The request body has no summary.")
	}
	id, err := requestedID(c.claims, in.ID)
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	_, local := s.localTenant(c.tenant.ID)
	if err := s.c.Custody.Admit(ctx, c.tenant.Resource); err != nil {
		return whileConnecting(err)
	}
	if err := s.useToken(ctx, c); err != nil {
		return err
	}
	made := newDocument{history.Initial{
		Summary:        in.Summary,
		SequenceNumber: in.SequenceNumber,
		Values:         in.Values,
		AnyBinary:      in.AnyBinary,
		Flat:           local,
	}, in.Ephemeral}
	if id == "" {
		id, err = s.create(ctx, c.tenant, made)
	} else {
		err = s.createAs(ctx, c.tenant, id, made)
	}
	if err != nil {
		// Only where nothing can have been made: else a repetition could make a second one.
		if createdNothing(err) {
			err = errors.Join(err, s.releaseToken(ctx, c))
		}
		return whileConnecting(err)
	}
	// Local mode has no sessions to discover and no key to sign with.
	if local || !in.EnableDiscovery && !in.GenerateToken {
		answerJSON(c.w, http.StatusCreated, id)
		return nil
	}
	answer := struct {
		ID      string       `json:"id"`
		Token   string       `json:"token,omitempty"`
		Session *sessionInfo `json:"session,omitempty"`
	}{ID: id}
	if in.GenerateToken {
		if answer.Token, err = creationToken(c.tenant, id, c.claims); err != nil {
			return err
		}
	}
	if in.EnableDiscovery {
		session := s.newSession(c.r, documentKey{c.tenant.ID, id})
		answer.Session = &session
	}
	answerJSON(c.w, http.StatusCreated, answer)
	return nil
}

// createdNothing says that create failed before it wrote anything of a document.
func createdNothing(err error) bool {
	var key *custody.UnusableError
	return errors.Is(err, history.ErrBadSummary) || errors.Is(err, errDraining) || errors.As(err, &key) ||
		errors.Is(err, errIDExists) || errors.Is(err, errIDDeleted)
}

// whileConnecting marks a lost key as met by a client on its way in.
func whileConnecting(err error) error {
	var key *custody.UnusableError
	if errors.As(err, &key) {
		return keyError{key}
	}
	return err
}

// decodeBody decodes a JSON body into a struct.
func decodeBody(body []byte, v any) error {
	var kind *json.UnmarshalTypeError
	switch err := json.Unmarshal(body, v); {
	case errors.As(err, &kind) && kind.Field != "":
		return badRequestf("Failed to parse json body: %s is a %s.", kind.Field, kind.Value)
	case err != nil:
		return badRequestf("Failed to parse json body")
	}
	return nil
}

// getDocument answers GET /documents/{tenant}/{id}, which no current client calls,
// with what clients could find out otherwise.
func (s *Server) getDocument(c *call) error {
	ctx := c.r.Context()
	if err := s.c.Custody.Admit(ctx, c.tenant.Resource); err != nil {
		return err
	}
	r, _, err := s.record(ctx, c.tenant.ID, c.documentID())
	if errors.Is(err, errUnknownDocument) {
		return &restError{http.StatusNotFound, "Document not found."}
	}
	if err != nil {
		return err
	}
	answerJSON(c.w, http.StatusOK, struct {
		ID         string      `json:"documentId"`
		TenantID   string      `json:"tenantId"`
		CreateTime int64       `json:"createTime"` // milliseconds since 1970
		Version    string      `json:"version"`
		Session    sessionInfo `json:"session"`
	}{r.ID, c.tenant.ID, r.CreatedAt.UnixMilli(), "0.1", s.newSession(c.r, documentKey{c.tenant.ID, c.documentID()})})
	return nil
}

// getSession answers GET /documents/{tenant}/session/{id}. Its 404 is what makes
// opening an unknown document fail cleanly. Opening the document here spares the
// client, who comes back at once, the wait.
func (s *Server) getSession(c *call) error {
	d, release, err := s.open(c.r.Context(), c.tenant, c.documentID())
	if err != nil {
		return whileConnecting(err)
	}
	defer release()
	session := s.session(c.r)
	session.Alive, session.Active = true, d.active()
	answerJSON(c.w, http.StatusOK, session)
	return nil
}

// deleteDocument answers DELETE /documents/{tenant}/document/{id}. It needs no
// customer key, and deleting what is gone is done.
func (s *Server) deleteDocument(c *call) error {
	if !c.claims.has(docDelete) {
		return errNoDeleteScope
	}
	if _, _, err := s.remove(c.r.Context(), c.tenant, c.documentID()); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// revokeToken answers POST …/revokeToken: tokens of this document with the jti in
// the body open nothing any more, and the sockets they opened are cut. It needs no
// customer key. Whether there ever was such a token is not known here. Source for
// the answer: ITokenRevocationResponse of the Fluid services core.
func (s *Server) revokeToken(c *call) error {
	if !c.claims.has(tokenRevoke) {
		return errNoRevokeScope
	}
	var in struct {
		JTI string `json:"jti"`
	}
	if err := decodeBody(c.body, &in); err != nil {
		return err
	}
	if in.JTI == "" {
		return badRequestf("Missing jti in request body.")
	}
	if c.r.Header.Get(correlationHeader) == "" {
		return badRequestf("Missing x-correlation-id header.")
	}
	if err := s.revoke(c.r.Context(), c.tenant, c.documentID(), in.JTI); err != nil {
		return err
	}
	answerJSON(c.w, http.StatusOK, struct {
		RequestID string `json:"requestId"`
	}{c.w.Header().Get(correlationHeader)})
	return nil
}

// One answer to GET /deltas has at most so much. Clients take a shorter one and ask
// again.
const (
	maxDeltas      = 2000
	maxDeltasBytes = 4 << 20
)

// getDeltas answers GET /deltas/{tenant}/{id}?from=&to=, bounds exclusive. An
// unknown document has no ops.
func (s *Server) getDeltas(c *call) error {
	d, release, err := s.open(c.r.Context(), c.tenant, c.documentID())
	if errors.Is(err, errUnknownDocument) {
		answerJSON(c.w, http.StatusOK, []struct{}{})
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	query := c.r.URL.Query()
	from, to := deltaWindow(query.Get("from"), query.Get("to"))
	d.claim(from)
	ops, err := d.store().Ops(c.r.Context(), from, to, maxDeltas, maxDeltasBytes)
	if err != nil {
		return err
	}
	answerBytes(c.w, http.StatusOK, "application/json; charset=utf-8", ops)
	return nil
}

// deltaWindow is the reference's rule for bounds that are missing or no numbers.
func deltaWindow(fromText, toText string) (from, to sequencer.Seq) {
	f, fromErr := strconv.ParseInt(fromText, 10, 64)
	t, toErr := strconv.ParseInt(toText, 10, 64)
	switch {
	case fromErr != nil && toErr != nil:
		f, t = 0, maxDeltas+1
	case fromErr != nil:
		f = max(0, max(0, t)-maxDeltas-1)
	case toErr != nil:
		t = min(f, math.MaxInt64-maxDeltas-1) + maxDeltas + 1
	}
	return sequencer.Seq(f), sequencer.Seq(t)
}

// broadcastSignal answers POST /api/v1/{tenant}/{id}/broadcast-signal: every
// session gets the content as a runtime message.
func (s *Server) broadcastSignal(c *call) error {
	var in struct {
		Content struct {
			Contents *struct {
				Type    json.RawMessage `json:"type"`
				Content json.RawMessage `json:"content"`
			} `json:"contents"`
		} `json:"signalContent"`
	}
	if err := decodeBody(c.body, &in); err != nil {
		return err
	}
	contents := in.Content.Contents
	if contents == nil || contents.Type == nil || contents.Content == nil {
		return badRequestf("signalContent must contain 'contents.content' and 'contents.type' keys.")
	}
	d, release, err := s.open(c.r.Context(), c.tenant, c.documentID())
	if err != nil {
		return err
	}
	defer release()
	if !d.active() {
		return &restError{http.StatusGone, "Document session not active"}
	}
	message := encode(struct {
		Type     string `json:"type"`
		Contents any    `json:"contents"`
	}{"RuntimeMessage", contents})
	d.broadcastSignal(encode(string(message)))
	answerJSON(c.w, http.StatusOK, "OK")
	return nil
}
