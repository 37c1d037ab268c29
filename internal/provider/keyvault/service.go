package keyvault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
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
	c       Config
	vaults  tracked.Table[resource] // a partition for each subscription, by arm key
	deleted tracked.Table[resource] // a partition for each subscription, by lower-case name
	locks   tracked.Locks           // by lower-case name: names are global

	hsms        tracked.Table[hsm] // as vaults
	deletedHSMs tracked.Table[hsm]
}

// New returns the provider.
func New(c Config) *Provider {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Provider{
		c:       c,
		vaults:  tracked.NewTable[resource](c.Store, c.Service, "vault-resources"),
		deleted: tracked.NewTable[resource](c.Store, c.Service, "vault-resources-deleted"),

		hsms:        tracked.NewTable[hsm](c.Store, c.Service, "hsm-resources"),
		deletedHSMs: tracked.NewTable[hsm](c.Store, c.Service, "hsm-resources-deleted"),
	}
}

// Type is the full type of vaults.
const Type = namespace + "/vaults"

const namespace = "Microsoft.KeyVault"

// resource is a vault as it is stored. Its JSON is on disk.
type resource struct {
	ID         string             `json:"id"` // with the letters of its creation
	Name       string             `json:"name"`
	Location   string             `json:"location"` // short form
	Tags       map[string]string  `json:"tags,omitempty"`
	SystemData tracked.SystemData `json:"systemData"`
	Properties properties         `json:"properties"`
	Deleted    time.Time          `json:"deleted"` // zero unless soft-deleted
}

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
	rt.Handle(arm.Provider{
		Namespace: namespace,
		Versions: []string{
			"2015-06-01", "2016-10-01", "2018-02-14-preview", "2018-02-14", "2019-09-01", "2020-04-01-preview", "2021-04-01-preview",
			"2021-06-01-preview", "2021-10-01", "2021-11-01-preview", "2022-02-01-preview", "2022-07-01", "2022-11-01", "2023-02-01",
			"2023-07-01", "2023-08-01-preview", "2024-04-01-preview", "2024-11-01", "2024-12-01-preview", "2025-05-01", "2026-02-01",
		},
		Routes: append(p.hsmRoutes(), []arm.Route{
			{Method: "GET", Pattern: arm.InSubscription + all, Action: read, Handle: p.list},
			{Method: "GET", Pattern: arm.InGroup + all, Action: read, Handle: p.list},
			{Method: "GET", Pattern: one, Action: read, Handle: p.recorded("VaultGet", false, p.get)},
			{Method: "PUT", Pattern: one, Action: write, Handle: p.recorded("VaultPut", false, p.put)},
			{Method: "PATCH", Pattern: one, Action: write, Handle: p.recorded("VaultPatch", false, p.patch)},
			{Method: "DELETE", Pattern: one, Action: Type + "/delete", Handle: p.recorded("VaultDelete", false, p.delete)},
			{Method: "GET", Pattern: one + "/auditEvents", Action: Type + "/auditEvents/read", Handle: p.auditEvents(false)},
			{Method: "PUT", Pattern: one + "/accessPolicies/{operation}", Action: Type + "/accessPolicies/write", Handle: p.recorded("VaultPatch", false, p.putPolicies)},
			{Method: "POST", Pattern: inNamespace + "/checkNameAvailability", Action: namespace + "/checkNameAvailability/read", Handle: p.checkName},
			{Method: "GET", Pattern: inNamespace + "/deletedVaults", Action: readDeleted, Handle: p.listDeleted},
			{Method: "GET", Pattern: inNamespace + "/locations/{location}/deletedVaults/{name}", Action: readDeleted, Handle: p.getDeleted},
			{Method: "POST", Pattern: inNamespace + "/locations/{location}/deletedVaults/{name}/purge", Action: namespace + "/locations/deletedVaults/purge/action", Handle: p.purge},
		}...),
	})
}

func (p *Provider) row(ctx context.Context, id arm.ResourceID) (tracked.Row[resource], error) {
	row, err := p.vaults.Get(ctx, strings.ToLower(id.Subscription), id.Key())
	if errors.Is(err, store.ErrNotFound) {
		return row, arm.ErrResourceNotFound(id)
	}
	return row, err
}

// isMissing says whether err is a 404 of row.
func isMissing(err error) bool {
	var refused *arm.Error
	return errors.As(err, &refused)
}

func (r resource) armID() (arm.ResourceID, error) {
	id, err := arm.ParseResourceID(r.ID)
	if err != nil {
		return id, fmt.Errorf("a stored vault: %w: %w", store.ErrCorrupt, err)
	}
	return id, nil
}

// vault is what the data plane obeys.
func (r resource) vault(d entra.DirectoryID) vault.Vault {
	v := vault.Vault{
		Name: r.Name, ResourceID: r.ID, Location: r.Location, Directory: d, SKU: r.Properties.SKU.Name,
		Deleted: r.Deleted, RBAC: isTrue(r.Properties.RBAC),
	}
	r.Properties.apply(&v)
	for _, policy := range r.Properties.Policies {
		if policy.ApplicationID != nil {
			continue // good for a user together with an application: no token here is of both
		}
		v.Policies = append(v.Policies, vault.Policy{ObjectID: policy.ObjectID, Directory: d, Keys: policy.Permissions.Keys})
	}
	return v
}

// in returns the vaults of a subscription, or of one of its groups.
func (p *Provider) in(ctx context.Context, subscription, group string) ([]resource, error) {
	return p.vaults.InGroup(ctx, subscription, group, resource.armID)
}

// Resources returns the vaults and managed HSMs of a subscription.
func (p *Provider) Resources(ctx context.Context, subscription string) ([]tracked.Summary, error) {
	some, err := p.in(ctx, subscription, "")
	if err != nil {
		return nil, err
	}
	summaries := make([]tracked.Summary, len(some))
	for n, r := range some {
		summaries[n] = tracked.Summary{ID: r.ID, Name: r.Name, Type: Type, Location: r.Location, Tags: r.Tags, History: r.SystemData}
	}
	hsms, err := p.hsmsIn(ctx, subscription, "")
	for _, r := range hsms {
		summaries = append(summaries, tracked.Summary{ID: r.ID, Name: r.Name, Type: HSMType, Location: r.Location, Tags: r.Tags, History: r.SystemData})
	}
	return summaries, err
}

// DeleteGroup soft-deletes the vaults and managed HSMs of a group.
func (p *Provider) DeleteGroup(ctx context.Context, subscription, group string) error {
	some, err := p.in(ctx, subscription, group)
	if err != nil {
		return err
	}
	for _, r := range some {
		id, err := r.armID()
		if err != nil {
			return err
		}
		if _, err := p.remove(ctx, id); err != nil {
			return err
		}
	}
	return p.deleteHSMs(ctx, subscription, group)
}
