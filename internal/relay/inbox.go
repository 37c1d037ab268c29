package relay

import "sync"

// maxInboxBytes bounds what waits for one document. A socket whose document is
// that far behind is not read from until there is space again: the sender is
// slowed down, nobody else is.
const maxInboxBytes = 4 << 20

// inbox is what waits for a document's goroutine: commands in order of arrival.
type inbox struct {
	ready chan struct{} // holds a token while something waits

	mu       sync.Mutex
	commands []command
	bytes    int
	space    chan struct{} // closed when the inbox is emptied
}

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), space: make(chan struct{})}
}

// put adds c, waiting for space. It returns false when ended was closed first.
func (q *inbox) put(c command, ended <-chan struct{}) bool {
	size := c.size()
	for {
		q.mu.Lock()
		// One command always fits, however large.
		if q.bytes == 0 || q.bytes+size <= maxInboxBytes {
			q.commands = append(q.commands, c)
			q.bytes += size
			q.mu.Unlock()
			select {
			case q.ready <- struct{}{}:
			default:
			}
			return true
		}
		space := q.space
		q.mu.Unlock()
		select {
		case <-space:
		case <-ended:
			return false
		}
	}
}

// take empties the inbox.
func (q *inbox) take() []command {
	q.mu.Lock()
	defer q.mu.Unlock()
	commands := q.commands
	q.commands, q.bytes = nil, 0
	close(q.space)
	q.space = make(chan struct{})
	return commands
}
