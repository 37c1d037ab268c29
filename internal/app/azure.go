package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/keystore/azurecloud"
	"github.com/tidelock/tidelock/internal/provider/managedidentity"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// The key stores a server can use.
const (
	keyStoreEmbedded = "embedded"
	keyStoreAzure    = "azure"
)

func (c Config) checkKeyStore() error {
	switch {
	case c.KeyStore != keyStoreEmbedded && c.KeyStore != keyStoreAzure:
		return fmt.Errorf("--keystore %q is neither %s nor %s", c.KeyStore, keyStoreEmbedded, keyStoreAzure)
	case c.KeyStore == keyStoreAzure && c.KeyStoreConfig == "":
		return errors.New("--keystore azure needs --keystore-config, the file that says which credential stands for which identity")
	case c.KeyStore == keyStoreEmbedded && c.KeyStoreConfig != "":
		return errors.New("--keystore-config is for --keystore azure")
	}
	return nil
}

// azureCloud is Azure, as the relays' provider sees it.
type azureCloud struct {
	config *azurecloud.Config
	places *azurecloud.Places
}

// openAzure reads the configuration; nil without --keystore azure.
func (a *App) openAzure() (*azureCloud, error) {
	if a.c.KeyStore != keyStoreAzure {
		return nil, nil
	}
	config, err := azurecloud.Load(a.c.KeyStoreConfig)
	if err != nil {
		return nil, err
	}
	if a.in.azureHTTP != nil {
		config.Reach(a.in.azureHTTP)
	}
	places, err := azurecloud.NewPlaces(config)
	if err != nil {
		return nil, err
	}
	return &azureCloud{config, places}, nil
}

// clients makes the clients of Azure's key stores, by identity.
func (z *azureCloud) clients(a *App) func(identity string) keystore.Client {
	transport := a.in.toKeyStores(azurecloud.NewTransport())
	if a.in.azureHTTP != nil {
		transport = a.in.toKeyStores(a.in.azureHTTP)
	}
	return func(identity string) keystore.Client {
		return keystore.New(keystore.Config{Credential: z.config.Credential(identity), Transport: transport})
	}
}

// Has says whether there is a credential for the identity.
func (z *azureCloud) Has(resourceID string) bool { return z.config.Has(resourceID) }

// Identity is one of those that have a credential; what the resource manager does not say
// stays empty.
func (z *azureCloud) Identity(ctx context.Context, resourceID string) (managedidentity.Identity, error) {
	i := managedidentity.Identity{ID: resourceID, Name: resourceID[strings.LastIndexByte(resourceID, '/')+1:]}
	at, err := z.places.Identity(ctx, resourceID)
	switch {
	case errors.Is(err, azurecloud.ErrNoIdentity):
		return i, fmt.Errorf("identity %s: %w: %w", resourceID, store.ErrNotFound, err)
	case errors.Is(err, azurecloud.ErrNotAllowed):
		return i, nil
	case err != nil:
		return i, err
	}
	i.Location, i.Directory, i.ClientID, i.PrincipalID = at.Region, entra.DirectoryID(at.TenantID), at.ClientID, at.PrincipalID
	return i, nil
}

// KeyStore finds a key store by host name.
func (z *azureCloud) KeyStore(ctx context.Context, host string) (vault.Vault, error) {
	v := vault.Vault{Name: host}
	at, err := z.places.KeyStore(ctx, host)
	if errors.Is(err, azurecloud.ErrNotAllowed) {
		return v, nil
	}
	v.Location, v.Directory = at.Region, entra.DirectoryID(at.TenantID)
	return v, err
}
