package keystore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// Config of a client.
type Config struct {
	Credential azcore.TokenCredential // of the identity
	Transport  http.RoundTripper      // to the key store
}

// New returns a client over the Key Vault REST API (azkeys).
func New(c Config) Client {
	return &azureClient{config: c, vaults: map[string]*azkeys.Client{}}
}

type azureClient struct {
	config Config

	mu     sync.Mutex // guards vaults
	vaults map[string]*azkeys.Client
}

var _ Client = (*azureClient)(nil)

// vault returns the SDK's client of one host; it remembers the host's challenge, so
// that later calls carry a token at once.
func (c *azureClient) vault(host string) (*azkeys.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.vaults[host]; ok {
		return v, nil
	}
	v, err := azkeys.NewClient(scheme+host, &guardedCredential{next: c.config.Credential, host: host}, &azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{
			// One try: whoever calls has a schedule of its own. The SDK's three
			// retries would turn one 503 into nine seconds of silence.
			Retry:     policy.RetryOptions{MaxRetries: -1},
			Telemetry: policy.TelemetryOptions{Disabled: true},
			Transport: transport{c.config.Transport},
		},
		// The SDK's own check compares with the port and knows Microsoft's hosts
		// only; guardedCredential makes the check instead.
		DisableChallengeResourceVerification: true,
	})
	if err != nil {
		return nil, err
	}
	c.vaults[host] = v
	return v, nil
}

func (c *azureClient) Describe(ctx context.Context, key URL) (Key, error) {
	const op = "get"
	v, err := c.vault(key.host)
	if err != nil {
		return Key{}, classify(op, key, err)
	}
	var raw *http.Response
	ctx = policy.WithCaptureResponse(ctx, &raw)
	r, err := v.GetKey(ctx, key.name, key.version, nil)
	if err != nil {
		return Key{}, classify(op, key, err)
	}
	if r.Key == nil || r.Key.Kty == nil || r.Attributes == nil {
		return Key{}, strange(op, key, raw, "the answer lacks the key or its attributes")
	}
	id, err := answered(key, r.Key.KID)
	if err != nil {
		return Key{}, strange(op, key, raw, err.Error())
	}
	k := Key{ID: id, Type: string(*r.Key.Kty), RequestID: requestID(raw)}
	if k.Type == "RSA" || k.Type == "RSA-HSM" {
		k.Bits = new(big.Int).SetBytes(r.Key.N).BitLen()
	}
	for _, o := range r.Key.KeyOps {
		if o != nil {
			k.Operations = append(k.Operations, string(*o))
		}
	}
	a := r.Attributes
	k.Enabled = a.Enabled != nil && *a.Enabled
	if a.NotBefore != nil {
		k.NotBefore = *a.NotBefore
	}
	if a.Expires != nil {
		k.Expires = *a.Expires
	}
	if a.RecoveryLevel != nil {
		k.RecoveryLevel = *a.RecoveryLevel
	}
	return k, nil
}

func (c *azureClient) Wrap(ctx context.Context, key URL, material []byte) (Wrapped, error) {
	const op = "wrapKey"
	v, err := c.vault(key.host)
	if err != nil {
		return Wrapped{}, classify(op, key, err)
	}
	var raw *http.Response
	ctx = policy.WithCaptureResponse(ctx, &raw)
	alg := azkeys.EncryptionAlgorithm(Algorithm)
	r, err := v.WrapKey(ctx, key.name, key.version, azkeys.KeyOperationParameters{Algorithm: &alg, Value: material}, nil)
	if err != nil {
		return Wrapped{}, classify(op, key, err)
	}
	id, err := answered(key, r.KID)
	if err != nil {
		return Wrapped{}, strange(op, key, raw, err.Error())
	}
	if len(r.Result) == 0 {
		return Wrapped{}, strange(op, key, raw, "the answer has no value")
	}
	return Wrapped{ID: id, Algorithm: Algorithm, Value: r.Result, RequestID: requestID(raw)}, nil
}

func (c *azureClient) Unwrap(ctx context.Context, w Wrapped) ([]byte, string, error) {
	const op = "unwrapKey"
	if w.ID.version == "" {
		return nil, "", &Error{Class: Invalid, Op: op, Key: w.ID, Message: "the key id has no version"}
	}
	v, err := c.vault(w.ID.host)
	if err != nil {
		return nil, "", classify(op, w.ID, err)
	}
	var raw *http.Response
	ctx = policy.WithCaptureResponse(ctx, &raw)
	alg := azkeys.EncryptionAlgorithm(w.Algorithm)
	r, err := v.UnwrapKey(ctx, w.ID.name, w.ID.version, azkeys.KeyOperationParameters{Algorithm: &alg, Value: w.Value}, nil)
	if err != nil {
		return nil, "", classify(op, w.ID, err)
	}
	if _, err := answered(w.ID, r.KID); err != nil {
		return nil, "", strange(op, w.ID, raw, err.Error())
	}
	return r.Result, requestID(raw), nil
}

