package app

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/anchor"
	"github.com/tidelock/tidelock/internal/bench"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore/keystoretest"
	"github.com/tidelock/tidelock/internal/provider/resources"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/vault"
)

// world is a whole server in one process, for the acceptance scenarios: its own store,
// directory, vaults, custody, relay and management plane, spoken to over HTTP, TLS and
// WebSockets through a network in memory, with faults between it and its vaults. In a
// synctest bubble its minutes pass at once. It comes with the group rg1, the vault kv1
// with the key kek, and the identities id1 and id2, which may use keys of kv1.
type world struct {
	t        *testing.T
	data     string
	config   Config
	store    *memory.Store
	anchors  memoryAnchors           // they outlive the servers, too
	hardware vault.Token             // from the next start on; nil: there is none
	faults   *keystoretest.Transport // in front of the vaults; takes effect over restarts
	newRSA   func(bits int) (*rsa.PrivateKey, error)
	log      *logBook

	app     *App
	stop    func() // an orderly end of the server; the store stays
	net     *memoryNet
	roots   *x509.CertPool
	profile cli.Profile
	tokens  map[string]token // by audience

	typists []*typist // all that joined

	id1, id2   string // resource ids
	oid1, oid2 string
	kek        string         // the first version of the key kek, as a key URL
	vaultBody  map[string]any // of kv1, as it was put last
}

const (
	relayAddr, managementAddr = "127.0.0.1:7070", "127.0.0.1:8443"
	released                  = "2022-06-01"
	preview                   = "2025-06-20-preview"
	location                  = "westus2"
)

type token struct {
	text  string
	since time.Time
}

// scenario runs body in a bubble, in a world of its own.
func scenario(t *testing.T, body func(w *world), configure ...func(*Config)) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data") // outside: what removes it is no part of the scenario
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, data, configure...)
		defer func() {
			for _, y := range w.typists {
				y.leave()
			}
			w.stop()
		}()
		body(w)
	})
}

func newWorld(t *testing.T, data string, configure ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, data: data, store: memory.New(), newRSA: rsatest.New(), log: &logBook{}, config: Config{
		DataDir: data, RelayAddr: relayAddr, ManagementAddr: managementAddr,
	}}
	w.config.Log = slog.New(slog.NewJSONHandler(w.log, nil))
	for _, c := range configure {
		c(&w.config)
	}
	w.start()
	w.want(201, w.arm("PUT", w.group(), "2021-04-01", `{"location":"westus2"}`))
	w.id1, w.oid1 = w.newIdentity("id1", location)
	w.id2, w.oid2 = w.newIdentity("id2", location)
	w.vaultBody = w.newVaultBody(location)
	w.putVault("kv1", w.vaultBody)
	w.kek = w.newVersion("kv1", "kek")
	return w
}

