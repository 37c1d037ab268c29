package fluidrelay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

const (
	namespace     = "Microsoft.FluidRelay"
	containerType = Type + "/fluidRelayContainers"
)

var releasedVersions = []string{"2022-05-26", "2022-06-01"} // Azure's

// Register adds the routes to rt.
func (p *Provider) Register(rt *arm.Router) {
	const (
		all  = "/providers/" + Type
		one  = arm.InGroup + all + "/{name}"
		read = Type + "/read"
	)
	routes := []arm.Route{
		{Method: "GET", Pattern: "/providers/" + namespace + "/operations", Handle: p.operations},
		{Method: "GET", Pattern: arm.InSubscription + all, Action: read, Handle: p.list},
		{Method: "GET", Pattern: arm.InGroup + all, Action: read, Handle: p.list},
		{Method: "GET", Pattern: one, Action: read, Handle: p.get},
		{Method: "PUT", Pattern: one, Action: Type + "/write", Handle: p.put},
		{Method: "PATCH", Pattern: one, Action: Type + "/write", Handle: p.patch},
		{Method: "DELETE", Pattern: one, Action: Type + "/delete", Versions: deletingVersions, Handle: p.delete},
		{Method: "POST", Pattern: one + "/listKeys", Action: Type + "/listKeys/action", Handle: p.listKeys},
		{Method: "POST", Pattern: one + "/regenerateKey", Action: Type + "/regenerateKey/action", Handle: p.regenerateKey},
	}
	if p.c.Containers != nil {
		routes = append(routes,
			arm.Route{Method: "GET", Pattern: one + "/fluidRelayContainers", Action: containerType + "/read", Handle: p.listContainers},
			arm.Route{Method: "GET", Pattern: one + "/fluidRelayContainers/{container}", Action: containerType + "/read", Handle: p.getContainer},
			arm.Route{Method: "DELETE", Pattern: one + "/fluidRelayContainers/{container}", Action: containerType + "/delete", Versions: deletingVersions, Handle: p.deleteContainer})
	}
	routes = append(routes, p.privateRoutes(one)...)
	routes = append(routes, p.previewRoutes(one)...)
	routes = append(routes, p.nodeRoutes()...)
	routes = append(routes, p.serviceKeyRoutes()...)
	rt.Handle(arm.Provider{Namespace: namespace, Versions: append(slices.Clone(releasedVersions), previewVersion), Routes: routes})
	rt.Handle(p.availabilityProvider())
}

func (p *Provider) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return p.show(ctx, row.Value, r.APIVersion)
}

func (p *Provider) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	some, err := p.in(ctx, r.ID.Subscription, r.ID.ResourceGroup)
	if err != nil {
		return nil, err
	}
	views := make([]wire, len(some))
	for n, s := range some {
		ids, err := p.describeIdentity(ctx, s)
		if err != nil {
			return nil, err
		}
		views[n] = p.wire(s, ids, r.APIVersion)
	}
	return arm.Page(r, views, func(w wire) string { return strings.ToLower(w.ID) })
}

func (p *Provider) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	receipt, existed, err := p.remove(ctx, r.ID, r.Precondition)
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	if !existed {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	return deleted(r, receipt), nil
}

// remove destroys the keys of a server with its row in one write: from then on its data
// cannot be opened. What is left of it is removed afterwards, now or at the next start.
func (p *Provider) remove(ctx context.Context, id arm.ResourceID, precondition func(etag string) error) (receipt custody.Receipt, existed bool, err error) {
	defer p.locks.Lock(id.Key())()
	row, err := p.row(ctx, id)
	if isMissing(err) {
		return receipt, false, nil
	}
	if err != nil {
		return receipt, false, err
	}
	if err := precondition(row.Value.ETag); err != nil {
		return receipt, true, err
	}
	s := row.Value
	todo := tombstone{TenantID: s.TenantID}
	if s.Identity.System {
		todo.Principal = s.ID
	}
	note, err := p.deleted.Put("", s.TenantID, todo, store.Anything)
	if err != nil {
		return receipt, true, err
	}
	receipt, err = p.c.Custody.Delete(ctx, s.Resource, s.ID,
		p.servers.Delete(strings.ToLower(id.Subscription), id.Key(), store.AtRevision(row.Revision)),
		p.tenants.Delete("", s.TenantID, store.Anything), note)
	p.Forget(s.TenantID)
	if err != nil {
		return receipt, true, err
	}
	if err := p.finish(ctx, todo); err != nil {
		p.c.Log.ErrorContext(ctx, "the data of a deleted server is not removed yet; it is tried again at the next start", "tenant_id", s.TenantID, "err", err)
	}
	return receipt, true, nil
}

func (p *Provider) listKeys(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: row.Value.Keys}, nil
}

