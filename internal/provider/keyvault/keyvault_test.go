package keyvault_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

const (
	version    = "?api-version=2023-07-01"
	inProvider = "/subscriptions/" + providertest.Subscription + "/providers/Microsoft.KeyVault"
	someone    = "33333333-3333-3333-3333-333333333333"
)

// body is a PUT body with these members in properties, which may replace others.
func body(p *providertest.Plane, members string) string {
	if members != "" {
		members = "," + members
	}
	return fmt.Sprintf(`{"location":"westus2","properties":{"tenantId":%q,"sku":{"family":"A","name":"standard"},"accessPolicies":[]%s}}`, p.Directory, members)
}

func policies(p *providertest.Plane, objectID, keys string) string {
	return fmt.Sprintf(`{"properties":{"accessPolicies":[{"tenantId":%q,"objectId":%q,"permissions":{"keys":%s}}]}}`, p.Directory, objectID, keys)
}

func TestGolden(t *testing.T) {
	p := providertest.New(t, nil)
	// What az keyvault create sends.
	const az = `"enableSoftDelete":true,"softDeleteRetentionInDays":90,"enablePurgeProtection":true,"networkAcls":{"bypass":"AzureServices","defaultAction":"Allow"}`
	path := providertest.VaultPath("Vault-1")
	change := func(operation string) string {
		return strings.Replace(path, "?", "/accessPolicies/"+operation+"?", 1)
	}
	p.Golden("vault-put", p.Do("PUT", path, body(p, az)))
	p.Golden("vault-get", p.Do("GET", path, ""))
	p.Golden("vault-patch", p.Do("PATCH", path, `{"tags":{"a":"b"},"properties":{"publicNetworkAccess":"disabled"}}`))
	p.Golden("policies-add", p.Do("PUT", change("add"), policies(p, someone, `["get","WrapKey"]`)))
	p.Golden("policies-add-more", p.Do("PUT", change("add"), policies(p, someone, `["wrapkey","unwrapKey"]`)))
	p.Golden("policies-replace", p.Do("PUT", change("replace"), policies(p, someone, `["list","get"]`)))
	p.Golden("policies-remove", p.Do("PUT", change("remove"), policies(p, someone, `["LIST"]`)))
	p.Golden("policies-remove-last", p.Do("PUT", change("remove"), policies(p, someone, `["get"]`)))
	p.Golden("vault-list", p.Do("GET", inProvider+"/vaults"+version, ""))
	p.Golden("vault-delete", p.Do("DELETE", path, ""))
	p.Golden("vault-delete-again", p.Do("DELETE", path, ""))
	p.Golden("vault-not-found", p.Do("GET", path, ""))
	p.Golden("deleted-list", p.Do("GET", inProvider+"/deletedVaults"+version, ""))
	p.Golden("deleted-get", p.Do("GET", inProvider+"/locations/West%20US%202/deletedVaults/vault-1"+version, ""))
	p.Golden("vault-recover", p.Do("PUT", path, `{"location":"westus2","properties":{"createMode":"recover"}}`))
}