// start serves; what was stored before is there.
func (w *world) start() {
	w.t.Helper()
	w.net = &memoryNet{listeners: map[string]*memoryListener{}}
	var err error
	w.app, err = openIn(w.t.Context(), w.config, surroundings{
		listen: w.net.listen, token: w.hardware, generateRSA: w.newRSA,
		engine: func(context.Context, Config, prometheus.Registerer) (store.Store, error) {
			return keptStore{w.store}, nil
		},
		anchors: func(string) (anchors, error) { return &w.anchors, nil },
		toKeyStores: func(next http.RoundTripper) http.RoundTripper {
			if w.faults == nil {
				w.faults = keystoretest.New(next)
			}
			w.faults.Lead(next)
			return w.faults
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.profile, err = w.app.Admin(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.app.authority.cert)
	w.tokens = map[string]token{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := w.app
	go func() { ended <- server.Serve(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the server ended with %v", err)
		}
		w.stop = func() {}
	}
}

// pause lets time pass without a server.
func (w *world) pause(d time.Duration) {
	w.t.Helper()
	w.stop()
	time.Sleep(d)
	w.start()
	synctest.Wait() // the relays' states are read in the background
}

// keptStore outlives the servers that use it.
type keptStore struct{ *memory.Store }

func (keptStore) Close() error { return nil }

// memoryAnchors are kept without a disk, which a bubble waits for in real time.
type memoryAnchors struct{ all sync.Map } // of document handles

func (m *memoryAnchors) Get(h envelope.DocumentHandle) []byte {
	v, _ := m.all.Load(h)
	raw, _ := v.([]byte)
	return raw
}

func (m *memoryAnchors) Put(all ...anchor.Anchor) error {
	for _, one := range all {
		if one.Value == nil {
			m.all.Delete(one.Document)
			continue
		}
		m.all.Store(one.Document, bytes.Clone(one.Value))
	}
	return nil
}

func (*memoryAnchors) Close() error { return nil }

// reply is what a request got.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (w *world) send(method, target, bearer string, body any) reply {
	w.t.Helper()
	r, err := w.trySend(method, target, "Bearer "+bearer, body)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) trySend(method, target, authorization string, body any) (reply, error) {
	raw, isText := body.(string)
	if !isText && body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return reply{}, err
		}
		raw = string(b)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, target, strings.NewReader(raw))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", authorization)
	if raw != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.client().Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b}, err
}

func (w *world) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: w.net.dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12},
	}}
}

