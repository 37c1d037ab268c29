package resources_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/providertest"
	"github.com/tidelock/tidelock/internal/provider/resources"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

const (
	sub     = "/subscriptions/" + providertest.Subscription
	version = "?api-version=2021-04-01"
	rg      = sub + "/resourcegroups/"
)

func TestGolden(t *testing.T) {
	p := providertest.New(t, nil)
	p.NewIdentity("id1", "westus2")
	p.Golden("tenants", p.Do("GET", "/tenants"+version, ""))
	p.Golden("subscriptions", p.Do("GET", "/subscriptions"+version, ""))
	p.Golden("subscription", p.Do("GET", sub+version, ""))
	p.Golden("group-put", p.Do("PUT", rg+"Group.2"+version, `{"location":"West Europe","tags":{"a":"b"}}`))
	p.Golden("group-put-again", p.Do("PUT", rg+"group.2"+version, `{"location":"westeurope"}`))
	p.Golden("group-patch", p.Do("PATCH", rg+"group.2"+version, `{"tags":{"c":"d"}}`))
	p.Golden("group-get", p.Do("GET", rg+"GROUP.2"+version, ""))
	p.Golden("group-head", p.Do("HEAD", rg+"group.2"+version, ""))
	p.Golden("groups", p.Do("GET", sub+"/resourceGroups"+version, ""))
	p.Golden("resources", p.Do("GET", sub+"/resources"+version, ""))
	p.Golden("provider", p.Do("GET", sub+"/providers/microsoft.managedidentity"+version, ""))
	p.Golden("group-delete", p.Do("DELETE", rg+"group.2"+version, ""))
	p.Golden("group-not-found", p.Do("GET", rg+"group.2"+version, ""))
	if got := p.Do("HEAD", rg+"group.2"+version, "").Status; got != 404 {
		t.Errorf("HEAD of a deleted group: got %d, want 404", got)
	}
	p.Refused(404, "ResourceGroupNotFound", p.Do("DELETE", rg+"group.2"+version, ""))
}

func TestProvidersAndLocations(t *testing.T) {
	p := providertest.New(t, nil)
	for _, namespace := range []string{"Microsoft.FluidRelay", "Microsoft.KeyVault", "Microsoft.ManagedIdentity", "Microsoft.Resources", "Microsoft.Authorization"} {
		a := p.Want(200, p.Do("POST", sub+"/providers/"+strings.ToLower(namespace)+"/register"+version, ""))
		if a.Get("registrationState") != "Registered" || a.Get("namespace") != namespace {
			t.Errorf("register %s: got %s", namespace, a.Body)
		}
	}
	p.Refused(404, "InvalidResourceNamespace", p.Do("GET", sub+"/providers/Microsoft.Compute"+version, ""))
	listed := p.Want(200, p.Do("GET", sub+"/providers"+version, "")).Get("value").([]any)
	if len(listed) != 7 {
		t.Errorf("got %d providers, want 7", len(listed))
	}
	for _, l := range p.Want(200, p.Do("GET", sub+"/locations"+version, "")).Get("value").([]any) {
		if m := l.(map[string]any); m["name"] == "westus2" && m["displayName"] == "West US 2" {
			return
		}
	}
	t.Error("westus2 is not among the locations")
}

