package keyvault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

type wire struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Location   string              `json:"location"`
	Tags       map[string]string   `json:"tags"`
	SystemData *tracked.SystemData `json:"systemData"`
	Properties properties          `json:"properties"`
}

func (p *Provider) wire(asked *arm.Request, r resource) wire {
	w := wire{ID: r.ID, Name: r.Name, Type: Type, Location: r.Location, Tags: r.Tags, SystemData: &r.SystemData, Properties: r.Properties}
	if w.Tags == nil {
		w.Tags = map[string]string{}
	}
	if w.Properties.Policies == nil {
		w.Properties.Policies = []policy{}
	}
	if w.Properties.RBAC == nil {
		off := false
		w.Properties.RBAC = &off
	}
	w.Properties.VaultURI, w.Properties.ProvisioningState = p.c.Vaults.URI(r.Name, asked.HTTP.Host), "Succeeded"
	return w
}

type body struct {
	Location   string             `json:"location"`
	Tags       *map[string]string `json:"tags"`
	Properties json.RawMessage    `json:"properties"`
}

// vaultName: 3 to 24 letters, digits and single hyphens, a letter first, no hyphen last.
// Source: Azure naming rules, Microsoft.KeyVault.
var vaultName = regexp.MustCompile(`^[a-zA-Z](-?[0-9a-zA-Z])+$`)

func validName(name string) bool {
	return len(name) >= 3 && len(name) <= 24 && vaultName.MatchString(name)
}

const nameRule = "A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens."

func (p *Provider) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: p.wire(r, row.Value)}, nil
}

func (p *Provider) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	some, err := p.in(ctx, r.ID.Subscription, r.ID.ResourceGroup)
	if err != nil {
		return nil, err
	}
	views := make([]wire, len(some))
	for n, each := range some {
		views[n] = p.wire(r, each)
	}
	return arm.Page(r, views, func(w wire) string { return strings.ToLower(w.ID) })
}

func (p *Provider) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(strings.ToLower(r.ID.Name()))()
	row, err := p.row(ctx, r.ID)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	isNew := err != nil
	b, props, err := readBody(r, properties{})
	if err != nil {
		return nil, err
	}
	if isNew && !validName(r.ID.Name()) {
		return nil, bad("VaultNameNotValid", "name", "The vault name '%.64s' is invalid. %s", r.ID.Name(), nameRule)
	}
	next := resource{ID: r.ID.String(), Name: r.ID.Name()}
	var before *properties
	if !isNew {
		next, before = row.Value, &row.Value.Properties
	}
	if next.Location, err = tracked.Location(b.Location, row.Value.Location, r.ID); err != nil {
		return nil, err
	}
	if isNew && strings.EqualFold(props.CreateMode, "recover") {
		return p.recover(ctx, r, next.Location)
	}
	next.Tags = nil
	if b.Tags != nil {
		next.Tags = *b.Tags
	}
	next.Properties = props
	if isNew {
		if err := p.checkFree(ctx, r.ID); err != nil {
			return nil, err
		}
	}
	return p.store(ctx, r, next, before, row.Revision)
}

// readBody reads the body; properties are merged into those of base (RFC 7396).
func readBody(r *arm.Request, base properties) (body, properties, error) {
	var b body
	if err := r.Decode(&b); err != nil {
		return b, base, err
	}
	if b.Properties == nil {
		return b, base, nil
	}
	merged, err := arm.MergePatch(base, b.Properties)
	if err != nil {
		return b, base, &arm.Error{Status: 400, Code: "InvalidRequestContent", Message: fmt.Sprintf("The request content was invalid and could not be deserialized: 'properties: %v'.", err)}
	}
	if m := merged.CreateMode; m != "" && !strings.EqualFold(m, "default") && !strings.EqualFold(m, "recover") {
		return b, base, bad(codeBad, "properties.createMode", "The createMode '%.64s' is neither default nor recover.", m)
	}
	return b, merged, nil
}

// checkFree: a vault's name is its host name, so it is taken for all subscriptions,
// and as long as it could be recovered.
func (p *Provider) checkFree(ctx context.Context, id arm.ResourceID) error {
	v, err := p.c.Vaults.Get(ctx, id.Name())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case !v.Deleted.IsZero():
		return &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Target: "name", Message: fmt.Sprintf(
			"A vault with the name '%s' already exists in deleted state. Recover it with createMode 'recover', or use another name.", v.Name)}
	}
	return &arm.Error{Status: http.StatusConflict, Code: "VaultAlreadyExists", Target: "name", Message: fmt.Sprintf(
		"The vault name '%s' is already in use. Vault names are globally unique, so it is possible that the name is already taken.", v.Name)}
}

func (p *Provider) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(strings.ToLower(r.ID.Name()))()
	row, err := p.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	b, props, err := readBody(r, row.Value.Properties)
	if err != nil {
		return nil, err
	}
	next := row.Value
	if b.Location != "" {
		if _, err := tracked.Location(b.Location, next.Location, r.ID); err != nil {
			return nil, err
		}
	}
	if b.Tags != nil {
		next.Tags = *b.Tags
	}
	next.Properties = props
	return p.store(ctx, r, next, &row.Value.Properties, row.Revision)
}

