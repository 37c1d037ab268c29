package resources

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/tracked"
)

type policies struct {
	Placement     string `json:"locationPlacementId"`
	Quota         string `json:"quotaId"`
	SpendingLimit string `json:"spendingLimit"`
}

type subscriptionView struct {
	ID            string   `json:"id"`
	Source        string   `json:"authorizationSource"`
	ManagedBy     []string `json:"managedByTenants"`
	Subscription  string   `json:"subscriptionId"`
	Tenant        string   `json:"tenantId"`
	DisplayName   string   `json:"displayName"`
	State         string   `json:"state"`
	Subscriptions policies `json:"subscriptionPolicies"`
}

func (s subscription) view() subscriptionView {
	return subscriptionView{
		ID: "/subscriptions/" + s.ID, Source: "RoleBased", ManagedBy: []string{}, Subscription: s.ID, Tenant: string(s.Directory),
		DisplayName: s.Name, State: "Enabled",
		Subscriptions: policies{"Public_2014-09-01", "PayAsYouGo_2014-09-01", "Off"},
	}
}

// listSubscriptions shows what the caller may read.
func (p *Provider) listSubscriptions(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	rows, err := p.subscriptions.List(ctx, "")
	if err != nil {
		return nil, err
	}
	views := []subscriptionView{}
	for _, row := range rows {
		v := row.Value.view()
		ok, err := p.c.Allowed(ctx, r.Caller, namespace+"/subscriptions/read", v.ID)
		if err != nil {
			return nil, err
		}
		if ok {
			views = append(views, v)
		}
	}
	return arm.Page(r, views, func(v subscriptionView) string { return v.ID })
}

func (p *Provider) getSubscription(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.subscriptions.Get(ctx, "", strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: row.Value.view()}, nil
}

type tenantView struct {
	ID       string `json:"id"`
	TenantID string `json:"tenantId"`
	Category string `json:"tenantCategory"`
}

// listTenants shows the caller's own directory: no caller is known in two.
func (p *Provider) listTenants(_ context.Context, r *arm.Request) (*arm.Response, error) {
	d := r.Caller.Directory
	return &arm.Response{Body: arm.List[tenantView]{Value: []tenantView{{ID: "/tenants/" + d, TenantID: d, Category: "Home"}}}}, nil
}

type locationView struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	DisplayName string            `json:"displayName"`
	Regional    string            `json:"regionalDisplayName"`
	Metadata    map[string]string `json:"metadata"`
}

func (p *Provider) listLocations(_ context.Context, r *arm.Request) (*arm.Response, error) {
	var views []locationView
	for _, region := range tracked.Regions {
		views = append(views, locationView{
			ID: "/subscriptions/" + r.ID.Subscription + "/locations/" + region.Name, Name: region.Name, Type: "Region",
			DisplayName: region.DisplayName, Regional: region.DisplayName, Metadata: map[string]string{"regionType": "Physical"},
		})
	}
	return arm.Page(r, views, func(v locationView) string { return v.Name })
}

type typeView struct {
	Type      string   `json:"resourceType"`
	Locations []string `json:"locations"`
	Versions  []string `json:"apiVersions"`
}

type providerView struct {
	ID        string     `json:"id"`
	Namespace string     `json:"namespace"`
	Policy    string     `json:"registrationPolicy"`
	State     string     `json:"registrationState"`
	Types     []typeView `json:"resourceTypes"`
}

func (p *Provider) listProviders(_ context.Context, r *arm.Request) (*arm.Response, error) {
	var views []providerView
	for _, each := range p.router.Providers() {
		views = append(views, describe(r.ID.Subscription, each))
	}
	return arm.Page(r, views, func(v providerView) string { return v.Namespace })
}

// getProvider also answers the registration: every provider is always registered.
func (p *Provider) getProvider(_ context.Context, r *arm.Request) (*arm.Response, error) {
	for _, each := range p.router.Providers() {
		if strings.EqualFold(each.Namespace, r.Param("namespace")) {
			return &arm.Response{Body: describe(r.ID.Subscription, each)}, nil
		}
	}
	return nil, &arm.Error{Status: 404, Code: "InvalidResourceNamespace", Message: fmt.Sprintf("The resource namespace '%s' is invalid.", r.Param("namespace"))}
}

// describe finds a provider's types in the patterns of its routes.
func describe(subscription string, p arm.Provider) providerView {
	v := providerView{
		ID: "/subscriptions/" + subscription + "/providers/" + p.Namespace, Namespace: p.Namespace,
		Policy: "RegistrationFree", State: "Registered", Types: []typeView{},
	}
	versions := slices.Clone(p.Versions)
	slices.Reverse(versions)
	if p.Namespace == namespace {
		versions = []string{"2021-04-01"} // any version is served; this is what Azure's own tools mostly ask for
	}
	var locations []string
	for _, r := range tracked.Regions {
		locations = append(locations, r.DisplayName)
	}
	var seen []string
	for _, route := range p.Routes {
		t := typeOf(route, p.Namespace)
		if t == "" || slices.Contains(seen, t) {
			continue
		}
		seen = append(seen, t)
		served := versions
		if route.Versions != nil {
			served = route.Versions
		}
		v.Types = append(v.Types, typeView{Type: t, Locations: locations, Versions: served})
	}
	return v
}

// typeOf is the type that a route reads: fluidRelayServers/fluidRelayContainers.
func typeOf(route arm.Route, namespace string) string {
	if namespace == "Microsoft.Resources" && route.Pattern == arm.InGroup {
		return "resourceGroups"
	}
	_, path, ok := strings.Cut(route.Pattern, "/providers/"+namespace+"/")
	if !ok || route.Method != "GET" || strings.HasSuffix(route.Action, "/action") {
		return ""
	}
	var types []string
	for i, s := range strings.Split(path, "/") {
		if i%2 == 0 {
			types = append(types, s)
		}
	}
	return strings.Join(types, "/")
}
