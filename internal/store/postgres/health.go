package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// The database is asked at most so often, however often we are.
	healthAge = 500 * time.Millisecond
	// An append that failed is held against the database for so long, unless one succeeds:
	// a full disk lets itself be asked, and takes nothing.
	failureAge = 5 * time.Second
	askTimeout = 3 * time.Second
	askAgain   = time.Second
)

// health is what is known of the database.
type health struct {
	asking sync.Mutex // one asks, the others wait for the answer

	mu       sync.Mutex // guards the rest
	asked    time.Time
	answer   error
	failed   time.Time
	failedBy error
}

// wrote notes how an append ended.
func (h *health) wrote(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failedBy = err; err != nil {
		h.failed = time.Now()
	}
}

// known returns what was found out a moment ago, if anything was.
func (h *health) known() (err error, recent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failedBy != nil && time.Since(h.failed) < failureAge {
		return h.failedBy, true
	}
	return h.answer, time.Since(h.asked) < healthAge
}

func (h *health) found(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked, h.answer = time.Now(), err
}

func takesWrites(ctx context.Context, c *pgx.Conn) error {
	var readOnly string
	if err := c.QueryRow(ctx, "SHOW transaction_read_only").Scan(&readOnly); err != nil {
		return err
	}
	if readOnly != "off" {
		return errors.New("the database takes no writes: it is a standby, or was made read-only")
	}
	return nil
}

// Writable implements store.Store: the database answers, and as one that takes writes.
func (e *Engine) Writable(ctx context.Context) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	h := &e.health
	h.asking.Lock()
	defer h.asking.Unlock()
	if err, recent := h.known(); recent {
		return err
	}
	// Not the caller's context: his impatience says nothing of the database.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	start := time.Now()
	// A connection may have ended since its last use; that says nothing of the next.
	again := func(err error) bool { return unreachable(err) && time.Since(start) < askAgain }
	err = retry(ask, again, func() error {
		return e.once(ask, func(_ context.Context, c *pgx.Conn) error { return takesWrites(ask, c) })
	})
	if err != nil {
		err = fail("ask the database", err)
	}
	h.found(err)
	return err
}
