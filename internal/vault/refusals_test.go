package vault_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/vault"
)

func (c testCloud) token(t *testing.T, resource string) string {
	t.Helper()
	got, err := c.tokens.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	return got.Token
}

// send makes a raw request over the network. A path without a query gets api-version 7.4.
func (c testCloud) send(t *testing.T, method, host, path, token, body string) *http.Response {
	t.Helper()
	if !strings.Contains(path, "?") {
		path += "?api-version=7.4"
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+host+"."+c.suffix+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// must makes a request that succeeds.
func (c testCloud) must(t *testing.T, method, host, path, token, body string) map[string]any {
	t.Helper()
	resp := c.send(t, method, host, path, token, body)
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %s: got %d %v, %v", method, path, resp.StatusCode, answer, err)
	}
	return answer
}

// refusalCloud has a vault "contoso" with a key for each state.
func refusalCloud(t *testing.T, log io.Writer) (testCloud, string) {
	t.Helper()
	c := newCloud(t, log)
	c.put(t, c.vault("contoso"))
	guarded := c.vault("guarded")
	guarded.PurgeProtection, guarded.SoftDeleteRetention = true, 7
	c.put(t, guarded)
	fenced := c.vault("fenced")
	fenced.DefaultDeny, fenced.BypassTrusted, fenced.IPRules = true, true, []string{"192.0.2.0/24", "2001:db8::1"}
	c.put(t, fenced)
	stingy := c.vault("stingy")
	stingy.Policies = []vault.Policy{{ObjectID: strings.ToUpper(c.admin.ObjectID), Keys: []string{"Get", "ALL"}}, {ObjectID: "someone-else", Keys: []string{"purge"}}}
	c.put(t, stingy)
	dark := c.vault("dark")
	dark.PublicDisabled, dark.IPRules = true, []string{"127.0.0.1"}
	c.put(t, dark)
	roles := c.vault("roles") // whose access policies do not count
	roles.RBAC, roles.ResourceID = true, "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/roles"
	c.put(t, roles)
	c.put(t, vault.Vault{Name: "closed", Location: "westus2", Directory: c.directory})
	foreign, err := c.entra.CreateDirectory(t.Context(), "fabrikam")
	if err != nil {
		t.Fatal(err)
	}
	c.put(t, vault.Vault{Name: "foreign", Directory: foreign})

	token := c.token(t, "https://"+c.suffix)
	create := func(name, body string) { c.must(t, "POST", "contoso", "/keys/"+name+"/create", token, body) }
	create("rsa", `{"kty":"RSA"}`)
	create("ec", `{"kty":"EC"}`)
	create("disabled", `{"kty":"RSA","attributes":{"enabled":false}}`)
	create("early", `{"kty":"RSA","attributes":{"nbf":4102444800}}`)
	create("expired", `{"kty":"RSA","attributes":{"exp":1}}`)
	create("unwraps", `{"kty":"RSA","key_ops":["unwrapKey"]}`)
	create("deleted", `{"kty":"EC"}`)
	c.must(t, "DELETE", "contoso", "/keys/deleted", token, "")
	c.must(t, "POST", "guarded", "/keys/deleted/create", token, `{"kty":"EC"}`)
	c.must(t, "DELETE", "guarded", "/keys/deleted", token, "")
	c.must(t, "POST", "stingy", "/keys/deleted/create", token, `{"kty":"EC"}`)
	c.must(t, "DELETE", "stingy", "/keys/deleted", token, "")
	return c, token
}

// TestRefusals has a row for each refusal of the data plane.
func TestRefusals(t *testing.T) {
	var log lockedBuffer
	c, token := refusalCloud(t, &log)
	const (
		op      = `{"alg":"RSA-OAEP-256","value":"AAAA"}`
		unknown = "0123456789abcdef0123456789abcdef"
	)
	caller := "appid=" + c.admin.ClientID + ";oid=" + c.admin.ObjectID + ";iss=https://sts.windows.net/" + string(c.directory) + "/"
	for _, test := range []struct {
		name                     string
		method, host, path, body string
		status                   int
		code, inner              string
		message                  string // a part of it
	}{
		{"UnknownVault", "GET", "nowhere", "/keys", "", 404, "VaultNotFound", "", "no vault"},
		{"NameThatIsNoVault", "GET", "a.contoso", "/keys", "", 404, "VaultNotFound", "", "no vault"},
		{"OtherDirectory", "GET", "foreign", "/keys", "", 401, "Unauthorized", "", "AKV10032: Invalid issuer. Expected one of https://sts.windows.net/"},
		{"FirewallOverTheNetwork", "GET", "fenced", "/keys", "", 403, "Forbidden", "ForbiddenByFirewall", "Client address is not authorized and caller is not a trusted service.\r\nClient address: 127.0.0.1\r\nCaller: " + caller + "\r\nVault: fenced;location=westus2"},
		{"FirewallBeforeVersion", "GET", "fenced", "/keys?", "", 403, "Forbidden", "ForbiddenByFirewall", ""},
		{"VersionMissing", "GET", "contoso", "/keys?", "", 400, "BadParameter", "", "version"},
		{"VersionUnknown", "GET", "contoso", "/keys?api-version=8.0", "", 400, "BadParameter", "", "version"},
		{"VersionTwice", "GET", "contoso", "/keys?api-version=7.4&api-version=7.4", "", 400, "BadParameter", "", "version"},
		{"NoPolicy", "GET", "closed", "/keys/rsa", "", 403, "Forbidden", "AccessDenied", "The user, group or application '" + caller + "' does not have keys get permission on key vault 'closed;location=westus2'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287"},
		{"NoPolicyBeforeBody", "POST", "closed", "/keys/rsa/wrapkey", "{", 403, "Forbidden", "AccessDenied", "does not have keys wrapKey permission"},
		{"AllDoesNotPurge", "DELETE", "stingy", "/deletedkeys/deleted", "", 403, "Forbidden", "AccessDenied", "keys purge permission"},
		{"AllDoesNotRelease", "POST", "stingy", "/keys/rsa/" + unknown + "/release", "{}", 403, "Forbidden", "AccessDenied", "keys release permission"},
		{"AllDoesNotRotate", "POST", "stingy", "/keys/rsa/rotate", "", 403, "Forbidden", "AccessDenied", "keys rotate permission"},
		{"AllDoesNotShowThePolicy", "GET", "stingy", "/keys/rsa/rotationpolicy", "", 403, "Forbidden", "AccessDenied", "keys getrotationpolicy permission"},
		{"AllDoesNotSetThePolicy", "PUT", "stingy", "/keys/rsa/rotationpolicy", "{}", 403, "Forbidden", "AccessDenied", "keys setrotationpolicy permission"},
		{"PurgeProtection", "DELETE", "guarded", "/deletedkeys/deleted", "", 403, "Forbidden", "", "purge protection is enabled"},

		{"OtherCollection", "GET", "contoso", "/secrets/s", "", 400, "BadParameter", "", "invalid name: secrets. This vault has keys, and no secrets"},
		{"BadName", "GET", "contoso", "/keys/a_b", "", 400, "BadParameter", "", "invalid name: a_b"},
		{"EscapedSlash", "GET", "contoso", "/keys/a%2Fb", "", 400, "BadParameter", "", "invalid name: a%2Fb"},
		{"DotSegments", "GET", "contoso", "/keys/../keys/rsa", "", 400, "BadParameter", "", "invalid name: .."},
		{"VersionThatIsNone", "GET", "contoso", "/keys/rsa/1234", "", 400, "BadParameter", "", "Method GET does not allow operation '1234'"},
		{"SegmentsBehind", "POST", "contoso", "/keys/rsa/wrapkey/x", "{}", 400, "BadParameter", "", "segments behind"},
		{"MethodNotAllowed", "GET", "contoso", "/keys/rsa/wrapkey", "", 400, "BadParameter", "", "Method GET does not allow operation 'wrapkey'"},
		{"DeleteOneVersion", "DELETE", "contoso", "/keys/rsa/" + unknown, "", 400, "BadParameter", "", "Method DELETE does not allow"},
		{"ImportWithoutKey", "PUT", "contoso", "/keys/rsa", "{}", 400, "BadParameter", "", "'key' is required"},
		{"ImportHalfAKey", "PUT", "contoso", "/keys/rsa", `{"key":{"kty":"RSA","n":"AQAB","e":"AQAB"}}`, 400, "BadParameter", "", "'key.d' is required"},
		{"ImportSmallRSA", "PUT", "contoso", "/keys/rsa", `{"key":{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB","p":"AQAB","q":"AQAB"}}`, 400, "BadParameter", "", "sizes are"},
		{"ImportTransferPackage", "PUT", "contoso", "/keys/rsa", `{"key":{"kty":"RSA-HSM","key_hsm":"AA"}}`, 400, "BadParameter", "", "key_hsm"},
		{"ImportOtherPoint", "PUT", "contoso", "/keys/ec", `{"key":{"kty":"EC","crv":"P-256","d":"AQ","x":"AQ","y":"AQ"}}`, 400, "BadParameter", "", "belong together"},
		{"ImportOct", "PUT", "contoso", "/keys/oct", `{"key":{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAA"}}`, 400, "BadParameter", "", "only a managed HSM"},
		{"ImportZeroOnP256K", "PUT", "contoso", "/keys/ec", `{"key":{"kty":"EC","crv":"P-256K","d":"AA","x":"AQ","y":"AQ"}}`, 400, "BadParameter", "", "no private key of the curve"},
		{"ImportOrderOnP256K", "PUT", "contoso", "/keys/ec", `{"key":{"kty":"EC","crv":"P-256K","d":"_____________________rqu3OavSKA7v9JejNA2QUE","x":"AQ","y":"AQ"}}`, 400, "BadParameter", "", "no private key of the curve"},
		{"ImportOtherPointOnP256K", "PUT", "contoso", "/keys/ec", `{"key":{"kty":"EC","crv":"P-256K","d":"AQ","x":"AQ","y":"AQ"}}`, 400, "BadParameter", "", "belong together"},
		{"CreateOct", "POST", "contoso", "/keys/oct/create", `{"kty":"oct-HSM"}`, 400, "BadParameter", "", "only a managed HSM"},
		{"ES256K", "POST", "contoso", "/keys/ec/sign", `{"alg":"ES256K","value":"AAAA"}`, 400, "BadParameter", "", "P-256K"},
		{"MACWithRSA", "POST", "contoso", "/keys/rsa/sign", `{"alg":"HS256","value":"AAAA"}`, 400, "BadParameter", "", "'oct-HSM'"},
		{"AESWithRSA", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"A256KW","value":"AAAA"}`, 400, "BadParameter", "", "'oct-HSM'"},
		{"RestoreGarbage", "POST", "contoso", "/keys/restore", `{"value":"AAAA"}`, 400, "BadParameter", "", "Backup blob is corrupted"},
		{"RotateNoKey", "POST", "contoso", "/keys/nokey/rotate", "", 404, "KeyNotFound", "", ""},
		{"PolicyWithTwoRotates", "PUT", "contoso", "/keys/rsa/rotationpolicy", `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P30D"},"action":{"type":"Rotate"}},{"trigger":{"timeAfterCreate":"P30D"},"action":{"type":"rotate"}}]}`, 400, "BadParameter", "", "more than one"},
		{"PolicyWithoutExpiry", "PUT", "contoso", "/keys/rsa/rotationpolicy", `{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}]}`, 400, "BadParameter", "", "expiryTime"},
		{"PolicyOfAWeek", "PUT", "contoso", "/keys/rsa/rotationpolicy", `{"attributes":{"expiryTime":"P7D"}}`, 400, "BadParameter", "", "at least 28 days"},
		{"PolicyTooSoon", "PUT", "contoso", "/keys/rsa/rotationpolicy", `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P6D"},"action":{"type":"Rotate"}}]}`, 400, "BadParameter", "", "at least 7 days"},
		{"PolicyNoDuration", "PUT", "contoso", "/keys/rsa/rotationpolicy", `{"attributes":{"expiryTime":"PT1H"}}`, 400, "BadParameter", "", "ISO 8601"},
		{"PublicAccessOff", "GET", "dark", "/keys", "", 403, "Forbidden", "ForbiddenByConnection", "Public network access is disabled"},
		{"NoRole", "GET", "roles", "/keys/rsa/" + unknown, "", 403, "Forbidden", "ForbiddenByRbac", "Caller: " + caller + "\r\nAction: 'Microsoft.KeyVault/vaults/keys/read'\r\nResource: '/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/roles/keys/rsa/" + unknown + "'"},
		{"Release", "POST", "contoso", "/keys/rsa/" + unknown + "/release", "{}", 400, "BadParameter", "", "release is not supported"},
		{"PurgeAsWord", "DELETE", "contoso", "/deletedkeys/deleted/purge", "", 400, "BadParameter", "", "Method DELETE does not allow operation 'purge'"},

		{"KeyNotFound", "GET", "contoso", "/keys/nokey", "", 404, "KeyNotFound", "", "A key with (name/id) nokey was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"},
		{"KeyVersionNotFound", "GET", "contoso", "/keys/rsa/" + unknown, "", 404, "KeyNotFound", "", "(name/id) rsa/" + unknown + " was"},
		{"KeyDeleted", "GET", "contoso", "/keys/deleted", "", 404, "KeyNotFound", "", "deleted"},
		{"UnwrapDeleted", "POST", "contoso", "/keys/deleted/unwrapkey", op, 404, "KeyNotFound", "", ""},
		{"UpdateDeleted", "PATCH", "contoso", "/keys/deleted", "{}", 404, "KeyNotFound", "", ""},
		{"DeleteDeleted", "DELETE", "contoso", "/keys/deleted", "", 404, "KeyNotFound", "", ""},
		{"DeletedKeyNotFound", "GET", "contoso", "/deletedkeys/rsa", "", 404, "KeyNotFound", "", "Deleted Key not found: rsa"},
		{"RecoverWhatIsNotDeleted", "POST", "contoso", "/deletedkeys/rsa/recover", "", 404, "KeyNotFound", "", "Deleted Key not found: rsa"},
		{"PurgeWhatIsNotDeleted", "DELETE", "contoso", "/deletedkeys/rsa", "", 404, "KeyNotFound", "", "Deleted Key not found: rsa"},
		{"CreateUnderDeletedName", "POST", "contoso", "/keys/deleted/create", `{"kty":"RSA"}`, 409, "Conflict", "ObjectIsDeletedButRecoverable", "Key deleted is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged."},

		{"DisabledWrap", "POST", "contoso", "/keys/disabled/wrapkey", op, 403, "Forbidden", "KeyDisabled", "Operation wrapKey is not allowed on a disabled key."},
		{"DisabledUnwrap", "POST", "contoso", "/keys/disabled/unwrapkey", op, 403, "Forbidden", "KeyDisabled", "Operation unwrapKey is not allowed on a disabled key."},
		{"DisabledEncrypt", "POST", "contoso", "/keys/disabled/encrypt", op, 403, "Forbidden", "KeyDisabled", ""},
		{"DisabledDecrypt", "POST", "contoso", "/keys/disabled/decrypt", op, 403, "Forbidden", "KeyDisabled", ""},
		{"DisabledSign", "POST", "contoso", "/keys/disabled/sign", op, 403, "Forbidden", "KeyDisabled", ""},
		{"DisabledVerify", "POST", "contoso", "/keys/disabled/verify", op, 403, "Forbidden", "KeyDisabled", ""},
		{"ExpiredWrap", "POST", "contoso", "/keys/expired/wrapkey", op, 403, "Forbidden", "KeyExpired", "Operation wrapKey is not allowed on an expired key."},
		{"ExpiredEncrypt", "POST", "contoso", "/keys/expired/encrypt", op, 403, "Forbidden", "KeyExpired", ""},
		{"ExpiredSign", "POST", "contoso", "/keys/expired/sign", op, 403, "Forbidden", "KeyExpired", ""},
		{"ExpiredUnwrapsSoTheValueIsTried", "POST", "contoso", "/keys/expired/unwrapkey", op, 400, "BadParameter", "", "The parameter is incorrect."},
		{"EarlyWrap", "POST", "contoso", "/keys/early/wrapkey", op, 403, "Forbidden", "KeyNotYetValid", ""},
		{"EarlyUnwrapsSoTheValueIsTried", "POST", "contoso", "/keys/early/unwrapkey", op, 400, "BadParameter", "", "The parameter is incorrect."},
		{"NotInKeyOps", "POST", "contoso", "/keys/unwraps/wrapkey", op, 403, "Forbidden", "", "Operation wrapKey is not permitted on this key."},

		{"WrapWithEC", "POST", "contoso", "/keys/ec/wrapkey", op, 400, "BadParameter", "", "is of type 'EC', and algorithm 'RSA-OAEP-256' can only be used with a key of type 'RSA' or 'RSA-HSM'."},
		{"SignWithWrongCurve", "POST", "contoso", "/keys/ec/sign", `{"alg":"ES512","value":"AAAA"}`, 400, "BadParameter", "", "P-521"},
		{"UnknownAlgorithm", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"A255KW","value":"AAAA"}`, 400, "BadParameter", "", "'alg'"},
		{"WrapWithSignatureAlgorithm", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RS256","value":"AAAA"}`, 400, "BadParameter", "", "'alg'"},
		{"WrapTooLong", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RSA-OAEP-256","value":"` + strings.Repeat("A", 400) + `"}`, 400, "BadParameter", "", "The parameter is incorrect."},
		{"WrapNothing", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RSA-OAEP-256","value":""}`, 400, "BadParameter", "", "The parameter is incorrect."},
		{"WrapWithoutValue", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RSA-OAEP-256"}`, 400, "BadParameter", "", "'value' is required"},
		{"Padded", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RSA-OAEP-256","value":"AA=="}`, 400, "BadParameter", "", "'value'"},
		{"LineBreakInValue", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RSA-OAEP-256","value":"AA\nAA"}`, 400, "BadParameter", "", "'value'"},
		{"SymmetricParameters", "POST", "contoso", "/keys/rsa/wrapkey", `{"alg":"RSA-OAEP-256","value":"AAAA","iv":"AAAA"}`, 400, "BadParameter", "", "'iv'"},
		{"UnwrapGarbage", "POST", "contoso", "/keys/rsa/unwrapkey", `{"alg":"RSA-OAEP-256","value":"` + strings.Repeat("A", 342) + `"}`, 400, "BadParameter", "", "The parameter is incorrect."},
		{"DigestOfWrongLength", "POST", "contoso", "/keys/rsa/sign", `{"alg":"RS256","value":"AAAA"}`, 400, "BadParameter", "", "The parameter is incorrect."},

		{"NotJSON", "POST", "contoso", "/keys/k/create", `{"kty":`, 400, "BadParameter", "", "JSON"},
		{"NoBody", "POST", "contoso", "/keys/k/create", ``, 400, "BadParameter", "", "JSON"},
		{"TrailingBytes", "POST", "contoso", "/keys/k/create", `{"kty":"EC"} {}`, 400, "BadParameter", "", "JSON"},
		{"MemberTwice", "POST", "contoso", "/keys/k/create", `{"kty":"EC","kty":"RSA"}`, 400, "BadParameter", "", "JSON"},
		{"MemberUnknown", "POST", "contoso", "/keys/k/create", `{"kty":"EC","keysize":4096}`, 400, "BadParameter", "", "JSON"},
		{"MemberOfWrongType", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","key_size":"2048"}`, 400, "BadParameter", "", "JSON"},
		{"DateOfWrongType", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","attributes":{"exp":"soon"}}`, 400, "BadParameter", "", "JSON"},
		{"TooLarge", "POST", "contoso", "/keys/k/create", `{"kty":"` + strings.Repeat("x", 70000) + `"}`, 400, "BadParameter", "", "65536"},
		{"NoType", "POST", "contoso", "/keys/k/create", `{}`, 400, "BadParameter", "", "'kty' is required"},
		{"HSMInStandard", "POST", "contoso", "/keys/k/create", `{"kty":"RSA-HSM"}`, 400, "BadParameter", "", "premium"},
		{"SymmetricInVault", "POST", "contoso", "/keys/k/create", `{"kty":"oct"}`, 400, "BadParameter", "", "'kty'"},
		{"Size", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","key_size":1024}`, 400, "BadParameter", "", "'key_size'"},
		{"SizeOfEC", "POST", "contoso", "/keys/k/create", `{"kty":"EC","key_size":2048}`, 400, "BadParameter", "", "'key_size'"},
		{"Curve", "POST", "contoso", "/keys/k/create", `{"kty":"EC","crv":"P-192"}`, 400, "BadParameter", "", "'crv'"},
		{"CurveOfRSA", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","crv":"P-256"}`, 400, "BadParameter", "", "'crv'"},
		{"Exponent", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","public_exponent":3}`, 400, "BadParameter", "", "'public_exponent'"},
		{"KeyOps", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","key_ops":["fly"]}`, 400, "BadParameter", "", "'fly'"},
		{"KeyOpsOfEC", "POST", "contoso", "/keys/k/create", `{"kty":"EC","key_ops":["wrapKey"]}`, 400, "BadParameter", "", "'wrapKey'"},
		{"Exportable", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","attributes":{"exportable":true}}`, 400, "BadParameter", "", "'exportable'"},
		{"ReleasePolicy", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","release_policy":{"data":"AA"}}`, 400, "BadParameter", "", "'release_policy'"},
		{"DatesInWrongOrder", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","attributes":{"nbf":20,"exp":10}}`, 400, "BadParameter", "", "'exp' must be later"},
		{"DateOutOfRange", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","attributes":{"nbf":-1}}`, 400, "BadParameter", "", "seconds since"},
		{"TooManyTags", "POST", "contoso", "/keys/k/create", `{"kty":"RSA","tags":{"1":"","2":"","3":"","4":"","5":"","6":"","7":"","8":"","9":"","10":"","11":"","12":"","13":"","14":"","15":"","16":""}}`, 400, "BadParameter", "", "tags"},
		{"MaxResults", "GET", "contoso", "/keys?api-version=7.4&maxresults=26", "", 400, "BadParameter", "", "1-25"},
		{"SkipToken", "GET", "contoso", "/keys?api-version=7.4&$skiptoken=zz", "", 400, "BadParameter", "", "skiptoken"},
		{"SkipTokenOfVersions", "GET", "contoso", "/keys/rsa/versions?api-version=7.4&$skiptoken=zz", "", 400, "BadParameter", "", "skiptoken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp := c.send(t, test.method, test.host, test.path, token, test.body)
			got := readRefusal(t, resp)
			if got.status != test.status || got.code != test.code || got.inner != test.inner || !strings.Contains(got.message, test.message) {
				t.Errorf("got %+v, want %d %s %s with %q", got, test.status, test.code, test.inner, test.message)
			}
			if id := resp.Header.Get("X-Ms-Request-Id"); id == "" || !strings.Contains(log.String(), id) {
				t.Errorf("request id %q is not in the audit log", id)
			}
			if challenged := resp.Header.Get("Www-Authenticate") != ""; challenged != (test.status == 401) {
				t.Errorf("challenge: got %t", challenged)
			}
		})
	}
	if strings.Contains(log.String(), token) || strings.Contains(log.String(), "AAAA") {
		t.Error("the log shows a token or a value")
	}
}

func TestChallenge(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.put(t, c.vault("contoso"))
	want := `Bearer authorization="` + c.login + "/" + string(c.directory) + `", resource="https://` + c.suffix + `"`
	for name, test := range map[string]struct{ token, message string }{
		"Missing":    {"", "AKV10000: Request is missing a Bearer or PoP token."},
		"Management": {c.token(t, "https://management.azure.com"), "AKV10022: Invalid audience. Expected https://vault.azure.net, found: https://management.azure.com."},
		"Forged":     {"e30.e30.AAAA", "AKV10046: Unable to resolve the key used for signature validation."},
	} {
		t.Run(name, func(t *testing.T) {
			// Neither api-version nor body: the token comes first.
			resp := c.send(t, "POST", "contoso", "/keys/k/create?", test.token, "")
			if got := readRefusal(t, resp); got.status != 401 || got.code != "Unauthorized" || got.message != test.message {
				t.Errorf("got %+v, want %q", got, test.message)
			}
			if got := resp.Header.Get("Www-Authenticate"); got != want {
				t.Errorf("challenge:\n got %s\nwant %s", got, want)
			}
		})
	}
}

// TestPathsOfOldAndNewClients: newest version by no segment, by an empty one, and
// by a trailing slash; names and words without regard to case.
func TestPathsOfOldAndNewClients(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.put(t, c.vault("contoso"))
	token := c.token(t, "https://"+c.suffix)
	created := c.must(t, "POST", "contoso", "/keys/Kek/create", token, `{"kty":"RSA","key_ops":["WRAPKEY","unwrapKey"]}`)
	kid := created["key"].(map[string]any)["kid"].(string)
	version := kid[strings.LastIndex(kid, "/")+1:]
	for _, path := range []string{"/keys/Kek", "/keys/kek/", "/KEYS/KEK/" + version, "/keys/kek/" + strings.ToUpper(version) + "/"} {
		if got := c.must(t, "GET", "CONTOSO", path, token, "")["key"].(map[string]any)["kid"]; got != kid {
			t.Errorf("GET %s: got %v, want %s", path, got, kid)
		}
	}
	for _, path := range []string{"/keys/kek/wrapkey", "/keys/kek//wrapkey", "/keys/kek/" + version + "/wrapKey"} {
		if got := c.must(t, "POST", "contoso", path, token, `{"alg":"RSA-OAEP-256","value":"AAAA"}`)["kid"]; got != kid {
			t.Errorf("POST %s: got %v, want %s", path, got, kid)
		}
	}
	for _, version := range []string{"2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01"} {
		c.must(t, "GET", "contoso", "/keys?api-version="+version, token, "")
	}
	resp := c.send(t, "GET", "contoso", "/keys/kek", token, "")
	if resp.Header.Get("X-Ms-Keyvault-Region") != "westus2" || resp.Header.Get("X-Ms-Keyvault-Service-Version") == "" {
		t.Errorf("headers: got %v", resp.Header)
	}
}

func TestUpdateReplacesWhatIsGiven(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.put(t, c.vault("contoso"))
	token := c.token(t, "https://"+c.suffix)
	c.must(t, "POST", "contoso", "/keys/k/create", token, `{"kty":"RSA","attributes":{"nbf":10,"exp":20},"tags":{"a":"1"}}`)
	for _, test := range []struct{ name, body, want string }{
		{"Nothing", `{}`, `ops=6 nbf=10 exp=20 tags=map[a:1]`},
		{"KeyOps", `{"key_ops":["unwrapKey"]}`, `ops=1 nbf=10 exp=20 tags=map[a:1]`},
		{"ReadOnlyIsIgnored", `{"attributes":{"created":1,"updated":1,"recoveryLevel":"Purgeable","recoverableDays":7}}`, `ops=1 nbf=10 exp=20 tags=map[a:1]`},
		{"Date", `{"attributes":{"exp":30}}`, `ops=1 nbf=10 exp=30 tags=map[a:1]`},
		{"NullClears", `{"attributes":{"nbf":null,"exp":null}}`, `ops=1 nbf=<nil> exp=<nil> tags=map[a:1]`},
		{"TagsAsAWhole", `{"tags":{"b":"2"}}`, `ops=1 nbf=<nil> exp=<nil> tags=map[b:2]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := c.must(t, "PATCH", "contoso", "/keys/k", token, test.body)
			a := got["attributes"].(map[string]any)
			if s := describe(got["key"].(map[string]any)["key_ops"], a["nbf"], a["exp"], got["tags"]); s != test.want {
				t.Errorf("got %s, want %s", s, test.want)
			}
			if a["recoveryLevel"] != "Recoverable+Purgeable" || a["recoverableDays"] != 90.0 {
				t.Errorf("recovery: got %v", a)
			}
		})
	}
}

func describe(ops, nbf, exp, tags any) string {
	return fmt.Sprintf("ops=%d nbf=%v exp=%v tags=%v", len(ops.([]any)), nbf, exp, tags)
}

func TestNetworkRules(t *testing.T) {
	c := newCloud(t, io.Discard)
	for name, test := range map[string]struct {
		rules              []string
		bypass, dark       bool
		network, inProcess int
	}{
		"nobody":       {nil, false, false, 403, 403},
		"trusted":      {nil, true, false, 403, 200},
		"address":      {[]string{"127.0.0.1"}, false, false, 200, 200},
		"range":        {[]string{"10.0.0.0/8", "127.0.0.0/8"}, false, false, 200, 200},
		"other":        {[]string{"192.0.2.1", "2001:db8::/32"}, true, false, 403, 200},
		"dark":         {[]string{"127.0.0.1"}, false, true, 403, 403},
		"dark-trusted": {[]string{"127.0.0.1"}, true, true, 403, 200},
	} {
		t.Run(name, func(t *testing.T) {
			v := c.vault(name)
			v.DefaultDeny, v.BypassTrusted, v.PublicDisabled, v.IPRules = !test.dark, test.bypass, test.dark, test.rules
			c.put(t, v)
			token := c.token(t, "https://"+c.suffix)
			if got := c.send(t, "GET", name, "/keys", token, "").StatusCode; got != test.network {
				t.Errorf("over the network: got %d, want %d", got, test.network)
			}
			inProcess := c
			inProcess.client = &http.Client{Transport: c.vaults.Transport()}
			if got := inProcess.send(t, "GET", name, "/keys", token, "").StatusCode; got != test.inProcess {
				t.Errorf("in process: got %d, want %d", got, test.inProcess)
			}
		})
	}
}

// TestAuthorization is who may do what: the identity of a relay and one that was deleted.
func TestAuthorization(t *testing.T) {
	c := newCloud(t, io.Discard)
	p, err := c.entra.CreateManagedIdentity(t.Context(), c.directory, "/identities/relay")
	if err != nil {
		t.Fatal(err)
	}
	v := c.vault("contoso")
	v.Policies = append(v.Policies, vault.Policy{ObjectID: p.ObjectID, Directory: c.directory, Keys: []string{"get", "wrapkey", "UNWRAPKEY"}})
	c.put(t, v)
	c.must(t, "POST", "contoso", "/keys/k/create", c.token(t, "https://vault.azure.net"), `{"kty":"RSA"}`)
	c.tokens = c.entra.Credential("/identities/relay")
	token := c.token(t, "https://"+c.suffix)
	for _, test := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/keys/k", "", 200},
		{"POST", "/keys/k/wrapkey", `{"alg":"RSA-OAEP-256","value":"AAAA"}`, 200},
		{"POST", "/keys/k/unwrapkey", `{"alg":"RSA-OAEP-256","value":"AAAA"}`, 400},
		{"POST", "/keys/k/encrypt", `{"alg":"RSA-OAEP-256","value":"AAAA"}`, 403},
		{"POST", "/keys/k/decrypt", `{"alg":"RSA-OAEP-256","value":"AAAA"}`, 403},
		{"GET", "/keys", "", 403},
		{"GET", "/keys/k/versions", "", 403},
		{"PATCH", "/keys/k", `{"attributes":{"enabled":false}}`, 403},
		{"DELETE", "/keys/k", "", 403},
		{"POST", "/keys/k/create", `{"kty":"RSA"}`, 403},
	} {
		if got := c.send(t, test.method, "contoso", test.path, token, test.body).StatusCode; got != test.want {
			t.Errorf("%s %s: got %d, want %d", test.method, test.path, got, test.want)
		}
	}
	if err := c.entra.DeleteManagedIdentity(t.Context(), "/identities/relay"); err != nil {
		t.Fatal(err)
	}
	if got := c.send(t, "GET", "contoso", "/keys/k", token, "").StatusCode; got != 401 {
		t.Errorf("token of the deleted identity: got %d, want 401", got)
	}
}

func TestPutRefusesWhatItCouldNotObey(t *testing.T) {
	c := newCloud(t, io.Discard)
	for name, change := range map[string]func(*vault.Vault){
		"ShortName":      func(v *vault.Vault) { v.Name = "ab" },
		"LongName":       func(v *vault.Vault) { v.Name = strings.Repeat("a", 25) },
		"TwoHyphens":     func(v *vault.Vault) { v.Name = "con--toso" },
		"DigitFirst":     func(v *vault.Vault) { v.Name = "1contoso" },
		"NoDirectory":    func(v *vault.Vault) { v.Directory = entra.DirectoryID("") },
		"SKU":            func(v *vault.Vault) { v.SKU = "gold" },
		"Retention":      func(v *vault.Vault) { v.SoftDeleteRetention = 6 },
		"IPRule":         func(v *vault.Vault) { v.IPRules = []string{"localhost"} },
		"IPRuleTooShort": func(v *vault.Vault) { v.IPRules = []string{"10.0.0/8"} },
	} {
		v := c.vault("contoso")
		change(&v)
		if err := c.vaults.Put(t.Context(), v); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if all, err := c.vaults.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("after refusals: got %v, %v", all, err)
	}
}
