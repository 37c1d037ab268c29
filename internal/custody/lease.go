package custody

import (
	"sync/atomic"
	"time"
)

// lease is the right to use the keys under one key version until a deadline. It is
// the one thing that every seal and open looks at: one atomic load, no lock.
//
// It ends by itself. A stuck prober or a paused process cannot prolong it, because
// nobody needs to say that it is over.
type lease struct {
	base     time.Time    // where the deadline counts from, on the monotonic clock
	deadline atomic.Int64 // nanoseconds since base

	// held is closed when a doubt about the key is over, one way or the other; nil
	// when there is none.
	held atomic.Pointer[chan struct{}]
}

func newLease(until time.Time) *lease {
	l := &lease{base: time.Now()}
	l.deadline.Store(int64(until.Sub(l.base)))
	return l
}

// valid says whether the lease holds now. A nil lease never does.
func (l *lease) valid() bool {
	return l != nil && int64(time.Since(l.base)) < l.deadline.Load()
}

// left is how long the lease still holds.
func (l *lease) left() time.Duration {
	return time.Duration(l.deadline.Load()) - time.Since(l.base)
}

// set moves the deadline, unless the lease ran out: then it stays so for ever, and
// what was opened under it is opened anew. Calls are not concurrent.
func (l *lease) set(until time.Time) {
	if l.valid() {
		l.deadline.Store(int64(until.Sub(l.base)))
	}
}

// shorten moves the deadline to until if that is earlier.
func (l *lease) shorten(until time.Time) {
	if l.valid() && until.Before(l.base.Add(time.Duration(l.deadline.Load()))) {
		l.set(until)
	}
}

// hold says that the key was refused once, and release that this was decided on. Calls
// are not concurrent.
func (l *lease) hold() {
	if l.held.Load() == nil {
		c := make(chan struct{})
		l.held.Store(&c)
	}
}

func (l *lease) release() {
	if c := l.held.Swap(nil); c != nil {
		close(*c)
	}
}
