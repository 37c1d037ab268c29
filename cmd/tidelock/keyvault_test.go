package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/tidelock/tidelock/internal/cli"
)

// The vault's log has every use of the key that the relay's own log has, under the same
// request id; exported, it lies where Azure's diagnostic logs lie.
func TestVaultLogMatchesTheRelays(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, "quickstart", data, "is serving")
	defer s.end(t)
	var asked []struct {
		Operation string `json:"operationName"`
		RequestID string `json:"correlationId"`
	}
	output(t, &asked, "keyvault", "log", "--vault", "quickstart-vault", "--data", data)
	inVault := map[string]string{}
	for _, a := range asked {
		inVault[a.RequestID] = a.Operation
	}
	var uses struct {
		Records []struct{ Op, Reason, RequestID string }
	}
	output(t, &uses, "audit", "--data", data)
	if len(uses.Records) < 2 {
		t.Fatalf("the relay's log has %d records", len(uses.Records))
	}
	for _, u := range uses.Records {
		if _, ok := inVault[u.RequestID]; !ok {
			t.Errorf("%s for %s (request %s) is not in the vault's log", u.Op, u.Reason, u.RequestID)
		}
	}
	for _, operation := range []string{"KeyCreate", "KeyWrap", "VaultPut"} {
		found := false
		for _, a := range asked {
			found = found || a.Operation == operation
		}
		if !found {
			t.Errorf("the vault's log has no %s: %v", operation, asked)
		}
	}

	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"keyvault", "log", "--vault", "quickstart-vault", "--export", dir, "--data", data}, &stdout, &stderr); code != 0 {
		t.Fatalf("export: %s", &stderr)
	}
	layout := regexp.MustCompile(`^insights-logs-auditevent/resourceId=/SUBSCRIPTIONS/[0-9A-F-]+/RESOURCEGROUPS/QUICKSTART/PROVIDERS/MICROSOFT.KEYVAULT/VAULTS/QUICKSTART-VAULT/y=\d{4}/m=\d{2}/d=\d{2}/h=\d{2}/m=00/PT1H.json$`)
	lines := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil || !layout.MatchString(filepath.ToSlash(relative)) {
			t.Errorf("exported to %s", relative)
		}
		raw, err := os.ReadFile(path)
		lines += bytes.Count(raw, []byte("\n"))
		return err
	})
	if err != nil || lines < len(asked) {
		t.Errorf("exported %d records, %v, want %d or more", lines, err, len(asked))
	}
}

// A vault's events go to the webhook of the relay beside it: subscribing makes the
// handshake over TLS with the local authority. (That events follow is the provider's test.)
func TestVaultEventsReachTheRelay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, "quickstart", data, "is serving", "--management", address, "--event-webhook-host", address, "--metrics", "127.0.0.1:0")
	defer s.end(t)
	var webhook struct {
		URL string `json:"endpointUrl"`
	}
	output(t, &webhook, "cmk", "webhook", "--data", data)
	profile, err := cli.LoadProfile(filepath.Join(data+".keys", "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := cli.NewClient(profile)
	if err != nil {
		t.Fatal(err)
	}
	path := "/subscriptions/" + profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.KeyVault/vaults/quickstart-vault/providers/Microsoft.EventGrid/eventSubscriptions/relay"
	destination := map[string]any{"endpointType": "WebHook", "properties": map[string]any{"endpointUrl": webhook.URL}}
	var made struct {
		Properties struct {
			State string `json:"provisioningState"`
		}
	}
	if err := client.Do(t.Context(), "PUT", path, "2022-06-15", map[string]any{"properties": map[string]any{"destination": destination}}, &made); err != nil {
		t.Fatal(err)
	}
	if made.Properties.State != "Succeeded" {
		t.Errorf("got %+v", made)
	}
}
