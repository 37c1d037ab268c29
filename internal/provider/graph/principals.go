package graph

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

// servicePrincipal is a principal as Graph shows it.
type servicePrincipal struct {
	OData        string            `json:"@odata.type,omitempty"`
	ID           string            `json:"id"`
	AppID        string            `json:"appId"`
	DisplayName  string            `json:"displayName"`
	AppName      string            `json:"appDisplayName"`
	Enabled      bool              `json:"accountEnabled"`
	Type         string            `json:"servicePrincipalType"`
	Names        []string          `json:"servicePrincipalNames"`
	Alternatives []string          `json:"alternativeNames"`
	Organization entra.DirectoryID `json:"appOwnerOrganizationId"`
	Created      time.Time         `json:"createdDateTime"`
}

func viewServicePrincipal(d entra.Details) servicePrincipal {
	s := servicePrincipal{
		ID: d.ObjectID, AppID: d.ClientID, DisplayName: d.Name, AppName: d.Name, Enabled: true, Type: "Application",
		Names: []string{d.ClientID}, Alternatives: []string{}, Organization: d.Directory, Created: d.Created.Truncate(time.Second),
	}
	if d.Kind == entra.KindManagedIdentity {
		s.Type, s.Alternatives = "ManagedIdentity", []string{"isExplicit=True", d.ResourceID}
	}
	return s
}

// me is for people, and there are none: clients go on after this refusal.
func (h *handler) me(context.Context, *call) (answer, error) {
	return answer{}, &graphError{http.StatusBadRequest, "BadRequest", "/me request is only valid with delegated authentication flow."}
}

func (h *handler) organization(ctx context.Context, c *call) (answer, error) {
	d, err := h.Entra.Directory(ctx, c.directory())
	if err != nil {
		return answer{}, err
	}
	return ok(list([]map[string]any{{
		"id": d.ID, "displayName": d.Name, "createdDateTime": d.Created.Truncate(time.Second), "verifiedDomains": []string{}, "tenantType": "AAD",
	}}))
}

func (h *handler) nobody(context.Context, *call) (answer, error) { return ok(list([]string(nil))) }

func (h *handler) refuseUser(context.Context, *call) (answer, error) {
	return answer{}, badRequest("There are no users here: who calls is an application or a managed identity. People and workloads of another provider are imported by POST /beta/externalPrincipals.")
}

func (h *handler) refuseGroup(context.Context, *call) (answer, error) {
	return answer{}, badRequest("There are no groups here: give roles and access policies to the applications and managed identities themselves.")
}

func (h *handler) find(ctx context.Context, c *call) (entra.Details, error) {
	id := c.r.PathValue("id")
	d, err := h.Entra.Find(ctx, c.directory(), id)
	if errors.Is(err, store.ErrNotFound) {
		return d, noObject(id)
	}
	return d, err
}

// filtered lists the principals that the request's $filter keeps.
func (h *handler) filtered(ctx context.Context, c *call) ([]entra.Details, error) {
	keep, err := parseFilter(c.r.URL.Query().Get("$filter"))
	if err != nil {
		return nil, err
	}
	all, err := h.Entra.Principals(ctx, c.directory())
	return slices.DeleteFunc(all, func(d entra.Details) bool { return !keep(d) }), err
}

// clause is one condition of a $filter: a comparison, a prefix, or a name in a list.
var clause = regexp.MustCompile(`(?i)^(?:(\w+)\s+eq\s+'((?:[^']|'')*)'|startswith\((\w+),\s*'((?:[^']|'')*)'\)|(\w+)/any\((\w+):(\w+)\s+eq\s+'((?:[^']|'')*)'\))$`)

