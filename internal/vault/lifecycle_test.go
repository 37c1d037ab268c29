package vault_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/vault"
)

// A key made elsewhere works in the vault as it worked there.
func TestImport(t *testing.T) {
	c := newCloud(t, io.Discard)
	premium := c.vault("contoso")
	premium.SKU = "premium"
	c.put(t, premium)
	keys := c.keys(t, "contoso", c.client)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwk := &azkeys.JSONWebKey{
		Kty: to.Ptr(azkeys.KeyTypeRSA), N: private.N.Bytes(), E: big.NewInt(int64(private.E)).Bytes(), D: private.D.Bytes(),
		P: private.Primes[0].Bytes(), Q: private.Primes[1].Bytes(),
		DP: private.Precomputed.Dp.Bytes(), DQ: private.Precomputed.Dq.Bytes(), QI: private.Precomputed.Qinv.Bytes(),
		KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationUnwrapKey)},
	}
	for _, hsm := range []bool{false, true} {
		imported, err := keys.ImportKey(t.Context(), "rsa", azkeys.ImportKeyParameters{
			Key: jwk, HSM: &hsm, KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(true)}, Tags: map[string]*string{"from": to.Ptr("elsewhere")},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := azkeys.KeyTypeRSA
		if hsm {
			want = azkeys.KeyTypeRSAHSM
		}
		if *imported.Key.Kty != want || len(imported.Key.KeyOps) != 1 || imported.Key.D != nil || !bytes.Equal(imported.Key.N, private.N.Bytes()) {
			t.Errorf("imported: got %+v", imported.Key)
		}
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &private.PublicKey, []byte("a data key"), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := keys.UnwrapKey(t.Context(), "rsa", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: wrapped}, nil)
		if err != nil || string(got.Result) != "a data key" {
			t.Errorf("unwrap: got %q, %v", got.Result, err)
		}
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := curve.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d, err := curve.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.ImportKey(t.Context(), "ec", azkeys.ImportKeyParameters{Key: &azkeys.JSONWebKey{
		Kty: to.Ptr(azkeys.KeyTypeEC), Crv: to.Ptr(azkeys.CurveNameP384), X: point[1:49], Y: point[49:], D: d,
	}}, nil); err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{1}, 48)
	signed, err := keys.Sign(t.Context(), "ec", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmES384), Value: digest}, nil)
	if err != nil || !ecdsa.Verify(&curve.PublicKey, digest, new(big.Int).SetBytes(signed.Result[:48]), new(big.Int).SetBytes(signed.Result[48:])) {
		t.Errorf("sign with the imported key: %v", err)
	}
}

