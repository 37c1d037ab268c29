package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/store"
)

// noStore is for what may change or be revoked.
const noStore = "no-store, max-age=0"

// restError is an error with the answer it gets: a bare JSON string, as the
// reference's simple errors.
type restError struct {
	status  int
	message string
}

func (e *restError) Error() string { return e.message }

func badRequestf(format string, args ...any) error {
	return &restError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// restDetail is the body of errors with detail. Source: NetworkError of the Fluid
// services client.
//
// Drivers take every status but 401, 429, 500 and 502 for final, unless the body is
// an object with retryAfter; so each 503 has one. (They read it as milliseconds
// there, and as seconds in a 429; retryAfterMs and the header tell the truth.)
type restDetail struct {
	Message      string `json:"message"`
	Code         string `json:"code,omitempty"`
	CanRetry     bool   `json:"canRetry"`
	IsFatal      bool   `json:"isFatal"`
	RetryAfter   int64  `json:"retryAfter,omitempty"` // seconds
	RetryAfterMS int64  `json:"retryAfterMs,omitempty"`
	InternalCode string `json:"internalErrorCode,omitempty"`
}

// keyError is a *custody.UnusableError on a route that clients come to before they
// are connected: there a revoked key makes them wait and keep what they have not
// sent, where reading and writing content is refused at once.
type keyError struct{ *custody.UnusableError }

func (e keyError) Unwrap() error { return e.UnusableError }

// answerError is the one place where errors become answers of the REST face.
func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) {
	var (
		plain  *restError
		auth   *authError
		large  *http.MaxBytesError
		key    *custody.UnusableError
		held   keyError
		ended  *endedError
		full   *throttledError
		gone   *history.TrimmedError
		detail restDetail
	)
	switch {
	case errors.As(err, &gone):
		// Final for drivers, as it should be: their state is too old to catch up.
		answerJSON(w, http.StatusGone, fmt.Sprintf("The ops up to %d are no longer kept: load the newest version of the document.", gone.To))
	case errors.As(err, &plain):
		answerJSON(w, plain.status, plain.message)
	case errors.As(err, &auth):
		answerJSON(w, auth.Status, auth.Message)
	case errors.As(err, &full):
		answerThrottled(w, full.retryAfter)
	case errors.As(err, &large):
		answerJSON(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is larger than %d bytes.", large.Limit))
	case errors.Is(err, history.ErrBadSummary):
		// Without what we were doing and where: the client knows.
		_, why, _ := strings.Cut(err.Error(), history.ErrBadSummary.Error()+": ")
		answerJSON(w, http.StatusBadRequest, "The summary cannot be stored: "+why)
	case errors.Is(err, history.ErrNotFound):
		answerJSON(w, http.StatusNotFound, "The requested object does not exist in this document.")
	// store.ErrNotFound: the document's key was destroyed while it was in use.
	case errors.Is(err, errUnknownDocument), errors.Is(err, store.ErrNotFound):
		answerJSON(w, http.StatusNotFound, "Document is deleted and cannot be accessed.")
	case errors.As(err, &key):
		answerUnusable(w, key, errors.As(err, &held))
	case errors.Is(err, errDraining):
		detail = restDetail{Message: "Server is shutting down", InternalCode: "ClusterDraining"}
		answerLater(w, detail, 2*time.Second)
	case isElsewhere(err):
		answerLater(w, restDetail{Message: "Document is moving to another node"}, time.Second)
	case errors.As(err, &ended), errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrClosed):
		answerLater(w, restDetail{Message: "Document is being reloaded"}, time.Second)
	case errors.Is(err, context.Canceled):
		// The client went away; nobody reads an answer.
	case errors.Is(err, context.DeadlineExceeded):
		answerLater(w, restDetail{Message: "The request took too long"}, time.Second)
	default:
		s.c.Log.ErrorContext(r.Context(), "request failed",
			"route", r.Pattern, "tenant_id", r.PathValue("tenant"), "correlation_id", w.Header().Get(correlationHeader), "err", err)
		answerJSON(w, http.StatusInternalServerError, "Internal Server Error")
	}
}

// answerUnusable says that the document's key cannot be used. held: the client has
// not connected yet, see keyError.
func answerUnusable(w http.ResponseWriter, e *custody.UnusableError, held bool) {
	detail := restDetail{Code: keyCode(e), Message: "The key store that holds this relay's customer-managed key does not answer."}
	switch {
	case e.Checking:
		detail.Message = "It is being checked whether the customer-managed key of this relay may still be used."
	case e.Revoked:
		detail.Message = "The customer-managed key of this relay cannot be used (" + e.Reason + "): its owner must make it usable again."
		if !held || e.Close {
			detail.IsFatal = true
			answerJSON(w, http.StatusForbidden, detail)
			return
		}
	}
	answerLater(w, detail, e.RetryAfter)
}

// answerLater is a 503 with the time to wait: without it drivers close the
// container.
func answerLater(w http.ResponseWriter, detail restDetail, wait time.Duration) {
	wait = max(wait, time.Second)
	detail.CanRetry = true
	detail.RetryAfter = int64((wait + time.Second - 1) / time.Second)
	detail.RetryAfterMS = wait.Milliseconds()
	w.Header().Set("Retry-After", strconv.FormatInt(detail.RetryAfter, 10))
	answerJSON(w, http.StatusServiceUnavailable, detail)
}

// answerThrottled is a 429. Drivers wait retryAfter seconds and try again, without
// limit; they do not read the header.
func answerThrottled(w http.ResponseWriter, wait time.Duration) {
	seconds := int64(wait / time.Second)
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	answerJSON(w, http.StatusTooManyRequests, struct {
		Code       int    `json:"code"`
		Type       string `json:"type"`
		Message    string `json:"message"`
		RetryAfter int64  `json:"retryAfter"` // seconds
	}{http.StatusTooManyRequests, throttling, throttledMessage, seconds})
}

const jsonType = "application/json; charset=utf-8"

func answerJSON(w http.ResponseWriter, status int, v any) {
	answerBytes(w, status, jsonType, encode(v))
}

func answerText(w http.ResponseWriter, status int, text string) {
	answerBytes(w, status, "text/plain; charset=utf-8", []byte(text))
}

func answerBytes(w http.ResponseWriter, status int, contentType string, b []byte) {
	answerHeader(w, status, contentType, len(b))
	_, _ = w.Write(b) // the client went away: nobody to tell
}

// answerHeader begins an answer of n bytes.
func answerHeader(w http.ResponseWriter, status int, contentType string, n int) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(n))
	if status >= http.StatusBadRequest {
		h.Set("Cache-Control", noStore)
	}
	w.WriteHeader(status)
}
