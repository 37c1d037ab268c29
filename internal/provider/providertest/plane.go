package providertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/provider/activity"
	"github.com/tidelock/tidelock/internal/provider/authorization"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/provider/keyvault"
	"github.com/tidelock/tidelock/internal/provider/managedidentity"
	"github.com/tidelock/tidelock/internal/provider/resources"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/vault"
	"github.com/tidelock/tidelock/internal/vault/vaulttest"
)

// What every plane has.
const (
	Subscription = "11111111-1111-1111-1111-111111111111"
	Group        = "/subscriptions/" + Subscription + "/resourceGroups/rg1"
	Login        = "https://login.tidelock.test"
	VaultSuffix  = "vault.tidelock.localhost:8443"
	HSMSuffix    = "managedhsm.tidelock.localhost:8443"
	RelayURL     = "https://relay.tidelock.test"
)

// Plane is a management plane with one subscription, the group rg1 in westus2, and an
// administrator who owns the subscription.
type Plane struct {
	t         testing.TB
	Store     *memory.Store
	Service   envelope.ServiceKey
	Entra     *entra.Service
	Vault     *vault.Service
	HSM       *vaulttest.Token // of managed HSMs
	Keeper    *custody.Keeper
	Relay     *Relay
	Resources *resources.Provider
	Identity  *managedidentity.Provider
	KeyVault  *keyvault.Provider
	Fluid     *fluidrelay.Provider
	Activity  *activity.Log
	Router    *arm.Router
	Directory entra.DirectoryID
	Admin     entra.Principal
	AdminKey  string // the administrator's client secret
	Log       *bytes.Buffer

	tokens map[string]string // by audience
}

// Relay is the data plane as providers see it: it notes what it was told to delete and cut off.
type Relay struct {
	mu         sync.Mutex
	Deleted    []string
	CutOffs    []string
	Err        error // what DeleteTenant fails with
	Containing []fluidrelay.Container
}

// CutOff notes the tenant.
func (r *Relay) CutOff(tenantID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.CutOffs = append(r.CutOffs, tenantID)
}

