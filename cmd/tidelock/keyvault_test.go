package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
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
