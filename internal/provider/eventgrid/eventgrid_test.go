package eventgrid_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/eventgrid"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/vault"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	vaultID  = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.KeyVault/vaults/contoso"
	somebody = "33333333-3333-3333-3333-333333333333"
)

// endpoint is a subscriber's webhook.
type endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	got      chan map[string]any
	statuses []int // to answer notifications with, then 200
	silent   bool  // it makes no handshake
	requests int
	headers  http.Header // of the last notification
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{got: make(chan map[string]any, 64)}
	e.Server = httptest.NewTLSServer(http.HandlerFunc(e.serve))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests++
	if r.Method == http.MethodOptions {
		if !e.silent {
			w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
		}
		return
	}
	raw, _ := io.ReadAll(r.Body)
	var events []map[string]any
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json") {
		raw = []byte("[" + string(raw) + "]")
	}
	if err := json.Unmarshal(raw, &events); err != nil || len(events) != 1 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.Header.Get("Aeg-Event-Type") == "SubscriptionValidation" {
		if !e.silent {
			fmt.Fprintf(w, `{"validationResponse":%q}`, events[0]["data"].(map[string]any)["validationCode"])
		}
		return
	}
	e.headers = r.Header
	if len(e.statuses) > 0 {
		w.WriteHeader(e.statuses[0])
		e.statuses = e.statuses[1:]
		return
	}
	e.got <- events[0]
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests
}

// plane has vaults, their events, and the router of the subscriptions.
type plane struct {
	t        *testing.T
	events   *eventgrid.Provider
	vaults   *vault.Service
	router   *arm.Router
	registry *prometheus.Registry
	keys     http.RoundTripper
	token    func() string
	v        vault.Vault
}

func newPlane(t *testing.T, hosts []string, roots *x509.CertPool) *plane {
	t.Helper()
	p := &plane{t: t, registry: prometheus.NewRegistry()}
	st, service := memory.New(), envelope.NewServiceKey()
	directories, err := entra.Open(t.Context(), entra.Config{Store: st, Service: service, Login: "https://login.test", VaultSuffix: "vault.test"})
	p.must(err)
	p.events, err = eventgrid.New(eventgrid.Config{Store: st, Service: service, Hosts: hosts, Roots: roots, Metrics: p.registry})
	p.must(err)
	p.vaults = vault.New(vault.Config{Store: st, Service: service, Entra: directories, Suffix: "vault.test", Login: "https://login.test", Events: p.events})
	p.events.Hurry()
	p.keys = p.vaults.Transport()
	p.router = arm.NewRouter(arm.Config{
		Authenticate:  func(*http.Request) (arm.Caller, error) { return arm.Caller{ObjectID: somebody}, nil },
		Allowed:       func(context.Context, arm.Caller, string, string) (bool, error) { return true, nil },
		Subscription:  func(context.Context, string) (bool, error) { return true, nil },
		ResourceGroup: func(context.Context, string, string) (arm.GroupState, error) { return arm.GroupExists, nil },
		LoginURL:      func(*http.Request, string) string { return "https://login.test" }, Log: slog.New(slog.DiscardHandler),
	})
	p.events.Serve(p.vaults, p.router)
	directory, err := directories.CreateDirectory(t.Context(), "contoso")
	p.must(err)
	admin, err := directories.CreateManagedIdentity(t.Context(), directory, "/identities/admin")
	p.must(err)
	credential := directories.Credential("/identities/admin")
	p.token = func() string {
		got, err := credential.GetToken(t.Context(), tokenFor("https://vault.azure.net"))
		p.must(err)
		return got.Token
	}
	p.v = vault.Vault{Name: "contoso", ResourceID: vaultID, Location: "westus2", Directory: directory, Policies: []vault.Policy{{ObjectID: admin.ObjectID, Keys: []string{"all"}}}}
	p.must(p.vaults.Put(t.Context(), p.v))
	return p
}

func (p *plane) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) do(method, path, body string) (int, string) {
	p.t.Helper()
	r := httptest.NewRequestWithContext(p.t.Context(), method, "https://management.test"+path+"?api-version=2022-06-15", strings.NewReader(body))
	w := httptest.NewRecorder()
	p.router.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

const subscriptions = vaultID + "/providers/Microsoft.EventGrid/eventSubscriptions"

func webhook(url, members string) string {
	return `{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":"` + url + `"}}` + members + `}}`
}

func (p *plane) newKey(name string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "https://contoso.vault.test/keys/"+name+"/create?api-version=7.4", strings.NewReader(`{"kty":"EC","attributes":{"exp":4102444800}}`))
	p.must(err)
	r.Header.Set("Authorization", "Bearer "+p.token())
	resp, err := p.keys.RoundTrip(r)
	p.must(err)
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("create a key: %d", resp.StatusCode)
	}
}