func (c *azureClient) Deleted(ctx context.Context, key URL) (Deleted, error) {
	const op = "getDeleted"
	v, err := c.vault(key.host)
	if err != nil {
		return Deleted{}, classify(op, key, err)
	}
	var raw *http.Response
	ctx = policy.WithCaptureResponse(ctx, &raw)
	r, err := v.GetDeletedKey(ctx, key.name, nil)
	if err != nil {
		return Deleted{}, classify(op, key, err)
	}
	if r.Key == nil || r.Key.KID == nil || !strings.EqualFold(r.Key.KID.Name(), key.name) {
		return Deleted{}, strange(op, key, raw, "the answer is about another key")
	}
	d := Deleted{RequestID: requestID(raw)}
	if r.ScheduledPurgeDate != nil {
		d.Purge = *r.ScheduledPurgeDate
	}
	return d, nil
}

// answered returns the key version that an answer is about. Host and name stay those
// that were asked: a key id in an answer must not lead us to another key store.
func answered(asked URL, kid *azkeys.ID) (URL, error) {
	if kid == nil {
		return URL{}, errors.New("the answer names no key")
	}
	parts := strings.Split(string(*kid), "/") // https: "" host keys name version
	if len(parts) != 6 || parts[3] != "keys" || !strings.EqualFold(parts[4], asked.name) || !keyVersion.MatchString(parts[5]) {
		return URL{}, errors.New("the answer is about another key")
	}
	if asked.version != "" && parts[5] != asked.version {
		return URL{}, errors.New("the answer is about another version")
	}
	return asked.WithVersion(parts[5]), nil
}

// transport carries the SDK's requests. A plain round trip follows no redirect, so
// a token goes nowhere but to the host that was checked.
type transport struct{ next http.RoundTripper }

// maxAnswerBytes bounds an answer: a 4096-bit key with all its attributes is 2 KiB.
const maxAnswerBytes = 64 << 10

// A challenge must have an authorization URL with a path: the SDK takes its fourth
// part for the directory's id, and panics when there is none.
var challenge = regexp.MustCompile(`^Bearer authorization="https://[^/"\s=]+/[^"\s=]+", (?:scope|resource)="https://[^"\s=]+"`)

func (t transport) Do(r *http.Request) (*http.Response, error) {
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusUnauthorized {
		if h := answer.Header.Values("WWW-Authenticate"); len(h) != 1 || !challenge.MatchString(h[0]) || strings.Count(h[0], "authorization=") != 1 {
			_ = answer.Body.Close()
			return nil, errors.New("the 401 has no challenge in the form of Key Vault's")
		}
	}
	answer.Body = &boundedBody{ReadCloser: answer.Body, left: maxAnswerBytes}
	return answer, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswerBytes)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// guardedCredential gives out tokens for key stores only. The resource comes from
// the host's challenge: a host that asked for, say, a management token would
// otherwise get it, and with it the powers of the identity there.
type guardedCredential struct {
	next azcore.TokenCredential
	host string // of the key store, with its port
}

// tokenError marks an error as the credential's.
type tokenError struct{ error }

func (e tokenError) Unwrap() error { return e.error }

// NonRetriable tells the SDK not to try again (errorinfo.NonRetriable).
func (tokenError) NonRetriable() {}

func (g *guardedCredential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	for _, scope := range o.Scopes {
		if !g.admit(strings.TrimSuffix(scope, "/.default")) {
			return azcore.AccessToken{}, fmt.Errorf("the key store %s asked for a token for %q, which is not a key store's", g.host, scope)
		}
	}
	t, err := g.next.GetToken(ctx, o)
	if err != nil {
		return azcore.AccessToken{}, tokenError{err}
	}
	return t, nil
}

// admit says whether resource may be the audience of a token for the host: either
// Key Vault's or Managed HSM's own, or the domain that the host is in.
func (g *guardedCredential) admit(resource string) bool {
	domain, ok := strings.CutPrefix(strings.TrimSuffix(resource, "/"), scheme)
	if !ok || domain == "" {
		return false
	}
	if domain == "vault.azure.net" || domain == "managedhsm.azure.net" {
		return true
	}
	// On any port: a vault here keeps its key identifiers when its server moves to
	// another port, and from then on challenges with the new one.
	host, _, _ := strings.Cut(g.host, ":")
	_, suffix, _ := strings.Cut(host, ".")
	domain, _, _ = strings.Cut(domain, ":")
	return domain == suffix
}
