package main

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/cli"
)

// provider is another OpenID provider, on loopback: a cluster's, or a company's.
type provider struct {
	*httptest.Server
	key *rsa.PrivateKey
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
		case "/keys":
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
				"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1",
				"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
			}}})
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) token(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	claims["iss"], claims["exp"] = p.URL, time.Now().Add(time.Hour).Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = "1"
	signed, err := token.SignedString(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// startProcess runs quickstart in a process of its own: what a process trusts is read
// once, so it cannot be changed in this one.
func startProcess(t *testing.T, data string, environment []string, flags ...string) {
	t.Helper()
	c := exec.Command("tidelock", append([]string{"quickstart", "--data", data, "--relay", "127.0.0.1:0", "--management", "127.0.0.1:0"}, flags...)...)
	c.Env = append(os.Environ(), environment...)
	var log strings.Builder
	c.Stderr = &log
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Kill) // nothing is kept
		_ = c.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "is serving") {
			go io.Copy(io.Discard, out) // the rest of the banner
			return
		}
	}
	t.Fatalf("quickstart ended before it served: %v %s", c.Wait(), &log)
}

// Tokens of another provider on a whole server: a workload is the managed identity that
// trusts its cluster, and somebody of a company calls with her own token.
func TestTokensOfOtherProviders(t *testing.T) {
	p, dir := newProvider(t), t.TempDir()
	data := filepath.Join(dir, "data")
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := file("provider.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})))
	startProcess(t, data, []string{"SSL_CERT_FILE=" + certificate}, "--private-issuer", p.URL,
		"--trusted-issuers", file("trusted.json", `[{"issuer":"`+p.URL+`","managementAudiences":["api://tidelock"],"claim":"sub"}]`))
	client := led(t, startProxy(t, data))
	profile, err := cli.LoadProfile(filepath.Join(data+".keys", "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := cli.NewClient(profile)
	if err != nil {
		t.Fatal(err)
	}
	group := "/subscriptions/" + profile.SubscriptionID + "/resourceGroups/quickstart"
	identity := group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/relay-identity"
	do := func(method, path, version string, in, out any) {
		t.Helper()
		if err := admin.Do(t.Context(), method, path, version, in, out); err != nil {
			t.Fatal(err)
		}
	}

	do("PUT", identity+"/federatedIdentityCredentials/cluster", "2023-01-31", map[string]any{"properties": map[string]any{
		"issuer": p.URL, "subject": "system:serviceaccount:a:b", "audiences": []string{"api://AzureADTokenExchange"},
	}}, nil)
	var made struct{ Properties struct{ ClientID string } }
	do("GET", identity, "2023-01-31", nil, &made)
	for subject, want := range map[string]string{"system:serviceaccount:a:b": "", "system:serviceaccount:a:c": "AADSTS700213"} {
		credential, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: azcore.ClientOptions{Transport: client, Retry: policy.RetryOptions{MaxRetries: -1}},
			TenantID:      profile.DirectoryID, ClientID: made.Properties.ClientID,
			TokenFilePath: file("token", p.token(t, jwt.MapClaims{"sub": subject, "aud": "api://AzureADTokenExchange"})),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", subject, err, want)
		}
	}

	ada := p.token(t, jwt.MapClaims{"sub": "ada", "aud": "api://tidelock"})
	ask := func(token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://management.azure.com"+group+"?api-version=2021-04-01", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := ask(ada); status != http.StatusUnauthorized {
		t.Errorf("before she is imported: got %d, want 401", status)
	}
	var imported struct{ ID string }
	output(t, &imported, "app", "import", "--name", "ada", "--issuer", p.URL, "--value", "ada", "--data", data)
	if status := ask(ada); status != http.StatusForbidden {
		t.Errorf("without a role: got %d, want 403", status)
	}
	const reader = "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7"
	do("PUT", group+"/providers/Microsoft.Authorization/roleAssignments/6b3c1c63-0000-4000-8000-000000000002", "2022-04-01", map[string]any{
		"properties": map[string]any{"roleDefinitionId": "/subscriptions/" + profile.SubscriptionID + reader, "principalId": imported.ID},
	}, nil)
	if status := ask(ada); status != http.StatusOK {
		t.Errorf("as a reader: got %d, want 200", status)
	}
	if status := ask(p.token(t, jwt.MapClaims{"sub": "ada", "aud": "https://management.azure.com"})); status != http.StatusUnauthorized {
		t.Errorf("with a token for somebody else: got %d, want 401", status)
	}
}