// token is the administrator's, for an audience.
func (w *world) token(audience string) string {
	w.t.Helper()
	if had := w.tokens[audience]; time.Since(had.since) < 30*time.Minute { // of the hour that it lives
		return had.text
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {w.profile.ClientID}, "client_secret": {w.profile.ClientSecret}, "scope": {audience + "/.default"}}
	req, err := http.NewRequestWithContext(w.t.Context(), "POST", "https://"+managementAddr+"/"+w.profile.DirectoryID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := w.client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Token == "" {
		w.t.Fatalf("no token for %s: %d %v", audience, resp.StatusCode, err)
	}
	w.tokens[audience] = token{a.Token, time.Now()}
	return a.Token
}

func (w *world) arm(method, path, version string, body any) reply {
	w.t.Helper()
	return w.send(method, "https://"+managementAddr+path+"?api-version="+version, w.token("https://management.azure.com"), body)
}

// keys makes a request of a vault's data plane as the administrator, who owns the keys.
func (w *world) keys(method, vault, path string, body any) reply {
	w.t.Helper()
	return w.send(method, "https://"+vault+"."+w.profile.VaultSuffix+path+"?api-version=7.4", w.token("https://vault.azure.net"), body)
}

func (w *world) want(status int, r reply) reply {
	w.t.Helper()
	if r.status != status && (status != 200 || r.status != 201) {
		w.t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	return r
}

// refused is the error envelope.
type refused struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	Target  string    `json:"target"`
	Details []refused `json:"details"`
}

// refusedWith checks that a management request was refused with status 4xx and that its
// details have exactly these codes.
func (w *world) refusedWith(r reply, codes ...string) refused {
	w.t.Helper()
	e := r.refused(w.t)
	if r.status < 400 || r.status > 499 || !slices.Equal(e.codes(), codes) {
		w.t.Fatalf("status %d with the details %q, want 4xx and %q: %s", r.status, e.codes(), codes, r.body)
	}
	return e
}

func (r reply) refused(t *testing.T) refused {
	t.Helper()
	var e struct {
		Error refused `json:"error"`
	}
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	return e.Error
}

func (e refused) codes() (codes []string) {
	for _, d := range e.Details {
		codes = append(codes, d.Code)
	}
	return codes
}

func (w *world) group() string {
	return "/subscriptions/" + w.profile.SubscriptionID + "/resourceGroups/rg1"
}

func (w *world) newIdentity(name, where string) (id, principal string) {
	w.t.Helper()
	var found struct {
		ID         string `json:"id"`
		Properties struct {
			PrincipalID string `json:"principalId"`
		} `json:"properties"`
	}
	r := w.want(200, w.arm("PUT", w.group()+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"+name, "2023-01-31", map[string]any{"location": where}))
	w.decode(r, &found)
	return found.ID, found.Properties.PrincipalID
}

func (w *world) decode(r reply, to any) {
	w.t.Helper()
	if err := json.Unmarshal(r.body, to); err != nil {
		w.t.Fatalf("%s: %v", r.body, err)
	}
}

// policy is an access policy of a vault.
func (w *world) policy(objectID string, keys ...string) map[string]any {
	return map[string]any{"tenantId": w.profile.DirectoryID, "objectId": objectID, "permissions": map[string]any{"keys": keys}}
}

func (w *world) newVaultBody(where string) map[string]any {
	return map[string]any{"location": where, "properties": map[string]any{
		"tenantId": w.profile.DirectoryID, "sku": map[string]string{"family": "A", "name": "premium"},
		"accessPolicies": []any{
			w.policy(w.profile.ObjectID, "all", "purge"),
			w.policy(w.oid1, "get", "wrapKey", "unwrapKey"),
			w.policy(w.oid2, "get", "wrapKey", "unwrapKey"),
		},
		"enableSoftDelete": true, "softDeleteRetentionInDays": 90, "enablePurgeProtection": true,
	}}
}

func (w *world) vaultPath(name string) string {
	return w.group() + "/providers/Microsoft.KeyVault/vaults/" + name
}

func (w *world) putVault(name string, body map[string]any) {
	w.t.Helper()
	w.want(200, w.arm("PUT", w.vaultPath(name), "2023-07-01", body))
}

// grant gives kv1 other access policies for id1 and id2; the administrator's stays.
func (w *world) grant(policies ...map[string]any) {
	w.t.Helper()
	all := []any{w.policy(w.profile.ObjectID, "all", "purge")}
	for _, p := range policies {
		all = append(all, p)
	}
	w.changeVault(func(properties map[string]any) { properties["accessPolicies"] = all })
}

func (w *world) changeVault(change func(properties map[string]any)) {
	w.t.Helper()
	change(w.vaultBody["properties"].(map[string]any))
	w.putVault("kv1", w.vaultBody)
}

// newVersion makes a key, or a new version of it, and returns its URL.
func (w *world) newVersion(vault, name string) string {
	return w.newKey(vault, name, `{"kty":"RSA","key_size":2048}`)
}

func (w *world) newKey(vault, name, body string) string {
	w.t.Helper()
	var made struct {
		Key struct {
			KID string `json:"kid"`
		} `json:"key"`
	}
	w.decode(w.want(200, w.keys("POST", vault, "/keys/"+name+"/create", body)), &made)
	return made.Key.KID
}

// attributes changes those of a key version.
func (w *world) attributes(kid, attributes string) {
	w.t.Helper()
	vault, path := splitKey(kid)
	w.want(200, w.keys("PATCH", vault, path, `{"attributes":`+attributes+`}`))
}

func (w *world) enable(kid string, on bool) {
	w.t.Helper()
	w.attributes(kid, fmt.Sprintf(`{"enabled":%t}`, on))
}

func splitKey(kid string) (vault, path string) {
	u, err := url.Parse(kid)
	if err != nil {
		panic("internal error: a test's key URL: " + err.Error())
	}
	vault, _, _ = strings.Cut(u.Host, ".")
	return vault, u.Path
}

func versionless(kid string) string { return kid[:strings.LastIndexByte(kid, '/')] }

// memoryNet is a network in memory. Goroutines that wait on it are idle in the eyes of a
// bubble, as those that wait on sockets are not.
type memoryNet struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener // by address
}

func (n *memoryNet) listen(_ context.Context, addr, _ string) (net.Listener, error) {
	at, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &memoryListener{addr: at, conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l, nil
}

// dial reaches a listener; every name is this machine.
func (n *memoryNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.listeners["127.0.0.1:"+port]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("nobody listens on %s", addr)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- memoryConn{far, l.addr}:
		return memoryConn{near, l.addr}, nil
	case <-l.done:
		return nil, fmt.Errorf("nobody listens on %s any more", addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

type memoryConn struct {
	net.Conn
	addr net.Addr
}

func (c memoryConn) LocalAddr() net.Addr  { return c.addr }
func (c memoryConn) RemoteAddr() net.Addr { return c.addr }

// logBook keeps the log, to find in it what the vaults and custody wrote down.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// entry is a line of the log.
type entry struct {
	Time      time.Time `json:"time"`
	Msg       string    `json:"msg"`
	Operation string    `json:"operation"` // of the vault's own audit
	KeyID     string    `json:"key_id"`
	ObjectID  string    `json:"object_id"`
	RequestID string    `json:"request_id"`
	Status    int       `json:"status"`
	KID       string    `json:"kid"` // of custody
	Reason    string    `json:"reason"`
	From      string    `json:"from"`
	To        string    `json:"to"`
}

// entries returns the lines with this message, oldest first.
func (l *logBook) entries(msg string) (found []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		var e entry
		if json.Unmarshal(line, &e) == nil && e.Msg == msg {
			found = append(found, e)
		}
	}
	return found
}

func (l *logBook) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(part))
}

// forget empties the log.
func (l *logBook) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// uses are what the vaults were asked by others than the administrator: in a world these
// are the identities of relays.
func (w *world) uses() (found []entry) {
	for _, e := range w.log.entries("vault audit") {
		if e.ObjectID != "" && e.ObjectID != w.profile.ObjectID {
			found = append(found, e)
		}
	}
	return found
}

// eventually waits, at most so long, until ok, and returns how long it took.
func (w *world) eventually(what string, within time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			w.t.Fatalf("%s: not within %s", what, within)
		}
		time.Sleep(pollEvery(within))
	}
	return time.Since(start)
}

