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
	if !v.DefaultDeny && !v.PublicDisabled {
		return nil
	}
	if trusted, _ := r.Context().Value(trustedContext{}).(bool); trusted && v.BypassTrusted {
		return nil
	}
	if v.PublicDisabled {
		return forbidden("ForbiddenByConnection", "Public network access is disabled and request is not from a trusted service nor via an approved private link.\r\nCaller: %s\r\nVault: %s;location=%s",
			identify(c), v.Name, v.Location)
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

// permit asks whether the caller may do what the route does: by an HSM's own roles, by
// a vault's roles, or by its access policies.
func (s *Service) permit(ctx context.Context, c *call) error {
	if c.vault.HSM {
		return s.permitHSM(ctx, c)
	}
	if !c.vault.RBAC {
		return c.vault.permit(c.caller, c.route.permission)
	}
	action, resource := dataActions[c.route.permission], c.vault.ResourceID
	if c.target.key != "" && c.route.shape != "keys/restore" {
		resource += "/keys/" + c.target.key
	}
	if s.roles != nil && action != "" {
		ok, err := s.roles(ctx, c.caller, action, resource)
		if err != nil || ok {
			return err
		}
	}
	if c.target.version != "" {
		resource += "/" + c.target.version
	}
	return forbidden("ForbiddenByRbac", "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\nCaller: %s\r\nAction: '%s'\r\nResource: '%s'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: null \r\nVault: %s;location=%s\r\n",
		identify(c.caller), action, resource, c.vault.Name, c.vault.Location)
}

// dataActions are what permissions are called where roles count. Source: Azure
// resource provider operations, Microsoft.KeyVault.
var dataActions = map[string]string{
	"get":               "Microsoft.KeyVault/vaults/keys/read",
	"list":              "Microsoft.KeyVault/vaults/keys/read",
	"update":            "Microsoft.KeyVault/vaults/keys/update/action",
	"create":            "Microsoft.KeyVault/vaults/keys/create/action",
	"import":            "Microsoft.KeyVault/vaults/keys/import/action",
	"delete":            "Microsoft.KeyVault/vaults/keys/delete",
	"recover":           "Microsoft.KeyVault/vaults/keys/recover/action",
	"purge":             "Microsoft.KeyVault/vaults/keys/purge/action",
	"backup":            "Microsoft.KeyVault/vaults/keys/backup/action",
	"restore":           "Microsoft.KeyVault/vaults/keys/restore/action",
	"rotate":            "Microsoft.KeyVault/vaults/keys/rotate/action",
	"getrotationpolicy": "Microsoft.KeyVault/vaults/keyrotationpolicies/read",
	"setrotationpolicy": "Microsoft.KeyVault/vaults/keyrotationpolicies/write",
	"release":           "Microsoft.KeyVault/vaults/keys/release/action",
	opEncrypt:           "Microsoft.KeyVault/vaults/keys/encrypt/action",
	opDecrypt:           "Microsoft.KeyVault/vaults/keys/decrypt/action",
	opWrap:              "Microsoft.KeyVault/vaults/keys/wrap/action",
	opUnwrap:            "Microsoft.KeyVault/vaults/keys/unwrap/action",
	opSign:              "Microsoft.KeyVault/vaults/keys/sign/action",
	opVerify:            "Microsoft.KeyVault/vaults/keys/verify/action",
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

// mustBeNamed are the permissions that "all" leaves out: a purge cannot be undone, and
// the others are younger than "all".
var mustBeNamed = map[string]bool{"purge": true, "rotate": true, "getrotationpolicy": true, "setrotationpolicy": true, "release": true}

func identify(c entra.Caller) string {
	return "appid=" + c.ClientID + ";oid=" + c.ObjectID + ";iss=https://sts.windows.net/" + string(c.Directory) + "/"
}
