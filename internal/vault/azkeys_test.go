package vault_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/vault"
)

// TestLifeOfAKey walks a key through its life with the real client, over TLS and
// in process.
func TestLifeOfAKey(t *testing.T) {
	c := newCloud(t, io.Discard)
	for name, doer := range map[string]policy.Transporter{
		"network":   c.client,
		"inprocess": &http.Client{Transport: c.vaults.Transport()},
	} {
		t.Run(name, func(t *testing.T) {
			c.put(t, c.vault(name))
			lifeOfAKey(t, c.keys(t, name, doer), "https://"+name+"."+c.suffix)
		})
	}
}

func lifeOfAKey(t *testing.T, keys *azkeys.Client, uri string) {
	ctx := t.Context()
	created, err := keys.CreateKey(ctx, "Relay-Kek", azkeys.CreateKeyParameters{
		Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(2048)), Tags: map[string]*string{"owner": to.Ptr("contoso")},
	}, nil)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	version := created.Key.KID.Version()
	if want := uri + "/keys/Relay-Kek/" + version; string(*created.Key.KID) != want || len(version) != 32 {
		t.Errorf("kid: got %s, want %s", *created.Key.KID, want)
	}
	if got := *created.Attributes.RecoveryLevel; got != "Recoverable+Purgeable" {
		t.Errorf("recovery level: got %s", got)
	}
	got, err := keys.GetKey(ctx, "relay-kek", "", nil)
	if err != nil || *got.Key.KID != *created.Key.KID || *got.Tags["owner"] != "contoso" || len(got.Key.N) != 256 {
		t.Errorf("get without version: got %+v, %v", got.Key, err)
	}

	secret := []byte("0123456789abcdef0123456789abcdef")
	oaep := to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256)
	wrapped, err := keys.WrapKey(ctx, "relay-kek", "", azkeys.KeyOperationParameters{Algorithm: oaep, Value: secret}, nil)
	if err != nil {
		t.Fatalf("wrap: %v", err)
	}
	if *wrapped.KID != *created.Key.KID || bytes.Contains(wrapped.Result, secret) {
		t.Errorf("wrap: got kid %s", *wrapped.KID)
	}
	unwrap := func() ([]byte, error) {
		r, err := keys.UnwrapKey(ctx, "relay-kek", version, azkeys.KeyOperationParameters{Algorithm: oaep, Value: wrapped.Result}, nil)
		return r.Result, err
	}
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap: got %x, %v", got, err)
	}

	enable := func(on bool) {
		r, err := keys.UpdateKey(ctx, "relay-kek", version, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(on)}}, nil)
		if err != nil || *r.Attributes.Enabled != on {
			t.Errorf("set enabled to %t: %v", on, err)
		}
	}
	enable(false)
	_, err = unwrap()
	refused(t, "unwrap with a disabled key", err, 403, "Forbidden", "KeyDisabled")
	if got, err := keys.GetKey(ctx, "relay-kek", "", nil); err != nil || *got.Attributes.Enabled {
		t.Errorf("get of a disabled key: got %v", err)
	}
	enable(true)
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap after enabling: got %x, %v", got, err)
	}

	// An expired key unwraps what it wrapped and wraps nothing new.
	past := time.Now().Add(-time.Minute)
	if _, err := keys.UpdateKey(ctx, "relay-kek", version, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Expires: &past}}, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap with an expired key: got %x, %v", got, err)
	}
	_, err = keys.WrapKey(ctx, "relay-kek", "", azkeys.KeyOperationParameters{Algorithm: oaep, Value: secret}, nil)
	refused(t, "wrap with an expired key", err, 403, "Forbidden", "KeyExpired")

	newer, err := keys.CreateKey(ctx, "relay-kek", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keys.GetKey(ctx, "relay-kek", "", nil); err != nil || *got.Key.KID != *newer.Key.KID {
		t.Errorf("get of the newest: got %v, %v", got.Key, err)
	}
	var listed []string
	for pager := keys.NewListKeyPropertiesVersionsPager("relay-kek", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Value {
			listed = append(listed, v.KID.Version())
		}
	}
	if want := version + " " + newer.Key.KID.Version(); strings.Join(listed, " ") != want {
		t.Errorf("versions: got %v, want %s", listed, want)
	}
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap with the older version: got %x, %v", got, err)
	}
	deleteAndRecover(t, keys, unwrap)
}

