package fluidrelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/provider/managedidentity"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// Custody is what this provider needs of package custody.
type Custody interface {
	Check(ctx context.Context, s custody.Settings) error
	Create(ctx context.Context, r envelope.ResourceID, s custody.Settings, also ...store.RowWrite) error
	Update(ctx context.Context, r envelope.ResourceID, s custody.Settings, also ...store.RowWrite) error
	Delete(ctx context.Context, r envelope.ResourceID, name string, also ...store.RowWrite) (custody.Receipt, error)
	Receipts(ctx context.Context, after string, limit int) ([]custody.Receipt, string, error)
	CheckUpdate(ctx context.Context, r envelope.ResourceID, s custody.Settings) error
	Admit(ctx context.Context, r envelope.ResourceID) error
	Status(r envelope.ResourceID) custody.Status
	History(ctx context.Context, r envelope.ResourceID) ([]custody.Wrap, error)
	KeyID(ctx context.Context, r envelope.ResourceID) (string, error)
	LookSooner(host, name string)
	RotateDocuments(ctx context.Context, r envelope.ResourceID) (int, error)
	StartProof() error
	LastProof() (custody.Proof, error)
	StartDrill(ctx context.Context, r envelope.ResourceID, hold time.Duration, on custody.DrillNodes) (custody.Drill, error)
	Drill(r envelope.ResourceID) (custody.Drill, error)
	KeyUses(ctx context.Context, after uint64, limit int) (custody.KeyUses, error)
}

// Identities finds user-assigned identities.
type Identities interface {
	// Identity matches the resource id without case; store.ErrNotFound.
	Identity(ctx context.Context, resourceID string) (managedidentity.Identity, error)
}

// Vaults finds vaults and managed HSMs by host name.
type Vaults interface {
	// AtHost finds a deleted one too; store.ErrNotFound.
	AtHost(ctx context.Context, host string) (vault.Vault, error)
}

// Foreign finds identities and key stores that are not managed here but in Azure itself. It
// leaves Location and Directory empty where it does not know them: what is not known is
// not checked, and said so.
type Foreign interface {
	// Has says whether an identity, by resource id, is one of them. As it is no resource here,
	// the permission to assign it is looked up at the server's subscription.
	Has(resourceID string) bool
	Identities
	// KeyStore finds a key store by host name.
	KeyStore(ctx context.Context, host string) (vault.Vault, error)
}

// Principals keeps the principals of system-assigned identities, by the id of the
// resource that has one.
type Principals interface {
	CreateManagedIdentity(ctx context.Context, d entra.DirectoryID, resourceID string) (entra.Principal, error)
	ManagedIdentity(ctx context.Context, resourceID string) (entra.Principal, error)
	DeleteManagedIdentity(ctx context.Context, resourceID string, also ...store.RowWrite) error
}

// Relay is the data plane, as far as deletions and the switches of access need it.
type Relay interface {
	// CutOff ends all sessions of a tenant that Lookup says is closed.
	CutOff(tenantID string)
	// DeleteTenant disconnects and removes all documents of a tenant whose keys were
	// destroyed. Idempotent.
	DeleteTenant(ctx context.Context, tenantID string) error
}

// Containers shows the documents of a tenant. It needs no customer key.
type Containers interface {
	// Containers returns those after a place in the list (zero: from the start), at
	// most limit of them, and the place of the last one; zero when there are no more.
	// Who comes or goes between two calls moves no other.
	Containers(ctx context.Context, tenantID string, after envelope.Name, limit int) ([]Container, envelope.Name, error)
	// Container returns store.ErrNotFound for an unknown one.
	Container(ctx context.Context, tenantID, id string) (Container, error)
	// DeleteContainer returns store.ErrNotFound for an unknown one. After another error
	// it may be called again, and does the rest.
	DeleteContainer(ctx context.Context, tenantID, id string) (custody.Receipt, error)
	// AcceptRollback has a document served though its log was put back to an older
	// state; store.ErrNotFound if there is no such document, or no reason.
	AcceptRollback(ctx context.Context, tenantID, id string) error
	// RotateContainerKey replaces a document's key; store.ErrNotFound if there is no such
	// document, *custody.UnusableError if the relay's key cannot be used.
	RotateContainerKey(ctx context.Context, tenantID, id string) error
}

// Container is a document as the management plane shows it.
type Container struct {
	ID       string
	Created  time.Time
	Accessed time.Time
}

