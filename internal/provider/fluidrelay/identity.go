package fluidrelay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/managedidentity"
	"github.com/tidelock/tidelock/internal/store"
)

// identity is which identities a server has.
type identity struct {
	System bool     `json:"system,omitempty"`
	User   []string `json:"user,omitempty"` // resource ids as they were sent, in order of their keys
}

// kind is identity.type.
func (i identity) kind() string {
	switch {
	case i.System && len(i.User) > 0:
		return "SystemAssigned, UserAssigned"
	case i.System:
		return "SystemAssigned"
	case len(i.User) > 0:
		return "UserAssigned"
	}
	return "None"
}

// has says whether a user-assigned identity is among the server's, without case: the
// same identity is written /resourceGroups/ by some and /resourcegroups/ by others.
func (i identity) has(id string) bool {
	return slices.ContainsFunc(i.User, func(mine string) bool { return identityKey(mine) == identityKey(id) })
}

func identityKey(id string) string {
	parsed, err := arm.ParseResourceID(id)
	if err != nil {
		return strings.ToLower(id)
	}
	return parsed.Key()
}

// identityBody is identity in a request.
type identityBody struct {
	Type *string `json:"type"`
	// A nil value unassigns. Members such as clientId come back from clients that send
	// what they read; they mean nothing.
	User map[string]*struct{} `json:"userAssignedIdentities"`
}

// wanted is what a request asks for, before any rule of CMK.
type wanted struct {
	identity
	// declared is the type as asked for, in Azure's spelling; empty when the request says
	// nothing of identities. It differs from kind when UserAssigned comes without any.
	declared string
}

// mergeIdentity applies the identity of a request to the current one; of a PUT, to
// none. raw is nil when the request has none.
func mergeIdentity(current identity, raw json.RawMessage) (wanted, error) {
	if raw == nil {
		return wanted{identity: current}, nil
	}
	body := identityBody{}
	if bytes.Equal(raw, []byte("null")) {
		none := "None"
		body.Type = &none
	} else if err := arm.DecodeObject(raw, &body); err != nil {
		return wanted{}, invalidContent(fmt.Errorf("identity: %w", err))
	}
	declared := current.kind()
	if body.Type != nil {
		var err error
		if declared, err = parseKind(*body.Type); err != nil {
			return wanted{}, err
		}
	}
	if body.Type == nil && len(body.User) > 0 && !strings.HasSuffix(declared, "UserAssigned") {
		return wanted{}, &arm.Error{Status: 400, Code: "InvalidIdentityType", Target: "identity.type", Message: "The identity.type is missing: UserAssigned is needed to assign user-assigned identities."}
	}
	w := wanted{declared: declared}
	w.System = strings.HasPrefix(declared, "SystemAssigned")
	if !strings.HasSuffix(declared, "UserAssigned") {
		return w, nil // None and SystemAssigned drop all user-assigned ones
	}
	merged := map[string]string{}
	for _, id := range current.User {
		merged[identityKey(id)] = id
	}
	named := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(body.User)) {
		parsed, err := arm.ParseResourceID(id)
		if err != nil || !parsed.IsType(managedidentity.Type) {
			return wanted{}, &arm.Error{Status: 400, Code: "LinkedInvalidPropertyId", Target: "identity.userAssignedIdentities", Message: fmt.Sprintf(
				"Property id '%.300s' at path 'identity.userAssignedIdentities' is invalid. Expect fully qualified resource Id that starts with '/subscriptions/{subscriptionId}/resourceGroups/{group}/providers/%s/'.", id, managedidentity.Type)}
		}
		key := parsed.Key()
		if named[key] {
			return wanted{}, &arm.Error{Status: 400, Code: "InvalidIdentity", Target: "identity.userAssignedIdentities", Message: fmt.Sprintf("The identity '%s' is named twice.", id)}
		}
		named[key] = true
		if body.User[id] == nil {
			delete(merged, key)
		} else {
			merged[key] = id
		}
	}
	for _, key := range slices.Sorted(maps.Keys(merged)) {
		w.User = append(w.User, merged[key])
	}
	return w, nil
}

