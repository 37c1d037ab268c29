package authorization

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

type assignment struct {
	ID         string               `json:"id"`
	Type       string               `json:"type"`
	Name       string               `json:"name"`
	Properties assignmentProperties `json:"properties"`
}

type assignmentProperties struct {
	Role          string    `json:"roleDefinitionId"`
	Principal     string    `json:"principalId"`
	PrincipalType string    `json:"principalType,omitempty"` // since 2018
	Scope         string    `json:"scope"`
	Condition     *string   `json:"condition"`
	Created       time.Time `json:"createdOn"`
	Updated       time.Time `json:"updatedOn"`
	CreatedBy     *string   `json:"createdBy"`
	UpdatedBy     *string   `json:"updatedBy"`
	Description   *string   `json:"description"`
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func wire(a entra.Assignment, version string) assignment {
	role, _ := entra.FindRole(a.Role)
	subscription, _, _ := strings.Cut(strings.TrimPrefix(a.Scope, "/subscriptions/"), "/")
	w := assignment{
		ID: strings.TrimSuffix(a.ShownScope, "/") + "/providers/" + assignmentType + "/" + a.Name, Type: assignmentType, Name: a.Name,
		Properties: assignmentProperties{
			Role: roleID(role, subscription), Principal: a.Principal, PrincipalType: a.PrincipalType, Scope: a.ShownScope,
			Created: a.Created, Updated: a.Updated, CreatedBy: optional(a.CreatedBy), UpdatedBy: optional(a.UpdatedBy), Description: optional(a.Description),
		},
	}
	if version == firstVersion {
		w.Properties.PrincipalType = ""
	}
	return w
}

type body struct {
	Properties struct {
		Role          string  `json:"roleDefinitionId"`
		Principal     string  `json:"principalId"`
		PrincipalType *string `json:"principalType"`
		Description   *string `json:"description"`
		Condition     *string `json:"condition"`
		Delegated     *string `json:"delegatedManagedIdentityResourceId"`
	} `json:"properties"`
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func bad(code, target, format string, args ...any) error {
	return &arm.Error{Status: http.StatusBadRequest, Code: code, Target: target, Message: fmt.Sprintf(format, args...)}
}

// read checks a body by itself.
func (b body) read(r *arm.Request) (entra.Assignment, error) {
	p := b.Properties
	a := entra.Assignment{Name: r.Param("name"), ShownScope: r.ID.Scope(), Principal: p.Principal, UpdatedBy: r.Caller.ObjectID}
	if !guid.MatchString(a.Name) {
		return a, bad("InvalidRoleAssignmentId", "", "The role assignment ID '%.64s' is not valid. The role assignment ID must be a GUID.", a.Name)
	}
	at := strings.LastIndex(p.Role, "/")
	role, known := entra.FindRole(p.Role[at+1:])
	switch {
	case at < 0 || !strings.HasSuffix(strings.ToLower(p.Role[:at]), strings.ToLower("/providers/"+definitionType)):
		return a, bad("InvalidRoleDefinitionId", "properties.roleDefinitionId", "The roleDefinitionId '%.300s' is not of the form /subscriptions/{id}/providers/%s/{guid}.", p.Role, definitionType)
	case !known || !strings.EqualFold(role.ID, p.Role[at+1:]):
		return a, &arm.Error{Status: 404, Code: "RoleDefinitionDoesNotExist", Target: "properties.roleDefinitionId", Message: fmt.Sprintf("The specified role definition with ID '%.64s' does not exist.", p.Role[at+1:])}
	case !guid.MatchString(p.Principal):
		return a, bad("InvalidPrincipalId", "properties.principalId", "The principal ID '%.64s' is not valid. The principal ID must be a GUID: the object id, not the client id.", p.Principal)
	case p.Condition != nil && *p.Condition != "":
		return a, bad("ConditionsNotSupported", "properties.condition", "Tidelock does not evaluate conditions of role assignments; without it the assignment would grant more than it says. Leave the condition out.")
	case p.Delegated != nil && *p.Delegated != "":
		return a, bad("DelegationNotSupported", "properties.delegatedManagedIdentityResourceId", "Tidelock has no delegated identities of other directories. Leave delegatedManagedIdentityResourceId out.")
	}
	a.Role = role.ID
	if p.Description != nil {
		a.Description = *p.Description
	}
	if p.PrincipalType != nil {
		a.PrincipalType = *p.PrincipalType
	}
	switch a.PrincipalType {
	case "", "ServicePrincipal", "User":
	case "Group", "ForeignGroup", "Device":
		return a, bad("UnsupportedPrincipalType", "properties.principalType", "Tidelock knows no groups and no devices: roles are assigned to users, applications and identities.")
	default:
		return a, bad("InvalidPrincipalType", "properties.principalType", "The principalType '%.64s' is neither ServicePrincipal nor User.", a.PrincipalType)
	}
	if len(a.Description) > maxDescription {
		return a, bad("InvalidDescription", "properties.description", "The description has more than %d characters.", maxDescription)
	}
	return a, nil
}

const maxDescription = 1024

func (p *Provider) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	a, err := b.read(r)
	if err != nil {
		return nil, err
	}
	if err := p.checkScope(ctx, r.ID); err != nil {
		return nil, err
	}
	if a.Directory, err = p.c.Subscriptions.Directory(ctx, r.ID.Subscription); err != nil {
		return nil, err
	}
	stored, created, err := p.c.Assignments.PutAssignment(ctx, a)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, bad("PrincipalNotFound", "properties.principalId", "Principal %s does not exist in the directory %s. Check that it is an object id; if the principal is of a directory that is trusted from elsewhere, set principalType.",
			strings.ReplaceAll(strings.ToLower(a.Principal), "-", ""), a.Directory)
	case errors.Is(err, entra.ErrAssignmentExists):
		return nil, &arm.Error{Status: http.StatusConflict, Code: "RoleAssignmentExists", Message: "The role assignment already exists."}
	case errors.Is(err, entra.ErrAssignmentFixed):
		return nil, bad("RoleAssignmentUpdateNotPermitted", "", "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.")
	case err != nil:
		return nil, err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return &arm.Response{Status: status, Body: wire(stored, r.APIVersion)}, nil
}

// checkScope refuses scopes that are not there: a misspelt one would grant nothing, and say so to nobody.
func (p *Provider) checkScope(ctx context.Context, id arm.ResourceID) error {
	if id.Subscription == "" {
		return bad("InvalidScope", "", "Roles are assigned at a subscription, a resource group or a resource.")
	}
	if id.Namespace == "" {
		return nil // the router found subscription and group
	}
	there, err := p.c.Exists(ctx, id)
	if err != nil || there {
		return err
	}
	return arm.ErrResourceNotFound(id)
}

// find returns the assignment that the path names; it must be at the path's scope.
func (p *Provider) find(ctx context.Context, r *arm.Request) (entra.Assignment, error) {
	a, err := p.c.Assignments.Assignment(ctx, r.Param("name"))
	if err == nil && !strings.EqualFold(a.Scope, r.ID.Scope()) {
		err = store.ErrNotFound
	}
	return a, err
}

func (p *Provider) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	a, err := p.find(ctx, r)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &arm.Error{Status: 404, Code: "RoleAssignmentNotFound", Message: fmt.Sprintf("The role assignment '%s' is not found.", r.Param("name"))}
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: wire(a, r.APIVersion)}, nil
}

