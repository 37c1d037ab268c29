package arm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// answer writes the headers, the body or the error of one request.
type answer struct {
	w           http.ResponseWriter
	c           Config
	requestID   string
	correlation string
	caller      Caller
	fromService bool // the request reached a provider
	event       Event
}

// idPattern is what a client's own request ids may look like; others are not echoed.
var idPattern = regexp.MustCompile(`^[0-9a-zA-Z-]{1,64}$`)

func newAnswer(w http.ResponseWriter, r *http.Request, c Config) *answer {
	a := &answer{w: w, c: c, requestID: newGUID()}
	a.event.At = time.Now()
	a.correlation = a.requestID
	if id := r.Header.Get("x-ms-correlation-request-id"); idPattern.MatchString(id) {
		a.correlation = id
	}
	h := w.Header()
	h.Set("x-ms-request-id", a.requestID)
	h.Set("x-ms-correlation-request-id", a.correlation)
	h.Set("x-ms-routing-request-id", "TIDELOCK:"+a.requestID)
	client := r.Header.Get("x-ms-client-request-id")
	if strings.EqualFold(r.Header.Get("x-ms-return-client-request-id"), "true") && idPattern.MatchString(client) {
		h.Set("x-ms-client-request-id", client)
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "-1")
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	h.Set("X-Content-Type-Options", "nosniff")
	// Nothing is throttled here, so what remains is always the whole of ARM's allowance.
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.Set("x-ms-ratelimit-remaining-subscription-reads", "11999")
	case http.MethodDelete:
		h.Set("x-ms-ratelimit-remaining-subscription-deletes", "14999")
	default:
		h.Set("x-ms-ratelimit-remaining-subscription-writes", "1199")
	}
	return a
}

func (a *answer) succeed(r *http.Request, resp *Response) {
	if resp == nil {
		resp = &Response{}
	}
	if resp.Status == 0 {
		resp.Status = http.StatusOK
	}
	if resp.ETag != "" {
		a.w.Header().Set("ETag", resp.ETag)
	}
	if resp.Poll != "" {
		a.w.Header().Set("Location", "https://"+r.Host+resp.Poll)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a.c.Log.InfoContext(r.Context(), "management request done", a.attrs(r, resp.Status)...)
	}
	a.record(r, resp.Status, nil)
	if err := writeJSON(a.w, resp.Status, resp.Body); err != nil {
		a.fail(r, err)
	}
}

// record tells of a write before it is answered, so that whoever has the answer finds it in the log.
func (a *answer) record(r *http.Request, status int, err *Error) {
	if !a.fromService || a.c.Record == nil || a.event.ID.Subscription == "" || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return
	}
	e := a.event
	e.Done, e.Caller, e.Method, e.Status, e.Error = time.Now(), a.caller, r.Method, status, err
	e.RequestID, e.Correlation = a.requestID, a.correlation
	if id := r.Header.Get("x-ms-client-request-id"); idPattern.MatchString(id) {
		e.ClientID = id
	}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		e.Address = at.Addr().Unmap().String()
	}
	a.event = Event{} // once
	a.c.Record(context.WithoutCancel(r.Context()), e)
}

func (a *answer) attrs(r *http.Request, status int) []any {
	return []any{
		"method", r.Method, "path", truncate(r.URL.Path), "status", status, "object_id", a.caller.ObjectID,
		"request_id", a.requestID, "correlation_id", a.correlation,
	}
}

// fail answers with err: as it is if it is an *Error, else as an internal error
// whose cause only the log has.
func (a *answer) fail(r *http.Request, err error) {
	var e *Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		e = &Error{Status: 499, Code: "ClientClosedRequest", Message: "The client closed the request."}
	default:
		e = &Error{Status: 500, Code: "InternalServerError", Message: fmt.Sprintf("An internal error occurred. The server's log has its cause under request id %s.", a.requestID), Cause: err}
	}
	attrs := append(a.attrs(r, e.Status), "code", e.Code)
	if e.Cause != nil {
		attrs = append(attrs, "err", e.Cause)
	}
	if e.Status >= 500 {
		a.c.Log.ErrorContext(r.Context(), "management request failed", attrs...)
	} else {
		a.c.Log.InfoContext(r.Context(), "management request refused", attrs...)
	}
	a.record(r, e.Status, e)
	cause := "gateway"
	if a.fromService {
		cause = "service"
	}
	a.w.Header().Set("x-ms-failure-cause", cause)
	if e.Status == http.StatusUnauthorized {
		a.w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization_uri="%s", error="invalid_token", error_description="%s"`, a.c.LoginURL(r, subscriptionOf(r)), quotable(e.Message)))
	}
	WriteError(a.w, e)
}

// subscriptionOf is the subscription that a request's path names, whatever it is.
func subscriptionOf(r *http.Request) string {
	path, err := splitPath(r.URL.EscapedPath())
	if err != nil {
		return ""
	}
	id, _ := inPath(path, 0, "subscriptions")
	return id
}

// quotable is s fit for a quoted string of a header.
func quotable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '"' || c == '\\' || c < 0x20 || c > 0x7e {
			return '\''
		}
		return c
	}, s)
}

// WriteError answers with the error envelope. For handlers that are not behind a
// Router.
func WriteError(w http.ResponseWriter, e *Error) {
	body := struct {
		Error *Error `json:"error"`
	}{e}
	if err := writeJSON(w, e.Status, body); err != nil {
		w.WriteHeader(http.StatusInternalServerError) // an *Error is always encodable; nothing was written yet
	}
}

// writeJSON writes nothing when body cannot be encoded.
func writeJSON(w http.ResponseWriter, status int, body any) error {
	if body == nil {
		w.WriteHeader(status)
		return nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // key URLs and filters come back as they were sent
	if err := enc.Encode(body); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	// A client that is gone is not an error of ours.
	_, _ = w.Write(b.Bytes())
	return nil
}

// newGUID returns a random GUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	// crypto/rand.Read never returns an error.
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
