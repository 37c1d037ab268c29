package fluidrelay_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/provider/providertest"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

func action(name, verb string) string {
	return strings.TrimSuffix(serverPath(name), version) + "/" + verb + version
}

// containers is a data plane with one document for each tenant, and as many more as
// are asked for.
type containers struct {
	more    int
	deleted []string
}

func (c *containers) all() []fluidrelay.Container {
	at := time.Unix(1700000000, 0)
	all := []fluidrelay.Container{{ID: "doc-A", Created: at, Accessed: at.Add(time.Minute)}}
	for n := range c.more {
		all = append(all, fluidrelay.Container{ID: fmt.Sprintf("more-%d", n), Created: at, Accessed: at})
	}
	return all
}

// Containers gives places that count the documents before them.
func (c *containers) Containers(_ context.Context, _ string, after envelope.Name, limit int) ([]fluidrelay.Container, envelope.Name, error) {
	all := c.all()[binary.BigEndian.Uint32(after[:]):]
	if len(all) <= limit {
		return all, envelope.Name{}, nil
	}
	binary.BigEndian.PutUint32(after[:], binary.BigEndian.Uint32(after[:])+uint32(limit))
	return all[:limit], after, nil
}

func (c *containers) Container(_ context.Context, _, id string) (fluidrelay.Container, error) {
	for _, one := range c.all() {
		if one.ID == id {
			return one, nil
		}
	}
	return fluidrelay.Container{}, store.ErrNotFound
}

func (c *containers) AcceptRollback(_ context.Context, _, id string) error {
	if id != "doc-A" {
		return store.ErrNotFound
	}
	return nil
}

func (c *containers) RotateContainerKey(_ context.Context, _, id string) error {
	switch id {
	case "doc-A":
		return nil
	case "doc-B":
		return &custody.UnusableError{Reason: "KeyDisabled"}
	}
	return store.ErrNotFound
}

func (c *containers) DeleteContainer(_ context.Context, _, id string) (custody.Receipt, error) {
	if id != "doc-A" {
		return custody.Receipt{}, store.ErrNotFound
	}
	c.deleted = append(c.deleted, id)
	return custody.Receipt{ID: "r", Of: "document", Name: id}, nil
}

func TestGolden(t *testing.T) {
	f := newFixture(t)
	plain := providertest.New(t, &containers{})
	for _, v := range []string{"2022-05-26", "2022-06-01"} {
		at := func(target string) string { return strings.Replace(target, "2022-06-01", v, 1) }
		b := f.body()
		b.tags = `{"category":"sales"}`
		f.Golden(v+"/server-put", f.Do("PUT", at(serverPath("s1")), b.String()))
		f.Golden(v+"/server-get", f.Do("GET", at(serverPath("s1")), ""))
		f.Golden(v+"/server-patch", f.Do("PATCH", at(serverPath("s1")), `{"tags":{"a":"1"}}`))
		f.Golden(v+"/server-list", f.Do("GET", at(providertest.Group+"/providers/Microsoft.FluidRelay/fluidRelayServers"+version), ""))
		f.Golden(v+"/server-list-keys", f.Do("POST", at(action("s1", "listKeys")), ""))
		f.Golden(v+"/server-regenerate-key", f.Do("POST", at(action("s1", "regenerateKey")), `{"keyName":"key1"}`))
		f.Golden(v+"/server-delete", f.Do("DELETE", at(serverPath("s1")), ""))
		f.Golden(v+"/server-delete-again", f.Do("DELETE", at(serverPath("s1")), ""))
		f.Golden(v+"/server-not-found", f.Do("GET", at(serverPath("s1")), ""))
		f.Golden(v+"/operations", f.Do("GET", at("/providers/Microsoft.FluidRelay/operations"+version), ""))

		plain.Golden(v+"/server-put-plain", plain.Do("PUT", at(serverPath("s2")), `{"location":"West US 2","identity":{"type":"SystemAssigned"},"properties":{"storagesku":"basic"}}`))
		plain.Golden(v+"/containers-list", plain.Do("GET", at(action("s2", "fluidRelayContainers")), ""))
		plain.Golden(v+"/container-get", plain.Do("GET", at(action("s2", "fluidRelayContainers/doc-A")), ""))
		plain.Golden(v+"/container-not-found", plain.Do("GET", at(action("s2", "fluidRelayContainers/doc-a")), ""))
		plain.Golden(v+"/container-delete", plain.Do("DELETE", at(action("s2", "fluidRelayContainers/doc-A")), ""))
		plain.Golden(v+"/container-delete-again", plain.Do("DELETE", at(action("s2", "fluidRelayContainers/doc-B")), ""))
		plain.Want(200, plain.Do("DELETE", at(serverPath("s2")), ""))
	}
	// Without a data plane that lists them there are no containers, rather than none.
	f.Refused(404, "InvalidResourceType", f.Do("GET", action("s1", "fluidRelayContainers"), ""))
}

