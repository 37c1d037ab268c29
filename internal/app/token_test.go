//go:build cgo && pkcs11

package app_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/pkcs11/softhsm"
)

// A whole server with a SoftHSM token: a managed HSM is made by the management plane, its
// keys work for the real client before and after a restart, and nothing of them is on disk
// outside the token.
func TestManagedHSMInAToken(t *testing.T) {
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), token: app.PKCS11(softhsm.New(t))}
	r.start()
	t.Cleanup(func() { r.stop() })
	ctx := t.Context()
	client, err := cli.NewClient(r.profile)
	if err != nil {
		t.Fatal(err)
	}
	group := "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/rg"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.Do(ctx, http.MethodPut, group, "2021-04-01", map[string]any{"location": "westus2"}, nil))
	must(client.Do(ctx, http.MethodPut, group+"/providers/Microsoft.KeyVault/managedHSMs/contoso", "2023-07-01", map[string]any{
		"location": "westus2", "sku": map[string]any{"family": "B", "name": "Standard_B1"},
		"properties": map[string]any{"tenantId": r.profile.DirectoryID, "initialAdminObjectIds": []string{r.profile.ObjectID}},
	}, nil))
	r.assignHSMRole("contoso", "21dbd100-6940-42c2-9190-5d6cb909625b")

	message := []byte("a data key of thirty-two bytes..")
	oaep, kw, padded := azkeys.EncryptionAlgorithmRSAOAEP256, azkeys.EncryptionAlgorithmA256KW, azkeys.EncryptionAlgorithmCKMAESKEYWRAPPAD
	wrapped := map[string][]byte{}
	for _, restarted := range []bool{false, true} {
		if restarted {
			r.stop()
			r.start()
			client, err = cli.NewClient(r.profile)
			must(err)
		}
		keys, err := client.HSMKeys("contoso")
		must(err)
		for name, test := range map[string]struct {
			kind azkeys.KeyType
			alg  azkeys.EncryptionAlgorithm
		}{"rsa": {azkeys.KeyTypeRSAHSM, oaep}, "oct": {azkeys.KeyTypeOctHSM, kw}, "oct-padded": {azkeys.KeyTypeOctHSM, padded}} {
			if !restarted {
				_, err := keys.CreateKey(ctx, name, azkeys.CreateKeyParameters{Kty: &test.kind}, nil)
				must(err)
				w, err := keys.WrapKey(ctx, name, "", azkeys.KeyOperationParameters{Algorithm: &test.alg, Value: message}, nil)
				must(err)
				wrapped[name] = w.Result
			}
			got, err := keys.UnwrapKey(ctx, name, "", azkeys.KeyOperationParameters{Algorithm: &test.alg, Value: wrapped[name]}, nil)
			if err != nil || !bytes.Equal(got.Result, message) {
				t.Errorf("%s, restarted %t: got %q, %v", name, restarted, got.Result, err)
			}
			bad := bytes.Clone(wrapped[name])
			bad[0] ^= 1
			if _, err := keys.UnwrapKey(ctx, name, "", azkeys.KeyOperationParameters{Algorithm: &test.alg, Value: bad}, nil); err == nil || !strings.Contains(err.Error(), "BadParameter") {
				t.Errorf("%s of a changed value: got %v", name, err)
			}
		}
	}
	// Without its token the server starts, and says what is missing when a key is needed.
	r.stop()
	r.token = app.PKCS11{}
	r.start()
	client, err = cli.NewClient(r.profile)
	must(err)
	keys, err := client.HSMKeys("contoso")
	must(err)
	if _, err := keys.UnwrapKey(ctx, "rsa", "", azkeys.KeyOperationParameters{Algorithm: &oaep, Value: wrapped["rsa"]}, nil); err == nil || !strings.Contains(err.Error(), "InternalServerError") {
		t.Errorf("without the token: got %v", err)
	}
}

// assignHSMRole gives the administrator a role of a managed HSM, as he may.
func (r *rig) assignHSMRole(hsm, role string) {
	r.t.Helper()
	pem, err := os.ReadFile(r.profile.CAFile)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	address := strings.TrimPrefix(r.profile.ManagementURL, "https://")
	var d net.Dialer
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, address)
		},
	}}
	credential, err := azidentity.NewClientSecretCredential(r.profile.DirectoryID, r.profile.ClientID, r.profile.ClientSecret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions:            azcore.ClientOptions{Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: r.profile.ManagementURL}, Transport: client},
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := credential.GetToken(r.t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://managedhsm.azure.net/.default"}})
	if err != nil {
		r.t.Fatal(err)
	}
	body := fmt.Sprintf(`{"properties":{"roleDefinitionId":%q,"principalId":%q}}`, role, r.profile.ObjectID)
	url := "https://" + hsm + "." + r.profile.HSMSuffix + "/providers/Microsoft.Authorization/roleAssignments/" + r.profile.ObjectID + "?api-version=7.4"
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Token)
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		r.t.Fatalf("assign a role: got %d", resp.StatusCode)
	}
}

