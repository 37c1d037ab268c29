package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// What quickstart makes, by name.
const (
	seedGroup    = "quickstart"
	seedLocation = "westus2"
	seedVault    = "quickstart-vault"
	seedKey      = "relay-key"
	seedIdentity = "relay-identity"
	seedRelay    = "quickstart"
)

// Seeded is what a user needs of a seeded server.
type Seeded struct {
	Endpoint string // of the relay
	TenantID string
	KeyID    string // the customer-managed key
	Vault    string
	Key      string
}

// Seed makes sure that there is a relay with a customer-managed key, by the
// requests that an administrator would make, and makes only what is not there.
func (c *Client) Seed(ctx context.Context) (Seeded, error) {
	relayPath := c.relayPath(relayFlags{name: seedRelay, group: seedGroup})
	var relay relayServer
	err := c.Do(ctx, http.MethodGet, relayPath, versionFluidRelay, nil, &relay)
	var refused *APIError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		err = c.seedRelay(ctx, relayPath, &relay)
	}
	if err != nil {
		return Seeded{}, fmt.Errorf("set up the quickstart relay: %w", err)
	}
	return Seeded{
		Endpoint: relay.endpoint(), TenantID: relay.Properties.TenantID, KeyID: relay.keyURL(),
		Vault: seedVault, Key: seedKey,
	}, nil
}

func (c *Client) seedRelay(ctx context.Context, relayPath string, relay *relayServer) error {
	group := c.groupPath(seedGroup)
	located := map[string]any{"location": seedLocation}
	if err := c.Do(ctx, http.MethodPut, group, versionGroups, located, nil); err != nil {
		return fmt.Errorf("resource group %s: %w", seedGroup, err)
	}
	var identity struct {
		ID         string `json:"id"`
		Properties struct {
			PrincipalID string `json:"principalId"`
		} `json:"properties"`
	}
	path := group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + seedIdentity
	if err := c.Do(ctx, http.MethodPut, path, versionIdentities, located, &identity); err != nil {
		return fmt.Errorf("identity %s: %w", seedIdentity, err)
	}
	path = group + "/providers/Microsoft.KeyVault/vaults/" + seedVault
	if err := c.Do(ctx, http.MethodPut, path, versionVaults, c.vaultBody(identity.Properties.PrincipalID), nil); err != nil {
		return fmt.Errorf("vault %s: %w", seedVault, err)
	}
	keyID, err := c.seedKey(ctx)
	if err != nil {
		return err
	}
	return c.Do(ctx, http.MethodPut, relayPath, versionFluidRelay, relayBody(identity.ID, keyID), relay)
}

// vaultBody grants the administrator the work of a key's owner, and the relay's
// identity what the customer-managed key needs, and no more.
func (c *Client) vaultBody(principal string) any {
	policy := func(objectID string, keys ...string) map[string]any {
		return map[string]any{
			"tenantId": c.profile.DirectoryID, "objectId": objectID,
			"permissions": map[string]any{"keys": keys},
		}
	}
	return map[string]any{
		"location": seedLocation,
		"properties": map[string]any{
			"tenantId": c.profile.DirectoryID,
			"sku":      map[string]string{"family": "A", "name": "standard"},
			"accessPolicies": []any{
				policy(c.profile.ObjectID, "get", "list", "create", "update", "delete", "recover"),
				policy(principal, "get", "wrapKey", "unwrapKey"),
			},
			"enableSoftDelete":          true,
			"softDeleteRetentionInDays": 90,
			"enablePurgeProtection":     true,
		},
	}
}

// relayBody is the request of the page "Customer-managed keys for Azure Fluid Relay encryption".
func relayBody(identity, keyID string) any {
	return map[string]any{
		"location": seedLocation,
		"identity": map[string]any{
			"type":                   "UserAssigned",
			"userAssignedIdentities": map[string]any{identity: map[string]any{}},
		},
		"properties": map[string]any{
			"encryption": map[string]any{
				"customerManagedKeyEncryption": map[string]any{
					"keyEncryptionKeyIdentity": map[string]any{
						"identityType":                   "UserAssigned",
						"userAssignedIdentityResourceId": identity,
					},
					"keyEncryptionKeyUrl": keyID,
				},
			},
		},
	}
}

// seedKey returns the identifier of the key, without a version, making the key if
// an earlier run did not come so far.
func (c *Client) seedKey(ctx context.Context) (string, error) {
	keys, err := c.Keys(seedVault)
	if err != nil {
		return "", err
	}
	found, err := keys.GetKey(ctx, seedKey, "", nil)
	bundle := found.KeyBundle
	var refused *azcore.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		bundle, err = createRSA(ctx, keys, seedKey, azkeys.KeyTypeRSA)
	}
	if err != nil {
		return "", c.vaultError("key "+seedKey, err)
	}
	// Without a version: the relay follows the key when its owner rotates it.
	return strings.TrimSuffix(string(*bundle.Key.KID), "/"+bundle.Key.KID.Version()), nil
}
