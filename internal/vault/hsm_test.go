package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

const (
	cryptoUser  = "21dbd100-6940-42c2-9190-5d6cb909625b"
	serviceUser = "33413926-3206-4cdd-b39a-83574fe37a17"
	officer     = "515eb02d-2335-4d2d-92f2-b1cbdf9c3778"
	auditor     = "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3"
	adminRole   = "a290e904-7015-4bba-90c8-60543313cdb4"
)

// hsm makes a managed HSM that the cloud's administrator administers.
func (c testCloud) hsm(t *testing.T, name string) {
	t.Helper()
	c.put(t, vault.Vault{Name: name, HSM: true, Location: "westus2", Directory: c.directory, Admins: []string{c.admin.ObjectID}})
}

// atHSM makes a raw request to an HSM, with a token for HSMs unless another is given.
func (c testCloud) atHSM(t *testing.T, method, hsm, path, token, body string) *http.Response {
	t.Helper()
	hsms := c
	hsms.suffix = c.hsmSuffix
	if token == "" {
		token = c.token(t, "https://managedhsm.azure.net")
	}
	return hsms.send(t, method, hsm, path, token, body)
}

func (c testCloud) assign(t *testing.T, hsm, scope, role, principal string) {
	t.Helper()
	resp := c.atHSM(t, "PUT", hsm, scope+"/providers/Microsoft.Authorization/roleAssignments/"+guidOf(scope+role+principal), "",
		`{"properties":{"roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/`+role+`","principalId":"`+principal+`"}}`)
	if resp.StatusCode != 201 {
		t.Fatalf("assign %s at %s: got %+v", role, scope, readRefusal(t, resp))
	}
}

// guidOf makes a name of an assignment.
func guidOf(s string) string {
	var b [16]byte
	for i, r := range []byte(s) {
		b[i%16] = b[i%16]*31 + r
	}
	const hex = "0123456789abcdef"
	var out strings.Builder
	for i, v := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			out.WriteByte('-')
		}
		out.WriteByte(hex[v>>4])
		out.WriteByte(hex[v&15])
	}
	return out.String()
}

