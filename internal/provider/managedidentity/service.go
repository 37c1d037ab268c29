package managedidentity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

// Directory is what this provider needs of the directory service.
type Directory interface {
	// CreateManagedIdentity makes a principal, or returns the one that is there.
	CreateManagedIdentity(ctx context.Context, d entra.DirectoryID, resourceID string) (entra.Principal, error)
	// DeleteManagedIdentity removes it in one write with also. Idempotent.
	DeleteManagedIdentity(ctx context.Context, resourceID string, also ...store.RowWrite) error

	// ManagedIdentity finds the principal of a resource; store.ErrNotFound.
	ManagedIdentity(ctx context.Context, resourceID string) (entra.Principal, error)

	// FederatedCredentials returns those of a principal; store.ErrNotFound.
	FederatedCredentials(ctx context.Context, objectID string) ([]entra.FederatedCredential, error)
	// PutFederatedCredential adds one, or replaces the one of its name; entra.ErrTooMany.
	PutFederatedCredential(ctx context.Context, objectID string, f entra.FederatedCredential) (kept entra.FederatedCredential, isNew bool, err error)
	// DeleteFederatedCredential removes one by name; store.ErrNotFound.
	DeleteFederatedCredential(ctx context.Context, objectID, name string) error
}

// Config of a Provider.
type Config struct {
	Store         store.Store
	Service       envelope.ServiceKey // seals the rows
	Directory     Directory
	Subscriptions tracked.Directories
	Log           *slog.Logger
}

// Provider keeps user-assigned identities. It is safe for concurrent use.
type Provider struct {
	c     Config
	table tracked.Table[Identity] // a partition for each subscription, by arm key
	locks tracked.Locks

	holders Holders
}

// New returns the provider.
func New(c Config) *Provider {
	return &Provider{c: c, table: tracked.NewTable[Identity](c.Store, c.Service, "user-assigned-identities")}
}

// Type is the full type of these resources.
const Type = "Microsoft.ManagedIdentity/userAssignedIdentities"

// Identity is a user-assigned identity.
type Identity struct {
	ID          string             `json:"id"` // with the letters of its creation, and lower-case resourcegroups
	Name        string             `json:"name"`
	Location    string             `json:"location"` // short form
	Tags        map[string]string  `json:"tags,omitempty"`
	Directory   entra.DirectoryID  `json:"directory"`
	ClientID    string             `json:"clientId"`                 // a token's appid
	PrincipalID string             `json:"principalId"`              // a token's oid
	Isolation   string             `json:"isolationScope,omitempty"` // None or Regional, kept and shown
	SystemData  tracked.SystemData `json:"systemData"`
}

// Register adds the routes to rt.
func (p *Provider) Register(rt *arm.Router) {
	const (
		all   = "/providers/" + Type
		one   = arm.InGroup + all + "/{name}"
		read  = Type + "/read"
		write = Type + "/write"
	)
	rt.Handle(arm.Provider{
		Namespace: "Microsoft.ManagedIdentity",
		Versions: []string{
			"2015-08-31-preview", "2018-11-30", "2021-09-30-preview", "2022-01-31-preview", "2023-01-31", "2023-07-31-preview", "2024-11-30", "2025-01-31-preview",
		},
		Routes: slices.Concat(p.federatedRoutes(one), p.assignedRoutes(one), []arm.Route{
			{Method: "GET", Pattern: arm.InSubscription + all, Action: read, Handle: p.list},
			{Method: "GET", Pattern: arm.InGroup + all, Action: read, Handle: p.list},
			{Method: "GET", Pattern: one, Action: read, Handle: p.get},
			{Method: "PUT", Pattern: one, Action: write, Handle: p.put},
			{Method: "PATCH", Pattern: one, Action: write, Handle: p.patch},
			{Method: "DELETE", Pattern: one, Action: Type + "/delete", Handle: p.delete},
		}),
	})
}

