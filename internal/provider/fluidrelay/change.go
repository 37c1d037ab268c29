package fluidrelay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/provider/tracked"
	"github.com/tidelock/tidelock/internal/store"
)

// serverBody is the body of PUT and PATCH. What is absent is nil.
type serverBody struct {
	Location   *string            `json:"location"`
	Tags       *map[string]string `json:"tags"`
	Identity   json.RawMessage    `json:"identity"`
	Properties json.RawMessage    `json:"properties"`
}

// properties are those a client can write.
type properties struct {
	ProvisioningState string          `json:"provisioningState,omitempty"`
	SKU               string          `json:"storagesku,omitempty"`
	Encryption        *wireEncryption `json:"encryption,omitempty"`
	accessProperties
}

// cmk returns the customer-managed key asked for; an empty one is none.
func (p properties) cmk() *cmk {
	if p.Encryption == nil || p.Encryption.CMK == nil || *p.Encryption.CMK == (cmk{}) {
		return nil
	}
	return p.Encryption.CMK
}

func invalidContent(err error) error {
	return &arm.Error{Status: 400, Code: "InvalidRequestContent", Message: fmt.Sprintf("The request content was invalid and could not be deserialized: '%v'.", err)}
}

// readBody reads the body; properties are merged into those of base (RFC 7396), which
// for a PUT are empty.
func readBody(r *arm.Request, base properties) (serverBody, properties, error) {
	var b serverBody
	if err := r.Decode(&b); err != nil {
		return b, base, err
	}
	if b.Properties == nil || bytes.Equal(b.Properties, []byte("null")) {
		return b, base, nil
	}
	var object map[string]json.RawMessage
	if err := arm.DecodeObject(b.Properties, &object); err != nil {
		return b, base, invalidContent(fmt.Errorf("properties: %w", err))
	}
	merged, err := arm.MergePatch(base, b.Properties)
	if err != nil {
		return b, base, invalidContent(fmt.Errorf("properties: %w", err))
	}
	if s := merged.ProvisioningState; s != "" && s != succeeded {
		return b, base, &arm.Error{Status: 400, Code: "ReadOnlyProperty", Target: "properties.provisioningState", Message: "The property provisioningState is read-only."}
	}
	return b, merged, nil
}

// change is a write of a server that was read and not yet checked.
type change struct {
	caller  arm.Caller
	version string // the api-version: what it does not know stays as it is
	id      arm.ResourceID
	isPut   bool
	before  *tracked.Row[server] // nil when it is created
	next    server
	wanted  wanted
	touches bool // identity or encryption are part of the request: the rules of CMK apply
}

// serverName. Source: the rule that Azure's Terraform provider checks.
var serverName = regexp.MustCompile(`^[-0-9a-zA-Z]{1,50}$`)

func (p *Provider) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.row(ctx, r.ID)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	c := change{caller: r.Caller, version: r.APIVersion, id: r.ID, isPut: true, touches: true}
	if err == nil {
		c.before = &row
	}
	if err := r.Precondition(row.Value.ETag); err != nil {
		return nil, err
	}
	if c, err = c.readPut(r); err != nil {
		return nil, err
	}
	return p.apply(ctx, c)
}

// readPut completes c with the body of a PUT.
func (c change) readPut(r *arm.Request) (change, error) {
	b, props, err := readBody(r, properties{})
	if err != nil {
		return c, err
	}
	current := ""
	if c.before != nil {
		c.next, current = c.before.Value, c.before.Value.Location
	} else {
		if !serverName.MatchString(r.ID.Name()) {
			return c, &arm.Error{Status: 400, Code: "InvalidResourceName", Message: fmt.Sprintf(
				"The Fluid Relay server's name '%s' is not allowed: it has 1 to 50 letters, digits and hyphens.", r.ID.Name())}
		}
		c.next = newServer(r.ID)
	}
	location := ""
	if b.Location != nil {
		location = *b.Location
	}
	if c.next.Location, err = tracked.Location(location, current, r.ID); err != nil {
		return c, err
	}
	c.next.Tags = nil
	if b.Tags != nil {
		c.next.Tags = *b.Tags
	}
	if c.next.SKU = props.SKU; props.SKU == "" {
		c.next.SKU = "standard"
	}
	c.next.Encryption = props.cmk()
	if c.version == previewVersion {
		if c.next.access, err = props.read(); err != nil {
			return c, err
		}
	}
	if bytes.Equal(b.Identity, []byte("null")) {
		b.Identity = nil
	}
	c.wanted, err = mergeIdentity(identity{}, b.Identity)
	return c, err
}

