package keyvault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// HSMType is the full type of managed HSMs.
const HSMType = namespace + "/managedHSMs"

// hsm is a managed HSM as it is stored. Its JSON is on disk.
type hsm struct {
	ID         string             `json:"id"` // with the letters of its creation
	Name       string             `json:"name"`
	Location   string             `json:"location"` // short form
	Tags       map[string]string  `json:"tags,omitempty"`
	SystemData tracked.SystemData `json:"systemData"`
	SKU        sku                `json:"sku"`
	Properties hsmProperties      `json:"properties"`
	Deleted    time.Time          `json:"deleted"` // zero unless soft-deleted
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

type hsmWire struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Location   string              `json:"location"`
	Tags       map[string]string   `json:"tags"`
	SKU        sku                 `json:"sku"`
	SystemData *tracked.SystemData `json:"systemData"`
	Properties hsmProperties       `json:"properties"`
}

func (p *Provider) hsmWire(asked *arm.Request, r hsm) hsmWire {
	w := hsmWire{ID: r.ID, Name: r.Name, Type: HSMType, Location: r.Location, Tags: r.Tags, SKU: r.SKU, SystemData: &r.SystemData, Properties: r.Properties}
	if w.Tags == nil {
		w.Tags = map[string]string{}
	}
	w.Properties.HSMURI, w.Properties.ProvisioningState = p.c.Vaults.HSMURI(r.Name, asked.HTTP.Host), "Succeeded"
	w.Properties.StatusMessage = "The Managed HSM is provisioned and ready to use."
	w.Properties.SecurityDomain = &securityDomain{"Active", "The HSM is active: its keys are in a PKCS#11 token, and there is no security domain to download."}
	return w
}

func (r hsm) armID() (arm.ResourceID, error) { return resource{ID: r.ID}.armID() }

// purgeAt and over are those of resource.
func (r hsm) purgeAt() time.Time { return r.Deleted.AddDate(0, 0, r.Properties.Retention) }
func (r hsm) over() bool         { return !r.Deleted.IsZero() && !time.Now().Before(r.purgeAt()) }

// vault is what the data plane obeys.
func (r hsm) vault(d entra.DirectoryID) vault.Vault {
	v := vault.Vault{
		Name: r.Name, HSM: true, ResourceID: r.ID, Location: r.Location, Directory: d, Admins: r.Properties.Admins, Deleted: r.Deleted,
	}
	r.Properties.apply(&v)
	return v
}

const maxHSMIPRules = 10

// hsmName: 3 to 24 letters, digits and hyphens, a letter first, no hyphen last; and, as
// host names here are, without two hyphens in a row.
var hsmName = regexp.MustCompile(`^[a-zA-Z](-?[0-9a-zA-Z])+$`)

func validHSMName(name string) bool {
	return len(name) >= 3 && len(name) <= 24 && hsmName.MatchString(name)
}

const hsmNameRule = "A managed HSM's name is 3 to 24 letters, digits and single hyphens, begins with a letter and does not end with a hyphen."

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
	return []arm.Route{
		{Method: "GET", Pattern: arm.InSubscription + all, Action: read, Handle: p.listHSMs},
		{Method: "GET", Pattern: arm.InGroup + all, Action: read, Handle: p.listHSMs},
		{Method: "GET", Pattern: one, Action: read, Handle: p.recorded("VaultGet", true, p.getHSM)},
		{Method: "PUT", Pattern: one, Action: HSMType + "/write", Handle: p.recorded("VaultPut", true, p.putHSM)},
		{Method: "PATCH", Pattern: one, Action: HSMType + "/write", Handle: p.recorded("VaultPatch", true, p.patchHSM)},
		{Method: "DELETE", Pattern: one, Action: HSMType + "/delete", Handle: p.recorded("VaultDelete", true, p.deleteHSM)},
		{Method: "GET", Pattern: one + "/auditEvents", Action: HSMType + "/auditEvents/read", Handle: p.auditEvents(true)},
		{Method: "POST", Pattern: inNamespace + "/checkMhsmNameAvailability", Action: namespace + "/checkMhsmNameAvailability/action", Handle: p.checkHSMName},
		{Method: "GET", Pattern: inNamespace + "/deletedManagedHSMs", Action: readDeleted, Handle: p.listDeletedHSMs},
		{Method: "GET", Pattern: deleted, Action: readDeleted, Handle: p.getDeletedHSM},
		{Method: "POST", Pattern: deleted + "/purge", Action: namespace + "/locations/deletedManagedHsms/purge/action", Handle: p.purgeHSM},
		{Method: "GET", Pattern: inNamespace + "/locations/{location}/operationResults/{id}", Action: namespace + "/locations/operationResults/read", Handle: p.operationResult},
	}
}

