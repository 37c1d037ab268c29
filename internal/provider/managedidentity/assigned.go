package managedidentity

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

// Holders are the resources that have identities.
type Holders interface {
	// Using returns those that a user-assigned identity is assigned to, in all
	// subscriptions, as far as the caller may read them.
	Using(ctx context.Context, c arm.Caller, identityID string) ([]tracked.Summary, error)
	// SystemAssigned returns one with an identity of its own; store.ErrNotFound.
	SystemAssigned(ctx context.Context, id arm.ResourceID) (tracked.Summary, error)
}

// HeldBy says who has identities. It is called before the provider serves: the holders
// need the provider, too.
func (p *Provider) HeldBy(h Holders) { p.holders = h }

const (
	listAssociated = "listAssociatedResources"
	systemType     = "Microsoft.ManagedIdentity/identities"
)

func (p *Provider) assignedRoutes(one string) []arm.Route {
	previews := []string{"2021-09-30-preview", "2022-01-31-preview"} // later versions have dropped it
	system := arm.InScope + "/providers/" + systemType + "/{name}"
	return []arm.Route{
		{Method: "POST", Pattern: one + "/" + listAssociated, Action: Type + "/" + listAssociated + "/action", Versions: previews, Handle: p.listAssociated},
		// Azure's clients GET the nextLink.
		{Method: "GET", Pattern: one + "/" + listAssociated, Action: Type + "/" + listAssociated + "/action", Versions: previews, Handle: p.listAssociated},
		{Method: "GET", Pattern: system, Action: systemType + "/read", Handle: p.systemAssigned},
	}
}

type associated struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	Type         string `json:"type"`
	Group        string `json:"resourceGroup"`
	Subscription string `json:"subscriptionId"`
}

type associatedList struct {
	Total int `json:"totalCount"`
	arm.List[associated]
}

// listAssociated shows the resources that an identity is assigned to.
func (p *Provider) listAssociated(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	for _, option := range []string{"$filter", "$orderby", "$top", "$skip"} {
		if r.HTTP.URL.Query().Has(option) {
			return nil, &arm.Error{Status: http.StatusBadRequest, Code: "BadRequest", Target: option, Message: "The query option " + option + " is not supported here: leave it out, and follow nextLink."}
		}
	}
	id := r.ID
	id.Types = id.Types[:1]
	row, err := p.row(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, arm.ErrResourceNotFound(id)
	}
	if err != nil {
		return nil, err
	}
	holders, err := p.holders.Using(ctx, r.Caller, row.Value.ID)
	if err != nil {
		return nil, err
	}
	views := make([]associated, len(holders))
	for n, h := range holders {
		at, err := arm.ParseResourceID(h.ID)
		if err != nil {
			return nil, err
		}
		views[n] = associated{h.ID, h.Name, h.Type, at.ResourceGroup, at.Subscription}
	}
	page, err := arm.Page(r, views, func(a associated) string { return strings.ToLower(a.ID) })
	if err != nil {
		return nil, err
	}
	page.Body = associatedList{len(holders), page.Body.(arm.List[associated])}
	return page, nil
}

// systemAssigned shows the identity that a resource has of its own.
func (p *Provider) systemAssigned(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	missing := &arm.Error{Status: http.StatusNotFound, Code: "ResourceNotFound", Message: "The resource '" + r.ID.String() + "' is not there, or has no system-assigned identity."}
	if !strings.EqualFold(r.Param("name"), "default") {
		return nil, missing
	}
	holder, err := p.holders.SystemAssigned(ctx, r.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	principal, err := p.c.Directory.ManagedIdentity(ctx, holder.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	w := wire{ID: holder.ID + "/providers/" + systemType + "/default", Name: "default", Type: systemType, Location: holder.Location, Tags: holder.Tags}
	if w.Tags == nil {
		w.Tags = map[string]string{}
	}
	w.Properties.TenantID, w.Properties.PrincipalID, w.Properties.ClientID = principal.Directory, principal.ObjectID, principal.ClientID
	return &arm.Response{Body: w}, nil
}
