package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/provider/activity"
	"github.com/tidelock/tidelock/internal/provider/authorization"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/provider/graph"
	"github.com/tidelock/tidelock/internal/provider/keyvault"
	"github.com/tidelock/tidelock/internal/provider/managedidentity"
	"github.com/tidelock/tidelock/internal/provider/resources"
	"github.com/tidelock/tidelock/internal/relay"
)

// wireManagement makes the resource providers, and the relay that they and it
// need each other for.
func (a *App) wireManagement(ctx context.Context, hosts keystore.Hosts, azure *azureCloud) (http.Handler, error) {
	groups := resources.New(resources.Config{Store: a.store, Service: a.service, Allowed: a.allowed, Log: a.c.Log})
	identities := managedidentity.New(managedidentity.Config{
		Store: a.store, Service: a.service, Directory: a.entra, Subscriptions: groups, Log: a.c.Log,
	})
	vaults := keyvault.New(keyvault.Config{Store: a.store, Service: a.service, Vaults: a.vault, Forget: a.events.Forget, Subscriptions: groups, Log: a.c.Log})
	found := &tenants{}
	local, err := a.local(ctx)
	if err != nil {
		return nil, err
	}
	peers, err := a.c.peers()
	if err != nil {
		return nil, err
	}
	a.relay = relay.New(relay.Config{Store: a.store, Custody: a.custody, Service: a.service, Tenants: found, Local: local, Log: a.c.Log, Limits: a.c.Limits, Metrics: a.metrics,
		Cluster: a.node, DirectNodes: a.c.Node.Direct, Peers: peers})
	var others fluidrelay.Nodes
	var tenantAge time.Duration
	if a.node != nil {
		others, tenantAge = nodes{a}, time.Second
	}
	var foreign fluidrelay.Foreign // nil, and no interface of a nil pointer
	if azure != nil {
		foreign = azure
	}
	relays := fluidrelay.New(fluidrelay.Config{
		Foreign: foreign, Nodes: others, TenantAge: tenantAge,
		Store: a.store, Service: a.service, Custody: a.custody, Hosts: hosts, Vaults: a.vault, Identities: identities,
		Principals: a.entra, Subscriptions: groups, Relay: a.relay, Containers: containers{a.relay}, Allowed: a.allowed, RelayURL: a.RelayURL(), Log: a.c.Log,
		AutoKeyVersionQuota: a.c.AutoKeyVersionQuota, EventSecret: a.eventSecret(), Sign: a.entra.Sign,
		ServiceKeys: serviceKeys{a.serviceKeys},
	})
	found.Provider, a.relays, a.vaults = relays, relays, vaults
	groups.Contain(relays, vaults, identities)
	identities.HeldBy(relays)

	if err := groups.CreateSubscription(ctx, a.installed.SubscriptionID, "Tidelock", a.installed.DirectoryID); err != nil {
		return nil, fmt.Errorf("make the subscription: %w", err)
	}
	// A deletion that a crash cut off is finished before anybody can ask.
	if err := relays.Resume(ctx); err != nil {
		return nil, fmt.Errorf("finish a relay's deletion: %w", err)
	}
	log := activity.New(activity.Config{Store: a.store, Service: a.service, Log: a.c.Log})
	router := arm.NewRouter(arm.Config{
		Authenticate: a.authenticate, Allowed: a.allowed, Subscription: groups.HasSubscription, ResourceGroup: groups.GroupState,
		Directory: func(ctx context.Context, id string) (string, error) {
			d, err := groups.Directory(ctx, id)
			return string(d), err
		},
		LoginURL: a.loginURL(groups), Deleted: a.entra.DeleteAssignmentsWithin, Record: log.Record, Log: a.c.Log,
	})
	log.Register(router)
	relays.Register(router)
	vaults.Register(router)
	a.events.Serve(a.vault, router)
	identities.Register(router)
	groups.Register(router)
	authorization.New(authorization.Config{Assignments: a.entra, Subscriptions: groups, Exists: groups.HasResource}).Register(router)
	directory := graph.New(graph.Config{Entra: a.entra, Home: a.installed.DirectoryID, Log: a.c.Log,
		Subscription: groups.NewSubscription,
	})
	return managementFaces{
		vault: a.vault.Handler(), authority: a.entra.Handler(), manager: router, events: relays.Events(), graph: directory,
		metadata: resources.MetadataHandler(resources.Cloud{
			Name: "Tidelock", ManagementURL: a.ManagementURL(), LoginURL: a.ManagementURL(), GraphURL: a.ManagementURL() + entra.GraphPath, ADFS: true,
			VaultSuffix: a.vaultSuffix(), HSMSuffix: a.hsmSuffix(),
		}),
		publicMetadata: resources.MetadataHandler(resources.Cloud{
			Name: "AzureCloud", ManagementURL: "https://" + publicManagement, LoginURL: "https://" + publicLogin, GraphURL: "https://" + publicGraph,
			VaultSuffix: publicVaults, HSMSuffix: publicHSMs,
		}),
	}, nil
}

