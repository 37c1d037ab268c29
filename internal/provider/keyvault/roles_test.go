package keyvault_test

import (
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

// A vault that is authorised by roles takes Azure's built-in roles, at its own scope or
// above, and no access policies; who may manage it may not use its keys.
func TestVaultAuthorisedByRoles(t *testing.T) {
	p := providertest.New(t, nil)
	id, principal := p.NewIdentity("id1", "westus2")
	p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), body(p, `"enableRbacAuthorization":true,"accessPolicies":[{"tenantId":"`+string(p.Directory)+`","objectId":"`+p.Admin.ObjectID+`","permissions":{"keys":["all"]}}]`)))
	if got := p.Want(200, p.Do("GET", providertest.VaultPath("kv1"), "")).Get("properties.enableRbacAuthorization"); got != true {
		t.Errorf("enableRbacAuthorization: got %v", got)
	}
	refused := p.Want(403, p.Keys("POST", "kv1", "/keys/k/create", `{"kty":"RSA"}`))
	if got := refused.Get("error.innererror.code"); got != "ForbiddenByRbac" {
		t.Errorf("the subscription's owner at the keys: got %s", refused.Body)
	}
	assign := func(principal, role, scope string) {
		t.Helper()
		if err := p.Entra.Assign(t.Context(), principal, role, scope); err != nil {
			t.Fatal(err)
		}
	}
	const vaultScope = providertest.Group + "/providers/Microsoft.KeyVault/vaults/kv1"
	assign(p.Admin.ObjectID, "Key Vault Crypto Officer", providertest.Group)
	kid := p.NewKey("kv1", "k", "")
	p.Want(200, p.Keys("GET", "kv1", "/keys", ""))

	relay := `{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{"` + id + `":{}}},"properties":{"encryption":{"customerManagedKeyEncryption":{
		"keyEncryptionKeyUrl":"` + kid + `","keyEncryptionKeyIdentity":{"identityType":"UserAssigned","userAssignedIdentityResourceId":"` + id + `"}}}}}`
	path := providertest.Group + "/providers/Microsoft.FluidRelay/fluidRelayServers/fr1?api-version=2022-06-01"
	if a := p.Do("PUT", path, relay); a.Status != 400 {
		t.Errorf("a relay whose identity has no role: got %d %s", a.Status, a.Body)
	}
	assign(principal, "Key Vault Crypto Service Encryption User", vaultScope)
	p.Want(200, p.Do("PUT", path, relay))
}
