package fluidrelay

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/provider/eventgrid"
	"github.com/tidelock/tidelock/internal/store"
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
		if len(given) != webhookSecretLetters { // before the store is asked
			http.NotFound(w, r)
			return
		}
		secrets, _, err := p.webhookSecrets(r.Context())
		if err != nil {
			p.c.Log.ErrorContext(r.Context(), "the secret of the webhook for key events cannot be read", "err", err)
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		if !secrets.admit(given) {
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

const (
	webhookSecretLetters = 64             // hexadecimal
	webhookOverlap       = 24 * time.Hour // for which the secret before lets in: as long as Event Grid tries again
)

// webhookSecrets end the webhook's URL. Their JSON is on disk.
type webhookSecrets struct {
	Current string    `json:"current"`
	Before  string    `json:"before"`
	Until   time.Time `json:"until"` // Before lets in
}

func (s webhookSecrets) admit(given string) bool {
	same := func(secret string) bool {
		a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(secret))
		return secret != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
	}
	return same(s.Current) || same(s.Before) && time.Now().Before(s.Until)
}

// webhookSecrets reads them. There is no row before the first is replaced.
func (p *Provider) webhookSecrets(ctx context.Context) (webhookSecrets, store.Expect, error) {
	s, revision, err := p.webhook.Get(ctx, p.webhook.Key(""))
	if errors.Is(err, store.ErrNotFound) {
		return webhookSecrets{Current: p.c.EventSecret}, store.Absent, nil
	}
	return s, store.AtRevision(revision), err
}

// wireWebhook is where Event Grid is to send the events of key vaults.
type wireWebhook struct {
	URL    string     `json:"endpointUrl"`
	Events []string   `json:"includedEventTypes"`
	Until  *time.Time `json:"formerEndpointUrlUsableUntil,omitempty"`
}

func (s webhookSecrets) wire(r *arm.Request) *arm.Response {
	w := wireWebhook{URL: "https://" + r.HTTP.Host + EventsPath + s.Current, Events: vault.EventTypes}
	if time.Now().Before(s.Until) {
		w.Until = when(s.Until)
	}
	return &arm.Response{Body: w}
}

// listKeyEventWebhook tells the webhook's URL, which is a secret: hence a POST.
func (p *Provider) listKeyEventWebhook(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, _, err := p.webhookSecrets(ctx)
	if err != nil {
		return nil, err
	}
	return s.wire(r), nil
}

// regenerateKeyEventWebhook replaces the secret. The one before lets in for a while, so that
// the subscription can be changed; the one before that does not any more.
func (p *Provider) regenerateKeyEventWebhook(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, as, err := p.webhookSecrets(ctx)
	if err != nil {
		return nil, err
	}
	fresh := make([]byte, webhookSecretLetters/2)
	rand.Read(fresh) // never fails, see crypto/rand
	s = webhookSecrets{Current: hex.EncodeToString(fresh), Before: s.Current, Until: time.Now().UTC().Add(webhookOverlap)}
	write, err := p.webhook.Put(p.webhook.Key(""), s, as)
	if err != nil {
		return nil, err
	}
	err = p.c.Store.WriteRows(ctx, []store.RowWrite{write})
	if errors.Is(err, store.ErrConflict) {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "Conflict", Message: "The secret was replaced by another request at the same time, and not by this one. Read the URL again.", Cause: err}
	}
	if err != nil {
		return nil, fmt.Errorf("store the secret of the webhook for key events: %w", err)
	}
	return s.wire(r), nil
}