// DeleteTenant notes the tenant.
func (r *Relay) DeleteTenant(_ context.Context, tenantID string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Err != nil {
		return r.Err
	}
	r.Deleted = append(r.Deleted, tenantID)
	return nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// New makes a plane. containers is what the relay offers of containers; nil for none.
func New(t testing.TB, containers fluidrelay.Containers) *Plane {
	t.Helper()
	p := &Plane{t: t, Store: memory.New(), Service: envelope.NewServiceKey(), Relay: &Relay{}, HSM: vaulttest.NewToken(), Log: &bytes.Buffer{}, tokens: map[string]string{}}
	log := slog.New(slog.NewJSONHandler(&syncBuffer{b: p.Log}, nil))
	keys := rsatest.New()
	ctx := t.Context()
	var err error
	p.Entra, err = entra.Open(ctx, entra.Config{Store: p.Store, Service: p.Service, Login: Login, VaultSuffix: VaultSuffix, HSMSuffix: HSMSuffix, GenerateRSA: keys, Log: log})
	p.must(err)
	p.Vault = vault.New(vault.Config{Store: p.Store, Service: p.Service, Entra: p.Entra, Suffix: VaultSuffix, HSMSuffix: HSMSuffix, Login: Login, Roles: p.Entra.AllowedData, Token: p.HSM, GenerateRSA: keys, Log: log})
	hosts := keystore.Hosts{Suffixes: []string{"vault.tidelock.localhost", "managedhsm.tidelock.localhost"}}
	p.Keeper = custody.New(custody.Config{
		Store: p.Store, Service: p.Service, Hosts: hosts, Log: log,
		KeyStore: func(identity string) keystore.Client {
			return keystore.New(keystore.Config{Credential: p.Entra.Credential(identity), Transport: p.Vault.Transport()})
		},
	})
	t.Cleanup(p.Keeper.Close)

	p.Resources = resources.New(resources.Config{Store: p.Store, Service: p.Service, Allowed: p.Allowed, Log: log})
	p.Identity = managedidentity.New(managedidentity.Config{Store: p.Store, Service: p.Service, Directory: p.Entra, Subscriptions: p.Resources, Log: log})
	p.KeyVault = keyvault.New(keyvault.Config{Store: p.Store, Service: p.Service, Vaults: p.Vault, Subscriptions: p.Resources, Log: log})
	p.Fluid = fluidrelay.New(fluidrelay.Config{
		Store: p.Store, Service: p.Service, Custody: p.Keeper, Hosts: hosts, Vaults: p.Vault, Identities: p.Identity, Principals: p.Entra,
		Subscriptions: p.Resources, Relay: p.Relay, Containers: containers, Allowed: p.Allowed, RelayURL: RelayURL, Log: log,
	})
	p.Resources.Contain(p.Fluid, p.KeyVault, p.Identity)
	p.Identity.HeldBy(p.Fluid)
	p.Activity = activity.New(activity.Config{Store: p.Store, Service: p.Service, Log: log})
	p.Router = arm.NewRouter(arm.Config{
		Authenticate: p.authenticate, Allowed: p.Allowed, Subscription: p.Resources.HasSubscription, ResourceGroup: p.Resources.GroupState,
		Directory: func(ctx context.Context, id string) (string, error) {
			d, err := p.Resources.Directory(ctx, id)
			return string(d), err
		},
		LoginURL: func(*http.Request, string) string { return Login }, Deleted: p.Entra.DeleteAssignmentsWithin, Record: p.Activity.Record, Log: log,
	})
	p.Activity.Register(p.Router)
	p.Fluid.Register(p.Router)
	p.KeyVault.Register(p.Router)
	p.Identity.Register(p.Router)
	p.Resources.Register(p.Router)
	authorization.New(authorization.Config{Assignments: p.Entra, Subscriptions: p.Resources, Exists: p.Resources.HasResource}).Register(p.Router)
	p.seed(ctx)
	return p
}

func (p *Plane) seed(ctx context.Context) {
	var err error
	p.Directory, err = p.Entra.CreateDirectory(ctx, "Test")
	p.must(err)
	p.must(p.Resources.CreateSubscription(ctx, Subscription, "Test subscription", p.Directory))
	p.Admin, p.AdminKey, err = p.Entra.CreateApplication(ctx, p.Directory, "administrator")
	p.must(err)
	p.must(p.Entra.Assign(ctx, p.Admin.ObjectID, "Owner", "/subscriptions/"+Subscription))
	p.Want(http.StatusCreated, p.Do("PUT", Group+"?api-version=2021-04-01", `{"location":"westus2"}`))
}

func (p *Plane) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *Plane) authenticate(r *http.Request) (arm.Caller, error) {
	c, err := p.Entra.Management(r)
	var refused *entra.TokenError
	if errors.As(err, &refused) {
		return arm.Caller{}, &arm.Error{Status: 401, Code: refused.Code, Message: refused.Message}
	}
	kind := "Application"
	if c.Kind == entra.KindManagedIdentity {
		kind = "ManagedIdentity"
	}
	return arm.Caller{ObjectID: c.ObjectID, ClientID: c.ClientID, Directory: string(c.Directory), Kind: kind}, err
}

// Allowed asks the directory service.
func (p *Plane) Allowed(ctx context.Context, c arm.Caller, action, scope string) (bool, error) {
	return p.Entra.Allowed(ctx, entra.Caller{ObjectID: c.ObjectID, ClientID: c.ClientID, Directory: entra.DirectoryID(c.Directory)}, action, scope)
}