// delete answers with what it deleted.
func (p *Provider) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	a, err := p.find(ctx, r)
	if err == nil {
		err = p.c.Assignments.DeleteAssignment(ctx, a.Name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &arm.Response{Status: http.StatusNoContent}, nil
	case errors.Is(err, entra.ErrLastOwner):
		return nil, &arm.Error{Status: http.StatusConflict, Code: "CannotDeleteLastOwner", Message: "This is the last assignment of Owner at the subscription; without it nobody could assign roles any more. Make somebody else Owner first."}
	case err != nil:
		return nil, err
	}
	return &arm.Response{Body: wire(a, r.APIVersion)}, nil
}

var principalTerm = regexp.MustCompile(`(?i)^(?:principalId\s+eq\s+'?([-0-9a-f]{36})'?|assignedTo\('([-0-9a-f]{36})'\))$`)

// list shows the assignments at the scope, above it and below it. The filters are those
// of the service: atScope() leaves out what is below; principalId and assignedTo, which
// would count a principal's groups, leave one principal.
func (p *Provider) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	atScope, principal := false, ""
	if filter := strings.TrimSpace(r.HTTP.URL.Query().Get("$filter")); filter != "" {
		for _, term := range andWord.Split(filter, -1) {
			if m := principalTerm.FindStringSubmatch(term); m != nil {
				principal = m[1] + m[2]
			} else if strings.EqualFold(term, "atScope()") {
				atScope = true
			} else {
				return nil, invalidFilter(term)
			}
		}
	}
	all, err := p.c.Assignments.Assignments(ctx)
	if err != nil {
		return nil, err
	}
	scope := r.ID.Scope()
	all = slices.DeleteFunc(all, func(a entra.Assignment) bool {
		return !a.Reaches(scope) && (atScope || !a.Within(scope)) || principal != "" && !strings.EqualFold(principal, a.Principal)
	})
	views := make([]assignment, len(all))
	for n, a := range all {
		views[n] = wire(a, r.APIVersion)
	}
	return arm.Page(r, views, func(w assignment) string { return strings.ToLower(w.ID) })
}

// permissions are those that the caller has at the scope.
func (p *Provider) permissions(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	all, err := p.c.Assignments.Assignments(ctx)
	if err != nil {
		return nil, err
	}
	list := arm.List[permission]{Value: []permission{}}
	for _, a := range all {
		if role, ok := entra.FindRole(a.Role); ok && strings.EqualFold(a.Principal, r.Caller.ObjectID) && a.Reaches(r.ID.Scope()) {
			list.Value = append(list.Value, permissionOf(role, r.APIVersion))
		}
	}
	return &arm.Response{Body: list}, nil
}
