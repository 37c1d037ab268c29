package entra_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/tidelock/tidelock/internal/entra"
)

const (
	identities     = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
	endpointSecret = "a secret"
)

// machine is an authority and the identity endpoint on a machine with the identities
// one and two; three exists and may not be had there.
type machine struct {
	authority
	endpoint        *httptest.Server
	one, two, three entra.Principal
}

func newMachine(t *testing.T, allowed ...string) machine {
	t.Helper()
	m := machine{authority: newAuthority(t)}
	for name, p := range map[string]*entra.Principal{"one": &m.one, "two": &m.two, "three": &m.three} {
		var err error
		if *p, err = m.CreateManagedIdentity(t.Context(), m.directory, identities+name); err != nil {
			t.Fatal(err)
		}
	}
	m.endpoint = httptest.NewServer(m.IdentityHandler(entra.IdentityEndpoint{Identities: allowed, Secret: endpointSecret, Unguarded: true}))
	t.Cleanup(m.endpoint.Close)
	return m
}

// The real client, in each of the forms that it knows.
func TestManagedIdentityCredentialOfTheSDK(t *testing.T) {
	m := newMachine(t, strings.ToUpper(identities+"one"), identities+"two", identities+"gone")
	address := m.endpoint.Listener.Addr().String()
	imds := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != "169.254.169.254:80" {
			t.Errorf("the client dials %s", addr)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	defer imds.CloseIdleConnections()
	for name, test := range map[string]struct {
		environment map[string]string
		transport   policy.Transporter
	}{
		"IMDS":       {nil, imds},
		"AppService": {map[string]string{"IDENTITY_ENDPOINT": m.endpoint.URL + "/MSI/token", "IDENTITY_HEADER": endpointSecret}, m.endpoint.Client()},
		"AzureML":    {map[string]string{"MSI_ENDPOINT": m.endpoint.URL + "/MSI/token", "MSI_SECRET": endpointSecret}, m.endpoint.Client()},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range test.environment {
				t.Setenv(variable, value)
			}
			kinds := map[string]azidentity.ManagedIDKind{"ByClientID": azidentity.ClientID(m.two.ClientID)}
			if name != "AzureML" { // which knows client ids alone
				kinds["ByResourceID"] = azidentity.ResourceID(strings.Replace(m.two.ResourceID, "resourcegroups", "resourceGroups", 1))
				kinds["ByObjectID"] = azidentity.ObjectID(m.two.ObjectID)
			}
			for kind, id := range kinds {
				c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
					ID: id, ClientOptions: azcore.ClientOptions{Transport: test.transport, Retry: policy.RetryOptions{MaxRetries: -1}},
				})
				if err != nil {
					t.Fatal(err)
				}
				bearer := "Bearer " + token(t, c, "https://vault.azure.net/.default")
				if got, err := m.Vault(request(bearer), m.directory); err != nil || got.ObjectID != m.two.ObjectID || got.Kind != entra.KindManagedIdentity {
					t.Errorf("%s: got %+v, %v", kind, got, err)
				}
			}
		})
	}
}

func TestIdentityEndpointRefuses(t *testing.T) {
	m := newMachine(t, identities+"one", identities+"two")
	const vault = "resource=https%3A%2F%2Fvault.azure.net"
	byOne := vault + "&client_id=" + m.one.ClientID
	metadata := []string{"Metadata", "true"}
	for _, c := range []struct {
		name, method, target string
		header               []string
		status               int
		says                 string
	}{
		{"IMDS", "GET", "/metadata/identity/oauth2/token?api-version=2018-02-01&" + byOne, metadata, 200, `"expires_in":"3599"`},
		{"CloudShell", "POST", "/oauth2/token?" + byOne, metadata, 200, m.one.ClientID},
		{"AppService", "GET", "/MSI/token/?api-version=2019-08-01&" + byOne, []string{"X-IDENTITY-HEADER", endpointSecret}, 200, m.one.ClientID},
		{"AppService2017", "GET", "/MSI/token/?api-version=2017-09-01&" + vault + "&clientid=" + m.one.ClientID, []string{"secret", endpointSecret}, 200, m.one.ClientID},
		{"NoMetadataHeader", "GET", "/metadata/identity/oauth2/token?" + byOne, nil, 400, "Required metadata header"},
		{"Forwarded", "GET", "/metadata/identity/oauth2/token?" + byOne, append(metadata, "X-Forwarded-For", "1.2.3.4"), 400, "invalid_request"},
		{"OtherHost", "GET", "/metadata/identity/oauth2/token?" + byOne, append(metadata, "Host", "evil.test"), 400, "invalid_request"},
		{"NoSecret", "GET", "/MSI/token?" + byOne, nil, 401, "X-IDENTITY-HEADER"},
		{"WrongSecret", "GET", "/MSI/token?" + byOne, []string{"X-IDENTITY-HEADER", endpointSecret + "x"}, 401, "X-IDENTITY-HEADER"},
		{"MetadataIsNoSecret", "GET", "/MSI/token?" + byOne, metadata, 401, "X-IDENTITY-HEADER"},
		{"NoResource", "GET", "/metadata/identity/oauth2/token?client_id=" + m.one.ClientID, metadata, 400, "resource"},
		{"UnknownResource", "GET", "/metadata/identity/oauth2/token?resource=https://storage.azure.com&client_id=" + m.one.ClientID, metadata, 400, "AADSTS500011"},
		{"NotNamed", "GET", "/metadata/identity/oauth2/token?" + vault, metadata, 400, "Multiple user assigned identities"},
		{"NamedTwice", "GET", "/metadata/identity/oauth2/token?" + byOne + "&object_id=" + m.one.ObjectID, metadata, 400, "More than one"},
		{"Unknown", "GET", "/metadata/identity/oauth2/token?" + vault + "&client_id=x", metadata, 400, "Identity not found"},
		{"NotAllowed", "GET", "/metadata/identity/oauth2/token?" + vault + "&client_id=" + m.three.ClientID, metadata, 400, "Identity not found"},
		{"WrongKindOfID", "GET", "/metadata/identity/oauth2/token?" + vault + "&client_id=" + m.one.ObjectID, metadata, 400, "Identity not found"},
		{"Post", "POST", "/metadata/identity/oauth2/token?" + byOne, metadata, 405, "GET"},
		{"OtherPath", "GET", "/metadata/instance", metadata, 404, "not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest(c.method, m.endpoint.URL+c.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(c.header); i += 2 {
				r.Header.Set(c.header[i], c.header[i+1])
			}
			if host := r.Header.Get("Host"); host != "" {
				r.Host = host
			}
			resp, err := m.endpoint.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var body map[string]any
			if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
				t.Fatal(err)
			}
			raw, _ := json.Marshal(body)
			if resp.StatusCode != c.status || !strings.Contains(string(raw), c.says) {
				t.Errorf("got %d %s, want %d with %q", resp.StatusCode, raw, c.status, c.says)
			}
		})
	}
	only := newMachine(t, identities+"one")
	resp, err := http.PostForm(only.endpoint.URL+"/oauth2/token", url.Values{"resource": {"https://vault.azure.net"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("a form that a web page can send: got %d, want 400", resp.StatusCode)
	}
	guarded := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "http://127.0.0.1/metadata/identity/oauth2/token?"+vault, nil)
	r.Header.Set("Metadata", "true")
	only.IdentityHandler(entra.IdentityEndpoint{Identities: []string{identities + "one"}, Secret: endpointSecret}).ServeHTTP(guarded, r)
	if guarded.Code != 404 {
		t.Errorf("IMDS that was not asked for: got %d %s", guarded.Code, guarded.Body)
	}
}
