package fluidrelay_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/providertest"
)

const usesPath = "/subscriptions/" + providertest.Subscription + "/providers/Microsoft.FluidRelay/keyUses?api-version=2025-06-20-preview"

func previewPath(server, what string) string {
	return strings.Replace(serverPath(server), version, "/"+what+"?api-version=2025-06-20-preview", 1)
}

// check asks for a dry run and returns the codes of the problems.
func (f *fixture) check(t *testing.T, server, body string) []string {
	t.Helper()
	var w struct {
		Usable   bool                 `json:"usable"`
		Problems []providertest.Error `json:"problems"`
	}
	a := f.Want(200, f.Do("POST", previewPath(server, "checkEncryption"), body))
	if err := json.Unmarshal(a.Body, &w); err != nil {
		t.Fatalf("%s: %v", a.Body, err)
	}
	codes := []string{}
	for _, each := range w.Problems {
		if each.Message == "" || each.Target == "" {
			t.Errorf("problem %+v has no message or target", each)
		}
		codes = append(codes, each.Code)
	}
	if w.Usable != (len(codes) == 0) {
		t.Errorf("usable is %v with problems %v", w.Usable, codes)
	}
	return codes
}

// Scenario 14: the dry run names what PUT is refused for, and writes nothing.
func TestScenario14DryRunEqualsPut(t *testing.T) {
	f := newFixture(t)
	bad := f.NewKey("kv1", "bad", `{"kty":"RSA","key_ops":["sign"],"attributes":{"enabled":false,"exp":1500000000}}`)
	far, _ := f.NewIdentity("far", "eastus")
	for name, by := range map[string]func(*cmkBody){
		"Nothing":    func(*cmkBody) {},
		"Everything": func(b *cmkBody) { b.location, b.url, b.keyKind, b.kind = "eastus", bad, "SystemAssigned", "None" },
		"Key":        func(b *cmkBody) { b.url = bad },
		"Url":        func(b *cmkBody) { b.url = "ftp://x" },
		"Identity":   func(b *cmkBody) { b.keyID, b.assigned = far, []string{far} },
	} {
		t.Run(name, func(t *testing.T) {
			b := f.body()
			by(&b)
			got := f.check(t, "none", b.String())
			f.Refused(404, "ResourceNotFound", f.Do("GET", serverPath("none"), ""))
			a := f.Do("PUT", serverPath("made-"+name), b.String())
			want := details(a.Error())
			if len(want) == 0 && a.Status != 200 {
				want = []string{a.Error().Code}
			}
			if !slices.Equal(got, want) && len(got)+len(want) > 0 {
				t.Errorf("the dry run found %v, PUT %v", got, want)
			}
		})
	}
}

