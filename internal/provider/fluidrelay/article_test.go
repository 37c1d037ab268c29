package fluidrelay_test

import (
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/provider/providertest"
)

// The request bodies of the Azure article "Customer-managed keys for Azure Fluid Relay
// encryption", byte for byte; only what it has in angle brackets is filled in.
const (
	articleCreate = `{
    "location": "<the region you selected for Fluid Relay resource>",
    "identity": {
        "type": "UserAssigned",
        "userAssignedIdentities": {
            “<User assigned identity resource ID>": {}
        }
    },
    "properties": {
       "encryption": {
            "customerManagedKeyEncryption": {
                "keyEncryptionKeyIdentity": {
                    "identityType": "UserAssigned",
                    "userAssignedIdentityResourceId":  "<User assigned identity resource ID>"
                },
                "keyEncryptionKeyUrl": "<key identifier>"
            }
        }
    }
}`
	articleUpdate = `{
    "properties": {
       "encryption": {
            "customerManagedKeyEncryption": {
                "keyEncryptionKeyUrl": "https://test_key_vault.vault.azure.net/keys/testKey /xxxxxxxxxxxxxxxx"
            }
        }
    }
}`
)

// The article's examples have slips: a typographic quote, blanks in URLs, a host that is
// no vault's name. As printed they are refused, with an error that points at the slip;
// with the slips mended they do what the article says.
func TestArticleExamples(t *testing.T) {
	f := newFixture(t)
	second := f.NewKey("kv1", "good", "")
	filled := strings.NewReplacer(
		"<the region you selected for Fluid Relay resource>", "westus2", "<User assigned identity resource ID>", f.id1, "<key identifier>", f.key,
	).Replace(articleCreate)
	mended := strings.Replace(filled, "“", `"`, 1)

	e := f.Refused(400, "InvalidRequestContent", f.Do("PUT", serverPath("s1"), filled))
	if !strings.Contains(e.Message, "line 6") {
		t.Errorf("the message %q does not point at the line of the quote", e.Message)
	}
	// "resourceGroups/<resource group name> /providers" and "fluidRelayServers/< Fluid Relay resource name>".
	f.Refused(404, "ResourceGroupNotFound", f.Do("PUT", strings.Replace(serverPath("s1"), "/rg1/", "/rg1%20/", 1), mended))
	f.Refused(400, "InvalidResourceName", f.Do("PUT", serverPath("%20s1"), mended))

	created := f.Want(200, f.Do("PUT", serverPath("s1"), mended))
	if created.Get(cmkPath+".keyEncryptionKeyUrl") != f.key || created.Get("properties.provisioningState") != "Succeeded" {
		t.Errorf("created: %s", created.Body)
	}
	// To verify: the article's own test is that GET shows a non-empty member.
	if got, _ := f.Want(200, f.Do("GET", serverPath("s1"), "")).Get(cmkPath).(map[string]any); len(got) == 0 {
		t.Error("encryption.customerManagedKeyEncryption is empty")
	}

	e = f.Refused(400, "InvalidKeyEncryptionKeyUrl", f.Do("PATCH", serverPath("s1"), articleUpdate))
	if !strings.Contains(e.Message, "'_'") {
		t.Errorf("the message %q does not point at the character", e.Message)
	}
	update := strings.Replace(articleUpdate, "https://test_key_vault.vault.azure.net/keys/testKey /xxxxxxxxxxxxxxxx", second, 1)
	updated := f.Want(200, f.Do("PATCH", serverPath("s1"), update))
	if updated.Get(cmkPath+".keyEncryptionKeyUrl") != second || updated.Get(cmkPath+".keyEncryptionKeyIdentity.userAssignedIdentityResourceId") != f.id1 {
		t.Errorf("updated: %s", updated.Body)
	}
}

