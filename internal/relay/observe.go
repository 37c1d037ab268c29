package relay

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/store"
)

// answer is a ResponseWriter that knows what became of its request.
type answer struct {
	http.ResponseWriter
	status int // 0 until there is one
	// Whose request it was; empty until a token has shown it. What a path or a
	// token claims is nothing to put into a log.
	tenantID, documentID string
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// observed counts and logs the requests that serve answers. route is a pattern,
// never a path: a path names documents.
func (s *Server) observed(route string, serve func(*answer, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w}
		started := time.Now()
		defer func() { // also when the handler panics
			s.m.answered(route, a.status)
			s.c.Log.DebugContext(r.Context(), "request", "route", route, "status", a.status,
				"tenant_id", a.tenantID, "document_id", a.documentID,
				"correlation_id", w.Header().Get(correlationHeader), "seconds", time.Since(started).Seconds())
		}()
		serve(a, r)
	}
}

// loadResult names an end of a load.
func loadResult(err error) string {
	var key *custody.UnusableError
	switch {
	case err == nil:
		return loadDone
	case errors.Is(err, errUnknownDocument):
		return loadUnknown
	case errors.As(err, &key) && key.Rollback:
		return loadRolledBack
	case errors.As(err, &key):
		return loadKey
	case errors.Is(err, context.Canceled), errors.Is(err, store.ErrClosed), isElsewhere(err):
		return loadStopped
	case errors.Is(err, store.ErrCorrupt):
		return loadDamaged
	default:
		return loadFailed
	}
}

// storeRefuses is how long whoever asks is told to wait while the store takes no
// writes: that takes an operator.
const storeRefuses = 10 * time.Second

// ready says whether to send clients here: the store takes writes and the server
// does not stop. It never asks for a key: that is one relay's trouble and not the
// process's, and a process that is ended during an outage of its key store takes the
// only usable copies of the keys with it.
func (s *Server) ready(c *call) error {
	if s.isDraining() {
		return errDraining
	}
	if s.isMoving() {
		return errMoving
	}
	if s.c.Cluster != nil && !s.c.Cluster.Serving() {
		return cluster.ErrCutOff
	}
	if err := s.c.Store.Writable(c.r.Context()); err != nil {
		if s.unwritable.CompareAndSwap(false, true) { // once, however often it is asked
			s.c.Log.ErrorContext(c.r.Context(), "not ready: the store takes no writes", "err", err)
		}
		answerLater(c.w, restDetail{Message: "The store takes no writes"}, storeRefuses)
		return nil
	}
	s.unwritable.Store(false)
	return s.ping(c)
}
