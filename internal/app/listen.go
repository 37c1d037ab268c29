package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
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

// managementFaces chooses a face of the management plane: a vault by the host
// name, the authority and the resource manager by path.
type managementFaces struct {
	vault, authority, metadata, manager http.Handler
}

func (m managementFaces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.face(r).ServeHTTP(w, r)
}

func (m managementFaces) face(r *http.Request) http.Handler {
	if isVaultHost(r.Host) {
		return m.vault
	}
	segments := strings.Split(strings.ToLower(strings.Trim(r.URL.Path, "/")), "/")
	switch segments[0] {
	case "metadata":
		return m.metadata
	case "subscriptions", "providers", "tenants", "":
		return m.manager
	case "adfs", "common", "discovery":
		return m.authority
	}
	// What is left is /{directory}/… of the authority, if it has its shape.
	if len(segments) > 1 && (segments[1] == "oauth2" || segments[1] == "v2.0" || segments[1] == "discovery" || segments[1] == ".well-known") {
		return m.authority
	}
	return m.manager
}

// isVaultHost says whether host names a vault here, on any port.
func isVaultHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.HasSuffix(strings.ToLower(host), ".vault."+Domain)
}