// regenerateKey replaces one key; tokens signed with it are refused from the answer on.
func (p *Provider) regenerateKey(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	var b struct {
		KeyName string `json:"keyName"`
	}
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	s := row.Value
	switch b.KeyName {
	case "key1":
		s.Keys.Key1 = newTenantKey()
	case "key2":
		s.Keys.Key2 = newTenantKey()
	default:
		return nil, &arm.Error{Status: 400, Code: "InvalidKeyName", Target: "keyName", Message: fmt.Sprintf("The keyName '%.64s' is neither key1 nor key2.", b.KeyName)}
	}
	write, err := p.servers.Put(strings.ToLower(r.ID.Subscription), r.ID.Key(), s, store.AtRevision(row.Revision))
	if err != nil {
		return nil, err
	}
	err = p.c.Store.WriteRows(ctx, []store.RowWrite{write})
	p.Forget(s.TenantID)
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	return &arm.Response{Body: s.Keys}, nil
}

type operation struct {
	Name         string  `json:"name"`
	IsDataAction bool    `json:"isDataAction"`
	Display      display `json:"display"`
}

type display struct {
	Provider    string `json:"provider"`
	Resource    string `json:"resource"`
	Operation   string `json:"operation"`
	Description string `json:"description"`
}

func (p *Provider) operations(_ context.Context, r *arm.Request) (*arm.Response, error) {
	op := func(resource, action, title, description string) operation {
		return operation{Name: namespace + "/" + resource + "/" + action, Display: display{namespace, resource, title, description}}
	}
	const servers, containers = "fluidRelayServers", "fluidRelayServers/fluidRelayContainers"
	all := []operation{
		op(servers, "read", "Get or list Fluid Relay servers", "Gets a Fluid Relay server, or lists those of a resource group or subscription."),
		op(servers, "write", "Create or update a Fluid Relay server", "Creates a Fluid Relay server or changes its tags, identity or customer-managed key."),
		op(servers, "delete", "Delete a Fluid Relay server", "Deletes a Fluid Relay server with all its containers."),
		op(servers, "listKeys/action", "List the keys of a Fluid Relay server", "Gets the two keys that sign the tokens of the server's tenant."),
		op(servers, "regenerateKey/action", "Regenerate a key of a Fluid Relay server", "Replaces one of the two keys that sign the tokens of the server's tenant."),
	}
	all = append(all, previewOperations(op)...)
	if p.c.Containers != nil {
		all = append(all,
			op(containers, "read", "Get or list containers", "Gets a container of a Fluid Relay server, or lists them."),
			op(containers, "delete", "Delete a container", "Deletes a container of a Fluid Relay server and destroys its key."))
	}
	return arm.Page(r, all, func(o operation) string { return o.Name })
}

type wireContainer struct {
	ID         string                  `json:"id"`
	Name       string                  `json:"name"`
	Type       string                  `json:"type"`
	Properties wireContainerProperties `json:"properties"`
}

type wireContainerProperties struct {
	TenantID          string `json:"frsTenantId"`
	ContainerID       string `json:"frsContainerId"`
	ProvisioningState string `json:"provisioningState"`
	Created           string `json:"creationTime"`
	Accessed          string `json:"lastAccessTime"`
}

func (c Container) wire(s server) wireContainer {
	const rfc3339 = "2006-01-02T15:04:05.000Z"
	return wireContainer{
		ID: s.ID + "/fluidRelayContainers/" + c.ID, Name: c.ID, Type: containerType,
		Properties: wireContainerProperties{
			TenantID: s.TenantID, ContainerID: c.ID, ProvisioningState: succeeded,
			Created: c.Created.UTC().Format(rfc3339), Accessed: c.Accessed.UTC().Format(rfc3339),
		},
	}
}

// owner is the server that a container's id names.
func (p *Provider) owner(ctx context.Context, r *arm.Request) (server, error) {
	id := r.ID
	id.Types, id.Names = id.Types[:1], id.Names[:1]
	row, err := p.row(ctx, id)
	return row.Value, err
}

func (p *Provider) listContainers(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	token, err := r.SkipToken()
	if err != nil {
		return nil, err
	}
	var after envelope.Name
	if len(token) != 0 && len(token) != len(after) {
		return nil, arm.ErrInvalidSkipToken()
	}
	copy(after[:], token)
	page, last, err := p.c.Containers.Containers(ctx, s.TenantID, after, arm.PageItems)
	if err != nil {
		return nil, err
	}
	list := arm.List[wireContainer]{Value: make([]wireContainer, len(page))}
	for n, c := range page {
		list.Value[n] = c.wire(s)
	}
	if last != (envelope.Name{}) {
		list.NextLink = r.NextLink(last[:])
	}
	return &arm.Response{Body: list}, nil
}

func (p *Provider) getContainer(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	// Ids of documents are not names of Azure: their letters count.
	c, err := p.c.Containers.Container(ctx, s.TenantID, r.Param("container"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, arm.ErrResourceNotFound(r.ID)
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: c.wire(s)}, nil
}

func (p *Provider) deleteContainer(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	receipt, err := p.c.Containers.DeleteContainer(ctx, s.TenantID, r.Param("container"))
	if errors.Is(err, store.ErrNotFound) {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	if err != nil {
		return nil, err
	}
	return deleted(r, receipt), nil
}
