package keyvault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// kind is one of the two kinds of resources, vaults and managed HSMs: R is one of them as
// it is stored. How they are made, changed, deleted, recovered and purged is the same, and
// here; what sets them apart is in stored, and in words.
type kind[R any, P stored[R]] struct {
	p *Provider
	words
	live    tracked.Table[R] // a partition for each subscription, by arm key
	deleted tracked.Table[R] // a partition for each subscription, by lower-case name
}

// words are how Azure speaks of a kind.
type words struct {
	hsm            bool
	fullType       string
	noun           string
	nameRule       string
	takenCode      string
	takenMore      string
	deletedType    string // below the namespace, as purgeOperation
	missingCode    string // of a deleted one
	purgeOperation string
}

// stored is a resource of either kind.
type stored[R any] interface {
	*R
	head() *header
	guards() *guarded
	// reset drops all properties, which a PUT replaces; take merges those of a body.
	reset()
	take(b body) error
	createMode() string
	// check refuses what is wrong, fills in defaults, spells values as Azure does, and drops
	// what is not stored. before is nil for a new one.
	check(p *Provider, before *R, d entra.DirectoryID) error
	// vault is what the data plane obeys.
	vault(d entra.DirectoryID) vault.Vault
	wire(p *Provider, asked *arm.Request) any
}

// header is what both kinds are as resources. Its JSON is on disk.
type header struct {
	ID         string             `json:"id"` // with the letters of its creation
	Name       string             `json:"name"`
	Location   string             `json:"location"` // short form
	Tags       map[string]string  `json:"tags,omitempty"`
	SystemData tracked.SystemData `json:"systemData"`
	Deleted    time.Time          `json:"deleted"` // zero unless soft-deleted
}

func (h *header) head() *header { return h }

func (h header) armID() (arm.ResourceID, error) {
	id, err := arm.ParseResourceID(h.ID)
	if err != nil {
		return id, fmt.Errorf("a stored vault: %w: %w", store.ErrCorrupt, err)
	}
	return id, nil
}

func (h header) summary(fullType string) tracked.Summary {
	return tracked.Summary{ID: h.ID, Name: h.Name, Type: fullType, Location: h.Location, Tags: h.Tags, History: h.SystemData}
}

// wireHeader is a header as answered.
type wireHeader struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Location   string              `json:"location"`
	Tags       map[string]string   `json:"tags"`
	SKU        *sku                `json:"sku,omitempty"` // of a managed HSM
	SystemData *tracked.SystemData `json:"systemData"`
}

func (h *header) wireHeader(fullType string) wireHeader {
	w := wireHeader{ID: h.ID, Name: h.Name, Type: fullType, Location: h.Location, Tags: h.Tags, SystemData: &h.SystemData}
	if w.Tags == nil {
		w.Tags = map[string]string{}
	}
	return w
}

type body struct {
	Location   string             `json:"location"`
	Tags       *map[string]string `json:"tags"`
	SKU        json.RawMessage    `json:"sku"` // of a managed HSM; a vault's is a property
	Properties json.RawMessage    `json:"properties"`
}

// mergeProperties merges those of a body into properties (RFC 7396).
func mergeProperties[T any](into *T, b body) error {
	if b.Properties == nil {
		return nil
	}
	merged, err := arm.MergePatch(*into, b.Properties)
	if err != nil {
		return &arm.Error{Status: 400, Code: "InvalidRequestContent", Message: fmt.Sprintf("The request content was invalid and could not be deserialized: 'properties: %v'.", err)}
	}
	*into = merged
	return nil
}

// lock keeps writes of one resource apart: names are global, those of each kind for itself.
func (k kind[R, P]) lock(name string) (unlock func()) {
	if k.hsm {
		name = "hsm:" + name
	}
	return k.p.locks.Lock(strings.ToLower(name))
}

func (k kind[R, P]) row(ctx context.Context, id arm.ResourceID) (tracked.Row[R], error) {
	row, err := k.live.Get(ctx, strings.ToLower(id.Subscription), id.Key())
	if errors.Is(err, store.ErrNotFound) {
		return row, arm.ErrResourceNotFound(id)
	}
	return row, err
}

// isMissing says whether err is a 404 of row.
func isMissing(err error) bool {
	var refused *arm.Error
	return errors.As(err, &refused)
}

// in returns the resources of a subscription, or of one of its groups.
func (k kind[R, P]) in(ctx context.Context, subscription, group string) ([]R, error) {
	return k.live.InGroup(ctx, subscription, group, func(r R) (arm.ResourceID, error) { return P(&r).head().armID() })
}

func (k kind[R, P]) summaries(ctx context.Context, subscription string) ([]tracked.Summary, error) {
	some, err := k.in(ctx, subscription, "")
	summaries := make([]tracked.Summary, len(some))
	for n := range some {
		summaries[n] = P(&some[n]).head().summary(k.fullType)
	}
	return summaries, err
}

