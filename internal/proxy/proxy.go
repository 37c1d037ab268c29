package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Config of a Proxy.
type Config struct {
	// Route says where a tunnel to host (lower case) and port leads, as host:port; not
	// ok: it is refused.
	Route func(host, port string) (address string, ok bool)
	Log   *slog.Logger
}

const (
	dialTimeout = 10 * time.Second
	maxTunnels  = 1000
)

// Proxy leads tunnels.
type Proxy struct {
	c Config

	mu      sync.Mutex
	tunnels map[net.Conn]bool // both ends of each; nil once the proxy stops
	running sync.WaitGroup    // the tunnels' goroutines
}

// New returns a proxy.
func New(c Config) *Proxy {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Proxy{c: c, tunnels: map[net.Conn]bool{}}
}

// Serve takes connections of l until ctx is over; then it ends all tunnels and returns.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(p.c.Log.Handler(), slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = server.Close() // whoever is not in a tunnel yet asks again
		<-ended
	}
	p.mu.Lock()
	for c := range p.tunnels {
		_ = c.Close() // that is how a tunnel ends
	}
	p.tunnels = nil
	p.mu.Unlock()
	p.running.Wait()
	return err
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.Header().Set("Allow", http.MethodConnect)
		http.Error(w, "This proxy leads TLS connections only: it knows the method CONNECT.", http.StatusMethodNotAllowed)
		return
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		http.Error(w, "The target of CONNECT is not host:port.", http.StatusBadRequest)
		return
	}
	address, ok := p.c.Route(strings.ToLower(strings.TrimSuffix(host, ".")), port)
	if !ok {
		p.c.Log.InfoContext(r.Context(), "tunnel refused", slog.String("target", r.Host))
		http.Error(w, fmt.Sprintf("This proxy does not lead to %s.", r.Host), http.StatusForbidden)
		return
	}
	d := net.Dialer{Timeout: dialTimeout}
	far, err := d.DialContext(r.Context(), "tcp", address)
	if err != nil {
		p.c.Log.WarnContext(r.Context(), "tunnel leads nowhere", slog.String("target", r.Host), slog.Any("err", err))
		http.Error(w, fmt.Sprintf("%s cannot be reached at %s: is the server running?", r.Host, address), http.StatusBadGateway)
		return
	}
	p.c.Log.DebugContext(r.Context(), "tunnel", slog.String("target", r.Host), slog.String("address", address))
	p.tunnel(w, far)
}

// tunnel joins the client's connection with the far one, and owns both.
func (p *Proxy) tunnel(w http.ResponseWriter, far net.Conn) {
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = far.Close()
		http.Error(w, "The connection cannot become a tunnel.", http.StatusInternalServerError)
		return
	}
	if !p.add(near, far) {
		_, _ = io.WriteString(near, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n") // it is told, if it still listens
		_, _ = near.Close(), far.Close()
		return
	}
	defer p.remove(near, far)
	_ = near.SetDeadline(time.Time{}) // the server's, for the header
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pass(far, buffered) }) // the reader may hold what came behind the header
	both.Go(func() { pass(near, far) })
	both.Wait()
}

// pass copies until from ends, and tells to that no more comes. What fails ends the
// tunnel, which is all that can be said to either side.
func pass(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		_ = to.Close()
	}
}

// add takes a tunnel into the books; false when the proxy stops or is full.
func (p *Proxy) add(near, far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tunnels == nil || len(p.tunnels) >= 2*maxTunnels {
		return false
	}
	p.tunnels[near], p.tunnels[far] = true, true
	p.running.Add(1)
	return true
}

func (p *Proxy) remove(near, far net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tunnels, near)
	delete(p.tunnels, far)
	if err := errors.Join(near.Close(), far.Close()); err != nil {
		p.c.Log.Debug("tunnel ended", slog.Any("err", err))
	}
	p.running.Done()
}