// run delivers events until the test's end.
func (p *plane) run() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { p.events.Run(ctx); close(done) }()
	p.t.Cleanup(func() { stop(); <-done })
}

func (p *plane) metric(outcome string) float64 {
	p.t.Helper()
	families, err := p.registry.Gather()
	p.must(err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == outcome {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

func rootsOf(e *endpoint) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(e.Certificate())
	return pool
}

func await(t *testing.T, e *endpoint) map[string]any {
	t.Helper()
	select {
	case event := <-e.got:
		return event
	case <-time.After(30 * time.Second):
		t.Fatal("no event came")
		return nil
	}
}

func TestDelivery(t *testing.T) {
	e := newEndpoint(t)
	host := strings.TrimPrefix(e.URL, "https://")
	p := newPlane(t, []string{host}, rootsOf(e))
	status, answer := p.do("PUT", subscriptions+"/grid-schema", webhook(e.URL+"/hook?code=secret", `,"filter":{"includedEventTypes":["Microsoft.KeyVault.KeyNewVersionCreated"],"subjectBeginsWith":"RELAY"}`))
	if status != 201 || strings.Contains(answer, "secret") || !strings.Contains(answer, `"provisioningState":"Succeeded"`) {
		t.Fatalf("subscribe: %d %s", status, answer)
	}
	if _, full := p.do("POST", subscriptions+"/grid-schema/getFullUrl", ""); !strings.Contains(full, "code=secret") {
		t.Errorf("getFullUrl: got %s", full)
	}
	p.newKey("other") // which the filter leaves out
	p.newKey("relay-key")
	p.run()
	event := await(t, e)
	data := event["data"].(map[string]any)
	if event["eventType"] != "Microsoft.KeyVault.KeyNewVersionCreated" || event["topic"] != vaultID || event["subject"] != "relay-key" || event["dataVersion"] != "1" ||
		data["VaultName"] != "contoso" || data["ObjectType"] != "Key" || data["ObjectName"] != "relay-key" || data["EXP"] != 4102444800.0 ||
		!strings.HasPrefix(data["Id"].(string), "https://contoso.vault.test/keys/relay-key/") || len(data["Version"].(string)) != 32 {
		t.Errorf("got %v", event)
	}
	if e.headers.Get("Aeg-Event-Type") != "Notification" || e.headers.Get("Aeg-Subscription-Name") != "GRID-SCHEMA" || e.headers.Get("Aeg-Delivery-Count") != "0" {
		t.Errorf("headers: got %v", e.headers)
	}

	if status, answer := p.do("PUT", subscriptions+"/clouds", webhook(e.URL, `,"eventDeliverySchema":"CloudEventSchemaV1_0","filter":{"includedEventTypes":["Microsoft.KeyVault.VaultAccessPolicyChanged"]}`)); status != 201 {
		t.Fatalf("subscribe: %d %s", status, answer)
	}
	p.v.Policies = append(p.v.Policies, vault.Policy{ObjectID: somebody, Keys: []string{"get"}})
	p.must(p.vaults.Put(t.Context(), p.v))
	event = await(t, e)
	if event["specversion"] != "1.0" || event["type"] != "Microsoft.KeyVault.VaultAccessPolicyChanged" || event["source"] != vaultID || event["subject"] != "contoso" {
		t.Errorf("got %v", event)
	}
	if _, list := p.do("GET", subscriptions, ""); strings.Count(list, `"endpointBaseUrl"`) != 2 {
		t.Errorf("list: got %s", list)
	}
	for _, name := range []string{"grid-schema", "clouds"} {
		if status, _ := p.do("DELETE", subscriptions+"/"+name, ""); status != 200 {
			t.Errorf("delete: %d", status)
		}
	}
	if status, _ := p.do("GET", subscriptions+"/clouds", ""); status != 404 {
		t.Errorf("get a deleted one: %d", status)
	}
}

// What fails is tried again; what is refused for good is given up, and counted.
func TestRetryAndDrop(t *testing.T) {
	e := newEndpoint(t)
	p := newPlane(t, []string{strings.TrimPrefix(e.URL, "https://")}, rootsOf(e))
	if status, answer := p.do("PUT", subscriptions+"/hook", webhook(e.URL, "")); status != 201 {
		t.Fatalf("subscribe: %d %s", status, answer)
	}
	e.mu.Lock()
	e.statuses = []int{503}
	e.mu.Unlock()
	p.newKey("a")
	p.run()
	if event := await(t, e); event["subject"] != "a" || e.headers.Get("Aeg-Delivery-Count") != "1" {
		t.Errorf("after a retry: got %v, delivery %s", event, e.headers.Get("Aeg-Delivery-Count"))
	}
	e.mu.Lock()
	e.statuses = []int{400}
	e.mu.Unlock()
	p.newKey("b")
	for deadline := time.Now().Add(30 * time.Second); p.metric("dropped") < 1 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if got := p.metric("dropped"); got != 1 {
		t.Errorf("dropped: got %v, want 1", got)
	}
	if p.metric("retry") < 1 || p.metric("delivered") < 1 {
		t.Errorf("retry %v, delivered %v", p.metric("retry"), p.metric("delivered"))
	}
}

// Nothing is sent where the operator does not allow it, or where nobody asked for it.
func TestRefusals(t *testing.T) {
	e := newEndpoint(t)
	host := strings.TrimPrefix(e.URL, "https://")
	_, port, _ := strings.Cut(host, ":")
	p := newPlane(t, []string{"hooks.example.test", "10.0.0.1:" + port, "internal.localhost:" + port}, rootsOf(e))
	for _, test := range []struct{ name, path, body, want string }{
		{"HTTP", "/hook", webhook("http://hooks.example.test", ""), "https"},
		{"UserInfo", "/hook", webhook("https://a:b@hooks.example.test", ""), "https"},
		{"OtherHost", "/hook", webhook(e.URL, ""), "--event-webhook-host"},
		{"OtherPort", "/hook", webhook("https://hooks.example.test:8443", ""), "--event-webhook-host"},
		{"PrivateAddress", "/hook", webhook("https://10.0.0.1:"+port, ""), "not public"},
		{"NameOfLoopback", "/hook", webhook("https://internal.localhost:"+port, ""), "validate"},
		{"Queue", "/hook", `{"properties":{"destination":{"endpointType":"StorageQueue"}}}`, "WebHook"},
		{"DeadLetter", "/hook", webhook("https://hooks.example.test", `,"deadLetterDestination":{"endpointType":"StorageBlob"}`), "Dead-letter"},
		{"Advanced", "/hook", webhook("https://hooks.example.test", `,"filter":{"advancedFilters":[{}]}`), "Advanced"},
		{"UnknownType", "/hook", webhook("https://hooks.example.test", `,"filter":{"includedEventTypes":["Microsoft.KeyVault.SecretExpired"]}`), "event type"},
		{"Schema", "/hook", webhook("https://hooks.example.test", `,"eventDeliverySchema":"Custom"`), "eventDeliverySchema"},
		{"Retry", "/hook", webhook("https://hooks.example.test", `,"retryPolicy":{"maxDeliveryAttempts":31,"eventTimeToLiveInMinutes":1}`), "maxDeliveryAttempts"},
		{"Name", "/h", webhook("https://hooks.example.test", ""), "3 to 64"},
	} {
		if status, answer := p.do("PUT", subscriptions+test.path, test.body); status != 400 || !strings.Contains(answer, test.want) {
			t.Errorf("%s: got %d %s, want 400 with %q", test.name, status, answer, test.want)
		}
	}
	if status, _ := p.do("PUT", strings.Replace(subscriptions, "contoso", "nowhere", 1)+"/hook", webhook(e.URL, "")); status != 404 {
		t.Errorf("on no vault: got %d", status)
	}
	if got := e.count(); got != 0 {
		t.Errorf("%d requests were sent", got)
	}
	if _, err := eventgrid.New(eventgrid.Config{Hosts: []string{"https://hooks.example.test/x"}}); err == nil {
		t.Error("a URL was taken for a host")
	}

	silent := newEndpoint(t)
	silent.silent = true
	p = newPlane(t, []string{strings.TrimPrefix(silent.URL, "https://")}, rootsOf(silent))
	for _, schema := range []string{"", `,"eventDeliverySchema":"CloudEventSchemaV1_0"`} {
		if status, answer := p.do("PUT", subscriptions+"/hook", webhook(silent.URL, schema)); status != 400 || !strings.Contains(answer, "Url validation") {
			t.Errorf("without a handshake: got %d %s", status, answer)
		}
	}
	if _, list := p.do("GET", subscriptions, ""); !strings.Contains(list, `"value":[]`) {
		t.Errorf("after refusals: got %s", list)
	}
}

// A webhook that leads elsewhere is not followed, not even to a host that is allowed.
func TestRedirectsAreNotFollowed(t *testing.T) {
	e := newEndpoint(t)
	leads := httptest.NewTLSServer(http.RedirectHandler(e.URL, http.StatusTemporaryRedirect))
	t.Cleanup(leads.Close)
	p := newPlane(t, []string{strings.TrimPrefix(leads.URL, "https://"), strings.TrimPrefix(e.URL, "https://")}, rootsOf(e))
	if status, answer := p.do("PUT", subscriptions+"/hook", webhook(leads.URL, "")); status != 400 || !strings.Contains(answer, "Url validation") {
		t.Errorf("got %d %s, want a 400", status, answer)
	}
	if got := e.count(); got != 0 {
		t.Errorf("%d requests were led on", got)
	}
}

func tokenFor(resource string) policy.TokenRequestOptions {
	return policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}}
}
