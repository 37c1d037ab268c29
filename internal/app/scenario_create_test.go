package app

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/keystore/keystoretest"
	"github.com/tidelock/tidelock/internal/vault"
	"github.com/tidelock/tidelock/internal/vault/vaulttest"
)

const sentence = "Unexpected error happened when configuring CMK"

func TestScenario01CreateWithTheArticlesPayload(t *testing.T) {
	scenario(t, func(w *world) {
		w.log.forget()
		body := w.cmk(w.kek, w.id1)
		r := w.made("r1", w.put("r1", body))
		want := body["properties"].(map[string]any)["encryption"].(map[string]any)["customerManagedKeyEncryption"]
		if got := r.shown(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("shown: %v, want %v", got, want)
		}
		seen := map[string]bool{}
		for _, e := range w.uses() {
			if e.ObjectID != w.oid1 {
				t.Errorf("the vault was asked by %s, want id1 alone", e.ObjectID)
			}
			seen[e.Operation] = true
		}
		for _, op := range []string{"KeyGet", "KeyWrap", "KeyUnwrap"} {
			if !seen[op] {
				t.Errorf("the vault saw %v, want %s too", seen, op)
			}
		}
	})
}

func TestScenario02WithoutCMKNothingIsShown(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.made("plain", w.put("plain", `{"location":"westus2"}`))
		if cmk := r.shown(); cmk != nil {
			t.Errorf("shown: %v, want no CMK", cmk)
		}
		if s := r.status(); s.Rotation != "ServiceManaged" {
			t.Errorf("rotationMode is %s, want ServiceManaged: not CMK", s.Rotation)
		}
	})
}

func TestScenario03CMKCannotBeEnabledLater(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.made("plain", w.put("plain", `{"location":"westus2"}`))
		d := r.document()
		before := w.arm("GET", r.path, released, nil)
		w.refusedWith(w.put("plain", w.cmk(w.kek, w.id1)), "CmkCannotBeEnabled")
		w.refusedWith(w.arm("PATCH", r.path, released, w.cmk(w.kek, w.id1)), "CmkCannotBeEnabled")
		if after := w.arm("GET", r.path, released, nil); string(after.body) != string(before.body) {
			t.Errorf("the resource changed from %s to %s", before.body, after.body)
		}
		if !r.serves(d) {
			t.Error("its data is not served")
		}
	})
}

func TestScenario04CMKCannotBeDisabled(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		before := w.arm("GET", r.path, released, nil)
		w.refusedWith(w.put("r1", `{"location":"westus2"}`), "CmkCannotBeDisabled")
		w.refusedWith(w.arm("PATCH", r.path, released, `{"properties":{"encryption":null}}`), "CmkCannotBeDisabled")
		w.refusedWith(w.arm("PATCH", r.path, released, `{"properties":{"encryption":{"customerManagedKeyEncryption":null}}}`), "CmkCannotBeDisabled")
		w.want(200, w.arm("PATCH", r.path, released, `{"properties":{"encryption":{}}}`)) // names nothing, so changes nothing
		if after := w.arm("GET", r.path, released, nil); string(after.body) != string(before.body) {
			t.Errorf("the resource changed from %s to %s", before.body, after.body)
		}
		if !r.serves(d) {
			t.Error("its data is not served")
		}
	})
}

func TestScenario05IdentityTypes(t *testing.T) {
	scenario(t, func(w *world) {
		for _, kind := range []string{"SystemAssigned", "None", "SystemAssigned, UserAssigned"} {
			body := w.cmk(w.kek, w.id1)
			body["identity"].(map[string]any)["type"] = kind
			w.refusedWith(w.put("r1", body), "IdentityTypeNotUserAssigned")
			w.want(404, w.arm("GET", w.relayPath("r1"), released, nil))
		}
	})
}

// keyIdentity is that part of a request.
func keyIdentity(body map[string]any) map[string]any {
	return body["properties"].(map[string]any)["encryption"].(map[string]any)["customerManagedKeyEncryption"].(map[string]any)["keyEncryptionKeyIdentity"].(map[string]any)
}

func TestScenario06KeyIdentityType(t *testing.T) {
	scenario(t, func(w *world) {
		body := w.cmk(w.kek, w.id1)
		keyIdentity(body)["identityType"] = "SystemAssigned"
		w.refusedWith(w.put("r1", body), "KeyIdentityTypeNotUserAssigned")
		w.want(404, w.arm("GET", w.relayPath("r1"), released, nil))
	})
}

