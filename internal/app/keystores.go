package app

import (
	"strings"
	"sync"

	"github.com/tidelock/tidelock/internal/keystore"
)

// keyStores keeps one key store client for each identity: a client holds the
// identity's tokens.
type keyStores struct {
	make func(identity string) keystore.Client

	mu      sync.Mutex
	clients map[string]keystore.Client // by lower-case resource id
}

// keyStores returns the clients of the embedded vaults, reached in this process
// through the same HTTP interface that others reach them by, and, for identities that
// have a credential there, those of Azure's key stores. A client of either kind cannot
// reach what is the other's.
func (a *App) keyStores(azure *azureCloud) *keyStores {
	var inAzure func(string) keystore.Client
	if azure != nil {
		inAzure = azure.clients(a)
	}
	return &keyStores{
		clients: map[string]keystore.Client{},
		make: func(identity string) keystore.Client {
			if azure != nil && azure.Has(identity) {
				return inAzure(identity)
			}
			return keystore.New(keystore.Config{Credential: a.entra.Credential(identity), Transport: a.in.toKeyStores(a.vault.Transport())})
		},
	}
}

func (k *keyStores) client(identity string) keystore.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := strings.ToLower(identity)
	if k.clients[id] == nil {
		k.clients[id] = k.make(identity)
	}
	return k.clients[id]
}