// deleteGroup soft-deletes those of a group.
func (k kind[R, P]) deleteGroup(ctx context.Context, subscription, group string) error {
	some, err := k.in(ctx, subscription, group)
	if err != nil {
		return err
	}
	for n := range some {
		id, err := P(&some[n]).head().armID()
		if err != nil {
			return err
		}
		if _, err := k.remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (k kind[R, P]) get(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := k.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return k.show(r, &row.Value), nil
}

func (k kind[R, P]) show(r *arm.Request, one P) *arm.Response {
	return &arm.Response{Body: one.wire(k.p, r)}
}

func (k kind[R, P]) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	some, err := k.in(ctx, r.ID.Subscription, r.ID.ResourceGroup)
	if err != nil {
		return nil, err
	}
	page, err := arm.Page(r, some, func(one R) string { return strings.ToLower(P(&one).head().ID) })
	if err != nil {
		return nil, err
	}
	shown := page.Body.(arm.List[R])
	views := make([]any, len(shown.Value))
	for n := range shown.Value {
		views[n] = P(&shown.Value[n]).wire(k.p, r)
	}
	return &arm.Response{Body: arm.List[any]{Value: views, NextLink: shown.NextLink}}, nil
}

func (k kind[R, P]) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer k.lock(r.ID.Name())()
	row, err := k.row(ctx, r.ID)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	var before *R
	if err == nil {
		before = &row.Value
	}
	next := row.Value
	one := P(&next)
	if before == nil {
		one.head().ID, one.head().Name = r.ID.String(), r.ID.Name()
	}
	one.reset()
	b, err := k.read(r, one)
	if err != nil {
		return nil, err
	}
	if before == nil && !validName(r.ID.Name()) {
		return nil, bad("VaultNameNotValid", "name", "The %s name '%.64s' is invalid. %s", k.noun, r.ID.Name(), k.nameRule)
	}
	h := one.head()
	if h.Location, err = tracked.Location(b.Location, h.Location, r.ID); err != nil {
		return nil, err
	}
	if before == nil && strings.EqualFold(one.createMode(), "recover") {
		return k.recover(ctx, r, h.Location)
	}
	h.Tags = nil
	if b.Tags != nil {
		h.Tags = *b.Tags
	}
	if before == nil {
		if err := k.checkFree(ctx, r.ID.Name()); err != nil {
			return nil, err
		}
	}
	return k.store(ctx, r, next, before, row.Revision)
}

func (k kind[R, P]) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer k.lock(r.ID.Name())()
	row, err := k.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	next := row.Value
	b, err := k.read(r, &next)
	if err != nil {
		return nil, err
	}
	h := P(&next).head()
	if b.Location != "" {
		if _, err := tracked.Location(b.Location, h.Location, r.ID); err != nil {
			return nil, err
		}
	}
	if b.Tags != nil {
		h.Tags = *b.Tags
	}
	return k.store(ctx, r, next, &row.Value, row.Revision)
}

// read reads the body into a resource.
func (k kind[R, P]) read(r *arm.Request, into P) (body, error) {
	var b body
	if err := r.Decode(&b); err != nil {
		return b, err
	}
	if err := into.take(b); err != nil {
		return b, err
	}
	if m := into.createMode(); m != "" && !strings.EqualFold(m, "default") && !strings.EqualFold(m, "recover") {
		return b, bad(codeBad, "properties.createMode", "The createMode '%.64s' is neither default nor recover.", m)
	}
	return b, nil
}

// checkFree: a name is a host name, so it is taken for all subscriptions, and as long as
// what has it could be recovered.
func (k kind[R, P]) checkFree(ctx context.Context, name string) error {
	find := k.p.c.Vaults.Get
	if k.hsm {
		find = k.p.c.Vaults.GetHSM
	}
	v, err := find(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case !v.Deleted.IsZero():
		return &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Target: "name", Message: fmt.Sprintf(
			"A %s with the name '%s' already exists in deleted state. Recover it with createMode 'recover', or use another name.", k.noun, v.Name)}
	}
	return &arm.Error{Status: http.StatusConflict, Code: k.takenCode, Target: "name", Message: fmt.Sprintf("The %s name '%s' is already in use.%s", k.noun, v.Name, k.takenMore)}
}

