package entra_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/entra"
)

// What the workload's tokens say.
const (
	subject  = "system:serviceaccount:default:workload"
	audience = "api://AzureADTokenExchange"
)

// issuer is an OpenID provider on loopback, such as a cluster's.
type issuer struct {
	server *httptest.Server
	url    string
	asked  atomic.Int32
	key    atomic.Pointer[rsa.PrivateKey]
	number atomic.Int32 // of the key
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	i.rotate(t)
	i.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["RS256","none","HS256"]}`, i.url, i.url+"/keys")
		case "/keys":
			key := i.key.Load()
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
				"kty": "RSA", "use": "sig", "alg": "RS256", "kid": i.kid(),
				"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
			}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(i.server.Close)
	i.url = i.server.URL
	return i
}

func (i *issuer) kid() string { return fmt.Sprint("key-", i.number.Load()) }

func (i *issuer) rotate(t *testing.T) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i.key.Store(key)
	i.number.Add(1)
}

func (i *issuer) publicKey(t *testing.T) []byte {
	der, err := x509.MarshalPKIXPublicKey(i.key.Load().Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// token is a good one, changed; nil removes a claim.
func (i *issuer) token(t *testing.T, change jwt.MapClaims) string {
	t.Helper()
	return i.signed(t, jwt.SigningMethodRS256, i.key.Load(), change)
}

func (i *issuer) signed(t *testing.T, method jwt.SigningMethod, key any, change jwt.MapClaims) string {
	t.Helper()
	now := time.Now()
	c := jwt.MapClaims{"iss": i.url, "sub": subject, "aud": audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	token := jwt.NewWithClaims(method, c)
	token.Header["kid"] = i.kid()
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// client may reach this issuer, and those on the same host, and no other on loopback.
func (i *issuer) client(t *testing.T) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(i.server.Certificate())
	c, err := entra.NewIssuerClient(entra.IssuerNetwork{Private: []string{i.url}, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a authority) postAssertion(clientID, assertion string) *httptest.ResponseRecorder {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {clientID}, "scope": {"https://vault.azure.net/.default"},
		"client_assertion": {assertion}, "client_assertion_type": {jwtBearer},
	}
	r := httptest.NewRequest(http.MethodPost, "/"+string(a.directory)+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	return w
}

// An issuer's URL is chosen by whoever may write a federated credential. Nothing in
// this machine's or the operator's network is asked because of it.
func TestIssuerClientReachesNothingPrivate(t *testing.T) {
	inside := newIssuer(t)
	roots := x509.NewCertPool()
	roots.AddCert(inside.server.Certificate())
	guarded, err := entra.NewIssuerClient(entra.IssuerNetwork{Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	port := inside.server.Listener.Addr().(interface{ String() string }).String()
	port = port[strings.LastIndexByte(port, ':'):]
	for _, host := range []string{
		"127.0.0.1", "localhost", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "10.0.0.1", "172.16.0.1", "192.168.1.1",
		"169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "198.18.0.1", "255.255.255.255", "224.0.0.1",
	} {
		answer, err := guarded.Get("https://" + host + port + "/")
		if err == nil {
			answer.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "not public") {
			t.Errorf("%s: got %v, want it refused", host, err)
		}
	}
	if n := inside.asked.Load(); n != 0 {
		t.Errorf("%d requests came through", n)
	}
	for _, u := range []string{"http://example.com/", "https://user@example.com/"} {
		if answer, err := guarded.Get(u); err == nil {
			answer.Body.Close()
			t.Errorf("%s was asked", u)
		}
	}
	if _, err := entra.NewIssuerClient(entra.IssuerNetwork{Private: []string{"http://x"}}); err == nil {
		t.Error("a private issuer without TLS was taken")
	}
}

// A redirect is an answer, and a bad one; a listed issuer's host on another port is
// not listed.
func TestIssuerClientIsNotLedOn(t *testing.T) {
	target := newIssuer(t)
	redirecting := httptest.NewTLSServer(http.RedirectHandler(target.url, http.StatusFound))
	t.Cleanup(redirecting.Close)
	roots := x509.NewCertPool()
	roots.AddCert(target.server.Certificate())
	c, err := entra.NewIssuerClient(entra.IssuerNetwork{Private: []string{redirecting.URL}, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Get(redirecting.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusFound {
		t.Errorf("got %d, want the redirect itself", answer.StatusCode)
	}
	if answer, err := c.Get(target.url); err == nil {
		answer.Body.Close()
		t.Error("another port of the listed host was asked")
	}
	if n := target.asked.Load(); n != 0 {
		t.Errorf("%d requests came through", n)
	}
}

// Made-up key ids do not become requests without end.
func TestIssuerIsNotFlooded(t *testing.T) {
	cluster := newIssuer(t)
	a := newAuthorityWith(t, cluster.client(t))
	app, _ := a.application(t, "app")
	if _, _, err := a.PutFederatedCredential(t.Context(), app.ObjectID, entra.FederatedCredential{
		Name: "cluster", Issuer: cluster.url, Subject: subject, Audiences: []string{audience},
	}); err != nil {
		t.Fatal(err)
	}
	good := cluster.token(t, nil)
	for range 40 {
		cluster.number.Add(1)
		forged := cluster.token(t, jwt.MapClaims{"jti": "x"})
		cluster.number.Add(-1)
		if w := a.postAssertion(app.ClientID, forged); w.Code == 200 {
			t.Fatal("a token of an unknown key was taken")
		}
	}
	if n := cluster.asked.Load(); n > 20 {
		t.Errorf("40 forged tokens made %d requests", n)
	}
	if w := a.postAssertion(app.ClientID, good); w.Code != 200 {
		t.Errorf("a good token meanwhile: %d %s", w.Code, w.Body)
	}
}
