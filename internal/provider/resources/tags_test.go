package resources_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/providertest"
)

const tags = "/providers/Microsoft.Resources/tags/default" + version

func TestTags(t *testing.T) {
	p := providertest.New(t, nil)
	identity, _ := p.NewIdentity("id1", "westus2")
	p.PutVault("kv1")
	server := providertest.Group + "/providers/Microsoft.FluidRelay/fluidRelayServers/s1"
	p.Want(200, p.Do("PUT", server+"?api-version=2022-06-01", `{"location":"westus2"}`))
	vault := strings.TrimSuffix(providertest.VaultPath("kv1"), "?api-version=2023-07-01")
	for _, at := range []string{providertest.Group, identity, vault, server} {
		for _, c := range []struct{ method, body, want string }{
			{"PUT", `{"properties":{"tags":{"Team":"a","cost":"1"}}}`, "map[Team:a cost:1]"},
			{"GET", ``, "map[Team:a cost:1]"},
			{"PATCH", `{"operation":"Merge","properties":{"tags":{"team":"b","x":"y"}}}`, "map[cost:1 team:b x:y]"},
			{"PATCH", `{"operation":"delete","properties":{"tags":{"X":"","cost":"2"}}}`, "map[cost:1 team:b]"},
			{"PATCH", `{"operation":"Delete","properties":{"tags":{"cost":"1"}}}`, "map[team:b]"},
			{"PATCH", `{"operation":"Replace","properties":{"tags":{"z":"1"}}}`, "map[z:1]"},
		} {
			if got := fmt.Sprint(p.Want(200, p.Do(c.method, at+tags, c.body)).Get("properties.tags")); got != c.want {
				t.Errorf("%s %s: got %s, want %s", c.method, at, got, c.want)
			}
		}
	}
	p.Golden("tags", p.Do("GET", server+tags, ""))
	p.Golden("tag-names", p.Do("GET", sub+"/tagNames"+version, ""))
	if got := p.Do("GET", server+"?api-version=2022-06-01", "").Get("tags.z"); got != "1" {
		t.Errorf("the server's own view of the tag is %v", got)
	}
	p.Want(200, p.Do("DELETE", server+tags, ""))
	if got := p.Do("GET", server+"?api-version=2022-06-01", "").Get("tags"); got != nil {
		t.Errorf("after the deletion there are the tags %v", got)
	}
	p.Refused(400, "InvalidTagsOperation", p.Do("PATCH", server+tags, `{"operation":"Shuffle"}`))
	p.Refused(400, "TagsNotSupported", p.Do("PUT", sub+tags, `{"properties":{"tags":{}}}`))
	p.Refused(404, "ResourceNotFound", p.Do("GET", strings.Replace(server, "/s1", "/s2", 1)+tags, ""))
	p.Refused(404, "InvalidResourceType", p.Do("GET", providertest.Group+"/providers/Microsoft.Compute/disks/d"+tags, ""))
	p.Refused(400, "InvalidTagNameCharacters", p.Do("PUT", server+tags, `{"properties":{"tags":{"a/b":"c"}}}`))
	p.Refused(400, "InvalidRequestContent", p.Do("PUT", server+tags, `{`))
}

// Tags may be changed by who may change nothing else, and are not by who may only read.
func TestTagsNeedTheirOwnPermission(t *testing.T) {
	p := providertest.New(t, nil)
	identity, _ := p.NewIdentity("id1", "westus2")
	for role, want := range map[string]int{"Tag Contributor": 200, "Reader": 403} {
		app, secret, err := p.Entra.CreateApplication(t.Context(), p.Directory, role)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Entra.Assign(t.Context(), app.ObjectID, role, providertest.Group); err != nil {
			t.Fatal(err)
		}
		token := p.Token(app, secret, entra.AudienceManagement)
		p.Want(want, p.DoAs(token, "PUT", identity+tags, `{"properties":{"tags":{"a":"b"}}}`))
		p.Want(want, p.DoAs(token, "PATCH", identity+tags, `{"operation":"Merge","properties":{"tags":{"c":"d"}}}`))
		p.Want(want, p.DoAs(token, "DELETE", identity+tags, ""))
		p.Want(200, p.DoAs(token, "GET", identity+tags, ""))
		p.Refused(403, "AuthorizationFailed", p.DoAs(token, "PATCH", identity+"?api-version=2023-01-31", `{"tags":{}}`))
	}
}

func TestExpandAndGroupFilter(t *testing.T) {
	p := providertest.New(t, nil)
	p.NewIdentity("id1", "westus2")
	p.Want(201, p.Do("PUT", rg+"tagged"+version, `{"location":"westus2","tags":{"Team":"a"}}`))
	p.Golden("resources-expanded", p.Do("GET", sub+"/resources"+version+"&$expand=createdTime,changedTime,provisioningState", ""))
	if got := p.Want(200, p.Do("GET", sub+"/resourcegroups"+version+"&$filter=tagName%20eq%20'team'%20and%20tagValue%20eq%20'a'", "")).Get("value").([]any); len(got) != 1 {
		t.Errorf("got %d groups with the tag, want 1", len(got))
	}
	p.Refused(400, "InvalidFilterInQueryString", p.Do("GET", sub+"/resourcegroups"+version+"&$filter=x", ""))
}
