package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
)

// bind opens a listener and says what to do when it cannot.
func bind(ctx context.Context, addr, flag string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use by another process (another Tidelock?): stop that, or choose another address with %s", addr, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; choose another address with %s", addr, err, flag)
	}
	return l, nil
}

// ListenOnLoopback is bind for an address that must be on loopback.
func ListenOnLoopback(ctx context.Context, addr, flag string) (net.Listener, error) {
	if !loopback(addr) {
		return nil, fmt.Errorf("%s %s must be a loopback address such as 127.0.0.1:8444", flag, addr)
	}
	return bind(ctx, addr, flag)
}

// httpServer has the limits of a public face: headers are bounded in size and
// time, bodies by each route.
func httpServer(h http.Handler, t *tls.Config, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		TLSConfig:         t,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// managementFaces chooses a face of the management plane: by the host name, where
// that says it, else by path. The public cloud's names are ours too for clients that
// are led here under them (see 'tidelock proxy').
type managementFaces struct {
	vault, authority, metadata, publicMetadata, manager, graph, events http.Handler
}

// A request has a minute to come, its answer another to go: more than any route works.
const (
	managementReads  = time.Minute
	managementWrites = 2 * time.Minute
)

func (m managementFaces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, now := http.NewResponseController(w), time.Now()
	// Writers of tests have no deadlines; those of net/http always do.
	_ = c.SetReadDeadline(now.Add(managementReads))
	_ = c.SetWriteDeadline(now.Add(managementWrites))
	m.face(r).ServeHTTP(patientWriter{w, r.Body}, r)
}

// patientWriter refuses a request only after it has read what the client still sends of it,
// however much: a connection or stream that ends meanwhile looks like a network failure, and
// what is too large would come again and again.
type patientWriter struct {
	http.ResponseWriter
	body io.Reader
}

func (w patientWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		_, _ = io.Copy(io.Discard, w.body) // when the time is over, the refusal goes out without the rest
	}
	w.ResponseWriter.WriteHeader(status)
}

func (m managementFaces) face(r *http.Request) http.Handler {
	host := hostName(r)
	segments := strings.Split(strings.ToLower(strings.Trim(r.URL.Path, "/")), "/")
	switch {
	case isVaultHost(host):
		return m.vault
	case host == publicLogin:
		return m.authority
	case host == publicGraph:
		return m.graph
	case host == publicManagement && segments[0] == "metadata":
		return m.publicMetadata
	case "/"+segments[0]+"/" == strings.ToLower(fluidrelay.EventsPath):
		return m.events
	case host == publicManagement:
		return m.manager
	case segments[0] == "metadata":
		return m.metadata
	case "/"+segments[0] == entra.GraphPath:
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = strings.TrimLeft(r.URL.Path, "/")[len(entra.GraphPath)-1:], ""
			m.graph.ServeHTTP(w, r)
		})
	}
	switch segments[0] {
	case "subscriptions", "providers", "tenants", "":
		return m.manager
	case "adfs", "common", "organizations", "discovery":
		return m.authority
	}
	// What is left is /{directory}/… of the authority, if it has its shape.
	if len(segments) > 1 && (segments[1] == "oauth2" || segments[1] == "v2.0" || segments[1] == "discovery" || segments[1] == ".well-known") {
		return m.authority
	}
	return m.manager
}

// hostName is the host that a client asked, in lower case and without a port.
func hostName(r *http.Request) string {
	host := strings.ToLower(r.Host)
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// isVaultHost says whether host, in lower case and without a port, names a vault or managed HSM here.
func isVaultHost(host string) bool {
	return strings.HasSuffix(host, ".vault."+Domain) || strings.HasSuffix(host, ".managedhsm."+Domain) || strings.HasSuffix(host, "."+publicVaults) || strings.HasSuffix(host, "."+publicHSMs)
}