func TestContainersArePaged(t *testing.T) {
	p := providertest.New(t, &containers{more: 2 * arm.PageItems})
	p.Want(200, p.Do("PUT", serverPath("s1"), `{"location":"westus2"}`))
	var sizes []int
	seen := map[string]bool{}
	for target := action("s1", "fluidRelayContainers"); target != ""; {
		var page arm.List[struct {
			Name string `json:"name"`
		}]
		if err := json.Unmarshal(p.Want(200, p.Do("GET", target, "")).Body, &page); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Value))
		for _, c := range page.Value {
			seen[c.Name] = true
		}
		target = strings.TrimPrefix(page.NextLink, "https://management.tidelock.test")
	}
	if want := []int{arm.PageItems, arm.PageItems, 1}; !slices.Equal(sizes, want) || len(seen) != 2*arm.PageItems+1 {
		t.Errorf("pages of %v with %d containers, want %v", sizes, len(seen), want)
	}
	for _, token := range []string{"AAAA", "!", strings.Repeat("A", 200)} {
		p.Refused(400, "InvalidSkipToken", p.Do("GET", action("s1", "fluidRelayContainers")+"&$skipToken="+token, ""))
	}
}

func TestBadRequests(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	for _, c := range []struct {
		name, method, target, body string
		status                     int
		code                       string
	}{
		{"MalformedJSON", "PUT", serverPath("s2"), `{"location":"westus2"`, 400, "InvalidRequestContent"},
		{"PropertiesNoObject", "PUT", serverPath("s2"), `{"location":"westus2","properties":[]}`, 400, "InvalidRequestContent"},
		{"URLNoString", "PUT", serverPath("s2"), `{"location":"westus2","properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":1}}}}`, 400, "InvalidRequestContent"},
		{"IdentityNoObject", "PUT", serverPath("s2"), `{"location":"westus2","identity":"x"}`, 400, "InvalidRequestContent"},
		{"IdentityValueNoObject", "PUT", serverPath("s2"), fmt.Sprintf(`{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{%q:1}}}`, f.id1), 400, "InvalidRequestContent"},
		{"NoLocation", "PUT", serverPath("s2"), `{}`, 400, "LocationRequired"},
		{"UnknownLocation", "PUT", serverPath("s2"), `{"location":"atlantis"}`, 400, "LocationNotAvailableForResourceType"},
		{"OtherLocation", "PUT", serverPath("s1"), strings.Replace(f.body().String(), `"location":"westus2"`, `"location":"eastus"`, 1), 409, "InvalidResourceLocation"},
		{"PatchOtherLocation", "PATCH", serverPath("s1"), `{"location":"eastus"}`, 400, "InvalidResourceLocation"},
		{"PatchSKU", "PATCH", serverPath("s1"), `{"properties":{"storagesku":"basic"}}`, 400, "PropertyChangeNotAllowed"},
		{"UnknownSKU", "PUT", serverPath("s2"), `{"location":"westus2","properties":{"storagesku":"premium"}}`, 400, "InvalidStorageSku"},
		{"ReadOnlyState", "PUT", serverPath("s2"), `{"location":"westus2","properties":{"provisioningState":"Failed"}}`, 400, "ReadOnlyProperty"},
		{"LongName", "PUT", serverPath(strings.Repeat("x", 51)), `{"location":"westus2"}`, 400, "InvalidResourceName"},
		{"NameWithDot", "PUT", serverPath("a.b"), `{"location":"westus2"}`, 400, "InvalidResourceName"},
		{"TooManyTags", "PUT", serverPath("s2"), `{"location":"westus2","tags":{` + manyTags(51) + `}}`, 400, "TooManyTags"},
		{"UnknownIdentityType", "PUT", serverPath("s2"), `{"location":"westus2","identity":{"type":"Mine"}}`, 400, "InvalidIdentityType"},
		{"IdentityTypeMissing", "PUT", serverPath("s2"), fmt.Sprintf(`{"location":"westus2","identity":{"userAssignedIdentities":{%q:{}}}}`, f.id1), 400, "InvalidIdentityType"},
		{"UserAssignedWithoutIds", "PUT", serverPath("s2"), `{"location":"westus2","identity":{"type":"UserAssigned"}}`, 400, "InvalidIdentity"},
		{"IdentityIdMalformed", "PUT", serverPath("s2"), `{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{"id1":{}}}}`, 400, "LinkedInvalidPropertyId"},
		{"IdentityIdOfOtherType", "PUT", serverPath("s2"), fmt.Sprintf(`{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{%q:{}}}}`, strings.TrimSuffix(serverPath("s1"), version)), 400, "LinkedInvalidPropertyId"},
		{"IdentityDoesNotExist", "PUT", serverPath("s2"), fmt.Sprintf(`{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{%q:{}}}}`, f.id1+"x"), 400, "FailedIdentityOperation"},
		{"IdentityTwice", "PUT", serverPath("s2"), fmt.Sprintf(`{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{%q:{},%q:{}}}}`, f.id1, strings.Replace(f.id1, "resourcegroups", "resourceGroups", 1)), 400, "InvalidIdentity"},
		{"UnknownKeyName", "POST", action("s1", "regenerateKey"), `{"keyName":"key3"}`, 400, "InvalidKeyName"},
		{"NoKeyName", "POST", action("s1", "regenerateKey"), ``, 400, "InvalidRequestContent"},
		{"PatchNothing", "PATCH", serverPath("none"), `{`, 404, "ResourceNotFound"},
		{"ListKeysOfNothing", "POST", action("none", "listKeys"), ``, 404, "ResourceNotFound"},
		{"RegenerateNothing", "POST", action("none", "regenerateKey"), `{`, 404, "ResourceNotFound"},
		{"UnknownAction", "POST", action("s1", "destroy"), ``, 404, "InvalidResourceType"},
		{"UnknownMethod", "PUT", action("s1", "listKeys"), ``, 405, "MethodNotAllowed"},
		{"OldVersion", "GET", strings.Replace(serverPath("s1"), "2022-06-01", "2021-03-12-preview", 1), ``, 400, "NoRegisteredProviderFound"},
		{"UnknownGroup", "GET", strings.Replace(serverPath("s1"), "/rg1/", "/rg2/", 1), ``, 404, "ResourceGroupNotFound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.Refused(c.status, c.code, f.Do(c.method, c.target, c.body))
		})
	}
	if e := f.Refused(401, "AuthenticationFailed", f.DoAs("", "GET", serverPath("s1"), "")); e.Message == "" {
		t.Error("no message without a token")
	}
	f.Refused(401, "InvalidAuthenticationToken", f.DoAs("x.y.z", "GET", serverPath("s1"), ""))
}

