package custody

import (
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/keystore/keystoretest"
	"github.com/tidelock/tidelock/internal/rsatest"
	"github.com/tidelock/tidelock/internal/vault"
)

// realVault is the embedded vault, reached through the real client with the tokens of
// the embedded directory, behind a transport with faults.
type realVault struct {
	*fixture
	entra  *entra.Service
	vaults *vault.Service
	owner  *azkeys.Client // may do everything with keys
	faults *keystoretest.Transport
	vault  vault.Vault
	kek    keystore.URL
}

type doer struct{ http.RoundTripper }

func (d doer) Do(r *http.Request) (*http.Response, error) { return d.RoundTrip(r) }

func newRealVault(t *testing.T) *realVault {
	t.Helper()
	const domain = "vault.tidelock.localhost"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	v := &realVault{fixture: &fixture{t: t, store: newRowStore(), service: envelope.NewServiceKey(), log: &logBook{}}}
	keys := rsatest.New()
	const login = "https://127.0.0.1:8443"
	var err error
	v.entra, err = entra.Open(t.Context(), entra.Config{Store: v.store, Service: v.service, Login: login, VaultSuffix: domain + ":8443", GenerateRSA: keys, Log: slog.New(slog.DiscardHandler)})
	must(err)
	v.vaults = vault.New(vault.Config{Store: v.store, Service: v.service, Entra: v.entra, Suffix: domain + ":8443", Login: login, GenerateRSA: keys, Log: slog.New(slog.DiscardHandler)})
	directory, err := v.entra.CreateDirectory(t.Context(), "contoso")
	must(err)
	relay, err := v.entra.CreateManagedIdentity(t.Context(), directory, identityA)
	must(err)
	owner, err := v.entra.CreateManagedIdentity(t.Context(), directory, identityB)
	must(err)
	v.vault = vault.Vault{Name: "contoso", Location: "westus2", Directory: directory, BypassTrusted: true, PurgeProtection: true, Policies: []vault.Policy{
		{ObjectID: relay.ObjectID, Directory: directory, Keys: []string{"get", "wrapKey", "unwrapKey"}},
		{ObjectID: owner.ObjectID, Directory: directory, Keys: []string{"all"}},
	}}
	must(v.vaults.Put(t.Context(), v.vault))
	v.owner, err = azkeys.NewClient("https://contoso."+domain+":8443", v.entra.Credential(identityB), &azkeys.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: doer{v.vaults.Transport()}},
	})
	must(err)
	v.kek, err = keystore.ParseURL("https://contoso."+domain+":8443/keys/kek", keystore.Hosts{Suffixes: []string{domain}})
	must(err)
	v.kek = v.kek.WithVersion(v.newVersion())
	v.faults = keystoretest.New(v.vaults.Transport())
	client := keystore.New(keystore.Config{Credential: v.entra.Credential(identityA), Transport: v.faults})
	v.Keeper = New(Config{
		Store: v.store, Service: v.service, KeyStore: func(string) keystore.Client { return client },
		Hosts: keystore.Hosts{Suffixes: []string{domain}}, Log: slog.New(slog.NewTextHandler(v.log, nil)),
	})
	t.Cleanup(func() { v.Keeper.Close() })
	return v
}

