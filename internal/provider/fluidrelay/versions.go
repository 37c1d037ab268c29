package fluidrelay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/store"
)

// settleFor is how long a key version that was moved off stays needed in any case: the
// advice for Azure Storage, and the longest that a node may take to notice.
const settleFor = 24 * time.Hour

// wirePrevious is a key version that wrapped the root key before.
type wirePrevious struct {
	KeyID         string     `json:"keyIdentifier"`
	ReplacedAt    *time.Time `json:"replacedAt"`
	SafeToDisable bool       `json:"safeToDisable"` // no relay here needs it; backups from before it was replaced do
	Why           string     `json:"why,omitempty"` // it is not
}

// previousVersions lists the versions that the server moved off, and whether anything
// here still needs them.
func (p *Provider) previousVersions(ctx context.Context, s server) ([]wirePrevious, error) {
	wraps, err := p.c.Custody.History(ctx, s.Resource)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // it is being deleted
	}
	if err != nil {
		return nil, err
	}
	var all []wirePrevious
	seen := map[string]bool{wraps[0].KeyID: true}
	for n, w := range wraps[1:] {
		if seen[w.KeyID] {
			continue
		}
		seen[w.KeyID] = true
		all = append(all, wirePrevious{KeyID: w.KeyID, ReplacedAt: when(wraps[n].CreatedAt)}) // by the one after it
	}
	if len(all) == 0 {
		return nil, nil
	}
	users, err := p.underKeys(ctx)
	if err != nil {
		return nil, err
	}
	for n := range all {
		v := &all[n]
		others := len(users[v.KeyID])
		switch settled := v.ReplacedAt.Add(settleFor); {
		case others > 0:
			v.Why = fmt.Sprintf("Relays whose root key it still wraps: %d.", others)
		case time.Now().Before(settled):
			v.Why = fmt.Sprintf("It was replaced less than a day ago; wait until %s.", settled.UTC().Format(time.RFC3339))
		default:
			v.SafeToDisable = true
		}
	}
	return all, nil
}

// underKeys lists all servers by the key version that their root key is under.
func (p *Provider) underKeys(ctx context.Context) (map[string][]server, error) {
	found := map[string][]server{}
	err := p.each(ctx, func(s server) error {
		if s.Encryption == nil {
			return nil
		}
		kid, err := p.c.Custody.KeyID(ctx, s.Resource)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		found[kid] = append(found[kid], s)
		return err
	})
	return found, err
}

// each visits all servers of all subscriptions. Those deleted meanwhile are left out.
func (p *Provider) each(ctx context.Context, visit func(server) error) error {
	rows, err := p.tenants.List(ctx, "")
	if err != nil {
		return err
	}
	for _, row := range rows {
		s, err := p.servers.Get(ctx, row.Value.Subscription, row.Value.Key)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := visit(s.Value); err != nil {
			return err
		}
	}
	return nil
}

// wireImpact says what disabling one key version would do to one server.
type wireImpact struct {
	ID     string `json:"id"`
	KeyID  string `json:"keyIdentifier"`
	Effect string `json:"effect"` // Stops, Moves
	Why    string `json:"why"`
}

var keyVersionPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

// keyImpact answers what would stop if a key version were disabled. keyVersion is a key
// identifier with version, or the version alone.
func (p *Provider) keyImpact(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	version := strings.TrimSuffix(r.HTTP.URL.Query().Get("keyVersion"), "/")
	last := version[strings.LastIndexByte(version, '/')+1:]
	if !keyVersionPattern.MatchString(last) {
		return nil, &arm.Error{Status: http.StatusBadRequest, Code: "InvalidKeyVersion", Target: "keyVersion",
			Message: "The query parameter keyVersion must be a key version of 32 hexadecimal digits, or a key identifier that ends in one."}
	}
	users, err := p.underKeys(ctx)
	if err != nil {
		return nil, err
	}
	found := []wireImpact{}
	for kid, servers := range users {
		if kid != version && (version != last || !strings.HasSuffix(kid, "/"+last)) {
			continue
		}
		for _, s := range servers {
			id, err := s.armID()
			if err != nil {
				return nil, err
			}
			if !strings.EqualFold(id.Subscription, r.ID.Subscription) {
				continue
			}
			found = append(found, p.impact(s, kid))
		}
	}
	return arm.Page(r, found, func(w wireImpact) string { return strings.ToLower(w.ID) })
}

func (p *Provider) impact(s server, kid string) wireImpact {
	w := wireImpact{ID: s.ID, KeyID: kid, Effect: "Stops"}
	k := p.c.Custody.Status(s.Resource)
	switch {
	case !k.FollowsNewest:
		w.Why = "Its key URL names this version: nothing is served within 60 seconds."
	case k.NewestVersion == "":
		w.Why = "This is the key's newest version, and the key URL names none: nothing is served within 60 seconds."
	case k.State != custody.Healthy && k.State != custody.Warned || warned(k, "NewVersionUnusable"):
		w.Why = "It would have to move to the key's newest version and cannot: nothing is served within 60 seconds."
	default:
		w.Effect, w.Why = "Moves", "It follows the key's newest version, and moves to "+k.NewestVersion+" when this one is refused."
	}
	return w
}

func warned(k custody.Status, code string) bool {
	for _, w := range k.Warnings {
		if w.Code == code {
			return true
		}
	}
	return false
}

// DefaultAutoKeyVersionQuota is how many servers may follow their keys' newest versions.
// Source: the limit of Azure Storage on scopes with automatic key versions.
const DefaultAutoKeyVersionQuota = 10_000

// follows says whether a key's newest version is followed.
func (k *cmk) follows() bool { return k != nil && !namesVersion(k.URL) }

// beginsToFollow says whether the server will follow its key's newest version and did not.
func (c change) beginsToFollow() bool {
	return c.next.Encryption.follows() && (c.before == nil || !c.before.Value.Encryption.follows())
}

// checkQuota refuses one more server that follows its key's newest version than there
// may be.
func (p *Provider) checkQuota(ctx context.Context, c change, found *problems) error {
	if !c.beginsToFollow() {
		return nil
	}
	quota := p.c.AutoKeyVersionQuota
	if quota == 0 {
		quota = DefaultAutoKeyVersionQuota
	}
	n := 0
	err := p.each(ctx, func(s server) error {
		if s.Encryption.follows() {
			n++
		}
		return nil
	})
	if err == nil && n >= quota {
		found.add(codeConfiguration, preciseAutoVersionQuota, targetURL, "%d resources follow their keys' newest versions by themselves, and no more than %d may: name a key version in the key URL, and update it when the key gets a new one.", n, quota)
	}
	return err
}

// namesVersion says whether a key URL ends in a version; what is no key URL is for others
// to refuse.
func namesVersion(keyURL string) bool {
	return keyVersionPattern.MatchString(keyURL[strings.LastIndexByte(keyURL, '/')+1:])
}
