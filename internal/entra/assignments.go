package entra

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Assignment gives a principal a role at a scope and everything below it.
type Assignment struct {
	Name          string `json:"name"`       // GUID, lower case, of one assignment only
	Role          string `json:"role"`       // id of a built-in role
	Scope         string `json:"scope"`      // canonical: lower case, no slash at the end
	ShownScope    string `json:"shownScope"` // as it was sent
	Principal     string `json:"principal"`  // object id, lower case
	PrincipalType string `json:"principalType,omitempty"`
	Description   string `json:"description,omitempty"`
	// Directory is that of the scope: the principal must be one of its. Empty: of any.
	Directory DirectoryID `json:"directory,omitempty"`
	Created   time.Time   `json:"created"`
	Updated   time.Time   `json:"updated"`
	CreatedBy string      `json:"createdBy,omitempty"` // object ids; empty: this server itself
	UpdatedBy string      `json:"updatedBy,omitempty"`
}

// Within says whether the assignment is at scope or below it.
func (a Assignment) Within(scope string) bool {
	at, err := canonicalScope(scope)
	return err == nil && within(a.Scope, at)
}

// Reaches says whether the assignment counts at scope: it is there or above it.
func (a Assignment) Reaches(scope string) bool {
	at, err := canonicalScope(scope)
	return err == nil && within(at, a.Scope)
}

var (
	// ErrAssignmentExists: the principal has the role at the scope already, under
	// another name.
	ErrAssignmentExists = errors.New("the principal has this role at this scope already")
	// ErrAssignmentFixed: of an assignment only the description can change.
	ErrAssignmentFixed = errors.New("principal, role and scope of an assignment cannot be changed")
	// ErrLastOwner: without it nobody could assign roles there any more.
	ErrLastOwner = errors.New("it is the last assignment of Owner at a subscription")
)

// Assign gives a principal a built-in role, by id or name, at an ARM scope and
// everything below it. Idempotent. store.ErrNotFound when there is no such principal.
func (s *Service) Assign(ctx context.Context, objectID, role, scope string) error {
	known, ok := FindRole(role)
	if !ok {
		return fmt.Errorf("assign role: there is no built-in role %q", role)
	}
	_, _, err := s.PutAssignment(ctx, Assignment{Name: uuid.NewString(), Role: known.ID, ShownScope: scope, Principal: objectID})
	if errors.Is(err, ErrAssignmentExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("assign role %s to %s: %w", role, objectID, err)
	}
	return nil
}

// PutAssignment stores an assignment; ShownScope says where. The principal must be one
// of the directory's (store.ErrNotFound), unless its type is given: then it may be one
// that another directory vouches for. Also ErrAssignmentExists and ErrAssignmentFixed.
func (s *Service) PutAssignment(ctx context.Context, a Assignment) (_ Assignment, created bool, err error) {
	a.Name, a.Principal = strings.ToLower(a.Name), strings.ToLower(a.Principal)
	a.ShownScope = trimScope(a.ShownScope)
	if a.Scope, err = canonicalScope(a.ShownScope); err != nil {
		return a, false, err
	}
	role, ok := FindRole(a.Role)
	if !ok {
		return a, false, fmt.Errorf("there is no built-in role %q", a.Role)
	}
	a.Role = role.ID
	now := time.Now().UTC().Truncate(time.Microsecond)
	by := a.UpdatedBy
	a.Created, a.Updated, a.CreatedBy = now, now, by

	expect := store.Absent
	before, revision, err := s.assignmentNames.Get(ctx, s.assignmentNames.Key(a.Name))
	switch {
	case err == nil:
		if before.Role != a.Role || before.Scope != a.Scope || before.Principal != a.Principal {
			return a, false, ErrAssignmentFixed
		}
		if before.Description == a.Description {
			return before, false, nil
		}
		before.Description, before.Updated, before.UpdatedBy = a.Description, now, by
		a, expect = before, store.AtRevision(revision)
	case !notFound(err):
		return a, false, err
	default:
		if err := s.checkPrincipal(ctx, &a); err != nil {
			return a, false, err
		}
	}
	return a, expect == store.Absent, s.writeAssignment(ctx, a, expect)
}

// newAssignment is what Assign writes for a principal that is new itself.
func (s *Service) newAssignment(p principalRow, role, scope string) ([]store.RowWrite, error) {
	at, err := canonicalScope(scope)
	if err != nil {
		return nil, err
	}
	known, ok := FindRole(role)
	if !ok {
		return nil, fmt.Errorf("there is no built-in role %q", role)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	a := Assignment{
		Name: uuid.NewString(), Role: known.ID, Scope: at, ShownScope: trimScope(scope),
		Principal: p.ObjectID, PrincipalType: servicePrincipal, Created: now, Updated: now,
	}
	name, err := s.assignmentNames.Put(s.assignmentNames.Key(a.Name), a, store.Absent)
	if err != nil {
		return nil, err
	}
	row, err := s.assignments.Put(s.assignmentKey(a), a, store.Absent)
	return []store.RowWrite{name, row}, err
}

// servicePrincipal is what applications and identities both are.
const servicePrincipal = "ServicePrincipal"

func (s *Service) checkPrincipal(ctx context.Context, a *Assignment) error {
	p, _, err := s.principals.Get(ctx, s.principals.Key(a.Principal))
	switch {
	case err == nil && a.Directory != "" && p.Directory != a.Directory:
		return fmt.Errorf("principal %s is of another directory: %w", a.Principal, store.ErrNotFound)
	case err == nil:
		a.PrincipalType = servicePrincipal
	case notFound(err) && a.PrincipalType != "":
		return nil
	}
	return err
}

func (s *Service) writeAssignment(ctx context.Context, a Assignment, expect store.Expect) error {
	name, err := s.assignmentNames.Put(s.assignmentNames.Key(a.Name), a, expect)
	if err != nil {
		return err
	}
	key := s.assignmentKey(a)
	held := store.Absent
	there, revision, err := s.assignments.Get(ctx, key)
	switch {
	case err == nil && there.Name != a.Name:
		return ErrAssignmentExists
	case err == nil:
		held = store.AtRevision(revision)
	case !notFound(err):
		return err
	}
	row, err := s.assignments.Put(key, a, held)
	if err != nil {
		return err
	}
	err = s.store.WriteRows(ctx, []store.RowWrite{name, row})
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%w: %w", ErrAssignmentExists, err) // somebody was quicker
	}
	return err
}

