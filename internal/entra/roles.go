package entra

import (
	"slices"
	"strings"
)

// Role is a built-in role: what whoever has it may do, in the management plane
// (actions) and in the data planes (data actions). Patterns are ARM actions in which *
// stands for anything, slashes too.
type Role struct {
	ID             string // GUID, the same everywhere in Azure
	Name           string
	Description    string
	Actions        []string
	NotActions     []string
	DataActions    []string
	NotDataActions []string
}

// around is what Azure's roles of one service add to it, so that their holders can
// find their way in the portal.
func around(actions ...string) []string {
	return append([]string{
		"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/*", "Microsoft.Resources/deployments/*",
		"Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Support/*",
	}, actions...)
}

// readVaults is what the roles for a vault's data may see of vaults.
var readVaults = around(
	"Microsoft.KeyVault/checkNameAvailability/read", "Microsoft.KeyVault/deletedVaults/read", "Microsoft.KeyVault/locations/*/read",
	"Microsoft.KeyVault/vaults/*/read", "Microsoft.KeyVault/operations/read")

const ownerID = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"

// roles are those that matter for what there is here, in Azure's order. Ids, names and
// actions are Azure's; actions on services that are not here are left out of Contributor.
// Source: Azure built-in roles.
var roles = []Role{
	{
		ID: ownerID, Name: "Owner",
		Description: "Full access to all resources, including the right to assign roles.",
		Actions:     []string{"*"},
	},
	{
		ID: "b24988ac-6180-42a0-ab88-20f7382dd24c", Name: "Contributor",
		Description: "Full access to all resources, without the right to assign roles.",
		Actions:     []string{"*"},
		NotActions:  []string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action"},
	},
	{
		ID: "acdd72a7-3385-48ef-bd42-f606fba81ae7", Name: "Reader",
		Description: "Sees all resources and changes none.",
		Actions:     []string{"*/read"},
	},
	{
		ID: "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", Name: "User Access Administrator",
		Description: "Sees all resources and manages who has access to them.",
		Actions:     []string{"*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"},
	},
	{
		ID: "f58310d9-a9f6-439a-9e8d-f62e7b41a168", Name: "Role Based Access Control Administrator",
		Description: "Sees all resources and assigns roles.",
		Actions: []string{
			"Microsoft.Authorization/roleAssignments/write", "Microsoft.Authorization/roleAssignments/delete", "*/read", "Microsoft.Support/*",
		},
	},
	{
		ID: "4a9ae827-6dc8-4573-8ac7-8239d42aa03f", Name: "Tag Contributor",
		Description: "Manages the tags of resources without access to the resources themselves.",
		Actions: around(
			"Microsoft.Resources/subscriptions/resourceGroups/resources/read", "Microsoft.Resources/subscriptions/resources/read",
			"Microsoft.Resources/tags/*"),
	},
	{
		ID: "43d0d8ad-25c7-4714-9337-8ba259a9fe05", Name: "Monitoring Reader",
		Description: "Sees all monitoring data, the activity log among it.",
		Actions:     []string{"*/read", "Microsoft.OperationalInsights/workspaces/search/action", "Microsoft.Support/*"},
	},
	{
		ID: "e40ec5ca-96e0-45a2-b4ff-59039f2c2b59", Name: "Managed Identity Contributor",
		Description: "Creates, changes and deletes user-assigned identities.",
		Actions: around(
			"Microsoft.ManagedIdentity/userAssignedIdentities/read", "Microsoft.ManagedIdentity/userAssignedIdentities/write",
			"Microsoft.ManagedIdentity/userAssignedIdentities/delete", "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/*"),
	},
	{
		ID: "f1a07417-d97a-45cb-824c-7a7467783830", Name: "Managed Identity Operator",
		Description: "Sees user-assigned identities and assigns them to resources.",
		Actions: around(
			"Microsoft.ManagedIdentity/userAssignedIdentities/*/read", "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action"),
	},
	{
		ID: "00482a5a-887f-4fb3-b363-3b7fe8e74483", Name: "Key Vault Administrator",
		Description: "Performs all data plane operations on a vault and everything in it. Needs a vault in RBAC mode.",
		Actions:     readVaults,
		DataActions: []string{"Microsoft.KeyVault/vaults/*"},
	},
	{
		ID: "f25e0fa2-a7c8-4377-a976-54943a77a395", Name: "Key Vault Contributor",
		Description: "Manages vaults, without access to what is in them and without assigning roles.",
		Actions:     around("Microsoft.KeyVault/*"),
		NotActions: []string{
			"Microsoft.KeyVault/locations/deletedVaults/purge/action", "Microsoft.KeyVault/hsmPools/*", "Microsoft.KeyVault/managedHsms/*",
		},
	},
	{
		ID: "14b46e9e-c2b7-41b4-b07b-48a6ebf60603", Name: "Key Vault Crypto Officer",
		Description: "Performs any action on the keys of a vault but managing permissions. Needs a vault in RBAC mode.",
		Actions:     readVaults,
		DataActions: []string{"Microsoft.KeyVault/vaults/keys/*", "Microsoft.KeyVault/vaults/keyrotationpolicies/*"},
	},
	{
		ID: "e147488a-f6f5-4113-8e2d-b22465e65bf6", Name: "Key Vault Crypto Service Encryption User",
		Description: "Reads the metadata of keys and wraps and unwraps with them. Needs a vault in RBAC mode.",
		Actions: []string{
			"Microsoft.EventGrid/eventSubscriptions/write", "Microsoft.EventGrid/eventSubscriptions/read", "Microsoft.EventGrid/eventSubscriptions/delete",
		},
		DataActions: []string{
			"Microsoft.KeyVault/vaults/keys/read", "Microsoft.KeyVault/vaults/keys/wrap/action", "Microsoft.KeyVault/vaults/keys/unwrap/action",
		},
	},
	{
		ID: "12338af0-0e69-4776-bea7-57ae8d297424", Name: "Key Vault Crypto User",
		Description: "Performs cryptographic operations with keys. Needs a vault in RBAC mode.",
		DataActions: []string{
			"Microsoft.KeyVault/vaults/keys/read", "Microsoft.KeyVault/vaults/keys/update/action", "Microsoft.KeyVault/vaults/keys/backup/action",
			"Microsoft.KeyVault/vaults/keys/encrypt/action", "Microsoft.KeyVault/vaults/keys/decrypt/action",
			"Microsoft.KeyVault/vaults/keys/wrap/action", "Microsoft.KeyVault/vaults/keys/unwrap/action",
			"Microsoft.KeyVault/vaults/keys/sign/action", "Microsoft.KeyVault/vaults/keys/verify/action",
		},
	},
	{
		ID: "21090545-7ca7-4776-b22c-e363652d74d2", Name: "Key Vault Reader",
		Description: "Reads the metadata of vaults and of what is in them. Needs a vault in RBAC mode.",
		Actions:     readVaults,
		DataActions: []string{"Microsoft.KeyVault/vaults/*/read", "Microsoft.KeyVault/vaults/secrets/readMetadata/action"},
	},
}