func deleteAndRecover(t *testing.T, keys *azkeys.Client, unwrap func() ([]byte, error)) {
	ctx := t.Context()
	deleted, err := keys.DeleteKey(ctx, "relay-kek", nil)
	if err != nil || deleted.RecoveryID == nil || deleted.ScheduledPurgeDate == nil {
		t.Fatalf("delete: got %+v, %v", deleted, err)
	}
	_, err = unwrap()
	refused(t, "unwrap with a deleted key", err, 404, "KeyNotFound", "")
	_, err = keys.CreateKey(ctx, "relay-kek", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil)
	refused(t, "create under a deleted name", err, 409, "Conflict", "ObjectIsDeletedButRecoverable")
	if _, err := keys.GetDeletedKey(ctx, "relay-kek", nil); err != nil {
		t.Errorf("get deleted: %v", err)
	}
	if page, err := keys.NewListDeletedKeyPropertiesPager(nil).NextPage(ctx); err != nil || len(page.Value) != 1 {
		t.Errorf("list deleted: got %v, %v", page.Value, err)
	}
	if page, err := keys.NewListKeyPropertiesPager(nil).NextPage(ctx); err != nil || len(page.Value) != 0 {
		t.Errorf("list while deleted: got %v, %v", page.Value, err)
	}
	if _, err := keys.RecoverDeletedKey(ctx, "relay-kek", nil); err != nil {
		t.Fatalf("recover: %v", err)
	}
	if _, err := unwrap(); err != nil {
		t.Errorf("unwrap after recovering: %v", err)
	}
	if _, err := keys.DeleteKey(ctx, "relay-kek", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.PurgeDeletedKey(ctx, "relay-kek", nil); err != nil {
		t.Errorf("purge: %v", err)
	}
	_, err = keys.RecoverDeletedKey(ctx, "relay-kek", nil)
	refused(t, "recover after a purge", err, 404, "KeyNotFound", "")
}

func TestAlgorithmsOfTheRealClient(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.put(t, c.vault("crypto"))
	keys := c.keys(t, "crypto", &http.Client{Transport: c.vaults.Transport()})
	for name, p := range map[string]azkeys.CreateKeyParameters{
		"rsa":   {Kty: to.Ptr(azkeys.KeyTypeRSA)},
		"p256":  {Kty: to.Ptr(azkeys.KeyTypeEC)},
		"p256k": {Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveNameP256K)},
		"p521":  {Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveNameP521)},
	} {
		if _, err := keys.CreateKey(t.Context(), name, p, nil); err != nil {
			t.Fatal(err)
		}
	}
	message := []byte("a data key of thirty-two bytes..")
	for _, alg := range []azkeys.EncryptionAlgorithm{
		azkeys.EncryptionAlgorithmRSAOAEP, azkeys.EncryptionAlgorithmRSAOAEP256, azkeys.EncryptionAlgorithmRSA15,
	} {
		sealed, err := keys.Encrypt(t.Context(), "rsa", "", azkeys.KeyOperationParameters{Algorithm: &alg, Value: message}, nil)
		if err != nil {
			t.Errorf("encrypt %s: %v", alg, err)
			continue
		}
		opened, err := keys.Decrypt(t.Context(), "rsa", sealed.KID.Version(), azkeys.KeyOperationParameters{Algorithm: &alg, Value: sealed.Result}, nil)
		if err != nil || !bytes.Equal(opened.Result, message) {
			t.Errorf("decrypt %s: got %q, %v", alg, opened.Result, err)
		}
	}
	for _, test := range []struct {
		key  string
		alg  azkeys.SignatureAlgorithm
		size int
	}{
		{"rsa", azkeys.SignatureAlgorithmRS256, 32},
		{"rsa", azkeys.SignatureAlgorithmPS512, 64},
		{"p256", azkeys.SignatureAlgorithmES256, 32},
		{"p256k", azkeys.SignatureAlgorithmES256K, 32},
		{"p521", azkeys.SignatureAlgorithmES512, 64},
	} {
		digest := bytes.Repeat([]byte{7}, test.size)
		signed, err := keys.Sign(t.Context(), test.key, "", azkeys.SignParameters{Algorithm: &test.alg, Value: digest}, nil)
		if err != nil {
			t.Errorf("sign %s: %v", test.alg, err)
			continue
		}
		for _, good := range []bool{true, false} {
			if !good {
				digest[0] ^= 1
			}
			verified, err := keys.Verify(t.Context(), test.key, "", azkeys.VerifyParameters{Algorithm: &test.alg, Digest: digest, Signature: signed.Result}, nil)
			if err != nil || *verified.Value != good {
				t.Errorf("verify %s: got %v, %v, want %t", test.alg, verified.Value, err, good)
			}
		}
	}
}

func TestListsGoOverPages(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.put(t, c.vault("many"))
	keys := c.keys(t, "many", c.client)
	const n = 60
	want := map[string]bool{}
	for i := range n {
		name := strings.Repeat("k", i+1)
		want[name] = true
		if _, err := keys.CreateKey(t.Context(), name, azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC)}, nil); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			delete(want, name)
			if _, err := keys.DeleteKey(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	pages := 0
	for pager := keys.NewListKeyPropertiesPager(nil); pager.More(); pages++ {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Value {
			if !want[item.KID.Name()] {
				t.Errorf("%s is listed twice or is deleted", item.KID.Name())
			}
			delete(want, item.KID.Name())
		}
	}
	if len(want) != 0 || pages != 2 {
		t.Errorf("got %d pages, not listed: %v; want 2 pages with all", pages, want)
	}
}

func TestTransportDoesNotResolveAMissingVault(t *testing.T) {
	c := newCloud(t, io.Discard)
	c.put(t, c.vault("gone"))
	if err := c.vaults.Delete(t.Context(), vault.Vault{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gone", "never"} {
		_, err := c.keys(t, name, &http.Client{Transport: c.vaults.Transport()}).GetKey(t.Context(), "k", "", nil)
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsNotFound || dns.Name != name+"."+domain {
			t.Errorf("vault %s: got %v, want a DNS failure", name, err)
		}
		_, err = c.keys(t, name, c.client).GetKey(t.Context(), "k", "", nil)
		if err == nil || !strings.Contains(err.Error(), "404") && !strings.Contains(err.Error(), "challenge") {
			t.Errorf("vault %s over the network: got %v", name, err)
		}
	}
	c.put(t, c.vault("gone"))
	_, err := c.keys(t, "gone", c.client).GetKey(t.Context(), "k", "", nil)
	refused(t, "a key of the recovered vault", err, 404, "KeyNotFound", "")
}
