package custody

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
)

func TestCheckNamesEveryProblem(t *testing.T) {
	attributes := func(by func(*keystore.Key)) func(*fakeVault) {
		return func(f *fakeVault) { f.change(version1, by) }
	}
	refuse := func(err error, what ...string) func(*fakeVault) {
		return func(f *fakeVault) {
			for _, w := range what {
				f.set(w, err)
			}
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(*fakeVault)
		codes []string
		hint  string // in the message: what to do
	}{
		{"AllWell", func(*fakeVault) {}, nil, ""},
		{"KeyNotFound", refuse(errNotFound, "*"), []string{codeKeyNotFound}, "recover the key"},
		{"VersionNotFound", func(f *fakeVault) { f.addVersion(version2); delete(f.versions, version1) }, []string{codeVersionNotFound}, "leave the version out"},
		{"EllipticCurve", attributes(func(k *keystore.Key) { k.Type, k.Bits = "EC", 0 }), []string{codeKeyType}, "RSA key of 2048"},
		{"Symmetric", attributes(func(k *keystore.Key) { k.Type, k.Bits = "oct-HSM", 0 }), []string{codeKeyType}, "RSA key of 2048"},
		{"Small", attributes(func(k *keystore.Key) { k.Bits = 1024 }), []string{codeKeySize}, "2048, 3072 or 4096"},
		{"NoWrapOperation", attributes(func(k *keystore.Key) { k.Operations = []string{"unwrapKey"} }), []string{codeKeyOps}, "wrapKey"},
		{"NoOperations", attributes(func(k *keystore.Key) { k.Operations = []string{"sign"} }), []string{codeKeyOps}, "wrapKey and unwrapKey"},
		{"Disabled", attributes(func(k *keystore.Key) { k.Enabled = false }), []string{codeKeyDisabled}, "enable it"},
		{"Expired", attributes(func(k *keystore.Key) { k.Expires = time.Now().Add(-time.Hour) }), []string{codeKeyExpired}, "later expiration date"},
		{"NotYetValid", attributes(func(k *keystore.Key) { k.NotBefore = time.Now().Add(time.Hour) }), []string{codeKeyNotYetValid}, "earlier activation date"},
		{"DisabledAndExpired", attributes(func(k *keystore.Key) { k.Enabled, k.Expires = false, time.Now().Add(-time.Hour) }), []string{codeKeyDisabled, codeKeyExpired}, ""},
		{"NoGet", refuse(errDenied, opGet), []string{codePermission}, "permission get"},
		{"NoWrap", refuse(errDenied, opWrap), []string{codePermission}, "permission wrapKey"},
		{"NoUnwrap", refuse(errDenied, opUnwrap), []string{codePermission}, "permission unwrapKey"},
		{"NoPermissionAtAll", refuse(errDenied, "*"), []string{codePermission, codePermission, codePermission}, "permission unwrapKey"},
		{"UnknownRefusal", refuse(errStrange, opWrap), []string{codePermission}, "without a reason known here"},
		{"Firewall", refuse(errFirewall, "*"), []string{codeFirewall}, "trusted Microsoft services"},
		{"Silent", refuse(errSilent, "*"), []string{codeUnreachable}, "try again"},
		{"Throttled", refuse(errThrottle, opWrap), []string{codeUnreachable}, "429"},
		{"NoVault", refuse(errNoHost, "*"), []string{codeVaultNotFound}, "recover the vault"},
		{"NoToken", refuse(errIdentity, "*"), []string{codeToken}, "check that it exists"},
		{"WrapInvalid", refuse(refused(keystore.Invalid, 400, "BadParameter"), opWrap), []string{codeWrapMismatch}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.spoil(f.vault)
			err := f.Check(t.Context(), pinned)
			var got []string
			var problems *CheckError
			if errors.As(err, &problems) {
				for _, p := range problems.Problems {
					got = append(got, p.Code)
				}
			}
			if !slices.Equal(got, c.codes) {
				t.Errorf("problems %v (%v), want %v", got, err, c.codes)
			}
			if err != nil && !strings.Contains(err.Error(), c.hint) {
				t.Errorf("message %q does not say %q", err, c.hint)
			}
			if createErr := f.Create(t.Context(), envelope.ResourceID{1}, pinned); (createErr == nil) != (err == nil) {
				t.Errorf("create says %v, check says %v", createErr, err)
			}
			if c.codes != nil && f.store.count() != 0 {
				t.Errorf("%d rows were written", f.store.count())
			}
		})
	}
}

// The probe may come back, and the root key not.
func TestWhatComesBackIsCompared(t *testing.T) {
	f := newFixture(t)
	f.vault.lieAfter = 1
	if err := f.Check(t.Context(), pinned); !hasCode(err, codeWrapMismatch) {
		t.Errorf("check: %v, want %s", err, codeWrapMismatch)
	}
	f.vault.wraps, f.vault.lieAfter = 0, 2
	if err := f.Create(t.Context(), envelope.ResourceID{1}, pinned); !hasCode(err, codeWrapMismatch) {
		t.Errorf("create: %v, want %s", err, codeWrapMismatch)
	}
	if f.store.count() != 0 {
		t.Errorf("%d rows were written", f.store.count())
	}
}
