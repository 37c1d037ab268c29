package azurecloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/tidelock/tidelock/internal/keystore"
)

const (
	sub = "11111111-1111-1111-1111-111111111111"
	id1 = "/subscriptions/" + sub + "/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id1"
	tid = "22222222-2222-2222-2222-222222222222"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	for name, contents := range map[string]string{"secret": "s3cret\n", "token": "a.b.c", "cert.pem": certificate(t)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "keystore.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

// certificate is a new one with its key, in PEM.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func identity(more string) string {
	return fmt.Sprintf(`{"identities":[{"id":%q,%s}]}`, id1, more)
}

func TestConfigurations(t *testing.T) {
	const app = `"tenantId":"t","clientId":"c"`
	for _, c := range []struct{ name, text, want string }{
		{"Managed", identity(`"type":"managedIdentity"`), ""},
		{"Workload", identity(`"type":"workloadIdentity","tokenFile":"token",` + app), ""},
		{"Secret", identity(`"type":"clientSecret","secretFile":"secret",` + app), ""},
		{"Cloud", `{"cloud":"azurechinacloud",` + identity(`"type":"managedIdentity"`)[1:], ""},
		{"UnknownCloud", `{"cloud":"Moon",` + identity(`"type":"managedIdentity"`)[1:], "AzureUSGovernment"},
		{"NoIdentities", `{}`, "identities is empty"},
		{"UnknownMember", identity(`"type":"managedIdentity","secret":"x"`), `unknown field "secret"`},
		{"UnknownType", identity(`"type":"password"`), "clientSecret"},
		{"NotAnIdentity", `{"identities":[{"id":"/subscriptions/x","type":"managedIdentity"}]}`, "not the resource id"},
		{"Twice", `{"identities":[{"id":"` + id1 + `","type":"managedIdentity"},{"id":"` + strings.ToUpper(id1) + `","type":"managedIdentity"}]}`, "twice"},
		{"FileMissing", identity(`"type":"clientSecret",` + app), "secretFile is missing"},
		{"FileNotThere", identity(`"type":"clientSecret","secretFile":"none",` + app), "no such file"},
		{"FileOfAnotherType", identity(`"type":"managedIdentity","secretFile":"secret"`), "does not belong"},
		{"TenantMissing", identity(`"type":"clientSecret","secretFile":"secret","clientId":"c"`), "tenantId"},
		{"Management", strings.TrimSuffix(identity(`"type":"managedIdentity"`), "}") + `,"management":{"type":"clientSecret"}}`, "management:"},
		{"More", identity(`"type":"managedIdentity"`) + "{}", "more after"},
		{"NoJSON", "cloud: x", "invalid character"},
	} {
		_, err := load(t, c.text)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// Every cloud's key stores, and none of another cloud's.
func TestHostSuffixes(t *testing.T) {
	hosts := map[string][]string{
		"AzureCloud":        {"v.vault.azure.net", "h.managedhsm.azure.net"},
		"AzureUSGovernment": {"v.vault.usgovcloudapi.net", "h.managedhsm.usgovcloudapi.net"},
		"AzureChinaCloud":   {"v.vault.azure.cn", "h.managedhsm.azure.cn"},
		"AzureGermanCloud":  {"v.vault.microsoftazure.de", "h.managedhsm.microsoftazure.de"},
	}
	for name := range hosts {
		c, err := findCloud(name)
		if err != nil {
			t.Fatal(err)
		}
		for owner, theirs := range hosts {
			for _, host := range theirs {
				u, err := keystore.ParseURL("https://contoso-"+host+"/keys/k", keystore.Hosts{AzureSuffixes: c.Suffixes()})
				if (err == nil) != (owner == name) {
					t.Errorf("%s in %s: got %s, %v", host, name, u, err)
				}
			}
		}
	}
}

func TestAddressesOfThisMachineAreRefused(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:443": false, "[::1]:443": false, "127.9.9.9:443": false, "[::ffff:127.0.0.1]:443": false, "0.0.0.0:443": false, "[::]:443": false,
		"169.254.169.254:443": false, "[fe80::1]:443": false, "224.0.0.1:443": false, "nonsense": false,
		"10.1.2.3:443": true, "192.168.0.9:443": true, "20.190.1.1:443": true, "[2603:1030::1]:443": true,
	} {
		if err := checkAddress(address); (err == nil) != want {
			t.Errorf("%s: got %v, want allowed: %t", address, err, want)
		}
	}
	// A name that leads here gets no connection, whatever listens.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := NewTransport().DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, ErrNotPublic) {
		t.Errorf("got %v, want ErrNotPublic", err)
	}
}

// roundTrip answers in Azure's place.
type roundTrip func(r *http.Request) (int, string)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	if status == 0 {
		return nil, errors.New("no route to host")
	}
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// authority answers for login.microsoftonline.com; false: not its host.
func authority(r *http.Request, token func(form string) (int, string)) (int, string, bool) {
	if !strings.HasPrefix(r.URL.Host, "login.") {
		return 0, "", false
	}
	base := "https://" + r.URL.Host
	switch {
	case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
		return 200, `{"tenant_discovery_endpoint":"` + base + "/" + tid + `/v2.0/.well-known/openid-configuration","metadata":[{"preferred_network":"` + r.URL.Host + `","preferred_cache":"` + r.URL.Host + `","aliases":["` + r.URL.Host + `"]}]}`, true
	case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
		return 200, `{"issuer":"` + base + "/" + tid + `/v2.0","authorization_endpoint":"` + base + `/a","token_endpoint":"` + base + "/" + tid + `/oauth2/v2.0/token"}`, true
	}
	var form bytes.Buffer
	if r.Body != nil {
		_, _ = form.ReadFrom(r.Body)
	}
	status, body := token(form.String())
	return status, body, true
}

const goodToken = `{"token_type":"Bearer","expires_in":3599,"access_token":"good"}`

// Each kind of credential asks for its token as it should, once; what keeps it away is
// told apart: no answer is an outage, a refusal is the identity's failure.
func TestCredentials(t *testing.T) {
	for _, c := range []struct {
		name, more string
		status     int
		form       string // part of what was sent
		class      keystore.Class
	}{
		{"Secret", `"type":"clientSecret","tenantId":"` + tid + `","clientId":"c","secretFile":"secret"`, 200, "client_secret=s3cret", 0},
		{"Workload", `"type":"workloadIdentity","tenantId":"` + tid + `","clientId":"c","tokenFile":"token"`, 200, "client_assertion=a.b.c", 0},
		{"Certificate", `"type":"clientCertificate","tenantId":"` + tid + `","clientId":"c","certificateFile":"cert.pem"`, 200, "client_assertion=ey", 0},
		{"Refused", `"type":"clientSecret","tenantId":"` + tid + `","clientId":"c","secretFile":"secret"`, 401, "", keystore.IdentityFailed},
		{"Throttled", `"type":"clientSecret","tenantId":"` + tid + `","clientId":"c","secretFile":"secret"`, 429, "", keystore.Unreachable},
		{"Unavailable", `"type":"clientSecret","tenantId":"` + tid + `","clientId":"c","secretFile":"secret"`, 503, "", keystore.Unreachable},
		{"NoAnswer", `"type":"clientSecret","tenantId":"` + tid + `","clientId":"c","secretFile":"secret"`, 0, "", keystore.Unreachable},
		{"OtherTenant", `"type":"clientSecret","tenantId":"33333333-3333-3333-3333-333333333333","clientId":"c","secretFile":"secret"`, 200, "", keystore.IdentityFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			config, err := load(t, identity(c.more))
			if err != nil {
				t.Fatal(err)
			}
			var form string
			var tries atomic.Int32
			config.Reach(roundTrip(func(r *http.Request) (int, string) {
				status, body, ok := authority(r, func(sent string) (int, string) {
					tries.Add(1)
					form = sent
					if c.status == 200 {
						return 200, goodToken
					}
					return c.status, `{"error":"invalid_client","error_description":"AADSTS7000215: no"}`
				})
				if !ok {
					t.Errorf("asked %s", r.URL)
				}
				return status, body
			}))
			class := describe(t, config.Credential(strings.ToUpper(id1)))
			if class != c.class || !strings.Contains(form, c.form) {
				t.Errorf("got class %d and form %q, want %d and %q", class, form, c.class, c.form)
			}
			if n := tries.Load(); n > 1 {
				t.Errorf("%d requests for one token", n)
			}
		})
	}
	broken, err := load(t, identity(`"type":"clientCertificate","tenantId":"`+tid+`","clientId":"c","certificateFile":"secret"`))
	if err != nil {
		t.Fatal(err)
	}
	if class := describe(t, broken.Credential(id1)); class != keystore.IdentityFailed {
		t.Errorf("a certificate that is none: class %d, want IdentityFailed", class)
	}
	config, err := load(t, identity(`"type":"managedIdentity"`))
	if err != nil {
		t.Fatal(err)
	}
	if class := describe(t, config.Credential(id1+"x")); class != keystore.IdentityFailed {
		t.Errorf("an identity without a credential: class %d, want IdentityFailed", class)
	}
}

