package terraform

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-azure-helpers/lang/pointer"
	"github.com/hashicorp/go-azure-helpers/lang/response"
	"github.com/hashicorp/go-azure-helpers/resourcemanager/commonids"
	"github.com/hashicorp/go-azure-helpers/resourcemanager/identity"
	"github.com/hashicorp/go-azure-sdk/resource-manager/fluidrelay/2022-05-26/fluidrelayservers"
	"github.com/hashicorp/go-azure-sdk/resource-manager/managedidentity/2024-11-30/identities"
	"github.com/hashicorp/go-azure-sdk/sdk/auth"
	"github.com/hashicorp/go-azure-sdk/sdk/claims"
	"github.com/hashicorp/go-azure-sdk/sdk/environments"
)

// server is a process, and its administrator.
type server struct {
	binary, data, management                                              string
	DirectoryID, SubscriptionID, ClientID, ClientSecret, ObjectID, CAFile string
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{binary: os.Getenv("TIDELOCK_BIN"), data: filepath.Join(t.TempDir(), "data"), management: free(t)}
	if s.binary == "" {
		t.Fatal("TIDELOCK_BIN is not set: run 'make terraform'")
	}
	c := exec.Command(s.binary, "quickstart", "--data", s.data, "--relay", free(t), "--management", s.management)
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt) // it may have ended by itself: Wait says so
		if err := c.Wait(); err != nil || t.Failed() {
			t.Logf("tidelock: %v\n%s", err, &log)
		}
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "is serving") {
			go func() {
				for lines.Scan() { // the rest, so that the process never waits for us
				}
			}()
			raw, err := os.ReadFile(s.data + ".keys/admin.json")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, s); err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	t.Fatalf("tidelock ended before it served: %s", &log)
	return nil
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What a plan and an apply of azurerm_user_assigned_identity and
// azurerm_fluid_relay_server send: metadata, tokens of the resource manager and of Graph,
// whose claims the provider reads, then each resource.
func TestProvidersClients(t *testing.T) {
	s := start(t)
	// Before the first connection: Go reads it once.
	t.Setenv("SSL_CERT_FILE", s.CAFile)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the SDK wants an end, to poll until
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	environment, err := environments.FromEndpoint(ctx, "https://"+s.management)
	must(err)
	credentials := auth.Credentials{
		Environment: *environment, TenantID: s.DirectoryID, ClientID: s.ClientID, ClientSecret: s.ClientSecret,
		EnableAuthenticatingUsingClientSecret: true,
	}
	graph, err := auth.NewAuthorizerFromCredentials(ctx, credentials, environment.MicrosoftGraph)
	must(err)
	token, err := graph.Token(ctx, &http.Request{})
	must(err)
	who, err := claims.ParseClaims(token)
	must(err)
	if who.ObjectId != s.ObjectID || who.TenantId != s.DirectoryID || who.AppId != s.ClientID {
		t.Errorf("the provider takes itself for %+v", who)
	}
	authorizer, err := auth.NewAuthorizerFromCredentials(ctx, credentials, environment.ResourceManager)
	must(err)

	ids, err := identities.NewIdentitiesClientWithBaseURI(environment.ResourceManager)
	must(err)
	ids.Client.SetAuthorizer(authorizer)
	id := commonids.NewUserAssignedIdentityID(s.SubscriptionID, "quickstart", "from-terraform")
	made, err := ids.UserAssignedIdentitiesCreateOrUpdate(ctx, id, identities.Identity{Location: "westus2"})
	must(err)
	if made.Model == nil || made.Model.Properties == nil || pointer.From(made.Model.Properties.PrincipalId) == "" {
		t.Errorf("got identity %+v", made.Model)
	}
	relay(ctx, t, s, authorizer, environment)
	_, err = ids.UserAssignedIdentitiesDelete(ctx, id)
	must(err)
}

func relay(ctx context.Context, t *testing.T, s *server, authorizer auth.Authorizer, environment *environments.Environment) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	relays, err := fluidrelayservers.NewFluidRelayServersClientWithBaseURI(environment.ResourceManager)
	must(err)
	relays.Client.SetAuthorizer(authorizer)
	raw, err := exec.Command(s.binary, "relay", "show", "--data", s.data, "--output", "json").Output()
	must(err)
	var quickstart struct {
		Properties struct {
			Encryption struct {
				CMK struct {
					URL string `json:"keyEncryptionKeyUrl"`
				} `json:"customerManagedKeyEncryption"`
			} `json:"encryption"`
		} `json:"properties"`
	}
	must(json.Unmarshal(raw, &quickstart))
	user := commonids.NewUserAssignedIdentityID(s.SubscriptionID, "quickstart", "relay-identity").ID()
	id := fluidrelayservers.NewFluidRelayServerID(s.SubscriptionID, "quickstart", "from-terraform")
	absent, err := relays.Get(ctx, id)
	if err == nil || !response.WasNotFound(absent.HttpResponse) {
		t.Fatalf("before it is made: %v", err)
	}
	want := fluidrelayservers.FluidRelayServer{
		Location: "westus2", Tags: &map[string]string{"a": "b"},
		Identity: &identity.SystemAndUserAssignedMap{Type: identity.TypeUserAssigned, IdentityIds: map[string]identity.UserAssignedIdentityDetails{user: {}}},
		Properties: &fluidrelayservers.FluidRelayServerProperties{
			Storagesku: pointer.To(fluidrelayservers.StorageSKUStandard),
			Encryption: &fluidrelayservers.EncryptionProperties{CustomerManagedKeyEncryption: &fluidrelayservers.CustomerManagedKeyEncryptionProperties{
				KeyEncryptionKeyURL: pointer.To(quickstart.Properties.Encryption.CMK.URL),
				KeyEncryptionKeyIdentity: &fluidrelayservers.CustomerManagedKeyEncryptionPropertiesKeyEncryptionKeyIdentity{
					IdentityType: pointer.To(fluidrelayservers.CmkIdentityTypeUserAssigned), UserAssignedIdentityResourceId: &user,
				},
			}},
		},
	}
	_, err = relays.CreateOrUpdate(ctx, id, want)
	must(err)
	got, err := relays.Get(ctx, id)
	must(err)
	// What the provider compares with its state: nothing may drift.
	m := got.Model
	if m.Location != "westus2" || (*m.Tags)["a"] != "b" || m.Identity.Type != identity.TypeUserAssigned ||
		pointer.From(m.Properties.Storagesku) != fluidrelayservers.StorageSKUStandard ||
		pointer.From(m.Properties.Encryption.CustomerManagedKeyEncryption.KeyEncryptionKeyURL) != quickstart.Properties.Encryption.CMK.URL ||
		pointer.From(m.Properties.Encryption.CustomerManagedKeyEncryption.KeyEncryptionKeyIdentity.UserAssignedIdentityResourceId) != user {
		t.Errorf("got %+v %+v", m, m.Properties)
	}
	for name := range m.Identity.IdentityIds {
		if name != user {
			t.Errorf("the identity's id is %s, sent was %s", name, user)
		}
	}
	_, err = relays.Update(ctx, id, fluidrelayservers.FluidRelayServerUpdate{Tags: &map[string]string{"a": "c"}})
	must(err)
	keys, err := relays.ListKeys(ctx, id)
	must(err)
	if len(pointer.From(keys.Model.Key1)) != 32 {
		t.Errorf("got keys of %d characters", len(pointer.From(keys.Model.Key1)))
	}
	_, err = relays.Delete(ctx, id)
	must(err)
}
