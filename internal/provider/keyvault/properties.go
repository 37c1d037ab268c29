package keyvault

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/vault"
)

// properties are a vault's, in the shape that all api-versions share.
type properties struct {
	TenantID string   `json:"tenantId,omitempty"`
	SKU      sku      `json:"sku"`
	Policies []policy `json:"accessPolicies"`
	RBAC     *bool    `json:"enableRbacAuthorization,omitempty"`
	guarded
	ForDeployment     bool   `json:"enabledForDeployment"`
	ForDiskEncryption bool   `json:"enabledForDiskEncryption"`
	ForTemplate       bool   `json:"enabledForTemplateDeployment"`
	CreateMode        string `json:"createMode,omitempty"` // write only
	VaultURI          string `json:"vaultUri,omitempty"`   // read only
	ProvisioningState string `json:"provisioningState,omitempty"`
	PrivateEndpoints  []any  `json:"privateEndpointConnections,omitempty"`
	HSMPoolResourceID string `json:"hsmPoolResourceId,omitempty"`
}

// guarded is what vaults and managed HSMs have in common: who may reach them, and how
// they are deleted.
type guarded struct {
	Network         *network `json:"networkAcls,omitempty"`
	PublicAccess    string   `json:"publicNetworkAccess,omitempty"`
	SoftDelete      *bool    `json:"enableSoftDelete,omitempty"`
	Retention       int      `json:"softDeleteRetentionInDays,omitempty"` // days
	PurgeProtection *bool    `json:"enablePurgeProtection,omitempty"`
}

type sku struct {
	Family string `json:"family,omitempty"`
	Name   string `json:"name,omitempty"` // standard or premium
}

type policy struct {
	TenantID      string      `json:"tenantId"`
	ObjectID      string      `json:"objectId"`
	ApplicationID *string     `json:"applicationId,omitempty"`
	Permissions   permissions `json:"permissions"`
}

// permissions keep the letters they were written with.
type permissions struct {
	Keys         []string `json:"keys,omitempty"`
	Secrets      []string `json:"secrets,omitempty"`
	Certificates []string `json:"certificates,omitempty"`
	Storage      []string `json:"storage,omitempty"`
}

type network struct {
	Bypass        string   `json:"bypass,omitempty"`
	DefaultAction string   `json:"defaultAction,omitempty"`
	IPRules       []ipRule `json:"ipRules"`
	VNetRules     []vnet   `json:"virtualNetworkRules"`
}

type ipRule struct {
	Value string `json:"value"`
}

type vnet struct {
	ID string `json:"id"`
}

// The values of network rules, in Azure's spelling.
const (
	bypassServices = "AzureServices"
	bypassNone     = "None"
	actionAllow    = "Allow"
	actionDeny     = "Deny"
	accessEnabled  = "Enabled"
	accessDisabled = "Disabled"
)

const (
	defaultRetention = 90 // days
	minRetention     = 7
	maxPolicies      = 1024
	maxIPRules       = 1000
)

func isTrue(b *bool) bool { return b != nil && *b }

func bad(code, target, format string, args ...any) error {
	return &arm.Error{Status: http.StatusBadRequest, Code: code, Target: target, Message: fmt.Sprintf(format, args...)}
}

// codeBad is what the real service answers to a property it does not take.
const codeBad = "BadRequest"

// check refuses what is wrong or cannot be honoured, fills in defaults, and spells
// values as Azure does. before is what the vault has now; nil for a new one.
func (p *properties) check(before *properties, d entra.DirectoryID) error {
	if !strings.EqualFold(p.TenantID, string(d)) {
		return bad(codeBad, "properties.tenantId", "The tenantId '%.64s' must be the tenant of the subscription, '%s'.", p.TenantID, d)
	}
	p.TenantID = string(d)
	if !canonical(&p.SKU.Family, "A") || p.SKU.Family == "" || !canonical(&p.SKU.Name, "standard", "premium") || p.SKU.Name == "" {
		return bad(codeBad, "properties.sku", "The sku must have the family A and the name standard or premium.")
	}
	if len(p.PrivateEndpoints) > 0 || p.HSMPoolResourceID != "" {
		return bad(codeBad, "properties", "Private endpoints and HSM pools are not supported by this key vault service.")
	}
	var old *guarded
	if before != nil {
		old = &before.guarded
	}
	if err := p.guarded.check(old, maxIPRules); err != nil {
		return err
	}
	return checkPolicies(p.Policies, p.TenantID)
}