// store checks the result in full and stores it for both planes in one write.
func (p *Provider) store(ctx context.Context, r *arm.Request, next resource, before *properties, revision uint64) (*arm.Response, error) {
	if err := tracked.CheckTags(next.Tags); err != nil {
		return nil, err
	}
	d, err := p.c.Subscriptions.Directory(ctx, r.ID.Subscription)
	if err != nil {
		return nil, err
	}
	if err := next.Properties.check(before, d); err != nil {
		return nil, err
	}
	if isTrue(next.Properties.RBAC) && !p.c.Vaults.HasRoles() {
		return nil, bad("RbacAuthorizationNotSupported", "properties.enableRbacAuthorization", "This key vault service authorises by access policies only: leave enableRbacAuthorization out or false, and grant access with accessPolicies.")
	}
	next.Properties.CreateMode, next.Properties.VaultURI, next.Properties.ProvisioningState = "", "", ""
	next.SystemData = next.SystemData.Stamp(r.Caller)
	expect := store.Absent
	if revision > 0 {
		expect = store.AtRevision(revision)
	}
	id, err := next.armID()
	if err != nil {
		return nil, err
	}
	write, err := p.vaults.Put(strings.ToLower(id.Subscription), id.Key(), next, expect)
	if err != nil {
		return nil, err
	}
	if err := p.c.Vaults.Put(ctx, next.vault(d), write); err != nil {
		return nil, tracked.Conflict(id, p.purging(next.Name, err))
	}
	return &arm.Response{Body: p.wire(r, next)}, nil
}

func (p *Provider) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	existed, err := p.remove(ctx, r.ID)
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	if !existed {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	return &arm.Response{}, nil
}

// remove soft-deletes a vault: the resource goes to the deleted ones, from where it
// can be recovered, and the data plane answers no more.
func (p *Provider) remove(ctx context.Context, id arm.ResourceID) (existed bool, err error) {
	defer p.locks.Lock(strings.ToLower(id.Name()))()
	row, err := p.row(ctx, id)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	subscription := strings.ToLower(id.Subscription)
	gone := row.Value
	gone.Deleted = time.Now().UTC().Truncate(time.Second)
	note, err := p.deleted.Put(subscription, strings.ToLower(gone.Name), gone, store.Anything)
	if err != nil {
		return true, err
	}
	if p.c.Forget != nil {
		if err := p.c.Forget(ctx, id); err != nil {
			return true, err
		}
	}
	return true, p.c.Vaults.Delete(ctx, vault.Vault{Name: gone.Name}, p.vaults.Delete(subscription, id.Key(), store.AtRevision(row.Revision)), note)
}

// recover brings a deleted vault back as it was, keys and access policies too.
func (p *Provider) recover(ctx context.Context, r *arm.Request, location string) (*arm.Response, error) {
	subscription := strings.ToLower(r.ID.Subscription)
	row, err := p.deleted.Get(ctx, subscription, strings.ToLower(r.ID.Name()))
	if errors.Is(err, store.ErrNotFound) || err == nil && (row.Value.Location != location || row.Value.over()) {
		return nil, &arm.Error{Status: http.StatusNotFound, Code: "DeletedVaultNotFound", Message: fmt.Sprintf("The specified deleted vault '%s' does not exist in location '%s'.", r.ID.Name(), location)}
	}
	if err != nil {
		return nil, err
	}
	back := row.Value
	id, err := back.armID()
	if err != nil {
		return nil, err
	}
	if id.Key() != r.ID.Key() {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Message: fmt.Sprintf("The deleted vault '%s' belongs to resource group '%s' and can be recovered there only.", back.Name, id.ResourceGroup)}
	}
	d, err := p.c.Subscriptions.Directory(ctx, id.Subscription)
	if err != nil {
		return nil, err
	}
	back.Deleted = time.Time{}
	back.SystemData = back.SystemData.Stamp(r.Caller)
	write, err := p.vaults.Put(subscription, id.Key(), back, store.Absent)
	if err != nil {
		return nil, err
	}
	gone := p.deleted.Delete(subscription, strings.ToLower(back.Name), store.AtRevision(row.Revision))
	if err := p.c.Vaults.Put(ctx, back.vault(d), write, gone); err != nil {
		return nil, tracked.Conflict(id, p.purging(back.Name, err))
	}
	return &arm.Response{Body: p.wire(r, back)}, nil
}

type availability struct {
	Available bool   `json:"nameAvailable"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
}

func (p *Provider) checkName(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	if !strings.EqualFold(b.Type, Type) {
		return nil, bad(codeBad, "type", "The type must be '%s'.", Type)
	}
	if !validName(b.Name) {
		return &arm.Response{Body: availability{Reason: "AccountNameInvalid", Message: nameRule}}, nil
	}
	err := p.checkFree(ctx, arm.ResourceID{Names: []string{b.Name}})
	var taken *arm.Error
	if errors.As(err, &taken) {
		return &arm.Response{Body: availability{Reason: "AlreadyExists", Message: taken.Message}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: availability{Available: true}}, nil
}