func (p *Provider) hsmRow(ctx context.Context, id arm.ResourceID) (tracked.Row[hsm], error) {
	row, err := p.hsms.Get(ctx, strings.ToLower(id.Subscription), id.Key())
	if errors.Is(err, store.ErrNotFound) {
		return row, arm.ErrResourceNotFound(id)
	}
	return row, err
}

func (p *Provider) hsmsIn(ctx context.Context, subscription, group string) ([]hsm, error) {
	return p.hsms.InGroup(ctx, subscription, group, hsm.armID)
}

func (p *Provider) getHSM(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.hsmRow(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: p.hsmWire(r, row.Value)}, nil
}

func (p *Provider) listHSMs(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	some, err := p.hsmsIn(ctx, r.ID.Subscription, r.ID.ResourceGroup)
	if err != nil {
		return nil, err
	}
	views := make([]hsmWire, len(some))
	for n, each := range some {
		views[n] = p.hsmWire(r, each)
	}
	return arm.Page(r, views, func(w hsmWire) string { return strings.ToLower(w.ID) })
}

// hsmLock keeps writes of one HSM apart; its name may be a vault's, too.
func (p *Provider) hsmLock(name string) (unlock func()) {
	return p.locks.Lock("hsm:" + strings.ToLower(name))
}

type hsmBody struct {
	body
	SKU *sku `json:"sku"`
}

func readHSMBody(r *arm.Request, base hsmProperties) (hsmBody, hsmProperties, error) {
	var b hsmBody
	if err := r.Decode(&b); err != nil {
		return b, base, err
	}
	if b.Properties == nil {
		return b, base, nil
	}
	merged, err := arm.MergePatch(base, b.Properties)
	if err != nil {
		return b, base, &arm.Error{Status: 400, Code: "InvalidRequestContent", Message: fmt.Sprintf("The request content was invalid and could not be deserialized: 'properties: %v'.", err)}
	}
	if m := merged.CreateMode; m != "" && !strings.EqualFold(m, "default") && !strings.EqualFold(m, "recover") {
		return b, base, bad(codeBad, "properties.createMode", "The createMode '%.64s' is neither default nor recover.", m)
	}
	return b, merged, nil
}

func (p *Provider) putHSM(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.hsmLock(r.ID.Name())()
	row, err := p.hsmRow(ctx, r.ID)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	isNew := err != nil
	b, props, err := readHSMBody(r, hsmProperties{})
	if err != nil {
		return nil, err
	}
	if isNew && !validHSMName(r.ID.Name()) {
		return nil, bad("VaultNameNotValid", "name", "The managed HSM name '%.64s' is invalid. %s", r.ID.Name(), hsmNameRule)
	}
	next := hsm{ID: r.ID.String(), Name: r.ID.Name()}
	var before *hsm
	if !isNew {
		next, before = row.Value, &row.Value
	}
	if next.Location, err = tracked.Location(b.Location, row.Value.Location, r.ID); err != nil {
		return nil, err
	}
	if isNew && strings.EqualFold(props.CreateMode, "recover") {
		return p.recoverHSM(ctx, r, next.Location)
	}
	next.Tags = nil
	if b.Tags != nil {
		next.Tags = *b.Tags
	}
	if b.SKU != nil {
		next.SKU = *b.SKU
	}
	next.Properties = props
	if isNew {
		if err := p.checkHSMFree(ctx, r.ID.Name()); err != nil {
			return nil, err
		}
	}
	return p.storeHSM(ctx, r, next, before, row.Revision)
}

