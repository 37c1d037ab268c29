package eventgrid_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/eventgrid/armeventgrid"
)

type anyToken struct{}

func (anyToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "token", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// TestSubscriptionsWithTheSDK makes and removes a subscription as Azure's client does.
func TestSubscriptionsWithTheSDK(t *testing.T) {
	e := newEndpoint(t)
	p := newPlane(t, []string{strings.TrimPrefix(e.URL, "https://")}, rootsOf(e))
	server := httptest.NewTLSServer(p.router)
	t.Cleanup(server.Close)
	client, err := armeventgrid.NewEventSubscriptionsClient("11111111-1111-1111-1111-111111111111", anyToken{}, &arm.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: server.Client(),
		Cloud:     cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: server.URL, Audience: server.URL}}},
	}})
	p.must(err)
	ctx := t.Context()
	poller, err := client.BeginCreateOrUpdate(ctx, vaultID, "new-keys", armeventgrid.EventSubscription{Properties: &armeventgrid.EventSubscriptionProperties{
		Destination: &armeventgrid.WebHookEventSubscriptionDestination{
			EndpointType: to.Ptr(armeventgrid.EndpointTypeWebHook), Properties: &armeventgrid.WebHookEventSubscriptionDestinationProperties{EndpointURL: to.Ptr(e.URL + "?code=secret")},
		},
		Filter:              &armeventgrid.EventSubscriptionFilter{IncludedEventTypes: []*string{to.Ptr("Microsoft.KeyVault.KeyNewVersionCreated")}},
		EventDeliverySchema: to.Ptr(armeventgrid.EventDeliverySchemaCloudEventSchemaV10),
	}}, nil)
	p.must(err)
	made, err := poller.PollUntilDone(ctx, nil)
	p.must(err)
	hook, ok := made.Properties.Destination.(*armeventgrid.WebHookEventSubscriptionDestination)
	if !ok || hook.Properties.EndpointURL != nil || *hook.Properties.EndpointBaseURL != e.URL || *made.Properties.Topic != vaultID {
		t.Errorf("made: got %+v", made.Properties)
	}
	full, err := client.GetFullURL(ctx, vaultID, "new-keys", nil)
	p.must(err)
	if *full.EndpointURL != e.URL+"?code=secret" {
		t.Errorf("full URL: got %s", *full.EndpointURL)
	}
	page, err := client.NewListByResourcePager("rg", "Microsoft.KeyVault", "vaults", "contoso", nil).NextPage(ctx)
	p.must(err)
	if len(page.Value) != 1 || *page.Value[0].Name != "new-keys" {
		t.Errorf("list: got %+v", page.Value)
	}
	removal, err := client.BeginDelete(ctx, vaultID, "new-keys", nil)
	p.must(err)
	_, err = removal.PollUntilDone(ctx, nil)
	p.must(err)
	var refused *azcore.ResponseError
	if _, err := client.Get(ctx, vaultID, "new-keys", nil); !errors.As(err, &refused) || refused.StatusCode != http.StatusNotFound || refused.ErrorCode != "ResourceNotFound" {
		t.Errorf("get a deleted one: got %v", err)
	}
}
