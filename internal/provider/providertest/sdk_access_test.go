package providertest_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/monitor/armmonitor"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armsubscriptions"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

func TestRolesWithTheSDK(t *testing.T) {
	s, ctx := newSDK(t), t.Context()
	identity, principal := s.NewIdentity("id1", "westus2")
	definitions, err := armauthorization.NewRoleDefinitionsClient(s.credential, s.options)
	s.must(err)
	scope := "/subscriptions/" + providertest.Subscription
	found, err := definitions.NewListPager(scope, &armauthorization.RoleDefinitionsClientListOptions{Filter: to.Ptr("roleName eq 'Managed Identity Operator'")}).NextPage(ctx)
	s.must(err)
	if len(found.Value) != 1 || *found.Value[0].Properties.RoleType != "BuiltInRole" {
		t.Fatalf("got %+v", found.Value)
	}
	role := found.Value[0].ID
	byID, err := definitions.GetByID(ctx, *role, nil)
	s.must(err)
	if *byID.Name != *found.Value[0].Name {
		t.Errorf("by id: %+v", byID.RoleDefinition)
	}

	assignments, err := armauthorization.NewRoleAssignmentsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	const name = "00000000-0000-4000-8000-000000000001"
	body := armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		PrincipalID: &principal, RoleDefinitionID: role, PrincipalType: to.Ptr(armauthorization.PrincipalTypeServicePrincipal),
	}}
	made, err := assignments.Create(ctx, identity, name, body, nil)
	s.must(err)
	if !strings.EqualFold(*made.Properties.Scope, identity) || *made.Properties.PrincipalID != principal {
		t.Errorf("made %+v", made.Properties)
	}
	_, err = assignments.Create(ctx, identity, "00000000-0000-4000-8000-000000000002", body, nil)
	var refused *azcore.ResponseError
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusConflict || refused.ErrorCode != "RoleAssignmentExists" {
		t.Errorf("the same again: %v", err)
	}
	// This client puts the filter of assignments into the URL as it is: its callers escape it.
	for what, pager := range map[string]func() (int, error){
		"subscription": func() (int, error) {
			p, err := assignments.NewListForSubscriptionPager(&armauthorization.RoleAssignmentsClientListForSubscriptionOptions{Filter: to.Ptr("assignedTo('" + principal + "')")}).NextPage(ctx)
			return len(p.Value), err
		},
		"group": func() (int, error) {
			p, err := assignments.NewListForResourceGroupPager("rg1", &armauthorization.RoleAssignmentsClientListForResourceGroupOptions{Filter: to.Ptr("principalId%20eq%20'" + principal + "'")}).NextPage(ctx)
			return len(p.Value), err
		},
		"scope": func() (int, error) {
			p, err := assignments.NewListForScopePager(identity, &armauthorization.RoleAssignmentsClientListForScopeOptions{Filter: to.Ptr("atScope()%20and%20assignedTo('" + principal + "')")}).NextPage(ctx)
			return len(p.Value), err
		},
	} {
		if n, err := pager(); err != nil || n != 1 {
			t.Errorf("assignments of %s: got %d, %v, want 1", what, n, err)
		}
	}
	_, err = assignments.GetByID(ctx, *made.ID, nil)
	s.must(err)
	_, err = assignments.Delete(ctx, identity, name, nil)
	s.must(err)
	permissions, err := armauthorization.NewPermissionsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	mine, err := permissions.NewListForResourceGroupPager("rg1", nil).NextPage(ctx)
	s.must(err)
	if len(mine.Value) != 1 || *mine.Value[0].Actions[0] != "*" {
		t.Errorf("the owner's permissions: %+v", mine.Value)
	}
}

func TestActivityLogTagsAndSubscriptionsWithTheSDK(t *testing.T) {
	s, ctx := newSDK(t), t.Context()
	identity, _ := s.NewIdentity("id1", "westus2")
	tags, err := armresources.NewTagsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	_, err = tags.CreateOrUpdateAtScope(ctx, identity[1:], armresources.TagsResource{Properties: &armresources.Tags{Tags: map[string]*string{"a": to.Ptr("b")}}}, nil)
	s.must(err)
	got, err := tags.GetAtScope(ctx, identity[1:], nil)
	s.must(err)
	if *got.Properties.Tags["a"] != "b" {
		t.Errorf("tags: %+v", got.Properties)
	}
	_, err = tags.NewListPager(nil).NextPage(ctx)
	s.must(err)

	log, err := armmonitor.NewActivityLogsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	filter := fmt.Sprintf("eventTimestamp ge '%s' and eventTimestamp le '%s' and resourceGroupName eq 'rg1'",
		time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	events, err := log.NewListPager(filter, nil).NextPage(ctx)
	s.must(err)
	if len(events.Value) != 3 || *events.Value[0].OperationName.Value != "Microsoft.Resources/tags/write" || *events.Value[0].Status.Value != "Succeeded" || events.Value[0].EventTimestamp.IsZero() {
		t.Errorf("got %d events, the first %+v", len(events.Value), events.Value[0])
	}

	subscriptions, err := armsubscriptions.NewClient(s.credential, s.options)
	s.must(err)
	page, err := subscriptions.NewListPager(nil).NextPage(ctx)
	s.must(err)
	if len(page.Value) != 1 || *page.Value[0].State != armsubscriptions.SubscriptionStateEnabled {
		t.Errorf("subscriptions: %+v", page.Value)
	}
	locations, err := subscriptions.NewListLocationsPager(providertest.Subscription, nil).NextPage(ctx)
	s.must(err)
	if len(locations.Value) < 40 {
		t.Errorf("%d locations", len(locations.Value))
	}
	tenants, err := armsubscriptions.NewTenantsClient(s.credential, s.options)
	s.must(err)
	directories, err := tenants.NewListPager(nil).NextPage(ctx)
	s.must(err)
	if len(directories.Value) != 1 || *directories.Value[0].TenantID != string(s.Directory) {
		t.Errorf("tenants: %+v", directories.Value)
	}
	providers, err := armresources.NewProvidersClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	registered, err := providers.Register(ctx, "Microsoft.FluidRelay", nil)
	s.must(err)
	if *registered.RegistrationState != "Registered" {
		t.Errorf("registered: %+v", registered.Provider)
	}
}
