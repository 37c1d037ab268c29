package app_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/cli"
)

// The real Key Vault client does its work over TLS, with a token of the embedded
// directory: create, get, wrap, unwrap, disable, enable.
func TestKeyVaultClientOverTLS(t *testing.T) {
	r := newRig(t)
	client, err := cli.NewClient(r.profile)
	if err != nil {
		t.Fatal(err)
	}
	vault := map[string]any{"location": "westus2", "properties": map[string]any{
		"tenantId": r.profile.DirectoryID, "sku": map[string]string{"family": "A", "name": "standard"},
		"accessPolicies": []any{map[string]any{
			"tenantId": r.profile.DirectoryID, "objectId": r.profile.ObjectID,
			"permissions": map[string]any{"keys": []string{"create", "get", "update", "wrapKey", "unwrapKey"}},
		}},
	}}
	path := "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.KeyVault/vaults/sdk-vault"
	if err := client.Do(t.Context(), http.MethodPut, path, "2023-07-01", vault, nil); err != nil {
		t.Fatal(err)
	}
	keys, err := client.Keys("sdk-vault")
	if err != nil {
		t.Fatal(err)
	}
	created, err := keys.CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(2048))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	version := created.Key.KID.Version()
	if got, err := keys.GetKey(t.Context(), "k", "", nil); err != nil || got.Key.KID.Version() != version {
		t.Fatalf("get: %v", err)
	}

	secret := make([]byte, 32)
	rand.Read(secret)
	alg := to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256)
	wrapped, err := keys.WrapKey(t.Context(), "k", "", azkeys.KeyOperationParameters{Algorithm: alg, Value: secret}, nil)
	if err != nil {
		t.Fatal(err)
	}
	unwrap := func() ([]byte, error) {
		u, err := keys.UnwrapKey(t.Context(), "k", version, azkeys.KeyOperationParameters{Algorithm: alg, Value: wrapped.Result}, nil)
		return u.Result, err
	}
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("unwrap: %v, equal %t", err, bytes.Equal(got, secret))
	}
	enable := func(on bool) {
		_, err := keys.UpdateKey(t.Context(), "k", version, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(on)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	enable(false)
	var refused *azcore.ResponseError
	if _, err := unwrap(); !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
		t.Errorf("unwrap with a disabled key: %v, want 403", err)
	}
	enable(true)
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap after enabling: %v, equal %t", err, bytes.Equal(got, secret))
	}
}

// A server may move to other ports: the key identifiers that were recorded under
// the old one go on to work.
func TestPortsMayChange(t *testing.T) {
	r := newRig(t)
	document := writeDocument(t, r.endpoint)
	before, _ := r.ask(document)
	r.stop()
	r.start()
	after, _ := r.ask(document)
	if after.status != http.StatusOK || !bytes.Equal(after.body, before.body) {
		t.Errorf("on another port: %d %s", after.status, after.body)
	}
}

// A client that sends all it has before it looks for an answer gets one from each face,
// however much that is, whoever it is: so a stream that was reset does not look like one.
func TestTooLargeIsAnswered(t *testing.T) {
	r := newRig(t)
	a := asker{r, r.web()}
	admin := person{r.profile.DirectoryID, r.profile.ClientID, r.profile.ObjectID, r.profile.ClientSecret}
	bearer := func(audience string) string { return "Bearer " + a.token(admin, audience) }
	m := r.profile.ManagementURL
	relay := m + "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.FluidRelay/fluidRelayServers/quickstart?api-version=2022-06-01"
	key := "https://quickstart-vault." + r.profile.VaultSuffix + "/keys/large/create?api-version=7.4"
	for _, c := range []struct {
		name, method, url, authorization, kind string
		status                                 int
		code                                   string
	}{
		{"ResourceManager", "PATCH", relay, bearer("https://management.azure.com"), "application/json", 413, "RequestContentTooLarge"},
		{"ResourceManagersStranger", "PATCH", relay, "", "application/json", 401, "AuthenticationFailed"},
		{"Vault", "POST", key, bearer("https://vault.azure.net"), "application/json", 400, "BadParameter"},
		{"VaultsStranger", "POST", key, "", "application/json", 401, "Unauthorized"},
		{"Graph", "POST", m + "/graph/v1.0/applications", bearer("https://graph.microsoft.com"), "application/json", 400, "Request_BadRequest"},
		{"Authority", "POST", m + "/" + admin.Directory + "/oauth2/v2.0/token", "", "application/x-www-form-urlencoded", 400, "invalid_request"},
		{"Metadata", "POST", m + "/metadata/endpoints?api-version=2022-09-01", "", "application/json", 405, ""},
	} {
		for _, http2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/http2=%v", c.name, http2), func(t *testing.T) {
				client := r.web()
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = http2
				const length = 32 << 20 // more than any buffer on the way takes
				sent := &countingReader{r: io.LimitReader(endless{}, length)}
				req, err := http.NewRequestWithContext(t.Context(), c.method, c.url, struct{ io.Reader }{sent}) // of no known length
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", c.kind)
				if c.authorization != "" {
					req.Header.Set("Authorization", c.authorization)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				answer, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != c.status || !strings.Contains(string(answer), c.code) || (resp.ProtoMajor == 2) != http2 {
					t.Errorf("got %s %d %s %v, want %d %s", resp.Proto, resp.StatusCode, answer, err, c.status, c.code)
				}
				if n := sent.n.Load(); n != length {
					t.Errorf("the client could send %d bytes of %d", n, length)
				}
			})
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
