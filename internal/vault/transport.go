package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/tidelock/tidelock/internal/store"
)

// Transport carries requests to Handler in this process, without a network. They
// count as coming from a trusted service, and a deleted or unknown vault is a
// failure to resolve its name: a *net.OpError around a *net.DNSError.
func (s *Service) Transport() http.RoundTripper {
	return transport{service: s, handler: s.Handler()}
}

type transport struct {
	service *Service
	handler http.Handler
}

// loopback is where a request of this process comes from, for IP rules.
const loopback = "127.0.0.1:0"

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	defer body.Close()
	ctx := r.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("a vault is reached by https, not %q", r.URL.Scheme)
	}
	_, err := t.service.vaultOfHost(ctx, r.URL.Host)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
			Err: "no such host", Name: withoutPort(r.URL.Host), IsNotFound: true,
		}}
	}
	if err != nil {
		return nil, err
	}
	in := r.Clone(withTrust(ctx))
	in.Host, in.RemoteAddr, in.RequestURI, in.Body = r.URL.Host, loopback, r.URL.RequestURI(), body
	w := &recorder{header: http.Header{}}
	t.handler.ServeHTTP(w, in)
	return w.response(r), nil
}

// recorder is a ResponseWriter that keeps what was written; answers are small.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

func (w *recorder) response(r *http.Request) *http.Response {
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}
}
