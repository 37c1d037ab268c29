package keyvault

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// Vaults is what this provider needs of package vault.
type Vaults interface {
	URI(name, asked string) string
	// Get finds a deleted vault too; store.ErrNotFound.
	Get(ctx context.Context, name string) (vault.Vault, error)
	Put(ctx context.Context, v vault.Vault, also ...store.RowWrite) error
	Delete(ctx context.Context, named vault.Vault, also ...store.RowWrite) error
	// Purge destroys a deleted vault; store.ErrNotFound.
	Purge(ctx context.Context, named vault.Vault, also ...store.RowWrite) error
	// List has deleted ones too.
	List(ctx context.Context) ([]vault.Vault, error)
	// HasRoles says whether vaults can be authorised by roles here.
	HasRoles() bool
	// AuditEvents and RecordManagement read and write a vault's audit log.
	AuditEvents(ctx context.Context, named vault.Vault, after uint64, limit int) (vault.AuditPage, error)
	RecordManagement(v vault.Vault, e vault.AuditEvent, status int)
	// HSMURI, GetHSM and HasToken are about managed HSMs, which need a token.
	HSMURI(name, asked string) string
	GetHSM(ctx context.Context, name string) (vault.Vault, error)
	HasToken() bool
}

// Config of a Provider.
type Config struct {
	Store         store.Store
	Service       envelope.ServiceKey // seals the rows
	Vaults        Vaults
	Subscriptions tracked.Directories
	// Forget is told of a vault that was deleted, so that nobody hears of it any more; nil:
	// nobody does.
	Forget func(ctx context.Context, vault arm.ResourceID) error
	Log    *slog.Logger
}

// Provider keeps vaults as resources. It is safe for concurrent use.
type Provider struct {
	c     Config
	locks tracked.Locks // see kind.lock

	vaults kind[resource, *resource]
	hsms   kind[hsm, *hsm]
}

// New returns the provider.
func New(c Config) *Provider {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Provider{c: c}
	p.vaults = kind[resource, *resource]{
		p: p, words: vaultWords,
		live:    tracked.NewTable[resource](c.Store, c.Service, "vault-resources"),
		deleted: tracked.NewTable[resource](c.Store, c.Service, "vault-resources-deleted"),
	}
	p.hsms = kind[hsm, *hsm]{
		p: p, words: hsmWords,
		live:    tracked.NewTable[hsm](c.Store, c.Service, "hsm-resources"),
		deleted: tracked.NewTable[hsm](c.Store, c.Service, "hsm-resources-deleted"),
	}
	return p
}

// Type is the full type of vaults.
const Type = namespace + "/vaults"

const namespace = "Microsoft.KeyVault"

// Register adds the routes to rt.
func (p *Provider) Register(rt *arm.Router) {
	const (
		all         = "/providers/" + Type
		one         = arm.InGroup + all + "/{name}"
		inNamespace = arm.InSubscription + "/providers/" + namespace
		read        = Type + "/read"
		write       = Type + "/write"
		readDeleted = namespace + "/deletedVaults/read"
	)
	k := p.vaults
	rt.Handle(arm.Provider{
		Namespace: namespace,
		Versions: []string{
			"2015-06-01", "2016-10-01", "2018-02-14-preview", "2018-02-14", "2019-09-01", "2020-04-01-preview", "2021-04-01-preview",
			"2021-06-01-preview", "2021-10-01", "2021-11-01-preview", "2022-02-01-preview", "2022-07-01", "2022-11-01", "2023-02-01",
			"2023-07-01", "2023-08-01-preview", "2024-04-01-preview", "2024-11-01", "2024-12-01-preview", "2025-05-01", "2026-02-01",
		},
		Routes: append(p.hsmRoutes(), []arm.Route{
			{Method: "GET", Pattern: arm.InSubscription + all, Action: read, Handle: k.list},
			{Method: "GET", Pattern: arm.InGroup + all, Action: read, Handle: k.list},
			{Method: "GET", Pattern: one, Action: read, Handle: p.recorded("VaultGet", false, k.get)},
			{Method: "PUT", Pattern: one, Action: write, Handle: p.recorded("VaultPut", false, k.put)},
			{Method: "PATCH", Pattern: one, Action: write, Handle: p.recorded("VaultPatch", false, k.patch)},
			{Method: "DELETE", Pattern: one, Action: Type + "/delete", Handle: p.recorded("VaultDelete", false, k.delete)},
			{Method: "GET", Pattern: one + "/auditEvents", Action: Type + "/auditEvents/read", Handle: p.auditEvents(false)},
			{Method: "PUT", Pattern: one + "/accessPolicies/{operation}", Action: Type + "/accessPolicies/write", Handle: p.recorded("VaultPatch", false, p.putPolicies)},
			{Method: "POST", Pattern: inNamespace + "/checkNameAvailability", Action: namespace + "/checkNameAvailability/read", Handle: k.checkName},
			{Method: "GET", Pattern: inNamespace + "/deletedVaults", Action: readDeleted, Handle: k.listDeleted},
			{Method: "GET", Pattern: inNamespace + "/locations/{location}/deletedVaults/{name}", Action: readDeleted, Handle: k.getDeleted},
			{Method: "POST", Pattern: inNamespace + "/locations/{location}/deletedVaults/{name}/purge", Action: namespace + "/locations/deletedVaults/purge/action", Handle: k.purge},
		}...),
	})
}

// Resources returns the vaults and managed HSMs of a subscription.
func (p *Provider) Resources(ctx context.Context, subscription string) ([]tracked.Summary, error) {
	vaults, err := p.vaults.summaries(ctx, subscription)
	if err != nil {
		return nil, err
	}
	hsms, err := p.hsms.summaries(ctx, subscription)
	return append(vaults, hsms...), err
}

// DeleteGroup soft-deletes the vaults and managed HSMs of a group.
func (p *Provider) DeleteGroup(ctx context.Context, subscription, group string) error {
	if err := p.vaults.deleteGroup(ctx, subscription, group); err != nil {
		return err
	}
	return p.hsms.deleteGroup(ctx, subscription, group)
}

// sweepEvery is how often deleted vaults are looked at: their retention is in days.
const sweepEvery = time.Hour

// Run purges deleted vaults whose retention is over, until ctx is.
func (p *Provider) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := p.sweep(ctx); err != nil && ctx.Err() == nil {
			p.c.Log.ErrorContext(ctx, "deleted vaults were not purged, trying again", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Provider) sweep(ctx context.Context) error {
	all, err := p.c.Vaults.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range all {
		if !v.Deleted.IsZero() && (v.PurgeBegun || !time.Now().Before(v.PurgeAt())) {
			if v.HSM {
				errs = append(errs, p.hsms.sweep(ctx, v))
			} else {
				errs = append(errs, p.vaults.sweep(ctx, v))
			}
		}
	}
	return errors.Join(errs...)
}
