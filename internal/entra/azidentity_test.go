package entra_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/store/memory"
)

const testVaultSuffix = "vault.tidelock.localhost:8443"

// authority is a directory service behind a TLS server.
type authority struct {
	*entra.Service
	server    *httptest.Server
	directory entra.DirectoryID
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	return newAuthorityWith(t, nil)
}

// newAuthorityWith is newAuthority with a client for other issuers.
func newAuthorityWith(t *testing.T, issuers *http.Client) authority {
	t.Helper()
	var handler http.Handler
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s, err := entra.Open(t.Context(), entra.Config{
		Store: memory.New(), Service: envelope.NewServiceKey(), Login: server.URL, VaultSuffix: testVaultSuffix, Issuers: issuers, GenerateRSA: rsatest.New(),
	})
	if err != nil {
		t.Fatal(err)
	}
	handler = s.Handler()
	d, err := s.CreateDirectory(t.Context(), "contoso")
	if err != nil {
		t.Fatal(err)
	}
	return authority{Service: s, server: server, directory: d}
}

func (a authority) application(t *testing.T, name string) (entra.Principal, string) {
	t.Helper()
	p, secret, err := a.CreateApplication(t.Context(), a.directory, name)
	if err != nil {
		t.Fatal(err)
	}
	return p, secret
}

// credential is the real client of a client secret.
func (a authority) credential(t *testing.T, clientID, secret string) azcore.TokenCredential {
	t.Helper()
	c, err := azidentity.NewClientSecretCredential(string(a.directory), clientID, secret,
		&azidentity.ClientSecretCredentialOptions{
			ClientOptions: azcore.ClientOptions{
				Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: a.server.URL},
				Transport: a.server.Client(),
				Retry:     policy.RetryOptions{MaxRetries: -1},
			},
			DisableInstanceDiscovery: true,
		})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func token(t *testing.T, c azcore.TokenCredential, scope string) string {
	t.Helper()
	got, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{scope}})
	if err != nil {
		t.Fatalf("token for %s: %v", scope, err)
	}
	return got.Token
}

// request carries a token as a client sends it.
func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	return r
}

func TestClientSecretCredential(t *testing.T) {
	a := newAuthority(t)
	p, secret := a.application(t, "administrator")
	c := a.credential(t, p.ClientID, secret)
	want := entra.Caller{ObjectID: p.ObjectID, ClientID: p.ClientID, Directory: a.directory, Kind: entra.KindApplication}

	for _, scope := range []string{
		"https://management.azure.com/.default", "https://management.azure.com//.default",
		"https://management.core.windows.net/.default", "https://management.core.windows.net//.default",
		a.server.URL + "/.default",
	} {
		bearer := "Bearer " + token(t, c, scope)
		if got, err := a.Management(request(bearer)); err != nil || got != want {
			t.Errorf("Management with a token for %s: got %+v, %v, want %+v", scope, got, err, want)
		}
		if _, err := a.Vault(request(bearer), a.directory); tokenError(t, err).Vault != "AKV10022" {
			t.Errorf("Vault with a token for %s: got %v, want AKV10022", scope, err)
		}
	}
	for _, scope := range []string{
		"https://vault.azure.net/.default", "https://vault.azure.net//.default", "https://" + testVaultSuffix + "/.default",
	} {
		bearer := "Bearer " + token(t, c, scope)
		if got, err := a.Vault(request(bearer), a.directory); err != nil || got != want {
			t.Errorf("Vault with a token for %s: got %+v, %v, want %+v", scope, got, err, want)
		}
		if _, err := a.Management(request(bearer)); tokenError(t, err).Code != "InvalidAuthenticationTokenAudience" {
			t.Errorf("Management with a token for %s: got %v, want InvalidAuthenticationTokenAudience", scope, err)
		}
	}
}

func tokenError(t *testing.T, err error) *entra.TokenError {
	t.Helper()
	var e *entra.TokenError
	if !errors.As(err, &e) {
		t.Errorf("got %v, want a *TokenError", err)
		return &entra.TokenError{}
	}
	return e
}

