package entra

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
)

// issuers fetches and keeps the keys of other OpenID providers. Whoever may write a
// federated credential names a URL that this server asks: the client that asks is
// guarded (see NewIssuerClient), and an issuer is asked only for a token that names
// it and matches a credential.
type issuers struct {
	client *http.Client

	mu    sync.Mutex // guards known; never held across a fetch
	known map[string]*issuer
}

// issuer is what is kept of one provider.
type issuer struct {
	mu       sync.Mutex // one fetch of the description at a time
	provider *oidc.Provider
	fetched  time.Time
}

const (
	issuerRefresh  = 24 * time.Hour   // of a provider's description; keys are asked for when a token names a new one
	issuerTimeout  = 10 * time.Second // of one fetch
	maxIssuerBytes = 1 << 20          // of one answer
)

// verifier returns what checks tokens of an issuer: signature, issuer and times,
// not the audience.
func (i *issuers) verifier(ctx context.Context, url string) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	one := i.known[url]
	if one == nil {
		one = &issuer{}
		i.known[url] = one
	}
	i.mu.Unlock()

	one.mu.Lock()
	defer one.mu.Unlock()
	if one.provider == nil || time.Since(one.fetched) > issuerRefresh {
		// The provider keeps this context for its later fetches: it must not end with the request.
		fetch := oidc.ClientContext(context.WithoutCancel(ctx), i.client)
		provider, err := oidc.NewProvider(fetch, url)
		switch {
		case err == nil:
			one.provider, one.fetched = provider, time.Now()
		case one.provider == nil:
			return nil, fmt.Errorf("ask the issuer %s for its description: %w", url, err)
		}
	}
	// The algorithms are ours, not the provider's: no HMAC, no "none".
	return one.provider.Verifier(&oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: assertionAlgorithms}), nil
}

// IssuerNetwork says which other OpenID providers may be reached, and how.
type IssuerNetwork struct {
	// Private lists issuers, as URLs, that may be at an address that is not public:
	// the issuer of a cluster in the same network, for one.
	Private []string
	// Roots are trusted instead of the system's.
	Roots *x509.CertPool
}

// NewIssuerClient returns the client that asks other OpenID providers. It speaks
// https only, follows no redirect, reads at most a megabyte, asks a host at most ten
// times in a row and then once a second, and connects to no address that is not
// public, except for the issuers listed: the name is resolved, and the address
// checked that is then connected to.
func NewIssuerClient(n IssuerNetwork) (*http.Client, error) {
	var private []string
	for _, one := range n.Private {
		u, err := url.Parse(one)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("the issuer %q is no https URL", one)
		}
		private = append(private, hostPort(u))
	}
	open := &net.Dialer{Timeout: issuerTimeout}
	guarded := &net.Dialer{Timeout: issuerTimeout, Control: publicOnly}
	transport := &http.Transport{
		// No proxy: it would resolve names itself, past the guard.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if slices.Contains(private, strings.ToLower(address)) {
				return open.DialContext(ctx, network, address)
			}
			return guarded.DialContext(ctx, network, address)
		},
		TLSHandshakeTimeout:    issuerTimeout,
		ResponseHeaderTimeout:  issuerTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        time.Minute,
	}
	if n.Roots != nil {
		transport.TLSClientConfig = tlsRoots(n.Roots)
	}
	return &http.Client{
		Timeout:       issuerTimeout,
		Transport:     &politeTransport{next: transport, hosts: map[string]*rate.Limiter{}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return strings.ToLower(net.JoinHostPort(u.Hostname(), port))
}

// errNotPublic: the address is not one that an issuer may have.
var errNotPublic = errors.New("the address is not public; name the issuer with --private-issuer to allow it")

// publicOnly is a dialer's control function: it sees the address after resolution.
func publicOnly(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !PublicAddress(at.Addr()) {
		return errNotPublic
	}
	return nil
}

// notPublic are ranges that netip has no word for: shared address space, IETF
// protocol assignments, documentation, benchmarking, reserved; NAT64, 6to4 and
// Teredo, which carry any IPv4 address. Source: the IANA special-purpose registries.
var notPublic = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16")

func prefixes(all ...string) (parsed []netip.Prefix) {
	for _, p := range all {
		parsed = append(parsed, netip.MustParsePrefix(p))
	}
	return parsed
}

// PublicAddress says whether an address is one of the Internet: what a server may be
// made to connect to by somebody else's URL.
func PublicAddress(a netip.Addr) bool {
	a = a.Unmap()
	if a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// politeTransport refuses what is not https, bounds answers, and asks no host too
// often: a flood of tokens with made-up key ids must not become one of requests.
type politeTransport struct {
	next http.RoundTripper

	mu    sync.Mutex // guards hosts
	hosts map[string]*rate.Limiter
}

func (t *politeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.User != nil {
		return nil, fmt.Errorf("the URL %q of an issuer does not begin with https://", r.URL.Redacted())
	}
	t.mu.Lock()
	limit := t.hosts[r.URL.Host]
	if limit == nil {
		limit = rate.NewLimiter(1, 10)
		t.hosts[r.URL.Host] = limit
	}
	t.mu.Unlock()
	if !limit.Allow() {
		return nil, fmt.Errorf("the issuer's host %s was asked too often", r.URL.Host)
	}
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(answer.Body, maxIssuerBytes), answer.Body}
	return answer, nil
}