// Bodies as the clients send them, recorded from azure-cli with its fluid-relay extension and
// from Terraform's client.
func TestBodiesOfRealClients(t *testing.T) {
	f := newFixture(t)
	second := f.NewKey("kv1", "good", "")
	for _, c := range []struct{ name, method, server, version, body string }{
		{"AzCreate", "PUT", "az", "2022-06-01", `{"identity": {"type": "UserAssigned", "userAssignedIdentities": {"<id>": {}}}, "location": "westus2", "properties": {"encryption": {"customerManagedKeyEncryption": {"keyEncryptionKeyIdentity": {"identityType": "UserAssigned", "userAssignedIdentityResourceId": "<id>"}, "keyEncryptionKeyUrl": "<url>"}}, "storagesku": "standard"}}`},
		{"AzUpdateKey", "PATCH", "az", "2022-06-01", `{"properties": {"encryption": {"customerManagedKeyEncryption": {"keyEncryptionKeyUrl": "<url2>"}}}}`},
		{"AzUpdateBoth", "PATCH", "az", "2022-06-01", `{"identity": {"type": "UserAssigned", "userAssignedIdentities": {"<id2>": {}}}, "properties": {"encryption": {"customerManagedKeyEncryption": {"keyEncryptionKeyIdentity": {"userAssignedIdentityResourceId": "<id2>"}}}}}`},
		{"AzUpdateTags", "PATCH", "az", "2022-06-01", `{"tags": {"a": "1"}}`},
		{"AzCreatePlain", "PUT", "plain", "2022-06-01", `{"location": "West US 2"}`},
		{"AzCreateWithState", "PUT", "plain", "2022-06-01", `{"location": "westus2", "properties": {"provisioningState": "Succeeded"}}`},
		{"Terraform", "PUT", "tf", "2022-05-26", `{"identity":{"type":"None","userAssignedIdentities":null},"location":"westus2","properties":{"storagesku":"standard"},"tags":{}}`},
		{"TerraformUpdate", "PATCH", "tf", "2022-05-26", `{"identity":{"type":"SystemAssigned","userAssignedIdentities":null},"tags":{"a":"b"}}`},
	} {
		body := strings.NewReplacer("<id>", f.id1, "<id2>", f.id2, "<url>", f.key, "<url2>", second).Replace(c.body)
		a := f.Do(c.method, strings.Replace(serverPath(c.server), "2022-06-01", c.version, 1), body, "Content-Type", "application/json",
			"CommandName", "fluid-relay server create", "x-ms-client-request-id", "11111111-2222-3333-4444-555555555555", "x-ms-return-client-request-id", "true")
		if a.Status != 200 || a.Header.Get("x-ms-client-request-id") == "" || a.Header.Get("Location") != "" || a.Header.Get("Azure-AsyncOperation") != "" {
			t.Errorf("%s: got %d %v %s", c.name, a.Status, a.Header, a.Body)
		}
	}
}

// Each row breaks the rule it names and those of the rows after it.
func TestOrderOfChecks(t *testing.T) {
	f := newFixture(t)
	f.newServer("s1")
	const wrongBody = `{"identity":{"type":"UserAssigned","userAssignedIdentities":{"x":{}}}}`
	elsewhere := strings.Replace(serverPath("s1"), providertest.Subscription, "99999999-9999-9999-9999-999999999999", 1)
	for _, c := range []struct {
		name, method, target, body string
		status                     int
		code                       string
	}{
		{"SubscriptionMalformed", "PUT", "/subscriptions/x/resourceGroups/none/providers/Microsoft.Nothing/y/%3A", `{`, 400, "InvalidSubscriptionId"},
		{"SubscriptionUnknown", "PUT", strings.TrimSuffix(elsewhere, version), `{`, 404, "SubscriptionNotFound"},
		{"VersionMissing", "PUT", strings.TrimSuffix(serverPath("%3A"), version), `{`, 400, "MissingApiVersionParameter"},
		{"VersionMalformed", "PUT", strings.Replace(serverPath("%3A"), "2022-06-01", "now", 1), `{`, 400, "InvalidApiVersionParameter"},
		{"NamespaceUnknown", "PUT", strings.Replace(serverPath("%3A"), "Microsoft.FluidRelay", "Microsoft.Nothing", 1), `{`, 404, "InvalidResourceNamespace"},
		{"TypeUnknown", "PUT", strings.Replace(serverPath("%3A"), "fluidRelayServers", "servers", 1), `{`, 404, "InvalidResourceType"},
		{"VersionNotServed", "PUT", strings.Replace(serverPath("%3A"), "2022-06-01", "2022-06-02", 1), `{`, 400, "NoRegisteredProviderFound"},
		{"Name", "PUT", strings.Replace(serverPath("%3A"), "/rg1/", "/none/", 1), `{`, 400, "InvalidResourceName"},
		{"GroupUnknown", "PUT", strings.Replace(serverPath("a.b"), "/rg1/", "/none/", 1), `{`, 404, "ResourceGroupNotFound"},
		{"ResourceUnknown", "PATCH", serverPath("none"), `{`, 404, "ResourceNotFound"},
		{"BodyMalformed", "PUT", serverPath("a.b"), `{`, 400, "InvalidRequestContent"},
		{"NameAgainstTheRule", "PUT", serverPath("a.b"), `{}`, 400, "InvalidResourceName"},
		{"LocationMissing", "PUT", serverPath("s2"), wrongBody, 400, "LocationRequired"},
		{"LocationUnknown", "PUT", serverPath("s2"), `{"location":"moon",` + wrongBody[1:], 400, "LocationNotAvailableForResourceType"},
		{"LocationOther", "PUT", serverPath("s1"), `{"location":"eastus",` + wrongBody[1:], 409, "InvalidResourceLocation"},
		{"IdentityMalformed", "PUT", serverPath("s2"), `{"location":"westus2",` + wrongBody[1:], 400, "LinkedInvalidPropertyId"},
	} {
		t.Run(c.name, func(t *testing.T) { f.Refused(c.status, c.code, f.Do(c.method, c.target, c.body)) })
	}
}