// Roles are the built-in roles. They are shared: do not change them.
func Roles() []Role { return roles }

// FindRole finds a built-in role by id or by name, without regard to case.
func FindRole(idOrName string) (Role, bool) {
	at := slices.IndexFunc(roles, func(r Role) bool {
		return strings.EqualFold(r.ID, idOrName) || strings.EqualFold(r.Name, idOrName)
	})
	if at < 0 {
		return Role{}, false
	}
	return roles[at], true
}

func (r Role) allows(action string) bool     { return covered(r.Actions, r.NotActions, action) }
func (r Role) allowsData(action string) bool { return covered(r.DataActions, r.NotDataActions, action) }

func covered(actions, notActions []string, action string) bool {
	matches := func(pattern string) bool { return matchAction(pattern, action) }
	return slices.ContainsFunc(actions, matches) && !slices.ContainsFunc(notActions, matches)
}

// matchAction matches without regard to case, as ARM does. A star between two slashes
// may also stand for nothing at all: what Managed Identity Operator has,
// userAssignedIdentities/*/assign/action, is how Azure grants
// userAssignedIdentities/assign/action.
func matchAction(pattern, action string) bool {
	pattern, action = strings.ToLower(pattern), strings.ToLower(action)
	return matchParts(strings.Split(pattern, "*"), action) ||
		strings.Contains(pattern, "/*/") && matchParts(strings.Split(strings.Replace(pattern, "/*/", "/", 1), "*"), action)
}

// matchParts says whether action has the parts in this order, the first at its
// beginning and the last at its end.
func matchParts(parts []string, action string) bool {
	if len(parts) == 1 {
		return parts[0] == action
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
