package keyvault

import (
	"regexp"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/vault"
)

// resource is a vault as it is stored. Its JSON is on disk.
type resource struct {
	header
	Properties properties `json:"properties"`
}

var vaultWords = words{
	fullType: Type, noun: "vault", takenCode: "VaultAlreadyExists",
	takenMore:   " Vault names are globally unique, so it is possible that the name is already taken.",
	nameRule:    "A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens.",
	deletedType: "deletedVaults", missingCode: "DeletedVaultNotFound", purgeOperation: "DeletedVaultPurge",
}

// hostName: 3 to 24 letters, digits and hyphens, a letter first, no hyphen last, and no two
// in a row. Source: Azure naming rules, Microsoft.KeyVault.
var hostName = regexp.MustCompile(`^[a-zA-Z](-?[0-9a-zA-Z])+$`)

// validName is for both kinds, whose names are host names.
func validName(name string) bool {
	return len(name) >= 3 && len(name) <= 24 && hostName.MatchString(name)
}

func (r *resource) guards() *guarded { return &r.Properties.guarded }

func (r *resource) reset() { r.Properties = properties{} }

func (r *resource) take(b body) error { return mergeProperties(&r.Properties, b) }

func (r *resource) createMode() string { return r.Properties.CreateMode }

func (r *resource) check(p *Provider, before *resource, d entra.DirectoryID) error {
	var old *properties
	if before != nil {
		old = &before.Properties
	}
	q := &r.Properties
	if err := q.check(old, d); err != nil {
		return err
	}
	if isTrue(q.RBAC) && !p.c.Vaults.HasRoles() {
		return bad("RbacAuthorizationNotSupported", "properties.enableRbacAuthorization", "This key vault service authorises by access policies only: leave enableRbacAuthorization out or false, and grant access with accessPolicies.")
	}
	q.CreateMode, q.VaultURI, q.ProvisioningState = "", "", ""
	return nil
}

func (r *resource) vault(d entra.DirectoryID) vault.Vault {
	v := vault.Vault{
		Name: r.Name, ResourceID: r.ID, Location: r.Location, Directory: d, SKU: r.Properties.SKU.Name,
		Deleted: r.Deleted, RBAC: isTrue(r.Properties.RBAC),
	}
	r.Properties.apply(&v)
	for _, policy := range r.Properties.Policies {
		if policy.ApplicationID != nil {
			continue // good for a user together with an application: no token here is of both
		}
		v.Policies = append(v.Policies, vault.Policy{ObjectID: policy.ObjectID, Directory: d, Keys: policy.Permissions.Keys})
	}
	return v
}

type wire struct {
	wireHeader
	Properties properties `json:"properties"`
}

func (r *resource) wire(p *Provider, asked *arm.Request) any {
	w := wire{r.wireHeader(Type), r.Properties}
	if w.Properties.Policies == nil {
		w.Properties.Policies = []policy{}
	}
	if w.Properties.RBAC == nil {
		off := false
		w.Properties.RBAC = &off
	}
	w.Properties.VaultURI, w.Properties.ProvisioningState = p.c.Vaults.URI(r.Name, asked.HTTP.Host), "Succeeded"
	return w
}