// assignmentKey is equal for two assignments that grant the same.
func (s *Service) assignmentKey(a Assignment) store.RowKey {
	return s.assignments.KeyIn(a.Principal, a.Role+"\n"+a.Scope)
}

// assignmentRemoval deletes both rows of an assignment.
func (s *Service) assignmentRemoval(a Assignment) []store.RowWrite {
	return []store.RowWrite{{RowKey: s.assignmentKey(a)}, {RowKey: s.assignmentNames.Key(a.Name)}}
}

// Assignment finds an assignment by name; store.ErrNotFound.
func (s *Service) Assignment(ctx context.Context, name string) (Assignment, error) {
	a, _, err := s.assignmentNames.Get(ctx, s.assignmentNames.Key(strings.ToLower(name)))
	return a, err
}

// Assignments returns all assignments, in no order that means anything.
func (s *Service) Assignments(ctx context.Context) ([]Assignment, error) {
	rows, err := s.assignmentNames.List(ctx, envelope.Name{})
	if err != nil {
		return nil, err
	}
	all := make([]Assignment, len(rows))
	for n, r := range rows {
		all[n] = r.Value
	}
	return all, nil
}

// DeleteAssignment removes an assignment; store.ErrNotFound, ErrLastOwner.
func (s *Service) DeleteAssignment(ctx context.Context, name string) error {
	const tries = 5
	for try := 1; ; try++ {
		a, err := s.Assignment(ctx, name)
		if err != nil {
			return err
		}
		writes := s.assignmentRemoval(a)
		if a.Role == ownerID && strings.Count(a.Scope, "/") == 2 {
			stays, err := s.anotherOwner(ctx, a)
			if err != nil {
				return err
			}
			writes = append(writes, stays)
		}
		err = s.store.WriteRows(ctx, writes)
		if err == nil || try == tries || !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// anotherOwner writes an owner of the same scope as it is: together with the removal of a
// it succeeds only while that one is there. Of two owners whom two nodes delete at once
// one stays. ErrLastOwner if there is none.
func (s *Service) anotherOwner(ctx context.Context, a Assignment) (store.RowWrite, error) {
	all, err := s.assignmentNames.List(ctx, envelope.Name{})
	if err != nil {
		return store.RowWrite{}, err
	}
	for _, b := range all {
		if b.Value.Role == ownerID && b.Value.Scope == a.Scope && b.Value.Name != a.Name {
			return s.assignmentNames.Put(s.assignmentNames.Key(b.Value.Name), b.Value, store.AtRevision(b.Revision))
		}
	}
	return store.RowWrite{}, ErrLastOwner
}

// DeleteAssignmentsWithin removes the assignments at scope and below it: what is made
// there later under the same name must not be open to whom the old one was. Idempotent.
func (s *Service) DeleteAssignmentsWithin(ctx context.Context, scope string) error {
	all, err := s.Assignments(ctx)
	if err != nil {
		return err
	}
	var writes []store.RowWrite
	for _, a := range all {
		if a.Within(scope) {
			writes = append(writes, s.assignmentRemoval(a)...)
		}
	}
	if len(writes) == 0 {
		return nil
	}
	return s.store.WriteRows(ctx, writes)
}

// Allowed says whether the caller may do action (such as
// "Microsoft.FluidRelay/fluidRelayServers/write") at scope.
func (s *Service) Allowed(ctx context.Context, c Caller, action, scope string) (bool, error) {
	return s.check(ctx, c, action, scope, Role.allows)
}

// AllowedData says whether the caller may do a data action (such as
// "Microsoft.KeyVault/vaults/keys/wrap/action") at scope. Owning the management plane
// gives none.
func (s *Service) AllowedData(ctx context.Context, c Caller, dataAction, scope string) (bool, error) {
	return s.check(ctx, c, dataAction, scope, Role.allowsData)
}

func (s *Service) check(ctx context.Context, c Caller, action, scope string, allows func(Role, string) bool) (bool, error) {
	at, err := canonicalScope(scope)
	if err != nil || c.ObjectID == "" || action == "" {
		return false, nil // what cannot be named was given to nobody
	}
	held, err := s.assignments.List(ctx, s.assignments.Partition(strings.ToLower(c.ObjectID)))
	if err != nil {
		return false, fmt.Errorf("check %s for %s: %w", action, c.ObjectID, err)
	}
	for _, a := range held {
		role, known := FindRole(a.Value.Role)
		if known && within(at, a.Value.Scope) && allows(role, action) {
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

func trimScope(scope string) string {
	if scope == "/" {
		return scope
	}
	return strings.TrimSuffix(scope, "/")
}

// within says whether scope is parent or lies below it.
func within(scope, parent string) bool {
	return parent == "/" || scope == parent || strings.HasPrefix(scope, parent+"/")
}
