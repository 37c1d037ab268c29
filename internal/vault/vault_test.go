package vault_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
	"github.com/tidelock/tidelock/internal/vault"
	"github.com/tidelock/tidelock/internal/vault/vaulttest"
)

const (
	domain    = "vault.tidelock.localhost"
	hsmDomain = "managedhsm.tidelock.localhost"
)

// testCloud is a directory service and vaults behind one TLS server, chosen by
// host as the management listener does.
type testCloud struct {
	vaults    *vault.Service
	entra     *entra.Service
	store     store.Store
	service   envelope.ServiceKey
	client    *http.Client // leads every name to the server
	suffix    string
	hsmSuffix string
	token11   *vaulttest.Token
	login     string
	directory entra.DirectoryID
	admin     entra.Principal
	tokens    azcore.TokenCredential // of admin
}

func newCloud(t *testing.T, log io.Writer) testCloud {
	t.Helper()
	var authority, vaults http.Handler
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Host, domain) || strings.Contains(r.Host, hsmDomain) {
			vaults.ServeHTTP(w, r)
			return
		}
		authority.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := testCloud{store: memory.New(), service: envelope.NewServiceKey(), suffix: domain + ":" + u.Port(), hsmSuffix: hsmDomain + ":" + u.Port(), token11: vaulttest.NewToken(), login: server.URL}
	keys := rsatest.New()
	c.entra, err = entra.Open(t.Context(), entra.Config{Store: c.store, Service: c.service, Login: server.URL, VaultSuffix: c.suffix, HSMSuffix: c.hsmSuffix, GenerateRSA: keys})
	if err != nil {
		t.Fatal(err)
	}
	c.vaults = vault.New(vault.Config{
		Store: c.store, Service: c.service, Entra: c.entra, Suffix: c.suffix, HSMSuffix: c.hsmSuffix, Login: server.URL, Token: c.token11, GenerateRSA: keys,
		Log: slog.New(slog.NewJSONHandler(log, nil)),
	})
	authority, vaults = c.entra.Handler(), c.vaults.Handler()

	var d net.Dialer
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	transport := &http.Transport{
		// The test server's certificate is for example.com.
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, u.Host)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	c.client = &http.Client{Transport: transport}

	if c.directory, err = c.entra.CreateDirectory(t.Context(), "contoso"); err != nil {
		t.Fatal(err)
	}
	var secret string
	if c.admin, secret, err = c.entra.CreateApplication(t.Context(), c.directory, "admin"); err != nil {
		t.Fatal(err)
	}
	c.tokens, err = azidentity.NewClientSecretCredential(string(c.directory), c.admin.ClientID, secret,
		&azidentity.ClientSecretCredentialOptions{
			ClientOptions: azcore.ClientOptions{
				Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: server.URL},
				Transport: c.client, Retry: policy.RetryOptions{MaxRetries: -1},
			},
			DisableInstanceDiscovery: true,
		})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lockedBuffer is a log that a test may read while the server writes it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// vault is one that the administrator may do everything in.
func (c testCloud) vault(name string) vault.Vault {
	return vault.Vault{
		Name: name, Location: "westus2", Directory: c.directory,
		Policies: []vault.Policy{{ObjectID: c.admin.ObjectID, Directory: c.directory, Keys: []string{"all", "purge", "rotate", "getrotationpolicy", "setrotationpolicy", "release"}}},
	}
}

func (c testCloud) put(t *testing.T, v vault.Vault) {
	t.Helper()
	if err := c.vaults.Put(t.Context(), v); err != nil {
		t.Fatal(err)
	}
}

// keys is the real client, over the network or in this process.
func (c testCloud) keys(t *testing.T, name string, doer policy.Transporter) *azkeys.Client {
	t.Helper()
	k, err := azkeys.NewClient("https://"+name+"."+c.suffix, c.tokens, &azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: doer, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// refusal reads what a vault refused with.
type refusal struct {
	status      int
	code, inner string
	message     string
}

func readRefusal(t *testing.T, resp *http.Response) refusal {
	t.Helper()
	var body struct {
		Error struct {
			Code, Message string
			InnerError    struct{ Code string }
		}
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &body); err != nil {
		t.Fatalf("the answer is not JSON: %v: %s", err, b)
	}
	return refusal{resp.StatusCode, body.Error.Code, body.Error.InnerError.Code, body.Error.Message}
}

// refused asserts that the real client got this refusal.
func refused(t *testing.T, what string, err error, status int, code, inner string) {
	t.Helper()
	var e *azcore.ResponseError
	if !errors.As(err, &e) {
		t.Errorf("%s: got %v, want status %d", what, err, status)
		return
	}
	if got := readRefusal(t, e.RawResponse); got.status != status || got.code != code || got.inner != inner {
		t.Errorf("%s: got %d %s %s, want %d %s %s", what, got.status, got.code, got.inner, status, code, inner)
	}
}
