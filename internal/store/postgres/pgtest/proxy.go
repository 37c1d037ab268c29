package pgtest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Fault is what a Proxy does to what passes.
type Fault int

const (
	None        Fault = iota
	LoseRequest       // what a client sends does not arrive, and its connection is cut
	LoseAnswer        // it arrives; the answer does not, and the connection is cut
	Silence           // nothing arrives, and nobody is told
)

// Proxy is a network between clients and a server that can fail.
type Proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards the rest
	fault Fault
	conns map[net.Conn]bool
}

// NewProxy starts a proxy before a server; it ends with the test.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: fmt.Sprintf("127.0.0.1:%d", s.Port), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.Set(None)
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL is that of a database of the server, by way of the proxy.
func (p *Proxy) URL(database string) string {
	return strings.Replace(database, p.target, p.listener.Addr().String(), 1)
}

// Set sets what happens from now on.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Cut cuts all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.pass(client, server, LoseRequest) })
		p.wg.Go(func() { p.pass(server, client, LoseAnswer) })
	}
}

// pass copies from one to the other; cut is the fault that ends both at the next bytes.
func (p *Proxy) pass(from, to net.Conn, cut Fault) {
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, from)
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.mu.Lock()
		fault := p.fault
		p.mu.Unlock()
		switch fault {
		case cut:
			return
		case Silence:
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil && err != io.EOF {
			return
		}
	}
}
