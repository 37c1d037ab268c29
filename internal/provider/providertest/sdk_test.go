package providertest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/msi/armmsi"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

// Azure's own clients, unmodified, against the plane over TLS: only where the cloud is
// was told to them.
type sdk struct {
	*providertest.Plane
	t          *testing.T
	credential azcore.TokenCredential
	options    *azarm.ClientOptions
}

func newSDK(t *testing.T) *sdk {
	t.Helper()
	p := providertest.New(t, nil)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if "https://"+r.Host == providertest.Login {
			p.Entra.Handler().ServeHTTP(w, r)
			return
		}
		p.Router.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	var d net.Dialer
	client := &http.Client{Transport: &http.Transport{
		// The test server's certificate is for example.com.
		TLSClientConfig: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, server.Listener.Addr().String())
		},
	}}
	t.Cleanup(client.CloseIdleConnections)
	here := policy.ClientOptions{
		Transport: client,
		Cloud: cloud.Configuration{
			ActiveDirectoryAuthorityHost: providertest.Login,
			Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
				cloud.ResourceManager: {Endpoint: "https://management.tidelock.test", Audience: "https://management.azure.com"},
			},
		},
	}
	s := &sdk{Plane: p, t: t, options: &azarm.ClientOptions{ClientOptions: here}}
	var err error
	s.credential, err = azidentity.NewClientSecretCredential(string(p.Directory), p.Admin.ClientID, p.AdminKey,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: here, DisableInstanceDiscovery: true})
	s.must(err)
	return s
}