func TestBadRequests(t *testing.T) {
	p := providertest.New(t, nil)
	p.PutVault("here")
	policy := func(p1 string) string { return body(p, `"accessPolicies":[`+p1+`]`) }
	for _, c := range []struct {
		name, vault, body string
		status            int
		code              string
	}{
		{"NoLocation", "kv1", `{"properties":{}}`, 400, "LocationRequired"},
		{"OtherLocation", "here", strings.Replace(body(p, ""), "westus2", "eastus", 1), 409, "InvalidResourceLocation"},
		{"ShortName", "kv", body(p, ""), 400, "VaultNameNotValid"},
		{"LongName", strings.Repeat("k", 25), body(p, ""), 400, "VaultNameNotValid"},
		{"DigitFirst", "1kv", body(p, ""), 400, "VaultNameNotValid"},
		{"TwoHyphens", "k--v", body(p, ""), 400, "VaultNameNotValid"},
		{"OtherTenant", "kv1", body(p, `"tenantId":"`+someone+`"`), 400, "BadRequest"},
		{"NoSKU", "kv1", body(p, `"sku":{}`), 400, "BadRequest"},
		{"UnknownSKU", "kv1", body(p, `"sku":{"family":"A","name":"gold"}`), 400, "BadRequest"},
		{"SoftDeleteOff", "kv1", body(p, `"enableSoftDelete":false`), 400, "BadRequest"},
		{"PurgeProtectionOff", "kv1", body(p, `"enablePurgeProtection":false`), 400, "BadRequest"},
		{"RetentionTooShort", "kv1", body(p, `"softDeleteRetentionInDays":6`), 400, "BadRequest"},
		{"RetentionChanged", "here", body(p, `"softDeleteRetentionInDays":30`), 400, "BadRequest"},
		{"Bypass", "kv1", body(p, `"networkAcls":{"bypass":"Everything"}`), 400, "BadRequest"},
		{"DefaultAction", "kv1", body(p, `"networkAcls":{"defaultAction":"Maybe"}`), 400, "BadRequest"},
		{"IPRule", "kv1", body(p, `"networkAcls":{"ipRules":[{"value":"1.2.3"}]}`), 400, "BadRequest"},
		{"VirtualNetwork", "kv1", body(p, `"networkAcls":{"virtualNetworkRules":[{"id":"/x"}]}`), 400, "BadRequest"},
		{"PublicAccess", "kv1", body(p, `"publicNetworkAccess":"Maybe"`), 400, "BadRequest"},
		{"CreateMode", "kv1", body(p, `"createMode":"new"`), 400, "BadRequest"},
		{"PolicyOfOtherTenant", "kv1", policy(`{"tenantId":"` + someone + `","objectId":"` + someone + `"}`), 400, "BadRequest"},
		{"PolicyForNobody", "kv1", policy(`{"tenantId":"` + string(p.Directory) + `","objectId":"bob"}`), 400, "BadRequest"},
		{"PolicyWithUnknownPermission", "kv1", policy(`{"tenantId":"` + string(p.Directory) + `","objectId":"` + someone + `","permissions":{"keys":["fly"]}}`), 400, "BadRequest"},
		{"NothingToRecover", "kv1", `{"location":"westus2","properties":{"createMode":"recover"}}`, 404, "DeletedVaultNotFound"},
		{"PropertiesNoObject", "kv1", `{"location":"westus2","properties":[]}`, 400, "InvalidRequestContent"},
		{"PolicyNoObject", "kv1", policy(`7`), 400, "InvalidRequestContent"},
	} {
		t.Run(c.name, func(t *testing.T) { p.Refused(c.status, c.code, p.Do("PUT", providertest.VaultPath(c.vault), c.body)) })
	}
	p.Refused(404, "ResourceNotFound", p.Do("PATCH", providertest.VaultPath("kv1"), `{}`))
	p.Refused(404, "ResourceNotFound", p.Do("PUT", strings.Replace(providertest.VaultPath("kv1"), "?", "/accessPolicies/add?", 1), `{}`))
	p.Refused(400, "BadRequest", p.Do("PUT", strings.Replace(providertest.VaultPath("here"), "?", "/accessPolicies/steal?", 1), `{}`))
}

// A vault's name is its host name: taken for everybody, and as long as it can be recovered.
func TestNames(t *testing.T) {
	p := providertest.New(t, nil)
	const rg2 = "/subscriptions/" + providertest.Subscription + "/resourceGroups/rg2"
	p.Want(201, p.Do("PUT", rg2+version, `{"location":"westus2"}`))
	p.PutVault("kv1")
	elsewhere := strings.Replace(providertest.VaultPath("KV1"), providertest.Group, rg2, 1)
	available := func(name string) any {
		return p.Want(200, p.Do("POST", inProvider+"/checkNameAvailability"+version, `{"name":"`+name+`","type":"Microsoft.KeyVault/vaults"}`)).Get("nameAvailable")
	}
	p.Refused(409, "VaultAlreadyExists", p.Do("PUT", elsewhere, body(p, "")))
	p.Want(200, p.Do("DELETE", providertest.VaultPath("kv1"), ""))
	p.Refused(409, "ConflictError", p.Do("PUT", providertest.VaultPath("kv1"), body(p, "")))
	p.Refused(409, "ConflictError", p.Do("PUT", elsewhere, `{"location":"westus2","properties":{"createMode":"recover"}}`))
	p.Refused(404, "DeletedVaultNotFound", p.Do("PUT", providertest.VaultPath("kv1"), `{"location":"eastus","properties":{"createMode":"recover"}}`))
	for name, want := range map[string]bool{"kv1": false, "k": false, "kv2": true} {
		if got := available(name); got != want {
			t.Errorf("%s: available is %v, want %v", name, got, want)
		}
	}
}

