package eventgrid

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/entra"
)

const (
	sendTimeout    = 30 * time.Second
	maxAnswerBytes = 64 << 10
)

// withPort is host:port in lower case; 443 is the default.
func withPort(host string) string {
	host = strings.ToLower(host)
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443")
}

// errNotPublic: the address is not one that events are sent to.
var errNotPublic = errors.New("the host's address is not public")

// newClient returns the client of webhooks: it follows no redirect, uses no proxy, and
// connects to public addresses only, but for loopback hosts that were allowed by name.
// The address that is checked is the one that is connected to.
func newClient(hosts []string, roots *x509.CertPool) (*http.Client, error) {
	loopback := map[string]bool{}
	for _, h := range hosts {
		name, port, err := net.SplitHostPort(withPort(h))
		if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || strings.ContainsAny(name, "/@ ") || name == "" {
			return nil, fmt.Errorf("--event-webhook-host %q is not host or host:port", h)
		}
		ip, err := netip.ParseAddr(name)
		loopback[withPort(h)] = name == "localhost" || err == nil && ip.IsLoopback()
	}
	guard := func(allowLoopback bool) *net.Dialer {
		return &net.Dialer{Timeout: sendTimeout, Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || !entra.PublicAddress(at.Addr()) && !(allowLoopback && at.Addr().Unmap().IsLoopback()) {
				return errNotPublic
			}
			return nil
		}}
	}
	public, local := guard(false), guard(true)
	return &http.Client{
		Timeout: sendTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if loopback[strings.ToLower(address)] {
					return local.DialContext(ctx, network, address)
				}
				return public.DialContext(ctx, network, address)
			},
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// gridEvent is an event in the Event Grid schema.
type gridEvent struct {
	ID              string    `json:"id"`
	Topic           string    `json:"topic"`
	Subject         string    `json:"subject"`
	EventType       string    `json:"eventType"`
	Time            time.Time `json:"eventTime"`
	Data            any       `json:"data"`
	DataVersion     string    `json:"dataVersion"`
	MetadataVersion string    `json:"metadataVersion"`
}

// cloudEvent is an event in the CloudEvents 1.0 schema.
type cloudEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Subject     string    `json:"subject"`
	Type        string    `json:"type"`
	Time        time.Time `json:"time"`
	Data        any       `json:"data"`
}

// The handshake of Event Grid's own schema: an event with a code, and the answer.
const validationType = "Microsoft.EventGrid.SubscriptionValidationEvent"

type (
	validationData struct {
		Code string `json:"validationCode"`
	}
	validationAnswer struct {
		Code string `json:"validationResponse"`
	}
)

// The handshake of CloudEvents is in headers.
const (
	headerOrigin  = "WebHook-Request-Origin"
	headerAllowed = "WebHook-Allowed-Origin"

	mediaCloudEvent = "application/cloudevents+json"
)

// origin is who asks an endpoint whether it wants CloudEvents.
const origin = "eventgrid.azure.net"

// validate makes the handshake: the endpoint of an Event Grid subscription returns a
// code that it was sent; that of a CloudEvents subscription allows our origin.
// Source: Azure Event Grid, "Endpoint validation"; CloudEvents HTTP 1.1 Web Hooks, 4.
func (p *Provider) validate(ctx context.Context, s subscription) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if s.CloudEvents {
		r, err := http.NewRequestWithContext(ctx, http.MethodOptions, s.URL, nil)
		if err != nil {
			return errors.New("the URL is not valid")
		}
		r.Header.Set(headerOrigin, origin)
		resp, _, err := p.send(r)
		if err != nil {
			return err
		}
		if allowed := resp.Header.Get(headerAllowed); resp.StatusCode != http.StatusOK || allowed != "*" && !strings.EqualFold(allowed, origin) {
			return fmt.Errorf("it answered OPTIONS with %d and %s %q, not with 200 and '*' or '%s'", resp.StatusCode, headerAllowed, allowed, origin)
		}
		return nil
	}
	code := rand.Text()
	raw, err := json.Marshal([]gridEvent{{
		ID: uuid.NewString(), Topic: s.Topic, EventType: validationType, Time: time.Now().UTC(), DataVersion: "1", MetadataVersion: "1",
		Data: validationData{code},
	}})
	if err != nil {
		return err
	}
	r, err := p.request(ctx, s, raw, "SubscriptionValidation", 0)
	if err != nil {
		return err
	}
	resp, body, err := p.send(r)
	if err != nil {
		return err
	}
	var answer validationAnswer
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &answer) != nil || answer.Code != code {
		return fmt.Errorf("it answered the validation event with %d and not with the validationResponse", resp.StatusCode)
	}
	return nil
}

// request is one that carries an event.
func (p *Provider) request(ctx context.Context, s subscription, raw []byte, kind string, count int) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(raw))
	if err != nil {
		return nil, errors.New("the URL is not valid")
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	if s.CloudEvents {
		r.Header.Set("Content-Type", mediaCloudEvent+"; charset=utf-8")
	}
	r.Header.Set("User-Agent", "tidelock")
	for name, value := range map[string]string{
		"Aeg-Event-Type": kind, "Aeg-Subscription-Name": strings.ToUpper(s.Name), "Aeg-Delivery-Count": strconv.Itoa(count),
		"Aeg-Data-Version": "1", "Aeg-Metadata-Version": "1",
	} {
		r.Header.Set(name, value)
	}
	return r, nil
}

// send returns the answer and what is read of its body. An error names no URL: its query
// may hold a secret.
func (p *Provider) send(r *http.Request) (*http.Response, []byte, error) {
	resp, err := p.client.Do(r)
	if err != nil {
		if errors.Is(err, errNotPublic) {
			return nil, nil, errNotPublic
		}
		var inner interface{ Unwrap() error }
		if errors.As(err, &inner) { // a *url.Error around the cause
			err = inner.Unwrap()
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	return resp, body, err
}
