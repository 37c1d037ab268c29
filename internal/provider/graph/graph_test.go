package graph_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/graph"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

// rig is a directory service with its API, an administrator and a plain application.
type rig struct {
	t          *testing.T
	entra      *entra.Service
	handler    http.Handler
	home       entra.DirectoryID
	admin, app entra.Principal
	secrets    map[string]string // by client id
	subscribed []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, secrets: map[string]string{}}
	var err error
	r.entra, err = entra.Open(t.Context(), entra.Config{
		Store: memory.New(), Service: envelope.NewServiceKey(), Login: "https://login.test", VaultSuffix: "vault.test", GenerateRSA: rsatest.New(),
	})
	r.must(err)
	r.home, err = r.entra.CreateDirectory(t.Context(), "home")
	r.must(err)
	r.admin, r.app = r.application(r.home, "administrator"), r.application(r.home, "plain")
	r.must(r.entra.SetAdministrator(t.Context(), r.admin.ObjectID, true))
	r.handler = graph.New(graph.Config{Entra: r.entra, Home: r.home, Log: slog.New(slog.DiscardHandler),
		Subscription: func(id, name string, d entra.DirectoryID) (store.RowWrite, error) {
			r.subscribed = append(r.subscribed, fmt.Sprint(id, " ", name, " ", d))
			return store.RowWrite{RowKey: store.RowKey{Table: "subscriptions"}}, nil
		}})
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) application(d entra.DirectoryID, name string) entra.Principal {
	r.t.Helper()
	p, secret, err := r.entra.CreateApplication(r.t.Context(), d, name)
	r.must(err)
	r.secrets[p.ClientID] = secret
	return p
}

// token is what the authority answers to a secret: an access token, or its error.
func (r *rig) token(p entra.Principal, secret, audience string) string {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {p.ClientID}, "client_secret": {secret}, "scope": {audience + "/.default"}}
	q := httptest.NewRequest("POST", "/"+string(p.Directory)+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	r.entra.Handler().ServeHTTP(w, q)
	var a struct {
		Token string `json:"access_token"`
		Error string `json:"error_description"`
	}
	r.must(json.Unmarshal(w.Body.Bytes(), &a))
	return a.Token + a.Error
}

func (r *rig) do(p entra.Principal, method, path, body string) *httptest.ResponseRecorder {
	r.t.Helper()
	return r.send(r.token(p, r.secrets[p.ClientID], "https://graph.microsoft.com"), method, path, body)
}

func (r *rig) send(token, method, path, body string) *httptest.ResponseRecorder {
	q := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, q)
	return w
}