// Identity finds an identity by resource id, without regard to case. store.ErrNotFound
// also for what is no id of an identity.
func (p *Provider) Identity(ctx context.Context, resourceID string) (Identity, error) {
	id, err := arm.ParseResourceID(resourceID)
	if err != nil || !id.IsType(Type) {
		return Identity{}, fmt.Errorf("%q is no user-assigned identity: %w", resourceID, store.ErrNotFound)
	}
	row, err := p.row(ctx, id)
	return row.Value, err
}

func (p *Provider) row(ctx context.Context, id arm.ResourceID) (tracked.Row[Identity], error) {
	return p.table.Get(ctx, strings.ToLower(id.Subscription), id.Key())
}

// wire is the shape of an identity since 2018-11-30.
type wire struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Properties struct {
		TenantID    entra.DirectoryID `json:"tenantId"`
		PrincipalID string            `json:"principalId"`
		ClientID    string            `json:"clientId"`
		Isolation   string            `json:"isolationScope,omitempty"` // since 2024-11-30
	} `json:"properties"`
}

func (i Identity) wire(version string) wire {
	w := wire{ID: i.ID, Name: i.Name, Type: Type, Location: i.Location, Tags: i.Tags}
	if w.Tags == nil {
		w.Tags = map[string]string{}
	}
	w.Properties.TenantID, w.Properties.PrincipalID, w.Properties.ClientID = i.Directory, i.PrincipalID, i.ClientID
	if version >= isolationSince {
		w.Properties.Isolation = i.Isolation
	}
	return w
}

// isolationSince is the api-version that brought isolationScope.
const isolationSince = "2024-11-30"

// isolation takes a body's isolationScope, in its canonical spelling.
func (i *Identity) isolation(version string, b body) error {
	if version < isolationSince || b.Properties.Isolation == "" {
		return nil
	}
	for _, known := range []string{"None", "Regional"} {
		if strings.EqualFold(known, b.Properties.Isolation) {
			i.Isolation = known
			return nil
		}
	}
	return &arm.Error{Status: 400, Code: "BadRequest", Target: "properties.isolationScope", Message: fmt.Sprintf(
		"The isolationScope '%s' is neither None nor Regional.", b.Properties.Isolation)}
}

type body struct {
	Location string             `json:"location"`
	Tags     *map[string]string `json:"tags"`

	Properties struct {
		Isolation string `json:"isolationScope"`
	} `json:"properties"`
}