func manyTags(n int) string {
	var tags []string
	for i := range n {
		tags = append(tags, fmt.Sprintf(`"t%d":""`, i))
	}
	return strings.Join(tags, ",")
}

func TestConditionalRequests(t *testing.T) {
	f := newFixture(t)
	const plain = `{"location":"westus2"}`
	f.Refused(412, "PreconditionFailed", f.Do("PUT", serverPath("s1"), plain, "If-Match", "*"))
	created := f.Want(200, f.Do("PUT", serverPath("s1"), plain, "If-None-Match", "*"))
	f.Refused(412, "PreconditionFailed", f.Do("PUT", serverPath("s1"), plain, "If-None-Match", "*"))
	f.Refused(412, "PreconditionFailed", f.Do("PATCH", serverPath("s1"), `{}`, "If-Match", `"x"`))
	f.Refused(404, "ResourceNotFound", f.Do("PATCH", serverPath("s2"), `{}`, "If-Match", `"x"`))
	etag := created.Header.Get("ETag")
	same := f.Want(200, f.Do("PUT", serverPath("s1"), plain, "If-Match", etag))
	if got := same.Header.Get("ETag"); got != etag || string(same.Body) != string(created.Body) {
		t.Errorf("a PUT that changes nothing: got ETag %s and %s, want %s and %s", got, same.Body, etag, created.Body)
	}
	changed := f.Want(200, f.Do("PATCH", serverPath("s1"), `{"tags":{"a":"b"}}`, "If-Match", etag))
	if got := changed.Header.Get("ETag"); got == etag || got == "" {
		t.Errorf("ETag after a change: got %q, want another than %q", got, etag)
	}
	f.Refused(412, "PreconditionFailed", f.Do("DELETE", serverPath("s1"), "", "If-Match", etag))
	f.Want(200, f.Do("DELETE", serverPath("s1"), "", "If-Match", changed.Header.Get("ETag")))
	f.Want(204, f.Do("DELETE", serverPath("s1"), "", "If-Match", etag))
}

