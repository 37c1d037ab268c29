package fluidrelay_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/providertest"
)

const (
	version  = "?api-version=2022-06-01"
	sentence = "Unexpected error happened when configuring CMK"
	cmkPath  = "properties.encryption.customerManagedKeyEncryption"
)

func serverPath(name string) string {
	return providertest.Group + "/providers/Microsoft.FluidRelay/fluidRelayServers/" + name + version
}

// fixture is a plane with a vault "kv1" that has the key "good", and the identities
// id1 and id2, both of which may use it, and id3, which may not.
type fixture struct {
	*providertest.Plane
	id1, id2, id3 string
	oid1          string
	key           string // versioned
	grants        []providertest.Grant
}

var useKeys = []string{"get", "wrapKey", "unwrapKey"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Plane: providertest.New(t, nil)}
	var oid2 string
	f.id1, f.oid1 = f.NewIdentity("id1", "westus2")
	f.id2, oid2 = f.NewIdentity("id2", "westus2")
	f.id3, _ = f.NewIdentity("id3", "westus2")
	f.grants = []providertest.Grant{{Principal: f.oid1, Permissions: useKeys}, {Principal: oid2, Permissions: useKeys}}
	f.PutVault("kv1", f.grants...)
	f.key = f.NewKey("kv1", "good", "")
	return f
}

// cmkBody is the request of the article, with these values in it.
type cmkBody struct {
	location, kind    string
	assigned          []string
	keyKind, keyID    string
	url               string
	tags              string
	withoutEncryption bool
}

func (f *fixture) body() cmkBody {
	return cmkBody{location: "westus2", kind: "UserAssigned", assigned: []string{f.id1}, keyKind: "UserAssigned", keyID: f.id1, url: f.key}
}

func (b cmkBody) String() string {
	ids := map[string]any{}
	for _, id := range b.assigned {
		ids[id] = struct{}{}
	}
	v := map[string]any{"location": b.location}
	if b.kind != "" {
		v["identity"] = map[string]any{"type": b.kind, "userAssignedIdentities": ids}
	}
	if b.tags != "" {
		v["tags"] = json.RawMessage(b.tags)
	}
	if !b.withoutEncryption {
		v["properties"] = map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": map[string]any{
			"keyEncryptionKeyIdentity": map[string]any{"identityType": b.keyKind, "userAssignedIdentityResourceId": b.keyID},
			"keyEncryptionKeyUrl":      b.url,
		}}}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		panic("internal error: a test's body: " + err.Error())
	}
	return string(raw)
}

func (f *fixture) newServer(name string) providertest.Answer {
	return f.Want(http.StatusOK, f.Do("PUT", serverPath(name), f.body().String()))
}

// details are the codes of an error's details.
func details(e providertest.Error) (codes []string) {
	for _, d := range e.Details {
		codes = append(codes, d.Code)
	}
	return codes
}

