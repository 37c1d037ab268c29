package custody

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/keystore"
)

// Problem is one thing that keeps a key from being used.
type Problem struct {
	Code    string // KeyNotFound, KeyTypeNotRsa, KeySizeUnsupported, KeyOpsMissing, KeyDisabled, KeyExpired, ...
	Message string // says what is wrong and what to do
}

// The codes of problems. They are shown to clients and never change meaning.
const (
	codeKeyNotFound      = "KeyNotFound"
	codeVersionNotFound  = "KeyVersionNotFound"
	codeKeyType          = "KeyTypeNotRsa"
	codeKeySize          = "KeySizeUnsupported"
	codeKeyOps           = "KeyOpsMissing"
	codeKeyDisabled      = "KeyDisabled"
	codeKeyExpired       = "KeyExpired"
	codeKeyNotYetValid   = "KeyNotYetValid"
	codePermission       = "PermissionMissing"
	codeFirewall         = "VaultFirewallBlocked"
	codeUnreachable      = "VaultUnreachable"
	codeVaultNotFound    = "VaultNotFound"
	codeToken            = "IdentityTokenFailed"
	codeWrapMismatch     = "WrapUnwrapMismatch"
	codePreviousDisabled = "PreviousKeyDisabled"
	codePreviousExpired  = "PreviousKeyExpired"
	codePreviousLost     = "PreviousKeyInaccessible"
	codeSoftDelete       = "SoftDeleteRequired"
	codePurgeProtection  = "PurgeProtectionRequired"
	codeCannotEnable     = "CmkCannotBeEnabled"
	codeCannotDisable    = "CmkCannotBeDisabled"
)

// CheckError holds every failed check of a key, at least one.
type CheckError struct{ Problems []Problem }

func (e *CheckError) Error() string {
	parts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		parts[i] = p.Code + ": " + p.Message
	}
	return "custody: the key cannot be used: " + strings.Join(parts, " ")
}

// has says whether one of codes was found.
func (e *CheckError) has(codes ...string) bool {
	return slices.ContainsFunc(e.Problems, func(p Problem) bool { return slices.Contains(codes, p.Code) })
}

// add notes a problem, unless the very same was noted before.
func (e *CheckError) add(code, format string, args ...any) {
	p := Problem{Code: code, Message: fmt.Sprintf(format, args...)}
	if !slices.Contains(e.Problems, p) {
		e.Problems = append(e.Problems, p)
	}
}

// or returns e as an error, nil when nothing was found.
func (e *CheckError) or() error {
	if len(e.Problems) == 0 {
		return nil
	}
	return e
}

// Check tries whether a key can protect a resource, by using it as its identity
// would: get, wrap a probe, unwrap, compare. It changes nothing. The error is a
// *CheckError. The service-managed key is always fine.
func (k *Keeper) Check(ctx context.Context, s Settings) error {
	_, problems := k.check(ctx, s, forCheck)
	return problems.or()
}

// check also returns what the key store says of the key version in question.
func (k *Keeper) check(ctx context.Context, s Settings, why reason) (keystore.Key, *CheckError) {
	u := k.kek(s.Identity, s.Key.IsZero(), why)
	problems := &CheckError{}
	key, err := u.describe(ctx, s.Key)
	if s.Key.IsZero() {
		return key, problems
	}
	if err != nil {
		if stop := problems.refused(ctx, u, s.Key, opGet, err); stop {
			return key, problems
		}
		key.ID = s.Key // go on and see what else is missing
	} else {
		problems.attributes(key, time.Now())
		k.recoverable(ctx, key, problems)
		if problems.has(codeKeyType, codeKeySize) {
			return key, problems
		}
	}
	problems.probe(ctx, u, key)
	return key, problems
}

// recoverable refuses a key that its vault can lose for good, or warns of it. An empty
// recovery level says nothing.
func (k *Keeper) recoverable(ctx context.Context, key keystore.Key, problems *CheckError) {
	if !strings.Contains(key.RecoveryLevel, "Purgeable") {
		return
	}
	if !k.c.Policy.RequirePurgeProtection {
		k.c.Log.WarnContext(ctx, "the vault has no purge protection: whoever may purge the key can destroy all data under it",
			"kid", key.ID.String(), "recovery_level", key.RecoveryLevel)
		return
	}
	vault := key.ID.Vault()
	if !strings.Contains(key.RecoveryLevel, "Recoverable") {
		problems.add(codeSoftDelete, "The vault %s has soft delete off: a deleted key is lost, and all data under it. Use a vault with soft delete and purge protection.", vault)
	}
	problems.add(codePurgeProtection, "The vault %[1]s has purge protection off: whoever may purge the key can destroy all data under it. "+
		"Turn it on: az keyvault update --name %[1]s --enable-purge-protection true.", vault)
}

