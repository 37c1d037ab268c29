package managedidentity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

const federatedType = Type + "/federatedIdentityCredentials"

// federatedVersions know federated credentials.
var federatedVersions = []string{"2022-01-31-preview", "2023-01-31", "2023-07-31-preview", "2024-11-30", "2025-01-31-preview"}

// federatedRoutes are the routes of an identity's federated credentials. They are the
// directory's rows: there is nothing here to get out of step with it.
func (p *Provider) federatedRoutes(identity string) []arm.Route {
	all := identity + "/federatedIdentityCredentials"
	one := all + "/{credential}"
	return []arm.Route{
		{Method: "GET", Pattern: all, Versions: federatedVersions, Action: federatedType + "/read", Handle: p.listFederated},
		{Method: "GET", Pattern: one, Versions: federatedVersions, Action: federatedType + "/read", Handle: p.getFederated},
		{Method: "PUT", Pattern: one, Versions: federatedVersions, Action: federatedType + "/write", Handle: p.putFederated},
		{Method: "DELETE", Pattern: one, Versions: federatedVersions, Action: federatedType + "/delete", Handle: p.deleteFederated},
	}
}

type federatedWire struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties federatedProperties `json:"properties"`
}

type federatedProperties struct {
	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Audiences []string `json:"audiences"`
}

func federatedView(i Identity, f entra.FederatedCredential) federatedWire {
	return federatedWire{
		ID: i.ID + "/federatedIdentityCredentials/" + f.Name, Name: f.Name, Type: federatedType,
		Properties: federatedProperties{Issuer: f.Issuer, Subject: f.Subject, Audiences: f.Audiences},
	}
}

// parent finds the identity that a credential's path names.
func (p *Provider) parent(ctx context.Context, id arm.ResourceID) (Identity, error) {
	id.Types, id.Names = id.Types[:1], id.Names[:1]
	row, err := p.row(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Identity{}, &arm.Error{Status: 404, Code: "ParentResourceNotFound", Message: fmt.Sprintf(
			"Can not perform requested operation on nested resource. Parent resource '%s' not found.", id.Name())}
	}
	return row.Value, err
}

func (p *Provider) listFederated(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	i, err := p.parent(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	all, err := p.c.Directory.FederatedCredentials(ctx, i.PrincipalID)
	if err != nil {
		return nil, err
	}
	var views []federatedWire
	for _, f := range all {
		views = append(views, federatedView(i, f))
	}
	return arm.Page(r, views, func(w federatedWire) string { return strings.ToLower(w.Name) })
}

func (p *Provider) getFederated(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	i, err := p.parent(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	all, err := p.c.Directory.FederatedCredentials(ctx, i.PrincipalID)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(f entra.FederatedCredential) bool { return strings.EqualFold(f.Name, r.ID.Name()) })
	if at < 0 {
		return nil, arm.ErrResourceNotFound(r.ID)
	}
	return &arm.Response{Body: federatedView(i, all[at])}, nil
}

func (p *Provider) putFederated(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	i, err := p.parent(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	var b struct {
		Properties federatedProperties `json:"properties"`
	}
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	given := entra.FederatedCredential{
		Name: r.ID.Name(), Issuer: b.Properties.Issuer, Subject: b.Properties.Subject, Audiences: b.Properties.Audiences,
	}
	var wrong *entra.FederatedError
	if errors.As(given.Check(), &wrong) {
		code, target := "BadRequest", "properties."+wrong.Part
		if wrong.Part == "name" {
			code, target = "InvalidResourceName", ""
		}
		return nil, &arm.Error{Status: http.StatusBadRequest, Code: code, Target: target, Message: wrong.Message}
	}
	// Two writers of one identity at once could both pass the check that follows.
	defer p.locks.Lock(strings.ToLower(i.ID))()
	all, err := p.c.Directory.FederatedCredentials(ctx, i.PrincipalID)
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		if f.Issuer == given.Issuer && f.Subject == given.Subject && !strings.EqualFold(f.Name, given.Name) {
			return nil, &arm.Error{Status: http.StatusConflict, Code: "Conflict", Target: "properties", Message: fmt.Sprintf(
				"Issuer and subject combination already exists for this Managed Identity, in the federated credential '%s'.", f.Name)}
		}
	}
	kept, isNew, err := p.c.Directory.PutFederatedCredential(ctx, i.PrincipalID, given)
	if errors.Is(err, entra.ErrTooMany) {
		return nil, &arm.Error{Status: http.StatusBadRequest, Code: "BadRequest", Message: fmt.Sprintf(
			"Too many Federated Identity Credentials were found for this Managed Identity. At most %d are allowed.", entra.MaxFederatedCredentials)}
	}
	if err != nil {
		return nil, err
	}
	status := http.StatusOK
	if isNew {
		status = http.StatusCreated
	}
	return &arm.Response{Status: status, Body: federatedView(i, kept)}, nil
}

func (p *Provider) deleteFederated(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	i, err := p.parent(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	err = p.c.Directory.DeleteFederatedCredential(ctx, i.PrincipalID, r.ID.Name())
	if errors.Is(err, store.ErrNotFound) {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{}, nil
}