// newVersion makes the key, or a new version of it.
func (v *realVault) newVersion() string {
	v.t.Helper()
	kty, bits := azkeys.KeyTypeRSA, int32(2048)
	k, err := v.owner.CreateKey(v.t.Context(), "kek", azkeys.CreateKeyParameters{Kty: &kty, KeySize: &bits}, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	return k.Key.KID.Version()
}

func (v *realVault) change(a azkeys.KeyAttributes) {
	v.t.Helper()
	if _, err := v.owner.UpdateKey(v.t.Context(), "kek", v.kek.Version(), azkeys.UpdateKeyParameters{KeyAttributes: &a}, nil); err != nil {
		v.t.Fatal(err)
	}
}

func (v *realVault) put(by func(*vault.Vault)) {
	v.t.Helper()
	changed := v.vault
	by(&changed)
	if err := v.vaults.Put(v.t.Context(), changed); err != nil {
		v.t.Fatal(err)
	}
}

func TestKeyRulesAgainstTheEmbeddedVault(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name         string
		revoke, undo func(v *realVault)
		reason       string
		within       time.Duration
	}{
		{
			"KeyDisabled", func(v *realVault) { v.change(azkeys.KeyAttributes{Enabled: &no}) },
			func(v *realVault) { v.change(azkeys.KeyAttributes{Enabled: &yes}) }, reasonDisabled, time.Minute,
		},
		{
			"KeyExpired", func(v *realVault) { past := time.Now(); v.change(azkeys.KeyAttributes{Expires: &past}) },
			func(v *realVault) {
				later := time.Now().Add(time.Hour)
				v.change(azkeys.KeyAttributes{Expires: &later})
			}, reasonExpired, time.Minute,
		},
		{
			"PermissionRemoved", func(v *realVault) { v.put(func(x *vault.Vault) { x.Policies = x.Policies[1:] }) },
			func(v *realVault) { v.put(func(*vault.Vault) {}) }, reasonAccessDenied, time.Minute,
		},
		{"FirewallClosed", func(v *realVault) {
			v.put(func(x *vault.Vault) { x.DefaultDeny, x.BypassTrusted = true, false })
		}, func(v *realVault) { v.put(func(*vault.Vault) {}) }, reasonFirewall, time.Minute},
		{"VaultDeleted", func(v *realVault) {
			if err := v.vaults.Delete(v.t.Context(), vault.Vault{Name: "contoso"}); err != nil {
				v.t.Fatal(err)
			}
		}, func(v *realVault) { v.put(func(*vault.Vault) {}) }, reasonVaultDeleted, 2 * time.Minute},
		{"IdentityDeleted", func(v *realVault) {
			if err := v.entra.DeleteManagedIdentity(v.t.Context(), identityA); err != nil {
				v.t.Fatal(err)
			}
		}, func(v *realVault) {
			p, err := v.entra.CreateManagedIdentity(v.t.Context(), v.vault.Directory, identityA)
			if err != nil {
				v.t.Fatal(err)
			}
			v.vault.Policies[0].ObjectID = p.ObjectID
			v.put(func(*vault.Vault) {})
		}, reasonIdentity, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newRealVault(t)
				r := v.resource(Settings{Key: v.kek, Identity: identityA})
				d := v.document(r)
				o := mustSeal(t, d, "a", "text")
				time.Sleep(2 * time.Minute)
				if err := d.Err(); err != nil {
					t.Fatalf("before: %v", err)
				}
				c.revoke(v)
				start := time.Now()
				<-d.Done()
				if took := time.Since(start); took > c.within {
					t.Errorf("stopped after %s, want at most %s", took, c.within)
				}
				wantUnusable(t, d.Err(), c.reason)
				c.undo(v)
				start = time.Now()
				for v.Admit(t.Context(), r) != nil {
					time.Sleep(time.Second)
					if time.Since(start) > 5*time.Minute {
						t.Fatalf("never back: %+v", v.Status(r))
					}
				}
				if took := time.Since(start); took > 30*time.Second {
					t.Errorf("back after %s, want at most 30 s", took)
				}
				again, err := v.OpenDocument(t.Context(), r, d.Handle())
				if err != nil {
					t.Fatal(err)
				}
				mustOpen(t, again, "a", o, "text")
			})
		})
	}
}

func TestFaultsOnTheWayToTheEmbeddedVault(t *testing.T) {
	for name, fault := range map[string]keystoretest.Fault{
		"Dropped":     {Err: keystoretest.ErrDropped},
		"ServFail":    {Err: keystoretest.ServFail},
		"Slow":        {Delay: time.Hour},
		"Throttled":   keystoretest.Throttled,
		"Unavailable": keystoretest.Unavailable,
		"WrongBody":   {Status: 200, Body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newRealVault(t)
				r := v.resource(Settings{Key: v.kek, Identity: identityA})
				d := v.document(r)
				v.faults.Set(fault)
				time.Sleep(Grace - time.Minute)
				if err := d.Err(); err != nil {
					t.Errorf("ended during the grace: %v", err)
				}
				if s := v.Status(r); s.State != Unreachable {
					t.Errorf("status = %+v, want Unreachable", s)
				}
				<-d.Done()
				wantUnusable(t, d.Err(), reasonUnreachable)
			})
		})
	}
}

func TestUpdateToANewVersionInTheEmbeddedVault(t *testing.T) {
	v := newRealVault(t)
	r := v.resource(Settings{Key: v.kek, Identity: identityA})
	d := v.document(r)
	next := v.kek.WithVersion(v.newVersion())
	if err := v.Update(t.Context(), r, Settings{Key: next, Identity: identityA}); err != nil {
		t.Fatal(err)
	}
	if s := v.Status(r); s.KeyID != next.String() || d.Err() != nil {
		t.Errorf("status = %+v, document %v; want the new version", s, d.Err())
	}
	if err := v.Check(t.Context(), Settings{Key: next.WithVersion(version1), Identity: identityA}); !hasCode(err, codeVersionNotFound) {
		t.Errorf("check of a missing version: %v, want %s", err, codeVersionNotFound)
	}
}
