package managedidentity_test

import (
	"errors"
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
