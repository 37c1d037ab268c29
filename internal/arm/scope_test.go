package arm

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Extension resources belong to whatever is before them in the path.
func TestScopes(t *testing.T) {
	var told []string
	rt, _ := testRouter(t, Route{
		Method: "GET", Pattern: InScope + "/providers/Microsoft.Thing/notes/{name}", Action: "Microsoft.Thing/notes/read",
		Handle: func(_ context.Context, r *Request) (*Response, error) {
			return &Response{Body: r.ID.Scope() + " " + r.Param("name")}, nil
		},
	}, Route{
		Method: "DELETE", Pattern: InGroup + "/providers/Microsoft.Thing/things/{name}", Action: "x",
		Handle: func(_ context.Context, r *Request) (*Response, error) { return nil, nil },
	})
	rt.routes = append(rt.routes, boundRoute{Route: Route{
		Method: "DELETE", Pattern: InGroup + "/providers/Microsoft.Thing/things/{name}/cache", Action: "x",
		Handle: func(_ context.Context, r *Request) (*Response, error) { return nil, nil },
	}, pattern: parsePattern("DELETE", InGroup+"/providers/Microsoft.Thing/things/{name}/cache"), provider: &rt.providers[0]})
	rt.c.Deleted = func(_ context.Context, scope string) error {
		told = append(told, scope)
		return nil
	}
	const note = "/providers/microsoft.thing/NOTES/n" + v1
	for _, c := range []struct {
		scope  string
		status int
		want   string // the scope, or the error's code
	}{
		{"", 200, "/"},
		{"/subscriptions/" + sub, 200, "/subscriptions/" + sub},
		{"/Subscriptions/" + sub + "/resourcegroups/RG1", 200, "/subscriptions/" + sub + "/resourceGroups/RG1"},
		{thing, 200, thing},
		{thing + "/wings/w", 200, thing + "/wings/w"},
		{"/subscriptions/" + sub + "/providers/Microsoft.Thing/things/t", 200, "/subscriptions/" + sub + "/providers/Microsoft.Thing/things/t"},
		{"/subscriptions/" + other, 404, "SubscriptionNotFound"},
		{strings.Replace(thing, "Rg1", "gone", 1), 404, "ResourceGroupNotFound"},
		{thing + "%2F", 400, "InvalidResourceName"},
		{group + "/providers/Microsoft.Thing/things", 404, "InvalidResourceType"},
		{"/providers/Microsoft.Thing/things/t", 404, "InvalidResourceType"},
	} {
		w, e := do(t, rt, "GET", c.scope+note, "good", "")
		got := e.Code
		if w.Code == http.StatusOK {
			got = strings.Trim(strings.TrimSpace(w.Body.String()), `"`)
			got, _ = strings.CutSuffix(got, " n")
		}
		if w.Code != c.status || got != c.want {
			t.Errorf("%s: got %d %s, want %d %s", c.scope, w.Code, got, c.status, c.want)
		}
	}
	if w, _ := do(t, rt, "DELETE", thing+"/cache"+v1, "good", ""); w.Code != 200 || len(told) != 0 {
		t.Errorf("after the deletion of a part without a name: got %d, told of %v", w.Code, told)
	}
	if w, _ := do(t, rt, "DELETE", thing+v1, "good", ""); w.Code != 200 || !slices.Equal(told, []string{thing}) {
		t.Errorf("after a deletion: got %d, told of %v", w.Code, told)
	}
}

// While a group is deleted, nothing is written in it; before and after, writes wait for nobody.
func TestWritesDuringADeletion(t *testing.T) {
	deleting, finish := make(chan struct{}), make(chan struct{})
	rt, _ := testRouter(t, append(things(), Route{
		Method: "DELETE", Pattern: InGroup, Action: "x",
		Handle: func(context.Context, *Request) (*Response, error) {
			close(deleting)
			<-finish
			return nil, nil
		},
	})...)
	done := make(chan int)
	go func() {
		w, _ := do(t, rt, "DELETE", group+v1, "good", "")
		done <- w.Code
	}()
	<-deleting
	if w, e := do(t, rt, "PUT", thing+v1, "good", `{}`); w.Code != 409 || e.Code != "ResourceGroupBeingDeleted" {
		t.Errorf("a write during the deletion: got %d %s, want 409 ResourceGroupBeingDeleted", w.Code, e.Code)
	}
	if w, _ := do(t, rt, "GET", thing+v1, "good", ""); w.Code != 200 {
		t.Errorf("a read during the deletion: got %d, want 200", w.Code)
	}
	close(finish)
	if code := <-done; code != 200 {
		t.Errorf("the deletion: got %d", code)
	}
	if w, _ := do(t, rt, "PUT", thing+v1, "good", `{}`); w.Code != 200 {
		t.Errorf("a write afterwards: got %d, want 200", w.Code)
	}
}

// Another process deletes the group while something is made in it: either it finds that, or it
// is undone here.
func TestWritesDuringADeletionElsewhere(t *testing.T) {
	pattern := InGroup + "/providers/Microsoft.Thing/things/{name}"
	there, state := false, GroupExists
	var forgotten []string
	rt, _ := testRouter(t, Route{
		Method: "PUT", Pattern: pattern, Action: "x",
		Handle: func(_ context.Context, r *Request) (*Response, error) {
			there = true
			if r.Param("name") == "slow" {
				state = GroupBeingDeleted
			}
			return nil, nil
		},
	}, Route{
		Method: "DELETE", Pattern: pattern, Action: "x",
		Handle: func(_ context.Context, r *Request) (*Response, error) {
			there = false
			return nil, nil
		},
	})
	rt.c.ResourceGroup = func(context.Context, string, string) (GroupState, error) { return state, nil }
	rt.c.Deleted = func(_ context.Context, scope string) error {
		forgotten = append(forgotten, scope)
		return nil
	}
	if w, _ := do(t, rt, "PUT", thing+v1, "good", `{}`); w.Code != 200 || !there {
		t.Fatalf("a write before: got %d", w.Code)
	}
	slow := group + "/providers/Microsoft.Thing/things/slow"
	if w, e := do(t, rt, "PUT", slow+v1, "good", `{}`); w.Code != 409 || e.Code != "ResourceGroupBeingDeleted" {
		t.Errorf("a write that the deletion overtook: got %d %s, want 409 ResourceGroupBeingDeleted", w.Code, e.Code)
	}
	if there || !slices.Equal(forgotten, []string{slow}) {
		t.Errorf("what was made is there: %t; role assignments were forgotten at %q", there, forgotten)
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if w, e := do(t, rt, method, thing+v1, "good", `{}`); w.Code != 409 || e.Code != "ResourceGroupBeingDeleted" {
			t.Errorf("%s meanwhile: got %d %s", method, w.Code, e.Code)
		}
	}
}
