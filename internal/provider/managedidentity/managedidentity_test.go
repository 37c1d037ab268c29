package managedidentity_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

const (
	version = "?api-version=2023-01-31"
	all     = providertest.Group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities"
)

func TestGolden(t *testing.T) {
	p := providertest.New(t, nil)
	for _, v := range []string{"2018-11-30", "2022-01-31-preview", "2023-01-31", "2024-11-30"} {
		v = "?api-version=" + v
		name := strings.TrimPrefix(v, "?api-version=")
		p.Golden(name+"/identity-put", p.Do("PUT", all+"/Id-1"+v, `{"location":"West US 2"}`))
		p.Golden(name+"/identity-put-again", p.Do("PUT", all+"/id-1"+v, `{"location":"westus2","tags":{"a":"b"}}`))
		p.Golden(name+"/identity-get", p.Do("GET", all+"/ID-1"+v, ""))
		p.Golden(name+"/identity-patch", p.Do("PATCH", all+"/id-1"+v, `{"tags":{}}`))
		p.Golden(name+"/identity-list", p.Do("GET", all+v, ""))
		p.Golden(name+"/identity-delete", p.Do("DELETE", all+"/id-1"+v, ""))
		p.Golden(name+"/identity-delete-again", p.Do("DELETE", all+"/id-1"+v, ""))
		p.Golden(name+"/identity-not-found", p.Do("GET", all+"/id-1"+v, ""))
	}
}

// TestAssignedResources asks from both sides who has which identity.
func TestAssignedResources(t *testing.T) {
	const (
		preview = "?api-version=2022-01-31-preview"
		servers = providertest.Group + "/providers/Microsoft.FluidRelay/fluidRelayServers/"
		at      = "?api-version=2022-06-01"
		system  = "/providers/Microsoft.ManagedIdentity/identities/default" + version
	)
	p := providertest.New(t, nil)
	id, _ := p.NewIdentity("id1", "westus2")
	p.NewIdentity("other", "westus2")
	const user = `{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{"%s":{}}}}`
	for n := range 101 {
		p.Want(200, p.Do("PUT", fmt.Sprintf("%sr%03d%s", servers, n, at), fmt.Sprintf(user, strings.Replace(id, "resourcegroups", "resourceGroups", 1))))
	}
	p.Want(200, p.Do("PUT", servers+"own"+at, `{"location":"westus2","tags":{"a":"b"},"identity":{"type":"SystemAssigned"}}`))

	first := p.Want(200, p.Do("POST", all+"/ID1/listAssociatedResources"+preview, ""))
	if got := first.Get("totalCount"); got != 101.0 || len(first.Get("value").([]any)) != 100 {
		t.Errorf("first page: %s", first.Body)
	}
	next, err := url.Parse(first.Get("nextLink").(string))
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "POST"} {
		p.Golden("2022-01-31-preview/identity-associated-last-page", p.Want(200, p.Do(method, next.RequestURI(), "")))
	}
	if none := p.Want(200, p.Do("POST", all+"/other/listAssociatedResources"+preview, "")); len(none.Get("value").([]any)) != 0 {
		t.Errorf("of an identity that nobody has: %s", none.Body)
	}
	p.Refused(404, "ResourceNotFound", p.Do("POST", all+"/none/listAssociatedResources"+preview, ""))
	p.Refused(400, "BadRequest", p.Do("POST", all+"/id1/listAssociatedResources"+preview+"&$top=1", ""))
	p.Refused(400, "NoRegisteredProviderFound", p.Do("POST", all+"/id1/listAssociatedResources"+version, ""))

	p.Golden("2023-01-31/system-assigned-get", p.Do("GET", servers+"OWN"+system, ""))
	for _, scope := range []string{servers + "r000", servers + "none", all + "/id1", providertest.Group} {
		p.Refused(404, "ResourceNotFound", p.Do("GET", scope+system, ""))
	}
	p.Refused(404, "ResourceNotFound", p.Do("GET", strings.Replace(servers+"own"+system, "default", "other", 1), ""))
	p.Want(200, p.Do("PATCH", servers+"own"+at, `{"identity":{"type":"None"}}`))
	p.Refused(404, "ResourceNotFound", p.Do("GET", servers+"own"+system, ""))
}