func TestClientSecretCredentialIsRefused(t *testing.T) {
	a := newAuthority(t)
	p, secret := a.application(t, "administrator")
	for name, test := range map[string]struct{ client, secret, scope, want string }{
		"WrongSecret":     {p.ClientID, secret[1:] + "x", "https://vault.azure.net/.default", "AADSTS7000215"},
		"UnknownClient":   {"2a2c3f0e-0000-4000-8000-000000000000", secret, "https://vault.azure.net/.default", "AADSTS700016"},
		"UnknownResource": {p.ClientID, secret, "https://storage.azure.com/.default", "AADSTS500011"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.credential(t, test.client, test.secret).GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{test.scope}})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestManagedIdentityCredential(t *testing.T) {
	a := newAuthority(t)
	const id = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/Relay-Id"
	p, err := a.CreateManagedIdentity(t.Context(), a.directory, id)
	if err != nil {
		t.Fatal(err)
	}
	if p.Kind != entra.KindManagedIdentity || p.Name != "Relay-Id" || p.ResourceID != id {
		t.Errorf("got %+v", p)
	}
	again, err := a.CreateManagedIdentity(t.Context(), a.directory, strings.ToUpper(id))
	if err != nil || again != p {
		t.Errorf("creating it again: got %+v, %v, want the same %+v", again, err, p)
	}
	found, err := a.ManagedIdentity(t.Context(), strings.ToLower(id))
	if err != nil || found != p {
		t.Errorf("ManagedIdentity: got %+v, %v, want %+v", found, err, p)
	}

	c := a.Credential(strings.ToLower(id))
	options := policy.TokenRequestOptions{Scopes: []string{"https://" + testVaultSuffix + "/.default"}, TenantID: string(a.directory)}
	got, err := c.GetToken(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	want := entra.Caller{ObjectID: p.ObjectID, ClientID: p.ClientID, Directory: a.directory, Kind: entra.KindManagedIdentity}
	if caller, err := a.Vault(request("Bearer "+got.Token), a.directory); err != nil || caller != want {
		t.Errorf("Vault: got %+v, %v, want %+v", caller, err, want)
	}

	options.TenantID = "5f4b3d3a-0000-4000-8000-000000000000"
	if _, err := c.GetToken(t.Context(), options); err == nil {
		t.Error("a token for another directory: got none of the wanted error")
	}
	options.TenantID = ""

	if err := a.DeleteManagedIdentity(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteManagedIdentity(t.Context(), id); err != nil {
		t.Errorf("deleting it again: %v", err)
	}
	_, err = a.Vault(request("Bearer "+got.Token), a.directory)
	if tokenError(t, err).Vault != "AKV10032" {
		t.Errorf("token of a deleted identity: got %v, want AKV10032", err)
	}
	_, err = c.GetToken(t.Context(), options)
	var missing *entra.IdentityError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), strings.ToLower(id)) {
		t.Errorf("credential of a deleted identity: got %v, want an *IdentityError that names it", err)
	}

	after, err := a.CreateManagedIdentity(t.Context(), a.directory, id)
	if err != nil {
		t.Fatal(err)
	}
	if after.ObjectID == p.ObjectID || after.ClientID == p.ClientID {
		t.Errorf("the identity's successor has its ids: %+v", after)
	}
	if _, err = a.Vault(request("Bearer "+got.Token), a.directory); err == nil {
		t.Error("the deleted identity's token is good again for its successor")
	}
}

func TestReopenedServiceKeepsItsKeys(t *testing.T) {
	config := entra.Config{Store: memory.New(), Service: envelope.NewServiceKey(), Login: "https://login.test", VaultSuffix: testVaultSuffix}
	s, err := entra.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.CreateDirectory(t.Context(), "contoso")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateManagedIdentity(t.Context(), d, "/id"); err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + token(t, s.Credential("/id"), "https://vault.azure.net/.default")
	reopened, err := entra.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reopened.Vault(request(bearer), d); err != nil {
		t.Errorf("token of before: %v", err)
	}
}
