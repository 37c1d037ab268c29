package fluidrelay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// Where the properties of CMK are, for the target of errors.
const (
	targetCMK      = "properties.encryption.customerManagedKeyEncryption"
	targetURL      = targetCMK + ".keyEncryptionKeyUrl"
	targetKeyKind  = targetCMK + ".keyEncryptionKeyIdentity.identityType"
	targetKeyID    = targetCMK + ".keyEncryptionKeyIdentity.userAssignedIdentityResourceId"
	targetIdentity = "identity"
)

// The codes of refusals. They are API contract.
const (
	codeConfiguration = "CmkConfigurationError" // found at the key store, or several at once
	codeURL           = "InvalidKeyEncryptionKeyUrl"
	codeCannotEnable  = "CmkCannotBeEnabledOnExistingResource"
	codeCannotDisable = "CmkCannotBeDisabled"
	codeNoIdentity    = "InvalidIdentity"
	codeIdentityType  = "InvalidIdentityType"
	codeKeyIDType     = "InvalidCmkIdentityType"
	codeNotAssigned   = "CmkIdentityNotAssigned"
	codeRegion        = "CmkRegionMismatch"
	codeTenant        = "CmkTenantMismatch"
	codeNoSuchID      = "IdentityNotFound"
	codeUnreachable   = "VaultUnreachable" // of package custody
)

// configuring begins the message of every refusal that the key store is behind. The
// article's troubleshooting section tells users to look for it.
const configuring = "Unexpected error happened when configuring CMK"

// The precise codes of what is seen from the request and from what is managed here, in
// the details of a refusal. Package custody has those of the key store.
const (
	preciseCannotEnable     = "CmkCannotBeEnabled"
	preciseIdentityType     = "IdentityTypeNotUserAssigned"
	preciseKeyIdentityType  = "KeyIdentityTypeNotUserAssigned"
	preciseNotAssigned      = "KeyIdentityNotAssignedToResource"
	preciseIdentityRegion   = "IdentityRegionMismatch"
	preciseVaultRegion      = "VaultRegionMismatch"
	preciseIdentityTenant   = "IdentityTenantMismatch"
	preciseVaultTenant      = "VaultTenantMismatch"
	preciseAutoVersionQuota = "AutoKeyVersionQuotaExceeded"
)

// problem is one broken rule. Its code is the outer one when it is the only one that is
// broken; precise is in the details.
type problem struct{ code, precise, target, message string }

func (e *problem) detail() *arm.Error {
	return &arm.Error{Status: http.StatusBadRequest, Code: e.precise, Target: e.target, Message: e.message}
}

// problems are all rules a request breaks, so that one answer names them all.
type problems struct {
	structural []problem // seen from the request and from what is managed here
	keyStore   []problem // seen by using the key
	unchecked  []string  // what could not be looked at
}

func (p *problems) add(code, precise, target, format string, args ...any) {
	p.structural = append(p.structural, problem{code, precise, target, fmt.Sprintf(format, args...)})
}

// has says whether a rule of these codes is broken.
func (p *problems) has(codes ...string) bool {
	return slices.ContainsFunc(slices.Concat(p.structural, p.keyStore), func(e problem) bool { return slices.Contains(codes, e.code) })
}

// err is nil without problems. All are details of one error, whose message begins with
// the article's sentence; its code is that of the problem if there is only one, and that
// was seen without the key store.
func (p *problems) err() error {
	all := slices.Concat(p.structural, p.keyStore)
	if len(all) == 0 {
		return nil
	}
	e := &arm.Error{Status: http.StatusBadRequest, Code: codeConfiguration, Target: all[0].target}
	if len(all) == 1 && len(p.keyStore) == 0 {
		e.Code = all[0].code
	}
	message := []string{configuring + "."}
	for _, each := range all {
		e.Details = append(e.Details, each.detail())
		message = append(message, each.message)
		if each.target != e.Target {
			e.Target = targetCMK
		}
	}
	e.Message = strings.Join(message, " ")
	if len(all) == 1 && all[0].code == codeUnreachable {
		// Not the request's fault, and not 5xx either: clients would repeat that at once.
		e.Status = http.StatusConflict
	}
	return e
}