// store checks the result in full and stores it for both planes in one write.
func (k kind[R, P]) store(ctx context.Context, r *arm.Request, next R, before *R, revision uint64) (*arm.Response, error) {
	one := P(&next)
	if k.hsm && !k.p.c.Vaults.HasToken() {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ManagedHsmNotAvailable", Message: "A managed HSM's keys are in a PKCS#11 token, and this server was started without one: give --pkcs11-module, --pkcs11-token and --pkcs11-pin-file."}
	}
	if err := tracked.CheckTags(one.head().Tags); err != nil {
		return nil, err
	}
	d, err := k.p.c.Subscriptions.Directory(ctx, r.ID.Subscription)
	if err != nil {
		return nil, err
	}
	if err := one.check(k.p, before, d); err != nil {
		return nil, err
	}
	expect := store.Absent
	if revision > 0 {
		expect = store.AtRevision(revision)
	}
	return k.write(ctx, r, one, d, expect)
}

// write stores one for both planes, in one write with also.
func (k kind[R, P]) write(ctx context.Context, r *arm.Request, one P, d entra.DirectoryID, expect store.Expect, also ...store.RowWrite) (*arm.Response, error) {
	h := one.head()
	h.SystemData = h.SystemData.Stamp(r.Caller)
	id, err := h.armID()
	if err != nil {
		return nil, err
	}
	write, err := k.live.Put(strings.ToLower(id.Subscription), id.Key(), *one, expect)
	if err != nil {
		return nil, err
	}
	err = k.p.c.Vaults.Put(ctx, one.vault(d), append(also, write)...)
	if errors.Is(err, vault.ErrPurging) {
		err = &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Cause: err, Message: fmt.Sprintf("The %s '%s' is being purged and cannot be recovered.", k.noun, h.Name)}
	}
	if err != nil {
		return nil, tracked.Conflict(id, err)
	}
	return k.show(r, one), nil
}

func (k kind[R, P]) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	existed, err := k.remove(ctx, r.ID)
	if err != nil {
		return nil, tracked.Conflict(r.ID, err)
	}
	if !existed {
		return &arm.Response{Status: http.StatusNoContent}, nil
	}
	return &arm.Response{}, nil
}

// remove soft-deletes: the resource goes to the deleted ones, from where it can be
// recovered, and the data plane answers no more.
func (k kind[R, P]) remove(ctx context.Context, id arm.ResourceID) (existed bool, err error) {
	defer k.lock(id.Name())()
	row, err := k.row(ctx, id)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	subscription := strings.ToLower(id.Subscription)
	gone := row.Value
	h := P(&gone).head()
	h.Deleted = time.Now().UTC().Truncate(time.Second)
	note, err := k.deleted.Put(subscription, strings.ToLower(h.Name), gone, store.Anything)
	if err != nil {
		return true, err
	}
	if k.p.c.Forget != nil && !k.hsm { // managed HSMs have no events
		if err := k.p.c.Forget(ctx, id); err != nil {
			return true, err
		}
	}
	return true, k.p.c.Vaults.Delete(ctx, vault.Vault{Name: h.Name, HSM: k.hsm}, k.live.Delete(subscription, id.Key(), store.AtRevision(row.Revision)), note)
}

// recover brings a deleted one back as it was, with its keys and who may use them.
func (k kind[R, P]) recover(ctx context.Context, r *arm.Request, location string) (*arm.Response, error) {
	row, err := k.deletedRow(ctx, r.ID.Subscription, r.ID.Name(), location)
	if err != nil {
		return nil, err
	}
	back := P(&row.Value)
	h := back.head()
	id, err := h.armID()
	if err != nil {
		return nil, err
	}
	if id.Key() != r.ID.Key() {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ConflictError", Message: fmt.Sprintf("The deleted %s '%s' belongs to resource group '%s' and can be recovered there only.", k.noun, h.Name, id.ResourceGroup)}
	}
	d, err := k.p.c.Subscriptions.Directory(ctx, id.Subscription)
	if err != nil {
		return nil, err
	}
	h.Deleted = time.Time{}
	gone := k.deleted.Delete(strings.ToLower(id.Subscription), strings.ToLower(h.Name), store.AtRevision(row.Revision))
	return k.write(ctx, r, back, d, store.Absent, gone)
}

type deletedView struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties deletedProperties `json:"properties"`
}

type deletedProperties struct {
	VaultID         string            `json:"vaultId,omitempty"`
	HSMID           string            `json:"mhsmId,omitempty"`
	Location        string            `json:"location"`
	Tags            map[string]string `json:"tags,omitempty"`
	Deleted         time.Time         `json:"deletionDate"`
	Purge           time.Time         `json:"scheduledPurgeDate"`
	PurgeProtection *bool             `json:"purgeProtectionEnabled,omitempty"`
}

func (k kind[R, P]) deletedView(subscription string, one P) deletedView {
	h := one.head()
	v := deletedView{
		ID:   "/subscriptions/" + subscription + "/providers/" + namespace + "/locations/" + h.Location + "/" + k.deletedType + "/" + h.Name,
		Name: h.Name, Type: namespace + "/" + k.deletedType,
		Properties: deletedProperties{
			VaultID: h.ID, Location: h.Location, Tags: h.Tags, Deleted: h.Deleted, Purge: k.purgeAt(one), PurgeProtection: one.guards().PurgeProtection,
		},
	}
	if k.hsm {
		v.Properties.VaultID, v.Properties.HSMID = "", h.ID
	}
	return v
}