// identityName: 3 to 128 letters, digits, hyphens and underscores, a letter or digit
// first. Source: Azure naming rules, Microsoft.ManagedIdentity.
var identityName = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z_]{2,127}$`)

func (p *Provider) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.row(ctx, r.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, arm.ErrResourceNotFound(r.ID)
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: row.Value.wire(r.APIVersion)}, nil
}

func (p *Provider) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.row(ctx, r.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	isNew := err != nil
	var b body
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	if isNew && !identityName.MatchString(r.ID.Name()) {
		return nil, &arm.Error{Status: 400, Code: "InvalidResourceName", Message: fmt.Sprintf(
			"The identity's name '%s' is not allowed: it has 3 to 128 letters, digits, hyphens and underscores, and begins with a letter or digit.", r.ID.Name())}
	}
	i := row.Value
	if i.Location, err = tracked.Location(b.Location, i.Location, r.ID); err != nil {
		return nil, err
	}
	i.Tags = nil
	if b.Tags != nil {
		i.Tags = *b.Tags
	}
	if err := tracked.CheckTags(i.Tags); err != nil {
		return nil, err
	}
	if err := i.isolation(r.APIVersion, b); err != nil {
		return nil, err
	}
	if !isNew {
		return p.store(ctx, r, i, store.AtRevision(row.Revision), http.StatusOK)
	}
	if err := p.principal(ctx, r.ID, &i); err != nil {
		return nil, err
	}
	return p.store(ctx, r, i, store.Absent, http.StatusCreated)
}

// principal gives a new identity its principal.
func (p *Provider) principal(ctx context.Context, id arm.ResourceID, i *Identity) error {
	directory, err := p.c.Subscriptions.Directory(ctx, id.Subscription)
	if err != nil {
		return err
	}
	i.ID, i.Name, i.Directory = realID(id), id.Name(), directory
	// A creation that ended half way may have left a principal. It was shown to nobody,
	// but the rule is simple only if it has no exception: a new identity, new ids.
	if err := p.c.Directory.DeleteManagedIdentity(ctx, i.ID); err != nil {
		return err
	}
	principal, err := p.c.Directory.CreateManagedIdentity(ctx, directory, i.ID)
	if err != nil {
		return err
	}
	i.ClientID, i.PrincipalID = principal.ClientID, principal.ObjectID
	return nil
}

// realID spells an id as the real service does.
func realID(id arm.ResourceID) string {
	return fmt.Sprintf("/subscriptions/%s/resourcegroups/%s/providers/%s/%s", id.Subscription, id.ResourceGroup, Type, id.Name())
}

func (p *Provider) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.row(ctx, r.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, arm.ErrResourceNotFound(r.ID)
	}
	if err != nil {
		return nil, err
	}
	var b body
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	i := row.Value
	if b.Location != "" {
		if _, err := tracked.Location(b.Location, i.Location, r.ID); err != nil {
			return nil, err
		}
	}
	if b.Tags != nil {
		i.Tags = *b.Tags
	}
	if err := tracked.CheckTags(i.Tags); err != nil {
		return nil, err
	}
	if err := i.isolation(r.APIVersion, b); err != nil {
		return nil, err
	}
	return p.store(ctx, r, i, store.AtRevision(row.Revision), http.StatusOK)
}

func (p *Provider) store(ctx context.Context, r *arm.Request, i Identity, expect store.Expect, status int) (*arm.Response, error) {
	i.SystemData = i.SystemData.Stamp(r.Caller)
	write, err := p.table.Put(strings.ToLower(r.ID.Subscription), r.ID.Key(), i, expect)
	if err != nil {
		return nil, err
	}
	if err := p.c.Store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	return &arm.Response{Status: status, Body: i.wire(r.APIVersion)}, nil
}

// delete is allowed while resources still name the identity; they fail when they use it.
func (p *Provider) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	existed, err := p.remove(ctx, r.ID)
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	if !existed {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	return &arm.Response{}, nil
}

func (p *Provider) remove(ctx context.Context, id arm.ResourceID) (existed bool, err error) {
	defer p.locks.Lock(id.Key())()
	row, err := p.row(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, p.c.Directory.DeleteManagedIdentity(ctx, row.Value.ID,
		p.table.Delete(strings.ToLower(id.Subscription), id.Key(), store.AtRevision(row.Revision)))
}

func (p *Provider) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	some, err := p.in(ctx, r.ID.Subscription, r.ID.ResourceGroup)
	if err != nil {
		return nil, err
	}
	views := make([]wire, len(some))
	for n, i := range some {
		views[n] = i.wire(r.APIVersion)
	}
	return arm.Page(r, views, func(w wire) string { return strings.ToLower(w.ID) })
}

// in returns the identities of a subscription, or of one of its groups.
func (p *Provider) in(ctx context.Context, subscription, group string) ([]Identity, error) {
	return p.table.InGroup(ctx, subscription, group, Identity.armID)
}

// armID parses the id that is stored; store.ErrCorrupt (wrapped).
func (i Identity) armID() (arm.ResourceID, error) {
	id, err := arm.ParseResourceID(i.ID)
	if err != nil {
		return id, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return id, nil
}

// Resources returns the identities of a subscription.
func (p *Provider) Resources(ctx context.Context, subscription string) ([]tracked.Summary, error) {
	some, err := p.in(ctx, subscription, "")
	if err != nil {
		return nil, err
	}
	summaries := make([]tracked.Summary, len(some))
	for n, i := range some {
		summaries[n] = tracked.Summary{ID: i.ID, Name: i.Name, Type: Type, Location: i.Location, Tags: i.Tags, History: i.SystemData}
	}
	return summaries, nil
}

// DeleteGroup deletes the identities of a group.
func (p *Provider) DeleteGroup(ctx context.Context, subscription, group string) error {
	some, err := p.in(ctx, subscription, group)
	if err != nil {
		return err
	}
	for _, i := range some {
		id, err := i.armID()
		if err != nil {
			return err
		}
		if _, err := p.remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
