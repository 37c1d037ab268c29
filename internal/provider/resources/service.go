package resources

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

// Config of a Provider.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey // seals the rows
	// Allowed says whether the caller may do action at scope; lists show only what
	// the caller may read.
	Allowed func(ctx context.Context, c arm.Caller, action, scope string) (bool, error)
	Log     *slog.Logger
}

// Contents is what another provider keeps in resource groups.
type Contents interface {
	// Resources returns the provider's tracked resources of a subscription.
	Resources(ctx context.Context, subscription string) ([]tracked.Summary, error)
	// DeleteGroup deletes all it has in a group. Idempotent.
	DeleteGroup(ctx context.Context, subscription, group string) error
}

// Provider keeps subscriptions and resource groups. It is safe for concurrent use.
type Provider struct {
	c             Config
	subscriptions tracked.Table[subscription] // one partition
	groups        tracked.Table[group]        // a partition for each subscription
	locks         tracked.Locks
	contents      []Contents
	router        *arm.Router
}

// New returns the provider.
func New(c Config) *Provider {
	return &Provider{
		c:             c,
		subscriptions: tracked.NewTable[subscription](c.Store, c.Service, "subscriptions"),
		groups:        tracked.NewTable[group](c.Store, c.Service, "resource-groups"),
	}
}

// Contain tells the provider what groups can hold. A group's contents are deleted
// in this order: what uses another thing first. Call it before serving.
func (p *Provider) Contain(contents ...Contents) { p.contents = append(p.contents, contents...) }

const namespace = "Microsoft.Resources"

// Register adds the routes to rt.
func (p *Provider) Register(rt *arm.Router) {
	p.router = rt
	const (
		readGroups = namespace + "/subscriptions/resourceGroups/read"
		readAll    = namespace + "/subscriptions/resources/read"
		readSub    = namespace + "/subscriptions/read"
		readRPs    = namespace + "/subscriptions/providers/read"
	)
	rt.Handle(arm.Provider{Namespace: namespace, Routes: append([]arm.Route{
		{Method: "GET", Pattern: "/tenants", Handle: p.listTenants},
		{Method: "GET", Pattern: "/subscriptions", Handle: p.listSubscriptions},
		{Method: "GET", Pattern: arm.InSubscription, Action: readSub, Handle: p.getSubscription},
		{Method: "GET", Pattern: arm.InSubscription + "/locations", Action: namespace + "/subscriptions/locations/read", Handle: p.listLocations},
		{Method: "GET", Pattern: arm.InSubscription + "/resources", Action: readAll, Handle: p.listResources},
		{Method: "GET", Pattern: arm.InSubscription + "/providers", Action: readRPs, Handle: p.listProviders},
		{Method: "GET", Pattern: arm.InSubscription + "/providers/{namespace}", Action: readRPs, Handle: p.getProvider},
		{Method: "POST", Pattern: arm.InSubscription + "/providers/{namespace}/register", Action: namespace + "/subscriptions/providers/register/action", Handle: p.getProvider},
		{Method: "GET", Pattern: arm.InSubscription + "/resourceGroups", Action: readGroups, Handle: p.listGroups},
		{Method: "GET", Pattern: arm.InGroup, Action: readGroups, Handle: p.getGroup},
		{Method: "HEAD", Pattern: arm.InGroup, Action: readGroups, Handle: p.headGroup},
		{Method: "PUT", Pattern: arm.InGroup, Action: namespace + "/subscriptions/resourceGroups/write", Handle: p.putGroup},
		{Method: "PATCH", Pattern: arm.InGroup, Action: namespace + "/subscriptions/resourceGroups/write", Handle: p.patchGroup},
		{Method: "DELETE", Pattern: arm.InGroup, Action: namespace + "/subscriptions/resourceGroups/delete", Handle: p.deleteGroup},
		{Method: "GET", Pattern: arm.InGroup + "/resources", Action: readAll, Handle: p.listResources},
	}, p.tagRoutes()...)})
}

type subscription struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Directory entra.DirectoryID `json:"directory"`
}

// CreateSubscription makes a subscription of a directory; id is a GUID. Idempotent.
func (p *Provider) CreateSubscription(ctx context.Context, id, name string, d entra.DirectoryID) error {
	write, err := p.NewSubscription(id, name, d)
	if err != nil {
		return err
	}
	err = p.c.Store.WriteRows(ctx, []store.RowWrite{write})
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// NewSubscription is the write that makes a subscription that is not there yet.
func (p *Provider) NewSubscription(id, name string, d entra.DirectoryID) (store.RowWrite, error) {
	return p.subscriptions.Put("", strings.ToLower(id), subscription{strings.ToLower(id), name, d}, store.Absent)
}

// HasSubscription says whether there is a subscription.
func (p *Provider) HasSubscription(ctx context.Context, id string) (bool, error) {
	_, err := p.subscriptions.Get(ctx, "", strings.ToLower(id))
	return found(err)
}

// Directory says which directory a subscription belongs to; store.ErrNotFound.
func (p *Provider) Directory(ctx context.Context, id string) (entra.DirectoryID, error) {
	row, err := p.subscriptions.Get(ctx, "", strings.ToLower(id))
	return row.Value.Directory, err
}

// GroupState says what is known of a resource group.
func (p *Provider) GroupState(ctx context.Context, subscription, name string) (arm.GroupState, error) {
	row, err := p.groups.Get(ctx, strings.ToLower(subscription), strings.ToLower(name))
	switch there, err := found(err); {
	case err != nil || !there:
		return arm.NoGroup, err
	case row.Value.Deleting:
		return arm.GroupBeingDeleted, nil
	}
	return arm.GroupExists, nil
}

// HasResource says whether there is a tracked resource, or the one that id is a part of.
func (p *Provider) HasResource(ctx context.Context, id arm.ResourceID) (bool, error) {
	id.Types, id.Names = id.Types[:1], id.Names[:1]
	for _, c := range p.contents {
		some, err := c.Resources(ctx, id.Subscription)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(some, func(s tracked.Summary) bool { return strings.EqualFold(s.ID, id.String()) }) {
			return true, nil
		}
	}
	return false, nil
}

func found(err error) (bool, error) {
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