func newServer(id arm.ResourceID) server {
	s := server{
		ID: id.String(), Name: id.Name(), TenantID: uuid.NewString(),
		Keys: tenantKeys{Key1: newTenantKey(), Key2: newTenantKey()},
	}
	s.Resource = envelope.ResourceID(uuid.New()) // 122 random bits: never met twice
	return s
}

func (p *Provider) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	defer p.locks.Lock(r.ID.Key())()
	row, err := p.row(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if err := r.Precondition(row.Value.ETag); err != nil {
		return nil, err
	}
	c := change{caller: r.Caller, version: r.APIVersion, id: r.ID, before: &row}
	if c, err = c.readPatch(r); err != nil {
		return nil, err
	}
	return p.apply(ctx, c)
}

// readPatch completes c with the body of a PATCH, merged into what is stored.
func (c change) readPatch(r *arm.Request) (change, error) {
	stored := c.before.Value
	c.next = stored
	base := properties{SKU: stored.SKU, accessProperties: stored.properties()}
	if stored.Encryption != nil {
		key := *stored.Encryption
		base.Encryption = &wireEncryption{CMK: &key}
	}
	b, props, err := readBody(r, base)
	if err != nil {
		return c, err
	}
	if b.Location != nil && arm.ShortLocation(*b.Location) != stored.Location {
		return c, &arm.Error{Status: 400, Code: "InvalidResourceLocation", Target: "location", Message: fmt.Sprintf(
			"The resource '%s' is in location '%s', which cannot be changed.", stored.Name, stored.Location)}
	}
	if props.SKU != stored.SKU {
		return c, &arm.Error{Status: 400, Code: "PropertyChangeNotAllowed", Target: "properties.storagesku", Message: "The property storagesku cannot be changed by an update."}
	}
	if b.Tags != nil {
		c.next.Tags = *b.Tags
	}
	c.next.Encryption = props.cmk()
	if c.version == previewVersion {
		if c.next.access, err = props.read(); err != nil {
			return c, err
		}
	}
	c.touches = b.Identity != nil || touchesEncryption(b.Properties)
	c.wanted, err = mergeIdentity(stored.Identity, b.Identity)
	return c, err
}

// touchesEncryption says whether properties name encryption at all. An update that
// does not, such as one of tags, goes through even while the key is unusable.
func touchesEncryption(raw json.RawMessage) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return false
	}
	_, named := members["encryption"]
	return named
}

