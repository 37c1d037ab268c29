package fluidrelay

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

// Type is the full type of servers.
const Type = "Microsoft.FluidRelay/fluidRelayServers"

// server is a relay resource as it is stored. Its JSON is on disk: members are added,
// never changed.
type server struct {
	ID         string              `json:"id"` // with the letters of its creation
	Name       string              `json:"name"`
	Location   string              `json:"location"` // short form
	Resource   envelope.ResourceID `json:"resource"` // names the server in sealed headers
	TenantID   string              `json:"tenantId"` // frsTenantId: made once, never changed
	Keys       tenantKeys          `json:"keys"`
	SystemData tracked.SystemData  `json:"systemData"`
	ETag       string              `json:"etag"`
	settings
}

// settings are what a client writes of a server.
type settings struct {
	Tags       map[string]string `json:"tags,omitempty"`
	Identity   identity          `json:"identity"`
	SKU        string            `json:"sku"` // standard or basic
	Encryption *cmk              `json:"encryption,omitempty"`
	access
}

// cmk says which key protects the server, in the shape of the API.
type cmk struct {
	Identity keyIdentity `json:"keyEncryptionKeyIdentity"`
	URL      string      `json:"keyEncryptionKeyUrl,omitempty"` // as it was sent
}

type keyIdentity struct {
	Type string `json:"identityType,omitempty"`
	ID   string `json:"userAssignedIdentityResourceId,omitempty"` // as it was sent
}

func (s server) armID() (arm.ResourceID, error) {
	id, err := arm.ParseResourceID(s.ID)
	if err != nil {
		return id, fmt.Errorf("a stored server: %w: %w", store.ErrCorrupt, err)
	}
	return id, nil
}

// tenantKeys sign the tokens of the tenant: 32 hexadecimal digits each, of which the
// text is the key. They redact themselves in every printed form but JSON, which is
// that of rows and of listKeys.
type tenantKeys struct {
	Key1 string `json:"key1"`
	Key2 string `json:"key2"`
}

func newTenantKey() string {
	b := make([]byte, 16)
	// crypto/rand.Read never returns an error.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func (tenantKeys) String() string       { return "[redacted]" }
func (tenantKeys) GoString() string     { return "[redacted]" }
func (tenantKeys) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// wire is the shape of a server in 2022-05-26 and 2022-06-01; in 2025-06-20-preview its
// properties have access besides.
type wire struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Location   string              `json:"location"`
	Tags       map[string]string   `json:"tags,omitempty"`
	SystemData *tracked.SystemData `json:"systemData"`
	Identity   *wireIdentity       `json:"identity,omitempty"`
	Properties wireProperties      `json:"properties"`
}

type wireIdentity struct {
	Type         string                       `json:"type"`
	PrincipalID  string                       `json:"principalId,omitempty"`
	TenantID     string                       `json:"tenantId,omitempty"`
	UserAssigned map[string]*wireUserAssigned `json:"userAssignedIdentities,omitempty"`
}

type wireUserAssigned struct {
	ClientID    string `json:"clientId,omitempty"`
	PrincipalID string `json:"principalId,omitempty"`
}

type wireProperties struct {
	TenantID          string          `json:"frsTenantId"`
	Endpoints         wireEndpoints   `json:"fluidRelayEndpoints"`
	ProvisioningState string          `json:"provisioningState"`
	SKU               string          `json:"storagesku"`
	Encryption        *wireEncryption `json:"encryption,omitempty"`
	*wireAccess
}

type wireEndpoints struct {
	Orderer []string `json:"ordererEndpoints"`
	Storage []string `json:"storageEndpoints"`
	Service []string `json:"serviceEndpoints"`
}

type wireEncryption struct {
	CMK *cmk `json:"customerManagedKeyEncryption,omitempty"`
}

// succeeded is the only provisioning state there is: every request is done when it
// is answered.
const succeeded = "Succeeded"

// wire shows a server as an api-version has it; the ids of its identities are looked up
// as they are now.
func (p *Provider) wire(s server, ids *wireIdentity, version string) wire {
	endpoint := []string{p.c.RelayURL}
	w := wire{
		ID: s.ID, Name: s.Name, Type: Type, Location: s.Location, Tags: s.Tags, SystemData: &s.SystemData, Identity: ids,
		Properties: wireProperties{
			TenantID: s.TenantID, ProvisioningState: succeeded, SKU: s.SKU,
			Endpoints: wireEndpoints{Orderer: endpoint, Storage: endpoint, Service: endpoint},
		},
	}
	if s.Encryption != nil {
		w.Properties.Encryption = &wireEncryption{CMK: s.Encryption}
	}
	if version == previewVersion {
		w.Properties.wireAccess = &wireAccess{accessProperties: s.properties(), Connections: []struct{}{}}
	}
	return w
}
