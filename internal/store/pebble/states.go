package pebble

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/envelope"
)

// maxStates bounds the states that are remembered: some hundred bytes each.
const maxStates = 50_000

// states remembers the states of logs that are written, so that an append need not
// look for one in every table. Whoever uses the state of a document holds the latch of
// its log. The zero value is ready.
type states struct {
	mu    sync.Mutex
	known map[envelope.DocumentHandle]docState
}

// read returns the state of a document, from memory or from r.
func (s *states) read(r pebble.Reader, doc envelope.DocumentHandle) (docState, error) {
	s.mu.Lock()
	state, ok := s.known[doc]
	s.mu.Unlock()
	if ok {
		return state, nil
	}
	return readState(r, doc)
}

// wrote takes note of the state that a write leaves, or, if it failed, that nobody
// knows it now.
func (s *states) wrote(doc envelope.DocumentHandle, state docState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.known, doc)
		return
	}
	if s.known == nil || len(s.known) >= maxStates {
		s.known = map[envelope.DocumentHandle]docState{}
	}
	s.known[doc] = state
}
