package vault

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/store"
)

func newGUID() string { return uuid.NewString() }

// roleTarget is a role assignment or definition of a managed HSM:
//
//	/{scope}/providers/Microsoft.Authorization/{roleAssignments|roleDefinitions}[/{name}]
//
// in which the scope is empty, "keys" or "keys/{name}".
type roleTarget struct {
	scope string // "/", "/keys" or "/keys/{name}", in lower case
	kind  string // roleassignments or roledefinitions
	name  string // a GUID in lower case, or empty
}

var guidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// parseRolePath takes an escaped path; nil for one that is not about roles.
func parseRolePath(path string) (*roleTarget, error) {
	const marker = "/providers/microsoft.authorization/"
	lower := strings.ToLower(path)
	scope, rest, found := strings.Cut(lower, marker)
	if !found {
		return nil, nil
	}
	if len(path) > maxPathBytes {
		return nil, badParameter("The request URI is too long.")
	}
	r := &roleTarget{scope: "/" + strings.Trim(scope, "/")}
	if key, ok := strings.CutPrefix(r.scope, "/keys/"); r.scope != "/" && r.scope != "/keys" && (!ok || !keyName.MatchString(key)) {
		return nil, badParameter("The scope '%s' is invalid: it is '/', '/keys' or '/keys/{name}'.", printable(r.scope))
	}
	r.kind, r.name, _ = strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if r.kind != "roleassignments" && r.kind != "roledefinitions" {
		return nil, badParameter("The request URI contains an invalid name: %s", printable(r.kind))
	}
	if r.name != "" && !guidPattern.MatchString(r.name) {
		return nil, badParameter("The name '%s' is not a GUID.", printable(r.name))
	}
	return r, nil
}

func (r *roleTarget) shape() string {
	if r.name == "" {
		return r.kind
	}
	return r.kind + "/{name}"
}

const (
	assignmentType   = "Microsoft.Authorization/roleAssignments"
	definitionType   = "Microsoft.Authorization/roleDefinitions"
	definitionPrefix = "Microsoft.KeyVault/providers/" + definitionType + "/"
)

// assignmentView is an assignment on the wire.
type assignmentView struct {
	ID         string               `json:"id,omitempty"`
	Name       string               `json:"name,omitempty"`
	Type       string               `json:"type,omitempty"`
	Properties assignmentProperties `json:"properties"`
}

type assignmentProperties struct {
	Scope      string `json:"scope,omitempty"`
	Definition string `json:"roleDefinitionId"`
	Principal  string `json:"principalId"`
	Kind       string `json:"principalType,omitempty"` // taken and ignored
}

func (a assignment) view() assignmentView {
	return assignmentView{
		ID: strings.TrimSuffix(a.Scope, "/") + "/providers/" + assignmentType + "/" + a.Name, Name: a.Name, Type: assignmentType,
		Properties: assignmentProperties{Scope: a.Scope, Definition: definitionPrefix + a.Role, Principal: a.Principal},
	}
}

type valueList[T any] struct {
	Value []T `json:"value"`
}

func putAssignment(ctx context.Context, s *Service, c *call) (any, error) {
	var body assignmentView
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	id := body.Properties.Definition[strings.LastIndexByte(body.Properties.Definition, '/')+1:]
	role, known := findLocalRole(id)
	if !known {
		return nil, badParameter("Property 'roleDefinitionId' has an invalid value: '%s' is no role of this HSM.", printable(body.Properties.Definition))
	}
	principal := strings.ToLower(body.Properties.Principal)
	if !guidPattern.MatchString(principal) {
		return nil, badParameter("Property 'principalId' has an invalid value: it is the object id of a principal, a GUID.")
	}
	a := assignment{Name: c.target.role.name, Role: role.id, Principal: principal, Scope: c.target.role.scope}
	write, err := s.assignments.Put(s.assignments.KeyIn(c.vault.ref(), a.Name), a, store.Absent)
	if err != nil {
		return nil, err
	}
	err = s.store.WriteRows(ctx, []store.RowWrite{write})
	if errors.Is(err, store.ErrConflict) {
		return nil, &apiError{status: 409, code: "RoleAssignmentExists", message: "The role assignment '" + a.Name + "' already exists."}
	}
	return a.view(), err
}