// TestChecklist has a row for each rule of CMK that can refuse a request that creates,
// numbered in the order of the article. Each must leave nothing behind.
func TestChecklist(t *testing.T) {
	f := newFixture(t)
	ec := f.NewKey("kv1", "elliptic", `{"kty":"EC","crv":"P-256"}`)
	noOps := f.NewKey("kv1", "sign-only", `{"kty":"RSA","key_ops":["sign","verify"]}`)
	disabled := f.NewKey("kv1", "disabled", `{"kty":"RSA","attributes":{"enabled":false}}`)
	expired := f.NewKey("kv1", "expired", `{"kty":"RSA","attributes":{"exp":1500000000}}`)
	early := f.NewKey("kv1", "early", `{"kty":"RSA","attributes":{"nbf":4000000000}}`)
	far, farOID := f.NewIdentity("far", "eastus")
	f.PutVault("kv1", append(f.grants, providertest.Grant{Principal: farOID, Permissions: useKeys})...)
	f.Want(200, f.Do("PUT", providertest.VaultPath("kv-far"), f.VaultBody("eastus", "", f.grants...)))
	farKey := f.NewKey("kv-far", "k", "")
	f.Want(200, f.Do("PUT", providertest.VaultPath("kv-wall"), f.VaultBody("westus2", `{"bypass":"None","defaultAction":"Deny"}`, f.grants...)))

	for _, c := range []struct {
		rule, name string
		change     func(*cmkBody)
		code       string   // of the error
		target     string   // of the error
		details    []string // codes
		says       string   // in the message
	}{
		{"1", "OtherStore", func(b *cmkBody) { b.url = "https://example.com/keys/k" }, "InvalidKeyEncryptionKeyUrl", ".keyEncryptionKeyUrl", []string{"KeyStoreNotSupported"}, "example.com"},
		{"1", "Http", func(b *cmkBody) { b.url = "http" + strings.TrimPrefix(b.url, "https") }, "InvalidKeyEncryptionKeyUrl", ".keyEncryptionKeyUrl", []string{"KeyUrlMalformed"}, "https"},
		{"1", "Secret", func(b *cmkBody) { b.url = strings.Replace(b.url, "/keys/", "/secrets/", 1) }, "InvalidKeyEncryptionKeyUrl", ".keyEncryptionKeyUrl", []string{"KeyUrlMalformed"}, "secrets"},
		{"1", "Blank", func(b *cmkBody) { b.url = strings.Replace(b.url, "/keys/good", "/keys/good ", 1) }, "InvalidKeyEncryptionKeyUrl", ".keyEncryptionKeyUrl", []string{"KeyUrlMalformed"}, "blank"},
		{"1", "Missing", func(b *cmkBody) { b.url = "" }, "InvalidKeyEncryptionKeyUrl", ".keyEncryptionKeyUrl", []string{"KeyUrlMalformed"}, "https"},
		{"1", "NoSuchVault", func(b *cmkBody) { b.url = "https://kv-none." + providertest.VaultSuffix + "/keys/k" }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"VaultNotFound"}, "kv-none"},
		{"2", "NoSuchKey", func(b *cmkBody) { b.url = "https://kv1." + providertest.VaultSuffix + "/keys/none" }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyNotFound"}, `"none"`},
		{"3", "NoSuchVersion", func(b *cmkBody) {
			b.url = "https://kv1." + providertest.VaultSuffix + "/keys/good/" + strings.Repeat("0", 32)
		}, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyVersionNotFound"}, "no version"},
		{"4", "EllipticCurve", func(b *cmkBody) { b.url = ec }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyTypeNotRsa"}, "type EC"},
		{"5", "OperationsMissing", func(b *cmkBody) { b.url = noOps }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyOpsMissing"}, "wrapKey and unwrapKey"},
		{"6", "KeyDisabled", func(b *cmkBody) { b.url = disabled }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyDisabled"}, "is disabled"},
		{"7", "KeyExpired", func(b *cmkBody) { b.url = expired }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyExpired"}, "2017-07-14"},
		{"7", "KeyNotYetValid", func(b *cmkBody) { b.url = early }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"KeyNotYetValid"}, "not valid before"},
		{"10", "NoIdentity", func(b *cmkBody) { b.kind = "" }, "InvalidIdentity", "identity", []string{"IdentityTypeNotUserAssigned"}, "must be assigned"},
		{"10", "NoneNamed", func(b *cmkBody) { b.assigned = nil }, "InvalidIdentity", "identity", []string{"IdentityTypeNotUserAssigned"}, "must be assigned"},
		{"11", "SystemAssigned", func(b *cmkBody) { b.kind = "SystemAssigned" }, "InvalidIdentityType", "identity.type", []string{"IdentityTypeNotUserAssigned"}, "'SystemAssigned'"},
		{"11", "Mixed", func(b *cmkBody) { b.kind = "SystemAssigned,UserAssigned" }, "InvalidIdentityType", "identity.type", []string{"IdentityTypeNotUserAssigned"}, "'SystemAssigned, UserAssigned'"},
		{"11", "None", func(b *cmkBody) { b.kind = "None" }, "InvalidIdentityType", "identity.type", []string{"IdentityTypeNotUserAssigned"}, "'None'"},
		{"12", "KeyIdentityOfSystem", func(b *cmkBody) { b.keyKind = "SystemAssigned" }, "InvalidCmkIdentityType", ".identityType", []string{"KeyIdentityTypeNotUserAssigned"}, "'SystemAssigned'"},
		{"12", "KeyIdentityTypeMissing", func(b *cmkBody) { b.keyKind = "" }, "InvalidCmkIdentityType", ".identityType", []string{"KeyIdentityTypeNotUserAssigned"}, "missing"},
		{"13", "TheNamedOneIsUsedAndNoOther", func(b *cmkBody) { b.assigned, b.keyID = []string{f.id1, f.id3}, f.id3 }, "CmkConfigurationError", ".userAssignedIdentityResourceId", []string{"PermissionMissing", "PermissionMissing", "PermissionMissing"}, "id3"},
		{"14", "NotAssigned", func(b *cmkBody) { b.keyID = f.id2 }, "CmkIdentityNotAssigned", ".userAssignedIdentityResourceId", []string{"KeyIdentityNotAssignedToResource"}, "id2"},
		{"14", "KeyIdentityMissing", func(b *cmkBody) { b.keyID = "" }, "CmkIdentityNotAssigned", ".userAssignedIdentityResourceId", []string{"KeyIdentityNotAssignedToResource"}, "missing"},
		{"17", "VaultElsewhere", func(b *cmkBody) { b.url = farKey }, "CmkRegionMismatch", ".keyEncryptionKeyUrl", []string{"VaultRegionMismatch"}, "eastus"},
		{"17", "IdentityElsewhere", func(b *cmkBody) { b.assigned, b.keyID = []string{far}, far }, "CmkRegionMismatch", ".userAssignedIdentityResourceId", []string{"IdentityRegionMismatch"}, "eastus"},
		{"17", "ServerElsewhere", func(b *cmkBody) { b.location = "eastus" }, "CmkConfigurationError", "customerManagedKeyEncryption", []string{"IdentityRegionMismatch", "VaultRegionMismatch"}, "westus2"},
		{"28", "Firewall", func(b *cmkBody) { b.url = "https://kv-wall." + providertest.VaultSuffix + "/keys/k" }, "CmkConfigurationError", ".keyEncryptionKeyUrl", []string{"VaultFirewallBlocked"}, "allow trusted Microsoft services"},
	} {
		t.Run("Rule"+c.rule+c.name, func(t *testing.T) {
			b := f.body()
			c.change(&b)
			a := f.Do("PUT", serverPath("refused"), b.String())
			e := f.Refused(400, c.code, a)
			if !strings.HasSuffix(e.Target, c.target) || !strings.Contains(e.Message, c.says) {
				t.Errorf("got target %q and message %q, want target …%q and a message with %q", e.Target, e.Message, c.target, c.says)
			}
			if got := details(e); !slices.Equal(got, c.details) {
				t.Errorf("got details %v, want %v: %s", got, c.details, a.Body)
			}
			if !strings.HasPrefix(e.Message, sentence) {
				t.Errorf("message %q does not begin with %q", e.Message, sentence)
			}
			f.Refused(404, "ResourceNotFound", f.Do("GET", serverPath("refused"), ""))
		})
	}
}

// Rule 16: each of get, wrap and unwrap is proved by doing it.
func TestRule16EachPermissionIsNeeded(t *testing.T) {
	f := newFixture(t)
	for _, missing := range useKeys {
		have := slices.DeleteFunc(slices.Clone(useKeys), func(s string) bool { return s == missing })
		f.PutVault("kv1", providertest.Grant{Principal: f.oid1, Permissions: have})
		e := f.Refused(400, "CmkConfigurationError", f.Do("PUT", serverPath("s1"), f.body().String()))
		if got := details(e); !slices.Equal(got, []string{"PermissionMissing"}) || !strings.Contains(e.Message, missing) {
			t.Errorf("without %s: got details %v and message %q", missing, got, e.Message)
		}
	}
	f.PutVault("kv1", f.grants...)
	f.newServer("s1")
}

// Rule 18: identity and vault of another tenant are refused, and no token is sent there.
func TestRule18OtherTenant(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	other, err := f.Entra.CreateDirectory(ctx, "Other")
	if err != nil {
		t.Fatal(err)
	}
	v, err := f.Vault.Get(ctx, "kv1")
	if err != nil {
		t.Fatal(err)
	}
	v.Directory = other
	if err := f.Vault.Put(ctx, v); err != nil {
		t.Fatal(err)
	}
	e := f.Refused(400, "CmkTenantMismatch", f.Do("PUT", serverPath("s1"), f.body().String()))
	if got := details(e); !strings.Contains(e.Message, string(other)) || !slices.Equal(got, []string{"VaultTenantMismatch"}) {
		t.Errorf("got %q with details %v, want the tenant named and the vault not asked", e.Message, e.Details)
	}

	const foreign = "22222222-2222-2222-2222-222222222222"
	if err := f.Resources.CreateSubscription(ctx, foreign, "Foreign", other); err != nil {
		t.Fatal(err)
	}
	owner, secret, err := f.Entra.CreateApplication(ctx, other, "owner")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{owner.ObjectID, f.Admin.ObjectID} { // the latter, who may name the identity from here
		if err := f.Entra.Assign(ctx, id, "Owner", "/subscriptions/"+foreign); err != nil {
			t.Fatal(err)
		}
	}
	token := f.Token(owner, secret, entra.AudienceManagement)
	group := strings.Replace(providertest.Group, providertest.Subscription, foreign, 1)
	f.Want(201, f.DoAs(token, "PUT", group+version, `{"location":"westus2"}`))
	id := f.Want(201, f.DoAs(token, "PUT", group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/stranger?api-version=2023-01-31", `{"location":"westus2"}`)).Get("id").(string)
	v.Directory = f.Directory
	if err := f.Vault.Put(ctx, v); err != nil {
		t.Fatal(err)
	}
	b := f.body()
	b.assigned, b.keyID = []string{id}, id
	e = f.Refused(400, "CmkTenantMismatch", f.Do("PUT", serverPath("s1"), b.String()))
	if !strings.Contains(e.Message, "stranger") {
		t.Errorf("got %q, want the identity named", e.Message)
	}
}

func TestEverythingWrongIsReportedAtOnce(t *testing.T) {
	f := newFixture(t)
	disabled := f.NewKey("kv1", "bad", `{"kty":"RSA","key_ops":["sign"],"attributes":{"enabled":false,"exp":1500000000}}`)
	b := f.body()
	b.location, b.url = "eastus", disabled
	e := f.Refused(400, "CmkConfigurationError", f.Do("PUT", serverPath("s1"), b.String()))
	want := []string{"IdentityRegionMismatch", "KeyDisabled", "KeyExpired", "KeyOpsMissing", "VaultRegionMismatch"}
	got := details(e)
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) || !strings.HasPrefix(e.Message, sentence) {
		t.Errorf("got details %v, message %q, want %v", got, e.Message, want)
	}
	b.location, b.keyKind, b.url = "westus2", "SystemAssigned", "ftp://x"
	e = f.Refused(400, "CmkConfigurationError", f.Do("PUT", serverPath("s1"), b.String()))
	if got := details(e); !slices.Equal(got, []string{"KeyUrlMalformed", "KeyIdentityTypeNotUserAssigned"}) {
		t.Errorf("got details %v", got)
	}
}

// Rules 8, 9, 11, 14, 15 on servers that exist. A refused request changes nothing.
func TestSwitchingAndUnassigning(t *testing.T) {
	f := newFixture(t)
	before := f.newServer("with")
	f.Want(200, f.Do("PUT", serverPath("without"), `{"location":"westus2"}`))
	with, without := f.body(), f.body()
	without.withoutEncryption = true
	noIdentity, system := with, with
	noIdentity.assigned = []string{f.id2}
	system.kind = "SystemAssigned"
	for _, c := range []struct {
		name, method, server, body, code string
	}{
		{"Rule8Put", "PUT", "without", with.String(), "CmkCannotBeEnabledOnExistingResource"},
		{"Rule8Patch", "PATCH", "without", with.String(), "CmkCannotBeEnabledOnExistingResource"},
		{"Rule9Put", "PUT", "with", without.String(), "CmkCannotBeDisabled"},
		{"Rule9PutEmpty", "PUT", "with", `{"location":"westus2","properties":{"encryption":{"customerManagedKeyEncryption":{}}}}`, "CmkCannotBeDisabled"},
		{"Rule9PatchNull", "PATCH", "with", `{"properties":{"encryption":null}}`, "CmkCannotBeDisabled"},
		{"Rule9PatchInnerNull", "PATCH", "with", `{"properties":{"encryption":{"customerManagedKeyEncryption":null}}}`, "CmkCannotBeDisabled"},
		{"Rule1PatchUrlNull", "PATCH", "with", `{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":null}}}}`, "InvalidKeyEncryptionKeyUrl"},
		{"Rule11Put", "PUT", "with", system.String(), "InvalidIdentityType"},
		{"Rule11PatchNone", "PATCH", "with", `{"identity":{"type":"None"}}`, "InvalidIdentityType"},
		{"Rule11PatchNull", "PATCH", "with", `{"identity":null}`, "InvalidIdentityType"},
		{"Rule11PatchMixed", "PATCH", "with", `{"identity":{"type":"SystemAssigned, UserAssigned"}}`, "InvalidIdentityType"},
		{"Rule12Patch", "PATCH", "with", `{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyIdentity":{"identityType":"SystemAssigned"}}}}}`, "InvalidCmkIdentityType"},
		{"Rule14Patch", "PATCH", "with", fmt.Sprintf(`{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyIdentity":{"userAssignedIdentityResourceId":%q}}}}}`, f.id2), "CmkIdentityNotAssigned"},
		{"Rule15Put", "PUT", "with", noIdentity.String(), "CmkIdentityNotAssigned"},
		{"Rule15Patch", "PATCH", "with", fmt.Sprintf(`{"identity":{"userAssignedIdentities":{%q:null}}}`, strings.ToUpper(f.id1[:15])+f.id1[15:]), "CmkIdentityNotAssigned"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.Refused(400, c.code, f.Do(c.method, serverPath(c.server), c.body))
		})
	}
	after := f.Do("GET", serverPath("with"), "")
	if string(after.Body) != string(before.Body) || after.Header.Get("ETag") != before.Header.Get("ETag") {
		t.Errorf("refused requests changed the server: got %s, want %s", after.Body, before.Body)
	}
	// Rule 29.
	if got := f.Do("GET", serverPath("without"), "").Get("properties.encryption"); got != nil {
		t.Errorf("a server without CMK shows encryption %v", got)
	}
}

// Rules 24 and 25: identity, key and version are changed by naming only what changes.
func TestUpdates(t *testing.T) {
	f := newFixture(t)
	tenant := f.newServer("s1").Get("properties.frsTenantId")
	second := f.NewKey("kv1", "good", "")
	other := f.NewKey("kv1", "another", "")
	url := func(u string) string {
		return fmt.Sprintf(`{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":%q}}}}`, u)
	}
	identity := fmt.Sprintf(`{"identity":{"userAssignedIdentities":{%q:{}}},"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyIdentity":{"userAssignedIdentityResourceId":%q}}}}}`, f.id2, f.id2)
	wantURL, wantID := f.key, f.id1
	for _, c := range []struct{ name, body, url, id string }{
		{"Version", url(second), second, ""},
		{"Key", url(other), other, ""},
		{"NoVersion", url(strings.TrimSuffix(f.key, "/"+providertest.Version(f.key))), strings.TrimSuffix(f.key, "/"+providertest.Version(f.key)), ""},
		{"IdentityTogetherWithItsAssignment", identity, "", f.id2},
		{"Nothing", `{}`, "", ""},
		{"EmptyEncryption", `{"properties":{"encryption":{}}}`, "", ""},
		{"Unassign", fmt.Sprintf(`{"identity":{"type":"UserAssigned","userAssignedIdentities":{%q:null}}}`, f.id1), "", ""},
		{"BackToTheFirstVersion", url(f.key), f.key, ""},
	} {
		a := f.Want(200, f.Do("PATCH", serverPath("s1"), c.body))
		if c.url != "" {
			wantURL = c.url
		}
		if c.id != "" {
			wantID = c.id
		}
		if got := a.Get(cmkPath + ".keyEncryptionKeyUrl"); got != wantURL {
			t.Errorf("%s: got URL %v, want %s as it was sent", c.name, got, wantURL)
		}
		if got := a.Get(cmkPath + ".keyEncryptionKeyIdentity.userAssignedIdentityResourceId"); got != wantID {
			t.Errorf("%s: got identity %v, want %s", c.name, got, wantID)
		}
		if got := a.Get("properties.frsTenantId"); got != tenant {
			t.Errorf("%s: frsTenantId is %v, was %v", c.name, got, tenant)
		}
	}
	ids, _ := f.Do("GET", serverPath("s1"), "").Get("identity.userAssignedIdentities").(map[string]any)
	if len(ids) != 1 || ids[f.id2] == nil {
		t.Errorf("got identities %v, want only %s", ids, f.id2)
	}
}

// Rule 26: the version in use must be enabled and unexpired, or it cannot be left.
// Rule 27: an update meets all prerequisites again.
func TestUpdateNeedsThePreviousVersion(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	next := f.NewKey("kv1", "good", "")
	patch := fmt.Sprintf(`{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":%q}}}}`, next)
	first := "/keys/good/" + providertest.Version(f.key)
	for _, c := range []struct{ attributes, undo, detail string }{
		{`{"attributes":{"enabled":false}}`, `{"attributes":{"enabled":true}}`, "PreviousKeyDisabled"},
		{`{"attributes":{"exp":1500000000}}`, `{"attributes":{"exp":4000000000}}`, "PreviousKeyExpired"},
	} {
		f.Want(200, f.Keys("PATCH", "kv1", first, c.attributes))
		e := f.Refused(400, "CmkConfigurationError", f.Do("PATCH", serverPath("s1"), patch))
		if got := details(e); !slices.Equal(got, []string{c.detail}) {
			t.Errorf("got details %v, want %s", got, c.detail)
		}
		if got := f.Do("GET", serverPath("s1"), "").Get(cmkPath + ".keyEncryptionKeyUrl"); got != f.key {
			t.Errorf("the URL is %v after a refused update, want %s", got, f.key)
		}
		// Tags have nothing to do with the key: they can be changed while it is unusable.
		f.Want(200, f.Do("PATCH", serverPath("s1"), `{"tags":{"state":"`+c.detail+`"}}`))
		// An update of identity or key, even to what is there, meets the rules again.
		f.Refused(400, "CmkConfigurationError", f.Do("PATCH", serverPath("s1"), fmt.Sprintf(`{"identity":{"userAssignedIdentities":{%q:{}}}}`, f.id2)))
		f.Refused(400, "CmkConfigurationError", f.Do("PUT", serverPath("s1"), f.body().String()))
		f.Want(200, f.Keys("PATCH", "kv1", first, c.undo))
	}
	f.Want(200, f.Do("PATCH", serverPath("s1"), patch))
}

// Rule 19: the resource itself goes on while its key is unusable, and can be deleted.
func TestManagementWorksWhileTheKeyIsUnusable(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	f.Want(200, f.Keys("DELETE", "kv1", "/keys/good", ""))
	if got := f.Want(200, f.Do("GET", serverPath("s1"), "")).Get("properties.provisioningState"); got != "Succeeded" {
		t.Errorf("provisioningState is %v, want Succeeded", got)
	}
	f.Want(200, f.Do("POST", action("s1", "listKeys"), ""))
	f.Want(200, f.Do("DELETE", serverPath("s1"), ""))
}

// Whoever may write servers may not use any identity by that.
func TestAssigningNeedsPermissionOnTheIdentity(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	user, secret, err := f.Entra.CreateApplication(ctx, f.Directory, "user")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Entra.Assign(ctx, user.ObjectID, "Contributor", strings.TrimSuffix(serverPath("s1"), version)); err != nil {
		t.Fatal(err)
	}
	token := f.Token(user, secret, entra.AudienceManagement)
	f.Refused(403, "LinkedAuthorizationFailed", f.DoAs(token, "PUT", serverPath("s1"), f.body().String()))
	f.newServer("s1")
	// What is assigned already needs no new permission.
	f.Want(200, f.DoAs(token, "PUT", serverPath("s1"), f.body().String()))
	f.Refused(403, "AuthorizationFailed", f.DoAs(token, "PUT", serverPath("s2"), f.body().String()))
}