func TestScenario07KeyIdentityMustBeAssigned(t *testing.T) {
	scenario(t, func(w *world) {
		body := w.cmk(w.kek, w.id1)
		keyIdentity(body)["userAssignedIdentityResourceId"] = w.id2
		w.refusedWith(w.put("r1", body), "KeyIdentityNotAssignedToResource")
		w.want(404, w.arm("GET", w.relayPath("r1"), released, nil))
		r := w.newRelay("r1", w.kek)
		w.refusedWith(r.patch("", w.id2), "KeyIdentityNotAssignedToResource")
	})
}

func TestScenario08OnlyTheNamedIdentityIsUsed(t *testing.T) {
	scenario(t, func(w *world) {
		w.grant(w.policy(w.oid2, "get", "wrapKey", "unwrapKey"))
		onlyAs := func(principal string) {
			t.Helper()
			for _, e := range w.uses() {
				if e.ObjectID != principal {
					t.Errorf("the vault was asked by %s, want %s alone", e.ObjectID, principal)
				}
			}
			if len(w.uses()) == 0 {
				t.Error("the vault was not asked")
			}
			w.log.forget()
		}
		w.log.forget()
		e := w.refusedWith(w.put("r1", w.cmk(w.kek, w.id1, w.id2)), "PermissionMissing", "PermissionMissing", "PermissionMissing")
		if !strings.Contains(e.Message, "id1") || strings.Contains(e.Message, "id2") {
			t.Errorf("message %q does not name id1 alone", e.Message)
		}
		onlyAs(w.oid1)
		w.want(200, w.put("r1", w.cmk(w.kek, w.id2, w.id1)))
		onlyAs(w.oid2)
	})
}