func getAssignment(ctx context.Context, s *Service, c *call) (any, error) {
	a, _, err := s.assignment(ctx, c.vault, c.target.role)
	return a.view(), err
}

func deleteAssignment(ctx context.Context, s *Service, c *call) (any, error) {
	var a assignment
	err := retry(func() (err error) {
		var revision uint64
		if a, revision, err = s.assignment(ctx, c.vault, c.target.role); err != nil {
			return err
		}
		writes := []store.RowWrite{{RowKey: s.assignments.KeyIn(c.vault.ref(), a.Name), Expect: store.AtRevision(revision)}}
		if a.administers() {
			stays, err := s.anotherAdmin(ctx, c.vault, a)
			if err != nil {
				return err
			}
			writes = append(writes, stays)
		}
		return s.store.WriteRows(ctx, writes)
	})
	return a.view(), err
}

var principalFilter = regexp.MustCompile(`^principalId eq '([0-9a-fA-F-]{36})'$`)

func listAssignments(ctx context.Context, s *Service, c *call) (any, error) {
	principal, atScope := "", false
	if filter := c.r.URL.Query().Get("$filter"); filter == "atScope()" {
		atScope = true
	} else if m := principalFilter.FindStringSubmatch(filter); m != nil {
		principal = m[1]
	} else if filter != "" {
		return nil, badParameter("The $filter is neither atScope() nor principalId eq '{id}'.")
	}
	rows, err := s.assignments.List(ctx, s.assignments.Partition(c.vault.ref()))
	if err != nil {
		return nil, err
	}
	list := valueList[assignmentView]{Value: []assignmentView{}}
	for _, r := range rows {
		a, asked := r.Value, c.target.role.scope
		here := covers(a.Scope, asked) || !atScope && covers(asked, a.Scope)
		if here && (principal == "" || strings.EqualFold(principal, a.Principal)) {
			list.Value = append(list.Value, a.view())
		}
	}
	slices.SortFunc(list.Value, func(a, b assignmentView) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// definitionView is a role on the wire.
type definitionView struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties struct {
		Role        string              `json:"roleName"`
		Kind        string              `json:"type"`
		Description string              `json:"description"`
		Scopes      []string            `json:"assignableScopes"`
		Permissions []definitionActions `json:"permissions"`
	} `json:"properties"`
}

type definitionActions struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

func (r localRole) view() definitionView {
	v := definitionView{ID: definitionPrefix + r.id, Name: r.id, Type: definitionType}
	v.Properties.Role, v.Properties.Kind, v.Properties.Description, v.Properties.Scopes = r.name, "AKVBuiltInRole", r.description, []string{"/"}
	p := definitionActions{Actions: []string{}, NotActions: []string{}, NotDataActions: []string{}}
	for _, a := range r.actions {
		p.DataActions = append(p.DataActions, hsmAction+a)
	}
	v.Properties.Permissions = []definitionActions{p}
	return v
}

func listDefinitions(context.Context, *Service, *call) (any, error) {
	list := valueList[definitionView]{}
	for _, r := range localRoles {
		list.Value = append(list.Value, r.view())
	}
	return list, nil
}

func getDefinition(_ context.Context, _ *Service, c *call) (any, error) {
	role, known := findLocalRole(c.target.role.name)
	if !known {
		return nil, &apiError{status: 404, code: "RoleDefinitionNotFound", message: "The role definition '" + c.target.role.name + "' was not found."}
	}
	return role.view(), nil
}

func refuseDefinition(context.Context, *Service, *call) (any, error) {
	return nil, badParameter("Custom roles are not supported by this HSM: use its built-in ones.")
}

func refuseSecurityDomain(context.Context, *Service, *call) (any, error) {
	return nil, badParameter("This HSM has no security domain to download or upload: it is active from the start. Its keys are in a PKCS#11 token, which is backed up with its own means.")
}

func refuseFullBackup(context.Context, *Service, *call) (any, error) {
	return nil, badParameter("Full backup and restore are not supported by this HSM: its keys are in a PKCS#11 token, which is backed up with its own means.")
}
