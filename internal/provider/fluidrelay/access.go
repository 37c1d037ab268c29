package fluidrelay

import (
	"context"
	"fmt"
	"net/http"

	"github.com/tidelock/tidelock/internal/arm"
)

// access is what 2025-06-20-preview adds to a server: how its data plane may be reached.
// The released versions do not know it, so they neither show nor change it.
type access struct {
	SharedKeyDisabled     bool `json:"sharedKeyDisabled,omitempty"`
	PublicNetworkDisabled bool `json:"publicNetworkDisabled,omitempty"`
}

// closed says why no token opens the data plane; empty when tokens do.
func (a access) closed() string {
	switch {
	case a.PublicNetworkDisabled:
		return "Public network access is disabled for this tenant."
	case a.SharedKeyDisabled:
		return "Shared key access is disabled for this tenant."
	}
	return ""
}

const (
	enabled  = "Enabled"
	disabled = "Disabled"
)

func shown(isDisabled bool) string {
	if isDisabled {
		return disabled
	}
	return enabled
}

// accessProperties are the switches as a client writes them; null and absent in a PUT are
// the default.
type accessProperties struct {
	SharedKey     string `json:"sharedKeyAccess,omitempty"`
	PrivateKey    string `json:"privateKeyAccess,omitempty"`
	PublicNetwork string `json:"publicNetworkAccess,omitempty"`
}

func (a access) properties() accessProperties {
	return accessProperties{SharedKey: shown(a.SharedKeyDisabled), PrivateKey: disabled, PublicNetwork: shown(a.PublicNetworkDisabled)}
}

// read checks the switches. There are no private keys here, so access with them cannot be enabled.
func (p accessProperties) read() (access, error) {
	for _, each := range []struct{ name, value string }{
		{"sharedKeyAccess", p.SharedKey}, {"privateKeyAccess", p.PrivateKey}, {"publicNetworkAccess", p.PublicNetwork},
	} {
		if each.value != "" && each.value != enabled && each.value != disabled {
			return access{}, &arm.Error{Status: 400, Code: "InvalidPropertyValue", Target: "properties." + each.name, Message: fmt.Sprintf("The %s '%.64s' is neither Enabled nor Disabled.", each.name, each.value)}
		}
	}
	if p.PrivateKey == enabled {
		return access{}, &arm.Error{Status: 400, Code: "PrivateKeyAccessNotSupported", Target: "properties.privateKeyAccess", Message: "Tidelock has no private keys for tokens: they are signed with the tenant's shared keys. Leave privateKeyAccess Disabled."}
	}
	return access{SharedKeyDisabled: p.SharedKey == disabled, PublicNetworkDisabled: p.PublicNetwork == disabled}, nil
}

// wireAccess is access in an answer of the preview.
type wireAccess struct {
	accessProperties
	Connections []struct{} `json:"privateEndpointConnections"` // there are none
}

// privateRoutes: there are no networks here to put a private endpoint in. Lists are empty,
// and making one is refused.
func (p *Provider) privateRoutes(one string) []arm.Route {
	versions := []string{previewVersion}
	const connections, resources = Type + "/privateEndpointConnections", Type + "/privateLinkResources"
	return []arm.Route{
		{Method: "GET", Pattern: one + "/privateEndpointConnections", Action: connections + "/read", Versions: versions, Handle: p.noneOf},
		{Method: "GET", Pattern: one + "/privateEndpointConnections/{connection}", Action: connections + "/read", Versions: versions, Handle: p.noSuch},
		{Method: "PUT", Pattern: one + "/privateEndpointConnections/{connection}", Action: connections + "/write", Versions: versions, Handle: p.refusePrivate},
		{Method: "DELETE", Pattern: one + "/privateEndpointConnections/{connection}", Action: connections + "/delete", Versions: versions, Handle: p.deletedAlready},
		{Method: "GET", Pattern: one + "/privateLinkResources", Action: resources + "/read", Versions: versions, Handle: p.noneOf},
		{Method: "GET", Pattern: one + "/privateLinkResources/{resource}", Action: resources + "/read", Versions: versions, Handle: p.noSuch},
	}
}

func (p *Provider) noneOf(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.owner(ctx, r); err != nil {
		return nil, err
	}
	return &arm.Response{Body: arm.List[struct{}]{Value: []struct{}{}}}, nil
}

func (p *Provider) noSuch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.owner(ctx, r); err != nil {
		return nil, err
	}
	return nil, arm.ErrResourceNotFound(r.ID)
}

func (p *Provider) deletedAlready(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.owner(ctx, r); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusNoContent}, nil
}

func (p *Provider) refusePrivate(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	if _, err := p.owner(ctx, r); err != nil {
		return nil, err
	}
	return nil, &arm.Error{Status: 400, Code: "PrivateEndpointsNotSupported", Target: r.ID.String(), Message: "Tidelock has no private endpoints: who can reach the relay is decided by the address it listens on and by the network before it."}
}