// parseKind reads identity.type; blanks around the comma and case do not matter.
func parseKind(s string) (string, error) {
	switch strings.ToLower(strings.ReplaceAll(s, " ", "")) {
	case "none":
		return "None", nil
	case "systemassigned":
		return "SystemAssigned", nil
	case "userassigned":
		return "UserAssigned", nil
	case "systemassigned,userassigned":
		return "SystemAssigned, UserAssigned", nil
	}
	return "", &arm.Error{Status: 400, Code: "InvalidIdentityType", Target: "identity.type", Message: fmt.Sprintf(
		"The identity type '%.64s' is none of None, SystemAssigned, UserAssigned and 'SystemAssigned, UserAssigned'.", s)}
}

// foreign says whether an identity is in Azure itself.
func (p *Provider) foreign(id string) bool { return p.c.Foreign != nil && p.c.Foreign.Has(id) }

// identity finds an identity, here or in Azure itself; store.ErrNotFound.
func (p *Provider) identity(ctx context.Context, id string) (managedidentity.Identity, error) {
	if p.foreign(id) {
		return p.c.Foreign.Identity(ctx, id)
	}
	return p.c.Identities.Identity(ctx, id)
}

// checkAssignable refuses identities that are newly assigned and do not exist, or that
// the caller may not assign: else whoever may write a server could act as any identity.
func (p *Provider) checkAssignable(ctx context.Context, c change, current, next identity) error {
	for _, id := range next.User {
		if current.has(id) {
			continue
		}
		scope := id
		if p.foreign(id) {
			scope = "/subscriptions/" + c.id.Subscription
		}
		allowed, err := p.c.Allowed(ctx, c.caller, managedidentity.Type+"/assign/action", scope)
		if err != nil {
			return err
		}
		if !allowed {
			return &arm.Error{Status: http.StatusForbidden, Code: "LinkedAuthorizationFailed", Target: "identity.userAssignedIdentities", Message: fmt.Sprintf(
				"The client with object id '%s' does not have permission to perform action '%s/assign/action' on the linked scope '%s'.", c.caller.ObjectID, managedidentity.Type, scope)}
		}
		_, err = p.identity(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return &arm.Error{Status: 400, Code: "FailedIdentityOperation", Target: "identity.userAssignedIdentities", Message: fmt.Sprintf(
				"Identity operation failed: the user-assigned identity '%s' does not exist.", id)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// describeIdentity is identity as a server shows it. The ids are looked up: those of an
// identity that is gone are left out.
func (p *Provider) describeIdentity(ctx context.Context, s server) (*wireIdentity, error) {
	w := &wireIdentity{Type: s.Identity.kind()}
	if s.Identity.System {
		principal, err := p.c.Principals.ManagedIdentity(ctx, s.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		w.PrincipalID, w.TenantID = principal.ObjectID, string(principal.Directory)
	}
	for _, id := range s.Identity.User {
		found, err := p.identity(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if w.UserAssigned == nil {
			w.UserAssigned = map[string]*wireUserAssigned{}
		}
		w.UserAssigned[id] = &wireUserAssigned{ClientID: found.ClientID, PrincipalID: found.PrincipalID}
	}
	if w.Type == "None" {
		return nil, nil
	}
	return w, nil
}

// assignSystem makes the principal of a system-assigned identity that is asked for.
// What an earlier one had been granted does not come back.
func (p *Provider) assignSystem(ctx context.Context, current, next server) error {
	if !next.Identity.System || current.Identity.System {
		return nil
	}
	id, err := next.armID()
	if err != nil {
		return err
	}
	directory, err := p.c.Subscriptions.Directory(ctx, id.Subscription)
	if err != nil {
		return err
	}
	if err := p.c.Principals.DeleteManagedIdentity(ctx, next.ID); err != nil {
		return err
	}
	_, err = p.c.Principals.CreateManagedIdentity(ctx, directory, next.ID)
	return err
}
