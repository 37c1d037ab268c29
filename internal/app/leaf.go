package app

import (
	"crypto/tls"
	"sync"
	"time"
)

// leafCache holds the present certificate of one authority for the management listener.
type leafCache struct {
	authority *authority

	mu      sync.Mutex
	current tls.Certificate
	renewAt time.Time
}

func (l *leafCache) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().After(l.renewAt) {
		if next, err := l.authority.leaf(); err == nil {
			l.current, l.renewAt = next, time.Now().Add(leafLife/2)
		}
	}
	current := l.current
	return &current, nil
}