// The real client does everything in a managed HSM that it does in a vault, and all keys
// are in the token.
func TestManagedHSM(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.hsm(t, "contoso")
	c.put(t, c.vault("contoso")) // the name of an HSM may be a vault's
	c.assign(t, "contoso", "", cryptoUser, c.admin.ObjectID)
	keys, err := azkeys.NewClient("https://contoso."+c.hsmSuffix, c.tokens, &azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: c.client, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, kind := range []azkeys.KeyType{azkeys.KeyTypeRSAHSM, azkeys.KeyTypeECHSM, azkeys.KeyTypeOctHSM} {
		made, err := keys.CreateKey(ctx, string(kind), azkeys.CreateKeyParameters{Kty: &kind}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if *made.Key.Kty != kind || made.Key.K != nil || !strings.HasPrefix(string(*made.Key.KID), "https://contoso."+c.hsmSuffix+"/keys/") {
			t.Errorf("got %+v", made.Key)
		}
	}
	if got := c.token11.Keys(); got != 3 {
		t.Errorf("the token has %d keys, want 3", got)
	}
	for _, kind := range []azkeys.KeyType{azkeys.KeyTypeRSA, azkeys.KeyTypeEC, azkeys.KeyTypeOct} {
		_, err := keys.CreateKey(ctx, "soft", azkeys.CreateKeyParameters{Kty: &kind}, nil)
		refused(t, "a key in software", err, 400, "BadParameter", "")
	}

	secret := []byte("a data key of thirty-two bytes..")
	oaep := azkeys.EncryptionAlgorithmRSAOAEP256
	wrapped, err := keys.WrapKey(ctx, "RSA-HSM", "", azkeys.KeyOperationParameters{Algorithm: &oaep, Value: secret}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := keys.UnwrapKey(ctx, "RSA-HSM", "", azkeys.KeyOperationParameters{Algorithm: &oaep, Value: wrapped.Result}, nil)
	if err != nil || !bytes.Equal(got.Result, secret) {
		t.Errorf("unwrap: got %q, %v", got.Result, err)
	}
	wrapped.Result[0] ^= 1
	_, err = keys.UnwrapKey(ctx, "RSA-HSM", "", azkeys.KeyOperationParameters{Algorithm: &oaep, Value: wrapped.Result}, nil)
	refused(t, "unwrap of a changed value", err, 400, "BadParameter", "")

	digest, es256 := bytes.Repeat([]byte{7}, 32), azkeys.SignatureAlgorithmES256
	signed, err := keys.Sign(ctx, "EC-HSM", "", azkeys.SignParameters{Algorithm: &es256, Value: digest}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if good, err := keys.Verify(ctx, "EC-HSM", "", azkeys.VerifyParameters{Algorithm: &es256, Digest: digest, Signature: signed.Result}, nil); err != nil || !*good.Value {
		t.Errorf("verify: %v", err)
	}

	// A key for HMAC is one from the start, and another kind of key than one of AES.
	sign, verify := azkeys.KeyOperationSign, azkeys.KeyOperationVerify
	mac := azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeOctHSM), KeySize: to.Ptr[int32](384), KeyOps: []*azkeys.KeyOperation{&sign, &verify}}
	if _, err := keys.CreateKey(ctx, "mac", mac, nil); err != nil {
		t.Fatal(err)
	}
	for alg, fits := range map[azkeys.SignatureAlgorithm]bool{azkeys.SignatureAlgorithmHS256: true, azkeys.SignatureAlgorithmHS384: true, azkeys.SignatureAlgorithmHS512: false, azkeys.SignatureAlgorithmES256: false} {
		signed, err := keys.Sign(ctx, "mac", "", azkeys.SignParameters{Algorithm: &alg, Value: secret}, nil)
		if !fits {
			refused(t, string(alg)+" with 384 bits", err, 400, "BadParameter", "")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range [][]byte{secret, secret[1:]} {
			good, err := keys.Verify(ctx, "mac", "", azkeys.VerifyParameters{Algorithm: &alg, Digest: value, Signature: signed.Result}, nil)
			if err != nil || *good.Value != (len(value) == len(secret)) {
				t.Errorf("%s of %q: got %v, %v", alg, value, good.Value, err)
			}
		}
	}
	hs256 := azkeys.SignatureAlgorithmHS256
	_, err = keys.Sign(ctx, "oct-HSM", "", azkeys.SignParameters{Algorithm: &hs256, Value: secret}, nil)
	refused(t, "sign with a key of AES", err, 403, "Forbidden", "")
	_, err = keys.Encrypt(ctx, "mac", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmCKMAESKEYWRAP), Value: secret}, nil)
	refused(t, "wrap with a key of HMAC", err, 400, "BadParameter", "")
	mac.KeyOps = append(mac.KeyOps, to.Ptr(azkeys.KeyOperationWrapKey))
	_, err = keys.CreateKey(ctx, "both", mac, nil)
	refused(t, "a key of both", err, 400, "BadParameter", "")
	if _, err := keys.RotateKey(ctx, "mac", nil); err != nil {
		t.Errorf("rotate: %v", err)
	}
	if _, err := keys.DeleteKey(ctx, "mac", nil); err != nil {
		t.Fatal(err)
	}
	c.assign(t, "contoso", "/keys/mac", officer, c.admin.ObjectID)
	if _, err := keys.PurgeDeletedKey(ctx, "mac", nil); err != nil {
		t.Fatal(err)
	}

	gcm := azkeys.EncryptionAlgorithmA256GCM
	sealed, err := keys.Encrypt(ctx, "oct-HSM", "", azkeys.KeyOperationParameters{Algorithm: &gcm, Value: secret, AdditionalAuthenticatedData: []byte("bound")}, nil)
	if err != nil || len(sealed.IV) != 12 || len(sealed.AuthenticationTag) != 16 {
		t.Fatalf("encrypt: got %+v, %v", sealed.KeyOperationResult, err)
	}
	opened := azkeys.KeyOperationParameters{Algorithm: &gcm, Value: sealed.Result, IV: sealed.IV, AuthenticationTag: sealed.AuthenticationTag, AdditionalAuthenticatedData: []byte("bound")}
	if got, err := keys.Decrypt(ctx, "oct-HSM", "", opened, nil); err != nil || !bytes.Equal(got.Result, secret) {
		t.Errorf("decrypt: got %q, %v", got.Result, err)
	}
	opened.AdditionalAuthenticatedData = []byte("elsewhere")
	_, err = keys.Decrypt(ctx, "oct-HSM", "", opened, nil)
	refused(t, "decrypt elsewhere", err, 400, "BadParameter", "")
	short := azkeys.EncryptionAlgorithmA128GCM
	_, err = keys.Encrypt(ctx, "oct-HSM", "", azkeys.KeyOperationParameters{Algorithm: &short, Value: secret}, nil)
	refused(t, "another size of key", err, 400, "BadParameter", "")

	if random, err := keys.GetRandomBytes(ctx, azkeys.GetRandomBytesParameters{Count: to.Ptr[int32](32)}, nil); err != nil || len(random.Value) != 32 {
		t.Errorf("random bytes: got %d, %v", len(random.Value), err)
	}
	_, err = keys.BackupKey(ctx, "RSA-HSM", nil)
	refused(t, "backup", err, 400, "BadParameter", "")

	// Purged, a key is gone from the token too.
	c.assign(t, "contoso", "/keys/ec-hsm", officer, c.admin.ObjectID)
	if _, err := keys.DeleteKey(ctx, "EC-HSM", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.PurgeDeletedKey(ctx, "EC-HSM", nil); err != nil {
		t.Fatal(err)
	}
	if got := c.token11.Keys(); got != 2 {
		t.Errorf("after a purge the token has %d keys, want 2", got)
	}
	if err := c.vaults.Delete(ctx, vault.Vault{Name: "contoso", HSM: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.vaults.Purge(ctx, vault.Vault{Name: "contoso", HSM: true}); err != nil {
		t.Fatal(err)
	}
	if got := c.token11.Keys(); got != 0 {
		t.Errorf("after the HSM's purge the token has %d keys", got)
	}
}

// TestLocalRoles is who may do what in a managed HSM, by role and scope.
func TestLocalRoles(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.hsm(t, "contoso")
	c.hsm(t, "fabrikam")
	c.assign(t, "contoso", "", cryptoUser, c.admin.ObjectID)
	for _, key := range []string{"k", "other"} {
		if got := c.atHSM(t, "POST", "contoso", "/keys/"+key+"/create", "", `{"kty":"RSA-HSM"}`); got.StatusCode != 200 {
			t.Fatalf("create: %+v", readRefusal(t, got))
		}
	}
	service, err := c.entra.CreateManagedIdentity(t.Context(), c.directory, "/identities/relay")
	if err != nil {
		t.Fatal(err)
	}
	c.assign(t, "contoso", "/keys/K", serviceUser, service.ObjectID)
	relay := c
	relay.tokens = c.entra.Credential("/identities/relay")
	const wrap = `{"alg":"RSA-OAEP-256","value":"AAAA"}`
	roles := "/providers/Microsoft.Authorization/roleAssignments"
	for _, test := range []struct {
		name, method, path, body string
		token                    string
		want                     int
	}{
		{"Get", "GET", "/keys/k", "", "", 200},
		{"Wrap", "POST", "/keys/K/wrapkey", wrap, "", 200},
		{"GetOther", "GET", "/keys/other", "", "", 403},
		{"List", "GET", "/keys", "", "", 403},
		{"Encrypt", "POST", "/keys/k/encrypt", wrap, "", 403},
		{"Delete", "DELETE", "/keys/k", "", "", 403},
		{"Create", "POST", "/keys/k/create", `{"kty":"RSA-HSM"}`, "", 403},
		{"Random", "POST", "/rng", `{"count":1}`, "", 403},
		{"ReadRoles", "GET", roles, "", "", 403},
		{"GiveItselfARole", "PUT", "/keys/k" + roles + "/" + guidOf("x"), `{"properties":{"roleDefinitionId":"` + cryptoUser + `","principalId":"` + service.ObjectID + `"}}`, "", 403},
		{"VaultToken", "GET", "/keys/k", "", relay.token(t, "https://vault.azure.net"), 401},
		{"ManagementToken", "GET", "/keys/k", "", relay.token(t, "https://management.azure.com"), 401},
	} {
		if got := relay.atHSM(t, test.method, "contoso", test.path, test.token, test.body); got.StatusCode != test.want {
			t.Errorf("%s: got %+v, want %d", test.name, readRefusal(t, got), test.want)
		}
	}
	if got := relay.atHSM(t, "GET", "fabrikam", "/keys/k", "", "").StatusCode; got != 403 {
		t.Errorf("in another HSM: got %d, want 403", got)
	}
	// The administrator of an HSM manages roles, and uses no keys.
	for path, want := range map[string]int{"/keys": 403, roles: 200} {
		if got := c.atHSM(t, "GET", "fabrikam", path, "", "").StatusCode; got != want {
			t.Errorf("administrator, %s: got %d, want %d", path, got, want)
		}
	}
	// A token for HSMs is none for vaults.
	c.put(t, c.vault("vault"))
	if got := c.send(t, "GET", "vault", "/keys", c.token(t, "https://managedhsm.azure.net"), "").StatusCode; got != 401 {
		t.Errorf("a token for HSMs in a vault: got %d, want 401", got)
	}
	// Taken away, a role counts no more.
	if got := c.atHSM(t, "DELETE", "contoso", "/keys/k"+roles+"/"+guidOf("/keys/K"+serviceUser+service.ObjectID), "", ""); got.StatusCode != 200 {
		t.Errorf("delete the assignment: %+v", readRefusal(t, got))
	}
	if got := relay.atHSM(t, "GET", "contoso", "/keys/k", "", "").StatusCode; got != 403 {
		t.Errorf("without the role: got %d, want 403", got)
	}
}

func TestRoleAssignments(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.hsm(t, "contoso")
	const roles = "/providers/Microsoft.Authorization/roleAssignments"
	body := func(role, principal string) string {
		return `{"properties":{"roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/` + role + `","principalId":"` + principal + `"}}`
	}
	list := func(query string) []string {
		var answer struct {
			Value []struct {
				ID         string
				Properties struct{ Scope, PrincipalID, RoleDefinitionID string }
			}
		}
		resp := c.atHSM(t, "GET", "contoso", roles+"?api-version=7.4"+query, "", "")
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != 200 {
			t.Fatalf("list: %d, %v", resp.StatusCode, err)
		}
		var scopes []string
		for _, v := range answer.Value {
			scopes = append(scopes, v.Properties.Scope)
		}
		return scopes
	}
	first := list("")
	if len(first) != 1 || first[0] != "/" {
		t.Fatalf("a new HSM's assignments: got %v, want the administrator's", first)
	}
	c.assign(t, "contoso", "/keys", auditor, c.admin.ObjectID)
	if got := list(""); len(got) != 2 {
		t.Errorf("list: got %v", got)
	}
	if got := list("&$filter=atScope()"); len(got) != 1 {
		t.Errorf("list at the scope: got %v", got)
	}
	if got := list("&$filter=principalId+eq+'" + guidOf("nobody") + "'"); len(got) != 0 {
		t.Errorf("list of nobody: got %v", got)
	}
	name := guidOf("/keys" + auditor + c.admin.ObjectID)
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		code, message            string
	}{
		{"Again", "PUT", "/keys" + roles + "/" + name, body(auditor, c.admin.ObjectID), 409, "RoleAssignmentExists", "already exists"},
		{"UnknownRole", "PUT", roles + "/" + guidOf("a"), body(guidOf("role"), c.admin.ObjectID), 400, "BadParameter", "no role of this HSM"},
		{"NoPrincipal", "PUT", roles + "/" + guidOf("a"), body(auditor, "bob"), 400, "BadParameter", "principalId"},
		{"NoGUID", "PUT", roles + "/mine", body(auditor, c.admin.ObjectID), 400, "BadParameter", "not a GUID"},
		{"OtherScope", "GET", roles + "/" + name, "", 404, "RoleAssignmentNotFound", name},
		{"BadScope", "GET", "/secrets" + roles, "", 400, "BadParameter", "scope"},
		{"BadFilter", "GET", roles + "?api-version=7.4&$filter=x", "", 400, "BadParameter", "filter"},
		{"CustomRole", "PUT", "/providers/Microsoft.Authorization/roleDefinitions/" + guidOf("a"), "{}", 400, "BadParameter", "Custom roles"},
		{"SecurityDomain", "POST", "/securitydomain/download", "{}", 400, "BadParameter", "no security domain"},
		{"FullBackup", "POST", "/backup", "{}", 400, "BadParameter", "Full backup"},
	} {
		resp := c.atHSM(t, test.method, "contoso", test.path, "", test.body)
		if got := readRefusal(t, resp); got.status != test.status || got.code != test.code || !strings.Contains(got.message, test.message) {
			t.Errorf("%s: got %+v, want %d %s with %q", test.name, got, test.status, test.code, test.message)
		}
	}
	definitions := c.atHSM(t, "GET", "contoso", "/providers/Microsoft.Authorization/roleDefinitions", "", "")
	if raw, err := io.ReadAll(definitions.Body); err != nil || strings.Count(string(raw), "AKVBuiltInRole") != 8 || !bytes.Contains(raw, []byte("Microsoft.KeyVault/managedHsm/keys/unwrap/action")) {
		t.Errorf("role definitions: got %s, %v", raw, err)
	}
	// The last administrator stays.
	var admin struct{ Value []struct{ Name string } }
	if err := json.NewDecoder(c.atHSM(t, "GET", "contoso", roles+"?api-version=7.4&$filter=atScope()", "", "").Body).Decode(&admin); err != nil {
		t.Fatal(err)
	}
	last := roles + "/" + admin.Value[0].Name
	if got := readRefusal(t, c.atHSM(t, "DELETE", "contoso", last, "", "")); got.status != 409 {
		t.Errorf("remove the last administrator: got %+v", got)
	}
	c.assign(t, "contoso", "", adminRole, guidOf("somebody"))
	if got := c.atHSM(t, "DELETE", "contoso", last, "", "").StatusCode; got != 200 {
		t.Errorf("remove one of two administrators: got %d", got)
	}
}

// meanwhile is a store on which something happens just before the first write of a table.
type meanwhile struct {
	store.Store
	table   store.Table
	happens func()
}

func (m *meanwhile) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if happens := m.happens; happens != nil && writes[0].Table == m.table {
		m.happens = nil
		happens()
	}
	return m.Store.WriteRows(ctx, writes)
}

// Of two administrators who are removed at once, each on another node, one stays.
func TestLastAdministratorStaysOfSeveralNodes(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.hsm(t, "contoso")
	c.assign(t, "contoso", "", adminRole, guidOf("somebody"))
	const roles = "/providers/Microsoft.Authorization/roleAssignments"
	admins := func() (names []string) {
		t.Helper()
		var list struct{ Value []struct{ Name string } }
		if err := json.NewDecoder(c.atHSM(t, "GET", "contoso", roles, "", "").Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		for _, v := range list.Value {
			names = append(names, v.Name)
		}
		return names
	}
	somebodys := guidOf(adminRole + guidOf("somebody"))
	both := admins()
	own := both[0]
	if own == somebodys {
		own = both[1]
	}
	other := vault.New(vault.Config{
		Store: &meanwhile{c.store, "hsm-role-assignments", func() {
			if got := c.atHSM(t, "DELETE", "contoso", roles+"/"+somebodys, "", "").StatusCode; got != 200 {
				t.Errorf("remove one of two administrators: got %d", got)
			}
		}},
		Service: c.service, Entra: c.entra, Suffix: c.suffix, HSMSuffix: c.hsmSuffix, Login: c.login, Token: c.token11,
	})
	r := httptest.NewRequestWithContext(t.Context(), "DELETE", "https://contoso."+c.hsmSuffix+roles+"/"+own+"?api-version=7.4", nil)
	r.Header.Set("Authorization", "Bearer "+c.token(t, "https://managedhsm.azure.net"))
	w := httptest.NewRecorder()
	other.Handler().ServeHTTP(w, r)
	if w.Code != 409 || !strings.Contains(w.Body.String(), "last assignment") {
		t.Errorf("removing the other one meanwhile: got %d %s, want 409", w.Code, w.Body)
	}
	if left := admins(); len(left) != 1 || left[0] != own {
		t.Errorf("left are %v, want %s", left, own)
	}
}
