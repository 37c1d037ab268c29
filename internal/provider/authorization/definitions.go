package authorization

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
)

type definition struct {
	ID         string               `json:"id"`
	Type       string               `json:"type"`
	Name       string               `json:"name"`
	Properties definitionProperties `json:"properties"`
}

type definitionProperties struct {
	RoleName    string       `json:"roleName"`
	Type        string       `json:"type"`
	Description string       `json:"description"`
	Scopes      []string     `json:"assignableScopes"`
	Permissions []permission `json:"permissions"`
}

// permission has no data actions in 2015-07-01, which is older than they are.
type permission struct {
	Actions        []string  `json:"actions"`
	NotActions     []string  `json:"notActions"`
	DataActions    *[]string `json:"dataActions,omitempty"`
	NotDataActions *[]string `json:"notDataActions,omitempty"`
}

const firstVersion = "2015-07-01"

func permissionOf(r entra.Role, version string) permission {
	listed := func(s []string) []string { return append([]string{}, s...) } // [] and not null
	p := permission{Actions: listed(r.Actions), NotActions: listed(r.NotActions)}
	if version != firstVersion {
		data, notData := listed(r.DataActions), listed(r.NotDataActions)
		p.DataActions, p.NotDataActions = &data, &notData
	}
	return p
}

// definitionOf shows a role as a subscription, or the whole directory, has it.
func definitionOf(r entra.Role, subscription, version string) definition {
	return definition{
		ID: roleID(r, subscription), Type: definitionType, Name: r.ID,
		Properties: definitionProperties{
			RoleName: r.Name, Type: "BuiltInRole", Description: r.Description, Scopes: []string{"/"}, Permissions: []permission{permissionOf(r, version)},
		},
	}
}

func roleID(r entra.Role, subscription string) string {
	id := "/providers/" + definitionType + "/" + r.ID
	if subscription != "" {
		id = "/subscriptions/" + subscription + id
	}
	return id
}

var (
	nameTerm = regexp.MustCompile(`(?i)^roleName\s+eq\s+'((?:[^']|'')*)'$`)
	typeTerm = regexp.MustCompile(`(?i)^type\s+eq\s+'(BuiltInRole|CustomRole)'$`)
	andWord  = regexp.MustCompile(`(?i)\s+and\s+`)
)

func invalidFilter(term string) error {
	return &arm.Error{Status: 400, Code: "InvalidFilterInQueryString", Message: fmt.Sprintf("The $filter '%.200s' in the query string is not one that is served here.", term)}
}

func (p *Provider) listDefinitions(_ context.Context, r *arm.Request) (*arm.Response, error) {
	keep, err := parseDefinitionFilter(r.HTTP.URL.Query().Get("$filter"))
	if err != nil {
		return nil, err
	}
	var views []definition
	for _, role := range entra.Roles() {
		if keep(role) {
			views = append(views, definitionOf(role, r.ID.Subscription, r.APIVersion))
		}
	}
	return arm.Page(r, views, func(d definition) string { return d.Name })
}

func parseDefinitionFilter(filter string) (func(entra.Role) bool, error) {
	name, builtIn := "", true
	if filter = strings.TrimSpace(filter); filter == "" {
		return func(entra.Role) bool { return true }, nil
	}
	// A name may have the word "and" in it, but then it has a quote before it.
	if m := nameTerm.FindStringSubmatch(filter); m != nil {
		name = strings.ReplaceAll(m[1], "''", "'")
	} else {
		for _, term := range andWord.Split(filter, -1) {
			if m := nameTerm.FindStringSubmatch(term); m != nil {
				name = strings.ReplaceAll(m[1], "''", "'")
			} else if m := typeTerm.FindStringSubmatch(term); m != nil {
				builtIn = builtIn && strings.EqualFold(m[1], "BuiltInRole")
			} else if !strings.EqualFold(term, "atScopeAndBelow()") && !strings.EqualFold(term, "atScope()") {
				return nil, invalidFilter(term)
			}
		}
	}
	return func(r entra.Role) bool { return builtIn && (name == "" || strings.EqualFold(name, r.Name)) }, nil
}

func (p *Provider) getDefinition(_ context.Context, r *arm.Request) (*arm.Response, error) {
	role, ok := entra.FindRole(r.Param("name"))
	if !ok || !strings.EqualFold(role.ID, r.Param("name")) {
		return nil, &arm.Error{Status: 404, Code: "RoleDefinitionDoesNotExist", Message: fmt.Sprintf("The specified role definition with ID '%s' does not exist.", r.Param("name"))}
	}
	return &arm.Response{Body: definitionOf(role, r.ID.Subscription, r.APIVersion)}, nil
}

// refuseDefinition: the roles that there are, are built in.
func (p *Provider) refuseDefinition(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return nil, &arm.Error{Status: 400, Code: "CustomRolesNotSupported", Message: "Tidelock has the built-in roles only: roles cannot be made, changed or deleted. List them with GET {scope}/providers/Microsoft.Authorization/roleDefinitions."}
}