// describe asks a key store that challenges, and answers whoever has the good token.
func describe(t *testing.T, credential azcore.TokenCredential) keystore.Class {
	t.Helper()
	client := keystore.New(keystore.Config{Credential: credential, Transport: challenging{roundTrip(func(r *http.Request) (int, string) {
		return 200, `{"key":{"kid":"https://contoso.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef","kty":"RSA","n":"AQAB","e":"AQAB"},"attributes":{"enabled":true}}`
	})}})
	u, err := keystore.ParseURL("https://contoso.vault.azure.net/keys/k", keystore.Hosts{AzureSuffixes: clouds[0].Suffixes()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Describe(t.Context(), u)
	var refused *keystore.Error
	if errors.As(err, &refused) {
		return refused.Class
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

type challenging struct{ next http.RoundTripper }

func (c challenging) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Authorization") != "Bearer good" {
		w := httptest.NewRecorder()
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.windows.net/`+tid+`", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return w.Result(), nil
	}
	return c.next.RoundTrip(r)
}

// A managed identity is asked for by resource id, at the endpoint of this machine.
func TestManagedIdentityGoesByResourceID(t *testing.T) {
	t.Setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token")
	t.Setenv("IDENTITY_HEADER", "h")
	config, err := load(t, identity(`"type":"managedIdentity"`))
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	config.Reach(roundTrip(func(r *http.Request) (int, string) {
		asked = r.URL.Query().Get("mi_res_id")
		return 200, `{"access_token":"good","expires_on":"4000000000","resource":"x","token_type":"Bearer"}`
	}))
	token, err := config.Credential(id1).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err != nil || token.Token != "good" || !strings.EqualFold(asked, id1) {
		t.Errorf("got %q, %v, asked for %q", token.Token, err, asked)
	}
}

func TestPlaces(t *testing.T) {
	app := `"type":"clientSecret","tenantId":"` + tid + `","clientId":"c","secretFile":"secret"`
	config, err := load(t, fmt.Sprintf(`{"identities":[{"id":%q,%s}],"management":{%s},"subscriptions":["%s"]}`, id1, app, app, tid))
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	forbid := false
	config.Reach(roundTrip(func(r *http.Request) (int, string) {
		if status, body, ok := authority(r, func(string) (int, string) { return 200, goodToken }); ok {
			return status, body
		}
		if r.URL.Host != "management.azure.com" {
			t.Errorf("asked %s", r.URL)
		}
		asked.Add(1)
		list := func(v any) string {
			raw, _ := json.Marshal(map[string]any{"value": v})
			return string(raw)
		}
		path := strings.ToLower(r.URL.Path)
		switch {
		case forbid:
			return 403, `{"error":{"code":"AuthorizationFailed","message":"no"}}`
		case strings.HasSuffix(path, "/userassignedidentities/id1"):
			return 200, `{"location":"West US 2","properties":{"tenantId":"` + tid + `","clientId":"c1","principalId":"p1"}}`
		case strings.Contains(path, "/userassignedidentities/"):
			return 404, `{"error":{"code":"ResourceNotFound","message":"no"}}`
		case strings.HasPrefix(path, "/subscriptions/"+tid) && strings.HasSuffix(path, "/vaults"):
			return 200, list([]any{map[string]any{"location": "eastus", "properties": map[string]any{"vaultUri": "https://Contoso.vault.azure.net/", "tenantId": tid}}})
		case strings.HasPrefix(path, "/subscriptions/"+tid) && strings.HasSuffix(path, "/managedhsms"):
			return 200, list([]any{map[string]any{"location": "westus2", "properties": map[string]any{"hsmUri": "https://fabrikam.managedhsm.azure.net/", "tenantId": tid}}})
		}
		return 200, list([]any{})
	}))
	places, err := NewPlaces(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for range 2 {
		if got, err := places.Identity(ctx, id1); err != nil || got != (Place{"westus2", tid, "c1", "p1"}) {
			t.Errorf("identity: %+v, %v", got, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times for one identity", n)
	}
	if got, err := places.KeyStore(ctx, "contoso.vault.azure.net"); err != nil || got.Region != "eastus" || got.TenantID != tid {
		t.Errorf("vault: %+v, %v", got, err)
	}
	if got, err := places.KeyStore(ctx, "fabrikam.managedhsm.azure.net"); err != nil || got.Region != "westus2" {
		t.Errorf("HSM: %+v, %v", got, err)
	}
	if _, err := places.KeyStore(ctx, "nobody.vault.azure.net"); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("a vault that is in no list: %v", err)
	}
	if _, err := places.Identity(ctx, id1+"x"); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("an identity that is not there: %v", err)
	}
	forbid = true
	if _, err := places.Identity(ctx, id1+"y"); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("an identity that may not be seen: %v", err)
	}
	var refused *azcore.ResponseError
	if _, err := places.KeyStore(context.WithoutCancel(ctx), "other.vault.azure.net"); !errors.Is(err, ErrNotAllowed) || !errors.As(err, &refused) {
		t.Errorf("a vault that may not be seen: %v", err)
	}
}

func FuzzConfiguration(f *testing.F) {
	for _, s := range []string{identity(`"type":"managedIdentity"`), `{}`, `{"cloud":"x"}`, `{"identities":[{}]}`, `[]`, `{"management":null}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse([]byte(text), "/")
		if (c == nil) == (err == nil) {
			t.Fatalf("%s: got %v and %v", text, c, err)
		}
		if c != nil && (len(c.identities) == 0 || len(c.Cloud.Suffixes()) != 2) {
			t.Fatalf("%s: %+v is accepted", text, c)
		}
	})
}
