package entra_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store/memory"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const login = "https://login.test"

// endpoint is an authority without a network, and an application in it.
type endpoint struct {
	*entra.Service
	log       *bytes.Buffer
	directory entra.DirectoryID
	app       entra.Principal
	secret    string
}

func newEndpoint(t testing.TB) endpoint {
	t.Helper()
	e := endpoint{log: &bytes.Buffer{}}
	var err error
	e.Service, err = entra.Open(context.Background(), entra.Config{
		Store: memory.New(), Service: envelope.NewServiceKey(), Login: login, VaultSuffix: testVaultSuffix, GenerateRSA: rsatest.New(),
		Log: slog.New(slog.NewTextHandler(e.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.directory, err = e.CreateDirectory(t.Context(), "contoso"); err != nil {
		t.Fatal(err)
	}
	if e.app, e.secret, err = e.CreateApplication(t.Context(), e.directory, "app"); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e endpoint) get(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

// post sends a form; change edits the good one, an empty value removes.
func (e endpoint) post(path string, change map[string]string, header ...string) *httptest.ResponseRecorder {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {e.app.ClientID}, "client_secret": {e.secret},
		"scope": {"https://vault.azure.net/.default"},
	}
	for name, value := range change {
		form.Set(name, value)
		if value == "" {
			form.Del(name)
		}
	}
	return e.send(path, form.Encode(), header...)
}

func (e endpoint) send(path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, r)
	return w
}

func decodeJSON[T any](t *testing.T, r io.Reader) T {
	t.Helper()
	var v T
	if err := json.NewDecoder(r).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// golden compares a document with testdata, ids and times replaced by their kinds.
func (e endpoint) golden(t *testing.T, name string, got []byte) {
	t.Helper()
	text := string(got)
	for from, to := range map[string]string{string(e.directory): "{directory}", e.app.ClientID: "{client}"} {
		text = strings.ReplaceAll(text, from, to)
	}
	for pattern, to := range map[string]string{
		`[0-9a-f]{8}-[0-9a-f-]{27}`:       "{guid}",
		`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`: "{time}",
		`eyJ[\w-]+\.[\w-]+\.[\w-]+`:       "{token}",
		`"(expires_on|not_before)":"\d+"`: `"$1":"{time}"`,
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, to)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(text), "", "  "); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, indented.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if indented.String() != string(want) {
		t.Errorf("%s:\n got %s\nwant %s", name, indented.String(), want)
	}
}

func TestDocuments(t *testing.T) {
	e := newEndpoint(t)
	d := string(e.directory)
	for name, path := range map[string]string{
		"openid":        "/" + d + "/v2.0/.well-known/openid-configuration",
		"openid_common": "/common/v2.0/.well-known/openid-configuration",
		"openid_adfs":   "/adfs/.well-known/openid-configuration",
		"instance":      "/common/discovery/instance?api-version=1.1&authorization_endpoint=" + url.QueryEscape(login+"/"+d+"/oauth2/v2.0/authorize"),
	} {
		t.Run(name, func(t *testing.T) {
			w := e.get(path)
			if w.Code != 200 || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("got %d %s", w.Code, w.Header())
			}
			e.golden(t, name, w.Body.Bytes())
			if got := e.get(strings.ToUpper(path[:strings.IndexByte(path+"?", '?')]) + path[strings.IndexByte(path+"?", '?'):]); got.Code != 200 {
				t.Errorf("in capitals: got %d", got.Code)
			}
		})
	}
}

// TestTokenIsGoodByPublishedKeys checks a token as a stranger would: with the keys
// of jwks_uri.
func TestTokenIsGoodByPublishedKeys(t *testing.T) {
	e := newEndpoint(t)
	d := string(e.directory)
	set := decodeJSON[struct {
		Keys []struct{ Kty, Use, Alg, Kid, N, E string }
	}](t, e.get("/"+d+"/discovery/v2.0/keys").Body)
	if len(set.Keys) != 1 || set.Keys[0].Alg != "RS256" || set.Keys[0].Kty != "RSA" || set.Keys[0].Use != "sig" {
		t.Fatalf("keys: got %+v", set)
	}
	number := func(s string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	public := &rsa.PublicKey{N: number(set.Keys[0].N), E: int(number(set.Keys[0].E).Int64())}

	answer := decodeJSON[struct {
		Token string `json:"access_token"`
	}](t, e.post("/"+d+"/oauth2/v2.0/token", nil).Body)
	parsed, err := jwt.Parse(answer.Token, func(token *jwt.Token) (any, error) {
		if token.Header["kid"] != set.Keys[0].Kid {
			t.Errorf("kid: got %v, want %s", token.Header["kid"], set.Keys[0].Kid)
		}
		return public, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	claims := parsed.Claims.(jwt.MapClaims)
	for name, want := range map[string]any{
		"aud": "https://vault.azure.net", "iss": "https://sts.windows.net/" + d + "/", "idp": "https://sts.windows.net/" + d + "/",
		"appid": e.app.ClientID, "appidacr": "1", "idtyp": "app", "oid": e.app.ObjectID, "sub": e.app.ObjectID, "tid": d, "ver": "1.0",
	} {
		if claims[name] != want {
			t.Errorf("%s: got %v, want %v", name, claims[name], want)
		}
	}
	if claims["uti"] == "" || claims["exp"].(float64)-claims["iat"].(float64) != 3600 || claims["nbf"] != claims["iat"] {
		t.Errorf("got claims %v", claims)
	}
}

func TestTokenRequests(t *testing.T) {
	e := newEndpoint(t)
	d := string(e.directory)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(e.app.ClientID)+":"+url.QueryEscape(e.secret)))
	for _, test := range []struct {
		name, path string
		change     map[string]string
		header     []string
		golden     string
	}{
		{"V2", "/" + d + "/oauth2/v2.0/token", nil, nil, "token"},
		{"DirectoryInCapitals", "/" + strings.ToUpper(d) + "/oauth2/v2.0/token", nil, nil, "token"},
		{"FourScopes", "/" + d + "/oauth2/v2.0/token", map[string]string{"scope": "https://management.azure.com//.default openid offline_access profile"}, nil, "token"},
		{"CommandLine", "/adfs/oauth2/token", map[string]string{"client_info": "1", "claims": `{"access_token": {"xms_cc": {"values": ["CP1"]}}}`, "scope": login + "/.default"}, nil, "token"},
		{"AdfsWithDirectory", "/adfs/" + d + "/oauth2/v2.0/token", nil, nil, "token"},
		{"Basic", "/" + d + "/oauth2/v2.0/token", map[string]string{"client_id": "", "client_secret": ""}, []string{"Authorization", basic}, "token"},
		{"V1", "/" + d + "/oauth2/token", map[string]string{"scope": "", "resource": "https://vault.azure.net"}, nil, "token_v1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := e.post(test.path, test.change, test.header...)
			if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			e.golden(t, test.golden, w.Body.Bytes())
		})
	}
	if log := e.log.String(); strings.Contains(log, e.secret) || strings.Contains(log, "eyJ") {
		t.Error("the log shows a secret or a token")
	}
}

func TestTokenRefusals(t *testing.T) {
	e := newEndpoint(t)
	d := string(e.directory)
	path := "/" + d + "/oauth2/v2.0/token"
	other, err := e.CreateDirectory(t.Context(), "fabrikam")
	if err != nil {
		t.Fatal(err)
	}
	identity, err := e.CreateManagedIdentity(t.Context(), e.directory, "/identity")
	if err != nil {
		t.Fatal(err)
	}
	expired, _, err := e.AddSecret(t.Context(), e.app.ObjectID, "old", time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		change     map[string]string
		header     []string
		status     int
		kind       string
		number     int
	}{
		{"WrongSecret", path, map[string]string{"client_secret": "x"}, nil, 401, "invalid_client", 7000215},
		{"NoSecret", path, map[string]string{"client_secret": ""}, nil, 401, "invalid_client", 7000216},
		{"AssertionWithoutType", path, map[string]string{"client_secret": "", "client_assertion": "e30.e30.x"}, nil, 400, "invalid_request", 900144},
		{"ExpiredSecret", path, map[string]string{"client_secret": expired}, nil, 401, "invalid_client", 7000222},
		{"WrongBasic", path, map[string]string{"client_id": "", "client_secret": ""}, []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(e.app.ClientID+":x"))}, 401, "invalid_client", 7000215},
		{"MalformedBasic", path, nil, []string{"Authorization", "Basic !"}, 401, "invalid_client", 7000216},
		{"SecretInBothPlaces", path, nil, []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(e.app.ClientID+":x"))}, 400, "invalid_request", 90023},
		{"UnknownClient", path, map[string]string{"client_id": "2a2c3f0e-0000-4000-8000-000000000000"}, nil, 400, "unauthorized_client", 700016},
		{"ClientOfAnotherDirectory", "/" + string(other) + "/oauth2/v2.0/token", nil, nil, 400, "unauthorized_client", 700016},
		{"ManagedIdentityHasNoSecret", path, map[string]string{"client_id": identity.ClientID}, nil, 401, "invalid_client", 7000215},
		{"UnknownTenant", "/2a2c3f0e-0000-4000-8000-000000000000/oauth2/v2.0/token", nil, nil, 400, "invalid_request", 90002},
		{"CommonIsNoTenant", "/common/oauth2/v2.0/token", nil, nil, 400, "invalid_request", 50059},
		{"UnknownResource", path, map[string]string{"scope": "https://storage.azure.com/.default"}, nil, 400, "invalid_resource", 500011},
		{"ScopeWithoutDefault", path, map[string]string{"scope": "https://vault.azure.net"}, nil, 400, "invalid_scope", 1002012},
		{"NoScope", path, map[string]string{"scope": ""}, nil, 400, "invalid_request", 900144},
		{"NoClient", path, map[string]string{"client_id": ""}, nil, 400, "invalid_request", 900144},
		{"NoGrant", path, map[string]string{"grant_type": ""}, nil, 400, "invalid_request", 900144},
		{"Password", path, map[string]string{"grant_type": "password"}, nil, 400, "unsupported_grant_type", 70003},
		{"NotAForm", path, nil, []string{"Content-Type", "application/json"}, 400, "invalid_request", 90023},
		{"UnknownPath", "/" + d + "/oauth2/v2.0/authorize", nil, nil, 404, "invalid_request", 90023},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := e.post(test.path, test.change, test.header...)
			body := w.Body.String()
			got := decodeJSON[struct {
				Kind    string `json:"error"`
				Numbers []int  `json:"error_codes"`
			}](t, strings.NewReader(body))
			if w.Code != test.status || got.Kind != test.kind || len(got.Numbers) != 1 || got.Numbers[0] != test.number {
				t.Errorf("got %d %s", w.Code, body)
			}
			if strings.Contains(body, e.secret) {
				t.Error("the answer shows the secret")
			}
		})
	}
	t.Run("Twice", func(t *testing.T) {
		if w := e.send(path, "grant_type=client_credentials&client_id=a&client_id=b"); w.Code != 400 || !strings.Contains(w.Body.String(), "AADSTS9000411") {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
	t.Run("TooLarge", func(t *testing.T) {
		if w := e.send(path, "grant_type="+strings.Repeat("x", 70000)); w.Code != 400 || !strings.Contains(w.Body.String(), "AADSTS90023") {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
	t.Run("Method", func(t *testing.T) {
		if w := e.get(path); w.Code != 405 || w.Header().Get("Allow") != "POST" {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
	t.Run("UnknownTenantsDocument", func(t *testing.T) {
		if w := e.get("/x/v2.0/.well-known/openid-configuration"); w.Code != 400 || !strings.Contains(w.Body.String(), "AADSTS90002") {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
	t.Run("Instance", func(t *testing.T) {
		for _, bad := range []string{"", "http://login.test/x", "https:///x", "%zz", "https://login.test/"} {
			if w := e.get("/common/discovery/instance?authorization_endpoint=" + url.QueryEscape(bad)); w.Code != 400 {
				t.Errorf("%q: got %d %s", bad, w.Code, w.Body)
			}
		}
	})
	e.golden(t, "error", e.post(path, map[string]string{"client_secret": "x"}).Body.Bytes())
	if log := e.log.String(); strings.Contains(log, e.secret) {
		t.Error("the log shows the secret")
	}
}

// Whatever the form, nobody has a token who does not send the secret, and a bad form is
// the client's fault.
func FuzzTokenForm(f *testing.F) {
	e := newEndpoint(f)
	good := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {e.app.ClientID}, "client_secret": {e.secret}, "scope": {"https://vault.azure.net/.default"},
	}
	for _, seed := range []string{
		good.Encode(), "", "grant_type=client_credentials", "%", "a=b;c=d", "client_id=a&client_id=b", strings.Repeat("a=b&", 2000),
		"grant_type=client_credentials&client_id=" + e.app.ClientID + "&client_secret=%00&scope=https://vault.azure.net/.default",
		"grant_type=client_credentials&client_id=" + e.app.ClientID + "&client_assertion=x&client_assertion_type=" + jwtBearer,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := e.send("/"+string(e.directory)+"/oauth2/v2.0/token", body)
		switch {
		case w.Code == http.StatusOK:
			if form, err := url.ParseQuery(body); err != nil || form.Get("client_secret") != e.secret {
				t.Errorf("%q got a token", body)
			}
		case w.Code != http.StatusBadRequest && w.Code != http.StatusUnauthorized:
			t.Errorf("%q: got %d %s", body, w.Code, w.Body)
		case strings.Contains(w.Body.String(), e.secret):
			t.Errorf("%q: the answer has the secret", body)
		}
	})
}