// The service key may lie sealed in the token: a plain one is sealed when that is asked
// for, and then the token opens the data, and nothing else does.
func TestServiceKeyInAToken(t *testing.T) {
	token := app.PKCS11(softhsm.New(t))
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data")}
	r.setUp()
	file := filepath.Join(r.data+".keys", "service.key")
	plain, err := os.ReadFile(file)
	if err != nil || len(plain) != 32 {
		t.Fatalf("the plain key has %d bytes, %v", len(plain), err)
	}
	document := writeDocument(t, r.endpoint)
	want, _ := r.ask(document)
	r.stop()

	r.token, r.seal = token, true
	r.start()
	sealed, err := os.ReadFile(file)
	if err != nil || bytes.Contains(sealed, plain) || bytes.Contains(sealed, plain[:16]) {
		t.Errorf("the sealed key holds the plain one, %v", err)
	}
	r.stop()
	r.seal = false // it stays sealed
	r.start()
	if got, _ := r.ask(document); !bytes.Equal(got.body, want.body) {
		t.Errorf("with the token: got %d %s, want %s", got.status, got.body, want.body)
	}
	r.stop()
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, sealed) {
		t.Errorf("the sealed key changed: %v", err)
	}

	const free = "127.0.0.1:0"
	refused := func(what, want string, c app.Config) {
		t.Helper()
		c.DataDir, c.RelayAddr, c.ManagementAddr = r.data, free, free
		server, err := app.Open(t.Context(), c)
		if err == nil {
			server.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", what, err, want)
		}
	}
	refused("without the token", "is sealed in a PKCS#11 token", app.Config{})
	refused("sealing without a token", "needs a PKCS#11 token", app.Config{SealServiceKey: true})
	damaged := bytes.Clone(sealed)
	damaged[len(damaged)-1] ^= 1
	if err := os.WriteFile(file, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("damaged", "is damaged", app.Config{PKCS11: token})
	if err := os.WriteFile(file, sealed[:60], 0o600); err != nil {
		t.Fatal(err)
	}
	refused("cut off", "is cut off", app.Config{PKCS11: token})
	if err := os.WriteFile(file, sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("another token", "is it the token that sealed it?", app.Config{PKCS11: app.PKCS11(softhsm.New(t))})
}

// Data whose service key lies sealed in a token is looked through with the token, and the file
// stays as it is. Without the token it is said what was not shown.
func TestDataUnderAKeyInATokenIsLookedThrough(t *testing.T) {
	token := app.PKCS11(softhsm.New(t))
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), token: token, seal: true}
	r.setUp()
	writeDocument(t, r.endpoint)
	r.stop()
	file := filepath.Join(r.data+".keys", "service.key")
	sealed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	got := r.inspect(app.InspectConfig{PKCS11: token})
	if got.State != "Intact" || got.Documents != 1 || len(got.KeyIDs) != 1 || len(got.NotShown) != 2 {
		t.Errorf("with the token: %+v, want rows opened and the document's key version", got)
	}
	got = r.inspect(app.InspectConfig{})
	if got.State != "Intact" || len(got.KeyIDs) != 0 || !strings.Contains(strings.Join(got.NotShown, "\n"), "--pkcs11-module") {
		t.Errorf("without the token: %+v, want that it is said what is missing", got)
	}
	copied, err := app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: r.data, PKCS11: token})
	if err != nil || copied.State != "Opens" || len(copied.ServiceKeys) != 1 || len(copied.Relays) != 1 {
		t.Errorf("backup verify with the token: %+v, %v", copied, err)
	}
	if _, err := app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: r.data}); err == nil || !strings.Contains(err.Error(), "give --pkcs11-module") {
		t.Errorf("backup verify without the token: %v, want what to give", err)
	}

	other := app.PKCS11(softhsm.New(t))
	for what, err := range map[string]error{
		"data prove":    second(app.Inspect(t.Context(), app.InspectConfig{DataDir: r.data, PKCS11: other})),
		"backup verify": second(app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: r.data, PKCS11: other})),
	} {
		if err == nil || !strings.Contains(err.Error(), "is it the token that sealed it?") {
			t.Errorf("%s with another token: %v", what, err)
		}
	}
	other.Label = ""
	if _, err := app.VerifyBackup(t.Context(), app.BackupConfig{DataDir: r.data, PKCS11: other}); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("with one flag missing: %v", err)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, sealed) {
		t.Errorf("the sealed key changed: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
