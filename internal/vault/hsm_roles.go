package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/store"
)

// assignment gives a principal a role of a managed HSM's own, at "/", "/keys" or
// "/keys/{name}" (lower case). Roles of the subscription give nothing in an HSM.
type assignment struct {
	Name      string `json:"name"` // a GUID
	Role      string `json:"role"` // the GUID of its definition
	Principal string `json:"principal"`
	Scope     string `json:"scope"`
}

// localRole is a built-in role of managed HSMs. Source: Azure Managed HSM, "Local RBAC
// built-in roles".
type localRole struct {
	id, name, description string
	actions               []string
}

const roleAdministrator = "a290e904-7015-4bba-90c8-60543313cdb4"

// hsmAction is what data actions of HSMs begin with.
const hsmAction = "Microsoft.KeyVault/managedHsm/"

var (
	roleActions = []string{
		"roleAssignments/read/action", "roleAssignments/write/action", "roleAssignments/delete/action", "roleDefinitions/read/action",
	}
	localRoles = []localRole{
		{roleAdministrator, "Managed HSM Administrator", "Permissions to manage roles and the security domain; none to use keys.", append([]string{
			"securitydomain/download/action", "securitydomain/upload/action", "backup/start/action", "restore/start/action",
		}, roleActions...)},
		{"515eb02d-2335-4d2d-92f2-b1cbdf9c3778", "Managed HSM Crypto Officer", "Permissions to manage roles, and to purge and recover deleted keys.", append([]string{
			"keys/deletedKeys/read/action", "keys/deletedKeys/recover/action", "keys/deletedKeys/delete",
		}, roleActions...)},
		{"21dbd100-6940-42c2-9190-5d6cb909625b", "Managed HSM Crypto User", "Permissions to make, use and delete keys; none to purge and recover them.", []string{
			"keys/read/action", "keys/write/action", "keys/create", "keys/import/action", "keys/delete", "keys/backup/action", "keys/restore/action",
			"keys/rotate/action", "keys/encrypt/action", "keys/decrypt/action", "keys/wrap/action", "keys/unwrap/action", "keys/sign/action",
			"keys/verify/action", "keys/release/action", "keys/deletedKeys/read/action", "rng/action",
		}},
		{"4bd23610-cdcf-4971-bdee-bdc562cc28e4", "Managed HSM Policy Administrator", "Permissions to manage role assignments.", roleActions},
		{"33413926-3206-4cdd-b39a-83574fe37a17", "Managed HSM Crypto Service Encryption User", "Permissions to read, wrap with and unwrap with keys, for services.", []string{
			"keys/read/action", "keys/wrap/action", "keys/unwrap/action",
		}},
		{"2c18b078-7c48-4d3a-af88-5a3a1b3f82b3", "Managed HSM Crypto Auditor", "Permissions to read keys and role assignments.", []string{
			"keys/read/action", "keys/deletedKeys/read/action", "roleAssignments/read/action", "roleDefinitions/read/action",
		}},
		{"7b127d3c-77bd-4e3e-bbe0-dbb8971fa7f8", "Managed HSM Backup User", "Permissions to back up.", []string{"keys/backup/action", "backup/start/action"}},
		{"6efe6056-5259-49d2-8b3d-d3d73544b20b", "Managed HSM Restore", "Permissions to restore.", []string{"keys/restore/action", "restore/start/action"}},
	}
)

func findLocalRole(id string) (localRole, bool) {
	at := slices.IndexFunc(localRoles, func(r localRole) bool { return strings.EqualFold(r.id, id) })
	if at < 0 {
		return localRole{}, false
	}
	return localRoles[at], true
}

// hsmActions are what permissions are called in HSMs, behind hsmAction.
var hsmActions = map[string]string{
	"get": "keys/read/action", "list": "keys/read/action", "update": "keys/write/action", "create": "keys/create", "import": "keys/import/action",
	"delete": "keys/delete", "recover": "keys/deletedKeys/recover/action", "purge": "keys/deletedKeys/delete", "backup": "keys/backup/action",
	"restore": "keys/restore/action", "rotate": "keys/rotate/action", "getrotationpolicy": "keys/read/action", "setrotationpolicy": "keys/write/action",
	"release": "keys/release/action", opEncrypt: "keys/encrypt/action", opDecrypt: "keys/decrypt/action", opWrap: "keys/wrap/action",
	opUnwrap: "keys/unwrap/action", opSign: "keys/sign/action", opVerify: "keys/verify/action", "rng": "rng/action",
	"readassignments": "roleAssignments/read/action", "writeassignments": "roleAssignments/write/action",
	"deleteassignments": "roleAssignments/delete/action", "readdefinitions": "roleDefinitions/read/action",
	"securitydomain": "securitydomain/download/action", "fullbackup": "backup/start/action",
}