// purgeAt is when a deleted one goes for good.
func (k kind[R, P]) purgeAt(one P) time.Time {
	return one.head().Deleted.AddDate(0, 0, one.guards().Retention)
}

// over says that the retention of a deleted one is over: it is as if it were gone.
func (k kind[R, P]) over(one P) bool {
	return !one.head().Deleted.IsZero() && !time.Now().Before(k.purgeAt(one))
}

func (k kind[R, P]) listDeleted(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	rows, err := k.deleted.List(ctx, strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	views := []deletedView{}
	for n := range rows {
		if one := P(&rows[n].Value); !k.over(one) {
			views = append(views, k.deletedView(r.ID.Subscription, one))
		}
	}
	return arm.Page(r, views, func(v deletedView) string { return strings.ToLower(v.Name) })
}

// deletedRow finds a deleted one of a location.
func (k kind[R, P]) deletedRow(ctx context.Context, subscription, name, location string) (tracked.Row[R], error) {
	row, err := k.deleted.Get(ctx, strings.ToLower(subscription), strings.ToLower(name))
	one := P(&row.Value)
	if errors.Is(err, store.ErrNotFound) || err == nil && (one.head().Location != arm.ShortLocation(location) || k.over(one)) {
		return row, &arm.Error{Status: http.StatusNotFound, Code: k.missingCode, Message: fmt.Sprintf("The specified deleted %s '%s' does not exist in location '%s'.", k.noun, name, location)}
	}
	return row, err
}

func (k kind[R, P]) getDeleted(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	row, err := k.deletedRow(ctx, r.ID.Subscription, r.Param("name"), r.Param("location"))
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: k.deletedView(r.ID.Subscription, &row.Value)}, nil
}

// purge destroys a deleted one and the keys in it.
func (k kind[R, P]) purge(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer k.lock(r.Param("name"))()
	row, err := k.deletedRow(ctx, r.ID.Subscription, r.Param("name"), r.Param("location"))
	if err != nil {
		return nil, err
	}
	one := P(&row.Value)
	h := one.head()
	if isTrue(one.guards().PurgeProtection) {
		return nil, &arm.Error{Status: http.StatusMethodNotAllowed, Code: "MethodNotAllowed", Message: fmt.Sprintf(
			"Operation '%s' is not allowed. Purge protection is enabled for the %s '%s': it is purged on %s.", k.purgeOperation, k.noun, h.Name, k.purgeAt(one).Format(time.RFC3339))}
	}
	if err := k.destroy(ctx, *h); err != nil {
		return nil, err
	}
	if !k.hsm {
		return &arm.Response{}, nil
	}
	// Clients take a 202 alone and ask how it ended, though it has.
	return &arm.Response{Status: http.StatusAccepted, Poll: fmt.Sprintf(
		"/subscriptions/%s/providers/%s/locations/%s/operationResults/%s?api-version=%s",
		r.ID.Subscription, namespace, h.Location, uuid.NewString(), url.QueryEscape(r.APIVersion))}, nil
}

func (k kind[R, P]) destroy(ctx context.Context, gone header) error {
	id, err := gone.armID()
	if err != nil {
		return err
	}
	return k.p.c.Vaults.Purge(ctx, vault.Vault{Name: gone.Name, HSM: k.hsm}, k.deleted.Delete(strings.ToLower(id.Subscription), strings.ToLower(gone.Name), store.Anything))
}

// sweep destroys a deleted one whose time has come.
func (k kind[R, P]) sweep(ctx context.Context, v vault.Vault) error {
	defer k.lock(v.Name)()
	return k.destroy(ctx, header{ID: v.ResourceID, Name: v.Name})
}

type availability struct {
	Available bool   `json:"nameAvailable"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
}

func (k kind[R, P]) checkName(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b struct {
		Name string `json:"name"`
		Type string `json:"type"` // there is one for vaults alone
	}
	if err := r.Decode(&b); err != nil {
		return nil, err
	}
	if !k.hsm && !strings.EqualFold(b.Type, k.fullType) {
		return nil, bad(codeBad, "type", "The type must be '%s'.", k.fullType)
	}
	if !validName(b.Name) {
		return &arm.Response{Body: availability{Reason: "AccountNameInvalid", Message: k.nameRule}}, nil
	}
	err := k.checkFree(ctx, b.Name)
	var taken *arm.Error
	if errors.As(err, &taken) {
		return &arm.Response{Body: availability{Reason: "AlreadyExists", Message: taken.Message}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: availability{Available: true}}, nil
}
