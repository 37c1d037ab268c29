package vault_test

import (
	"io"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/vault"
)

// TestWhoMayDoWhatWhere is the whole of authorization, who × what × where: callers with
// all permissions, one, none, of another directory, with tokens of another service or of
// none, at a vault with access policies, one with roles, another vault, and an HSM.
func TestWhoMayDoWhatWhere(t *testing.T) {
	c := newCloud(t, io.Discard)
	other := c.vault("other")
	other.Policies = nil
	c.put(t, c.vault("policies"))
	c.put(t, other)
	reader, err := c.entra.CreateManagedIdentity(t.Context(), c.directory, "/identities/reader")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.entra.CreateManagedIdentity(t.Context(), c.directory, "/identities/nobody"); err != nil {
		t.Fatal(err)
	}
	abroad, err := c.entra.CreateDirectory(t.Context(), "fabrikam")
	if err != nil {
		t.Fatal(err)
	}
	foreigner, err := c.entra.CreateManagedIdentity(t.Context(), abroad, "/identities/foreigner")
	if err != nil {
		t.Fatal(err)
	}
	// A policy that names a foreigner, and one of another directory that names the reader,
	// are of no use to them.
	v := c.vault("policies")
	v.Policies = append(v.Policies,
		vault.Policy{ObjectID: reader.ObjectID, Directory: c.directory, Keys: []string{"get"}},
		vault.Policy{ObjectID: reader.ObjectID, Directory: abroad, Keys: []string{"delete"}},
		vault.Policy{ObjectID: foreigner.ObjectID, Directory: abroad, Keys: []string{"all"}})
	c.put(t, v)
	c.hsm(t, "hsm")
	c.must(t, "POST", "policies", "/keys/k/create", c.token(t, "https://vault.azure.net"), `{"kty":"EC"}`)

	const vaults, hsms, management = "https://vault.azure.net", "https://managedhsm.azure.net", "https://management.azure.com"
	as := func(identity string) testCloud {
		caller := c
		if identity != "admin" {
			caller.tokens = c.entra.Credential("/identities/" + identity)
		}
		return caller
	}
	for _, test := range []struct {
		who, token, where, what string
		want                    int
	}{
		{"admin", vaults, "policies", "GET /keys/k", 200},
		{"admin", vaults + "/", "policies", "GET /keys/k", 200},
		{"admin", vaults, "policies", "GET /keys", 200},
		{"admin", vaults, "other", "GET /keys", 403},
		{"admin", management, "policies", "GET /keys/k", 401},
		{"admin", hsms, "policies", "GET /keys/k", 401},
		{"admin", vaults, "hsm", "GET /keys", 401},
		{"admin", hsms, "hsm", "GET /keys", 403},
		{"reader", vaults, "policies", "GET /keys/k", 200},
		{"reader", vaults, "policies", "GET /keys", 403},
		{"reader", vaults, "policies", "DELETE /keys/k", 403},
		{"reader", vaults, "policies", "POST /keys/k/backup", 403},
		{"reader", vaults, "policies", "POST /keys/restore", 403},
		{"reader", vaults, "policies", "PUT /keys/k", 403},
		{"reader", vaults, "policies", "POST /keys/k/rotate", 403},
		{"reader", vaults, "policies", "GET /keys/k/rotationpolicy", 403},
		{"reader", vaults, "other", "GET /keys/k", 403},
		{"nobody", vaults, "policies", "GET /keys/k", 403},
		{"nobody", vaults, "policies", "DELETE /keys/k", 403},
		{"foreigner", vaults, "policies", "GET /keys/k", 401},
		{"foreigner", hsms, "hsm", "GET /keys", 401},
		{"nobody", "", "policies", "GET /keys/k", 401},
		{"nobody", "", "hsm", "GET /keys", 401},
	} {
		caller := as(test.who)
		token := ""
		if test.token != "" {
			token = caller.token(t, test.token)
		}
		if test.where == "hsm" {
			caller.suffix = c.hsmSuffix
		}
		method, path, _ := strings.Cut(test.what, " ")
		if got := caller.send(t, method, test.where, path, token, "").StatusCode; got != test.want {
			t.Errorf("%s with a token for %q, %s at %s: got %d, want %d", test.who, test.token, test.what, test.where, got, test.want)
		}
	}
}