func TestBadGroups(t *testing.T) {
	p := providertest.New(t, nil)
	for _, c := range []struct {
		name, group, body string
		status            int
		code              string
	}{
		{"NoLocation", "g", `{}`, 400, "LocationRequired"},
		{"UnknownLocation", "g", `{"location":"moon"}`, 400, "LocationNotAvailableForResourceType"},
		{"OtherLocation", "rg1", `{"location":"eastus"}`, 409, "InvalidResourceGroupLocation"},
		{"DotAtTheEnd", "g.", `{"location":"eastus"}`, 400, "InvalidResourceGroupName"},
		{"LongName", strings.Repeat("g", 91), `{"location":"eastus"}`, 400, "InvalidResourceGroupName"},
		{"BlankInName", "a%20b", `{"location":"eastus"}`, 400, "InvalidResourceGroupName"},
		{"SlashInName", "a%2Fb", `{"location":"eastus"}`, 400, "InvalidResourceName"},
		{"LongTag", "g", `{"location":"eastus","tags":{"a":"` + strings.Repeat("x", 257) + `"}}`, 400, "InvalidTagValueLength"},
		{"LongTagName", "g", `{"location":"eastus","tags":{"` + strings.Repeat("ä", 513) + `":""}}`, 400, "InvalidTagNameLength"},
		{"Malformed", "g", `{`, 400, "InvalidRequestContent"},
	} {
		t.Run(c.name, func(t *testing.T) { p.Refused(c.status, c.code, p.Do("PUT", rg+c.group+version, c.body)) })
	}
	longest := fmt.Sprintf(`{"location":"eastus","tags":{%q:%q}}`, strings.Repeat("ä", 512), strings.Repeat("x", 256))
	p.Want(201, p.Do("PUT", rg+strings.Repeat("g", 90)+version, longest))
}

