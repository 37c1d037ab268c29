package authorization_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/providertest"
)

const (
	sub     = "/subscriptions/" + providertest.Subscription
	group   = providertest.Group
	roles   = "/providers/Microsoft.Authorization/roleDefinitions"
	grants  = "/providers/Microsoft.Authorization/roleAssignments/"
	version = "?api-version=2022-04-01"

	owner       = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	reader      = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	operator    = "f1a07417-d97a-45cb-824c-7a7467783830"
	accessAdmin = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"
)

func name(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func grant(role, principal string) string {
	return fmt.Sprintf(`{"properties":{"roleDefinitionId":"%s%s/%s","principalId":"%s"}}`, sub, roles, role, principal)
}

// app is a principal and its token.
func app(t *testing.T, p *providertest.Plane) (id, token string) {
	t.Helper()
	principal, secret, err := p.Entra.CreateApplication(t.Context(), p.Directory, "app")
	if err != nil {
		t.Fatal(err)
	}
	return principal.ObjectID, p.Token(principal, secret, entra.AudienceManagement)
}

func TestGolden(t *testing.T) {
	p := providertest.New(t, nil)
	who, _ := app(t, p)
	p.Golden("definition", p.Do("GET", sub+roles+"/"+strings.ToUpper(reader)+version, ""))
	p.Golden("definition-2015", p.Do("GET", sub+roles+"/"+reader+"?api-version=2015-07-01", ""))
	p.Golden("definition-of-the-directory", p.Do("GET", roles+"/"+reader+version, ""))
	p.Golden("definitions", p.Do("GET", sub+roles+version, ""))
	p.Golden("assignment-put", p.Do("PUT", group+grants+name(1)+version,
		strings.Replace(grant(reader, who), `"properties":{`, `"properties":{"principalType":"ServicePrincipal","description":"why",`, 1)))
	p.Golden("assignment-get", p.Do("GET", strings.ToLower(group)+grants+name(1)+version, ""))
	p.Golden("assignment-get-2015", p.Do("GET", group+grants+name(1)+"?api-version=2015-07-01", ""))
	p.Golden("assignments", p.Do("GET", group+strings.TrimSuffix(grants, "/")+version+"&$filter=principalId%20eq%20%27"+who+"%27", ""))
	p.Golden("permissions", p.Do("GET", group+"/providers/Microsoft.Authorization/permissions"+version, ""))
	p.Golden("assignment-delete", p.Do("DELETE", group+grants+name(1)+version, ""))
	p.Golden("assignment-delete-again", p.Do("DELETE", group+grants+name(1)+version, ""))
	p.Golden("assignment-not-found", p.Do("GET", group+grants+name(1)+version, ""))
}

func TestDefinitionFilter(t *testing.T) {
	p := providertest.New(t, nil)
	for filter, want := range map[string]int{
		"":                                    len(entra.Roles()),
		"roleName eq 'Key Vault Crypto User'": 1,
		"rolename eq 'owner' and type eq 'BuiltInRole'": 1,
		"atScopeAndBelow() and type eq 'BuiltInRole'":   len(entra.Roles()),
		"type eq 'CustomRole'":                          0,
		"roleName eq 'Nobody'":                          0,
		"roleName eq 'Search and Rescue'":               0,
		"roleName ne 'Owner'":                           -1,
	} {
		a := p.Do("GET", sub+roles+version+"&$filter="+url.QueryEscape(filter), "")
		if want < 0 {
			p.Refused(400, "InvalidFilterInQueryString", a)
			continue
		}
		if got := p.Want(200, a).Get("value").([]any); len(got) != want {
			t.Errorf("%s: got %d roles, want %d", filter, len(got), want)
		}
	}
	p.Refused(400, "CustomRolesNotSupported", p.Do("PUT", sub+roles+"/"+name(1)+version, `{}`))
	p.Refused(404, "RoleDefinitionDoesNotExist", p.Do("GET", sub+roles+"/"+name(1)+version, ""))
	p.Refused(404, "RoleDefinitionDoesNotExist", p.Do("GET", sub+roles+"/Owner"+version, ""))
}

func TestBadAssignments(t *testing.T) {
	p := providertest.New(t, nil)
	who, _ := app(t, p)
	p.NewIdentity("id1", "westus2")
	elsewhere, err := p.Entra.CreateDirectory(t.Context(), "Elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	stranger, _, err := p.Entra.CreateApplication(t.Context(), elsewhere, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	p.Want(201, p.Do("PUT", group+grants+name(1)+version, grant(reader, who)))
	p.Want(200, p.Do("PUT", group+grants+name(1)+version, grant(reader, who)))
	with := func(member string) string {
		return strings.Replace(grant(reader, who), `"properties":{`, `"properties":{`+member+",", 1)
	}
	for _, c := range []struct {
		name, at, assignment, body string
		status                     int
		code                       string
	}{
		{"NoGUID", group, "mine", grant(reader, who), 400, "InvalidRoleAssignmentId"},
		{"UnknownRole", group, name(2), grant(name(9), who), 404, "RoleDefinitionDoesNotExist"},
		{"RoleByName", group, name(2), grant("Reader", who), 404, "RoleDefinitionDoesNotExist"},
		{"RoleIsNoId", group, name(2), fmt.Sprintf(`{"properties":{"roleDefinitionId":%q,"principalId":%q}}`, reader, who), 400, "InvalidRoleDefinitionId"},
		{"PrincipalNoGUID", group, name(2), grant(reader, "me"), 400, "InvalidPrincipalId"},
		{"PrincipalUnknown", group, name(2), grant(reader, name(7)), 400, "PrincipalNotFound"},
		{"PrincipalOfAnotherDirectory", group, name(2), grant(reader, stranger.ObjectID), 400, "PrincipalNotFound"},
		{"ClientIdForObjectId", group, name(2), grant(reader, p.Admin.ClientID), 400, "PrincipalNotFound"},
		{"Exists", group, name(2), grant(reader, who), 409, "RoleAssignmentExists"},
		{"OtherRole", group, name(1), grant(owner, who), 400, "RoleAssignmentUpdateNotPermitted"},
		{"OtherScope", sub, name(1), grant(reader, who), 400, "RoleAssignmentUpdateNotPermitted"},
		{"Condition", sub, name(2), with(`"condition":"x"`), 400, "ConditionsNotSupported"},
		{"Delegated", sub, name(2), with(`"delegatedManagedIdentityResourceId":"x"`), 400, "DelegationNotSupported"},
		{"Group", sub, name(2), with(`"principalType":"Group"`), 400, "UnsupportedPrincipalType"},
		{"OtherPrincipalType", sub, name(2), with(`"principalType":"Robot"`), 400, "InvalidPrincipalType"},
		{"LongDescription", sub, name(2), with(`"description":"` + strings.Repeat("x", 1025) + `"`), 400, "InvalidDescription"},
		{"NoGroup", sub + "/resourceGroups/none", name(2), grant(reader, who), 404, "ResourceGroupNotFound"},
		{"NoResource", group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id2", name(2), grant(reader, who), 404, "ResourceNotFound"},
		{"Malformed", group, name(2), `{`, 400, "InvalidRequestContent"},
		{"Directory", "", name(2), grant(reader, who), 403, "AuthorizationFailed"},
	} {
		t.Run(c.name, func(t *testing.T) { p.Refused(c.status, c.code, p.Do("PUT", c.at+grants+c.assignment+version, c.body)) })
	}
	if got := p.Want(200, p.Do("GET", sub+strings.TrimSuffix(grants, "/")+version, "")).Get("value").([]any); len(got) != 2 {
		t.Errorf("after the refusals there are %d assignments, want 2", len(got))
	}
}

func TestListing(t *testing.T) {
	p := providertest.New(t, nil)
	who, _ := app(t, p)
	identity, _ := p.NewIdentity("id1", "westus2")
	p.Want(201, p.Do("PUT", sub+grants+name(1)+version, grant(reader, who)))
	p.Want(201, p.Do("PUT", group+grants+name(2)+version, grant(contributor, who)))
	p.Want(201, p.Do("PUT", identity+grants+name(3)+version, grant(operator, who)))
	for _, c := range []struct {
		at, filter string
		want       int
	}{
		{sub, "", 4}, // the administrator's own among them
		{group, "", 4},
		{sub, "atScope()", 2},
		{group, "atScope()", 3},
		{identity, "atScope()", 4},
		{sub, "assignedTo('" + who + "')", 3},
		{group, "atScope() and assignedTo('" + strings.ToUpper(who) + "')", 2},
		{sub, "principalId eq " + who, 3},
		{sub, "principalId eq '" + name(4) + "'", 0},
	} {
		a := p.Want(200, p.Do("GET", c.at+strings.TrimSuffix(grants, "/")+version+"&$filter="+url.QueryEscape(c.filter), ""))
		if got := a.Get("value").([]any); len(got) != c.want {
			t.Errorf("%s %s: got %d, want %d", c.at, c.filter, len(got), c.want)
		}
	}
	p.Refused(400, "InvalidFilterInQueryString", p.Do("GET", sub+strings.TrimSuffix(grants, "/")+version+"&$filter=x", ""))
}

// An assignment counts from the answer on, and is gone with it, and with what it was for.
func TestAssignmentsAreObeyed(t *testing.T) {
	p := providertest.New(t, nil)
	who, token := app(t, p)
	second, _ := app(t, p)
	get := func() int { return p.DoAs(token, "GET", group+"?api-version=2021-04-01", "").Status }
	if get() != 403 {
		t.Fatal("a stranger reads a group")
	}
	p.Want(201, p.Do("PUT", group+grants+name(1)+version, grant(contributor, who)))
	if get() != 200 {
		t.Error("a contributor does not read his group")
	}
	p.Refused(403, "AuthorizationFailed", p.DoAs(token, "PUT", group+grants+name(2)+version, grant(owner, who)))
	p.Refused(403, "AuthorizationFailed", p.DoAs(token, "DELETE", group+grants+name(1)+version, ""))
	p.Want(201, p.Do("PUT", group+grants+name(3)+version, grant(accessAdmin, who)))
	p.Want(201, p.DoAs(token, "PUT", group+grants+name(4)+version, grant(reader, second)))
	p.Refused(403, "AuthorizationFailed", p.DoAs(token, "PUT", sub+grants+name(5)+version, grant(reader, second)))
	// Nor does he reach by its name what is not at his scope.
	p.Want(201, p.Do("PUT", sub+grants+name(6)+version, grant(reader, second)))
	p.Refused(404, "RoleAssignmentNotFound", p.DoAs(token, "GET", group+grants+name(6)+version, ""))
	p.Want(204, p.DoAs(token, "DELETE", group+grants+name(6)+version, ""))
	p.Refused(400, "RoleAssignmentUpdateNotPermitted", p.DoAs(token, "PUT", group+grants+name(6)+version, grant(reader, second)))
	p.Want(200, p.Do("DELETE", sub+grants+name(6)+version, ""))

	p.Want(200, p.Do("DELETE", group+"?api-version=2021-04-01", ""))
	p.Want(201, p.Do("PUT", group+"?api-version=2021-04-01", `{"location":"westus2"}`))
	if got := get(); got != 403 {
		t.Errorf("a new group of the same name: got %d, want 403: the old assignments are gone", got)
	}
	all := p.Want(200, p.Do("GET", sub+strings.TrimSuffix(grants, "/")+version, "")).Get("value").([]any)
	if len(all) != 1 {
		t.Fatalf("%d assignments are left, want the administrator's", len(all))
	}
	mine := all[0].(map[string]any)["name"].(string)
	p.Refused(409, "CannotDeleteLastOwner", p.Do("DELETE", sub+grants+mine+version, ""))
}

// Assigning an identity to a resource needs a permission on the identity.
func TestIdentitiesAreAssignedByOperators(t *testing.T) {
	p := providertest.New(t, nil)
	who, token := app(t, p)
	identity, _ := p.NewIdentity("id1", "westus2")
	p.Want(201, p.Do("PUT", sub+"/resourceGroups/rg2?api-version=2021-04-01", `{"location":"westus2"}`))
	p.Want(201, p.Do("PUT", sub+"/resourceGroups/rg2"+grants+name(1)+version, grant(contributor, who)))
	server := func() providertest.Answer {
		return p.DoAs(token, "PUT", sub+"/resourceGroups/rg2/providers/Microsoft.FluidRelay/fluidRelayServers/fr1?api-version=2022-06-01",
			`{"location":"westus2","identity":{"type":"UserAssigned","userAssignedIdentities":{"`+identity+`":{}}}}`)
	}
	p.Refused(403, "LinkedAuthorizationFailed", server())
	p.Want(201, p.Do("PUT", identity+grants+name(2)+version, grant(operator, who)))
	p.Want(200, server())
}

// Every operation needs a permission, but those that say nothing of anyone's resources, or
// that show a caller only his own.
func TestEveryRouteNeedsAPermission(t *testing.T) {
	open := map[string]bool{
		"/tenants": true, "/subscriptions": true, "/providers/Microsoft.FluidRelay/operations": true,
		roles: true, roles + "/{name}": true,
	}
	for _, provider := range providertest.New(t, nil).Router.Providers() {
		for _, route := range provider.Routes {
			if (route.Action == "") != open[route.Pattern] {
				t.Errorf("%s %s has the action %q", route.Method, route.Pattern, route.Action)
			}
		}
	}
}