// permitHSM asks the HSM's own roles.
func (s *Service) permitHSM(ctx context.Context, c *call) error {
	action, scope := hsmActions[c.route.permission], "/keys"
	switch {
	case c.target.role != nil:
		scope = c.target.role.scope
	case c.target.collection == "deletedkeys" && (c.route.permission == "get" || c.route.permission == "list"):
		action = "keys/deletedKeys/read/action"
	case c.target.collection != "keys" && c.target.collection != "deletedkeys":
		scope = "/"
	}
	if c.target.key != "" && c.route.shape != "keys/restore" {
		scope = "/keys/" + strings.ToLower(c.target.key)
	}
	held, err := s.assignments.List(ctx, s.assignments.Partition(c.vault.ref()))
	if err != nil {
		return err
	}
	for _, a := range held {
		role, known := findLocalRole(a.Value.Role)
		if known && strings.EqualFold(a.Value.Principal, c.caller.ObjectID) && covers(a.Value.Scope, scope) && slices.Contains(role.actions, action) {
			return nil
		}
	}
	// Not as vaults say it: AccessDenied is the outer code. Source: azure-cli issue 32719.
	return &apiError{status: http.StatusForbidden, code: "AccessDenied", message: fmt.Sprintf("Not authorized to access %s%s on %s (Activity ID: %s)", hsmAction, action, scope, c.id)}
}

// covers says whether an assignment at scope counts at another one.
func covers(scope, at string) bool {
	return scope == "/" || scope == at || strings.HasPrefix(at, scope+"/")
}

// admins are the writes that make a new HSM's initial administrators.
func (s *Service) admins(v Vault, principals []string) ([]store.RowWrite, error) {
	var writes []store.RowWrite
	for _, p := range principals {
		a := assignment{Name: newGUID(), Role: roleAdministrator, Principal: strings.ToLower(p), Scope: "/"}
		write, err := s.assignments.Put(s.assignments.KeyIn(v.ref(), a.Name), a, store.Absent)
		if err != nil {
			return nil, err
		}
		writes = append(writes, write)
	}
	return writes, nil
}

// errLastAdmin keeps an HSM from being locked for good.
var errLastAdmin = conflict("", "This is the last assignment of Managed HSM Administrator at '/': assign the role to somebody else first.")

// administers says that the assignment makes an administrator of the whole HSM.
func (a assignment) administers() bool { return a.Role == roleAdministrator && a.Scope == "/" }

// anotherAdmin writes another administrator as it is: together with the removal of gone it
// succeeds only while that one is there. Of two that remove each other at once, be it on two
// nodes, one stays. errLastAdmin if there is none.
func (s *Service) anotherAdmin(ctx context.Context, v Vault, gone assignment) (store.RowWrite, error) {
	all, err := s.assignments.List(ctx, s.assignments.Partition(v.ref()))
	if err != nil {
		return store.RowWrite{}, err
	}
	for _, a := range all {
		if a.Value.administers() && a.Value.Name != gone.Name {
			return s.assignments.Put(s.assignments.KeyIn(v.ref(), a.Value.Name), a.Value, store.AtRevision(a.Revision))
		}
	}
	return store.RowWrite{}, errLastAdmin
}

func assignmentNotFound(name string) error {
	return &apiError{status: 404, code: "RoleAssignmentNotFound", message: fmt.Sprintf("The role assignment '%s' was not found.", printable(name))}
}

func (s *Service) assignment(ctx context.Context, v Vault, role *roleTarget) (assignment, uint64, error) {
	a, revision, err := s.assignments.Get(ctx, s.assignments.KeyIn(v.ref(), role.name))
	if errors.Is(err, store.ErrNotFound) || err == nil && a.Scope != role.scope {
		return a, 0, assignmentNotFound(role.name)
	}
	return a, revision, err
}