// PUT replaces, PATCH merges, tags are replaced as a whole, letters are kept.
func TestMerging(t *testing.T) {
	f := newFixture(t)
	upper := strings.Replace(f.id1, "resourcegroups", "RESOURCEGROUPS", 1)
	put := func(body string) providertest.Answer { return f.Want(200, f.Do("PUT", serverPath("Srv"), body)) }
	patch := func(body string) providertest.Answer { return f.Want(200, f.Do("PATCH", serverPath("SRV"), body)) }
	a := put(fmt.Sprintf(`{"location":"West US 2","tags":{"a":"1","b":"2"},"identity":{"type":"userassigned","userAssignedIdentities":{%q:{"clientId":"ignored"}}},"unknown":{"x":[1]}}`, upper))
	want := func(a providertest.Answer, path string, value any) {
		t.Helper()
		if got := a.Get(path); fmt.Sprint(got) != fmt.Sprint(value) {
			t.Errorf("%s: %s is %v, want %v", a.Request, path, got, value)
		}
	}
	want(a, "location", "westus2")
	want(a, "name", "Srv")
	want(a, "identity.type", "UserAssigned")
	if ids, _ := a.Get("identity.userAssignedIdentities").(map[string]any); ids[upper] == nil {
		t.Errorf("got identities %v, want %s as it was sent", ids, upper)
	}
	a = patch(`{"tags":{"c":"3"}}`)
	want(a, "tags", map[string]any{"c": "3"})
	want(a, "name", "Srv")
	want(a, "identity.type", "UserAssigned")
	want(patch(`{"tags":{"d":"4"},"tags":{"c":"3"}}`), "tags", map[string]any{"c": "3"})
	a = patch(fmt.Sprintf(`{"location":" westus2 ","identity":{"type":"SystemAssigned , UserAssigned","userAssignedIdentities":{%q:{}}}}`, f.id2))
	want(a, "identity.type", "SystemAssigned, UserAssigned")
	if ids, _ := a.Get("identity.userAssignedIdentities").(map[string]any); len(ids) != 2 || a.Get("identity.principalId") == nil {
		t.Errorf("got %v, want two identities and a principal", a.Get("identity"))
	}
	a = patch(fmt.Sprintf(`{"identity":{"userAssignedIdentities":{%q:null}}}`, strings.ToLower(f.id1)))
	if ids, _ := a.Get("identity.userAssignedIdentities").(map[string]any); len(ids) != 1 || ids[f.id2] == nil {
		t.Errorf("after one was unassigned: %v, want the other", a.Get("identity"))
	}
	principal := a.Get("identity.principalId")
	want(patch(`{"identity":{"type":"SystemAssigned"}}`), "identity", map[string]any{"type": "SystemAssigned", "principalId": principal, "tenantId": f.Directory})
	want(patch(`{"identity":{"type":"None"}}`), "identity", nil)
	if again := patch(`{"identity":{"type":"SystemAssigned"}}`).Get("identity.principalId"); again == principal || again == nil {
		t.Errorf("a system-assigned identity came back as %v, was %v; want a new one", again, principal)
	}
	a = put(`{"location":"westus2","identity":{"type":"None","userAssignedIdentities":null},"properties":{"provisioningState":"Succeeded","storagesku":"basic"}}`)
	want(a, "identity", nil)
	want(a, "tags", nil)
	want(a, "properties.storagesku", "basic")
	want(put(`{"location":"westus2","properties":null,"tags":null,"identity":null}`), "properties.storagesku", "standard")
}