func (p *Provider) patchHSM(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.hsmLock(r.ID.Name())()
	row, err := p.hsmRow(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	b, props, err := readHSMBody(r, row.Value.Properties)
	if err != nil {
		return nil, err
	}
	next := row.Value
	if b.Location != "" {
		if _, err := tracked.Location(b.Location, next.Location, r.ID); err != nil {
			return nil, err
		}
	}
	if b.Tags != nil {
		next.Tags = *b.Tags
	}
	if b.SKU != nil {
		next.SKU = *b.SKU
	}
	next.Properties = props
	return p.storeHSM(ctx, r, next, &row.Value, row.Revision)
}

// checkHSMFree is checkFree for HSMs, which have host names of their own.
func (p *Provider) checkHSMFree(ctx context.Context, name string) error {
	v, err := p.c.Vaults.GetHSM(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case !v.Deleted.IsZero():
		return &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Target: "name", Message: fmt.Sprintf(
			"A managed HSM with the name '%s' already exists in deleted state. Recover it with createMode 'recover', or use another name.", v.Name)}
	}
	return &arm.Error{Status: http.StatusConflict, Code: "ManagedHsmAlreadyExists", Target: "name", Message: fmt.Sprintf(
		"The managed HSM name '%s' is already in use.", v.Name)}
}

// check refuses what is wrong, fills in defaults, and spells values as Azure does.
func (r *hsm) check(before *hsm, d entra.DirectoryID) error {
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
	return p.guarded.check(old, maxHSMIPRules)
}

func (p *Provider) storeHSM(ctx context.Context, r *arm.Request, next hsm, before *hsm, revision uint64) (*arm.Response, error) {
	if !p.c.Vaults.HasToken() {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ManagedHsmNotAvailable", Message: "A managed HSM's keys are in a PKCS#11 token, and this server was started without one: give --pkcs11-module, --pkcs11-token and --pkcs11-pin-file."}
	}
	if err := tracked.CheckTags(next.Tags); err != nil {
		return nil, err
	}
	d, err := p.c.Subscriptions.Directory(ctx, r.ID.Subscription)
	if err != nil {
		return nil, err
	}
	if err := next.check(before, d); err != nil {
		return nil, err
	}
	q := &next.Properties
	q.CreateMode, q.HSMURI, q.ProvisioningState, q.StatusMessage, q.SecurityDomain = "", "", "", "", nil
	next.SystemData = next.SystemData.Stamp(r.Caller)
	expect := store.Absent
	if revision > 0 {
		expect = store.AtRevision(revision)
	}
	id, err := next.armID()
	if err != nil {
		return nil, err
	}
	write, err := p.hsms.Put(strings.ToLower(id.Subscription), id.Key(), next, expect)
	if err != nil {
		return nil, err
	}
	if err := p.c.Vaults.Put(ctx, next.vault(d), write); err != nil {
		return nil, tracked.Conflict(id, p.purging(next.Name, err))
	}
	return &arm.Response{Body: p.hsmWire(r, next)}, nil
}

func (p *Provider) deleteHSM(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	existed, err := p.removeHSM(ctx, r.ID)
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	if !existed {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	return &arm.Response{}, nil
}

func (p *Provider) removeHSM(ctx context.Context, id arm.ResourceID) (existed bool, err error) {
	defer p.hsmLock(id.Name())()
	row, err := p.hsmRow(ctx, id)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	subscription := strings.ToLower(id.Subscription)
	gone := row.Value
	gone.Deleted = time.Now().UTC().Truncate(time.Second)
	note, err := p.deletedHSMs.Put(subscription, strings.ToLower(gone.Name), gone, store.Anything)
	if err != nil {
		return true, err
	}
	named := vault.Vault{Name: gone.Name, HSM: true}
	return true, p.c.Vaults.Delete(ctx, named, p.hsms.Delete(subscription, id.Key(), store.AtRevision(row.Revision)), note)
}

func (p *Provider) deleteHSMs(ctx context.Context, subscription, group string) error {
	some, err := p.hsmsIn(ctx, subscription, group)
	if err != nil {
		return err
	}
	for _, r := range some {
		id, err := r.armID()
		if err != nil {
			return err
		}
		if _, err := p.removeHSM(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
