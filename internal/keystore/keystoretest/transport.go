// Package keystoretest puts faults between a key store's client and the key store:
// latency, lost connections, and refusals word for word as Key Vault gives them.
package keystoretest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Fault is what happens to a request instead of, or before, its answer. The zero
// Fault does nothing.
type Fault struct {
	Delay  time.Duration // before anything else; the request's context cuts it short
	Err    error         // the round trip fails with it
	Status int           // this answer is given, with the error body that the rest makes
	Code   string
	Inner  string // inner code; empty for none
	Text   string // message
	Body   string // instead of an error body, word for word
	Header http.Header

	// Of the answer, which is the key store's own unless Status says otherwise:
	Cut  int           // it ends after so many bytes, as if the connection was reset; 0: it does not
	Drip time.Duration // it comes a byte at a time, with this in between
}

// What a network does.
var (
	ErrDropped = errors.New("keystoretest: connection reset by peer")
	// HalfOpen is a connection whose other end is gone without a word: nothing comes.
	HalfOpen = Fault{Delay: 24 * time.Hour}
	// Strange is a server whose certificate nobody vouches for.
	Strange    = Fault{Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}
	NoSuchHost = &net.DNSError{Err: "no such host", Name: "vault", IsNotFound: true}
	ServFail   = &net.DNSError{Err: "server misbehaving", Name: "vault", IsTemporary: true}
)

// Refusals word for word.
var (
	KeyDisabled    = Fault{Status: 403, Code: "Forbidden", Inner: "KeyDisabled", Text: "Operation unwrapKey is not allowed on a disabled key."}
	KeyExpired     = Fault{Status: 403, Code: "Forbidden", Inner: "KeyExpired", Text: "Operation wrapKey is not allowed on an expired key."}
	AccessDenied   = Fault{Status: 403, Code: "Forbidden", Inner: "AccessDenied", Text: "The user, group or application 'appid=a;oid=o;iss=i' does not have keys get permission on key vault 'v;location=l'."}
	AccessByPolicy = Fault{Status: 403, Code: "Forbidden", Inner: "ForbiddenByPolicy", Text: "The policy requires the caller 'appid=a' to have keys get permission."}
	AccessByRBAC   = Fault{Status: 403, Code: "Forbidden", Inner: "ForbiddenByRbac", Text: "Caller is not authorized to perform action on resource.\r\nAction: 'Microsoft.KeyVault/vaults/keys/unwrap/action'"}
	Firewall       = Fault{Status: 403, Code: "Forbidden", Inner: "ForbiddenByFirewall", Text: "Client address is not authorized and caller is not a trusted service.\r\nClient address: 192.0.2.1"}
	PrivateOnly    = Fault{Status: 403, Code: "Forbidden", Inner: "ForbiddenByConnection", Text: "Public network access is disabled and request is not from a trusted service nor via an approved private link."}
	UnknownRefusal = Fault{Status: 403, Code: "Forbidden", Text: "Operation wrapKey is not permitted on this key."}
	KeyNotFound    = Fault{Status: 404, Code: "KeyNotFound", Text: "A key with (name/id) kek was not found in this key vault."}
	Throttled      = Fault{Status: 429, Code: "Throttled", Text: "Request was not processed because too many requests were received."}
	Unavailable    = Fault{Status: 503, Code: "ServiceUnavailable", Text: "The service is temporarily unavailable."}
)

// Transport is a RoundTripper with faults. It is safe for concurrent use.
type Transport struct {
	mu    sync.Mutex // guards all below
	next  http.RoundTripper
	fault func(*http.Request) Fault
}

// New returns a transport without faults.
func New(next http.RoundTripper) *Transport { return &Transport{next: next} }

// Lead makes next what is behind the faults.
func (t *Transport) Lead(next http.RoundTripper) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = next
}

// Set makes every request from now on meet f.
func (t *Transport) Set(f Fault) { t.SetFunc(func(*http.Request) Fault { return f }) }

// SetFunc has choose say what each request meets; nil ends all faults.
func (t *Transport) SetFunc(choose func(*http.Request) Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault = choose
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	choose, next := t.fault, t.next
	t.mu.Unlock()
	if choose == nil {
		return next.RoundTrip(r)
	}
	f := choose(r)
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if f.Err != nil {
		return nil, f.Err
	}
	if f.Status != 0 {
		return f.spoil(f.answer(r)), nil
	}
	answer, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	return f.spoil(answer), nil
}

// spoil puts f's body in the place of the answer's, or makes that come badly.
func (f Fault) spoil(answer *http.Response) *http.Response {
	if f.Body != "" && f.Status == 0 {
		_ = answer.Body.Close()
		answer.Body, answer.ContentLength = io.NopCloser(strings.NewReader(f.Body)), int64(len(f.Body))
	}
	if f.Cut > 0 || f.Drip > 0 {
		answer.Body = &badBody{ReadCloser: answer.Body, ctx: answer.Request.Context(), left: f.Cut, cut: f.Cut > 0, drip: f.Drip}
	}
	return answer
}

type badBody struct {
	io.ReadCloser
	ctx  context.Context //nolint:containedctx // the request's, as a real body has it
	left int
	cut  bool
	drip time.Duration
}

func (b *badBody) Read(p []byte) (int, error) {
	if b.cut {
		if b.left == 0 {
			return 0, ErrDropped
		}
		p = p[:min(len(p), b.left)]
	}
	if b.drip > 0 && len(p) > 0 {
		p = p[:1]
		timer := time.NewTimer(b.drip)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	return n, err
}

func (f Fault) answer(r *http.Request) *http.Response {
	body := f.Body
	if body == "" {
		inner := ""
		if f.Inner != "" {
			inner = fmt.Sprintf(`,"innererror":{"code":%q}`, f.Inner)
		}
		body = fmt.Sprintf(`{"error":{"code":%q,"message":%q%s}}`, f.Code, f.Text, inner)
	}
	header := f.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("x-ms-request-id", "fault")
	return &http.Response{
		Status: http.StatusText(f.Status), StatusCode: f.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}