// apply checks the merged result in full, stores it, and answers with it.
func (p *Provider) apply(ctx context.Context, c change) (*arm.Response, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.beginsToFollow() {
		p.following.Lock() // so that two at once do not both find the last place free
		defer p.following.Unlock()
	}
	c.next.Identity = c.wanted.identity
	var current server
	if c.before != nil {
		current = c.before.Value
	}
	// Before anything is said of an identity, or done as it: may the caller assign it?
	if err := p.checkAssignable(ctx, c, current.Identity, c.next.Identity); err != nil {
		return nil, err
	}
	var key custody.Settings
	if c.next.Encryption != nil && c.touches {
		var err error
		if key, err = p.checkEncryption(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := p.assignSystem(ctx, current, c.next); err != nil {
		return nil, err
	}
	return p.store(ctx, c, key)
}

// checkEncryption checks the rules of CMK that need no key store, and returns what the
// others are checked with when the key is used.
func (p *Provider) checkEncryption(ctx context.Context, c change) (custody.Settings, error) {
	found := &problems{}
	e, err := p.examine(ctx, c, found)
	if err != nil || found.err() == nil {
		return e.settings, err
	}
	if e.usable {
		// Nothing will be stored; what is wrong with the key belongs in the same answer.
		if err := found.use(p.c.Custody.Check(ctx, e.settings)); err != nil {
			return e.settings, err
		}
	}
	return e.settings, found.err()
}

// check has the rules that concern neither key nor identity alone.
func (c *change) check() error {
	if err := tracked.CheckTags(c.next.Tags); err != nil {
		return err
	}
	if c.next.SKU != "standard" && c.next.SKU != "basic" {
		return &arm.Error{Status: 400, Code: "InvalidStorageSku", Target: "properties.storagesku", Message: fmt.Sprintf("The storagesku '%.64s' is neither standard nor basic.", c.next.SKU)}
	}
	if c.before != nil {
		if err := checkSwitch(c.before.Value.Encryption, c.next.Encryption); err != nil {
			return err
		}
	}
	if c.next.Encryption == nil && strings.HasSuffix(c.wanted.declared, "UserAssigned") && len(c.wanted.User) == 0 {
		return &arm.Error{Status: 400, Code: codeNoIdentity, Target: "identity.userAssignedIdentities", Message: fmt.Sprintf("The identity type '%s' needs at least one identity in userAssignedIdentities.", c.wanted.declared)}
	}
	return nil
}

// store writes the server, in one write with the wrap record of its root key.
func (p *Provider) store(ctx context.Context, c change, key custody.Settings) (*arm.Response, error) {
	changed := c.before == nil || !reflect.DeepEqual(c.before.Value.settings, c.next.settings)
	var writes []store.RowWrite
	if changed {
		c.next.ETag = arm.NewETag()
		c.next.SystemData = c.next.SystemData.Stamp(c.caller)
		var err error
		if writes, err = p.writes(c); err != nil {
			return nil, err
		}
	}
	err := p.write(ctx, c, key, writes)
	p.Forget(c.next.TenantID)
	found := &problems{}
	if err := found.use(err); err != nil {
		return nil, tracked.Conflict(c.id, err)
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	// Also when nothing changed: whoever got no answer the first time asks again.
	if c.next.closed() != "" {
		p.c.Relay.CutOff(c.next.TenantID)
	}
	if c.before != nil && c.before.Value.Identity.System && !c.next.Identity.System {
		if err := p.c.Principals.DeleteManagedIdentity(ctx, c.next.ID); err != nil {
			return nil, err
		}
	}
	return p.show(ctx, c.next, c.version)
}

// write uses the key store where it must: to create, and when the rules of CMK apply.
func (p *Provider) write(ctx context.Context, c change, key custody.Settings, writes []store.RowWrite) error {
	switch {
	case c.before == nil:
		return p.c.Custody.Create(ctx, c.next.Resource, key, writes...)
	case c.next.Encryption != nil && c.touches:
		return p.c.Custody.Update(ctx, c.next.Resource, key, writes...)
	case len(writes) == 0:
		return nil
	}
	return p.c.Store.WriteRows(ctx, writes)
}

func (p *Provider) writes(c change) ([]store.RowWrite, error) {
	subscription := strings.ToLower(c.id.Subscription)
	expect := store.Absent
	if c.before != nil {
		expect = store.AtRevision(c.before.Revision)
	}
	write, err := p.servers.Put(subscription, c.id.Key(), c.next, expect)
	if err != nil || c.before != nil {
		return []store.RowWrite{write}, err
	}
	index, err := p.tenants.Put("", c.next.TenantID, tenantRow{Subscription: subscription, Key: c.id.Key()}, store.Absent)
	return []store.RowWrite{write, index}, err
}

func (p *Provider) show(ctx context.Context, s server, version string) (*arm.Response, error) {
	ids, err := p.describeIdentity(ctx, s)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: p.wire(s, ids, version), ETag: s.ETag}, nil
}
