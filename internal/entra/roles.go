package entra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/store"
)

// roleDefinition is a built-in role. Patterns are ARM actions in which * stands
// for anything, slashes too.
type roleDefinition struct {
	id         string // GUID, the same everywhere in Azure
	actions    []string
	notActions []string
}

// builtInRoles by lower-case name. Source: Azure built-in roles.
var builtInRoles = map[string]roleDefinition{
	"owner": {id: "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", actions: []string{"*"}},
	"contributor": {
		id:      "b24988ac-6180-42a0-ab88-20f7382dd24c",
		actions: []string{"*"},
		notActions: []string{
			"Microsoft.Authorization/*/Delete",
			"Microsoft.Authorization/*/Write",
			"Microsoft.Authorization/elevateAccess/Action",
		},
	},
	"reader": {id: "acdd72a7-3385-48ef-bd42-f606fba81ae7", actions: []string{"*/read"}},
}

func (r roleDefinition) allows(action string) bool {
	matches := func(pattern string) bool { return matchAction(pattern, action) }
	return slices.ContainsFunc(r.actions, matches) && !slices.ContainsFunc(r.notActions, matches)
}

// matchAction matches without regard to case, as ARM does.
func matchAction(pattern, action string) bool {
	pattern, action = strings.ToLower(pattern), strings.ToLower(action)
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == action
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(action) < len(first)+len(last) || !strings.HasPrefix(action, first) || !strings.HasSuffix(action, last) {
		return false
	}
	rest := action[len(first) : len(action)-len(last)]
	for _, middle := range parts[1 : len(parts)-1] {
		at := strings.Index(rest, middle)
		if at < 0 {
			return false
		}
		rest = rest[at+len(middle):]
	}
	return true
}

type assignmentRow struct {
	Role  string `json:"role"`  // lower case
	Scope string `json:"scope"` // canonical
}

// Assign gives a principal a built-in role (Owner, Contributor, Reader) at an ARM
// scope and everything below it. Idempotent. store.ErrNotFound when there is no
// such principal.
func (s *Service) Assign(ctx context.Context, objectID, role, scope string) error {
	objectID = strings.ToLower(objectID)
	a := assignmentRow{Role: strings.ToLower(role)}
	if _, known := builtInRoles[a.Role]; !known {
		return fmt.Errorf("assign role: %q is none of Owner, Contributor, Reader", role)
	}
	var err error
	if a.Scope, err = canonicalScope(scope); err != nil {
		return fmt.Errorf("assign role %s: %w", role, err)
	}
	if _, _, err := s.principals.Get(ctx, s.principals.Key(objectID)); err != nil {
		return fmt.Errorf("assign role %s to %s: %w", role, objectID, err)
	}
	write, err := s.assignments.Put(s.assignmentKey(objectID, a), a, store.Anything)
	if err != nil {
		return err
	}
	if err := s.store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return fmt.Errorf("assign role %s to %s: %w", role, objectID, err)
	}
	return nil
}

func (s *Service) assignmentKey(objectID string, a assignmentRow) store.RowKey {
	return s.assignments.KeyIn(objectID, a.Role+"\n"+a.Scope)
}

// Allowed says whether the caller may do action (such as
// "Microsoft.FluidRelay/fluidRelayServers/write") at scope.
func (s *Service) Allowed(ctx context.Context, c Caller, action, scope string) (bool, error) {
	at, err := canonicalScope(scope)
	if err != nil || c.ObjectID == "" || action == "" {
		return false, nil // what cannot be named was given to nobody
	}
	assigned, err := s.assignments.List(ctx, s.assignments.Partition(c.ObjectID))
	if err != nil {
		return false, fmt.Errorf("check %s for %s: %w", action, c.ObjectID, err)
	}
	for _, a := range assigned {
		if within(at, a.Value.Scope) && builtInRoles[a.Value.Role].allows(action) {
			return true, nil
		}
	}
	return false, nil
}

var errScope = errors.New("scope must be an absolute ARM path without empty or dot segments")

// canonicalScope is the one spelling of a scope: lower case, no trailing slash,
// "/" for everything. Dot segments are refused rather than resolved: a scope that
// reads as one place and means another is an attack.
func canonicalScope(scope string) (string, error) {
	if scope == "/" {
		return scope, nil
	}
	path, ok := strings.CutPrefix(strings.TrimSuffix(scope, "/"), "/")
	if !ok {
		return "", errScope
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return "", errScope
		}
	}
	return "/" + strings.ToLower(path), nil
}

// within says whether scope is parent or lies below it.
func within(scope, parent string) bool {
	return parent == "/" || scope == parent || strings.HasPrefix(scope, parent+"/")
}
