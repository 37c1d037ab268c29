package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/entra"
)

// served is a server on loopback, with its administrator's client.
type servedApp struct {
	*App
	profile cli.Profile
	client  *cli.Client
}

func serveApp(t *testing.T, c Config, in surroundings) servedApp {
	t.Helper()
	const free = "127.0.0.1:0"
	c.RelayAddr, c.ManagementAddr = free, free
	if c.DataDir == "" {
		c.DataDir = filepath.Join(t.TempDir(), "data")
	}
	real := outside()
	in.listen, in.engine, in.anchors, in.toKeyStores = real.listen, real.engine, real.anchors, real.toKeyStores
	a, err := openIn(t.Context(), c, in)
	if err != nil {
		t.Fatal(err)
	}
	s := servedApp{App: a}
	if s.profile, err = a.Admin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if s.client, err = cli.NewClient(s.profile); err != nil {
		t.Fatal(err)
	}
	return s
}

// do makes a management request; code is empty when it was done.
func (s servedApp) do(t *testing.T, method, path, version, body string, out any) (code string, details []string) {
	t.Helper()
	var in any
	if body != "" {
		in = json.RawMessage(body)
	}
	err := s.client.Do(t.Context(), method, path, version, in, out)
	var refused *cli.APIError
	if errors.As(err, &refused) {
		for _, d := range refused.Details {
			details = append(details, d.Code)
		}
		return refused.Code, details
	}
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return "", nil
}

func (s servedApp) must(t *testing.T, method, path, version, body string, out any) {
	t.Helper()
	if code, details := s.do(t, method, path, version, body, out); code != "" {
		t.Fatalf("%s %s: %s %v", method, path, code, details)
	}
}

func (s servedApp) group() string {
	return "/subscriptions/" + s.profile.SubscriptionID + "/resourceGroups/rg1"
}

// cloud is a server that stands for Azure: every name leads to it, over real TLS. It has the
// vault contoso with the key kek, and the identity id1, for which an application stands.
type cloud struct {
	servedApp
	id    string // of id1
	keys  *azkeys.Client
	vault string // body that makes the vault

	mu    sync.Mutex
	asked []string // host and path of every request that came

	next http.RoundTripper
}

func (c *cloud) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.asked = append(c.asked, r.URL.Host+r.URL.Path)
	c.mu.Unlock()
	return c.next.RoundTrip(r)
}

func (c *cloud) requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{servedApp: serveApp(t, Config{}, surroundings{})}
	pem, err := os.ReadFile(c.profile.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	address := strings.TrimPrefix(c.profile.ManagementURL, "https://")
	c.next = &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12},
	}
	c.must(t, "PUT", c.group(), "2021-04-01", `{"location":"westus2"}`, nil)
	var made struct{ ID string }
	c.must(t, "PUT", c.group()+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id1", "2023-01-31", `{"location":"westus2"}`, &made)
	c.id = made.ID
	return c
}

// application makes one that may use the vault's keys and, as Reader, ask the resource
// manager. It returns its part of the configuration file.
func (c *cloud) application(t *testing.T, dir string) string {
	t.Helper()
	app, secret, err := c.entra.CreateApplication(t.Context(), entra.DirectoryID(c.profile.DirectoryID), "stands for id1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.entra.Assign(t.Context(), app.ObjectID, "Reader", "/subscriptions/"+c.profile.SubscriptionID); err != nil {
		t.Fatal(err)
	}
	policy := func(object, permissions string) string {
		return fmt.Sprintf(`{"tenantId":%q,"objectId":%q,"permissions":{"keys":[%s]}}`, c.profile.DirectoryID, object, permissions)
	}
	c.vault = fmt.Sprintf(`{"location":"westus2","properties":{"tenantId":%q,"sku":{"family":"A","name":"standard"},"enablePurgeProtection":true,"accessPolicies":[%s,%s]}}`,
		c.profile.DirectoryID, policy(app.ObjectID, `"get","wrapKey","unwrapKey"`), policy(c.profile.ObjectID, `"create","get","update"`))
	c.must(t, "PUT", c.group()+"/providers/Microsoft.KeyVault/vaults/contoso", "2023-07-01", c.vault, nil)
	if c.keys, err = c.client.Keys("contoso"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`"type":"clientSecret","tenantId":%q,"clientId":%q,"secretFile":"secret"`, c.profile.DirectoryID, app.ClientID)
}

