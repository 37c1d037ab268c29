//go:build azcli

package azcli

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/e2e/process"
)

// The article's request, with its typographic quote mended.
const create = `{
    "location": "westus2",
    "identity": {
        "type": "UserAssigned",
        "userAssignedIdentities": {
            "%[1]s": {}
        }
    },
    "properties": {
       "encryption": {
            "customerManagedKeyEncryption": {
                "keyEncryptionKeyIdentity": {
                    "identityType": "UserAssigned",
                    "userAssignedIdentityResourceId":  "%[1]s"
                },
                "keyEncryptionKeyUrl": "%[2]s"
            }
        }
    }
}`

const update = `{
    "properties": {
       "encryption": {
            "customerManagedKeyEncryption": {
                "keyEncryptionKeyUrl": "%s"
            }
        }
    }
}`

// A cloud of its own, made from the 2015 metadata.
func TestCustomCloud(t *testing.T) {
	r := newRig(t)
	c := r.client("REQUESTS_CA_BUNDLE="+r.roots(), r.proxy[0]) // the proxy leads to vaults, whose names do not resolve
	c.az("cloud", "register", "-n", "tidelock", "--endpoint-resource-manager", r.url)
	c.az("cloud", "update", "-n", "tidelock", "--cloud-config", `{"endpoints":{"microsoftGraphResourceId":"`+r.url+`/graph/"},"suffixes":{"keyvaultDns":".`+r.profile.VaultSuffix+`"}}`)
	c.az("cloud", "set", "-n", "tidelock")
	c.wants(r.url+"/adfs", "endpoints.activeDirectory", "cloud", "show", "-n", "tidelock")
	story(c, r.url, "https://%s."+r.profile.VaultSuffix)
}

// The public cloud's names: nothing but the proxy's variables is set.
func TestPublicNames(t *testing.T) {
	r := newRig(t)
	c := r.client(r.proxy...)
	story(c, "https://management.azure.com", "https://%s.vault.azure.net")
}

// The third way: all clouds from one URL, in the 2019 shape.
func TestCloudFromMetadataURL(t *testing.T) {
	r := newRig(t)
	roots := r.roots()
	c := r.client("REQUESTS_CA_BUNDLE="+roots, "SSL_CERT_FILE="+roots, "ARM_CLOUD_METADATA_URL="+r.url+"/metadata/endpoints?api-version=2019-05-01")
	c.az("cloud", "set", "-n", "Tidelock")
	c.wants("."+r.profile.VaultSuffix, "suffixes.keyvaultDns", "cloud", "show", "-n", "Tidelock")
	c.az("login", "--service-principal", "-u", r.profile.ClientID, "-p", r.profile.ClientSecret, "--tenant", r.profile.DirectoryID)
	c.wants("quickstart", "[0].name", "group", "list")
}

// az as a workload: it logs in as a managed identity, in Cloud Shell's form.
func TestLoginWithIdentity(t *testing.T) {
	r := newRig(t)
	id := "/subscriptions/" + r.profile.SubscriptionID + "/resourceGroups/quickstart/providers/Microsoft.ManagedIdentity/userAssignedIdentities/relay-identity"
	endpoint := process.FreeAddress(t)
	r.must(r.server.Stop(t))
	r.start("--identity-endpoint", endpoint, "--identity-imds", "--identity", id)
	c := r.client(append(r.proxy, "MSI_ENDPOINT=http://"+endpoint+"/oauth2/token")...)
	c.wants("userAssignedIdentity", "[0].user.name", "login", "--identity", "--allow-no-subscriptions", "-u", id)
	c.wants(r.profile.DirectoryID, "tenant", "account", "get-access-token", "--resource", "https://vault.azure.net")
}