func (s *sdk) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestGroupsIdentitiesAndVaultsWithTheSDK(t *testing.T) {
	s, ctx := newSDK(t), t.Context()
	groups, err := armresources.NewResourceGroupsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	_, err = groups.CreateOrUpdate(ctx, "rg2", armresources.ResourceGroup{Location: to.Ptr("West US 2"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	s.must(err)
	there, err := groups.CheckExistence(ctx, "RG2", nil)
	s.must(err)
	if !there.Success {
		t.Error("group rg2 is not there")
	}
	identities, err := armmsi.NewUserAssignedIdentitiesClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	made, err := identities.CreateOrUpdate(ctx, "rg2", "relay-id", armmsi.Identity{Location: to.Ptr("westus2")}, nil)
	s.must(err)
	_, err = identities.Update(ctx, "rg2", "relay-id", armmsi.IdentityUpdate{Tags: map[string]*string{"x": to.Ptr("y")}}, nil)
	s.must(err)
	got, err := identities.Get(ctx, "rg2", "relay-id", nil)
	s.must(err)
	if *got.Properties.PrincipalID != *made.Properties.PrincipalID || *got.Tags["x"] != "y" || !strings.Contains(*got.ID, "/resourcegroups/") {
		t.Errorf("got identity %+v", got.Identity)
	}

	const relay = "/subscriptions/" + providertest.Subscription + "/resourceGroups/rg2/providers/Microsoft.FluidRelay/fluidRelayServers/own"
	own := s.Want(200, s.Do("PUT", relay+"?api-version=2022-06-01", `{"location":"westus2","identity":{"type":"SystemAssigned"}}`))
	systems, err := armmsi.NewSystemAssignedIdentitiesClient(s.credential, s.options)
	s.must(err)
	system, err := systems.GetByScope(ctx, relay[1:], nil)
	s.must(err)
	if *system.Properties.PrincipalID != own.Get("identity.principalId") || *system.Properties.TenantID != own.Get("identity.tenantId") || *system.Location != "westus2" {
		t.Errorf("got system-assigned identity %+v, want that of %s", system.Properties, own.Body)
	}

	trusted, err := armmsi.NewFederatedIdentityCredentialsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	_, err = trusted.CreateOrUpdate(ctx, "rg2", "relay-id", "cluster", armmsi.FederatedIdentityCredential{Properties: &armmsi.FederatedIdentityCredentialProperties{
		Issuer: to.Ptr("https://oidc.example.test"), Subject: to.Ptr("a"), Audiences: []*string{to.Ptr("api://AzureADTokenExchange")},
	}}, nil)
	s.must(err)
	listed := trusted.NewListPager("rg2", "relay-id", nil)
	page, err := listed.NextPage(ctx)
	s.must(err)
	if len(page.Value) != 1 || *page.Value[0].Properties.Subject != "a" {
		t.Errorf("got federated credentials %+v", page.Value)
	}
	_, err = trusted.Delete(ctx, "rg2", "relay-id", "cluster", nil)
	s.must(err)

	vaults, err := armkeyvault.NewVaultsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	properties := &armkeyvault.VaultProperties{
		TenantID: to.Ptr(string(s.Directory)), SKU: &armkeyvault.SKU{Family: to.Ptr(armkeyvault.SKUFamilyA), Name: to.Ptr(armkeyvault.SKUNameStandard)},
		AccessPolicies: []*armkeyvault.AccessPolicyEntry{}, EnablePurgeProtection: to.Ptr(true), SoftDeleteRetentionInDays: to.Ptr[int32](7),
	}
	poller, err := vaults.BeginCreateOrUpdate(ctx, "rg2", "sdk-vault", armkeyvault.VaultCreateOrUpdateParameters{Location: to.Ptr("westus2"), Properties: properties}, nil)
	s.must(err)
	created, err := poller.PollUntilDone(ctx, nil)
	s.must(err)
	if *created.Properties.VaultURI != "https://sdk-vault."+providertest.VaultSuffix+"/" {
		t.Errorf("got vaultUri %s", *created.Properties.VaultURI)
	}
	_, err = vaults.UpdateAccessPolicy(ctx, "rg2", "sdk-vault", armkeyvault.AccessPolicyUpdateKindAdd, armkeyvault.VaultAccessPolicyParameters{
		Properties: &armkeyvault.VaultAccessPolicyProperties{AccessPolicies: []*armkeyvault.AccessPolicyEntry{{
			TenantID: properties.TenantID, ObjectID: made.Properties.PrincipalID,
			Permissions: &armkeyvault.Permissions{Keys: []*armkeyvault.KeyPermissions{to.Ptr(armkeyvault.KeyPermissionsGet)}},
		}}},
	}, nil)
	s.must(err)
	all := 0
	for pager := vaults.NewListPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		s.must(err)
		all += len(page.Value)
	}
	if all != 1 {
		t.Errorf("the SDK lists %d vaults, want 1", all)
	}
	_, err = vaults.Delete(ctx, "rg2", "sdk-vault", nil)
	s.must(err)
	gone, err := vaults.GetDeleted(ctx, "sdk-vault", "westus2", nil)
	s.must(err)
	if !strings.EqualFold(*gone.Properties.VaultID, *created.ID) || gone.Properties.ScheduledPurgeDate.Sub(*gone.Properties.DeletionDate).Hours() != 7*24 {
		t.Errorf("got deleted vault %+v", gone.Properties)
	}
	properties.CreateMode = to.Ptr(armkeyvault.CreateModeRecover)
	poller, err = vaults.BeginCreateOrUpdate(ctx, "rg2", "sdk-vault", armkeyvault.VaultCreateOrUpdateParameters{Location: to.Ptr("westus2"), Properties: properties}, nil)
	s.must(err)
	back, err := poller.PollUntilDone(ctx, nil)
	s.must(err)
	if len(back.Properties.AccessPolicies) != 1 {
		t.Errorf("recovered with %d access policies, want the one it had", len(back.Properties.AccessPolicies))
	}
	s.managedHSM(ctx)
	deleting, err := groups.BeginDelete(ctx, "rg2", nil)
	s.must(err)
	_, err = deleting.PollUntilDone(ctx, nil)
	s.must(err)
	if _, err = identities.Get(ctx, "rg2", "relay-id", nil); refusal(err) != "ResourceGroupNotFound" {
		t.Errorf("after the group's deletion: got %v", err)
	}
}

// managedHSM walks a managed HSM of rg2 through its life: all its writes are pollers.
func (s *sdk) managedHSM(ctx context.Context) {
	s.t.Helper()
	hsms, err := armkeyvault.NewManagedHsmsClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	hsm := armkeyvault.ManagedHsm{
		Location: to.Ptr("westus2"), SKU: &armkeyvault.ManagedHsmSKU{Family: to.Ptr(armkeyvault.ManagedHsmSKUFamilyB), Name: to.Ptr(armkeyvault.ManagedHsmSKUNameStandardB1)},
		Properties: &armkeyvault.ManagedHsmProperties{TenantID: to.Ptr(string(s.Directory)), InitialAdminObjectIDs: []*string{&s.Admin.ObjectID}, SoftDeleteRetentionInDays: to.Ptr[int32](7)},
	}
	making, err := hsms.BeginCreateOrUpdate(ctx, "rg2", "sdk-hsm", hsm, nil)
	s.must(err)
	made, err := making.PollUntilDone(ctx, nil)
	s.must(err)
	if *made.Properties.HsmURI != "https://sdk-hsm."+providertest.HSMSuffix+"/" || *made.Properties.SecurityDomainProperties.ActivationStatus != armkeyvault.ActivationStatusActive {
		s.t.Errorf("got HSM %+v", made.Properties)
	}
	updating, err := hsms.BeginUpdate(ctx, "rg2", "sdk-hsm", armkeyvault.ManagedHsm{Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	s.must(err)
	updated, err := updating.PollUntilDone(ctx, nil)
	s.must(err)
	if *updated.Tags["a"] != "b" || len(updated.Properties.InitialAdminObjectIDs) != 1 {
		s.t.Errorf("updated: got %+v", updated.ManagedHsm)
	}
	deleting, err := hsms.BeginDelete(ctx, "rg2", "sdk-hsm", nil)
	s.must(err)
	_, err = deleting.PollUntilDone(ctx, nil)
	s.must(err)
	gone, err := hsms.GetDeleted(ctx, "sdk-hsm", "westus2", nil)
	s.must(err)
	if !strings.EqualFold(*gone.Properties.MhsmID, *made.ID) {
		s.t.Errorf("got deleted HSM %+v", gone.Properties)
	}
	purging, err := hsms.BeginPurgeDeleted(ctx, "sdk-hsm", "westus2", nil)
	s.must(err)
	_, err = purging.PollUntilDone(ctx, nil)
	s.must(err)
	if _, err := hsms.GetDeleted(ctx, "sdk-hsm", "westus2", nil); refusal(err) != "DeletedManagedHsmNotFound" {
		s.t.Errorf("after the purge: got %v", err)
	}
}

// The life of a relay server with CMK, through the SDK's generic client: its pollers
// accept what the typed ones do.
func TestFluidRelayWithTheSDK(t *testing.T) {
	s, ctx := newSDK(t), t.Context()
	id, principal := s.NewIdentity("id1", "westus2")
	s.PutVault("kv1", providertest.Grant{Principal: principal, Permissions: []string{"get", "wrapKey", "unwrapKey"}})
	first, second := s.NewKey("kv1", "k", ""), s.NewKey("kv1", "k", "")

	client, err := armresources.NewClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	const apiVersion = "2022-06-01"
	path := providertest.Group + "/providers/Microsoft.FluidRelay/fluidRelayServers/fr1"
	if _, err := client.GetByID(ctx, path, apiVersion, nil); refusal(err) != "ResourceNotFound" {
		t.Errorf("before it is made: got %v", err)
	}
	encryption := func(url string) map[string]any {
		return map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": map[string]any{
			"keyEncryptionKeyUrl":      url,
			"keyEncryptionKeyIdentity": map[string]any{"identityType": "UserAssigned", "userAssignedIdentityResourceId": id},
		}}}
	}
	creating, err := client.BeginCreateOrUpdateByID(ctx, path, apiVersion, armresources.GenericResource{
		Location: to.Ptr("westus2"), Properties: encryption(first),
		Identity: &armresources.Identity{Type: to.Ptr(armresources.ResourceIdentityTypeUserAssigned), UserAssignedIdentities: map[string]*armresources.IdentityUserAssignedIdentitiesValue{id: {}}},
	}, nil)
	s.must(err)
	made, err := creating.PollUntilDone(ctx, nil)
	s.must(err)
	if *made.Identity.UserAssignedIdentities[id].PrincipalID != principal {
		t.Errorf("got identities %+v", made.Identity.UserAssignedIdentities)
	}
	updating, err := client.BeginUpdateByID(ctx, path, apiVersion, armresources.GenericResource{Properties: encryption(second)}, nil)
	s.must(err)
	_, err = updating.PollUntilDone(ctx, nil)
	s.must(err)
	got, err := client.GetByID(ctx, path, apiVersion, nil)
	s.must(err)
	raw, err := json.Marshal(got.Properties)
	s.must(err)
	if !bytes.Contains(raw, []byte(second)) {
		t.Errorf("got %s, want the key URL %s", raw, second)
	}
	_, err = client.BeginUpdateByID(ctx, path, apiVersion, armresources.GenericResource{Properties: encryption("https://evil.example/keys/k")}, nil)
	if refusal(err) != "InvalidKeyEncryptionKeyUrl" {
		t.Errorf("a foreign key URL: got %v", err)
	}

	before, after := s.post(path+"/listKeys", ""), s.post(path+"/regenerateKey", `{"keyName":"key1"}`)
	if before["key1"] == after["key1"] || before["key2"] != after["key2"] {
		t.Errorf("regenerateKey: got %v, was %v", after, before)
	}
	listed := 0
	for pager := client.NewListPager(&armresources.ClientListOptions{Filter: to.Ptr("resourceType eq 'Microsoft.FluidRelay/fluidRelayServers'")}); pager.More(); {
		page, err := pager.NextPage(ctx)
		s.must(err)
		listed += len(page.Value)
	}
	if listed != 1 {
		t.Errorf("the SDK lists %d relay servers, want 1", listed)
	}
	deleting, err := client.BeginDeleteByID(ctx, path, apiVersion, nil)
	s.must(err)
	_, err = deleting.PollUntilDone(ctx, nil)
	s.must(err)
	providers, err := armresources.NewProvidersClient(providertest.Subscription, s.credential, s.options)
	s.must(err)
	registered, err := providers.Register(ctx, "Microsoft.FluidRelay", nil)
	s.must(err)
	if *registered.RegistrationState != "Registered" {
		t.Errorf("got registration state %s", *registered.RegistrationState)
	}
}

func refusal(err error) string {
	var refused *azcore.ResponseError
	if errors.As(err, &refused) {
		return refused.ErrorCode
	}
	return ""
}

// post calls an action through the pipeline that all of the SDK's clients are made on.
func (s *sdk) post(path, body string) map[string]string {
	s.t.Helper()
	client, err := azarm.NewClient("providertest", "v1.0.0", s.credential, s.options)
	s.must(err)
	r, err := runtime.NewRequest(s.t.Context(), http.MethodPost, runtime.JoinPaths(client.Endpoint(), path)+"?api-version=2022-06-01")
	s.must(err)
	if body != "" {
		s.must(r.SetBody(nopCloser{strings.NewReader(body)}, "application/json"))
	}
	resp, err := client.Pipeline().Do(r)
	s.must(err)
	defer resp.Body.Close()
	if !runtime.HasStatusCode(resp, http.StatusOK) {
		s.t.Fatal(runtime.NewResponseError(resp))
	}
	var keys map[string]string
	s.must(runtime.UnmarshalAsJSON(resp, &keys))
	return keys
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }
