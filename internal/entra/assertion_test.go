package entra_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/entra"
)

// pair is a certificate of an application and its key.
type pair struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

func newPair(t *testing.T, from, to time.Time) pair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key}
}

func validPair(t *testing.T) pair {
	return newPair(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
}

func (p pair) x5t() string {
	sum := sha1.Sum(p.cert.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (p pair) x5tS256() string {
	sum := sha256.Sum256(p.cert.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func setCertificates(t *testing.T, s *entra.Service, objectID string, pairs ...pair) {
	t.Helper()
	var infos []entra.CertificateInfo
	for _, p := range pairs {
		infos = append(infos, entra.CertificateInfo{Name: "test", DER: p.cert.Raw})
	}
	if err := s.SetCertificates(t.Context(), objectID, infos); err != nil {
		t.Fatal(err)
	}
}

func (a authority) clientOptions() azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: a.server.URL},
		Transport: a.server.Client(), Retry: policy.RetryOptions{MaxRetries: -1},
	}
}

func TestClientCertificateCredential(t *testing.T) {
	a := newAuthority(t)
	app, _ := a.application(t, "certified")
	old, current := validPair(t), validPair(t)
	setCertificates(t, a.Service, app.ObjectID, old, current)
	for name, p := range map[string]pair{"First": old, "Second": current} {
		c, err := azidentity.NewClientCertificateCredential(string(a.directory), app.ClientID, []*x509.Certificate{p.cert}, p.key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: a.clientOptions(), DisableInstanceDiscovery: true})
		if err != nil {
			t.Fatal(err)
		}
		bearer := "Bearer " + token(t, c, "https://management.azure.com/.default")
		if got, err := a.Management(request(bearer)); err != nil || got.ObjectID != app.ObjectID {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	setCertificates(t, a.Service, app.ObjectID, current)
	c, err := azidentity.NewClientCertificateCredential(string(a.directory), app.ClientID, []*x509.Certificate{old.cert}, old.key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: a.clientOptions(), DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err == nil || !strings.Contains(err.Error(), "AADSTS700027") {
		t.Errorf("a removed certificate: got %v, want AADSTS700027", err)
	}
}

// TestCertificateAssertions changes one thing of a good assertion each.
func TestCertificateAssertions(t *testing.T) {
	e := newEndpoint(t)
	good, expired, stranger := validPair(t), newPair(t, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)), validPair(t)
	setCertificates(t, e.Service, e.app.ObjectID, good, expired)
	path := "/" + string(e.directory) + "/oauth2/v2.0/token"
	now := time.Now()
	sign := func(method jwt.SigningMethod, key any, header map[string]any, change jwt.MapClaims) string {
		c := jwt.MapClaims{
			"iss": e.app.ClientID, "sub": e.app.ClientID, "aud": login + path, "jti": "1",
			"nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		}
		for k, v := range change {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		token := jwt.NewWithClaims(method, c)
		for k, v := range header {
			token.Header[k] = v
		}
		signed, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	x5t := map[string]any{"x5t": good.x5t()}
	with := func(change jwt.MapClaims) string { return sign(jwt.SigningMethodRS256, good.key, x5t, change) }
	publicKey, err := x509.MarshalPKIXPublicKey(good.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, assertion, want string
	}{
		{"RS256", with(nil), ""},
		{"PS256", sign(jwt.SigningMethodPS256, good.key, map[string]any{"x5t#S256": good.x5tS256()}, nil), ""},
		{"ClientIDInCapitals", with(jwt.MapClaims{"iss": strings.ToUpper(e.app.ClientID)}), ""},
		{"AudienceIsVersion1", with(jwt.MapClaims{"aud": login + "/" + string(e.directory) + "/oauth2/token"}), ""},
		{"AudienceIsIssuer", with(jwt.MapClaims{"aud": login + "/" + string(e.directory) + "/v2.0"}), ""},
		{"ClockIsBehind", with(jwt.MapClaims{"nbf": now.Add(4 * time.Minute).Unix()}), ""},
		{"Malformed", "x.y", "AADSTS50027"},
		{"NoSignature", strings.Join(strings.Split(with(nil), ".")[:2], ".") + ".", "AADSTS700027"},
		{"UnknownCertificate", sign(jwt.SigningMethodRS256, stranger.key, map[string]any{"x5t": stranger.x5t()}, nil), "AADSTS700027"},
		{"OtherKey", sign(jwt.SigningMethodRS256, stranger.key, x5t, nil), "AADSTS700027"},
		{"NoThumbprint", sign(jwt.SigningMethodRS256, good.key, nil, nil), "AADSTS700027"},
		{"AlgNone", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, x5t, nil), "AADSTS700027"},
		{"HMACWithPublicKey", sign(jwt.SigningMethodHS256, publicKey, x5t, nil), "AADSTS700027"},
		{"HMACWithCertificate", sign(jwt.SigningMethodHS256, good.cert.Raw, x5t, nil), "AADSTS700027"},
		{"ES256", sign(jwt.SigningMethodES256, elliptical, x5t, nil), "AADSTS700027"},
		{"RS512", sign(jwt.SigningMethodRS512, good.key, x5t, nil), "AADSTS700027"},
		{"ExpiredCertificate", sign(jwt.SigningMethodRS256, expired.key, map[string]any{"x5t": expired.x5t()}, nil), "AADSTS1000502"},
		{"Expired", with(jwt.MapClaims{"exp": now.Add(-6 * time.Minute).Unix()}), "AADSTS700024"},
		{"Early", with(jwt.MapClaims{"nbf": now.Add(6 * time.Minute).Unix()}), "AADSTS700024"},
		{"NoExpiry", with(jwt.MapClaims{"exp": nil}), "AADSTS700024"},
		{"OtherAudience", with(jwt.MapClaims{"aud": "https://login.evil.test" + path}), "AADSTS700023"},
		{"NoAudience", with(jwt.MapClaims{"aud": nil}), "AADSTS700023"},
		{"OtherDirectory", with(jwt.MapClaims{"aud": login + "/5f4b3d3a-0000-4000-8000-000000000000/oauth2/v2.0/token"}), "AADSTS700023"},
		{"OtherIssuer", with(jwt.MapClaims{"iss": "https://x"}), "AADSTS700021"},
		{"OtherSubject", with(jwt.MapClaims{"sub": e.app.ObjectID}), "AADSTS700021"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := e.post(path, map[string]string{"client_secret": "", "client_assertion": test.assertion, "client_assertion_type": jwtBearer})
			if test.want == "" && w.Code != 200 || test.want != "" && !strings.Contains(w.Body.String(), test.want+":") {
				t.Errorf("got %d %s, want %s", w.Code, w.Body, test.want)
			}
			if test.want != "" && test.want != "AADSTS50027" && w.Code != http.StatusUnauthorized {
				t.Errorf("got %d, want 401", w.Code)
			}
		})
	}
	for name, change := range map[string]map[string]string{
		"NoType":          {"client_assertion": with(nil), "client_secret": ""},
		"OtherType":       {"client_assertion": with(nil), "client_secret": "", "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"},
		"SecretAndAssert": {"client_assertion": with(nil), "client_assertion_type": jwtBearer},
	} {
		if w := e.post(path, change); w.Code != http.StatusBadRequest {
			t.Errorf("%s: got %d %s, want 400", name, w.Code, w.Body)
		}
	}
	// The adfs form has no directory in its URL.
	adfs := with(jwt.MapClaims{"aud": login + "/adfs/oauth2/token"})
	if w := e.post("/adfs/oauth2/token", map[string]string{"client_secret": "", "client_assertion": adfs, "client_assertion_type": jwtBearer}); w.Code != 200 {
		t.Errorf("adfs: got %d %s", w.Code, w.Body)
	}
}

const jwtBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func TestCertificatesThatCannotProve(t *testing.T) {
	e := newEndpoint(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	short, err := x509.CreateCertificate(rand.Reader, template, template, weak.Public(), weak)
	if err != nil {
		t.Fatal(err)
	}
	curved, err := x509.CreateCertificate(rand.Reader, template, template, elliptical.Public(), elliptical)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"Short": short, "Elliptic": curved, "Nothing": nil, "Rubbish": []byte("x")} {
		if err := e.SetCertificates(t.Context(), e.app.ObjectID, []entra.CertificateInfo{{DER: der}}); err == nil {
			t.Errorf("%s: the certificate was taken", name)
		}
	}
}

// A workload that has a token of its cluster gets one of a managed identity or an
// application that trusts exactly it.
func TestWorkloadIdentityCredential(t *testing.T) {
	cluster := newIssuer(t)
	a := newAuthorityWith(t, cluster.client(t))
	identity, err := a.CreateManagedIdentity(t.Context(), a.directory, "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id1")
	if err != nil {
		t.Fatal(err)
	}
	app, _ := a.application(t, "app")
	for _, p := range []entra.Principal{identity, app} {
		_, isNew, err := a.PutFederatedCredential(t.Context(), p.ObjectID, entra.FederatedCredential{
			Name: "cluster", Issuer: cluster.url, Subject: subject, Audiences: []string{audience},
		})
		if err != nil || !isNew {
			t.Fatalf("%t %v", isNew, err)
		}
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(cluster.token(t, nil)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: a.clientOptions(), ClientID: p.ClientID, TenantID: string(a.directory), TokenFilePath: file, DisableInstanceDiscovery: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		bearer := "Bearer " + token(t, c, "https://vault.azure.net/.default")
		if got, err := a.Vault(request(bearer), a.directory); err != nil || got.ObjectID != p.ObjectID || got.Kind != p.Kind {
			t.Errorf("%s: got %+v, %v", p.Kind, got, err)
		}
	}
	if asked := cluster.asked.Load(); asked != 2 { // description and keys, once
		t.Errorf("the issuer was asked %d times", asked)
	}
	cluster.rotate(t)
	w := a.postAssertion(app.ClientID, cluster.token(t, nil))
	if w.Code != 200 {
		t.Errorf("after the issuer's key changed: %d %s", w.Code, w.Body)
	}
	if err := a.DeleteFederatedCredential(t.Context(), app.ObjectID, "CLUSTER"); err != nil {
		t.Fatal(err)
	}
	if w := a.postAssertion(app.ClientID, cluster.token(t, nil)); !strings.Contains(w.Body.String(), "AADSTS700211:") {
		t.Errorf("without the credential: %d %s", w.Code, w.Body)
	}
}

func TestFederatedAssertions(t *testing.T) {
	cluster, other := newIssuer(t), newIssuer(t)
	a := newAuthorityWith(t, cluster.client(t))
	app, _ := a.application(t, "app")
	_, _, err := a.PutFederatedCredential(t.Context(), app.ObjectID, entra.FederatedCredential{
		Name: "cluster", Issuer: cluster.url, Subject: subject, Audiences: []string{audience},
	})
	if err != nil {
		t.Fatal(err)
	}
	gone := newIssuer(t)
	gone.server.Close()
	if _, _, err := a.PutFederatedCredential(t.Context(), app.ObjectID, entra.FederatedCredential{
		Name: "gone", Issuer: gone.url, Subject: subject, Audiences: []string{audience},
	}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, test := range []struct{ name, assertion, want string }{
		{"Good", cluster.token(t, nil), ""},
		{"SeveralAudiences", cluster.token(t, jwt.MapClaims{"aud": []string{"x", audience}}), ""},
		{"OtherIssuer", other.token(t, nil), "AADSTS700211"},
		{"OtherIssuersKey", other.token(t, jwt.MapClaims{"iss": cluster.url}), "AADSTS700027"},
		{"IssuerWithSlash", cluster.token(t, jwt.MapClaims{"iss": cluster.url + "/"}), "AADSTS700211"},
		{"OtherSubject", cluster.token(t, jwt.MapClaims{"sub": strings.ToUpper(subject)}), "AADSTS700213"},
		{"NoSubject", cluster.token(t, jwt.MapClaims{"sub": nil}), "AADSTS700213"},
		{"OtherAudience", cluster.token(t, jwt.MapClaims{"aud": "https://kubernetes.default.svc"}), "AADSTS700212"},
		{"NoAudience", cluster.token(t, jwt.MapClaims{"aud": nil}), "AADSTS700212"},
		{"Expired", cluster.token(t, jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()}), "AADSTS700024"},
		{"NoExpiry", cluster.token(t, jwt.MapClaims{"exp": nil}), "AADSTS700024"},
		{"AlgNone", cluster.signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), "AADSTS700027"},
		{"HMACWithPublicKey", cluster.signed(t, jwt.SigningMethodHS256, cluster.publicKey(t), nil), "AADSTS700027"},
		{"IssuerIsGone", gone.token(t, nil), "AADSTS50166"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := a.postAssertion(app.ClientID, test.assertion)
			if test.want == "" && w.Code != 200 || test.want != "" && !strings.Contains(w.Body.String(), test.want+":") {
				t.Errorf("got %d %s, want %s", w.Code, w.Body, test.want)
			}
		})
	}
	if n := other.asked.Load(); n != 0 {
		t.Errorf("an issuer that nobody trusts was asked %d times", n)
	}
}

func FuzzAssertion(f *testing.F) {
	e := newEndpoint(f)
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {e.app.ClientID}, "scope": {"https://vault.azure.net/.default"}, "client_assertion_type": {jwtBearer}}
	for _, seed := range []string{"", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJSUzI1NiIsIng1dCI6InF3In0.e30.AA", "eyJhbGciOjF9.e30.AA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, assertion string) {
		form.Set("client_assertion", assertion)
		w := e.send("/adfs/oauth2/token", form.Encode())
		if w.Code != http.StatusBadRequest && w.Code != http.StatusUnauthorized {
			t.Errorf("%q: got %d %s", assertion, w.Code, w.Body)
		}
	})
}
