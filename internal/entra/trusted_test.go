package entra_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

const (
	managementAudience = "api://tidelock"
	vaultAudience      = "api://tidelock-vaults"
	alice              = "6a0c8f7e-1111-4222-8333-444444444444"
)

// company is another provider that an authority trusts, and its user alice here.
type company struct {
	authority
	*issuer
	alice entra.Details
}

func newCompany(t *testing.T) company {
	t.Helper()
	i := newIssuer(t)
	c := company{newAuthorityWith(t, i.client(t)), i, entra.Details{}}
	var err error
	c.alice, err = c.ImportPrincipal(t.Context(), c.directory, "alice", alice, entra.External{Issuer: i.url, Value: alice})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Trust([]entra.TrustedIssuer{{
		Issuer: i.url, Directory: c.directory, ManagementAudiences: []string{managementAudience}, VaultAudiences: []string{vaultAudience},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bearerOf is a token of alice's for the management plane, changed.
func (c company) bearerOf(t *testing.T, change jwt.MapClaims) string {
	t.Helper()
	claims := jwt.MapClaims{"aud": managementAudience, "oid": alice, "sub": "pairwise"}
	for name, value := range change {
		claims[name] = value
	}
	return "Bearer " + c.issuer.token(t, claims)
}

func TestTokensOfATrustedIssuer(t *testing.T) {
	c, other := newCompany(t), newIssuer(t)
	want := entra.Caller{ObjectID: alice, ClientID: c.alice.ClientID, Directory: c.directory, Kind: entra.KindExternal}
	if got, err := c.Management(request(c.bearerOf(t, nil))); err != nil || got != want {
		t.Fatalf("management: got %+v, %v, want %+v", got, err, want)
	}
	if got, err := c.Vault(request(c.bearerOf(t, jwt.MapClaims{"aud": vaultAudience})), c.directory); err != nil || got != want {
		t.Fatalf("vault: got %+v, %v, want %+v", got, err, want)
	}
	elsewhere, err := c.CreateDirectory(t.Context(), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Vault(request(c.bearerOf(t, jwt.MapClaims{"aud": vaultAudience})), elsewhere); tokenError(t, err).Vault != "AKV10032" {
		t.Errorf("a vault of another directory: got %v", err)
	}
	if _, err := c.Vault(request(c.bearerOf(t, nil)), c.directory); tokenError(t, err).Vault != "AKV10022" {
		t.Errorf("a vault with a management token: got %v", err)
	}
	if _, err := c.Graph(request(c.bearerOf(t, nil))); tokenError(t, err).Code != "InvalidAuthenticationToken" {
		t.Errorf("the directory's own API: got %v", err)
	}
	now := time.Now()
	for _, test := range []struct{ name, bearer, code string }{
		{"SeveralAudiences", c.bearerOf(t, jwt.MapClaims{"aud": []string{"x", managementAudience}}), ""},
		{"VaultAudience", c.bearerOf(t, jwt.MapClaims{"aud": vaultAudience}), "InvalidAuthenticationTokenAudience"},
		{"PublicAudience", c.bearerOf(t, jwt.MapClaims{"aud": entra.AudienceManagement}), "InvalidAuthenticationTokenAudience"},
		{"AudienceWithSlash", c.bearerOf(t, jwt.MapClaims{"aud": managementAudience + "/"}), "InvalidAuthenticationTokenAudience"},
		{"NoAudience", c.bearerOf(t, jwt.MapClaims{"aud": nil}), "InvalidAuthenticationTokenAudience"},
		{"UnknownPrincipal", c.bearerOf(t, jwt.MapClaims{"oid": "6a0c8f7e-1111-4222-8333-555555555555"}), "InvalidAuthenticationToken"},
		{"NoPrincipal", c.bearerOf(t, jwt.MapClaims{"oid": nil}), "InvalidAuthenticationToken"},
		{"PrincipalIsNoString", c.bearerOf(t, jwt.MapClaims{"oid": []string{alice}}), "InvalidAuthenticationToken"},
		{"SubjectIsNotObjectID", c.bearerOf(t, jwt.MapClaims{"oid": nil, "sub": alice}), "InvalidAuthenticationToken"},
		{"Expired", c.bearerOf(t, jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()}), "ExpiredAuthenticationToken"},
		{"NoExpiry", c.bearerOf(t, jwt.MapClaims{"exp": nil}), "ExpiredAuthenticationToken"},
		{"Early", c.bearerOf(t, jwt.MapClaims{"nbf": now.Add(time.Minute).Unix()}), "InvalidAuthenticationToken"},
		{"OtherIssuer", "Bearer " + other.token(t, jwt.MapClaims{"aud": managementAudience, "oid": alice}), "InvalidAuthenticationToken"},
		{"OtherIssuersKey", "Bearer " + other.token(t, jwt.MapClaims{"iss": c.issuer.url, "aud": managementAudience, "oid": alice}), "InvalidAuthenticationToken"},
		{"IssuerWithSlash", c.bearerOf(t, jwt.MapClaims{"iss": c.issuer.url + "/"}), "InvalidAuthenticationToken"},
		{"AlgNone", "Bearer " + c.signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"aud": managementAudience, "oid": alice}), "InvalidAuthenticationToken"},
		{"HMACWithPublicKey", "Bearer " + c.signed(t, jwt.SigningMethodHS256, c.publicKey(t), jwt.MapClaims{"aud": managementAudience, "oid": alice}), "InvalidAuthenticationToken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Management(request(test.bearer))
			if test.code == "" && err == nil {
				return
			}
			if got := tokenError(t, err).Code; got != test.code {
				t.Errorf("got %s (%v), want %s", got, err, test.code)
			}
		})
	}
	if n := other.asked.Load(); n != 0 {
		t.Errorf("an issuer that is not trusted was asked %d times", n)
	}
	// One that was deleted is a stranger again; our own tokens were good all the time.
	if err := c.DeleteApplication(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Management(request(c.bearerOf(t, nil))); tokenError(t, err).Code != "InvalidAuthenticationToken" {
		t.Errorf("a deleted principal: got %v", err)
	}
	p, secret := c.application(t, "own")
	if _, err := c.Management(request("Bearer " + token(t, c.credential(t, p.ClientID, secret), "https://management.azure.com/.default"))); err != nil {
		t.Errorf("our own token: %v", err)
	}
}

// What others may name is theirs alone.
func TestExternalPrincipals(t *testing.T) {
	c := newCompany(t)
	if _, err := c.ImportPrincipal(t.Context(), c.directory, "again", "", entra.External{Issuer: c.issuer.url, Value: alice}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the same person again: got %v", err)
	}
	app, _ := c.application(t, "app")
	if _, err := c.ImportPrincipal(t.Context(), c.directory, "app", app.ObjectID, entra.External{Issuer: c.issuer.url, Value: "x"}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("with the id of another: got %v", err)
	}
	if _, _, err := c.AddSecret(t.Context(), alice, "", time.Time{}); err == nil {
		t.Error("an external principal has a secret here")
	}
	if w := c.postAssertion(c.alice.ClientID, c.issuer.token(t, nil)); w.Code == http.StatusOK {
		t.Error("an external principal gets a token here")
	}
	for name, wrong := range map[string]entra.TrustedIssuer{
		"NoTLS":         {Issuer: "http://x", ManagementAudiences: []string{"a"}},
		"NoAudience":    {Issuer: "https://x"},
		"EmptyAudience": {Issuer: "https://x", VaultAudiences: []string{""}},
		"OtherClaim":    {Issuer: "https://x", VaultAudiences: []string{"a"}, Claim: "email"},
	} {
		if err := c.Trust([]entra.TrustedIssuer{wrong}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	twice := entra.TrustedIssuer{Issuer: "https://x", VaultAudiences: []string{"a"}}
	if err := c.Trust([]entra.TrustedIssuer{twice, twice}); err == nil {
		t.Error("an issuer that is there twice was taken")
	}
	// By subject, for providers that have no object ids.
	if err := c.Trust([]entra.TrustedIssuer{{Issuer: c.issuer.url, Directory: c.directory, ManagementAudiences: []string{managementAudience}, Claim: "sub"}}); err != nil {
		t.Fatal(err)
	}
	bob, err := c.ImportPrincipal(t.Context(), c.directory, "bob", "", entra.External{Issuer: c.issuer.url, Value: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Management(request(c.bearerOf(t, jwt.MapClaims{"sub": "bob", "oid": alice}))); err != nil || got.ObjectID != bob.ObjectID {
		t.Errorf("by subject: got %+v, %v", got, err)
	}
	// An issuer speaks for one directory: an administrator of another cannot open that to its users.
	elsewhere, err := c.CreateDirectory(t.Context(), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ImportPrincipal(t.Context(), elsewhere, "carol", "", entra.External{Issuer: c.issuer.url, Value: "carol"}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Management(request(c.bearerOf(t, jwt.MapClaims{"sub": "carol"}))); err == nil || tokenError(t, err).Code != "InvalidAuthenticationToken" {
		t.Errorf("imported by another directory: got %+v, %v", got, err)
	}
}
