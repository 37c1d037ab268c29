"""Azure's Python SDK, unmodified, against the public cloud's names: a relay's life."""
import os

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import KeyClient
from azure.mgmt.fluidrelay import FluidRelayManagementClient

subscription = os.environ["AZURE_SUBSCRIPTION_ID"]
credential = ClientSecretCredential(
    os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
relays = FluidRelayManagementClient(credential, subscription)
group, server = "quickstart", "python"

try:
    relays.fluid_relay_servers.get(group, server)
    raise SystemExit("there is a server before it is made")
except ResourceNotFoundError as e:
    assert e.error.code == "ResourceNotFound", e

keys = KeyClient("https://quickstart-vault.vault.azure.net", credential)
key = keys.create_rsa_key("python-key", size=2048)
assert key.id.startswith("https://quickstart-vault.vault.azure.net/keys/python-key/"), key.id

identity = (f"/subscriptions/{subscription}/resourceGroups/quickstart/providers"
            "/Microsoft.ManagedIdentity/userAssignedIdentities/relay-identity")
body = {
    "location": "westus2",
    "identity": {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}},
    "properties": {"encryption": {"customerManagedKeyEncryption": {
        "keyEncryptionKeyIdentity": {"identityType": "UserAssigned", "userAssignedIdentityResourceId": identity},
        "keyEncryptionKeyUrl": key.id}}},
}
made = relays.fluid_relay_servers.create_or_update(group, server, body)
assert made.encryption.customer_managed_key_encryption.key_encryption_key_url == key.id, made
second = keys.create_rsa_key("python-key", size=2048)
changed = relays.fluid_relay_servers.update(group, server, {"properties": {"encryption": {
    "customerManagedKeyEncryption": {"keyEncryptionKeyUrl": second.id}}}})
assert changed.encryption.customer_managed_key_encryption.key_encryption_key_url == second.id, changed
assert changed.identity.user_assigned_identities, changed

assert server in [s.name for s in relays.fluid_relay_servers.list_by_resource_group(group)]
assert server in [s.name for s in relays.fluid_relay_servers.list_by_subscription()]
secrets = relays.fluid_relay_servers.list_keys(group, server)
again = relays.fluid_relay_servers.regenerate_key(group, server, {"keyName": "key1"})
assert again.key1 != secrets.key1 and again.key2 == secrets.key2
assert list(relays.fluid_relay_containers.list_by_fluid_relay_servers(group, server)) == []
assert "Microsoft.FluidRelay/fluidRelayServers/read" in [o.name for o in relays.fluid_relay_operations.list()]
try:
    relays.fluid_relay_servers.update(group, server, {"properties": {"encryption": {
        "customerManagedKeyEncryption": {"keyEncryptionKeyUrl": "https://evil.example/keys/k"}}}})
    raise SystemExit("a foreign key URL was taken")
except HttpResponseError as e:
    assert e.status_code == 400, e
relays.fluid_relay_servers.delete(group, server)
relays.fluid_relay_servers.delete(group, server)
print("done")
