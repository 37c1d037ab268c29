package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/msi/armmsi"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/cli"
)

// startProxy runs 'tidelock proxy' and returns what it tells clients to set.
func startProxy(t *testing.T, data string, flags ...string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"proxy", "--data", data, "--listen", "127.0.0.1:0"}, flags...), w, &stderr)
		w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("the proxy ended with exit code %d: %s", c, &stderr)
		}
	})
	set := map[string]string{}
	for lines := bufio.NewScanner(r); len(set) < 4 && lines.Scan(); {
		for _, pair := range strings.Fields(lines.Text())[1:] {
			name, value, _ := strings.Cut(pair, "=")
			set[name] = value
		}
	}
	if len(set) < 4 {
		t.Fatalf("the proxy ended with %d: %s", <-code, &stderr)
	}
	return set
}

// led is an HTTP client with the proxy's environment.
func led(t *testing.T, environment map[string]string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(environment["SSL_CERT_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in the proxy's roots")
	}
	through, err := url.Parse(environment["HTTPS_PROXY"])
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(through), TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Azure's own clients, told of nothing but the proxy: the public cloud, its hosts, the
// article's kind of key URL.
func TestPublicCloudThroughTheProxy(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	server := start(t, "quickstart", data, "is serving")
	defer server.end(t)
	client := led(t, startProxy(t, data))
	profile, err := cli.LoadProfile(filepath.Join(data+".keys", "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	plain := azcore.ClientOptions{Transport: client, Retry: policy.RetryOptions{MaxRetries: -1}}
	options := &arm.ClientOptions{ClientOptions: plain}
	// Instance discovery is on: it asks login.microsoftonline.com, that is us.
	credential, err := azidentity.NewClientSecretCredential(profile.DirectoryID, profile.ClientID, profile.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: plain})
	must(err)

	groups, err := armresources.NewResourceGroupsClient(profile.SubscriptionID, credential, options)
	must(err)
	_, err = groups.CreateOrUpdate(ctx, "public", armresources.ResourceGroup{Location: to.Ptr("westus2")}, nil)
	must(err)
	identities, err := armmsi.NewUserAssignedIdentitiesClient(profile.SubscriptionID, credential, options)
	must(err)
	identity, err := identities.CreateOrUpdate(ctx, "public", "relay-id", armmsi.Identity{Location: to.Ptr("westus2")}, nil)
	must(err)
	vaults, err := armkeyvault.NewVaultsClient(profile.SubscriptionID, credential, options)
	must(err)
	grant := func(object string, permissions ...armkeyvault.KeyPermissions) *armkeyvault.AccessPolicyEntry {
		return &armkeyvault.AccessPolicyEntry{TenantID: &profile.DirectoryID, ObjectID: &object, Permissions: &armkeyvault.Permissions{Keys: to.SliceOfPtrs(permissions...)}}
	}
	making, err := vaults.BeginCreateOrUpdate(ctx, "public", "public-vault", armkeyvault.VaultCreateOrUpdateParameters{
		Location: to.Ptr("westus2"), Properties: &armkeyvault.VaultProperties{
			TenantID: &profile.DirectoryID, SKU: &armkeyvault.SKU{Family: to.Ptr(armkeyvault.SKUFamilyA), Name: to.Ptr(armkeyvault.SKUNameStandard)},
			EnablePurgeProtection: to.Ptr(true),
			AccessPolicies: []*armkeyvault.AccessPolicyEntry{
				grant(profile.ObjectID, armkeyvault.KeyPermissionsCreate, armkeyvault.KeyPermissionsGet, armkeyvault.KeyPermissionsList),
				grant(*identity.Properties.PrincipalID, armkeyvault.KeyPermissionsGet, armkeyvault.KeyPermissionsWrapKey, armkeyvault.KeyPermissionsUnwrapKey),
			},
		},
	}, nil)
	must(err)
	vault, err := making.PollUntilDone(ctx, nil)
	must(err)
	if got := *vault.Properties.VaultURI; got != "https://public-vault.vault.azure.net/" {
		t.Fatalf("got vaultUri %s", got)
	}
	keys, err := azkeys.NewClient(*vault.Properties.VaultURI, credential, &azkeys.ClientOptions{ClientOptions: plain})
	must(err)
	key, err := keys.CreateKey(ctx, "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(2048))}, nil)
	must(err)
	kid := string(*key.Key.KID)
	if !strings.HasPrefix(kid, "https://public-vault.vault.azure.net/keys/k/") {
		t.Fatalf("got kid %s", kid)
	}
	relays, err := armresources.NewClient(profile.SubscriptionID, credential, options)
	must(err)
	creating, err := relays.BeginCreateOrUpdateByID(ctx, "/subscriptions/"+profile.SubscriptionID+"/resourceGroups/public/providers/Microsoft.FluidRelay/fluidRelayServers/fr1", "2022-06-01", armresources.GenericResource{
		Location: to.Ptr("westus2"),
		Identity: &armresources.Identity{Type: to.Ptr(armresources.ResourceIdentityTypeUserAssigned), UserAssignedIdentities: map[string]*armresources.IdentityUserAssignedIdentitiesValue{*identity.ID: {}}},
		Properties: map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": map[string]any{
			"keyEncryptionKeyUrl":      kid,
			"keyEncryptionKeyIdentity": map[string]any{"identityType": "UserAssigned", "userAssignedIdentityResourceId": *identity.ID},
		}}},
	}, nil)
	must(err)
	relay, err := creating.PollUntilDone(ctx, nil)
	must(err)
	if raw, _ := json.Marshal(relay.Properties); !bytes.Contains(raw, []byte(kid)) {
		t.Errorf("got %s, want the key URL as it was sent, %s", raw, kid)
	}
	// The other way to this server, at the same time: the same vault, by our own name.
	own, err := cli.NewClient(profile)
	must(err)
	ownKeys, err := own.Keys("public-vault")
	must(err)
	got, err := ownKeys.GetKey(ctx, "k", "", nil)
	must(err)
	if !strings.HasPrefix(string(*got.Key.KID), "https://public-vault.vault.tidelock.localhost:") {
		t.Errorf("by our own name: got kid %s", *got.Key.KID)
	}
}