// checkSwitch refuses to turn CMK on or off on a server that exists.
func checkSwitch(before, after *cmk) error {
	found := &problems{}
	switch {
	case before == nil && after != nil:
		found.add(codeCannotEnable, preciseCannotEnable, targetCMK, "CMK can be enabled only when a Fluid Relay resource is created. This resource was created without it: create a new resource.")
	case before != nil && after == nil:
		found.add(codeCannotDisable, codeCannotDisable, targetCMK, "CMK cannot be disabled once it is enabled on a Fluid Relay resource. Identity, key and key version can be changed.")
	}
	return found.err()
}

// examined is what the structural rules found out.
type examined struct {
	settings custody.Settings
	// usable says that the key store may be asked: the URL is one, and the identity is
	// there, is assigned, and is of the server's directory.
	usable bool
}

// examine checks the rules that need no key store: how the request is put together,
// and where server, identity and vault are.
func (p *Provider) examine(ctx context.Context, c change, found *problems) (examined, error) {
	s := c.next
	key, err := keystore.ParseURL(s.Encryption.URL, p.c.Hosts)
	var malformed *keystore.URLError
	if errors.As(err, &malformed) {
		found.add(codeURL, malformed.Code, targetURL, "%s", malformed.Message)
	} else if err != nil {
		return examined{}, err
	}
	checkIdentityRules(s.Encryption.Identity, c.wanted, c.isPut, found)
	e := examined{settings: custody.Settings{Key: key, Identity: s.Encryption.Identity.ID}}
	directory, err := p.directory(ctx, s)
	if err != nil {
		return e, err
	}
	if err := p.checkQuota(ctx, c, found); err != nil {
		return e, err
	}
	identityUsable := !found.has(codeNoIdentity, codeIdentityType, codeKeyIDType, codeNotAssigned)
	if identityUsable {
		if directory, err = p.placeIdentity(ctx, s, directory, found); err != nil {
			return e, err
		}
	}
	foreign := p.foreign(s.Encryption.Identity.ID)
	switch {
	case key.IsZero():
	case foreign != p.c.Hosts.InAzure(key):
		found.add(codeTenant, preciseVaultTenant, targetURL, "The key store %s and the identity '%s' are not of one cloud: with a key store in Azure goes an identity of --keystore-config, and with a vault of this server one that was made here.", key.Host(), s.Encryption.Identity.ID)
	default:
		if err := p.placeVault(ctx, s, directory, key, found); err != nil {
			return e, err
		}
	}
	e.usable = identityUsable && !key.IsZero() && !found.has(codeTenant, codeNoSuchID)
	return e, nil
}

// checkIdentityRules: CMK is used through one user-assigned identity, which is among
// those assigned. Of rules that follow from one another only the first is reported.
func checkIdentityRules(k keyIdentity, w wanted, isPut bool, found *problems) {
	if !strings.EqualFold(k.Type, "UserAssigned") {
		found.add(codeKeyIDType, preciseKeyIdentityType, targetKeyKind, "The identityType of keyEncryptionKeyIdentity must be UserAssigned; it is %s.", orMissing(k.Type))
	}
	switch {
	case isPut && (w.declared == "" || w.declared == "UserAssigned" && len(w.User) == 0):
		found.add(codeNoIdentity, preciseIdentityType, targetIdentity, "A user-assigned managed identity must be assigned to the resource when CMK is used: name it in identity.userAssignedIdentities, with identity.type UserAssigned.")
	case w.declared != "" && w.declared != "UserAssigned":
		found.add(codeIdentityType, preciseIdentityType, targetIdentity+".type", "The identity.type of a resource with CMK must be UserAssigned; it is '%s'.", w.declared)
	case k.ID == "":
		found.add(codeNotAssigned, preciseNotAssigned, targetKeyID, "The userAssignedIdentityResourceId of keyEncryptionKeyIdentity is missing: it names which of identity.userAssignedIdentities is used for CMK.")
	case !w.has(k.ID):
		found.add(codeNotAssigned, preciseNotAssigned, targetKeyID, "The identity '%.300s', which is used for CMK, is not among identity.userAssignedIdentities of the resource. Assign it, and leave it assigned as long as it is used.", k.ID)
	}
}