// Token returns a token of an application for an audience.
func (p *Plane) Token(a entra.Principal, secret, audience string) string {
	p.t.Helper()
	key := a.ClientID + " " + audience
	if token, ok := p.tokens[key]; ok {
		return token
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {a.ClientID}, "client_secret": {secret}, "scope": {audience + "/.default"}}
	r := httptest.NewRequestWithContext(p.t.Context(), "POST", Login+"/"+string(a.Directory)+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.Entra.Handler().ServeHTTP(w, r)
	var answer struct {
		Token string `json:"access_token"`
	}
	p.must(json.Unmarshal(w.Body.Bytes(), &answer))
	if answer.Token == "" {
		p.t.Fatalf("no token for %s: %s", audience, w.Body)
	}
	p.tokens[key] = answer.Token
	return answer.Token
}

// Answer is what a request got.
type Answer struct {
	Request string // method and path
	Status  int
	Header  http.Header
	Body    []byte
}

// Error is the error of an answer, or of one of its details.
type Error struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Target  string  `json:"target"`
	Details []Error `json:"details"`
}

// Error decodes the error envelope; zero when there is none.
func (a Answer) Error() Error {
	var envelope struct{ Error Error }
	if json.Unmarshal(a.Body, &envelope) != nil {
		return Error{}
	}
	return envelope.Error
}

