package keyvault_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

func hsmPath(name string) string {
	return providertest.Group + "/providers/Microsoft.KeyVault/managedHSMs/" + name + "?api-version=2023-07-01"
}

// hsmBody is a PUT body with these members in properties, which may replace others.
func hsmBody(p *providertest.Plane, members string) string {
	if members != "" {
		members = "," + members
	}
	return fmt.Sprintf(`{"location":"westus2","sku":{"family":"B","name":"Standard_B1"},"properties":{"tenantId":%q,"initialAdminObjectIds":[%q]%s}}`, p.Directory, p.Admin.ObjectID, members)
}

func TestManagedHSMGolden(t *testing.T) {
	p := providertest.New(t, nil)
	path := hsmPath("Hsm-1")
	p.Golden("hsm-put", p.Do("PUT", path, hsmBody(p, `"enablePurgeProtection":true,"softDeleteRetentionInDays":7,"networkAcls":{"bypass":"AzureServices","defaultAction":"Deny","ipRules":[{"value":"1.2.3.4"}]}`)))
	p.Golden("hsm-get", p.Do("GET", path, ""))
	p.Golden("hsm-patch", p.Do("PATCH", path, `{"tags":{"a":"b"},"properties":{"publicNetworkAccess":"disabled"}}`))
	p.Golden("hsm-list", p.Do("GET", inProvider+"/managedHSMs"+version, ""))
	p.Golden("hsm-name-taken", p.Do("POST", inProvider+"/checkMhsmNameAvailability"+version, `{"name":"hsm-1"}`))
	p.Golden("hsm-delete", p.Do("DELETE", path, ""))
	p.Golden("hsm-delete-again", p.Do("DELETE", path, ""))
	p.Golden("hsm-deleted-list", p.Do("GET", inProvider+"/deletedManagedHSMs"+version, ""))
	p.Golden("hsm-deleted-get", p.Do("GET", inProvider+"/locations/westus2/deletedManagedHSMs/hsm-1"+version, ""))
	p.Golden("hsm-purge-protected", p.Do("POST", inProvider+"/locations/westus2/deletedManagedHSMs/hsm-1/purge"+version, ""))
	p.Golden("hsm-recover", p.Do("PUT", path, `{"location":"westus2","properties":{"createMode":"recover"}}`))
}

func TestManagedHSMBadRequests(t *testing.T) {
	p := providertest.New(t, nil)
	p.Want(200, p.Do("PUT", hsmPath("here"), hsmBody(p, "")))
	rules := strings.Repeat(`{"value":"1.2.3.4"},`, 11)
	for _, c := range []struct {
		name, hsm, body string
		status          int
		code            string
	}{
		{"ShortName", "h", hsmBody(p, ""), 400, "VaultNameNotValid"},
		{"OtherTenant", "h01", hsmBody(p, `"tenantId":"`+someone+`"`), 400, "BadRequest"},
		{"NoAdministrator", "h01", hsmBody(p, `"initialAdminObjectIds":[]`), 400, "BadRequest"},
		{"AdministratorByName", "h01", hsmBody(p, `"initialAdminObjectIds":["bob"]`), 400, "BadRequest"},
		{"SKU", "h01", strings.Replace(hsmBody(p, ""), "Standard_B1", "premium", 1), 400, "BadRequest"},
		{"SoftDeleteOff", "h01", hsmBody(p, `"enableSoftDelete":false`), 400, "BadRequest"},
		{"RetentionChanged", "here", hsmBody(p, `"softDeleteRetentionInDays":30`), 400, "BadRequest"},
		{"TooManyIPRules", "h01", hsmBody(p, `"networkAcls":{"ipRules":[`+strings.TrimSuffix(rules, ",")+`]}`), 400, "BadRequest"},
		{"NothingToRecover", "h01", `{"location":"westus2","properties":{"createMode":"recover"}}`, 404, "DeletedManagedHsmNotFound"},
	} {
		t.Run(c.name, func(t *testing.T) { p.Refused(c.status, c.code, p.Do("PUT", hsmPath(c.hsm), c.body)) })
	}
}

// A relay's root key may be wrapped by a key in a managed HSM, with the HSM's own roles.
func TestRelayWithAKeyInAManagedHSM(t *testing.T) {
	p := providertest.New(t, nil)
	id, principal := p.NewIdentity("id1", "westus2")
	p.Want(200, p.Do("PUT", hsmPath("contoso"), hsmBody(p, `"enablePurgeProtection":true`)))
	assign := func(scope, role, principal string) {
		t.Helper()
		p.Want(201, p.AtHSM("PUT", "contoso", scope+"/providers/Microsoft.Authorization/roleAssignments/"+principal,
			`{"properties":{"roleDefinitionId":"`+role+`","principalId":"`+principal+`"}}`))
	}
	const cryptoUser, serviceUser = "21dbd100-6940-42c2-9190-5d6cb909625b", "33413926-3206-4cdd-b39a-83574fe37a17"
	assign("", cryptoUser, p.Admin.ObjectID)
	kid := p.Want(200, p.AtHSM("POST", "contoso", "/keys/k/create", `{"kty":"RSA-HSM","key_size":2048}`)).Get("key.kid").(string)
	relay := fmt.Sprintf(`{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{%q:{}}},"properties":{"encryption":{"customerManagedKeyEncryption":{
		"keyEncryptionKeyUrl":%q,"keyEncryptionKeyIdentity":{"identityType":"UserAssigned","userAssignedIdentityResourceId":%q}}}}}`, id, kid, id)
	path := providertest.Group + "/providers/Microsoft.FluidRelay/fluidRelayServers/fr1?api-version=2022-06-01"
	if a := p.Do("PUT", path, relay); a.Status != 400 {
		t.Errorf("without the role: got %d %s, want 400", a.Status, a.Body)
	}
	assign("/keys/k", serviceUser, principal)
	p.Want(200, p.Do("PUT", path, relay))
}