// canonical spells *value as the one of values that it equals without case; false if
// it is none of them. An empty value is left.
func canonical(value *string, values ...string) bool {
	for _, v := range values {
		if strings.EqualFold(v, *value) {
			*value = v
			return true
		}
	}
	return *value == ""
}

func (p *guarded) check(before *guarded, maxIPRules int) error {
	if err := p.checkDeletion(before); err != nil {
		return err
	}
	return p.checkNetwork(maxIPRules)
}

// apply sets what the data plane obeys of it.
func (p *guarded) apply(v *vault.Vault) {
	v.SoftDeleteRetention, v.PurgeProtection = p.Retention, isTrue(p.PurgeProtection)
	v.PublicDisabled, v.BypassTrusted = p.PublicAccess == accessDisabled, true
	if n := p.Network; n != nil {
		v.BypassTrusted = n.Bypass == bypassServices
		v.DefaultDeny = n.DefaultAction == actionDeny
		for _, rule := range n.IPRules {
			v.IPRules = append(v.IPRules, rule.Value)
		}
	}
}

// checkDeletion: soft delete is always on; its retention is chosen once; purge
// protection is turned on for good.
func (p *guarded) checkDeletion(before *guarded) error {
	if p.SoftDelete != nil && !*p.SoftDelete {
		return bad(codeBad, "properties.enableSoftDelete", "The property \"enableSoftDelete\" cannot be set to false: soft delete is always on.")
	}
	on := true
	p.SoftDelete = &on
	if p.PurgeProtection != nil && !*p.PurgeProtection {
		return bad(codeBad, "properties.enablePurgeProtection", "The property \"enablePurgeProtection\" cannot be set to false. Enabling the purge protection for a vault is an irreversible action.")
	}
	if before != nil {
		if p.Retention != 0 && p.Retention != before.Retention {
			return bad(codeBad, "properties.softDeleteRetentionInDays", "The property \"softDeleteRetentionInDays\" has been set already and it can't be modified.")
		}
		p.Retention = before.Retention
		if isTrue(before.PurgeProtection) {
			p.PurgeProtection = before.PurgeProtection
		}
	}
	if p.Retention == 0 {
		p.Retention = defaultRetention
	}
	if p.Retention < minRetention || p.Retention > defaultRetention {
		return bad(codeBad, "properties.softDeleteRetentionInDays", "The property \"softDeleteRetentionInDays\" must be between %d and %d days; it is %d.", minRetention, defaultRetention, p.Retention)
	}
	return nil
}

func (p *guarded) checkNetwork(maxIPRules int) error {
	if p.PublicAccess == "" {
		p.PublicAccess = accessEnabled
	}
	if !canonical(&p.PublicAccess, accessEnabled, accessDisabled) {
		return bad(codeBad, "properties.publicNetworkAccess", "The publicNetworkAccess '%.64s' is neither Enabled nor Disabled.", p.PublicAccess)
	}
	n := p.Network
	if n == nil {
		return nil
	}
	if n.Bypass == "" {
		n.Bypass = bypassServices
	}
	if n.DefaultAction == "" {
		n.DefaultAction = actionAllow
	}
	switch {
	case !canonical(&n.Bypass, bypassServices, bypassNone):
		return bad(codeBad, "properties.networkAcls.bypass", "The bypass '%.64s' is neither AzureServices nor None.", n.Bypass)
	case !canonical(&n.DefaultAction, actionAllow, actionDeny):
		return bad(codeBad, "properties.networkAcls.defaultAction", "The defaultAction '%.64s' is neither Allow nor Deny.", n.DefaultAction)
	case len(n.VNetRules) > 0:
		return bad(codeBad, "properties.networkAcls.virtualNetworkRules", "Virtual network rules are not supported by this key vault service: use ipRules.")
	case len(n.IPRules) > maxIPRules:
		return bad(codeBad, "properties.networkAcls.ipRules", "There are %d ipRules; at most %d are allowed.", len(n.IPRules), maxIPRules)
	}
	if n.IPRules == nil {
		n.IPRules = []ipRule{}
	}
	if n.VNetRules == nil {
		n.VNetRules = []vnet{}
	}
	for _, rule := range n.IPRules {
		_, addressErr := netip.ParseAddr(rule.Value)
		if _, err := netip.ParsePrefix(rule.Value); err != nil && addressErr != nil {
			return bad(codeBad, "properties.networkAcls.ipRules", "The ipRule '%.64s' is neither an address nor a CIDR range.", rule.Value)
		}
	}
	return nil
}

