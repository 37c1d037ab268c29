package entra

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store/memory"
)

const testIdentity = "/subscriptions/s/identities/relay"

// openTest is a service with one directory and one managed identity.
func openTest(t testing.TB) (*Service, Principal) {
	t.Helper()
	s, err := Open(t.Context(), Config{
		Store: memory.New(), Service: envelope.NewServiceKey(), Login: "https://login.test/", VaultSuffix: "vault.test:8443",
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.CreateDirectory(t.Context(), "contoso")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.CreateManagedIdentity(t.Context(), d, testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

func carrying(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Authorization"] = authorization
	return r
}

// TestForgedTokens changes one thing of a good token each.
func TestForgedTokens(t *testing.T) {
	s, p := openTest(t)
	stranger, err := rsa.GenerateKey(rand.Reader, signingKeyBits)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	good := jwt.MapClaims{
		"aud": AudienceManagement, "iss": issuerOf(p.Directory), "iat": now, "nbf": now, "exp": now + 60,
		"appid": p.ClientID, "oid": p.ObjectID, "tid": string(p.Directory),
	}
	sign := func(method jwt.SigningMethod, key any, change jwt.MapClaims, drop ...string) string {
		c := maps.Clone(good)
		maps.Copy(c, change)
		for _, name := range drop {
			delete(c, name)
		}
		token := jwt.NewWithClaims(method, c)
		token.Header["kid"] = s.keys.newest.id
		signed, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + signed
	}
	ours := s.keys.newest.private
	with := func(change jwt.MapClaims, drop ...string) string {
		return sign(jwt.SigningMethodRS256, ours, change, drop...)
	}
	valid := with(nil)
	parts := strings.Split(valid, ".")
	other, err := s.CreateManagedIdentity(t.Context(), p.Directory, "/other")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Management(carrying(valid)); err != nil || got.ObjectID != p.ObjectID {
		t.Fatalf("the unchanged token: got %+v, %v", got, err)
	}
	for _, test := range []struct {
		name          string
		authorization []string
		code, vault   string
	}{
		{"NoHeader", nil, "AuthenticationFailed", "AKV10000"},
		{"EmptyHeader", []string{""}, "InvalidAuthenticationToken", "AKV10046"},
		{"Basic", []string{"Basic eDp5"}, "InvalidAuthenticationToken", "AKV10046"},
		{"TwoHeaders", []string{valid, valid}, "InvalidAuthenticationToken", "AKV10046"},
		{"NoToken", []string{"Bearer "}, "InvalidAuthenticationToken", "AKV10046"},
		{"NotAToken", []string{"Bearer x.y"}, "InvalidAuthenticationToken", "AKV10046"},
		{"TooLong", []string{valid + strings.Repeat("A", maxTokenBytes)}, "InvalidAuthenticationToken", "AKV10046"},
		{"AlgNone", []string{sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil)}, "InvalidAuthenticationToken", "AKV10046"},
		{"HMACWithPublicKey", []string{sign(jwt.SigningMethodHS256, ours.N.Bytes(), nil)}, "InvalidAuthenticationToken", "AKV10046"},
		{"OtherAlgorithm", []string{sign(jwt.SigningMethodPS256, ours, nil)}, "InvalidAuthenticationToken", "AKV10046"},
		{"OtherKey", []string{sign(jwt.SigningMethodRS256, stranger, nil)}, "InvalidAuthenticationToken", "AKV10046"},
		{"ChangedClaims", []string{parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"oid":"x"}`)) + "." + parts[2]}, "InvalidAuthenticationToken", "AKV10046"},
		{"NoSignature", []string{parts[0] + "." + parts[1] + "."}, "InvalidAuthenticationToken", "AKV10046"},
		{"NoExpiry", []string{with(nil, "exp")}, "InvalidAuthenticationToken", "AKV10046"},
		{"NoNotBefore", []string{with(nil, "nbf")}, "InvalidAuthenticationToken", "AKV10046"},
		{"Expired", []string{with(jwt.MapClaims{"exp": now - 1})}, "ExpiredAuthenticationToken", "TokenExpired"},
		{"ExpiredByAStranger", []string{sign(jwt.SigningMethodRS256, stranger, jwt.MapClaims{"exp": now - 1})}, "InvalidAuthenticationToken", "AKV10046"},
		{"Early", []string{with(jwt.MapClaims{"nbf": now + 30})}, "InvalidAuthenticationToken", "TokenNotYetValid"},
		{"OtherAudience", []string{with(jwt.MapClaims{"aud": "https://graph.microsoft.com"})}, "InvalidAuthenticationTokenAudience", "AKV10022"},
		{"NoAudience", []string{with(nil, "aud")}, "InvalidAuthenticationTokenAudience", "AKV10022"},
		{"AudienceAsPrefix", []string{with(jwt.MapClaims{"aud": AudienceManagement + ".evil.test"})}, "InvalidAuthenticationTokenAudience", "AKV10022"},
		{"OtherIssuer", []string{with(jwt.MapClaims{"iss": "https://sts.windows.net/x/"})}, "InvalidAuthenticationTokenTenant", "AKV10032"},
		{"OtherTenant", []string{with(jwt.MapClaims{"tid": "x"})}, "InvalidAuthenticationTokenTenant", "AKV10032"},
		{"OtherTenantAndIssuer", []string{with(jwt.MapClaims{"tid": "x", "iss": issuerOf("x")})}, "InvalidAuthenticationToken", "AKV10032"},
		{"UnknownPrincipal", []string{with(jwt.MapClaims{"oid": "x"})}, "InvalidAuthenticationToken", "AKV10032"},
		{"NoPrincipal", []string{with(nil, "oid")}, "InvalidAuthenticationToken", "AKV10032"},
		{"PrincipalOfAnotherClient", []string{with(jwt.MapClaims{"oid": other.ObjectID})}, "InvalidAuthenticationToken", "AKV10032"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Management(carrying(test.authorization...))
			var got *TokenError
			if !errors.As(err, &got) || got.Code != test.code || got.Vault != test.vault {
				t.Errorf("got %+v, want %s, %s", err, test.code, test.vault)
			}
		})
	}
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := openTest(t)
		got, err := s.Credential(testIdentity).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
		if err != nil {
			t.Fatal(err)
		}
		r := carrying("Bearer " + got.Token)
		if want := time.Now().Add(tokenLifetime); !got.ExpiresOn.Equal(want) {
			t.Errorf("expires on: got %v, want %v", got.ExpiresOn, want)
		}
		time.Sleep(tokenLifetime - time.Second)
		if _, err := s.Vault(r, p.Directory); err != nil {
			t.Errorf("a second before: %v", err)
		}
		time.Sleep(time.Second)
		var e *TokenError
		if _, err := s.Vault(r, p.Directory); !errors.As(err, &e) || e.Vault != "TokenExpired" {
			t.Errorf("at its end: got %v, want TokenExpired", err)
		}
	})
}

func TestVaultOfAnotherDirectory(t *testing.T) {
	s, p := openTest(t)
	got, err := s.Credential(testIdentity).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.test:8443/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	r := carrying("bearer " + got.Token)
	if _, err := s.Vault(r, DirectoryID(strings.ToUpper(string(p.Directory)))); err != nil {
		t.Errorf("its own directory in capitals: %v", err)
	}
	_, err = s.Vault(r, "5f4b3d3a-0000-4000-8000-000000000000")
	want := "AKV10032: Invalid issuer. Expected one of https://sts.windows.net/5f4b3d3a-0000-4000-8000-000000000000/, found " + issuerOf(p.Directory) + "."
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzBearer(f *testing.F) {
	s, p := openTest(f)
	token, _, _, err := s.issue(f.Context(), p, authCertificate, AudienceManagement)
	if err != nil {
		f.Fatal(err)
	}
	good := "Bearer " + token
	for _, seed := range []string{good, "", "Bearer", "Bearer a.b.c", "Basic x", good[:len(good)-1], strings.ToLower(good)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authorization string) {
		c, err := s.Management(carrying(authorization))
		if err != nil {
			var e *TokenError
			if !errors.As(err, &e) {
				t.Fatalf("%q: got %v, want a *TokenError", authorization, err)
			}
			return
		}
		// The scheme may be spelled otherwise; nothing else is accepted but the one token.
		if !strings.HasSuffix(authorization, token) || c.ObjectID != p.ObjectID {
			t.Fatalf("%q is accepted as %+v", authorization, c)
		}
	})
}

func FuzzResourceOfScope(f *testing.F) {
	for _, seed := range []string{"https://host/.default", "https://host//.default", "https://a/.default openid offline_access profile", "", "/.default", "x", "a/.default b/.default"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, scope string) {
		resource, err := resourceOfScope(scope)
		if err != nil {
			return
		}
		if again, err := resourceOfScope("openid " + resource + "/.default"); err != nil || again != resource {
			t.Errorf("%q: got %q, and that again gives %q, %v", scope, resource, again, err)
		}
	})
}

func TestResourceOfScope(t *testing.T) {
	for scope, want := range map[string]string{
		"https://management.azure.com/.default":                                  "https://management.azure.com",
		"https://management.azure.com//.default":                                 "https://management.azure.com/",
		"https://vault.azure.net/.default openid offline_access profile":         "https://vault.azure.net",
		"openid profile offline_access https://vault.test:8443/.default":         "https://vault.test:8443",
		"https://vault.azure.net/user_impersonation":                             "",
		"https://vault.azure.net/.default https://management.azure.com/.default": "",
		"openid":    "",
		"/.default": "",
		".default":  "",
		"":          "",
	} {
		if got, _ := resourceOfScope(scope); got != want {
			t.Errorf("%q: got %q, want %q", scope, got, want)
		}
	}
}

func BenchmarkVaultToken(b *testing.B) {
	s, p := openTest(b)
	token, _, _, err := s.issue(b.Context(), p, authCertificate, AudienceVault)
	if err != nil {
		b.Fatal(err)
	}
	r := carrying("Bearer " + token)
	for b.Loop() {
		if _, err := s.Vault(r, p.Directory); err != nil {
			b.Fatal(err)
		}
	}
}
