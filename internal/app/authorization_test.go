package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

// web is an HTTP client that trusts the server and finds its vaults.
func (r *rig) web() *http.Client {
	r.t.Helper()
	pem, err := os.ReadFile(r.profile.CAFile)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	at := strings.TrimPrefix(r.profile.ManagementURL, "https://")
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, at)
		},
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// person is an application, as somebody who calls.
type person struct{ Directory, AppID, ID, Secret string }

// asker makes raw requests to a rig.
type asker struct {
	*rig
	http *http.Client
}

func (a asker) do(method, url, token, body string) (int, []byte) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, raw
}

// token is one of a person for an audience.
func (a asker) token(p person, audience string) string {
	a.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {p.AppID}, "client_secret": {p.Secret}, "scope": {audience + "/.default"}}
	resp, err := a.http.PostForm(a.profile.ManagementURL+"/"+p.Directory+"/oauth2/v2.0/token", form)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.Token == "" {
		a.t.Fatalf("no token: %d %v", resp.StatusCode, err)
	}
	return got.Token
}

// made decodes the answer to a request that must succeed.
func made[T any](a asker, method, url, token, body string) T {
	a.t.Helper()
	status, raw := a.do(method, url, token, body)
	var v T
	if status/100 != 2 {
		a.t.Fatalf("%s %s: %d %s", method, url, status, raw)
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			a.t.Fatal(err)
		}
	}
	return v
}

type madeApp struct {
	ID, AppID, SecretText, SubscriptionID string
	Administrator                         json.RawMessage
}

// newPerson makes an application in the directory of whose token this is.
func (a asker) newPerson(graphToken, directory, name string) person {
	a.t.Helper()
	graph := a.profile.ManagementURL + "/graph/v1.0/applications"
	app := made[madeApp](a, "POST", graph, graphToken, fmt.Sprintf(`{"displayName":%q}`, name))
	secret := made[madeApp](a, "POST", graph+"/"+app.ID+"/addPassword", graphToken, "")
	return person{directory, app.AppID, app.ID, secret.SecretText}
}