func TestHeaders(t *testing.T) {
	f := newFixture(t)
	a := f.newServer("s1")
	for name, want := range map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1",
		"X-Content-Type-Options": "nosniff", "X-Ms-Ratelimit-Remaining-Subscription-Writes": "1199",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"ETag", "x-ms-request-id", "x-ms-correlation-request-id", "x-ms-routing-request-id", "Strict-Transport-Security"} {
		if a.Header.Get(name) == "" {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range []string{"Location", "Azure-AsyncOperation", "x-ms-failure-cause", "x-ms-client-request-id"} {
		if got := a.Header.Get(name); got != "" {
			t.Errorf("%s: got %q, want none", name, got)
		}
	}
	if got := f.Do("GET", serverPath("none"), "").Header.Get("x-ms-failure-cause"); got != "service" {
		t.Errorf("x-ms-failure-cause of a 404: got %q, want service", got)
	}
	if a := f.Want(200, f.Do("DELETE", serverPath("s1"), "")); a.Header.Get("Content-Type") != "" || len(a.Body) != 0 {
		t.Errorf("an empty answer has type %q and body %q", a.Header.Get("Content-Type"), a.Body)
	}
	a = f.DoAs("", "GET", serverPath("s1"), "")
	if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer authorization_uri="`+providertest.Login) || !strings.Contains(got, `error="invalid_token", error_description="`) {
		t.Errorf("WWW-Authenticate: %q", got)
	}
}

// Lists of servers are paged by links that carry all they need.
func TestServersArePaged(t *testing.T) {
	f := newFixture(t)
	const servers = 103
	for n := range servers {
		f.Want(200, f.Do("PUT", serverPath("s"+strings.Repeat("x", n%40)+string(rune('a'+n%26))+string(rune('a'+n/26))), `{"location":"westus2"}`))
	}
	seen, pages := map[string]bool{}, 0
	for target := strings.ToUpper(providertest.Group) + "/providers/microsoft.fluidrelay/FLUIDRELAYSERVERS" + version; target != ""; pages++ {
		a := f.Want(200, f.Do("GET", target, ""))
		for _, one := range a.Get("value").([]any) {
			seen[one.(map[string]any)["name"].(string)] = true
		}
		next, _ := a.Get("nextLink").(string)
		if next != "" && !strings.Contains(next, "api-version=2022-06-01") {
			t.Errorf("the nextLink %s has no api-version", next)
		}
		target = strings.TrimPrefix(next, "https://management.tidelock.test")
	}
	if len(seen) != servers || pages != 2 {
		t.Errorf("%d servers on %d pages, want %d on 2", len(seen), pages, servers)
	}
	f.Refused(400, "InvalidSkipToken", f.Do("GET", providertest.Group+"/providers/Microsoft.FluidRelay/fluidRelayServers"+version+"&$skipToken=!", ""))
}
