package vault

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// rotation is a key's rotation policy. Durations stay as they were written.
type rotation struct {
	RotateAfter  string `json:"rotateAfter,omitempty"`  // after a version's creation
	RotateBefore string `json:"rotateBefore,omitempty"` // before its expiry
	NotifyAfter  string `json:"notifyAfter,omitempty"`
	NotifyBefore string `json:"notifyBefore,omitempty"`
	Expiry       string `json:"expiry,omitempty"` // of each new version, from its creation
	Created      int64  `json:"created"`
	Updated      int64  `json:"updated"`
}

// defaultNotice is when a key of any policy is near its expiry, unless the policy says otherwise.
const defaultNotice = "P30D"

// period is an ISO 8601 duration of years, months and days.
type period struct{ years, months, days int }

var iso8601 = regexp.MustCompile(`^P(?:([0-9]{1,4})Y)?(?:([0-9]{1,4})M)?(?:([0-9]{1,5})D)?$`)

// parsePeriod reads P1Y2M3D; no period is empty or zero.
func parsePeriod(s string) (p period, ok bool) {
	m := iso8601.FindStringSubmatch(strings.ToUpper(s))
	if m == nil {
		return p, false
	}
	for n, into := range []*int{&p.years, &p.months, &p.days} {
		if m[n+1] != "" {
			*into, _ = strconv.Atoi(m[n+1]) // the pattern lets digits only
		}
	}
	return p, p != period{}
}

func mustPeriod(s string) period {
	p, ok := parsePeriod(s)
	if !ok {
		panic("internal error: a stored period does not parse: " + s)
	}
	return p
}

func (p period) after(t time.Time) time.Time  { return t.AddDate(p.years, p.months, p.days) }
func (p period) before(t time.Time) time.Time { return t.AddDate(-p.years, -p.months, -p.days) }

// expiry is when a version that is made now expires; nil for never.
func (r *rotation) expiry(now int64) *int64 {
	if r == nil || r.Expiry == "" {
		return nil
	}
	at := mustPeriod(r.Expiry).after(time.Unix(now, 0).UTC()).Unix()
	return &at
}

// rotateAt is when a version is to be followed by a new one; ok is false for never.
func (r *rotation) rotateAt(v versionRow) (at time.Time, ok bool) {
	if r == nil {
		return at, false
	}
	return due(r.RotateAfter, r.RotateBefore, v)
}

// noticeAt is when a version is near its expiry.
func (r *rotation) noticeAt(v versionRow) (at time.Time, ok bool) {
	if r == nil || r.NotifyAfter == "" && r.NotifyBefore == "" {
		return due("", defaultNotice, v)
	}
	return due(r.NotifyAfter, r.NotifyBefore, v)
}

func due(after, before string, v versionRow) (time.Time, bool) {
	switch {
	case after != "":
		return mustPeriod(after).after(time.Unix(v.Created, 0).UTC()), true
	case before != "" && v.Expires != nil:
		return mustPeriod(before).before(time.Unix(*v.Expires, 0).UTC()), true
	}
	return time.Time{}, false
}

// rotationBody is the policy on the wire, asked and answered.
type rotationBody struct {
	ID         string              `json:"id,omitempty"`
	Actions    []lifetimeAction    `json:"lifetimeActions"`
	Attributes *rotationAttributes `json:"attributes"`
}

type rotationAttributes struct {
	Expiry  *string `json:"expiryTime,omitempty"`
	Created *int64  `json:"created,omitempty"`
	Updated *int64  `json:"updated,omitempty"`
}

type lifetimeAction struct {
	Trigger lifetimeTrigger `json:"trigger"`
	Action  struct {
		Type string `json:"type"`
	} `json:"action"`
}

type lifetimeTrigger struct {
	After  *string `json:"timeAfterCreate,omitempty"`
	Before *string `json:"timeBeforeExpiry,omitempty"`
}

// The bounds of a policy. Source: Azure Key Vault, "Configure cryptographic key auto-rotation".
const (
	minExpiryDays = 28
	minRotateDays = 7
)