// story does what the article asks for, from the login to the end of the group.
func story(c client, management, vault string) {
	t, p := c.t, c.profile
	t.Helper()
	login := []string{"login", "--service-principal", "--tenant", p.DirectoryID, "-u", p.ClientID, "-p"}
	c.refused("AADSTS7000215", append(login, "wrong")...)
	c.wants(p.SubscriptionID, "[0].id", append(login, p.ClientSecret)...)

	c.wants("Succeeded", "properties.provisioningState", "group", "create", "-n", "rg1", "-l", "westus2")
	id := c.value("id", "identity", "create", "-g", "rg1", "-n", "id1")
	principal := c.value("principalId", "identity", "show", "-g", "rg1", "-n", "id1")
	c.az("identity", "federated-credential", "create", "-g", "rg1", "--identity-name", "id1", "-n", "cluster",
		"--issuer", "https://oidc.example.test", "--subject", "system:serviceaccount:a:b", "--audiences", "api://AzureADTokenExchange")
	c.wants("system:serviceaccount:a:b", "[0].subject", "identity", "federated-credential", "list", "-g", "rg1", "--identity-name", "id1")

	keyvault(c, vault, principal)
	first, second := newKey(c, vault), newKey(c, vault)

	relay := management + "/subscriptions/" + p.SubscriptionID + "/resourceGroups/rg1/providers/Microsoft.FluidRelay/fluidRelayServers/fr1"
	rest := func(method, url string, more ...string) []string {
		return append([]string{"rest", "--method", method, "--url", url + "?api-version=2022-06-01"}, more...)
	}
	const cmk = "properties.encryption.customerManagedKeyEncryption."
	c.wants(first, cmk+"keyEncryptionKeyUrl", rest("put", relay, "--body", "@"+c.file("create.json", fmt.Sprintf(create, id, first)))...)
	c.wants(second, cmk+"keyEncryptionKeyUrl", rest("patch", relay, "--body", fmt.Sprintf(update, second))...)
	c.wants(id, cmk+"keyEncryptionKeyIdentity.userAssignedIdentityResourceId", rest("get", relay)...)
	c.refused("KeyNotFound", rest("patch", relay, "--body", fmt.Sprintf(update, fmt.Sprintf(vault, "vault-az")+"/keys/none"))...)
	resource := strings.TrimPrefix(relay, management)
	c.wants("fr1", "name", "resource", "show", "--ids", resource, "--api-version", "2022-06-01")
	c.wants("32", "length(key1)", "resource", "invoke-action", "--action", "listKeys", "--ids", resource, "--api-version", "2022-06-01")

	roles(c, management, principal)
	tagsAndLog(c, id)
	directory(c)

	c.az("resource", "delete", "--ids", resource, "--api-version", "2022-06-01")
	c.az("keyvault", "delete", "-n", "vault-az")
	c.wants("vault-az", "[0].name", "keyvault", "list-deleted", "--resource-type", "vault")
	c.az("keyvault", "recover", "-n", "vault-az")
	c.az("group", "delete", "-n", "rg1", "-y")
	c.wants("false", "@", "group", "exists", "-n", "rg1")
	c.refused("ResourceGroupNotFound", "identity", "show", "-g", "rg1", "-n", "id1")
}

// keyvault makes the article's vault; Graph tells az who its user is.
func keyvault(c client, vault, principal string) {
	c.t.Helper()
	name := "vault-az"
	c.wants(fmt.Sprintf(vault, name)+"/", "properties.vaultUri", "keyvault", "create", "-g", "rg1", "-n", name, "--enable-purge-protection", "--retention-days", "7")
	c.wants(c.profile.ObjectID, "properties.accessPolicies[0].objectId", "keyvault", "show", "-n", name)
	c.az("keyvault", "set-policy", "-n", name, "--object-id", principal, "--key-permissions", "get", "wrapKey", "unwrapKey")
	c.wants("2", "length(properties.accessPolicies)", "keyvault", "show", "-n", name)
}

// newKey makes a key, or a new version of it.
func newKey(c client, vault string) string {
	c.t.Helper()
	url := fmt.Sprintf(vault, "vault-az")
	resource := "https://vault.azure.net"
	return c.value("key.kid", "rest", "--method", "post", "--resource", resource, "--url", url+"/keys/testKey/create?api-version=7.4", "--body", `{"kty":"RSA","key_size":2048}`)
}

