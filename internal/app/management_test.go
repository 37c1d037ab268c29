package app_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/http"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/cli"
)

// The real Key Vault client does its work over TLS, with a token of the embedded
// directory: create, get, wrap, unwrap, disable, enable.
func TestKeyVaultClientOverTLS(t *testing.T) {
	r := newRig(t)
	client, err := cli.NewClient(r.profile)
	if err != nil {
		t.Fatal(err)
	}
	vault := map[string]any{"location": "westus2", "properties": map[string]any{
		"tenantId": r.profile.DirectoryID, "sku": map[string]string{"family": "A", "name": "standard"},
		"accessPolicies": []any{map[string]any{
			"tenantId": r.profile.DirectoryID, "objectId": r.profile.ObjectID,
			"permissions": map[string]any{"keys": []string{"create", "get", "update", "wrapKey", "unwrapKey"}},
		}},
	}}
	path := "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.KeyVault/vaults/sdk-vault"
	if err := client.Do(t.Context(), http.MethodPut, path, "2023-07-01", vault, nil); err != nil {
		t.Fatal(err)
	}
	keys, err := client.Keys("sdk-vault")
	if err != nil {
		t.Fatal(err)
	}
	created, err := keys.CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(int32(2048))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	version := created.Key.KID.Version()
	if got, err := keys.GetKey(t.Context(), "k", "", nil); err != nil || got.Key.KID.Version() != version {
		t.Fatalf("get: %v", err)
	}

	secret := make([]byte, 32)
	rand.Read(secret)
	alg := to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256)
	wrapped, err := keys.WrapKey(t.Context(), "k", "", azkeys.KeyOperationParameters{Algorithm: alg, Value: secret}, nil)
	if err != nil {
		t.Fatal(err)
	}
	unwrap := func() ([]byte, error) {
		u, err := keys.UnwrapKey(t.Context(), "k", version, azkeys.KeyOperationParameters{Algorithm: alg, Value: wrapped.Result}, nil)
		return u.Result, err
	}
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("unwrap: %v, equal %t", err, bytes.Equal(got, secret))
	}
	enable := func(on bool) {
		_, err := keys.UpdateKey(t.Context(), "k", version, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(on)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	enable(false)
	var refused *azcore.ResponseError
	if _, err := unwrap(); !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
		t.Errorf("unwrap with a disabled key: %v, want 403", err)
	}
	enable(true)
	if got, err := unwrap(); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("unwrap after enabling: %v, equal %t", err, bytes.Equal(got, secret))
	}
}

// A server may move to other ports: the key identifiers that were recorded under
// the old one go on to work.
func TestPortsMayChange(t *testing.T) {
	r := newRig(t)
	document := writeDocument(t, r.endpoint)
	before, _ := r.ask(document)
	r.stop()
	r.start()
	after, _ := r.ask(document)
	if after.status != http.StatusOK || !bytes.Equal(after.body, before.body) {
		t.Errorf("on another port: %d %s", after.status, after.body)
	}
}