// A recovered vault has its keys, policies and protection; deleted, it answers nothing.
func TestDeleteAndRecover(t *testing.T) {
	p := providertest.New(t, nil)
	p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), strings.Replace(p.VaultBody("westus2", ""), `"sku"`, `"enablePurgeProtection":true,"sku"`, 1)))
	kid := p.NewKey("kv1", "k", "")
	p.Want(200, p.Do("DELETE", providertest.VaultPath("kv1"), ""))
	if v, err := p.Vault.Get(t.Context(), "kv1"); err != nil || v.Deleted.IsZero() {
		t.Errorf("the data plane has %+v, %v, want it deleted", v, err)
	}
	p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), `{"location":"westus2","properties":{"createMode":"recover"}}`))
	if got := p.Want(200, p.Keys("GET", "kv1", "/keys/k", "")).Get("key.kid"); got != kid {
		t.Errorf("got key %v, want %s", got, kid)
	}
	// Protection stays, whether it is named again or not.
	if got := p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), p.VaultBody("westus2", ""))).Get("properties.enablePurgeProtection"); got != true {
		t.Errorf("purge protection is %v after a PUT without it, want true", got)
	}
	p.Refused(404, "DeletedVaultNotFound", p.Do("GET", inProvider+"/locations/westus2/deletedVaults/kv1"+version, ""))
}

// A purged vault leaves its name free; protection, and a vault that is there, forbid it.
func TestPurge(t *testing.T) {
	p := providertest.New(t, nil)
	purge := func(name string) providertest.Answer {
		return p.Do("POST", inProvider+"/locations/westus2/deletedVaults/"+name+"/purge"+version, "")
	}
	p.PutVault("kv1")
	p.NewKey("kv1", "k", "")
	p.Refused(404, "DeletedVaultNotFound", purge("kv1"))
	p.Want(200, p.Do("DELETE", providertest.VaultPath("kv1"), ""))
	p.Want(200, purge("KV1"))
	p.Refused(404, "DeletedVaultNotFound", purge("kv1"))
	p.Refused(404, "DeletedVaultNotFound", p.Do("PUT", providertest.VaultPath("kv1"), `{"location":"westus2","properties":{"createMode":"recover"}}`))
	p.PutVault("kv1")
	p.Want(404, p.Keys("GET", "kv1", "/keys/k", ""))
	p.Want(200, p.Do("PUT", providertest.VaultPath("kept"), body(p, `"enablePurgeProtection":true`)))
	p.Want(200, p.Do("DELETE", providertest.VaultPath("kept"), ""))
	p.Refused(405, "MethodNotAllowed", purge("kept"))
}

// Retention over, a deleted vault is as if it were gone, and then it is.
func TestDeletedVaultIsPurgedAfterItsRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := providertest.New(t, nil)
		p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), body(p, `"enablePurgeProtection":true,"softDeleteRetentionInDays":7`)))
		p.Want(200, p.Do("DELETE", providertest.VaultPath("kv1"), ""))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.KeyVault.Run(ctx); close(done) }()
		defer func() { stop(); <-done }()
		has := func(want int) {
			t.Helper()
			if all, err := p.Vault.List(t.Context()); err != nil || len(all) != want {
				t.Errorf("got %v, %v, want %d vaults", all, err, want)
			}
		}
		time.Sleep(7*24*time.Hour - time.Minute)
		has(1)
		time.Sleep(2 * time.Hour)
		has(0)
	})
}

// The data plane obeys the network rules of the resource.
func TestNetworkRules(t *testing.T) {
	p := providertest.New(t, nil)
	for _, c := range []struct {
		members           string
		deny, trust, dark bool
		rules             int
	}{
		{``, false, true, false, 0},
		{`"networkAcls":{"defaultAction":"deny","bypass":"none","ipRules":[{"value":"1.2.3.4"},{"value":"10.0.0.0/8"}]}`, true, false, false, 2},
		{`"networkAcls":{"defaultAction":"Deny"}`, true, true, false, 0},
		{`"publicNetworkAccess":"Disabled","networkAcls":{"ipRules":[{"value":"1.2.3.4"}]}`, false, true, true, 1},
	} {
		p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), body(p, c.members)))
		v, err := p.Vault.Get(t.Context(), "kv1")
		if err != nil || v.DefaultDeny != c.deny || v.BypassTrusted != c.trust || v.PublicDisabled != c.dark || len(v.IPRules) != c.rules {
			t.Errorf("%s: the data plane has %+v, %v", c.members, v, err)
		}
	}
}

// A policy for a user together with an application gives the user alone nothing.
func TestCompoundPolicyIsNotWidened(t *testing.T) {
	p := providertest.New(t, nil)
	p.Want(200, p.Do("PUT", providertest.VaultPath("kv1"), body(p, fmt.Sprintf(
		`"accessPolicies":[{"tenantId":%q,"objectId":%q,"applicationId":%q,"permissions":{"keys":["all"]}}]`, p.Directory, someone, someone))))
	if v, err := p.Vault.Get(t.Context(), "kv1"); err != nil || len(v.Policies) != 0 {
		t.Errorf("the data plane has policies %+v, %v, want none", v.Policies, err)
	}
}