var thirtyTwoHex = regexp.MustCompile(`^[0-9a-f]{32}$`)

func TestKeysAndLookup(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	tenant := f.newServer("s1").Get("properties.frsTenantId").(string)
	keys := f.Want(200, f.Do("POST", action("s1", "listKeys"), ""))
	lookup := func() [2]string {
		t.Helper()
		got, ok, err := f.Fluid.Lookup(ctx, strings.ToUpper(tenant))
		if err != nil || !ok || got.ID != tenant || got.Resource == [16]byte{} || got.Closed != "" {
			t.Fatalf("lookup: got %q, %v, %v, %v", got.ID, got.Resource, ok, err)
		}
		return got.Keys
	}
	first := lookup()
	if first[0] != keys.Get("key1") || first[1] != keys.Get("key2") || !thirtyTwoHex.MatchString(first[0]) || first[0] == first[1] {
		t.Fatalf("lookup gives %v, listKeys %s", first, keys.Body)
	}
	f.Want(200, f.Do("POST", action("s1", "regenerateKey"), `{"keyName":"key2"}`))
	if second := lookup(); second[0] != first[0] || second[1] == first[1] {
		t.Errorf("after regenerating key2: got %v, was %v", second, first)
	}
	if _, ok, err := f.Fluid.Lookup(ctx, "no-such-tenant"); ok || err != nil {
		t.Errorf("unknown tenant: got %v, %v", ok, err)
	}
	f.Want(200, f.Do("DELETE", serverPath("s1"), ""))
	if _, ok, err := f.Fluid.Lookup(ctx, tenant); ok || err != nil {
		t.Errorf("deleted tenant: got %v, %v", ok, err)
	}
	if !slices.Equal(f.Relay.Deleted, []string{tenant}) {
		t.Errorf("the relay was told to delete %v, want %s", f.Relay.Deleted, tenant)
	}
	if again := f.newServer("s1").Get("properties.frsTenantId"); again == tenant {
		t.Error("a server made again has the tenant of the deleted one")
	}
	for _, secret := range []string{first[0], first[1]} {
		if strings.Contains(f.Log.String(), secret) {
			t.Error("a tenant key is in the log")
		}
	}
}

// Lookups that run beside regenerations never leave an old key behind.
func TestLookupIsNeverStale(t *testing.T) {
	f := newFixture(t)
	tenant := f.Want(200, f.Do("PUT", serverPath("s1"), `{"location":"westus2"}`)).Get("properties.frsTenantId").(string)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, ok, err := f.Fluid.Lookup(t.Context(), tenant); !ok || err != nil {
						t.Errorf("lookup: %v, %v", ok, err)
						return
					}
				}
			}
		})
	}
	for range 20 {
		want := f.Want(200, f.Do("POST", action("s1", "regenerateKey"), `{"keyName":"key1"}`)).Get("key1")
		if got, _, _ := f.Fluid.Lookup(t.Context(), tenant); got.Keys[0] != want {
			t.Errorf("right after regenerateKey: got %s, want %s", got.Keys[0], want)
		}
	}
	close(stop)
	readers.Wait()
}

