package keyvault_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
	"github.com/tidelock/tidelock/internal/vault"
)

// The log has both planes, and only who may read it reads it.
func TestAuditEvents(t *testing.T) {
	p := providertest.New(t, nil)
	p.PutVault("kv1")
	p.NewKey("kv1", "k", "")
	p.Want(200, p.Do("GET", providertest.VaultPath("kv1"), ""))
	p.Do("PATCH", providertest.VaultPath("kv1"), `{"properties":{"enablePurgeProtection":false}}`)
	log := strings.Replace(providertest.VaultPath("kv1"), "?", "/auditEvents?", 1)
	var page struct {
		Value       []vault.AuditEvent
		First, Last uint64
	}
	if err := json.Unmarshal(p.Want(200, p.Do("GET", log, "")).Body, &page); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range page.Value {
		got = append(got, e.OperationName+" "+e.ResultSignature)
		if e.Identity.Claim == nil || e.Identity.Claim.ObjectID != p.Admin.ObjectID || e.Category != "AuditEvent" ||
			!strings.HasSuffix(e.ResourceID, "/PROVIDERS/MICROSOFT.KEYVAULT/VAULTS/KV1") || e.Properties.RequestURI == "" {
			t.Errorf("got %+v", e)
		}
	}
	if want := "VaultPut OK, KeyCreate OK, VaultGet OK, VaultPatch Bad Request"; strings.Join(got, ", ") != want || page.First != 1 || page.Last != 4 {
		t.Errorf("got %v (%d to %d), want %s", got, page.First, page.Last, want)
	}
	p.Refused(404, "ResourceNotFound", p.Do("GET", strings.Replace(log, "kv1", "kv2", 1), ""))
	p.Refused(400, "InvalidSkipToken", p.Do("GET", log+"&$skipToken=!", ""))
	stranger, secret, err := p.Entra.CreateApplication(t.Context(), p.Directory, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	p.Refused(403, "AuthorizationFailed", p.DoAs(p.Token(stranger, secret, "https://management.azure.com"), "GET", log, ""))
	p.Want(200, p.Do("PUT", hsmPath("kv1"), hsmBody(p, "")))
	if a := p.Want(200, p.Do("GET", strings.Replace(hsmPath("kv1"), "?", "/auditEvents?", 1), "")); !strings.Contains(string(a.Body), "MANAGEDHSMS") || strings.Contains(string(a.Body), "KeyCreate") {
		t.Errorf("the HSM's log: got %s", a.Body)
	}
}