// loginURL says where a client gets tokens for a subscription, under the kind of name that it
// asked: clients that know a subscription and no directory learn it from that. What is in no
// subscription is of the first directory.
func (a *App) loginURL(subscriptions *resources.Provider) func(r *http.Request, subscription string) string {
	return func(r *http.Request, subscription string) string {
		login, directory := a.ManagementURL(), a.installed.DirectoryID
		if hostName(r) == publicManagement {
			login = "https://" + publicLogin
		}
		if d, err := subscriptions.Directory(r.Context(), subscription); err == nil {
			directory = d
		}
		return login + "/" + string(directory)
	}
}

// eventSecret is the installation's own, and the same on all its nodes: a keyed hash,
// which nobody guesses who has not the service key.
func (a *App) eventSecret() string {
	name := a.service.Name("event-webhook", "secret")
	return hex.EncodeToString(name[:])
}

// tenants is the relay's view of the relay resources.
type tenants struct{ *fluidrelay.Provider }

func (t *tenants) Lookup(ctx context.Context, id string) (relay.Tenant, bool, error) {
	found, ok, err := t.Provider.Lookup(ctx, id)
	return relay.Tenant(found), ok, err
}

// containers is the management plane's view of the relay's documents.
type containers struct{ *relay.Server }

func (c containers) Containers(ctx context.Context, tenantID string, after envelope.Name, limit int) ([]fluidrelay.Container, envelope.Name, error) {
	page, last, err := c.Server.Containers(ctx, tenantID, after, limit)
	shown := make([]fluidrelay.Container, len(page))
	for i, one := range page {
		shown[i] = fluidrelay.Container(one)
	}
	return shown, last, err
}

func (c containers) Container(ctx context.Context, tenantID, id string) (fluidrelay.Container, error) {
	one, err := c.Server.Container(ctx, tenantID, id)
	return fluidrelay.Container(one), err
}

// authenticate checks a management token for the router.
func (a *App) authenticate(r *http.Request) (arm.Caller, error) {
	c, err := a.entra.Management(r)
	var refused *entra.TokenError
	if errors.As(err, &refused) {
		return arm.Caller{}, &arm.Error{Status: http.StatusUnauthorized, Code: refused.Code, Message: refused.Message}
	}
	if err != nil {
		return arm.Caller{}, err
	}
	kind := "Application"
	if c.Kind == entra.KindManagedIdentity {
		kind = "ManagedIdentity"
	}
	return arm.Caller{ObjectID: c.ObjectID, ClientID: c.ClientID, Directory: string(c.Directory), Kind: kind}, nil
}

// allowed asks the directory service who may do what.
func (a *App) allowed(ctx context.Context, c arm.Caller, action, scope string) (bool, error) {
	caller := entra.Caller{ObjectID: c.ObjectID, ClientID: c.ClientID, Directory: entra.DirectoryID(c.Directory)}
	return a.entra.Allowed(ctx, caller, action, scope)
}