// attributes checks what the key store says of the key.
func (e *CheckError) attributes(k keystore.Key, now time.Time) {
	if k.Type != "RSA" && k.Type != "RSA-HSM" {
		e.add(codeKeyType, "The key %s is of type %s; only RSA and RSA-HSM keys can wrap. Use an RSA key of 2048, 3072 or 4096 bits.", k.ID, k.Type)
		return
	}
	if !slices.Contains([]int{2048, 3072, 4096}, k.Bits) {
		e.add(codeKeySize, "The key %s has %d bits; use an RSA key of 2048, 3072 or 4096 bits.", k.ID, k.Bits)
	}
	var missing []string
	for _, op := range []string{opWrap, opUnwrap} {
		if !allows(k, op) {
			missing = append(missing, op)
		}
	}
	if len(missing) > 0 {
		e.add(codeKeyOps, "The key %s does not permit %s: add it to the key's operations (key_ops).", k.ID, strings.Join(missing, " and "))
	}
	if !k.Enabled {
		e.add(codeKeyDisabled, disabledMessage, k.ID)
	}
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		e.add(codeKeyExpired, "The key version %s expired on %s: set a later expiration date, or use another version.", k.ID, k.Expires.UTC().Format(time.RFC3339))
	}
	if now.Before(k.NotBefore) {
		e.add(codeKeyNotYetValid, "The key version %s is not valid before %s: set an earlier activation date, or use another version.", k.ID, k.NotBefore.UTC().Format(time.RFC3339))
	}
}

const disabledMessage = "The key version %s is disabled: enable it, or use another version."

func allows(k keystore.Key, op string) bool {
	return slices.ContainsFunc(k.Operations, func(o string) bool { return strings.EqualFold(o, op) })
}

// probe wraps random bytes, unwraps them and compares: permissions are known only
// by using them. key has no operations when it could not be described.
func (e *CheckError) probe(ctx context.Context, u kek, key keystore.Key) {
	described := len(key.Operations) > 0
	material := make([]byte, 32)
	rand.Read(material) // never fails, see crypto/rand
	var wrapped keystore.Wrapped
	if !described || allows(key, opWrap) {
		var err error
		if wrapped, err = u.wrap(ctx, key.ID, material); err != nil {
			if stop := e.refused(ctx, u, key.ID, opWrap, err); stop {
				return
			}
		}
	}
	if described && !allows(key, opUnwrap) {
		return
	}
	canCompare := wrapped.Value != nil
	if !canCompare {
		// Nothing was wrapped, but whether unwrap is permitted can be seen all the
		// same: who may, is told that these bytes are no wrapped key.
		if key.ID.Version() == "" {
			return
		}
		wrapped = keystore.Wrapped{ID: key.ID, Algorithm: keystore.Algorithm, Value: make([]byte, max(key.Bits, 2048)/8)}
		wrapped.Value[len(wrapped.Value)-1] = 1
	}
	back, err := u.unwrap(ctx, wrapped)
	var answer *keystore.Error
	switch {
	case err == nil && bytes.Equal(back, material):
	case err == nil && canCompare:
		e.add(codeWrapMismatch, "The key %s unwrapped something else than it had wrapped. The key store does not work as it should; nothing was stored.", wrapped.ID)
	case !canCompare && (err == nil || errors.As(err, &answer) && answer.Class == keystore.Invalid):
	default:
		e.refused(ctx, u, wrapped.ID, opUnwrap, err)
	}
}