// Config of a Provider.
type Config struct {
	Store         store.Store
	Service       envelope.ServiceKey // seals the rows, tenant keys among them
	Custody       Custody
	Hosts         keystore.Hosts // which key stores a key URL may name
	Vaults        Vaults
	Identities    Identities
	Principals    Principals
	Subscriptions tracked.Directories
	Relay         Relay
	// Containers is nil when the data plane cannot list documents: then the routes of
	// fluidRelayContainers are not there.
	Containers Containers
	// Allowed says whether the caller may do action at scope: assigning an identity
	// needs a permission on the identity.
	Allowed func(ctx context.Context, c arm.Caller, action, scope string) (bool, error)
	// Foreign has the identities and key stores that are in Azure itself; nil: none.
	Foreign Foreign
	// RelayURL is how Fluid clients reach the relay; every server has it as endpoints.
	RelayURL string
	// AutoKeyVersionQuota is how many servers may follow their keys' newest versions; 0:
	// DefaultAutoKeyVersionQuota.
	AutoKeyVersionQuota int
	// EventSecret ends the URL that the events of key vaults come to, until it is replaced: 64
	// hexadecimal letters. Empty: they are not taken before that.
	EventSecret string
	// Sign signs the reports of drills as a JWS of this type; nil: they are not signed.
	Sign func(ctx context.Context, kind string, payload []byte) (string, error)
	// Nodes is nil where one process has the data for itself: then there are no routes.
	Nodes Nodes
	// ServiceKeys is nil where the service key is not kept by this process: then there are no
	// routes.
	ServiceKeys ServiceKeys
	// TenantAge is how long a tenant's keys are taken from memory: other nodes may change
	// them. 0: for ever.
	TenantAge time.Duration
	Log       *slog.Logger
}

// Provider keeps relay servers. It is safe for concurrent use.
type Provider struct {
	c       Config
	servers tracked.Table[server]    // a partition for each subscription, by arm key
	tenants tracked.Table[tenantRow] // by tenant id
	deleted tracked.Table[tombstone] // by tenant id: what a deletion has still to do
	webhook row.Table[webhookSecrets]
	locks   tracked.Locks

	following sync.Mutex // held while one more server begins to follow its key's newest version

	mu         sync.RWMutex      // guards cache and generation; never held across I/O
	cache      map[string]tenant // by tenant id
	generation uint64            // grows with every write; see Lookup
}

// New returns the provider. Call Resume before it serves.
func New(c Config) *Provider {
	return &Provider{
		c:       c,
		servers: tracked.NewTable[server](c.Store, c.Service, "fluid-relay-servers"),
		tenants: tracked.NewTable[tenantRow](c.Store, c.Service, "fluid-tenants"),
		deleted: tracked.NewTable[tombstone](c.Store, c.Service, "fluid-tenants-deleted"),
		webhook: row.NewTable[webhookSecrets](c.Store, c.Service, "key-event-webhook"),
		cache:   map[string]tenant{},
	}
}

func (p *Provider) row(ctx context.Context, id arm.ResourceID) (tracked.Row[server], error) {
	row, err := p.servers.Get(ctx, strings.ToLower(id.Subscription), id.Key())
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

// in returns the servers of a subscription, or of one of its groups.
func (p *Provider) in(ctx context.Context, subscription, group string) ([]server, error) {
	return p.servers.InGroup(ctx, subscription, group, server.armID)
}

// Resources returns the servers of a subscription.
func (p *Provider) Resources(ctx context.Context, subscription string) ([]tracked.Summary, error) {
	some, err := p.in(ctx, subscription, "")
	if err != nil {
		return nil, err
	}
	summaries := make([]tracked.Summary, len(some))
	for n, s := range some {
		summaries[n] = s.summary()
	}
	return summaries, nil
}

func (s server) summary() tracked.Summary {
	return tracked.Summary{ID: s.ID, Name: s.Name, Type: Type, Location: s.Location, Tags: s.Tags, History: s.SystemData}
}

// Using returns the servers that a user-assigned identity is assigned to, in all
// subscriptions, as far as the caller may read them.
func (p *Provider) Using(ctx context.Context, c arm.Caller, identityID string) ([]tracked.Summary, error) {
	all, err := p.tenants.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var using []tracked.Summary
	for _, t := range all {
		row, err := p.servers.Get(ctx, t.Value.Subscription, t.Value.Key)
		if errors.Is(err, store.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		if !row.Value.Identity.has(identityID) {
			continue
		}
		ok, err := p.c.Allowed(ctx, c, Type+"/read", row.Value.ID)
		if err != nil {
			return nil, err
		}
		if ok {
			using = append(using, row.Value.summary())
		}
	}
	return using, nil
}

// SystemAssigned returns a server that has an identity of its own; store.ErrNotFound.
func (p *Provider) SystemAssigned(ctx context.Context, id arm.ResourceID) (tracked.Summary, error) {
	row, err := p.servers.Get(ctx, strings.ToLower(id.Subscription), id.Key())
	if err == nil && !row.Value.Identity.System {
		err = fmt.Errorf("server %s has no system-assigned identity: %w", row.Value.Name, store.ErrNotFound)
	}
	return row.Value.summary(), err
}

// DeleteGroup deletes the servers of a group, with all their data.
func (p *Provider) DeleteGroup(ctx context.Context, subscription, group string) error {
	some, err := p.in(ctx, subscription, group)
	if err != nil {
		return err
	}
	for _, s := range some {
		id, err := s.armID()
		if err != nil {
			return err
		}
		if _, _, err := p.remove(ctx, id, func(string) error { return nil }); err != nil {
			return fmt.Errorf("delete server %s: %w", s.Name, err)
		}
	}
	return nil
}