// A backup is opaque, brings all versions back, and is good in its subscription alone.
func TestBackupAndRestore(t *testing.T) {
	c := newCloud(t, io.Discard)
	for name, subscription := range map[string]string{"from": "one", "into": "ONE", "other": "two"} {
		v := c.vault(name)
		v.ResourceID = "/subscriptions/" + subscription + "/resourceGroups/g/providers/Microsoft.KeyVault/vaults/" + name
		c.put(t, v)
	}
	keys := c.keys(t, "from", c.client)
	rsaKey := azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}
	first, err := keys.CreateKey(t.Context(), "Kek", rsaKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.CreateKey(t.Context(), "Kek", rsaKey, nil); err != nil {
		t.Fatal(err)
	}
	oaep := to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256)
	wrapped, err := keys.WrapKey(t.Context(), "Kek", first.Key.KID.Version(), azkeys.KeyOperationParameters{Algorithm: oaep, Value: []byte("a data key")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := keys.BackupKey(t.Context(), "kek", nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(saved.Value, []byte("Kek")) || bytes.Contains(saved.Value, []byte("version")) {
		t.Error("the backup shows what is in it")
	}
	restore := func(vault string) error {
		_, err := c.keys(t, vault, c.client).RestoreKey(t.Context(), azkeys.RestoreKeyParameters{KeyBackup: saved.Value}, nil)
		return err
	}
	refused(t, "restore over the key", restore("from"), 409, "Conflict", "")
	refused(t, "restore in another subscription", restore("other"), 400, "BadParameter", "")
	if err := restore("into"); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.DeleteKey(t.Context(), "kek", nil); err != nil {
		t.Fatal(err)
	}
	refused(t, "restore under a deleted name", restore("from"), 409, "Conflict", "ObjectIsDeletedButRecoverable")
	got, err := c.keys(t, "into", c.client).UnwrapKey(t.Context(), "KEK", first.Key.KID.Version(), azkeys.KeyOperationParameters{Algorithm: oaep, Value: wrapped.Result}, nil)
	if err != nil || string(got.Result) != "a data key" || !strings.Contains(string(*got.KID), "//into.") {
		t.Errorf("unwrap with the restored key: got %q, %v", got.Result, err)
	}
	saved.Value[len(saved.Value)-1] ^= 1
	refused(t, "restore of a damaged backup", restore("into"), 400, "BadParameter", "")
}

func TestRotate(t *testing.T) {
	c := newCloud(t, io.Discard)
	stingy := c.vault("contoso")
	stingy.Policies[0].Keys = []string{"all"}
	c.put(t, stingy)
	keys := c.keys(t, "contoso", c.client)
	if _, err := keys.CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(3072)), Tags: map[string]*string{"a": to.Ptr("b")}}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := keys.RotateKey(t.Context(), "k", nil)
	refused(t, "rotate with all but rotate", err, 403, "Forbidden", "AccessDenied")
	stingy.Policies[0].Keys = []string{"all", "rotate", "getrotationpolicy", "setrotationpolicy"}
	c.put(t, stingy)
	policy, err := keys.GetKeyRotationPolicy(t.Context(), "k", nil)
	if err != nil || len(policy.LifetimeActions) != 1 || *policy.LifetimeActions[0].Trigger.TimeBeforeExpiry != "P30D" {
		t.Errorf("default policy: got %+v, %v", policy.LifetimeActions, err)
	}
	rotate := azkeys.KeyRotationPolicyActionRotate
	set, err := keys.UpdateKeyRotationPolicy(t.Context(), "k", azkeys.KeyRotationPolicy{
		Attributes:      &azkeys.KeyRotationPolicyAttributes{ExpiryTime: to.Ptr("P90D")},
		LifetimeActions: []*azkeys.LifetimeAction{{Action: &azkeys.LifetimeActionType{Type: &rotate}, Trigger: &azkeys.LifetimeActionTrigger{TimeBeforeExpiry: to.Ptr("P30D")}}},
	}, nil)
	if err != nil || *set.Attributes.ExpiryTime != "P90D" || set.Attributes.Created == nil {
		t.Fatalf("set policy: got %+v, %v", set, err)
	}
	rotated, err := keys.RotateKey(t.Context(), "K", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rotated.Key.N) != 384 || *rotated.Tags["a"] != "b" || rotated.Attributes.Expires == nil ||
		rotated.Attributes.Expires.Sub(*rotated.Attributes.Created) != 90*24*time.Hour {
		t.Errorf("the new version: got %d bytes of modulus, %v, %+v", len(rotated.Key.N), rotated.Tags, rotated.Attributes)
	}
}

// Time rotates a key by its policy, purges what is deleted, and leaves the rest alone.
func TestTimeRotatesAndPurges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newInProcess(t)
		v := c.vault("contoso")
		v.SoftDeleteRetention = 7
		c.put(t, v)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { c.vaults.Run(ctx); close(done) }()
		defer func() { stop(); <-done }()
		token := func() string { return c.token(t, "https://"+domain) }
		for _, name := range []string{"rotating", "still", "gone"} {
			c.must(t, "POST", "contoso", "/keys/"+name+"/create", token(), `{"kty":"EC"}`)
		}
		c.must(t, "PUT", "contoso", "/keys/rotating/rotationpolicy", token(), `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P10D"},"action":{"type":"Rotate"}}]}`)
		c.must(t, "DELETE", "contoso", "/keys/gone", token(), "")
		versions := func(name string) int {
			return len(c.must(t, "GET", "contoso", "/keys/"+name+"/versions", token(), "")["value"].([]any))
		}
		const day = 24 * time.Hour
		for _, step := range []struct {
			wait     time.Duration
			rotating int
		}{{10*day - time.Hour, 1}, {2 * time.Hour, 2}, {9 * day, 2}, {day, 3}} {
			time.Sleep(step.wait)
			if got := versions("rotating"); got != step.rotating {
				t.Errorf("after %v more: got %d versions, want %d", step.wait, got, step.rotating)
			}
		}
		if got := versions("still"); got != 1 {
			t.Errorf("a key without a policy: got %d versions", got)
		}
		if got := c.send(t, "GET", "contoso", "/deletedkeys/gone", token(), "").StatusCode; got != 404 {
			t.Errorf("the deleted key after its retention: got %d", got)
		}
	})
}