// refused notes what a failed call means. It returns true when asking on is of no
// use, because the vault or the identity does not work at all.
func (e *CheckError) refused(ctx context.Context, u kek, key keystore.URL, op string, err error) (stop bool) {
	var r *keystore.Error
	if !errors.As(err, &r) {
		r = &keystore.Error{Class: keystore.Unreachable, Op: op, Key: key, Cause: err}
	}
	switch r.Class {
	case keystore.Firewall:
		e.add(codeFirewall, "The firewall of vault %s does not let this service in: under Networking, "+
			"allow trusted Microsoft services to bypass the firewall (networkAcls.bypass: AzureServices). The vault says: %s", key.Vault(), r.Message)
		return true
	case keystore.Unreachable, keystore.Throttled:
		e.unreachable(key, r)
		return true
	case keystore.VaultNotFound:
		e.add(codeVaultNotFound, "There is no vault at %s: correct the key URL, or recover the vault if it was deleted.", key.Host())
		return true
	case keystore.IdentityFailed:
		e.add(codeToken, "The identity %s got no token that vault %s accepts: check that it exists and belongs to the vault's directory.", u.identity, key.Vault())
		return true
	case keystore.NotFound:
		e.notFound(ctx, u, key)
		return true
	case keystore.Denied:
		if key.ManagedHSM() {
			e.add(codePermission, "The identity %[1]s may not %[2]s the key %[3]s: assign it the role Managed HSM Crypto Service Encryption User "+
				"in the managed HSM %[4]s (az keyvault role assignment create --hsm-name %[4]s --scope /keys/%[5]s --role \"Managed HSM Crypto Service Encryption User\" "+
				"--assignee-principal-type ServicePrincipal --assignee-object-id $(az identity show --ids %[1]s --query principalId --output tsv)).",
				u.identity, verb(op), key, key.Vault(), key.Name())
			break
		}
		e.add(codePermission, "The identity %[1]s may not %[2]s the key %[3]s: grant it the key permission %[4]s on vault %[5]s "+
			"(the role Key Vault Crypto Service Encryption User, or an access policy: az keyvault set-policy --name %[5]s "+
			"--object-id $(az identity show --ids %[1]s --query principalId --output tsv) --key-permissions get wrapKey unwrapKey).",
			u.identity, verb(op), key, op, key.Vault())
	case keystore.DeniedUnclassified:
		e.add(codePermission, "The vault %s refused %s for the identity %s, without a reason known here: %s", key.Vault(), op, u.identity, r.Message)
	case keystore.Disabled:
		e.add(codeKeyDisabled, disabledMessage, key)
	case keystore.Expired:
		if !e.has(codeKeyExpired, codeKeyNotYetValid) {
			e.add(codeKeyExpired, "The key version %s is outside the time in which it is valid: change its dates, or use another version.", key)
		}
	case keystore.Invalid:
		e.add(codeWrapMismatch, "The vault %s could not make sense of %s with the key %s: %s", key.Vault(), op, key, r.Message)
	}
	return false
}

// unreachable notes that a vault does not answer, once for each vault.
func (e *CheckError) unreachable(key keystore.URL, err error) {
	begin := fmt.Sprintf("The vault %s does not answer", key.Host())
	if slices.ContainsFunc(e.Problems, func(p Problem) bool { return strings.HasPrefix(p.Message, begin) }) {
		return
	}
	detail := ""
	var r *keystore.Error
	if errors.As(err, &r) {
		detail = reachability(r)
	}
	e.add(codeUnreachable, "%s: try again later. %s", begin, detail)
}

func isOutage(err error) bool {
	var r *keystore.Error
	return errors.As(err, &r) && r.Outage()
}

// notFound tells a missing version from a missing key.
func (e *CheckError) notFound(ctx context.Context, u kek, key keystore.URL) {
	if key.Version() != "" {
		if _, err := u.describe(ctx, key.WithVersion("")); err == nil {
			e.add(codeVersionNotFound, "The key %s has no version %s: correct the key URL, or leave the version out to follow the newest.",
				key.WithVersion(""), key.Version())
			return
		}
	}
	e.add(codeKeyNotFound, "There is no key %q in vault %s: correct the key URL, or recover the key if it was deleted.", key.Name(), key.Vault())
}

// reachability is what is known of an outage.
func reachability(r *keystore.Error) string {
	if r.Status != 0 {
		return fmt.Sprintf("(It answered with status %d.)", r.Status)
	}
	return ""
}

func verb(op string) string {
	switch op {
	case opWrap:
		return "wrap with"
	case opUnwrap:
		return "unwrap with"
	}
	return "read (get)"
}