// Who may do what, where: the answers of a whole server to each kind of token at each
// kind of place.
func TestWhoMayDoWhatWhere(t *testing.T) {
	r := newRig(t)
	a := asker{r, r.web()}
	const arm, vault, graph = "https://management.azure.com", "https://vault.azure.net", "https://graph.microsoft.com"
	m := r.profile.ManagementURL
	admin := person{r.profile.DirectoryID, r.profile.ClientID, r.profile.ObjectID, r.profile.ClientSecret}
	adminGraph := a.token(admin, graph)

	other := made[madeApp](a, "POST", m+"/graph/beta/directories", adminGraph, `{"displayName":"other"}`)
	var owner madeApp
	if err := json.Unmarshal(other.Administrator, &owner); err != nil {
		t.Fatal(err)
	}
	stranger := person{other.ID, owner.AppID, owner.ID, owner.SecretText}
	// Whoever has no token learns where to get one: a subscription's is of its directory.
	for _, c := range [][3]string{
		{"", "/subscriptions/" + r.profile.SubscriptionID, m + "/" + admin.Directory},
		{"", "/subscriptions/" + other.SubscriptionID + "/resourceGroups/g", m + "/" + other.ID},
		{"", "/subscriptions/x", m + "/" + admin.Directory},
		{"", "/tenants", m + "/" + admin.Directory},
		{"management.azure.com", "/subscriptions/" + other.SubscriptionID, "https://login.microsoftonline.com/" + other.ID},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", m+c[1]+"?api-version=2021-04-01", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c[0]
		resp, err := a.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || !strings.HasPrefix(got, `Bearer authorization_uri="`+c[2]+`", `) {
			t.Errorf("%s %s: got %d %s, want %s", c[0], c[1], resp.StatusCode, got, c[2])
		}
	}
	nobody := a.newPerson(adminGraph, admin.Directory, "nobody")
	reader := a.newPerson(adminGraph, admin.Directory, "reader")
	gone := a.newPerson(adminGraph, admin.Directory, "gone")
	group := m + "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart"
	const reads = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	made[struct{}](a, "PUT", group+"/providers/Microsoft.Authorization/roleAssignments/6b3c1c63-0000-4000-8000-000000000001?api-version=2022-04-01", a.token(admin, arm),
		fmt.Sprintf(`{"properties":{"roleDefinitionId":"/subscriptions/%s/providers/Microsoft.Authorization/roleDefinitions/%s","principalId":%q}}`, r.profile.SubscriptionID, reads, reader.ID))
	goneToken, goneVault := a.token(gone, arm), a.token(gone, vault)
	made[struct{}](a, "DELETE", m+"/graph/v1.0/applications/"+gone.ID, adminGraph, "")

	tokens := map[string]map[string]string{
		"nothing":       {arm: "", vault: "", graph: ""},
		"rubbish":       {arm: "x.y.z", vault: "x.y.z", graph: "x.y.z"},
		"gone":          {arm: goneToken, vault: goneVault, graph: goneToken},
		"wrongAudience": {arm: a.token(admin, vault), vault: a.token(admin, arm), graph: a.token(admin, arm)},
	}
	for name, p := range map[string]person{"admin": admin, "stranger": stranger, "nobody": nobody, "reader": reader} {
		tokens[name] = map[string]string{arm: a.token(p, arm), vault: a.token(p, vault), graph: a.token(p, graph)}
	}
	quickstartVault := "https://quickstart-vault." + r.profile.VaultSuffix
	relay := group + "/providers/Microsoft.FluidRelay/fluidRelayServers/quickstart"
	columns := []string{"nothing", "rubbish", "gone", "wrongAudience", "stranger", "nobody", "reader", "admin"}
	for _, row := range []struct {
		audience, what, body string
		want                 [8]int
	}{
		{arm, "GET " + m + "/metadata/endpoints?api-version=2022-09-01", "", [8]int{200, 200, 200, 200, 200, 200, 200, 200}},
		{arm, "GET " + m + "/" + admin.Directory + "/discovery/v2.0/keys", "", [8]int{200, 200, 200, 200, 200, 200, 200, 200}},
		{arm, "GET " + m + "/tenants?api-version=2020-01-01", "", [8]int{401, 401, 401, 401, 200, 200, 200, 200}},
		{arm, "GET " + group + "?api-version=2021-04-01", "", [8]int{401, 401, 401, 401, 401, 403, 200, 200}},
		{arm, "PUT " + group + "?api-version=2021-04-01", `{"location":"westus2"}`, [8]int{401, 401, 401, 401, 401, 403, 403, 200}},
		{arm, "GET " + relay + "?api-version=2022-06-01", "", [8]int{401, 401, 401, 401, 401, 403, 200, 200}},
		{arm, "POST " + relay + "/listKeys?api-version=2022-06-01", "", [8]int{401, 401, 401, 401, 401, 403, 403, 200}},
		{arm, "PATCH " + relay + "?api-version=2022-06-01", `{"tags":{}}`, [8]int{401, 401, 401, 401, 401, 403, 403, 200}},
		{vault, "GET " + quickstartVault + "/keys?api-version=7.4", "", [8]int{401, 401, 401, 401, 401, 403, 403, 200}},
		{vault, "GET " + quickstartVault + "/keys/relay-key?api-version=7.4", "", [8]int{401, 401, 401, 401, 401, 403, 403, 200}},
		{vault, "POST " + quickstartVault + "/keys/relay-key/unwrapkey?api-version=7.4", `{"alg":"RSA-OAEP-256","value":"AA"}`, [8]int{401, 401, 401, 401, 401, 403, 403, 403}},
		{graph, "GET " + m + "/graph/v1.0/servicePrincipals/" + admin.ID, "", [8]int{401, 401, 401, 401, 404, 200, 200, 200}},
		{graph, "POST " + m + "/graph/v1.0/applications/" + admin.ID + "/addPassword", "", [8]int{401, 401, 401, 401, 404, 403, 403, 200}},
		{graph, "POST " + m + "/graph/beta/directories", `{"displayName":"x"}`, [8]int{401, 401, 401, 401, 403, 403, 403, 201}},
	} {
		method, target, _ := strings.Cut(row.what, " ")
		for n, who := range columns {
			status, raw := a.do(method, target, tokens[who][row.audience], row.body)
			if status != row.want[n] {
				t.Errorf("%s, %s: got %d %s, want %d", who, row.what, status, raw, row.want[n])
			}
		}
	}
}
