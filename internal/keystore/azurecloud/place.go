package azurecloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/msi/armmsi"
)

// Place is where an identity or a key store is.
type Place struct {
	Region   string // short form
	TenantID string
	// Of an identity.
	ClientID, PrincipalID string
}

var (
	// ErrNotAllowed: the resource manager may not be asked, does not answer, or does not
	// show what is looked for. The place is not known.
	ErrNotAllowed = errors.New("the resource manager of Azure did not say")
	// ErrNoIdentity: the resource manager says that there is no such identity.
	ErrNoIdentity = errors.New("there is no such identity")
)

// Places asks the resource manager where things are, and remembers it for a while. It is
// safe for concurrent use.
type Places struct {
	c          *Config
	credential azcore.TokenCredential // nil: it is not asked
	options    *arm.ClientOptions

	mu    sync.Mutex // guards known
	known map[string]answer
}

type answer struct {
	place Place
	err   error
	until time.Time
}

const (
	rememberFor    = 5 * time.Minute
	rememberFailed = time.Minute
	askFor         = 15 * time.Second
	maxKnown       = 1000
)

// NewPlaces returns a view of the cloud's resource manager.
func NewPlaces(c *Config) (*Places, error) {
	p := &Places{c: c, known: map[string]answer{}, options: &arm.ClientOptions{ClientOptions: c.options()}}
	if c.management == nil {
		return p, nil
	}
	var err error
	if p.credential, err = c.management.credential(c.options()); err != nil {
		return nil, fmt.Errorf("management: %w", err)
	}
	return p, nil
}

// Identity says where a user-assigned identity is; ErrNotAllowed, ErrNoIdentity.
func (p *Places) Identity(ctx context.Context, id string) (Place, error) {
	return p.remembered(ctx, strings.ToLower(id), func(ctx context.Context) (Place, error) {
		parts := strings.Split(id, "/") // "", subscriptions, s, resourceGroups, g, providers, ns, type, name
		if len(parts) != 9 {
			return Place{}, ErrNoIdentity
		}
		client, err := armmsi.NewUserAssignedIdentitiesClient(parts[2], p.credential, p.options)
		if err != nil {
			return Place{}, err
		}
		i, err := client.Get(ctx, parts[4], parts[8], nil)
		var refused *azcore.ResponseError
		if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
			return Place{}, ErrNoIdentity
		}
		if err != nil {
			return Place{}, err
		}
		place := Place{Region: short(i.Location)}
		if i.Properties != nil {
			place.TenantID, place.ClientID, place.PrincipalID = text(i.Properties.TenantID), text(i.Properties.ClientID), text(i.Properties.PrincipalID)
		}
		return place, nil
	})
}

// KeyStore says where the key vault or managed HSM of this host is; ErrNotAllowed. It is
// looked for in the subscriptions of the identities and those that are configured.
func (p *Places) KeyStore(ctx context.Context, host string) (Place, error) {
	return p.remembered(ctx, "https://"+strings.ToLower(host), func(ctx context.Context) (Place, error) {
		list := p.vaults
		if strings.Contains(host, ".managedhsm.") {
			list = p.hsms
		}
		var failed error
		for _, subscription := range p.subscriptions() {
			place, found, err := list(ctx, subscription, host)
			if found {
				return place, nil
			}
			failed = errors.Join(failed, err)
		}
		if failed == nil {
			failed = fmt.Errorf("%s is in none of the subscriptions that are looked through", host)
		}
		return Place{}, failed
	})
}

func (p *Places) subscriptions() []string {
	set := map[string]bool{}
	for id := range p.c.identities {
		set[strings.Split(id, "/")[2]] = true
	}
	for _, s := range p.c.also {
		set[strings.ToLower(s)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func (p *Places) vaults(ctx context.Context, subscription, host string) (Place, bool, error) {
	client, err := armkeyvault.NewVaultsClient(subscription, p.credential, p.options)
	if err != nil {
		return Place{}, false, err
	}
	return find(ctx, host, client.NewListBySubscriptionPager(nil), func(page armkeyvault.VaultsClientListBySubscriptionResponse) (all []listed) {
		for _, v := range page.Value {
			if v.Properties != nil {
				all = append(all, listed{v.Properties.VaultURI, v.Location, v.Properties.TenantID})
			}
		}
		return all
	})
}

func (p *Places) hsms(ctx context.Context, subscription, host string) (Place, bool, error) {
	client, err := armkeyvault.NewManagedHsmsClient(subscription, p.credential, p.options)
	if err != nil {
		return Place{}, false, err
	}
	return find(ctx, host, client.NewListBySubscriptionPager(nil), func(page armkeyvault.ManagedHsmsClientListBySubscriptionResponse) (all []listed) {
		for _, h := range page.Value {
			if h.Properties != nil {
				all = append(all, listed{h.Properties.HsmURI, h.Location, h.Properties.TenantID})
			}
		}
		return all
	})
}

// listed is a key store as a list of either kind shows it.
type listed struct{ uri, location, tenantID *string }

// find goes through the pages of a list until the key store of this host is on one.
func find[P any](ctx context.Context, host string, pager *runtime.Pager[P], on func(P) []listed) (Place, bool, error) {
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return Place{}, false, err
		}
		for _, k := range on(page) {
			if sameHost(k.uri, host) {
				return Place{Region: short(k.location), TenantID: text(k.tenantID)}, true, nil
			}
		}
	}
	return Place{}, false, nil
}

// remembered asks once in a while. Whatever keeps the answer away is ErrNotAllowed.
func (p *Places) remembered(ctx context.Context, key string, ask func(context.Context) (Place, error)) (Place, error) {
	if p.credential == nil {
		return Place{}, fmt.Errorf("%w: %s has no management credential", ErrNotAllowed, p.c.path)
	}
	p.mu.Lock()
	a, ok := p.known[key]
	p.mu.Unlock()
	if ok && time.Now().Before(a.until) {
		return a.place, a.err
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	a = answer{until: time.Now().Add(rememberFor)}
	if a.place, a.err = ask(ctx); a.err != nil {
		a.until = time.Now().Add(rememberFailed)
		if !errors.Is(a.err, ErrNoIdentity) {
			a.err = fmt.Errorf("%w: %w", ErrNotAllowed, a.err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxKnown {
		clear(p.known) // names come from requests: whoever invents many must not fill the memory
	}
	p.known[key] = a
	return a.place, a.err
}

func sameHost(uri *string, host string) bool {
	u, err := url.Parse(text(uri))
	return err == nil && strings.EqualFold(u.Hostname(), host)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func short(location *string) string {
	return strings.ToLower(strings.ReplaceAll(text(location), " ", ""))
}
