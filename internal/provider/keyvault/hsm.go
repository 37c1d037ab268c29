package keyvault

import (
	"context"
	"fmt"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/vault"
)

// HSMType is the full type of managed HSMs.
const HSMType = namespace + "/managedHSMs"

// hsm is a managed HSM as it is stored. Its JSON is on disk.
type hsm struct {
	header
	SKU        sku           `json:"sku"`
	Properties hsmProperties `json:"properties"`
}

var hsmWords = words{
	hsm: true, fullType: HSMType, noun: "managed HSM", takenCode: "ManagedHsmAlreadyExists",
	nameRule:    "A managed HSM's name is 3 to 24 letters, digits and single hyphens, begins with a letter and does not end with a hyphen.",
	deletedType: "deletedManagedHSMs", missingCode: "DeletedManagedHsmNotFound", purgeOperation: "DeletedManagedHsmPurge",
}

type hsmProperties struct {
	TenantID string   `json:"tenantId,omitempty"`
	Admins   []string `json:"initialAdminObjectIds,omitempty"`
	HSMURI   string   `json:"hsmUri,omitempty"` // read only
	guarded
	CreateMode        string          `json:"createMode,omitempty"`        // write only
	ProvisioningState string          `json:"provisioningState,omitempty"` // read only, as the next two
	StatusMessage     string          `json:"statusMessage,omitempty"`
	SecurityDomain    *securityDomain `json:"securityDomainProperties,omitempty"`
}

// securityDomain says that an HSM is active. Here it is from the start: what a security
// domain protects is in the token, which was initialised before.
type securityDomain struct {
	Status  string `json:"activationStatus"`
	Message string `json:"activationStatusMessage"`
}

func (r *hsm) guards() *guarded { return &r.Properties.guarded }

// reset leaves the SKU, which a PUT may leave out.
func (r *hsm) reset() { r.Properties = hsmProperties{} }

func (r *hsm) take(b body) error {
	if len(b.SKU) > 0 && string(b.SKU) != "null" {
		var wanted sku
		if err := arm.DecodeObject(b.SKU, &wanted); err != nil {
			return &arm.Error{Status: 400, Code: "InvalidRequestContent", Message: fmt.Sprintf("The request content was invalid and could not be deserialized: 'sku: %v'.", err)}
		}
		r.SKU = wanted
	}
	return mergeProperties(&r.Properties, b)
}

func (r *hsm) createMode() string { return r.Properties.CreateMode }

func (r *hsm) vault(d entra.DirectoryID) vault.Vault {
	v := vault.Vault{
		Name: r.Name, HSM: true, ResourceID: r.ID, Location: r.Location, Directory: d, Admins: r.Properties.Admins, Deleted: r.Deleted,
	}
	r.Properties.apply(&v)
	return v
}

type hsmWire struct {
	wireHeader
	Properties hsmProperties `json:"properties"`
}

func (r *hsm) wire(p *Provider, asked *arm.Request) any {
	w := hsmWire{r.wireHeader(HSMType), r.Properties}
	w.SKU = &r.SKU
	w.Properties.HSMURI, w.Properties.ProvisioningState = p.c.Vaults.HSMURI(r.Name, asked.HTTP.Host), "Succeeded"
	w.Properties.StatusMessage = "The Managed HSM is provisioned and ready to use."
	w.Properties.SecurityDomain = &securityDomain{"Active", "The HSM is active: its keys are in a PKCS#11 token, and there is no security domain to download."}
	return w
}

const maxHSMIPRules = 10

// hsmRoutes are those of managed HSMs.
func (p *Provider) hsmRoutes() []arm.Route {
	const (
		all         = "/providers/" + HSMType
		one         = arm.InGroup + all + "/{name}"
		inNamespace = arm.InSubscription + "/providers/" + namespace
		read        = HSMType + "/read"
		readDeleted = namespace + "/deletedManagedHsms/read"
		deleted     = inNamespace + "/locations/{location}/deletedManagedHSMs/{name}"
	)
	k := p.hsms
	return []arm.Route{
		{Method: "GET", Pattern: arm.InSubscription + all, Action: read, Handle: k.list},
		{Method: "GET", Pattern: arm.InGroup + all, Action: read, Handle: k.list},
		{Method: "GET", Pattern: one, Action: read, Handle: p.recorded("VaultGet", true, k.get)},
		{Method: "PUT", Pattern: one, Action: HSMType + "/write", Handle: p.recorded("VaultPut", true, k.put)},
		{Method: "PATCH", Pattern: one, Action: HSMType + "/write", Handle: p.recorded("VaultPatch", true, k.patch)},
		{Method: "DELETE", Pattern: one, Action: HSMType + "/delete", Handle: p.recorded("VaultDelete", true, k.delete)},
		{Method: "GET", Pattern: one + "/auditEvents", Action: HSMType + "/auditEvents/read", Handle: p.auditEvents(true)},
		{Method: "POST", Pattern: inNamespace + "/checkMhsmNameAvailability", Action: namespace + "/checkMhsmNameAvailability/action", Handle: k.checkName},
		{Method: "GET", Pattern: inNamespace + "/deletedManagedHSMs", Action: readDeleted, Handle: k.listDeleted},
		{Method: "GET", Pattern: deleted, Action: readDeleted, Handle: k.getDeleted},
		{Method: "POST", Pattern: deleted + "/purge", Action: namespace + "/locations/deletedManagedHsms/purge/action", Handle: k.purge},
		{Method: "GET", Pattern: inNamespace + "/locations/{location}/operationResults/{id}", Action: namespace + "/locations/operationResults/read", Handle: p.operationResult},
	}
}

func (r *hsm) check(_ *Provider, before *hsm, d entra.DirectoryID) error {
	p := &r.Properties
	if !strings.EqualFold(p.TenantID, string(d)) {
		return bad(codeBad, "properties.tenantId", "The tenantId '%.64s' must be the tenant of the subscription, '%s'.", p.TenantID, d)
	}
	p.TenantID = string(d)
	if !canonical(&r.SKU.Family, "B") || r.SKU.Family == "" || !canonical(&r.SKU.Name, "Standard_B1", "Custom_B6", "Custom_B32") || r.SKU.Name == "" {
		return bad(codeBad, "sku", "The sku must have the family B and the name Standard_B1, Custom_B6 or Custom_B32.")
	}
	var old *guarded
	if before != nil {
		old = &before.Properties.guarded
		// They are read when an HSM is made; its own role assignments follow from then on.
		p.Admins = before.Properties.Admins
	}
	if len(p.Admins) == 0 {
		return bad(codeBad, "properties.initialAdminObjectIds", "A managed HSM needs initialAdminObjectIds: without an administrator nobody could ever use it.")
	}
	for _, admin := range p.Admins {
		if !isGUID(admin) {
			return bad(codeBad, "properties.initialAdminObjectIds", "The object id '%.64s' is not a GUID.", admin)
		}
	}
	p.CreateMode, p.HSMURI, p.ProvisioningState, p.StatusMessage, p.SecurityDomain = "", "", "", "", nil
	return p.guarded.check(old, maxHSMIPRules)
}

// operationResult says how a purge ended that was answered 202: well, or there was none.
func (p *Provider) operationResult(context.Context, *arm.Request) (*arm.Response, error) {
	return &arm.Response{Body: struct{}{}}, nil
}
