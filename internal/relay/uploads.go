package relay

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// uploadPatience is how long an upload waits for others to end before it is told to
// come back. It holds a connection meanwhile, and nothing of its body was read.
const uploadPatience = 5 * time.Second

// uploadsBusy is what it is told to wait.
const uploadsBusy = 5 * time.Second

// takeUpload makes room for a body of at most n bytes, before any of it is read: among
// the uploads of its tenant first, which may take half, so that who sends slowly is in
// the way of his own alone. *throttledError if there is none in time.
func (s *Server) takeUpload(ctx context.Context, u *usage, n int64) (*upload, error) {
	waiting, cancel := context.WithTimeout(ctx, uploadPatience)
	defer cancel()
	held := &upload{n: n}
	for _, of := range []*semaphore.Weighted{u.uploads, s.uploads} {
		if of.Acquire(waiting, n) != nil {
			held.release()
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return nil, &throttledError{uploadsBusy}
		}
		held.of = append(held.of, of)
	}
	return held, nil
}

// upload is the room that one body takes.
type upload struct {
	of []*semaphore.Weighted
	n  int64
}

// shrink gives back what the body turned out not to need.
func (u *upload) shrink(n int64) {
	for _, of := range u.of {
		of.Release(u.n - n)
	}
	u.n = n
}

func (u *upload) release() { u.shrink(0) }

// bodyBound is the most that r's body can have, by what was announced; at most limit.
// Unwrapping makes a body shorter, never longer.
func bodyBound(r *http.Request, limit int64) int64 {
	n := r.ContentLength
	if b, ok := r.Body.(unwrappedBody); ok {
		n = b.sent
	}
	if n < 0 {
		return limit
	}
	return min(n, limit)
}