// The permissions there are. Source: Azure documentation, "Assign a Key Vault access policy".
var (
	keyPermissions = []string{
		"get", "list", "update", "create", "import", "delete", "recover", "backup", "restore", "decrypt", "encrypt", "unwrapKey", "wrapKey",
		"verify", "sign", "purge", "release", "rotate", "getrotationpolicy", "setrotationpolicy", "all",
	}
	secretPermissions      = []string{"get", "list", "set", "delete", "recover", "backup", "restore", "purge", "all"}
	certificatePermissions = []string{
		"get", "list", "delete", "create", "import", "update", "managecontacts", "getissuers", "listissuers", "setissuers", "deleteissuers",
		"manageissuers", "recover", "purge", "backup", "restore", "all",
	}
	storagePermissions = []string{
		"get", "list", "delete", "set", "update", "regeneratekey", "recover", "purge", "backup", "restore", "setsas", "listsas", "getsas", "deletesas", "all",
	}
)

func checkPolicies(policies []policy, tenant string) error {
	const target = "properties.accessPolicies"
	if len(policies) > maxPolicies {
		return bad(codeBad, target, "There are %d access policies; at most %d are allowed.", len(policies), maxPolicies)
	}
	seen := map[string]bool{}
	for _, p := range policies {
		switch {
		case !strings.EqualFold(p.TenantID, tenant):
			return bad(codeBad, target, "An access policy has the tenantId '%.64s'; it must be the vault's, '%s'.", p.TenantID, tenant)
		case !isGUID(p.ObjectID) || p.ApplicationID != nil && !isGUID(*p.ApplicationID):
			return bad(codeBad, target, "An access policy has the objectId '%.64s'; objectId and applicationId must be GUIDs.", p.ObjectID)
		case seen[p.key()]:
			return bad(codeBad, target, "There are two access policies for the objectId '%s'.", p.ObjectID)
		}
		seen[p.key()] = true
		for _, kind := range []struct {
			name           string
			given, allowed []string
		}{
			{"keys", p.Permissions.Keys, keyPermissions},
			{"secrets", p.Permissions.Secrets, secretPermissions},
			{"certificates", p.Permissions.Certificates, certificatePermissions},
			{"storage", p.Permissions.Storage, storagePermissions},
		} {
			for _, one := range kind.given {
				if !containsFold(kind.allowed, one) {
					return bad(codeBad, target, "The access policy for '%s' has the unknown %s permission '%.64s'.", p.ObjectID, kind.name, one)
				}
			}
		}
	}
	return nil
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func isGUID(s string) bool { return guid.MatchString(s) && s != uuid.Nil.String() }

func containsFold(values []string, value string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, value) })
}

// key is whom a policy is for.
func (p policy) key() string {
	if p.ApplicationID == nil {
		return strings.ToLower(p.ObjectID)
	}
	return strings.ToLower(p.ObjectID + "/" + *p.ApplicationID)
}

// changePolicies is what PUT accessPolicies/{operation} makes of the policies; false
// for an unknown operation.
func changePolicies(operation string, current, given []policy) ([]policy, bool) {
	changed := slices.Clone(current)
	var change func(old, given permissions) permissions
	switch strings.ToLower(operation) {
	case "add":
		change = func(old, given permissions) permissions { return old.each(given, union) }
	case "replace":
		change = func(_, given permissions) permissions { return given }
	case "remove":
		change = func(old, given permissions) permissions { return old.each(given, without) }
	default:
		return nil, false
	}
	for _, g := range given {
		at := slices.IndexFunc(changed, func(c policy) bool { return c.key() == g.key() })
		if at < 0 {
			if !strings.EqualFold(operation, "remove") {
				changed = append(changed, g)
			}
			continue
		}
		changed[at].Permissions = change(changed[at].Permissions, g.Permissions)
	}
	return slices.DeleteFunc(changed, func(c policy) bool { return c.Permissions.empty() }), true
}

func (p permissions) each(q permissions, f func(a, b []string) []string) permissions {
	return permissions{f(p.Keys, q.Keys), f(p.Secrets, q.Secrets), f(p.Certificates, q.Certificates), f(p.Storage, q.Storage)}
}

func (p permissions) empty() bool {
	return len(p.Keys)+len(p.Secrets)+len(p.Certificates)+len(p.Storage) == 0
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !containsFold(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return containsFold(b, s) })
}
