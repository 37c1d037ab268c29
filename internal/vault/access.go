package vault

import (
	"context"
	"net/http"
	"net/netip"
	"strings"

	"github.com/tidelock/tidelock/internal/entra"
)

// trustedContext marks requests of this process: Transport sets it, and nothing
// that comes over a network can.
type trustedContext struct{}

func withTrust(ctx context.Context) context.Context {
	return context.WithValue(ctx, trustedContext{}, true)
}

// admit applies the vault's network rules to a request.
func (v Vault) admit(r *http.Request, c entra.Caller) error {
	if !v.DefaultDeny {
		return nil
	}
	if trusted, _ := r.Context().Value(trustedContext{}).(bool); trusted && v.BypassTrusted {
		return nil
	}
	address := "unknown"
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		client := from.Addr().Unmap()
		for _, rule := range v.IPRules {
			if prefix, err := parseIPRule(rule); err == nil && prefix.Contains(client) {
				return nil
			}
		}
		address = client.String()
	}
	return forbidden("ForbiddenByFirewall", "Client address is not authorized and caller is not a trusted service.\r\nClient address: %s\r\nCaller: %s\r\nVault: %s;location=%s",
		address, identify(c), v.Name, v.Location)
}

// permit applies the vault's access policies.
func (v Vault) permit(c entra.Caller, permission string) error {
	for _, p := range v.Policies {
		if !strings.EqualFold(p.ObjectID, c.ObjectID) || p.Directory != "" && !strings.EqualFold(string(p.Directory), string(c.Directory)) {
			continue
		}
		for _, granted := range p.Keys {
			if strings.EqualFold(granted, permission) || strings.EqualFold(granted, "all") && !mustBeNamed[permission] {
				return nil
			}
		}
	}
	return forbidden("AccessDenied", "The user, group or application '%s' does not have keys %s permission on key vault '%s;location=%s'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287",
		identify(c), permission, v.Name, v.Location)
}

// mustBeNamed are the permissions that "all" leaves out: a purge cannot be undone.
var mustBeNamed = map[string]bool{"purge": true}

func identify(c entra.Caller) string {
	return "appid=" + c.ClientID + ";oid=" + c.ObjectID + ";iss=https://sts.windows.net/" + string(c.Directory) + "/"
}