// A write of which the outcome is unknown leaves nothing in memory that is not stored.
func TestUnknownOutcome(t *testing.T) {
	f := newFixture(t)
	tenant := f.Want(200, f.Do("PUT", serverPath("s1"), `{"location":"westus2"}`)).Get("properties.frsTenantId").(string)
	for _, persist := range []bool{true, false} {
		before, _, _ := f.Fluid.Lookup(t.Context(), tenant)
		f.Store.SetFault(func(op memory.Op) memory.Fault { return memory.Fault{Persist: persist, Fail: op == memory.OpRows} })
		f.Refused(500, "InternalServerError", f.Do("POST", action("s1", "regenerateKey"), `{"keyName":"key1"}`))
		f.Store.SetFault(nil)
		after, _, _ := f.Fluid.Lookup(t.Context(), tenant)
		if stored := f.Do("POST", action("s1", "listKeys"), "").Get("key1"); after.Keys[0] != stored || (after.Keys[0] != before.Keys[0]) != persist {
			t.Errorf("persist=%v: lookup gives %s, stored is %v, before was %s", persist, after.Keys[0], stored, before.Keys[0])
		}
	}
}

// A deletion that could not finish at the relay is finished at the next start.
func TestInterruptedDeletionIsResumed(t *testing.T) {
	f := newFixture(t)
	tenant := f.newServer("s1").Get("properties.frsTenantId").(string)
	f.Relay.Err = errors.New("disk full")
	f.Want(200, f.Do("DELETE", serverPath("s1"), ""))
	if err := f.Fluid.Resume(t.Context()); err == nil {
		t.Error("Resume hides that the relay fails")
	}
	f.Relay.Err = nil
	for range 2 {
		if err := f.Fluid.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(f.Relay.Deleted, []string{tenant}) {
		t.Errorf("the relay was told to delete %v, want %s once", f.Relay.Deleted, tenant)
	}
}

func TestDeletingTheGroupDeletesAll(t *testing.T) {
	f := newFixture(t)
	tenant := f.newServer("s1").Get("properties.frsTenantId").(string)
	const rg = providertest.Group + "?api-version=2021-04-01"
	f.Want(200, f.Do("DELETE", rg, ""))
	f.Refused(404, "ResourceGroupNotFound", f.Do("GET", serverPath("s1"), ""))
	if !slices.Equal(f.Relay.Deleted, []string{tenant}) {
		t.Errorf("the relay was told to delete %v, want %s", f.Relay.Deleted, tenant)
	}
	f.Want(http.StatusCreated, f.Do("PUT", rg, `{"location":"westus2"}`))
	f.Refused(404, "ResourceNotFound", f.Do("GET", serverPath("s1"), ""))
	if _, err := f.Entra.ManagedIdentity(t.Context(), f.id1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the identity is still there: %v", err)
	}
	if v, err := f.Vault.Get(t.Context(), "kv1"); err != nil || v.Deleted.IsZero() {
		t.Errorf("the vault is not deleted: %+v, %v", v, err)
	}
}

func TestConcurrentPatchesDoNotLose(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	next := f.NewKey("kv1", "good", "")
	f.Token(f.Admin, f.AdminKey, "https://management.azure.com")
	var writers sync.WaitGroup
	for i := range 6 {
		writers.Go(func() {
			url := []string{f.key, next}[i%2]
			a := f.Do("PATCH", serverPath("s1"), fmt.Sprintf(`{"properties":{"encryption":{"customerManagedKeyEncryption":{"keyEncryptionKeyUrl":%q}}}}`, url))
			if a.Status != 200 || a.Get(cmkPath+".keyEncryptionKeyUrl") != url {
				t.Errorf("got %d %s, want 200 with %s", a.Status, a.Body, url)
			}
		})
	}
	writers.Wait()
}
