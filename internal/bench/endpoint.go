package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

const (
	// tokenLifetime is the longest that the service accepts.
	tokenLifetime = time.Hour
	// pageOps is how many ops the service returns for one request at most.
	pageOps = 2000
	// maxBody bounds the answers that are read: a page of ops of 700 kB would be
	// more, but services cut those.
	maxBody = 1 << 30
)

// Endpoint is a Fluid service, and a tenant of it. A Tinylicious has the tenant
// "local" and takes any key.
type Endpoint struct {
	URL    string // http://host:port or https://host:port
	Tenant string
	Key    string // signs the tokens (HS256)
	// Dial reaches the service; nil: over the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Document is a document and where its socket is.
type Document struct {
	ID        string
	StreamURL string // base URL of the socket.io endpoint
}

// Op is a sequenced op as it was received.
type Op struct {
	ClientID string // empty for the service's own
	Seq      int64
	MSN      int64
	CSN      int64
	RSN      int64
	Type     string
	Own      bool            // submitted on the present connection of the client that received it
	Raw      json.RawMessage // all of it
}

// Token signs a token of an hour for a document; "" is the one to be created.
func (e Endpoint) Token(document string) (string, error) {
	now := time.Now()
	claims := jwt.MapClaims{
		"documentId": document,
		"tenantId":   e.Tenant,
		"scopes":     []string{"doc:read", "doc:write", "summary:write"},
		"user":       map[string]string{"id": "bench", "name": "bench"},
		"iat":        now.Unix(),
		"exp":        now.Add(tokenLifetime).Unix(),
		"ver":        "1.0",
		"jti":        uuid.NewString(),
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(e.Key))
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// session is the part of a discovery answer that says where the socket is.
type session struct {
	DeltaStreamURL string `json:"deltaStreamUrl"`
}

// createBody is a detached container with next to nothing in it, as the 2.x driver
// uploads it.
const createBody = `{"summary":{"type":"tree","entries":[{"path":".metadata","type":"blob",
"value":{"type":"blob","content":"{}","encoding":"utf-8"}}]},"sequenceNumber":0,
"values":[["code",{"key":"code","value":{"package":"no-dynamic-package","config":{}},
"approvalSequenceNumber":0,"commitSequenceNumber":0,"sequenceNumber":0}]],
"enableDiscovery":true,"generateToken":false,"isEphemeralContainer":false,
"enableAnyBinaryBlobOnFirstSummary":true}`

// Create creates a document.
func (e Endpoint) Create(ctx context.Context) (Document, error) {
	body, err := e.do(ctx, http.MethodPost, "/documents/"+url.PathEscape(e.Tenant), "", strings.NewReader(createBody))
	if err != nil {
		return Document{}, fmt.Errorf("create document: %w", err)
	}
	// Tinylicious, and services that were not asked for discovery, answer the bare id.
	var id string
	if json.Unmarshal(body, &id) == nil && id != "" {
		return Document{ID: id, StreamURL: e.URL}, nil
	}
	var created struct {
		ID      string  `json:"id"`
		Session session `json:"session"`
	}
	if err := json.Unmarshal(body, &created); err != nil || created.ID == "" || created.Session.DeltaStreamURL == "" {
		return Document{}, fmt.Errorf("create document: the answer has no id or no deltaStreamUrl: %.200q", body)
	}
	return Document{ID: created.ID, StreamURL: created.Session.DeltaStreamURL}, nil
}

// Discover finds an existing document. Tinylicious cannot be asked.
func (e Endpoint) Discover(ctx context.Context, id string) (Document, error) {
	path := "/documents/" + url.PathEscape(e.Tenant) + "/session/" + url.PathEscape(id)
	body, err := e.do(ctx, http.MethodGet, path, id, nil)
	if err != nil {
		return Document{}, fmt.Errorf("discover document %s: %w", id, err)
	}
	var found session
	if err := json.Unmarshal(body, &found); err != nil || found.DeltaStreamURL == "" {
		return Document{}, fmt.Errorf("discover document %s: the answer has no deltaStreamUrl: %.200q", id, body)
	}
	return Document{ID: id, StreamURL: found.DeltaStreamURL}, nil
}

// Deltas returns the stored ops with from < seq < to, in order; to 0 means up to the
// head. It asks as often as it takes, and returns fewer than asked for if the
// service has no more. It does not check that none is missing.
func (e Endpoint) Deltas(ctx context.Context, id string, from, to int64) ([]Op, error) {
	var ops []Op
	for to == 0 || from+1 < to {
		upTo := from + pageOps + 1
		if to != 0 {
			upTo = min(upTo, to)
		}
		query := url.Values{"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(upTo, 10)}}
		path := "/deltas/" + url.PathEscape(e.Tenant) + "/" + url.PathEscape(id) + "?" + query.Encode()
		body, err := e.do(ctx, http.MethodGet, path, id, nil)
		if err != nil {
			return nil, fmt.Errorf("deltas of document %s: %w", id, err)
		}
		page, err := parseOps(body)
		if err != nil {
			return nil, fmt.Errorf("deltas of document %s: %w", id, err)
		}
		if len(page) == 0 {
			break
		}
		ops = append(ops, page...)
		last := page[len(page)-1].Seq
		if last <= from {
			return nil, fmt.Errorf("deltas of document %s: asked for ops after %d, got %d", id, from, last)
		}
		from = last
	}
	return ops, nil
}

// statusError is an answer other than 2xx.
type statusError struct {
	status int
	body   []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%d %s: %.200s", e.status, http.StatusText(e.status), bytes.TrimSpace(e.body))
}

// do makes one request of the ordering service with a token for the document.
func (e Endpoint) do(ctx context.Context, method, path, document string, body io.Reader) ([]byte, error) {
	token, err := e.Token(document)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(e.URL, "/")+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Basic "+token) // the token as it is: no base64
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := http.DefaultClient
	if e.Dial != nil {
		client = &http.Client{Transport: &http.Transport{DialContext: e.Dial, DisableKeepAlives: true}}
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, &statusError{resp.StatusCode, answer}
	}
	return answer, nil
}