// roles makes a role assignment, and finds and deletes it: the command for it is broken
// in Debian's package, before it sends anything.
func roles(c client, management, principal string) {
	c.t.Helper()
	scope := management + "/subscriptions/" + c.profile.SubscriptionID + "/resourceGroups/rg1/providers/Microsoft.Authorization/"
	const version = "?api-version=2022-04-01"
	role := c.value("value[0].id", "rest", "--url", scope+"roleDefinitions"+version+"&$filter=roleName eq 'Reader'")
	one := scope + "roleAssignments/6b3c1c63-0000-4000-8000-000000000001" + version
	c.az("rest", "--method", "put", "--url", one, "--body", fmt.Sprintf(`{"properties":{"roleDefinitionId":%q,"principalId":%q,"principalType":"ServicePrincipal"}}`, role, principal))
	c.wants(principal, "value[?properties.principalId=='"+principal+"'] | [0].properties.principalId", "rest", "--url", scope+"roleAssignments"+version)
	c.az("rest", "--method", "delete", "--url", one)
}

// tagsAndLog tags the identity, finds it by its tag, and reads who did that.
func tagsAndLog(c client, id string) {
	c.t.Helper()
	c.wants("b", "properties.tags.a", "tag", "create", "--resource-id", id, "--tags", "a=b")
	c.wants("id1", "[0].name", "resource", "list", "--tag", "a=b")
	log := []string{"monitor", "activity-log", "list", "-g", "rg1", "--offset", "1h"}
	c.wants("Microsoft.Resources/tags/write", "[0].operationName.value", log...)
	c.wants(c.profile.ClientID, "[0].caller", append(log, "--caller", c.profile.ClientID, "--status", "Succeeded")...)
}

// directory manages an application as az does, and logs in as it by certificate.
func directory(c client) {
	c.t.Helper()
	app := c.value("appId", "ad", "app", "create", "--display-name", "from-az")
	c.az("ad", "sp", "create", "--id", app)
	c.wants("from-az", "displayName", "ad", "sp", "show", "--id", app)
	secret := c.value("password", "ad", "app", "credential", "reset", "--id", app)
	other := c.rig.client(c.environment[7:]...)
	if strings.Contains(strings.Join(c.environment, " "), "roots.pem") && !strings.Contains(strings.Join(c.environment, " "), "proxy-roots.pem") {
		other.az("cloud", "register", "-n", "tidelock", "--endpoint-resource-manager", c.url)
		other.az("cloud", "set", "-n", "tidelock")
	}
	login := []string{"login", "--service-principal", "--allow-no-subscriptions", "--tenant", c.profile.DirectoryID, "-u", app, "-p"}
	other.az(append(login, secret)...)
	pem := filepath.Join(c.t.TempDir(), "app.pem")
	if out, stderr, err := c.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=app", "-keyout", pem+".key", "-out", pem+".crt"); err != nil {
		c.t.Fatalf("openssl: %v %s%s", err, out, stderr)
	}
	if _, stderr, err := c.run("sh", "-c", "cat "+pem+".key "+pem+".crt > "+pem); err != nil {
		c.t.Fatal(err, stderr)
	}
	other.refused("AADSTS700027", append(login, pem)...)
	c.az("ad", "app", "credential", "reset", "--id", app, "--cert", "@"+pem+".crt", "--append")
	other.az(append(login, pem)...)
	c.az("ad", "app", "delete", "--id", app)
	other.refused("AADSTS700016", append(login, secret)...)
}

// The Python SDK's own client of Microsoft.FluidRelay, through the proxy.
func TestPythonSDK(t *testing.T) {
	r := newRig(t)
	p := r.profile
	c := r.client(append(r.proxy, "AZURE_TENANT_ID="+p.DirectoryID, "AZURE_CLIENT_ID="+p.ClientID, "AZURE_CLIENT_SECRET="+p.ClientSecret, "AZURE_SUBSCRIPTION_ID="+p.SubscriptionID)...)
	out, stderr, err := c.run("/usr/bin/python3", "fluidrelay.py")
	if err != nil || !strings.HasSuffix(strings.TrimSpace(out), "done") {
		t.Errorf("fluidrelay.py: %v\n%s%s", err, out, stderr)
	}
}