// Get returns a value of the answer's JSON by a dotted path; nil when it is not there.
func (a Answer) Get(path string) any {
	var v any
	if json.Unmarshal(a.Body, &v) != nil {
		return nil
	}
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// Do makes a request as the administrator. Headers are pairs of name and value.
func (p *Plane) Do(method, target, body string, headers ...string) Answer {
	p.t.Helper()
	return p.DoAs(p.Token(p.Admin, p.AdminKey, entra.AudienceManagement), method, target, body, headers...)
}

// DoAs makes a request with a token; an empty one is left out.
func (p *Plane) DoAs(token, method, target, body string, headers ...string) Answer {
	p.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(p.t.Context(), method, "https://management.tidelock.test"+target, reader)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	p.Router.ServeHTTP(w, r)
	return Answer{Request: method + " " + target, Status: w.Code, Header: w.Result().Header, Body: w.Body.Bytes()}
}

// Want fails the test unless the answer has the status.
func (p *Plane) Want(status int, a Answer) Answer {
	p.t.Helper()
	if a.Status != status {
		p.t.Fatalf("%s: got %d %s, want %d", a.Request, a.Status, a.Body, status)
	}
	return a
}

// Refused fails the test unless the answer is this refusal.
func (p *Plane) Refused(status int, code string, a Answer) Error {
	p.t.Helper()
	e := a.Error()
	if a.Status != status || e.Code != code || e.Message == "" {
		p.t.Errorf("%s: got %d %s, want %d %s", a.Request, a.Status, a.Body, status, code)
	}
	return e
}

// NewIdentity makes a user-assigned identity and returns its id and principal id.
func (p *Plane) NewIdentity(name, location string) (id, principal string) {
	p.t.Helper()
	a := p.Want(http.StatusCreated, p.Do("PUT", Group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"+name+"?api-version=2023-01-31", `{"location":"`+location+`"}`))
	return a.Get("id").(string), a.Get("properties.principalId").(string)
}

// Grant is key permissions of a principal.
type Grant struct {
	Principal   string
	Permissions []string
}

// VaultBody is the body that makes a vault; the administrator manages its keys.
func (p *Plane) VaultBody(location, network string, grants ...Grant) string {
	p.t.Helper()
	policies := []any{}
	for _, g := range append(grants, Grant{p.Admin.ObjectID, []string{"get", "list", "create", "update", "delete", "recover", "purge", "import"}}) {
		policies = append(policies, map[string]any{"tenantId": p.Directory, "objectId": g.Principal, "permissions": map[string]any{"keys": g.Permissions}})
	}
	raw, err := json.Marshal(policies)
	p.must(err)
	if network == "" {
		network = `{"bypass":"AzureServices","defaultAction":"Allow"}`
	}
	return fmt.Sprintf(`{"location":%q,"properties":{"tenantId":%q,"sku":{"family":"A","name":"premium"},"accessPolicies":%s,"networkAcls":%s}}`, location, p.Directory, raw, network)
}

// VaultPath is where a vault of rg1 is.
func VaultPath(name string) string {
	return Group + "/providers/Microsoft.KeyVault/vaults/" + name + "?api-version=2023-07-01"
}

// PutVault makes or changes a vault in westus2.
func (p *Plane) PutVault(name string, grants ...Grant) {
	p.t.Helper()
	p.Want(http.StatusOK, p.Do("PUT", VaultPath(name), p.VaultBody("westus2", "", grants...)))
}

// Keys makes a request to a vault's data plane as the administrator, past its firewall.
func (p *Plane) Keys(method, vault, path, body string) Answer {
	p.t.Helper()
	return p.dataPlane(method, vault+"."+VaultSuffix, path, body, entra.AudienceVault)
}

// AtHSM is Keys for a managed HSM.
func (p *Plane) AtHSM(method, hsm, path, body string) Answer {
	p.t.Helper()
	return p.dataPlane(method, hsm+"."+HSMSuffix, path, body, entra.AudienceHSM)
}

func (p *Plane) dataPlane(method, host, path, body, audience string) Answer {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, "https://"+host+path+"?api-version=7.4", strings.NewReader(body))
	p.must(err)
	r.Header.Set("Authorization", "Bearer "+p.Token(p.Admin, p.AdminKey, audience))
	resp, err := p.Vault.Transport().RoundTrip(r)
	p.must(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	p.must(err)
	return Answer{Request: method + " " + path, Status: resp.StatusCode, Header: resp.Header, Body: raw}
}

// NewKey makes a key, or a new version of it, and returns its versioned identifier.
// Empty attributes are those of a plain RSA key.
func (p *Plane) NewKey(vault, name, attributes string) string {
	p.t.Helper()
	if attributes == "" {
		attributes = `{"kty":"RSA","key_size":2048}`
	}
	a := p.Want(http.StatusOK, p.Keys("POST", vault, "/keys/"+name+"/create", attributes))
	return a.Get("key.kid").(string)
}

// Version is the version of a key identifier.
func Version(kid string) string { return kid[strings.LastIndexByte(kid, '/')+1:] }

var update = flag.Bool("update", false, "rewrite the golden files")

var volatile = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z`), "{time}"},
	{regexp.MustCompile(`/ticks/[0-9]{18}`), "/ticks/{ticks}"},
	{regexp.MustCompile(`"resource": "[0-9a-f]{32}"`), `"resource": "{32 hex digits}"`},
	{regexp.MustCompile(`"(key[12])": "[0-9a-f]{32}"`), `"$1": "{32 hex digits}"`},
	{regexp.MustCompile(`keys/([0-9a-zA-Z-]+)/[0-9a-f]{32}`), "keys/$1/{version}"},
}

var anyGUID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// Golden compares an answer with testdata/{name}.json, in which what differs from run
// to run has a name: times, keys, and GUIDs numbered in order.
func (p *Plane) Golden(name string, a Answer) {
	p.t.Helper()
	whole := fmt.Appendf(nil, `{"status":%d`, a.Status)
	if len(a.Body) > 0 {
		whole = fmt.Appendf(whole, `,"body":%s`, a.Body)
	}
	var b bytes.Buffer
	p.must(json.Indent(&b, append(whole, '}'), "", "  "))
	got := b.String() + "\n"
	for _, v := range volatile {
		got = v.pattern.ReplaceAllString(got, v.word)
	}
	names := map[string]string{Subscription: Subscription, string(p.Directory): "{directory}", p.Admin.ClientID: "{administrator}"}
	got = anyGUID.ReplaceAllStringFunc(got, func(g string) string {
		if _, ok := names[g]; !ok {
			names[g] = fmt.Sprintf("{guid %d}", len(names)-2)
		}
		return names[g]
	})
	file := filepath.Join("testdata", name+".json")
	if *update {
		p.must(os.MkdirAll(filepath.Dir(file), 0o750))
		p.must(os.WriteFile(file, []byte(got), 0o600))
		return
	}
	want, err := os.ReadFile(file)
	p.must(err)
	if got != string(want) {
		p.t.Errorf("%s differs from %s (-update rewrites it):\ngot:\n%s\nwant:\n%s", a.Request, file, got, want)
	}
}
