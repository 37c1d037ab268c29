package relay

import (
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// allowance is what one client may send: its rates.
type allowance struct{ ops, signals *bucket }

// clientKey is a user of a tenant, as the token has it.
type clientKey struct{ tenantID, userID string }

func clientOf(tenantID string, c claims) clientKey {
	var user struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(c.User, &user) // without an id all those without one are the same
	return clientKey{tenantID, user.ID}
}

// spentAllowances keeps the allowances of clients that have just gone, until they would
// be full again: who connects anew goes on with what he left, so that connecting again
// and again gives nobody more than staying. Clients that are there at the same time
// have one each: many people may share a user id. The zero value is empty.
type spentAllowances struct {
	mu sync.Mutex
	of map[clientKey][]spentAllowance
}

type spentAllowance struct {
	*allowance
	full time.Time // from then on it is as good as a new one
}

// take returns the allowance that a client of k left last, or a full one.
func (s *spentAllowances) take(k clientKey, l Limits) *allowance {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.of[k]
	if len(left) == 0 {
		return &allowance{newBucket(l.ClientOps), newBucket(l.ClientSignals)}
	}
	last := len(left) - 1
	a := left[last].allowance
	s.set(k, left[:last])
	return a
}

// leave keeps a for the next client of k.
func (s *spentAllowances) leave(k clientKey, a *allowance) {
	const refill = burstSeconds * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(k, append(s.of[k], spentAllowance{a, time.Now().Add(refill)}))
	time.AfterFunc(refill, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		now := time.Now()
		s.set(k, slices.DeleteFunc(s.of[k], func(b spentAllowance) bool { return !b.full.After(now) }))
	})
}

// set is called with mu held.
func (s *spentAllowances) set(k clientKey, left []spentAllowance) {
	switch {
	case len(left) == 0:
		delete(s.of, k)
	case s.of == nil:
		s.of = map[clientKey][]spentAllowance{k: left}
	default:
		s.of[k] = left
	}
}