func (c *cloud) newVersion(t *testing.T) (version string) {
	t.Helper()
	made, err := c.keys.CreateKey(t.Context(), "kek", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(2048))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made.Key.KID.Version()
}

func writeConfig(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "keystore.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func server(location, identity, url string) string {
	return fmt.Sprintf(`{"location":%q,"identity":{"type":"UserAssigned","userAssignedIdentities":{%q:{}}},"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyIdentity":{"identityType":"UserAssigned","userAssignedIdentityResourceId":%q},"keyEncryptionKeyUrl":%q}}}}`,
		location, identity, identity, url)
}

// A server whose keys are in Azure, over TLS, under Azure's names, with the real SDKs'
// credentials: the rules of CMK hold there, region and tenant among them.
func TestKeysInAzure(t *testing.T) {
	azure, dir := newCloud(t), t.TempDir()
	credential := azure.application(t, dir)
	version := azure.newVersion(t)
	path := writeConfig(t, dir, fmt.Sprintf(`{"identities":[{"id":%q,%s}],"management":{%s}}`, azure.id, credential, credential))
	s := serveApp(t, Config{KeyStore: "azure", KeyStoreConfig: path, Log: slog.New(slog.DiscardHandler)}, surroundings{azureHTTP: azure})
	s.must(t, "PUT", s.group(), "2021-04-01", `{"location":"westus2"}`, nil)
	at := func(name string) string {
		return s.group() + "/providers/Microsoft.FluidRelay/fluidRelayServers/" + name
	}
	key := "https://contoso.vault.azure.net/keys/kek"

	var made struct {
		Identity struct {
			User map[string]struct{ PrincipalID, ClientID string } `json:"userAssignedIdentities"`
		}
		Properties struct {
			Encryption struct {
				CMK struct {
					URL string `json:"keyEncryptionKeyUrl"`
				} `json:"customerManagedKeyEncryption"`
			}
		}
	}
	s.must(t, "PUT", at("s1"), "2022-06-01", server("westus2", azure.id, key+"/"+version), &made)
	if made.Properties.Encryption.CMK.URL != key+"/"+version || made.Identity.User[azure.id].PrincipalID == "" {
		t.Errorf("got %+v", made)
	}
	for _, host := range []string{"login.microsoftonline.com/", "management.azure.com/", "contoso.vault.azure.net/keys/kek/"} {
		if !slices.ContainsFunc(azure.requests(), func(r string) bool { return strings.HasPrefix(r, host) }) {
			t.Errorf("nothing was asked of %s", host)
		}
	}
	// A newer version, and the newest whatever it is.
	second := azure.newVersion(t)
	s.must(t, "PATCH", at("s1"), "2022-06-01", `{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":"`+key+"/"+second+`"}}}}`, nil)
	s.must(t, "PATCH", at("s1"), "2022-06-01", `{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":"`+key+`"}}}}`, nil)
	var status struct {
		Properties struct{ State, RotationMode string }
	}
	s.must(t, "GET", at("s1")+"/encryptionStatus", "2025-06-20-preview", "", &status)
	if status.Properties.State != "Healthy" || status.Properties.RotationMode != "Automatic" {
		t.Errorf("status: %+v", status)
	}

	off := func(v string, enabled bool) {
		if _, err := azure.keys.UpdateKey(t.Context(), "kek", v, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(enabled)}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	off(version, false)
	stranger := strings.Replace(azure.id, "/id1", "/id2", 1)
	for _, c := range []struct{ name, body, code, detail string }{
		{"Disabled", server("westus2", azure.id, key+"/"+version), "CmkConfigurationError", "KeyDisabled"},
		{"NoSuchKey", server("westus2", azure.id, "https://contoso.vault.azure.net/keys/none"), "CmkConfigurationError", "KeyNotFound"},
		{"NoSuchVault", server("westus2", azure.id, "https://nobody.vault.azure.net/keys/none"), "CmkConfigurationError", ""},
		{"OtherRegion", server("eastus", azure.id, key), "CmkConfigurationError", "VaultRegionMismatch"},
		{"NoCredential", server("westus2", stranger, key), "LinkedAuthorizationFailed", ""},
		{"OtherPort", server("westus2", azure.id, "https://contoso.vault.azure.net:8443/keys/kek"), "InvalidKeyEncryptionKeyUrl", "KeyUrlMalformed"},
		{"OtherCloud", server("westus2", azure.id, "https://contoso.vault.azure.cn/keys/kek"), "InvalidKeyEncryptionKeyUrl", "KeyStoreNotSupported"},
		{"EmbeddedVault", server("westus2", azure.id, "https://contoso.vault.tidelock.localhost/keys/kek"), "CmkTenantMismatch", "VaultTenantMismatch"},
	} {
		code, details := s.do(t, "PUT", at("refused"), "2022-06-01", c.body, nil)
		if code != c.code || c.detail != "" && !slices.Contains(details, c.detail) {
			t.Errorf("%s: got %s %v, want %s with %s", c.name, code, details, c.code, c.detail)
		}
	}
}

// Without leave to ask the resource manager, region and tenant are not checked, and that
// is said. Keys of this server's own vaults go on beside those in Azure, and a relay can
// move from one to the other.
func TestAzureWithoutItsResourceManager(t *testing.T) {
	azure, dir := newCloud(t), t.TempDir()
	credential := azure.application(t, dir)
	version := azure.newVersion(t)
	path := writeConfig(t, dir, fmt.Sprintf(`{"identities":[{"id":%q,%s}]}`, azure.id, credential))
	var log logBook
	s := serveApp(t, Config{KeyStore: "azure", KeyStoreConfig: path, Log: slog.New(slog.NewJSONHandler(&log, nil))}, surroundings{azureHTTP: azure})
	if _, err := s.client.Seed(t.Context()); err != nil { // a relay under a key of an embedded vault
		t.Fatal(err)
	}
	relay := "/subscriptions/" + s.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.FluidRelay/fluidRelayServers/quickstart"
	body := server("westus2", azure.id, "https://contoso.vault.azure.net/keys/kek/"+version)
	body = strings.Replace(body, `"location":"westus2",`, "", 1)
	var check struct {
		Usable    bool
		Unchecked []string
	}
	s.must(t, "POST", relay+"/checkEncryption", "2025-06-20-preview", body, &check)
	if !check.Usable || len(check.Unchecked) != 2 {
		t.Errorf("the dry run says %+v, want usable, with identity and key store not looked at", check)
	}
	s.must(t, "PATCH", relay, "2022-06-01", body, nil)
	if slices.ContainsFunc(azure.requests(), func(r string) bool { return strings.HasPrefix(r, "management.azure.com") }) {
		t.Error("the resource manager was asked")
	}
	var history struct {
		Value []struct{ KeyIdentifier string }
	}
	s.must(t, "GET", relay+"/encryptionHistory", "2025-06-20-preview", "", &history)
	if len(history.Value) != 2 || !strings.HasPrefix(history.Value[0].KeyIdentifier, "https://contoso.vault.azure.net/keys/kek/") {
		t.Errorf("history: %+v", history)
	}
}

// Key URLs are input: what is not the name of a key store in the cloud makes no request at all.
func TestKeyURLsMakeNoRequests(t *testing.T) {
	azure, dir := newCloud(t), t.TempDir()
	path := writeConfig(t, dir, fmt.Sprintf(`{"identities":[{"id":%q,%s}]}`, azure.id, azure.application(t, dir)))
	s := serveApp(t, Config{KeyStore: "azure", KeyStoreConfig: path}, surroundings{azureHTTP: azure})
	s.must(t, "PUT", s.group(), "2021-04-01", `{"location":"westus2"}`, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	came := make(chan struct{}, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_ = conn.Close()
			came <- struct{}{}
		}
	}()
	before := len(azure.requests())
	for n, url := range []string{
		"https://127.0.0.1/keys/k", "https://" + listener.Addr().String() + "/keys/k", "http://" + listener.Addr().String() + "/keys/k",
		"https://localhost/keys/k", "https://[::1]/keys/k", "https://10.0.0.1/keys/k", "https://192.168.1.1/keys/k", "https://169.254.169.254/keys/k",
		"https://[::ffff:127.0.0.1]/keys/k", "https://[::ffff:7f00:1]/keys/k", "https://[::]/keys/k", "https://[fd00::1]/keys/k", "https://[fe80::1%25lo]/keys/k", "https://172.16.0.1/keys/k",
		"https://2130706433/keys/k", "https://0x7f.1/keys/k", "https://0x7f000001/keys/k", "https://0177.0.0.1/keys/k", "https://017700000001/keys/k", "https://127.1/keys/k", "https://0/keys/k", "https://0.0.0.0/keys/k",
		"https://contoso.vault.azure.net./keys/k", "https://localhost.vault.azure.net:22/keys/k", "https://127.0.0.1.vault.azure.net/keys/k", "https://contoso.vault.azure.net@127.0.0.1/keys/k", "https://user:pass@contoso.vault.azure.net/keys/k",
		"https://contoso.vault.azure.net:8443/keys/k", "https://contoso.vault.azure.net:80/keys/k", "http://contoso.vault.azure.net/keys/k",
		"https://contoso.vault.azure.net.evil.example/keys/k", "https://evil.example/contoso.vault.azure.net/keys/k", "https://contoso.vault.azure.net#.evil.example/keys/k",
		"https://a.contoso.vault.azure.net/keys/k", "https://.vault.azure.net/keys/k", "https://vault.azure.net/keys/k", "https://contoso.vault.azure.net\\@127.0.0.1/keys/k",
		" https://contoso.vault.azure.net/keys/k", "https://contoso.vault.azure.net/keys/k ", "https://contoso .vault.azure.net/keys/k", "https://contoso.vault.azure.net/keys/k%2F..",
		"https://contoso.vault.azure.net/keys/../secrets/k", "https://contoso.vault.azure.net/keys/k?api-version=1", "https://contoso.vault.azure.net//keys/k",
		"file:///etc/passwd", "https://contoso.vault.azure.net\r\nHost: evil/keys/k", "https://cöntoso.vault.azure.net/keys/k", "//contoso.vault.azure.net/keys/k",
	} {
		body := server("westus2", azure.id, "x")
		raw, err := json.Marshal(url)
		if err != nil {
			t.Fatal(err)
		}
		body = strings.Replace(body, `"keyEncryptionKeyUrl":"x"`, `"keyEncryptionKeyUrl":`+string(raw), 1)
		name := fmt.Sprintf("%s/providers/Microsoft.FluidRelay/fluidRelayServers/s%d", s.group(), n)
		if code, _ := s.do(t, "PUT", name, "2022-06-01", body, nil); code != "InvalidKeyEncryptionKeyUrl" {
			t.Errorf("%s: got %q, want InvalidKeyEncryptionKeyUrl", url, code)
		}
	}
	if now := azure.requests(); len(now) != before {
		t.Errorf("requests were made: %v", now[before:])
	}
	select {
	case <-came:
		t.Error("a connection came to the listener")
	default:
	}
}

func TestAzureConfigurationIsNeeded(t *testing.T) {
	for name, c := range map[string]Config{
		"NoFile":       {KeyStore: "azure"},
		"FileMissing":  {KeyStore: "azure", KeyStoreConfig: filepath.Join(t.TempDir(), "none.json")},
		"UnknownStore": {KeyStore: "aws"},
		"FileForOther": {KeyStoreConfig: "x.json"},
	} {
		c.DataDir, c.RelayAddr, c.ManagementAddr = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "127.0.0.1:0"
		a, err := Open(t.Context(), c)
		if err == nil {
			a.Close()
			t.Errorf("%s: the server starts", name)
		} else if name == "FileMissing" != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
