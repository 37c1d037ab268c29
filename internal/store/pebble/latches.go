package pebble

import (
	"slices"
	"sync"
)

// latches let one write at a time work on a thing (a document's log, its objects, a
// row) from the check of what is there until the fsync. They live only while someone
// holds or awaits them, so there is none per document that was ever seen.
type latches struct {
	mu   sync.Mutex // guards held and users; never held while waiting
	held map[string]*latch
}

type latch struct {
	mu    sync.Mutex
	users int // who hold or await it
}

// lock takes the latches of distinct keys; the func gives them back. All callers
// take them in the same order, so none waits for one that waits for it.
func (l *latches) lock(keys ...string) (unlock func()) {
	slices.Sort(keys)
	taken := make([]*latch, len(keys))
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*latch{}
	}
	for i, k := range keys {
		one := l.held[k]
		if one == nil {
			one = &latch{}
			l.held[k] = one
		}
		one.users++
		taken[i] = one
	}
	l.mu.Unlock()
	for _, one := range taken {
		one.mu.Lock()
	}
	return func() {
		for _, one := range taken {
			one.mu.Unlock()
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, one := range taken {
			if one.users--; one.users == 0 {
				delete(l.held, keys[i])
			}
		}
	}
}

// settle waits for the write of key that is under way, if any. Whoever has read a
// value calls it before he shows the value to anyone: Pebble publishes a batch to
// readers first and waits for its fsync then.
func (l *latches) settle(key string) {
	l.mu.Lock()
	busy := l.held[key] != nil
	l.mu.Unlock()
	if busy {
		l.lock(key)()
	}
}