// want makes a request as the administrator and decodes the answer.
func want[T any](r *rig, status int, method, path, body string) T {
	r.t.Helper()
	w := r.do(r.admin, method, path, body)
	if w.Code != status {
		r.t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	var v T
	if w.Body.Len() > 0 {
		r.must(json.Unmarshal(w.Body.Bytes(), &v))
	}
	return v
}

type object struct {
	ID, AppID, DisplayName, KeyID, SecretText, ServicePrincipalType, Subject, SubscriptionID string

	PasswordCredentials, KeyCredentials []struct {
		KeyID string
		Key   []byte
	}
	Administrator json.RawMessage
}

type objects struct{ Value []object }

// What az asks before it writes an access policy or a role assignment.
func TestWhoIsThat(t *testing.T) {
	r := newRig(t)
	identity, err := r.entra.CreateManagedIdentity(t.Context(), r.home, "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id1")
	r.must(err)
	other, err := r.entra.CreateDirectory(t.Context(), "other")
	r.must(err)
	stranger := r.application(other, "stranger")
	if w := r.do(r.app, "GET", "/v1.0/me", ""); w.Code != 400 {
		t.Errorf("me: got %d, want 400", w.Code)
	}
	for name, c := range map[string]struct{ filter, want string }{
		"ByName":           {"servicePrincipalNames/any(c:c eq '" + r.app.ClientID + "')", r.app.ObjectID},
		"ByAppID":          {"appId eq '" + strings.ToUpper(r.app.ClientID) + "'", r.app.ObjectID},
		"ByDisplayName":    {"displayName eq 'plain'", r.app.ObjectID},
		"ByPrefix":         {"startswith(displayName,'pl')", r.app.ObjectID},
		"ByType":           {"servicePrincipalType eq 'ManagedIdentity'", identity.ObjectID},
		"Nobody":           {"displayName eq 'it''s nobody'", ""},
		"OfOtherDirectory": {"appId eq '" + stranger.ClientID + "'", ""},
		"IdentifierURI":    {"identifierUris/any(s:s eq 'x')", ""},
	} {
		got := want[objects](r, 200, "GET", "/v1.0/servicePrincipals?$filter="+url.QueryEscape(c.filter), "")
		if len(got.Value) > 1 || len(got.Value) == 1 && got.Value[0].ID != c.want || len(got.Value) == 0 && c.want != "" {
			t.Errorf("%s: got %+v, want %s", name, got, c.want)
		}
	}
	for _, filter := range []string{"x", "owner eq 'x'", "appId ne 'x'", "appId eq 'x' or appId eq 'y'", "names/any(a:b eq 'x')", "appId eq 'x"} {
		if w := r.do(r.admin, "GET", "/v1.0/servicePrincipals?$filter="+url.QueryEscape(filter), ""); w.Code != 400 || !strings.Contains(w.Body.String(), "Request_UnsupportedQuery") {
			t.Errorf("%s: got %d %s", filter, w.Code, w.Body)
		}
	}
	got := want[objects](r, 200, "POST", "/v1.0/directoryObjects/getByIds", fmt.Sprintf(`{"ids":[%q,%q,%q]}`, r.app.ObjectID, stranger.ObjectID, identity.ObjectID))
	if len(got.Value) != 2 || got.Value[1].ServicePrincipalType != "ManagedIdentity" {
		t.Errorf("getByIds: got %+v", got)
	}
	if got := want[object](r, 200, "GET", "/v1.0/servicePrincipals(appId='"+r.app.ClientID+"')", ""); got.ID != r.app.ObjectID {
		t.Errorf("by appId: got %+v", got)
	}
	for path, instead := range map[string]string{"/v1.0/users": "externalPrincipals", "/v1.0/groups": "roles and access policies"} {
		if w := r.do(r.admin, "POST", path, `{"displayName":"x"}`); w.Code != 400 || !strings.Contains(w.Body.String(), instead) {
			t.Errorf("%s: got %d %s, want a 400 with %q", path, w.Code, w.Body, instead)
		}
	}
	for _, path := range []string{"/v1.0/servicePrincipals/" + stranger.ObjectID, "/v1.0/applications/" + identity.ObjectID, "/v1.0/applications/x"} {
		if w := r.do(r.admin, "GET", path, ""); w.Code != 404 || !strings.Contains(w.Body.String(), "Request_ResourceNotFound") {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}

// The life of an application, its secrets and certificates.
func TestApplications(t *testing.T) {
	r := newRig(t)
	const vault = "https://vault.azure.net"
	app := want[object](r, 201, "POST", "/v1.0/applications", `{"displayName":"worker","signInAudience":"AzureADMyOrg","passwordCredentials":[]}`)
	path := "/v1.0/applications/" + app.ID
	p := entra.Principal{ObjectID: app.ID, ClientID: app.AppID, Directory: r.home}
	if sp := want[object](r, 201, "POST", "/v1.0/servicePrincipals", `{"appId":"`+app.AppID+`"}`); sp.ID != app.ID {
		t.Errorf("the service principal has id %s, the application %s", sp.ID, app.ID)
	}
	secret := want[object](r, 200, "POST", path+"/addPassword", `{"passwordCredential":{"displayName":"first","endDateTime":"2199-01-01T00:00:00Z"}}`)
	if token := r.token(p, secret.SecretText, vault); !strings.HasPrefix(token, "eyJ") {
		t.Errorf("with the new secret: %s", token)
	}
	if raw := r.do(r.admin, "GET", path, "").Body.String(); strings.Contains(raw, secret.SecretText) || !strings.Contains(raw, secret.KeyID) {
		t.Errorf("shown: %s", raw)
	}
	want[object](r, 204, "POST", path+"/removePassword", `{"keyId":"`+secret.KeyID+`"}`)
	if answer := r.token(p, secret.SecretText, vault); !strings.Contains(answer, "AADSTS7000215") {
		t.Errorf("with the removed secret: %s", answer)
	}

	der := certificate(t)
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for _, raw := range [][]byte{der, inPEM} {
		want[object](r, 204, "PATCH", path, `{"keyCredentials":[{"displayName":"c","type":"AsymmetricX509Cert","usage":"Verify","key":"`+base64.StdEncoding.EncodeToString(raw)+`"}]}`)
		if got := want[object](r, 200, "GET", path, ""); len(got.KeyCredentials) != 1 || string(got.KeyCredentials[0].Key) != string(der) {
			t.Errorf("got certificates %+v", got.KeyCredentials)
		}
	}
	trust := `{"name":"cluster","issuer":"https://oidc.example.test","subject":"a","audiences":["api://AzureADTokenExchange"]}`
	want[object](r, 201, "POST", path+"/federatedIdentityCredentials", trust)
	if got := want[objects](r, 200, "GET", path+"/federatedIdentityCredentials", ""); len(got.Value) != 1 || got.Value[0].Subject != "a" {
		t.Errorf("got federated credentials %+v", got)
	}
	imported := want[object](r, 201, "POST", "/beta/externalPrincipals", `{"displayName":"alice","issuer":"https://x","value":"alice"}`)
	if w := r.do(r.admin, "POST", "/v1.0/applications/"+imported.ID+"/addPassword", ""); w.Code != 404 {
		t.Errorf("a secret for an external principal: %d %s", w.Code, w.Body)
	}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
	}{
		"NoName":           {"POST", "/v1.0/applications", `{}`, 400},
		"EmptyName":        {"PATCH", path, `{"displayName":""}`, 400},
		"LongName":         {"PATCH", path, `{"displayName":"` + strings.Repeat("x", 257) + `"}`, 400},
		"SecretByPatch":    {"PATCH", path, `{"passwordCredentials":[{"secretText":"x"}]}`, 400},
		"BadCertificate":   {"PATCH", path, `{"displayName":"changed","keyCredentials":[{"key":"eA=="}]}`, 400},
		"BadBase64":        {"PATCH", path, `{"keyCredentials":[{"key":"!"}]}`, 400},
		"Malformed":        {"PATCH", path, `{`, 400},
		"SecretInThePast":  {"POST", path + "/addPassword", `{"passwordCredential":{"endDateTime":"2001-01-01T00:00:00Z"}}`, 400},
		"NoSuchSecret":     {"POST", path + "/removePassword", `{"keyId":"` + app.ID + `"}`, 400},
		"SameTrust":        {"POST", path + "/federatedIdentityCredentials", trust, 409},
		"BadTrust":         {"POST", path + "/federatedIdentityCredentials", strings.Replace(trust, "https", "http", 1), 400},
		"NoSuchTrust":      {"DELETE", path + "/federatedIdentityCredentials/x", ``, 404},
		"NoSuchApp":        {"POST", "/v1.0/servicePrincipals", `{"appId":"x"}`, 400},
		"DeleteSelf":       {"DELETE", "/v1.0/applications/" + r.admin.ObjectID, ``, 400},
		"DemoteSelf":       {"PATCH", "/v1.0/applications/" + r.admin.ObjectID, `{"administrator":false}`, 400},
		"ImportWithoutID":  {"POST", "/beta/externalPrincipals", `{"displayName":"x","issuer":"https://x"}`, 400},
		"ImportOfNoGUID":   {"POST", "/beta/externalPrincipals", `{"displayName":"x","issuer":"https://x","value":"y","id":"z"}`, 400},
		"ImportAgain":      {"POST", "/beta/externalPrincipals", `{"displayName":"x","issuer":"https://x","value":"alice"}`, 409},
		"UnknownPath":      {"GET", "/v1.0/domains", ``, 404},
		"UnknownVersion":   {"GET", "/v2.0/applications", ``, 404},
		"UnknownOperation": {"DELETE", "/v1.0/applications", ``, 404},
	} {
		if w := r.do(r.admin, c.method, c.path, c.body); w.Code != c.status || !strings.Contains(w.Body.String(), `"message"`) {
			t.Errorf("%s: got %d %s, want %d", name, w.Code, w.Body, c.status)
		}
	}
	if got := want[object](r, 200, "GET", path, ""); got.DisplayName != "worker" {
		t.Errorf("a refused change was made in part: %+v", got)
	}
	want[object](r, 204, "DELETE", path+"/federatedIdentityCredentials/CLUSTER", "")
	want[object](r, 204, "DELETE", path, "")
	want[object](r, 204, "DELETE", "/v1.0/servicePrincipals/"+imported.ID, "")
	if answer := r.token(p, secret.SecretText, vault); !strings.Contains(answer, "AADSTS700016") {
		t.Errorf("the deleted application: %s", answer)
	}
}

func certificate(t *testing.T) []byte {
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
	return der
}

// Who may do what, by whose token it is.
func TestAuthorization(t *testing.T) {
	r := newRig(t)
	made := want[object](r, 201, "POST", "/beta/directories", `{"displayName":"other"}`)
	var admin object
	r.must(json.Unmarshal(made.Administrator, &admin))
	other := entra.Principal{ObjectID: admin.ID, ClientID: admin.AppID, Directory: entra.DirectoryID(made.ID)}
	r.secrets[other.ClientID] = admin.SecretText
	if len(r.subscribed) != 1 || r.subscribed[0] != fmt.Sprint(made.SubscriptionID, " other ", made.ID) {
		t.Errorf("subscriptions: got %v", r.subscribed)
	}
	caller := entra.Caller{ObjectID: admin.ID, Directory: other.Directory}
	if ok, err := r.entra.Allowed(t.Context(), caller, "Microsoft.Resources/subscriptions/resourceGroups/write", "/subscriptions/"+made.SubscriptionID); err != nil || !ok {
		t.Errorf("the administrator owns his subscription: %t, %v", ok, err)
	}
	const read, write, make, rotate = "GET /v1.0/applications", "POST /v1.0/applications", "POST /beta/directories", "POST /beta/rotateSigningKey"
	graphToken := func(p entra.Principal) string {
		return r.token(p, r.secrets[p.ClientID], "https://login.test/graph/")
	}
	for _, c := range []struct {
		who, token, what string
		status           int
	}{
		{"Nobody", "", read, 401},
		{"Nobody", "", "GET /nowhere", 401},
		{"Rubbish", "x", read, 401},
		{"ManagementToken", r.token(r.admin, r.secrets[r.admin.ClientID], "https://management.azure.com"), read, 401},
		{"VaultToken", r.token(r.admin, r.secrets[r.admin.ClientID], "https://vault.azure.net"), write, 401},
		{"Plain", graphToken(r.app), read, 200},
		{"Plain", graphToken(r.app), write, 403},
		{"Plain", graphToken(r.app), make, 403},
		{"Plain", graphToken(r.app), rotate, 403},
		{"OtherAdministrator", graphToken(other), write, 201},
		{"OtherAdministrator", graphToken(other), make, 403},
		{"OtherAdministrator", graphToken(other), rotate, 403},
		{"OtherAdministrator", graphToken(other), "DELETE /v1.0/applications/" + r.app.ObjectID, 404},
		{"OtherAdministrator", graphToken(other), "POST /v1.0/applications/" + r.app.ObjectID + "/addPassword", 404},
		{"Administrator", graphToken(r.admin), rotate, 204},
		{"Administrator", graphToken(r.admin), "DELETE /v1.0/servicePrincipals/" + r.app.ObjectID, 204},
	} {
		method, path, _ := strings.Cut(c.what, " ")
		if w := r.send(c.token, method, path, `{"displayName":"x"}`); w.Code != c.status {
			t.Errorf("%s, %s: got %d %s, want %d", c.who, c.what, w.Code, w.Body, c.status)
		}
	}
	if got := want[objects](r, 200, "GET", "/beta/directories", ""); len(got.Value) != 2 {
		t.Errorf("the home directory's administrator sees %+v", got)
	}
	if w := r.do(other, "GET", "/beta/directories", ""); strings.Contains(w.Body.String(), string(r.home)) {
		t.Errorf("another directory's administrator sees %s", w.Body)
	}
}
