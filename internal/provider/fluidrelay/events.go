package fluidrelay

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/provider/eventgrid"
	"github.com/tidelock/tidelock/internal/vault"
)

// EventsPath is where a key vault's events come in, followed by the installation's secret.
const EventsPath = "/keyVaultEvents/"

// Events is the webhook for the events of key vaults, which make a key be looked at. They
// say that something may be new; what it is the key store says itself, so that whoever
// sends false ones gains nothing but that it is asked. Its URL ends in the secret, which
// is all that lets anybody in: Event Grid asks for nothing more.
func (p *Provider) Events() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, _ := strings.CutPrefix(r.URL.Path, EventsPath)
		a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(p.c.EventSecret))
		if p.c.EventSecret == "" || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
			http.NotFound(w, r)
			return
		}
		eventgrid.Receive(w, r, func(e eventgrid.Received) {
			if slices.Contains(vault.EventTypes, e.Kind) {
				p.lookSooner(r.Context(), e)
			}
		})
	})
}

// lookSooner has the key of an event looked at, or all keys of a vault.
func (p *Provider) lookSooner(ctx context.Context, e eventgrid.Received) {
	id := strings.TrimSuffix(e.ID, "/")
	isVault := !strings.Contains(strings.TrimPrefix(id, "https://"), "/")
	if isVault {
		id += "/keys/any"
	}
	key, err := keystore.ParseURL(id, p.c.Hosts)
	if err != nil {
		p.c.Log.InfoContext(ctx, "an event is about no key that is known here", "type", e.Kind, "err", err)
		return
	}
	if isVault {
		p.c.Custody.LookSooner(key.Host(), "")
		return
	}
	p.c.Custody.LookSooner(key.Host(), key.Name())
}

// wireWebhook is where Event Grid is to send the events of key vaults.
type wireWebhook struct {
	URL    string   `json:"endpointUrl"`
	Events []string `json:"includedEventTypes"`
}

// listKeyEventWebhook tells the webhook's URL, which is a secret: hence a POST.
func (p *Provider) listKeyEventWebhook(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return &arm.Response{Body: wireWebhook{URL: "https://" + r.HTTP.Host + EventsPath + p.c.EventSecret, Events: vault.EventTypes}}, nil
}