// pollEvery keeps what takes long from being asked for too often.
func pollEvery(within time.Duration) time.Duration { return max(500*time.Millisecond, within/120) }

// endpoint reaches the relay.
func (w *world) endpoint(r relayServer) bench.Endpoint {
	return bench.Endpoint{URL: "http://" + relayAddr, Tenant: r.tenant, Key: r.key, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return w.net.dial(ctx, network, addr)
	}}
}

// strangerOf makes an identity in a subscription of another directory.
func (w *world) strangerOf(d entra.DirectoryID) string {
	w.t.Helper()
	const foreign = "22222222-2222-2222-2222-222222222222"
	ctx := w.t.Context()
	groups := resources.New(resources.Config{Store: w.app.store, Service: w.app.service, Allowed: w.app.allowed, Log: w.config.Log})
	err := groups.CreateSubscription(ctx, foreign, "Foreign", d)
	if err == nil {
		err = w.app.entra.Assign(ctx, w.profile.ObjectID, "Owner", "/subscriptions/"+foreign)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	// Only callers of that directory see the subscription.
	owner, secret, err := w.app.entra.CreateApplication(ctx, d, "foreign-owner")
	if err == nil {
		err = w.app.entra.Assign(ctx, owner.ObjectID, "Owner", "/subscriptions/"+foreign)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	ours, tokens := w.profile, w.tokens
	defer func() { w.profile, w.tokens = ours, tokens }()
	w.tokens = map[string]token{}
	w.profile.DirectoryID, w.profile.ClientID, w.profile.ClientSecret = string(d), owner.ClientID, secret

	group := "/subscriptions/" + foreign + "/resourceGroups/rg1"
	w.want(201, w.arm("PUT", group, "2021-04-01", `{"location":"westus2"}`))
	var found struct {
		ID string `json:"id"`
	}
	w.decode(w.want(200, w.arm("PUT", group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/stranger", "2023-01-31", `{"location":"westus2"}`)), &found)
	return found.ID
}