func TestScenario09KeysThatCannotWrap(t *testing.T) {
	scenario(t, func(w *world) {
		refuses := func(kid string, codes ...string) {
			t.Helper()
			w.refusedWith(w.put("r1", w.cmk(kid, w.id1)), codes...)
			w.want(404, w.arm("GET", w.relayPath("r1"), released, nil))
		}
		refuses(w.newKey("kv1", "ec", `{"kty":"EC","crv":"P-256"}`), "KeyTypeNotRsa")
		refuses(w.newKey("kv1", "signs", `{"kty":"RSA","key_ops":["sign","unwrapKey"]}`), "KeyOpsMissing")
		// What this vault does not make, another may have.
		described := func(key string) {
			w.faults.SetFunc(func(r *http.Request) keystoretest.Fault {
				if r.Method != http.MethodGet {
					return keystoretest.Fault{}
				}
				return keystoretest.Fault{Body: fmt.Sprintf(`{"key":{"kid":%q,%s,"key_ops":["wrapKey","unwrapKey"]},"attributes":{"enabled":true}}`, w.kek, key)}
			})
		}
		described(`"kty":"oct"`)
		refuses(w.kek, "KeyTypeNotRsa")
		described(`"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("gICA", 42) + `gIA"`) // 1024 bits
		refuses(w.kek, "KeySizeUnsupported")
	})
}

func TestScenario10EverySizeAndKind(t *testing.T) {
	if testing.Short() {
		t.Skip("makes keys of 4096 bits, which takes seconds")
	}
	scenario(t, func(w *world) {
		documents := map[string]string{}
		for _, kind := range []string{"RSA", "RSA-HSM"} {
			for _, bits := range []int{2048, 3072, 4096} {
				name := fmt.Sprintf("%s-%d", kind, bits)
				time.Sleep(10 * time.Second) // of the bubble: a vault makes so many keys in that time
				r := w.newRelay(name, w.newKey("kv1", name, fmt.Sprintf(`{"kty":%q,"key_size":%d}`, kind, bits)))
				documents[name] = r.document().ID
			}
		}
		w.pause(0)
		for _, name := range slices.Sorted(maps.Keys(documents)) {
			r := w.made(name, w.arm("GET", w.relayPath(name), released, nil))
			if ops, err := w.endpoint(r).Deltas(w.t.Context(), documents[name], 0, 0); err != nil {
				t.Errorf("%s: %v (%d ops)", name, err, len(ops))
			}
			if !r.is("Healthy", "") {
				t.Errorf("%s is %+v", name, r.status())
			}
		}
	})
}

func TestScenario10OnAManagedHSM(t *testing.T) {
	if testing.Short() {
		t.Skip("makes keys of 4096 bits, which takes seconds")
	}
	scenario(t, func(w *world) {
		w.stop()
		w.hardware = vaulttest.NewToken()
		w.start()
		w.want(200, w.arm("PUT", w.group()+"/providers/Microsoft.KeyVault/managedHSMs/hsm1", "2023-07-01", map[string]any{
			"location": location, "sku": map[string]string{"family": "B", "name": "Standard_B1"},
			"properties": map[string]any{"tenantId": w.profile.DirectoryID, "initialAdminObjectIds": []string{w.profile.ObjectID}, "enablePurgeProtection": true},
		}))
		hsm := func(method, path string, body any) reply {
			t.Helper()
			return w.want(200, w.send(method, "https://hsm1."+w.profile.HSMSuffix+path+"?api-version=7.4", w.token("https://managedhsm.azure.net"), body))
		}
		const cryptoUser, serviceUser = "21dbd100-6940-42c2-9190-5d6cb909625b", "33413926-3206-4cdd-b39a-83574fe37a17"
		for principal, role := range map[string]string{w.profile.ObjectID: cryptoUser, w.oid1: serviceUser} {
			hsm("PUT", "/providers/Microsoft.Authorization/roleAssignments/"+principal, map[string]any{
				"properties": map[string]string{"roleDefinitionId": role, "principalId": principal},
			})
		}
		documents := map[string]string{}
		for _, bits := range []int{2048, 3072, 4096} {
			name := fmt.Sprintf("key-%d", bits)
			time.Sleep(10 * time.Second) // of the bubble: an HSM makes so many keys in that time
			var made struct{ Key struct{ KID string } }
			w.decode(hsm("POST", "/keys/"+name+"/create", map[string]any{"kty": "RSA-HSM", "key_size": bits}), &made)
			r := w.newRelay(name, made.Key.KID)
			documents[name] = r.document().ID
		}
		w.pause(0)
		for name, id := range documents {
			r := w.made(name, w.arm("GET", w.relayPath(name), released, nil))
			if _, err := w.endpoint(r).Deltas(w.t.Context(), id, 0, 0); err != nil || !r.is("Healthy", "") {
				t.Errorf("%s: %v, %+v", name, err, r.status())
			}
		}
		// Refused keys and HSMs stop service as those of vaults do.
		w.want(200, w.send("DELETE", "https://hsm1."+w.profile.HSMSuffix+"/providers/Microsoft.Authorization/roleAssignments/"+w.oid1+"?api-version=7.4", w.token("https://managedhsm.azure.net"), nil))
		w.made("key-2048", w.arm("GET", w.relayPath("key-2048"), released, nil)).becomes("Unusable", "AccessDenied", stopWithin)
		e := w.refusedWith(w.put("r1", w.cmk("https://hsm1."+w.profile.HSMSuffix+"/keys/key-2048", w.id1)), "PermissionMissing", "PermissionMissing") // get and wrapKey
		if says := e.Details[0].Message; !strings.Contains(says, "az keyvault role assignment create --hsm-name hsm1 --scope /keys/key-2048 --role") {
			t.Errorf("without the role: %q, want the command that assigns it", says)
		}
	})
}

func TestScenario11EachPermissionIsNamed(t *testing.T) {
	scenario(t, func(w *world) {
		all := []string{"get", "wrapKey", "unwrapKey"}
		for _, missing := range all {
			w.grant(w.policy(w.oid1, slices.DeleteFunc(slices.Clone(all), func(p string) bool { return p == missing })...))
			e := w.refusedWith(w.put("r1", w.cmk(w.kek, w.id1)), "PermissionMissing")
			says := e.Details[0].Message
			if !strings.Contains(says, "grant it the key permission "+missing) || !strings.Contains(says, "az keyvault set-policy --name kv1") {
				t.Errorf("without %s: %q, want the permission and the command named", missing, says)
			}
		}
	})
}

func TestScenario12RegionsAndTenants(t *testing.T) {
	scenario(t, func(w *world) {
		far, farID := w.newIdentity("far", "eastus")
		body := w.newVaultBody("eastus")
		w.putVault("kv-far", body)
		farKey := w.newVersion("kv-far", "k")
		w.grant(w.policy(w.oid1, "get", "wrapKey", "unwrapKey"), w.policy(farID, "get", "wrapKey", "unwrapKey"))
		w.refusedWith(w.put("r1", w.cmk(farKey, w.id1)), "VaultRegionMismatch")
		w.refusedWith(w.put("r1", w.cmk(w.kek, far)), "IdentityRegionMismatch")

		other, err := w.app.entra.CreateDirectory(w.t.Context(), "Other")
		if err != nil {
			t.Fatal(err)
		}
		inVault := func(change func(*vault.Vault)) {
			t.Helper()
			v, err := w.app.vault.Get(w.t.Context(), "kv1")
			if err == nil {
				change(&v)
				err = w.app.vault.Put(w.t.Context(), v)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		w.log.forget()
		home := w.app.installed.DirectoryID
		inVault(func(v *vault.Vault) { v.Directory = other })
		w.refusedWith(w.put("r1", w.cmk(w.kek, w.id1)), "VaultTenantMismatch")
		inVault(func(v *vault.Vault) { v.Directory = home })

		stranger := w.strangerOf(other)
		w.refusedWith(w.put("r1", w.cmk(w.kek, stranger)), "IdentityTenantMismatch")
		if n := len(w.uses()); n > 0 {
			t.Errorf("the vault was asked %d times with another tenant about", n)
		}
	})
}

func TestScenario13FirewallNeedsTheBypass(t *testing.T) {
	scenario(t, func(w *world) {
		closed := map[string]any{"bypass": "None", "defaultAction": "Deny"}
		w.changeVault(func(p map[string]any) { p["networkAcls"] = closed })
		e := w.refusedWith(w.put("r1", w.cmk(w.kek, w.id1)), "VaultFirewallBlocked")
		if !strings.Contains(e.Message, "allow trusted Microsoft services to bypass the firewall") {
			t.Errorf("message %q does not mention the bypass", e.Message)
		}
		closed["bypass"] = "AzureServices"
		w.changeVault(func(map[string]any) {})
		w.newRelay("r1", w.kek)
	})
}

func TestScenario14SixFaultsInOneAnswer(t *testing.T) {
	scenario(t, func(w *world) {
		bad := w.newKey("kv1", "bad", `{"kty":"RSA","key_ops":["wrapKey"],"attributes":{"enabled":false,"exp":915148800}}`)
		w.grant(w.policy(w.oid1, "get", "unwrapKey"))
		body := w.cmk(bad, w.id1)
		body["location"] = "eastus"
		want := []string{"IdentityRegionMismatch", "VaultRegionMismatch", "KeyOpsMissing", "KeyDisabled", "KeyExpired", "PermissionMissing"}
		e := w.refusedWith(w.put("r1", body), want...)
		if !strings.HasPrefix(e.Message, sentence) {
			t.Errorf("message %q does not begin with %q", e.Message, sentence)
		}
		for _, d := range e.Details {
			if d.Target == "" || d.Message == "" {
				t.Errorf("%+v has no target or says nothing", d)
			}
		}
		dry := w.want(200, w.arm("POST", w.relayPath("r1")+"/checkEncryption", preview, body))
		var check struct {
			Usable   bool      `json:"usable"`
			Problems []refused `json:"problems"`
		}
		w.decode(dry, &check)
		if check.Usable || fmt.Sprint(check.Problems) != fmt.Sprint(e.Details) {
			t.Errorf("the dry run says %+v, the PUT %+v", check.Problems, e.Details)
		}
		w.want(404, w.arm("GET", w.relayPath("r1"), released, nil))
	})
}

func TestScenario44KeyURLsThatAreNone(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		// Nothing may leave: neither a request nor, with it, a token.
		w.faults.SetFunc(func(req *http.Request) keystoretest.Fault {
			t.Errorf("%s %s was sent", req.Method, req.URL)
			return keystoretest.Fault{}
		})
		const host = "kv1.vault.tidelock.localhost:8443"
		for _, c := range []struct{ url, code string }{
			{"http://" + host + "/keys/kek", "KeyUrlMalformed"},
			{"https://kv1.vault.example.com/keys/kek", "KeyStoreNotSupported"},
			{"https://127.0.0.1:8443/keys/kek", "KeyStoreNotSupported"},
			{"https://user:word@" + host + "/keys/kek", "KeyUrlMalformed"},
			{"https://" + host + "/keys/kek?x=y", "KeyUrlMalformed"},
			{"https://" + host + "/keys/kek/" + strings.Repeat("0", 32) + "/more", "KeyUrlMalformed"},
			{"https://" + host + "/secrets/kek", "KeyUrlMalformed"},
			{"https://" + host + "/keys/kek /", "KeyUrlMalformed"},
		} {
			w.refusedWith(w.put("r2", w.cmk(c.url, w.id1)), c.code)
			w.refusedWith(r.patch(c.url, ""), c.code)
		}
		w.faults.SetFunc(nil)
	})
}