func TestSubscriptionsAreShownToThoseWhoMayReadThem(t *testing.T) {
	p := providertest.New(t, nil)
	app, secret, err := p.Entra.CreateApplication(t.Context(), p.Directory, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	token := p.Token(app, secret, entra.AudienceManagement)
	if got := strings.TrimSpace(string(p.DoAs(token, "GET", "/subscriptions"+version, "").Body)); got != `{"value":[]}` {
		t.Errorf("a stranger sees %s", got)
	}
	for _, target := range []string{sub, sub + "/resourceGroups", sub + "/resources", sub + "/locations", sub + "/providers", rg + "rg1"} {
		p.Refused(403, "AuthorizationFailed", p.DoAs(token, "GET", target+version, ""))
	}
	p.Refused(404, "SubscriptionNotFound", p.Do("GET", strings.ReplaceAll(sub, "1", "2")+version, ""))
}

func TestResourceFilter(t *testing.T) {
	p := providertest.New(t, nil)
	p.NewIdentity("id1", "westus2")
	p.NewIdentity("id2", "eastus")
	p.Want(200, p.Do("PATCH", providertest.Group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id2?api-version=2023-01-31", `{"tags":{"Team":"it's us"}}`))
	p.PutVault("kv1")
	for _, c := range []struct {
		filter string
		want   int // -1: refused
	}{
		{"", 3},
		{"resourceType eq 'Microsoft.KeyVault/vaults'", 1},
		{"resourcetype EQ 'microsoft.managedidentity/userassignedidentities' and location eq 'eastus'", 1},
		{"name eq 'kv1' and resourceGroup eq 'RG1'", 1},
		{"resourceGroup eq 'rg2'", 0},
		{"tagName eq 'team' and tagValue eq 'it''s us'", 1},
		{"tagName eq 'team' and tagValue eq 'other'", 0},
		{"tagValue eq 'x'", -1},
		{"plan eq 'x'", -1},
		{"name ne 'x'", -1},
		{"name eq 'x' or name eq 'y'", -1},
		{"name eq 'x' and", -1},
		{"name eq 'x", -1},
	} {
		query := strings.NewReplacer(" ", "%20", "'", "%27").Replace(c.filter)
		a := p.Do("GET", sub+"/resources"+version+"&$filter="+query, "")
		if c.want < 0 {
			p.Refused(400, "InvalidFilterInQueryString", a)
			continue
		}
		if got, _ := p.Want(200, a).Get("value").([]any); len(got) != c.want {
			t.Errorf("%s: got %d, want %d", c.filter, len(got), c.want)
		}
	}
	if got, _ := p.Want(200, p.Do("GET", providertest.Group+"/resources"+version, "")).Get("value").([]any); len(got) != 3 {
		t.Errorf("the group has %d resources, want 3", len(got))
	}
}

// A deletion that fails half way leaves the group, to be deleted again.
func TestInterruptedGroupDeletion(t *testing.T) {
	p := providertest.New(t, nil)
	p.NewIdentity("id1", "westus2")
	const identity = "rg1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id2?api-version=2023-01-31"
	for range 2 { // cut off after the mark, and after what is in the group is gone
		writes := 0
		p.Store.SetFault(func(op memory.Op) memory.Fault {
			writes++
			return memory.Fault{Persist: writes == 1, Fail: writes > 1}
		})
		p.Refused(500, "InternalServerError", p.Do("DELETE", rg+"rg1"+version, ""))
		p.Store.SetFault(nil)
		if got := string(p.Do("GET", rg+"rg1"+version, "").Body); !strings.Contains(got, `"provisioningState":"Deleting"`) {
			t.Errorf("after an interrupted deletion: %s", got)
		}
		p.Refused(409, "ResourceGroupBeingDeleted", p.Do("PUT", rg+identity, `{"location":"westus2"}`))
		p.Refused(409, "ResourceGroupBeingDeleted", p.Do("PUT", rg+"rg1"+version, `{"location":"westus2"}`))
		p.Refused(409, "ResourceGroupBeingDeleted", p.Do("PATCH", rg+"rg1"+version, `{"tags":{}}`))
	}
	p.Want(200, p.Do("DELETE", rg+"rg1"+version, ""))
	p.Refused(404, "ResourceGroupNotFound", p.Do("GET", rg+"rg1"+version, ""))
}

// contested is what another process is at work on, so many times more.
type contested struct{ times int }

func (c *contested) Resources(context.Context, string) ([]tracked.Summary, error) { return nil, nil }

func (c *contested) DeleteGroup(context.Context, string, string) error {
	if c.times--; c.times >= 0 {
		return tracked.Conflict(arm.ResourceID{}, store.ErrConflict)
	}
	return nil
}

// Who was making something in a group that is deleted takes it away himself, which is no reason to
// refuse the deletion.
func TestGroupDeletedWhileOthersWork(t *testing.T) {
	p := providertest.New(t, nil)
	c := &contested{3}
	p.Resources.Contain(c)
	p.Want(201, p.Do("PUT", rg+"rg2"+version, `{"location":"westus2"}`))
	p.Want(200, p.Do("DELETE", rg+"rg2"+version, ""))
	c.times = 1000
	p.Want(201, p.Do("PUT", rg+"rg2"+version, `{"location":"westus2"}`))
	if a := p.Refused(409, "Conflict", p.Do("DELETE", rg+"rg2"+version, "")); !strings.Contains(a.Message, "'rg2' was changed") {
		t.Errorf("the group is not named: %s", a.Message)
	}
}

func TestMetadata(t *testing.T) {
	p := providertest.New(t, nil)
	h := resources.MetadataHandler(resources.Cloud{
		Name: "Tidelock", ManagementURL: "https://m.test:8443", LoginURL: "https://l.test:8443", GraphURL: "https://m.test:8443/graph", ADFS: true, VaultSuffix: "vault.test:8443", HSMSuffix: "managedhsm.test:8443",
	})
	get := func(method, target string) providertest.Answer {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, nil))
		return providertest.Answer{Request: target, Status: w.Code, Body: w.Body.Bytes()}
	}
	for _, v := range []string{"2015-01-01", "2019-05-01", "2022-09-01"} {
		p.Golden("metadata-"+v, get("GET", "/metadata/endpoints?api-version="+v))
	}
	p.Want(200, get("GET", "//Metadata/Endpoints/?api-version=2022-09-01"))
	p.Refused(400, "MissingApiVersionParameter", get("GET", "/metadata/endpoints"))
	p.Refused(400, "InvalidApiVersionParameter", get("GET", "/metadata/endpoints?api-version=1"))
	p.Refused(405, "MethodNotAllowed", get("POST", "/metadata/endpoints?api-version=2022-09-01"))
	p.Refused(404, "NotFound", get("GET", "/metadata/instance?api-version=2022-09-01"))
}
