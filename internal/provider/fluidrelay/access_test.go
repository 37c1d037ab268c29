package fluidrelay_test

import (
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

func preview(target string) string {
	return strings.Replace(target, "2022-06-01", "2025-06-20-preview", 1)
}

func TestPreviewGolden(t *testing.T) {
	f := newFixture(t)
	const v = "2025-06-20-preview"
	f.Golden(v+"/server-put", f.Do("PUT", preview(serverPath("s1")), f.body().String()))
	f.Golden(v+"/server-patch", f.Do("PATCH", preview(serverPath("s1")), `{"properties":{"sharedKeyAccess":"Disabled"}}`))
	f.Golden(v+"/server-get", f.Do("GET", preview(serverPath("s1")), ""))
	f.Golden(v+"/server-list", f.Do("GET", preview(providertest.Group+"/providers/Microsoft.FluidRelay/fluidRelayServers"+version), ""))
	f.Golden(v+"/private-endpoint-connections", f.Do("GET", previewPath("s1", "privateEndpointConnections"), ""))
	f.Golden(v+"/private-endpoint-connection-put", f.Do("PUT", previewPath("s1", "privateEndpointConnections/c"), `{"properties":{}}`))
	f.Golden(v+"/private-link-resources", f.Do("GET", previewPath("s1", "privateLinkResources"), ""))
	f.Golden(v+"/operations", f.Do("GET", preview("/providers/Microsoft.FluidRelay/operations"+version), ""))
}

func TestAccessSwitches(t *testing.T) {
	f := newFixture(t)
	const plain = `{"location":"westus2"}`
	tenant := f.Want(200, f.Do("PUT", serverPath("s1"), plain)).Get("properties.frsTenantId").(string)
	closed := func() string {
		t.Helper()
		found, ok, err := f.Fluid.Lookup(t.Context(), tenant)
		if err != nil || !ok {
			t.Fatalf("lookup: %t, %v", ok, err)
		}
		return found.Closed
	}
	set := func(method, properties string) {
		t.Helper()
		f.Want(200, f.Do(method, preview(serverPath("s1")), `{"location":"westus2","properties":`+properties+`}`))
	}
	for _, c := range []struct{ name, method, properties, want string }{
		{"SharedKeyDisabled", "PATCH", `{"sharedKeyAccess":"Disabled"}`, "Shared key access is disabled"},
		{"Kept", "PATCH", `{}`, "Shared key access is disabled"},
		{"SharedKeyEnabled", "PATCH", `{"sharedKeyAccess":"Enabled"}`, ""},
		{"NetworkDisabled", "PUT", `{"publicNetworkAccess":"Disabled","privateKeyAccess":"Disabled"}`, "Public network access is disabled"},
		{"PutReplaces", "PUT", `{"sharedKeyAccess":"Disabled"}`, "Shared key access is disabled"},
		{"NullIsTheDefault", "PATCH", `{"sharedKeyAccess":null}`, ""},
		{"Again", "PATCH", `{"publicNetworkAccess":"Disabled"}`, "Public network access is disabled"},
	} {
		before := len(f.Relay.CutOffs)
		set(c.method, c.properties)
		if got := closed(); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: closed is %q, want %q", c.name, got, c.want)
		}
		cut := 0
		if c.want != "" {
			cut = 1
		}
		if got := len(f.Relay.CutOffs) - before; got != cut || cut == 1 && f.Relay.CutOffs[before] != tenant {
			t.Errorf("%s: cut off %v, want %d times", c.name, f.Relay.CutOffs[before:], cut)
		}
	}

	// A released version does not know the switches: it shows none and changes none.
	for _, a := range []providertest.Answer{
		f.Do("PUT", serverPath("s1"), plain), f.Do("PATCH", serverPath("s1"), `{"properties":{"publicNetworkAccess":"Enabled"}}`), f.Do("GET", serverPath("s1"), ""),
	} {
		if f.Want(200, a).Get("properties.publicNetworkAccess") != nil {
			t.Errorf("%s shows publicNetworkAccess: %s", a.Request, a.Body)
		}
	}
	if got := closed(); got == "" {
		t.Error("a released version opened the tenant")
	}

	for _, c := range []struct{ method, target, body, code string }{
		{"PATCH", preview(serverPath("s1")), `{"properties":{"sharedKeyAccess":"off"}}`, "InvalidPropertyValue"},
		{"PUT", preview(serverPath("s2")), `{"location":"westus2","properties":{"publicNetworkAccess":"SecuredByPerimeter"}}`, "InvalidPropertyValue"},
		{"PATCH", preview(serverPath("s1")), `{"properties":{"privateKeyAccess":"Enabled"}}`, "PrivateKeyAccessNotSupported"},
		{"PUT", previewPath("s1", "privateEndpointConnections/c"), `{}`, "PrivateEndpointsNotSupported"},
	} {
		f.Refused(400, c.code, f.Do(c.method, c.target, c.body))
	}
	f.Want(204, f.Do("DELETE", previewPath("s1", "privateEndpointConnections/c"), ""))
	f.Refused(404, "ResourceNotFound", f.Do("GET", previewPath("s1", "privateEndpointConnections/c"), ""))
	f.Refused(404, "ResourceNotFound", f.Do("GET", previewPath("s1", "privateLinkResources/r"), ""))
	f.Refused(404, "ResourceNotFound", f.Do("PUT", previewPath("none", "privateEndpointConnections/c"), `{}`))
	f.Refused(400, "NoRegisteredProviderFound", f.Do("GET", strings.Replace(previewPath("s1", "privateLinkResources"), "2025-06-20-preview", "2022-06-01", 1), ""))
}