// parse checks a policy in full.
func (b rotationBody) parse() (rotation, error) {
	var r rotation
	if b.Attributes != nil && b.Attributes.Expiry != nil {
		r.Expiry = *b.Attributes.Expiry
		p, ok := parsePeriod(r.Expiry)
		if !ok {
			return r, badPeriod("expiryTime", r.Expiry)
		}
		if days(p) < minExpiryDays {
			return r, badParameter("Property 'expiryTime' has an invalid value: a key's life is at least %d days.", minExpiryDays)
		}
	}
	seen := map[string]bool{}
	for _, a := range b.Actions {
		kind := strings.ToLower(a.Action.Type)
		if kind != "rotate" && kind != "notify" {
			return r, badParameter("Property 'action.type' has an invalid value: '%s' is neither Rotate nor Notify.", printable(a.Action.Type))
		}
		if seen[kind] {
			return r, badParameter("Property 'lifetimeActions' has an invalid value: there is more than one action of type '%s'.", printable(a.Action.Type))
		}
		seen[kind] = true
		if err := a.parse(kind, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

func badPeriod(name, value string) error {
	return badParameter("Property '%s' has an invalid value: '%s' is not an ISO 8601 duration of years, months and days such as P18M.", name, printable(value))
}

// days is the least that a period can be.
func days(p period) int { return p.years*365 + p.months*28 + p.days }

func (a lifetimeAction) parse(kind string, r *rotation) error {
	after, before := a.Trigger.After, a.Trigger.Before
	if (after == nil) == (before == nil) {
		return badParameter("Property 'trigger' has an invalid value: it has either timeAfterCreate or timeBeforeExpiry.")
	}
	name, value := "timeAfterCreate", after
	if before != nil {
		name, value = "timeBeforeExpiry", before
	}
	p, ok := parsePeriod(*value)
	if !ok {
		return badPeriod(name, *value)
	}
	if days(p) < minRotateDays {
		return badParameter("Property '%s' has an invalid value: it is at least %d days.", name, minRotateDays)
	}
	if before != nil && r.Expiry == "" {
		return badParameter("Property 'timeBeforeExpiry' needs 'attributes.expiryTime'.")
	}
	if r.Expiry != "" {
		now := time.Now().UTC()
		end := mustPeriod(r.Expiry).after(now)
		at := p.after(now)
		if before != nil {
			at = p.before(end)
		}
		if at.Before(now.AddDate(0, 0, minRotateDays)) || at.After(end.AddDate(0, 0, -minRotateDays)) {
			return badParameter("Property '%s' has an invalid value: the action is at least %d days after creation and before expiry.", name, minRotateDays)
		}
	}
	switch {
	case kind == "rotate" && after != nil:
		r.RotateAfter = *after
	case kind == "rotate":
		r.RotateBefore = *before
	case after != nil:
		return badParameter("Property 'timeAfterCreate' is for Rotate; Notify has timeBeforeExpiry.")
	default:
		r.NotifyBefore = *before
	}
	return nil
}

// wire is the policy as answered.
func (r *rotation) wire(id string) rotationBody {
	b := rotationBody{ID: id, Actions: []lifetimeAction{}, Attributes: &rotationAttributes{}}
	add := func(kind, after, before string) {
		var a lifetimeAction
		a.Action.Type = kind
		switch {
		case after != "":
			a.Trigger.After = &after
		case before != "":
			a.Trigger.Before = &before
		default:
			return
		}
		b.Actions = append(b.Actions, a)
	}
	if r == nil {
		add("Notify", "", defaultNotice)
		return b
	}
	add("Rotate", r.RotateAfter, r.RotateBefore)
	add("Notify", r.NotifyAfter, r.NotifyBefore)
	if r.Expiry != "" {
		b.Attributes.Expiry = &r.Expiry
	}
	b.Attributes.Created, b.Attributes.Updated = &r.Created, &r.Updated
	return b
}

func getRotation(ctx context.Context, s *Service, c *call) (any, error) {
	k, _, err := s.key(ctx, c.vault, c.target.key)
	if err != nil {
		return nil, err
	}
	return k.Rotation.wire(s.keyID(c.vault, k.Name, "") + "/rotationpolicy"), nil
}

func putRotation(ctx context.Context, s *Service, c *call) (any, error) {
	var body rotationBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	policy, err := body.parse()
	if err != nil {
		return nil, err
	}
	k, _, err := s.changeKey(ctx, c.vault, c.target.key, s.key, func(k *keyRow) {
		policy.Updated = time.Now().Unix()
		policy.Created = policy.Updated
		if k.Rotation != nil {
			policy.Created = k.Rotation.Created
		}
		k.Rotation = &policy
	})
	if err != nil {
		return nil, err
	}
	return k.Rotation.wire(s.keyID(c.vault, k.Name, "") + "/rotationpolicy"), nil
}

// rotateKey makes a new version like the newest one.
func rotateKey(ctx context.Context, s *Service, c *call) (any, error) {
	_, last, _, err := s.version(ctx, c.vault, c.target.key, "")
	if err != nil {
		return nil, err
	}
	if err := s.spend(c.vault, true, last.spec().units()); err != nil {
		return nil, err
	}
	spec, err := last.likeSpec()
	if err != nil {
		return nil, err
	}
	k, row, err := s.create(ctx, c.vault, c.target.key, spec, last.successor())
	return s.answer(c, k, row, err)
}

// successor has what a rotation takes over from the version before it.
func (v versionRow) successor() versionRow {
	return versionRow{Enabled: true, Operations: v.Operations, Tags: v.Tags}
}
