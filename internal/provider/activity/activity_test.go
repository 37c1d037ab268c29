package activity_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/activity"
	"github.com/tidelock/tidelock/internal/provider/providertest"
	"github.com/tidelock/tidelock/internal/store/memory"
)

const (
	sub     = "/subscriptions/" + providertest.Subscription
	values  = sub + "/providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01"
	version = "?api-version=2021-04-01"
)

func query(filter string) string {
	return values + "&$filter=" + url.QueryEscape(filter)
}

const always = "eventTimestamp ge '2020-01-01T00:00:00Z'"

// events are what a filter finds: method, operation and status of each.
func events(p *providertest.Plane, filter string) (found []string) {
	for _, one := range p.Want(200, p.Do("GET", query(filter), "")).Get("value").([]any) {
		e := one.(map[string]any)
		found = append(found, fmt.Sprint(e["operationName"].(map[string]any)["value"], " ", e["status"].(map[string]any)["value"]))
	}
	return found
}

func TestGolden(t *testing.T) {
	p := providertest.New(t, nil)
	p.Do("PUT", sub+"/resourceGroups/rg2"+version, `{"location":"moon"}`, "x-ms-client-request-id", "9a1b2c3d-0000-4000-8000-000000000001", "x-ms-correlation-request-id", "9a1b2c3d-0000-4000-8000-000000000002")
	p.NewIdentity("id1", "westus2")
	p.Golden("events", p.Do("GET", query(always), ""))
	p.Golden("selected", p.Do("GET", query(always)+"&$select=caller%20,%20status,resourceId", ""))
}

func TestWritesAreInTheLog(t *testing.T) {
	p := providertest.New(t, nil)
	identity, principal := p.NewIdentity("id1", "westus2")
	p.Do("GET", identity+"?api-version=2023-01-31", "")
	p.Do("PUT", sub+"/resourceGroups/bad."+version, `{"location":"westus2"}`)
	p.Do("PUT", identity+"/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000001?api-version=2022-04-01",
		`{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7","principalId":"`+principal+`"}}`)
	p.Do("DELETE", identity+"?api-version=2023-01-31", "")
	want := []string{
		"Microsoft.ManagedIdentity/userAssignedIdentities/delete Succeeded",
		"Microsoft.Authorization/roleAssignments/write Succeeded",
		"Microsoft.Resources/subscriptions/resourceGroups/write Failed",
		"Microsoft.ManagedIdentity/userAssignedIdentities/write Succeeded",
		"Microsoft.Resources/subscriptions/resourceGroups/write Succeeded",
	}
	if got := events(p, always); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}

	// Who may not write leaves no event: strangers cannot fill the log. Nor may they read it.
	app, secret, err := p.Entra.CreateApplication(t.Context(), p.Directory, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	token := p.Token(app, secret, entra.AudienceManagement)
	p.Refused(403, "AuthorizationFailed", p.DoAs(token, "PUT", sub+"/resourceGroups/rg9"+version, `{"location":"westus2"}`))
	p.Refused(403, "AuthorizationFailed", p.DoAs(token, "GET", query(always), ""))
	if got := events(p, always); len(got) != len(want) {
		t.Errorf("got %d events, want %d", len(got), len(want))
	}
}

func TestFilters(t *testing.T) {
	p := providertest.New(t, nil)
	identity, _ := p.NewIdentity("id1", "westus2")
	p.Do("PUT", sub+"/resourceGroups/rg2"+version, `{"location":"moon"}`)
	soon := time.Now().UTC().Add(time.Hour)
	for filter, want := range map[string]int{ // -1: refused
		always: 3,
		"eventTimestamp ge 2020-01-01T00:00:00.123456 and eventTimestamp le " + soon.Format("2006-01-02T15:04:05.000000"):          3, // azure-cli
		"eventTimestamp ge '2020-01-01T00:00:00Z' and eventTimestamp le '2020-01-02T00:00:00Z'":                                    0,
		"eventTimestamp gt '" + soon.Format(time.RFC3339) + "'":                                                                    0,
		always + " and resourceGroupName eq 'RG1'":                                                                                 2,
		always + " and resourceUri eq '" + strings.ToUpper(strings.Replace(identity, "resourcegroups", "resourceGroups", 1)) + "'": 1,
		always + " and resourceProvider eq 'Microsoft.ManagedIdentity'":                                                            1,
		always + " and status eq 'Failed' and caller eq '" + p.Admin.ClientID + "'":                                                1,
		always + " and eventChannels eq 'Admin, Operation'":                                                                        3,
		always + " and caller eq 'nobody'":                                                                                         0,
		"":                                                                                                                         -1,
		"resourceGroupName eq 'rg1'":                                                                                               -1,
		"eventTimestamp le '2020-01-01T00:00:00Z'":                                                                                 -1,
		"eventTimestamp ge 'yesterday'":                                                                                            -1,
		always + " or status eq 'Failed'":                                                                                          -1,
		always + " and colour eq 'red'":                                                                                            -1,
	} {
		if want < 0 {
			p.Refused(400, "BadRequest", p.Do("GET", query(filter), ""))
		} else if got := events(p, filter); len(got) != want {
			t.Errorf("%s: got %q, want %d", filter, got, want)
		}
	}
}

// The log is bounded, in number and in time, and sealed.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := memory.New()
		l := activity.New(activity.Config{Store: st, Service: envelope.NewServiceKey(), Log: nil})
		id := arm.ResourceID{Subscription: providertest.Subscription, ResourceGroup: "secret-group"}
		record := func(n int) {
			for range n {
				l.Record(t.Context(), arm.Event{At: time.Now(), ID: id, Resource: id.String(), Action: "x/write", Method: "PUT", Status: 200})
			}
		}
		count := func() int {
			rows, err := st.ListRows(t.Context(), "activity-log", envelope.Name{}, envelope.Name{}, 1)
			if err != nil || len(rows) != 0 {
				t.Errorf("rows in the unnamed partition: %d, %v", len(rows), err)
			}
			return l.Len(t.Context(), providertest.Subscription)
		}
		record(activity.MaxEvents + activity.MaxEvents/5)
		if n := count(); n > activity.MaxEvents+activity.MaxEvents/10 || n < activity.MaxEvents {
			t.Errorf("the log has %d events, want about %d", n, activity.MaxEvents)
		}
		time.Sleep(91 * 24 * time.Hour)
		record(activity.MaxEvents/10 + 1)
		if n := count(); n > activity.MaxEvents/10+1 {
			t.Errorf("after 91 days the log has %d events", n)
		}
	})
}

// An event that cannot be stored does not undo its write.
func TestLogFailureDoesNotFailTheWrite(t *testing.T) {
	p := providertest.New(t, nil)
	writes := 0
	p.Store.SetFault(func(op memory.Op) memory.Fault {
		writes++
		return memory.Fault{Persist: writes == 1, Fail: writes > 1}
	})
	p.Want(201, p.Do("PUT", sub+"/resourceGroups/rg2"+version, `{"location":"westus2"}`))
	p.Store.SetFault(nil)
	p.Want(200, p.Do("GET", sub+"/resourceGroups/rg2"+version, ""))
	if !strings.Contains(p.Log.String(), "missing from the activity log") {
		t.Error("the server's log does not say that the event is missing")
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"", always, always + " and status eq 'x'", "eventTimestamp le 1", "a eq 'b' and", "eventTimestamp ge 2020-01-01T00:00:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, filter string) {
		if ok, err := activity.Parses(filter); ok == (err != nil) {
			t.Fatalf("%q: got a filter: %t, and error %v", filter, ok, err)
		}
	})
}