// What a client gets that trusts only one of the authorities, or asks for another name.
func TestProxyAuthoritySpeaksForItsNamesAlone(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	server := start(t, "quickstart", data, "is serving")
	defer server.end(t)
	environment := startProxy(t, data)
	client := led(t, environment)
	get := func(url string) error {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for _, url := range []string{
		"https://management.azure.com/subscriptions", "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
		"https://graph.microsoft.com/v1.0/me", "https://v.vault.azure.net/keys", "https://quickstart-vault.vault.tidelock.localhost:8443/keys",
	} {
		if err := get(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"https://example.com/", "https://azure.microsoft.com/", "https://a.b.vault.azure.net/", "https://vault.azure.net/", "https://management.azure.com:8443/", "https://127.0.0.1/"} {
		if err := get(url); err == nil || !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("%s: got %v, want it forbidden", url, err)
		}
	}
	for file, wanted := range map[string]bool{"ca.crt": false, "public-ca.crt": true} {
		pem, err := os.ReadFile(filepath.Join(data+".keys", file))
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		client.Transport.(*http.Transport).CloseIdleConnections()
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		if err := get("https://management.azure.com/"); (err == nil) != wanted {
			t.Errorf("with %s alone: %v", file, err)
		}
		if err := get("https://quickstart-vault.vault.tidelock.localhost/"); (err == nil) == wanted {
			t.Errorf("our own name, with %s alone: %v", file, err)
		}
	}
	var stderr bytes.Buffer
	for _, args := range [][]string{
		{"proxy", "--data", data, "--listen", "0.0.0.0:0"},
		{"proxy", "--data", filepath.Join(t.TempDir(), "none")},
	} {
		if code := run(t.Context(), args, io.Discard, &stderr); code != 1 {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