func orMissing(s string) string {
	if s == "" {
		return "missing"
	}
	return fmt.Sprintf("'%.64s'", s)
}

func (p *Provider) directory(ctx context.Context, s server) (entra.DirectoryID, error) {
	id, err := s.armID()
	if err != nil {
		return "", err
	}
	return p.c.Subscriptions.Directory(ctx, id.Subscription)
}

// placeIdentity: the identity is in the region and directory of the server. It returns the
// directory in which the vault must be.
func (p *Provider) placeIdentity(ctx context.Context, s server, d entra.DirectoryID, found *problems) (entra.DirectoryID, error) {
	i, err := p.identity(ctx, s.Encryption.Identity.ID)
	if errors.Is(err, store.ErrNotFound) {
		found.keyStore = append(found.keyStore, problem{codeNoSuchID, codeNoSuchID, targetKeyID, fmt.Sprintf(
			"The identity '%s' does not exist any more: create it again, or use another one.", s.Encryption.Identity.ID)})
		return d, nil
	}
	if err != nil {
		return d, err
	}
	if p.foreign(s.Encryption.Identity.ID) {
		d = i.Directory // a server here belongs to no tenant there: its identity's is what counts
		if i.Location == "" || d == "" {
			p.notChecked(ctx, found, "the identity "+i.Name)
		}
	}
	if i.Location != s.Location && i.Location != "" {
		found.add(codeRegion, preciseIdentityRegion, targetKeyID, "The identity '%s' is in region %s and the Fluid Relay resource in %s; they must be in the same region.", i.Name, i.Location, s.Location)
	}
	if i.Directory != d {
		found.add(codeTenant, preciseIdentityTenant, targetKeyID, "The identity '%s' belongs to tenant %s and the Fluid Relay resource to %s; they must belong to the same tenant.", i.Name, i.Directory, d)
	}
	return d, nil
}

// notChecked says that region and tenant could not be compared.
func (p *Provider) notChecked(ctx context.Context, found *problems, what string) {
	found.unchecked = append(found.unchecked, fmt.Sprintf("Region and tenant of %s are not known here: the resource manager of Azure did not say.", what))
	p.c.Log.WarnContext(ctx, "region and tenant cannot be checked", "of", what)
}

// placeVault: the vault is in the region and directory of the server. That it does
// not exist, or is deleted, is for the key store to say.
func (p *Provider) placeVault(ctx context.Context, s server, d entra.DirectoryID, key keystore.URL, found *problems) error {
	var v vault.Vault
	var err error
	if p.c.Hosts.InAzure(key) {
		v, err = p.c.Foreign.KeyStore(ctx, key.Host())
	} else {
		v, err = p.c.Vaults.AtHost(ctx, key.Host())
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && isDeleted(v) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.Location == "" {
		p.notChecked(ctx, found, "the key store "+v.Name)
		return nil
	}
	if v.Location != s.Location {
		found.add(codeRegion, preciseVaultRegion, targetURL, "The key vault '%s' is in region %s and the Fluid Relay resource in %s; they must be in the same region.", v.Name, v.Location, s.Location)
	}
	if v.Directory != d && d != "" {
		found.add(codeTenant, preciseVaultTenant, targetURL, "The key vault '%s' belongs to tenant %s and the Fluid Relay resource to %s; they must belong to the same tenant.", v.Name, v.Directory, d)
	}
	return nil
}

func isDeleted(v vault.Vault) bool { return !v.Deleted.IsZero() }

// use notes what keeps a key from being used. An err that is no finding about the
// key is returned.
func (p *problems) use(err error) error {
	var found *custody.CheckError
	if !errors.As(err, &found) {
		return err
	}
	for _, each := range found.Problems {
		target := targetURL
		if strings.HasPrefix(each.Code, "Identity") || each.Code == "PermissionMissing" {
			target = targetKeyID
		}
		p.keyStore = append(p.keyStore, problem{code: each.Code, precise: each.Code, target: target, message: each.Message})
	}
	return nil
}
