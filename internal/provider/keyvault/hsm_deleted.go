package keyvault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// recoverHSM brings a deleted HSM back as it was, keys and role assignments too.
func (p *Provider) recoverHSM(ctx context.Context, r *arm.Request, location string) (*arm.Response, error) {
	subscription := strings.ToLower(r.ID.Subscription)
	row, err := p.deletedHSMs.Get(ctx, subscription, strings.ToLower(r.ID.Name()))
	if errors.Is(err, store.ErrNotFound) || err == nil && (row.Value.Location != location || row.Value.over()) {
		return nil, deletedHSMNotFound(r.ID.Name())
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
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Message: fmt.Sprintf("The deleted managed HSM '%s' belongs to resource group '%s' and can be recovered there only.", back.Name, id.ResourceGroup)}
	}
	d, err := p.c.Subscriptions.Directory(ctx, id.Subscription)
	if err != nil {
		return nil, err
	}
	back.Deleted = time.Time{}
	back.SystemData = back.SystemData.Stamp(r.Caller)
	write, err := p.hsms.Put(subscription, id.Key(), back, store.Absent)
	if err != nil {
		return nil, err
	}
	gone := p.deletedHSMs.Delete(subscription, strings.ToLower(back.Name), store.AtRevision(row.Revision))
	if err := p.c.Vaults.Put(ctx, back.vault(d), write, gone); err != nil {
		return nil, tracked.Conflict(id, p.purging(back.Name, err))
	}
	return &arm.Response{Body: p.hsmWire(r, back)}, nil
}

func deletedHSMNotFound(name string) error {
	return &arm.Error{Status: http.StatusNotFound, Code: "DeletedManagedHsmNotFound", Message: fmt.Sprintf("The specified deleted managed HSM '%s' does not exist.", name)}
}

type deletedHSMView struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties deletedHSMProperties `json:"properties"`
}

type deletedHSMProperties struct {
	ID              string            `json:"mhsmId"`
	Location        string            `json:"location"`
	Tags            map[string]string `json:"tags,omitempty"`
	Deleted         time.Time         `json:"deletionDate"`
	Purge           time.Time         `json:"scheduledPurgeDate"`
	PurgeProtection *bool             `json:"purgeProtectionEnabled,omitempty"`
}

func (r hsm) deletedView(subscription string) deletedHSMView {
	return deletedHSMView{
		ID:   "/subscriptions/" + subscription + "/providers/" + namespace + "/locations/" + r.Location + "/deletedManagedHSMs/" + r.Name,
		Name: r.Name, Type: namespace + "/deletedManagedHSMs",
		Properties: deletedHSMProperties{
			ID: r.ID, Location: r.Location, Tags: r.Tags, Deleted: r.Deleted, Purge: r.purgeAt(), PurgeProtection: r.Properties.PurgeProtection,
		},
	}
}

func (p *Provider) listDeletedHSMs(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	rows, err := p.deletedHSMs.List(ctx, strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	views := []deletedHSMView{}
	for _, row := range rows {
		if !row.Value.over() {
			views = append(views, row.Value.deletedView(r.ID.Subscription))
		}
	}
	return arm.Page(r, views, func(v deletedHSMView) string { return strings.ToLower(v.Name) })
}

func (p *Provider) deletedHSMRow(ctx context.Context, r *arm.Request) (tracked.Row[hsm], error) {
	row, err := p.deletedHSMs.Get(ctx, strings.ToLower(r.ID.Subscription), strings.ToLower(r.Param("name")))
	if errors.Is(err, store.ErrNotFound) || err == nil && (row.Value.Location != arm.ShortLocation(r.Param("location")) || row.Value.over()) {
		return row, deletedHSMNotFound(r.Param("name"))
	}
	return row, err
}

func (p *Provider) getDeletedHSM(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.deletedHSMRow(ctx, r)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: row.Value.deletedView(r.ID.Subscription)}, nil
}

func (p *Provider) purgeHSM(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.hsmLock(r.Param("name"))()
	row, err := p.deletedHSMRow(ctx, r)
	if err != nil {
		return nil, err
	}
	if isTrue(row.Value.Properties.PurgeProtection) {
		return nil, &arm.Error{Status: http.StatusMethodNotAllowed, Code: "MethodNotAllowed", Message: fmt.Sprintf(
			"Operation 'DeletedManagedHsmPurge' is not allowed. Purge protection is enabled for the managed HSM '%s': it is purged on %s.", row.Value.Name, row.Value.purgeAt().Format(time.RFC3339))}
	}
	if err := p.destroyHSM(ctx, row.Value); err != nil {
		return nil, err
	}
	// Clients take a 202 alone and ask how it ended, though it has.
	return &arm.Response{Status: http.StatusAccepted, Poll: fmt.Sprintf(
		"/subscriptions/%s/providers/%s/locations/%s/operationResults/%s?api-version=%s",
		r.ID.Subscription, namespace, row.Value.Location, uuid.NewString(), url.QueryEscape(r.APIVersion))}, nil
}

// operationResult says how a purge ended that was answered 202: well, or there was none.
func (p *Provider) operationResult(context.Context, *arm.Request) (*arm.Response, error) {
	return &arm.Response{Body: struct{}{}}, nil
}

func (p *Provider) destroyHSM(ctx context.Context, gone hsm) error {
	id, err := gone.armID()
	if err != nil {
		return err
	}
	return p.c.Vaults.Purge(ctx, vault.Vault{Name: gone.Name, HSM: true}, p.deletedHSMs.Delete(strings.ToLower(id.Subscription), strings.ToLower(gone.Name), store.Anything))
}

func (p *Provider) checkHSMName(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b struct {
		Name string `json:"name"`
	}
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	if !validHSMName(b.Name) {
		return &arm.Response{Body: availability{Reason: "AccountNameInvalid", Message: hsmNameRule}}, nil
	}
	err := p.checkHSMFree(ctx, b.Name)
	var taken *arm.Error
	if errors.As(err, &taken) {
		return &arm.Response{Body: availability{Reason: "AlreadyExists", Message: taken.Message}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: availability{Available: true}}, nil
}