func TestRoles(t *testing.T) {
	var asked []string
	c := newInProcessWith(t, func(config *vault.Config) {
		config.Roles = func(_ context.Context, caller entra.Caller, action, scope string) (bool, error) {
			asked = append(asked, caller.ObjectID+" "+action+" "+scope)
			return strings.HasSuffix(action, "/read") || strings.HasSuffix(action, "/wrap/action") || strings.HasSuffix(action, "/create/action"), nil
		}
	})
	v := c.vault("contoso")
	v.RBAC, v.ResourceID = true, "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/contoso"
	c.put(t, v)
	token := c.token(t, "https://"+domain)
	c.must(t, "POST", "contoso", "/keys/k/create", token, `{"kty":"RSA"}`)
	c.must(t, "POST", "contoso", "/keys/k/wrapkey", token, `{"alg":"RSA-OAEP","value":"AAAA"}`)
	got := readRefusal(t, c.send(t, "POST", "contoso", "/keys/k/unwrapkey", token, `{"alg":"RSA-OAEP","value":"AAAA"}`))
	if got.status != 403 || got.inner != "ForbiddenByRbac" {
		t.Errorf("unwrap without the role: got %+v", got)
	}
	if want := c.admin.ObjectID + " Microsoft.KeyVault/vaults/keys/unwrap/action " + v.ResourceID + "/keys/k"; asked[len(asked)-1] != want {
		t.Errorf("asked for %s, want %s", asked[len(asked)-1], want)
	}
}

// More than the published limits is turned away with when to come back, and then served.
func TestThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newInProcessWith(t, func(config *vault.Config) { config.Throttle = true })
		c.put(t, c.vault("contoso"))
		c.put(t, c.vault("fabrikam"))
		premium := c.vault("northwind")
		premium.SKU = "premium"
		c.put(t, premium)
		token := c.token(t, "https://"+domain)
		create := func(vault string) *http.Response {
			return c.send(t, "POST", vault, "/keys/k/create", token, `{"kty":"EC"}`)
		}
		for range 20 {
			if got := create("contoso").StatusCode; got != 200 {
				t.Fatalf("within the limit: got %d", got)
			}
		}
		resp := create("contoso")
		if got := readRefusal(t, resp); got.status != 429 || got.code != "Throttled" || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("over the limit: got %+v, Retry-After %q", got, resp.Header.Get("Retry-After"))
		}
		if got := create("fabrikam").StatusCode; got != 200 {
			t.Errorf("another vault: got %d", got)
		}
		if got := c.send(t, "GET", "contoso", "/keys/k", token, "").StatusCode; got != 200 {
			t.Errorf("another kind of request: got %d", got)
		}
		time.Sleep(time.Second)
		if got := create("contoso").StatusCode; got != 200 {
			t.Errorf("after Retry-After: got %d", got)
		}
		for n := range 11 { // keys in hardware cost twice as much
			want := 200
			if n == 10 {
				want = 429
			}
			if got := c.send(t, "POST", "northwind", "/keys/k/create", token, `{"kty":"EC-HSM"}`).StatusCode; got != want {
				t.Errorf("key %d in hardware: got %d, want %d", n+1, got, want)
			}
		}
	})
}

// A purged vault's keys are gone: a new vault of its name has none, and no backup of rows
// brings them back under it.
func TestPurgeVault(t *testing.T) {
	c := newInProcess(t)
	c.put(t, c.vault("contoso"))
	token := c.token(t, "https://"+domain)
	c.must(t, "POST", "contoso", "/keys/k/create", token, `{"kty":"EC"}`)
	if err := c.vaults.Purge(t.Context(), vault.Vault{Name: "contoso"}); err == nil {
		t.Error("a vault that is not deleted was purged")
	}
	if err := c.vaults.Delete(t.Context(), vault.Vault{Name: "contoso"}); err != nil {
		t.Fatal(err)
	}
	if err := c.vaults.Purge(t.Context(), vault.Vault{Name: "contoso"}); err != nil {
		t.Fatal(err)
	}
	c.put(t, c.vault("contoso"))
	if got := c.send(t, "GET", "contoso", "/keys/k", token, "").StatusCode; got != 404 {
		t.Errorf("the key of the purged vault: got %d, want 404", got)
	}
}
