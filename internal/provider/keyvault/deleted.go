package keyvault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

type deletedView struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties deletedProperties `json:"properties"`
}

type deletedProperties struct {
	VaultID         string            `json:"vaultId"`
	Location        string            `json:"location"`
	Tags            map[string]string `json:"tags,omitempty"`
	Deleted         time.Time         `json:"deletionDate"`
	Purge           time.Time         `json:"scheduledPurgeDate"`
	PurgeProtection *bool             `json:"purgeProtectionEnabled,omitempty"`
}

func (r resource) deletedView(subscription string) deletedView {
	return deletedView{
		ID:   "/subscriptions/" + subscription + "/providers/" + namespace + "/locations/" + r.Location + "/deletedVaults/" + r.Name,
		Name: r.Name, Type: namespace + "/deletedVaults",
		Properties: deletedProperties{
			VaultID: r.ID, Location: r.Location, Tags: r.Tags, Deleted: r.Deleted,
			Purge: r.purgeAt(), PurgeProtection: r.Properties.PurgeProtection,
		},
	}
}

func (p *Provider) listDeleted(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	rows, err := p.deleted.List(ctx, strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	views := []deletedView{}
	for _, row := range rows {
		if !row.Value.over() {
			views = append(views, row.Value.deletedView(r.ID.Subscription))
		}
	}
	return arm.Page(r, views, func(v deletedView) string { return strings.ToLower(v.Name) })
}

// deletedRow finds a deleted vault of a location.
func (p *Provider) deletedRow(ctx context.Context, r *arm.Request) (tracked.Row[resource], error) {
	row, err := p.deleted.Get(ctx, strings.ToLower(r.ID.Subscription), strings.ToLower(r.Param("name")))
	if errors.Is(err, store.ErrNotFound) || err == nil && (row.Value.Location != arm.ShortLocation(r.Param("location")) || row.Value.over()) {
		return row, &arm.Error{Status: http.StatusNotFound, Code: "DeletedVaultNotFound", Message: fmt.Sprintf("The specified deleted vault '%s' does not exist.", r.Param("name"))}
	}
	return row, err
}

func (p *Provider) getDeleted(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := p.deletedRow(ctx, r)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: row.Value.deletedView(r.ID.Subscription)}, nil
}

// purgeAt is when a deleted vault goes for good.
func (r resource) purgeAt() time.Time { return r.Deleted.AddDate(0, 0, r.Properties.Retention) }

// over says that a deleted vault's retention is over: it is as if it were gone.
func (r resource) over() bool { return !r.Deleted.IsZero() && !time.Now().Before(r.purgeAt()) }

// purge destroys a deleted vault and the keys in it.
func (p *Provider) purge(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(strings.ToLower(r.Param("name")))()
	row, err := p.deletedRow(ctx, r)
	if err != nil {
		return nil, err
	}
	if isTrue(row.Value.Properties.PurgeProtection) {
		return nil, &arm.Error{Status: http.StatusMethodNotAllowed, Code: "MethodNotAllowed", Message: fmt.Sprintf(
			"Operation 'DeletedVaultPurge' is not allowed. Purge protection is enabled for the vault '%s': it is purged on %s.", row.Value.Name, row.Value.purgeAt().Format(time.RFC3339))}
	}
	if err := p.destroy(ctx, row.Value); err != nil {
		return nil, err
	}
	return &arm.Response{}, nil
}

func (p *Provider) destroy(ctx context.Context, gone resource) error {
	id, err := gone.armID()
	if err != nil {
		return err
	}
	return p.c.Vaults.Purge(ctx, vault.Vault{Name: gone.Name}, p.deleted.Delete(strings.ToLower(id.Subscription), strings.ToLower(gone.Name), store.Anything))
}

// purging is what a client is told whose vault's purge has begun; other errors stay.
func (p *Provider) purging(name string, err error) error {
	if !errors.Is(err, vault.ErrPurging) {
		return err
	}
	return &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Cause: err, Message: fmt.Sprintf("The vault '%s' is being purged and cannot be recovered.", name)}
}

// sweepEvery is how often deleted vaults are looked at: their retention is in days.
const sweepEvery = time.Hour

// Run purges deleted vaults whose retention is over, until ctx is.
func (p *Provider) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := p.sweep(ctx); err != nil && ctx.Err() == nil {
			p.c.Log.ErrorContext(ctx, "deleted vaults were not purged, trying again", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Provider) sweep(ctx context.Context) error {
	all, err := p.c.Vaults.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range all {
		if !v.Deleted.IsZero() && (v.PurgeBegun || !time.Now().Before(v.PurgeAt())) {
			errs = append(errs, p.sweepOne(ctx, v))
		}
	}
	return errors.Join(errs...)
}

func (p *Provider) sweepOne(ctx context.Context, v vault.Vault) error {
	id, err := arm.ParseResourceID(v.ResourceID)
	if err != nil {
		return fmt.Errorf("a stored vault: %w: %w", store.ErrCorrupt, err)
	}
	if v.HSM {
		defer p.hsmLock(v.Name)()
		return p.destroyHSM(ctx, hsm{ID: id.String(), Name: v.Name})
	}
	defer p.locks.Lock(strings.ToLower(v.Name))()
	return p.destroy(ctx, resource{ID: id.String(), Name: v.Name})
}