func TestBadRequests(t *testing.T) {
	p := providertest.New(t, nil)
	p.NewIdentity("here", "westus2")
	for _, c := range []struct {
		name, method, target, body string
		status                     int
		code                       string
	}{
		{"NoLocation", "PUT", all + "/id1" + version, `{}`, 400, "LocationRequired"},
		{"OtherLocation", "PUT", all + "/here" + version, `{"location":"eastus"}`, 409, "InvalidResourceLocation"},
		{"PatchOtherLocation", "PATCH", all + "/here" + version, `{"location":"eastus"}`, 409, "InvalidResourceLocation"},
		{"ShortName", "PUT", all + "/ab" + version, `{"location":"westus2"}`, 400, "InvalidResourceName"},
		{"LongName", "PUT", all + "/" + strings.Repeat("x", 129) + version, `{"location":"westus2"}`, 400, "InvalidResourceName"},
		{"HyphenFirst", "PUT", all + "/-abc" + version, `{"location":"westus2"}`, 400, "InvalidResourceName"},
		{"Malformed", "PUT", all + "/id1" + version, `{`, 400, "InvalidRequestContent"},
		{"PatchNothing", "PATCH", all + "/id1" + version, `{}`, 404, "ResourceNotFound"},
		{"UnknownVersion", "GET", all + "?api-version=2012-01-01", ``, 400, "NoRegisteredProviderFound"},
	} {
		t.Run(c.name, func(t *testing.T) { p.Refused(c.status, c.code, p.Do(c.method, c.target, c.body)) })
	}
}

// An identity made again has new ids, also when its first making ended half way.
func TestIdsNeverComeBack(t *testing.T) {
	p := providertest.New(t, nil)
	id, first := p.NewIdentity("id1", "westus2")
	p.Want(200, p.Do("DELETE", all+"/id1"+version, ""))
	if _, err := p.Entra.ManagedIdentity(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the principal is still there: %v", err)
	}
	writes := 0
	p.Store.SetFault(func(memory.Op) memory.Fault {
		writes++
		return memory.Fault{Persist: writes == 1, Fail: writes > 1}
	})
	p.Refused(500, "InternalServerError", p.Do("PUT", all+"/id1"+version, `{"location":"westus2"}`))
	p.Store.SetFault(nil)
	half, err := p.Entra.ManagedIdentity(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	p.Refused(404, "ResourceNotFound", p.Do("GET", all+"/id1"+version, ""))
	_, second := p.NewIdentity("id1", "westus2")
	if second == first || second == half.ObjectID {
		t.Errorf("got principal %s, which was there before", second)
	}
	if got, err := p.Entra.ManagedIdentity(t.Context(), strings.ToUpper(id)); err != nil || got.ObjectID != second {
		t.Errorf("the directory has %+v, %v, want %s", got, err, second)
	}
}

func TestIdentityIsFoundInBothSpellings(t *testing.T) {
	p := providertest.New(t, nil)
	id, principal := p.NewIdentity("id1", "westus2")
	for _, spelling := range []string{id, strings.Replace(id, "resourcegroups", "resourceGroups", 1), strings.ToUpper(id), id + "/"} {
		if got, err := p.Identity.Identity(t.Context(), spelling); err != nil || got.PrincipalID != principal || got.Location != "westus2" {
			t.Errorf("%s: got %+v, %v", spelling, got, err)
		}
	}
	for _, wrong := range []string{"", "id1", id + "x", strings.Replace(id, "userAssignedIdentities", "others", 1)} {
		if _, err := p.Identity.Identity(t.Context(), wrong); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q: got %v, want store.ErrNotFound", wrong, err)
		}
	}
}

const (
	federated = all + "/id1/federatedIdentityCredentials"
	trust     = `{"properties":{"issuer":"https://oidc.example.test/cluster","subject":"system:serviceaccount:a:b","audiences":["api://AzureADTokenExchange"]}}`
)