// parseFilter understands one clause, which is what Azure's tools send.
func parseFilter(filter string) (func(entra.Details) bool, error) {
	if filter = strings.TrimSpace(filter); filter == "" {
		return func(entra.Details) bool { return true }, nil
	}
	m := clause.FindStringSubmatch(filter)
	unsupported := &graphError{http.StatusBadRequest, "Request_UnsupportedQuery", fmt.Sprintf(
		"Unsupported or invalid query filter clause specified: '%.200s'. Understood are: property eq 'value', startswith(property,'value') and servicePrincipalNames/any(n:n eq 'value').", filter)}
	if m == nil || !strings.EqualFold(m[6], m[7]) {
		return nil, unsupported
	}
	value := func(quoted string) string { return strings.ReplaceAll(quoted, "''", "'") }
	if m[5] != "" {
		switch strings.ToLower(m[5]) {
		case "serviceprincipalnames":
			return func(d entra.Details) bool { return strings.EqualFold(d.ClientID, value(m[8])) }, nil
		case "identifieruris": // no application has one
			return func(entra.Details) bool { return false }, nil
		}
		return nil, unsupported
	}
	property := properties[strings.ToLower(m[1]+m[3])]
	if property == nil {
		return nil, unsupported
	}
	if m[1] != "" {
		return func(d entra.Details) bool { return strings.EqualFold(property(d), value(m[2])) }, nil
	}
	prefix := strings.ToLower(value(m[4]))
	return func(d entra.Details) bool { return strings.HasPrefix(strings.ToLower(property(d)), prefix) }, nil
}

var properties = map[string]func(entra.Details) string{
	"id":                   func(d entra.Details) string { return d.ObjectID },
	"appid":                func(d entra.Details) string { return d.ClientID },
	"displayname":          func(d entra.Details) string { return d.Name },
	"serviceprincipaltype": func(d entra.Details) string { return viewServicePrincipal(d).Type },
}

func (h *handler) listServicePrincipals(ctx context.Context, c *call) (answer, error) {
	some, err := h.filtered(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var views []servicePrincipal
	for _, d := range some {
		views = append(views, viewServicePrincipal(d))
	}
	return ok(list(views))
}

func (h *handler) getServicePrincipal(ctx context.Context, c *call) (answer, error) {
	d, err := h.find(ctx, c)
	if err != nil {
		return answer{}, err
	}
	return ok(viewServicePrincipal(d))
}

// createServicePrincipal answers with the one that every application has.
func (h *handler) createServicePrincipal(ctx context.Context, c *call) (answer, error) {
	var b struct {
		AppID string `json:"appId"`
	}
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	d, err := h.Entra.Find(ctx, c.directory(), b.AppID)
	if errors.Is(err, store.ErrNotFound) || err == nil && d.Kind != entra.KindApplication {
		return answer{}, &graphError{http.StatusBadRequest, "NoBackingApplicationObject", fmt.Sprintf(
			"The appId '%.64s' of the service principal does not reference a valid application object.", b.AppID)}
	}
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, viewServicePrincipal(d)}, nil
}

// importPrincipal makes a principal for somebody of a trusted issuer.
func (h *handler) importPrincipal(ctx context.Context, c *call) (answer, error) {
	var b struct {
		Name   string `json:"displayName"`
		ID     string `json:"id"`
		Issuer string `json:"issuer"`
		Value  string `json:"value"`
	}
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	switch {
	case b.Name == "" || len(b.Name) > maxName:
		return answer{}, badRequest("A displayName of 1 to %d characters is needed.", maxName)
	case b.ID != "" && uuid.Validate(b.ID) != nil:
		return answer{}, badRequest("The id '%.64s' is not a GUID.", b.ID)
	case !strings.HasPrefix(b.Issuer, "https://") || b.Value == "" || len(b.Issuer)+len(b.Value) > 1200:
		return answer{}, badRequest("The issuer, an https URL, and the value of its claim are needed, exactly as tokens have them.")
	}
	d, err := h.Entra.ImportPrincipal(ctx, c.directory(), b.Name, b.ID, entra.External{Issuer: b.Issuer, Value: b.Value})
	return answer{http.StatusCreated, viewServicePrincipal(d)}, err
}

// getByIDs leaves out what is not there, as Graph does.
func (h *handler) getByIDs(ctx context.Context, c *call) (answer, error) {
	var b struct {
		IDs []string `json:"ids"`
	}
	if err := c.decode(&b); err != nil {
		return answer{}, err
	}
	const most = 1000
	if len(b.IDs) > most {
		return answer{}, badRequest("Too many ids: %d. At most %d are allowed.", len(b.IDs), most)
	}
	var views []servicePrincipal
	for _, id := range b.IDs {
		d, err := h.Entra.Find(ctx, c.directory(), id)
		if errors.Is(err, store.ErrNotFound) || err == nil && d.ObjectID != strings.ToLower(id) {
			continue
		}
		if err != nil {
			return answer{}, err
		}
		v := viewServicePrincipal(d)
		v.OData = "#microsoft.graph.servicePrincipal"
		views = append(views, v)
	}
	return ok(list(views))
}