func TestCheckOfAServerThatExists(t *testing.T) {
	f := newFixture(t)
	before := f.newServer("s1")
	f.Want(200, f.Do("PUT", serverPath("plain"), `{"location":"westus2"}`))
	second := f.NewKey("kv1", "good", "")
	ec := f.NewKey("kv1", "elliptic", `{"kty":"EC","crv":"P-256"}`)
	patch := func(url string) string {
		return fmt.Sprintf(`{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":%q}}}}`, url)
	}
	enable := func(on bool) {
		path := "/keys/good/" + providertest.Version(f.key)
		f.Want(200, f.Keys("PATCH", "kv1", path, fmt.Sprintf(`{"attributes":{"enabled":%v}}`, on)))
	}
	for _, c := range []struct {
		name, server, body string
		disabled           bool // the version in use
		want               []string
	}{
		{"AsConfigured", "s1", ``, false, nil},
		{"AsConfiguredDisabled", "s1", ``, true, []string{"KeyDisabled"}},
		{"ServiceManaged", "plain", ``, false, nil},
		{"NewVersion", "s1", patch(second), false, nil},
		{"PreviousDisabled", "s1", patch(second), true, []string{"PreviousKeyDisabled"}},
		{"Both", "s1", patch(ec), true, []string{"KeyTypeNotRsa", "PreviousKeyDisabled"}},
		{"TurnOff", "s1", `{"properties":{"encryption":null}}`, false, []string{"CmkCannotBeDisabled"}},
		{"TurnOn", "plain", patch(second), false, []string{"CmkCannotBeEnabled"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			enable(!c.disabled)
			if got := f.check(t, c.server, c.body); !slices.Equal(got, c.want) && len(got)+len(c.want) > 0 {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	enable(true)
	if after := f.Do("GET", serverPath("s1"), ""); string(after.Body) != string(before.Body) {
		t.Errorf("a dry run changed the server: %s, was %s", after.Body, before.Body)
	}
	if n := len(f.Do("GET", previewPath("s1", "encryptionHistory"), "").Get("value").([]any)); n != 1 {
		t.Errorf("%d wrap records after dry runs, want 1", n)
	}
	f.Refused(400, "InvalidRequestContent", f.Do("POST", previewPath("s1", "checkEncryption"), `[`))
	f.Refused(400, "NoRegisteredProviderFound", f.Do("GET", strings.Replace(previewPath("s1", "encryptionStatus"), "2025-06-20-preview", "2022-06-01", 1), ""))
}

// A dry run uses an identity, so it needs the right to assign that.
func TestPreviewNeedsPermission(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	app, secret, err := f.Entra.CreateApplication(t.Context(), f.Directory, "reader")
	if err != nil {
		t.Fatal(err)
	}
	token := f.Token(app, secret, entra.AudienceManagement)
	for _, what := range []string{"encryptionStatus", "encryptionHistory"} {
		f.Refused(403, "AuthorizationFailed", f.DoAs(token, "GET", previewPath("s1", what), ""))
	}
	f.Refused(403, "AuthorizationFailed", f.DoAs(token, "POST", previewPath("s1", "checkEncryption"), ""))
	if err := f.Entra.Assign(t.Context(), app.ObjectID, "Reader", providertest.Group); err != nil {
		t.Fatal(err)
	}
	f.Want(200, f.DoAs(token, "GET", previewPath("s1", "encryptionStatus"), ""))
	f.Refused(403, "AuthorizationFailed", f.DoAs(token, "POST", previewPath("s1", "checkEncryption"), ""))
}

func TestStatusAndHistory(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	f.Want(200, f.Do("PUT", serverPath("plain"), `{"location":"westus2"}`))
	second := f.NewKey("kv1", "good", "")
	newest := strings.TrimSuffix(second, "/"+providertest.Version(second))
	f.Want(200, f.Do("PATCH", serverPath("s1"), fmt.Sprintf(`{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":%q}}}}`, newest)))
	f.Golden("encryption-status", f.Do("GET", previewPath("s1", "encryptionStatus"), ""))
	f.Golden("encryption-status-service", f.Do("GET", previewPath("plain", "encryptionStatus"), ""))
	f.Refused(400, "InvalidSkipToken", f.Do("GET", usesPath+"&$skipToken=-1", ""))
	if got := f.Want(200, f.Do("GET", usesPath, "")); got.Get("first") != 1.0 || got.Get("last") != float64(len(got.Get("value").([]any))) {
		t.Errorf("key uses: %s", got.Body)
	}
	f.Golden("encryption-history", f.Do("GET", previewPath("s1", "encryptionHistory"), ""))
	history := f.Do("GET", previewPath("s1", "encryptionHistory"), "").Get("value").([]any)
	if len(history) != 2 {
		t.Fatalf("%d records, want 2", len(history))
	}
	for n, want := range []struct {
		kid     string
		inForce bool
	}{{second, true}, {f.key, false}} {
		got := history[n].(map[string]any)
		if got["keyIdentifier"] != want.kid || got["inForce"] != want.inForce || got["vaultRequestId"] == "" {
			t.Errorf("record %d is %v, want %s, in force %v", n, got, want.kid, want.inForce)
		}
	}
	f.Refused(404, "ResourceNotFound", f.Do("GET", previewPath("none", "encryptionStatus"), ""))
	f.Refused(404, "ResourceNotFound", f.Do("GET", previewPath("none", "encryptionHistory"), ""))
}
