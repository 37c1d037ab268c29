package keystore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/keystore/keystoretest"
)

var hosts = keystore.Hosts{Suffixes: []string{"vault.tidelock.localhost"}}

const (
	version   = "0123456789abcdef0123456789abcdef"
	challenge = `Bearer authorization="https://login.example.test/11111111-2222-3333-4444-555555555555", resource="https://vault.azure.net"`
	secret    = "token-that-must-not-leak"
)

// tinyVault answers like Key Vault, for one key.
type tinyVault struct {
	key       *rsa.PrivateKey
	challenge string
	answer    func(w http.ResponseWriter, r *http.Request) bool // instead; false: as usual

	mu   sync.Mutex
	seen []*http.Request
}

func (v *tinyVault) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("x-ms-request-id", "request-7")
	v.mu.Lock()
	v.seen = append(v.seen, r)
	v.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", v.challenge)
		w.WriteHeader(http.StatusUnauthorized)
	case v.answer != nil && v.answer(w, r):
	default:
		v.serve(w, r)
	}
	return w.Result(), nil
}

func (v *tinyVault) serve(w http.ResponseWriter, r *http.Request) {
	b64 := base64.RawURLEncoding
	kid := "https://contoso.vault.tidelock.localhost/keys/kek/" + version
	var body struct {
		Alg   string `json:"alg"`
		Value string `json:"value"`
	}
	answer := map[string]any{"kid": kid}
	switch {
	case r.Method == http.MethodGet:
		answer = map[string]any{
			"key": map[string]any{
				"kid": kid, "kty": "RSA", "key_ops": []string{"wrapKey", "unwrapKey"},
				"n": b64.EncodeToString(v.key.N.Bytes()), "e": "AQAB",
			},
			"attributes": map[string]any{"enabled": true, "exp": 2000000000, "nbf": 1000000000, "recoveryLevel": "Recoverable+Purgeable"},
		}
	default:
		_ = json.NewDecoder(r.Body).Decode(&body)
		value, _ := b64.DecodeString(body.Value)
		var err error
		if strings.HasSuffix(r.URL.Path, "/wrapkey") {
			value, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &v.key.PublicKey, value, nil)
		} else {
			value, err = rsa.DecryptOAEP(sha256.New(), nil, v.key, value, nil)
		}
		if err != nil || body.Alg != "RSA-OAEP-256" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"code":"BadParameter","message":"bad"}}`)
			return
		}
		answer["value"] = b64.EncodeToString(value)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

type credential struct{ err error }

func (c credential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: secret, ExpiresOn: time.Now().Add(time.Hour)}, c.err
}

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func setUp(t *testing.T) (*tinyVault, *keystoretest.Transport, keystore.Client, keystore.URL) {
	t.Helper()
	v := &tinyVault{key: testKey(), challenge: challenge}
	faults := keystoretest.New(v)
	u, err := keystore.ParseURL("https://contoso.vault.tidelock.localhost:8443/keys/kek", hosts)
	if err != nil {
		t.Fatal(err)
	}
	return v, faults, keystore.New(keystore.Config{Credential: credential{}, Transport: faults}), u
}

func TestDescribeWrapUnwrap(t *testing.T) {
	v, _, c, u := setUp(t)
	k, err := c.Describe(t.Context(), u)
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	if k.ID != u.WithVersion(version) || k.Type != "RSA" || k.Bits != 2048 || !k.Enabled || len(k.Operations) != 2 ||
		k.Expires.Unix() != 2000000000 || k.NotBefore.Unix() != 1000000000 || k.RecoveryLevel != "Recoverable+Purgeable" {
		t.Errorf("key = %+v", k)
	}
	material := bytes.Repeat([]byte{3}, 32)
	w, err := c.Wrap(t.Context(), u, material)
	if err != nil {
		t.Fatalf("wrap: %v", err)
	}
	if w.ID != k.ID || w.Algorithm != "RSA-OAEP-256" || w.RequestID != "request-7" || len(w.Value) != 256 {
		t.Errorf("wrapped = %+v", w)
	}
	got, id, err := c.Unwrap(t.Context(), w)
	if err != nil || !bytes.Equal(got, material) || id != "request-7" {
		t.Errorf("unwrap = %x, %q, %v", got, id, err)
	}
	if n := len(v.seen); n != 4 {
		t.Errorf("%d requests, want a challenge and three calls", n)
	}
	for _, r := range v.seen {
		if r.URL.Host != "contoso.vault.tidelock.localhost:8443" || r.URL.Scheme != "https" {
			t.Errorf("a request went to %s", r.URL)
		}
	}
}

func TestRefusalsAreClassified(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault keystoretest.Fault
		class keystore.Class
		code  string
	}{
		{"KeyDisabled", keystoretest.KeyDisabled, keystore.Disabled, "KeyDisabled"},
		{"KeyExpired", keystoretest.KeyExpired, keystore.Expired, "KeyExpired"},
		{"AccessDenied", keystoretest.AccessDenied, keystore.Denied, "AccessDenied"},
		{"AccessByPolicy", keystoretest.AccessByPolicy, keystore.Denied, "ForbiddenByPolicy"},
		{"AccessByRBAC", keystoretest.AccessByRBAC, keystore.Denied, "ForbiddenByRbac"},
		{"OldAccessDenied", keystoretest.Fault{Status: 403, Code: "AccessDenied"}, keystore.Denied, "AccessDenied"},
		{"ManagedHSM", keystoretest.Fault{Status: 403, Body: `{"error":{"code":"AccessDenied","message":"Not authorized to access Microsoft.KeyVault/managedHsm/keys/unwrap/action on /keys/kek (Activity ID: 1)"}}`}, keystore.Denied, "AccessDenied"},
		{"Firewall", keystoretest.Firewall, keystore.Firewall, "ForbiddenByFirewall"},
		{"PrivateOnly", keystoretest.PrivateOnly, keystore.Firewall, "ForbiddenByConnection"},
		{"FirewallBeforePermission", keystoretest.Fault{Status: 403, Body: `{"error":{"code":"AccessDenied","innererror":{"code":"ForbiddenByFirewall"}}}`}, keystore.Firewall, "ForbiddenByFirewall"},
		{"NestedInner", keystoretest.Fault{Status: 403, Body: `{"error":{"code":"Forbidden","innererror":{"code":"X","innererror":{"code":"KeyDisabled"}}}}`}, keystore.Disabled, "KeyDisabled"},
		{"UnknownRefusal", keystoretest.UnknownRefusal, keystore.DeniedUnclassified, "Forbidden"},
		{"RefusalWithoutJSON", keystoretest.Fault{Status: 403, Body: "<html>no</html>"}, keystore.DeniedUnclassified, ""},
		{"KeyNotFound", keystoretest.KeyNotFound, keystore.NotFound, "KeyNotFound"},
		{"VaultNotFound", keystoretest.Fault{Status: 404, Code: "VaultNotFound"}, keystore.VaultNotFound, "VaultNotFound"},
		{"SomeonesElse404", keystoretest.Fault{Status: 404, Body: "<html>nothing here</html>"}, keystore.Unreachable, ""},
		{"BadParameter", keystoretest.Fault{Status: 400, Code: "BadParameter"}, keystore.Invalid, "BadParameter"},
		{"Throttled", keystoretest.Throttled, keystore.Throttled, "Throttled"},
		{"Unavailable", keystoretest.Unavailable, keystore.Unreachable, "ServiceUnavailable"},
		{"Redirect", keystoretest.Fault{Status: 302, Header: http.Header{"Location": {"https://evil.test/"}}}, keystore.Unreachable, ""},
		{"Dropped", keystoretest.Fault{Err: keystoretest.ErrDropped}, keystore.Unreachable, ""},
		{"NoSuchHost", keystoretest.Fault{Err: keystoretest.NoSuchHost}, keystore.VaultNotFound, ""},
		{"ServFail", keystoretest.Fault{Err: keystoretest.ServFail}, keystore.Unreachable, ""},
		{"TooLong", keystoretest.Fault{Status: 403, Body: strings.Repeat(" ", 1<<20)}, keystore.Unreachable, ""},
		{"NotAKey", keystoretest.Fault{Status: 200, Body: `{}`}, keystore.Unreachable, "StrangeAnswer"},
		{"NotJSON", keystoretest.Fault{Status: 200, Body: `<html>`}, keystore.Unreachable, ""},
		{"OtherKey", keystoretest.Fault{Status: 200, Body: `{"key":{"kid":"https://evil.test/keys/other/` + version + `","kty":"RSA"},"attributes":{"enabled":true}}`}, keystore.Unreachable, "StrangeAnswer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, faults, client, u := setUp(t)
			if _, err := client.Describe(t.Context(), u); err != nil { // past the challenge
				t.Fatal(err)
			}
			faults.Set(c.fault)
			_, err := client.Describe(t.Context(), u)
			var e *keystore.Error
			if !errors.As(err, &e) || e.Class != c.class || e.Code != c.code && c.code != "" {
				t.Fatalf("got %#v (%v), want class %d, code %q", e, err, c.class, c.code)
			}
			if e.Op != "get" || e.Key != u {
				t.Errorf("error about %s of %s", e.Op, e.Key)
			}
			if strings.ContainsAny(e.Message, "\r\n") {
				t.Errorf("message %q has line breaks", e.Message)
			}
			if e.Outage() != (c.class == keystore.Unreachable || c.class == keystore.Throttled) {
				t.Errorf("Outage() = %v", e.Outage())
			}
		})
	}
}

func TestOneCallIsOneTry(t *testing.T) {
	_, faults, c, u := setUp(t)
	if _, err := c.Describe(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	tries := 0
	faults.SetFunc(func(*http.Request) keystoretest.Fault { tries++; return keystoretest.Unavailable })
	if _, err := c.Describe(t.Context(), u); err == nil {
		t.Error("no error")
	}
	if tries != 1 {
		t.Errorf("%d tries, want 1", tries)
	}
}

func TestDeadlineIsAnOutage(t *testing.T) {
	_, faults, c, u := setUp(t)
	faults.Set(keystoretest.Fault{Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := c.Wrap(ctx, u, []byte("x"))
	var e *keystore.Error
	if !errors.As(err, &e) || !e.Outage() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want an outage by deadline", err)
	}
}

func TestTokenFailures(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		class keystore.Class
	}{
		"NoSuchIdentity":      {errors.New("identity not found"), keystore.IdentityFailed},
		"TokenServiceIsDown":  {keystoretest.ServFail, keystore.Unreachable},
		"TokenServiceIsSlow":  {context.DeadlineExceeded, keystore.Unreachable},
		"TokenServiceIs503":   {&azcore.ResponseError{StatusCode: 503}, keystore.Unreachable},
		"TokenServiceRefuses": {&azcore.ResponseError{StatusCode: 401}, keystore.IdentityFailed},
	} {
		t.Run(name, func(t *testing.T) {
			v, _, _, u := setUp(t)
			client := keystore.New(keystore.Config{Credential: credential{c.err}, Transport: v})
			_, err := client.Describe(t.Context(), u)
			var e *keystore.Error
			if !errors.As(err, &e) || e.Class != c.class || !errors.Is(err, c.err) {
				t.Errorf("got %v (%+v), want class %d", err, e, c.class)
			}
		})
	}
}

// The vault names the resource that a token is fetched for: it must be a vault's.
func TestChallengesForOtherTokensAreRefused(t *testing.T) {
	const login = `Bearer authorization="https://login.example.test/tid", `
	for name, c := range map[string]struct {
		challenge string
		ok        bool
	}{
		"KeyVault":        {login + `resource="https://vault.azure.net"`, true},
		"ManagedHSM":      {login + `resource="https://managedhsm.azure.net"`, true},
		"OwnDomain":       {login + `resource="https://vault.tidelock.localhost"`, true},
		"OwnDomainPort":   {login + `resource="https://vault.tidelock.localhost:8443"`, true},
		"Scope":           {login + `scope="https://vault.azure.net/.default"`, true},
		"Management":      {login + `resource="https://management.azure.com"`, false},
		"Graph":           {login + `resource="https://graph.microsoft.com"`, false},
		"TopLevel":        {login + `resource="https://localhost"`, false},
		"Lookalike":       {login + `resource="https://evil-vault.azure.net"`, false},
		"NoPath":          {`Bearer authorization="https://login.example.test", resource="https://vault.azure.net"`, false},
		"NoAuthorization": {`Bearer resource="https://vault.azure.net"`, false},
		"Twice":           {login + `resource="https://vault.azure.net" authorization=x`, false},
		"Basic":           {`Basic realm="x"`, false},
		"Nothing":         {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			v, _, client, u := setUp(t)
			v.challenge = c.challenge
			_, err := client.Describe(t.Context(), u)
			if (err == nil) != c.ok {
				t.Errorf("got %v, want success %v", err, c.ok)
			}
			for _, r := range v.seen {
				if !c.ok && r.Header.Get("Authorization") != "" {
					t.Error("a token was sent")
				}
			}
		})
	}
}

func TestErrorsHaveNoToken(t *testing.T) {
	_, faults, c, u := setUp(t)
	if _, err := c.Describe(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	faults.Set(keystoretest.AccessDenied)
	_, err := c.Wrap(t.Context(), u, []byte("material"))
	if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "material") {
		t.Errorf("error = %v", err)
	}
}

func TestAnswerAboutAnotherVersionIsNone(t *testing.T) {
	_, _, c, u := setUp(t)
	_, err := c.Describe(t.Context(), u.WithVersion(strings.Repeat("f", 32)))
	var e *keystore.Error
	if !errors.As(err, &e) || e.Code != "StrangeAnswer" {
		t.Errorf("got %v, want StrangeAnswer", err)
	}
}

func TestUnwrapNeedsAVersion(t *testing.T) {
	v, _, c, u := setUp(t)
	_, _, err := c.Unwrap(t.Context(), keystore.Wrapped{ID: u, Algorithm: "RSA-OAEP-256", Value: []byte("x")})
	var e *keystore.Error
	if !errors.As(err, &e) || e.Class != keystore.Invalid || len(v.seen) != 0 {
		t.Errorf("got %v after %d requests, want Invalid without any", err, len(v.seen))
	}
}
