//go:build e2e

package cluster

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// link is the network between one node and the database: it can be cut, be silent, and
// lead to another server.
type link struct {
	listener net.Listener

	mu     sync.Mutex // guards the rest
	target string
	cut    bool // connections are refused
	silent bool // what is sent arrives nowhere, and nobody is told
	conns  map[net.Conn]bool
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	l := &link{listener: listen(t, "127.0.0.1:0"), target: target, conns: map[net.Conn]bool{}}
	go accept(l.listener, l.serve)
	return l
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func accept(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go serve(conn)
	}
}

func (l *link) serve(client net.Conn) {
	l.mu.Lock()
	target, cut := l.target, l.cut
	l.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if cut || err != nil {
		client.Close()
		if err == nil {
			server.Close()
		}
		return
	}
	l.mu.Lock()
	l.conns[client], l.conns[server] = true, true
	l.mu.Unlock()
	go l.pass(client, server)
	l.pass(server, client)
}

func (l *link) pass(from, to net.Conn) {
	defer func() {
		from.Close()
		to.Close()
		l.mu.Lock()
		delete(l.conns, from)
		l.mu.Unlock()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		silent := l.silent
		l.mu.Unlock()
		if silent {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// set changes what happens from now on; what is cut, or was silent, loses its connections.
func (l *link) set(cut, silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cut || l.silent && !silent {
		for c := range l.conns {
			c.Close()
		}
	}
	l.cut, l.silent = cut, silent
}

// lead leads to another server from now on.
func (l *link) lead(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = target
	for c := range l.conns {
		c.Close()
	}
}

// balancer is the address that all nodes share: connections go round the nodes that are
// ready, and those of a node that is not any more are cut, as load balancers do.
type balancer struct {
	listener net.Listener
	backends []*backend
	next     atomic.Uint64
}

type backend struct {
	addr  string
	mu    sync.Mutex // guards the rest
	ready bool
	conns map[net.Conn]bool
}

func newBalancer(t *testing.T, addrs []string) *balancer {
	t.Helper()
	b := &balancer{listener: listen(t, "127.0.0.1:0")}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	for _, addr := range addrs {
		one := &backend{addr: addr, conns: map[net.Conn]bool{}}
		b.backends = append(b.backends, one)
		go one.watch(stop)
	}
	go accept(b.listener, b.serve)
	return b
}

func (b *balancer) addr() string { return b.listener.Addr().String() }

func (b *backend) watch(stop <-chan struct{}) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		ready := false
		if resp, err := client.Get("http://" + b.addr + "/readyz"); err == nil {
			_ = resp.Body.Close()
			ready = resp.StatusCode == http.StatusOK
		}
		b.mu.Lock()
		if b.ready && !ready {
			for c := range b.conns {
				c.Close()
			}
		}
		b.ready = ready
		b.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (b *balancer) serve(client net.Conn) {
	defer client.Close()
	for range b.backends {
		one := b.backends[b.next.Add(1)%uint64(len(b.backends))]
		one.mu.Lock()
		ready := one.ready
		one.mu.Unlock()
		if !ready {
			continue
		}
		server, err := net.DialTimeout("tcp", one.addr, time.Second)
		if err != nil {
			continue
		}
		one.mu.Lock()
		one.conns[server] = true
		one.mu.Unlock()
		go func() {
			_, _ = io.Copy(server, client)
			server.Close()
		}()
		_, _ = io.Copy(client, server)
		server.Close()
		one.mu.Lock()
		delete(one.conns, server)
		one.mu.Unlock()
		return
	}
}