func TestGoldenFederated(t *testing.T) {
	p := providertest.New(t, nil)
	p.NewIdentity("id1", "westus2")
	for _, v := range []string{"2022-01-31-preview", "2023-01-31", "2024-11-30"} {
		name, v := v, "?api-version="+v
		p.Golden(name+"/federated-put", p.Do("PUT", federated+"/Cluster"+v, trust))
		p.Golden(name+"/federated-put-again", p.Do("PUT", federated+"/cluster"+v, strings.Replace(trust, "a:b", "a:c", 1)))
		p.Golden(name+"/federated-get", p.Do("GET", federated+"/CLUSTER"+v, ""))
		p.Golden(name+"/federated-list", p.Do("GET", federated+v, ""))
		p.Golden(name+"/federated-delete", p.Do("DELETE", federated+"/cluster"+v, ""))
		p.Golden(name+"/federated-delete-again", p.Do("DELETE", federated+"/cluster"+v, ""))
		p.Golden(name+"/federated-not-found", p.Do("GET", federated+"/cluster"+v, ""))
	}
	p.Golden("2024-11-30/identity-isolated", p.Do("PUT", all+"/id2?api-version=2024-11-30", `{"location":"westus2","properties":{"isolationScope":"regional"}}`))
	// An older version keeps what it does not know.
	p.Want(200, p.Do("PATCH", all+"/id2"+version, `{"tags":{"a":"b"}}`))
	if got := p.Do("GET", all+"/id2?api-version=2024-11-30", "").Get("properties.isolationScope"); got != "Regional" {
		t.Errorf("got isolationScope %v, want Regional", got)
	}
	if got := p.Do("GET", all+"/id2"+version, "").Get("properties.isolationScope"); got != nil {
		t.Errorf("an older version shows isolationScope %v", got)
	}
}

func TestBadFederatedCredentials(t *testing.T) {
	p := providertest.New(t, nil)
	_, principal := p.NewIdentity("id1", "westus2")
	p.Want(201, p.Do("PUT", federated+"/first"+version, trust))
	with := func(from, to string) string { return strings.Replace(trust, from, to, 1) }
	for _, c := range []struct {
		name, target, body string
		status             int
		code               string
	}{
		{"ShortName", federated + "/ab" + version, trust, 400, "InvalidResourceName"},
		{"LongName", federated + "/" + strings.Repeat("x", 121) + version, trust, 400, "InvalidResourceName"},
		{"NoIssuer", federated + "/one" + version, with("https://oidc.example.test/cluster", ""), 400, "BadRequest"},
		{"PlainIssuer", federated + "/one" + version, with("https", "http"), 400, "BadRequest"},
		{"IssuerWithUser", federated + "/one" + version, with("https://", "https://user@"), 400, "BadRequest"},
		{"IssuerWithQuery", federated + "/one" + version, with("/cluster", "/cluster?x"), 400, "BadRequest"},
		{"NoSubject", federated + "/one" + version, with("system:serviceaccount:a:b", ""), 400, "BadRequest"},
		{"NoAudience", federated + "/one" + version, with(`"api://AzureADTokenExchange"`, ""), 400, "BadRequest"},
		{"TwoAudiences", federated + "/one" + version, with(`["`, `["x","`), 400, "BadRequest"},
		{"LongSubject", federated + "/one" + version, with("a:b", strings.Repeat("a", 601)), 400, "BadRequest"},
		{"SameTrust", federated + "/one" + version, trust, 409, "Conflict"},
		{"NoIdentity", strings.Replace(federated, "id1", "other", 1) + "/one" + version, trust, 404, "ParentResourceNotFound"},
		{"OldVersion", federated + "/one?api-version=2018-11-30", trust, 400, "NoRegisteredProviderFound"},
		{"Malformed", federated + "/one" + version, "{", 400, "InvalidRequestContent"},
		{"Isolation", all + "/id1?api-version=2024-11-30", `{"location":"westus2","properties":{"isolationScope":"x"}}`, 400, "BadRequest"},
	} {
		t.Run(c.name, func(t *testing.T) { p.Refused(c.status, c.code, p.Do("PUT", c.target, c.body)) })
	}
	for n := range 19 {
		p.Want(201, p.Do("PUT", fmt.Sprintf("%s/more%d%s", federated, n, version), with("a:b", fmt.Sprint("a:", n))))
	}
	p.Refused(400, "BadRequest", p.Do("PUT", federated+"/more20"+version, with("a:b", "a:20")))
	p.Want(200, p.Do("DELETE", all+"/id1"+version, ""))
	if _, err := p.Entra.FederatedCredentials(t.Context(), principal); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a deleted identity has federated credentials: %v", err)
	}
}
