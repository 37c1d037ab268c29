package fluidrelay

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/keystore"
)

// EventsPath is where a key vault's events come in, followed by the installation's secret.
const EventsPath = "/keyVaultEvents/"

// maxEventBytes is what Event Grid sends at once, at most.
const maxEventBytes = 1 << 20

// keyEvents are the events that make a key be looked at. They say that something may be
// new; what it is the key store says itself, so that whoever sends false ones gains
// nothing but that it is asked.
var keyEvents = []string{"Microsoft.KeyVault.KeyNewVersionCreated", "Microsoft.KeyVault.KeyNearExpiry", "Microsoft.KeyVault.KeyExpired", "Microsoft.KeyVault.VaultAccessPolicyChanged"}

const validationEvent = "Microsoft.EventGrid.SubscriptionValidationEvent"

// event is one event, in either of Event Grid's schemas.
type event struct {
	EventType string `json:"eventType"` // Event Grid's own schema
	Type      string `json:"type"`      // CloudEvents 1.0
	Data      struct {
		ID             string `json:"Id"`
		ValidationCode string `json:"validationCode"`
	} `json:"data"`
}

func (e event) kind() string {
	if e.EventType != "" {
		return e.EventType
	}
	return e.Type
}

// Events is the webhook for the events of key vaults: it answers the handshakes of both
// schemas, and has keys looked at that events are about. Its URL ends in the secret,
// which is all that lets anybody in: Event Grid asks for nothing more.
func (p *Provider) Events() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, _ := strings.CutPrefix(r.URL.Path, EventsPath)
		a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(p.c.EventSecret))
		if p.c.EventSecret == "" || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
			http.NotFound(w, r)
			return
		}
		switch r.Method {
		case http.MethodOptions: // CloudEvents: "HTTP 1.1 Web Hooks for Event Delivery", 4
			origin := r.Header.Get("WebHook-Request-Origin")
			if origin == "" {
				http.Error(w, "WebHook-Request-Origin is missing", http.StatusBadRequest)
				return
			}
			w.Header().Set("WebHook-Allowed-Origin", origin)
			w.Header().Set("WebHook-Allowed-Rate", "*")
			w.Header().Set("Allow", "OPTIONS, POST")
		case http.MethodPost:
			p.takeEvents(w, r)
		default:
			w.Header().Set("Allow", "OPTIONS, POST")
			http.Error(w, "only OPTIONS and POST", http.StatusMethodNotAllowed)
		}
	})
}

func (p *Provider) takeEvents(w http.ResponseWriter, r *http.Request) {
	events, err := readEvents(http.MaxBytesReader(w, r.Body, maxEventBytes), r.Header.Get("Content-Type"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, e := range events {
		if e.EventType == validationEvent { // Event Grid's own handshake; it comes alone
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": e.Data.ValidationCode})
			return
		}
	}
	for _, e := range events {
		if slices.Contains(keyEvents, e.kind()) {
			p.lookSooner(r.Context(), e)
		}
	}
}

// lookSooner has the key of an event looked at, or all keys of a vault.
func (p *Provider) lookSooner(ctx context.Context, e event) {
	id := strings.TrimSuffix(e.Data.ID, "/")
	isVault := !strings.Contains(strings.TrimPrefix(id, "https://"), "/")
	if isVault {
		id += "/keys/any"
	}
	key, err := keystore.ParseURL(id, p.c.Hosts)
	if err != nil {
		p.c.Log.InfoContext(ctx, "an event is about no key that is known here", "type", e.kind(), "err", err)
		return
	}
	if isVault {
		p.c.Custody.LookSooner(key.Host(), "")
		return
	}
	p.c.Custody.LookSooner(key.Host(), key.Name())
}

// readEvents reads an array of events, or a single one.
func readEvents(body io.Reader, contentType string) ([]event, error) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "application/json" && kind != "application/cloudevents+json" && kind != "application/cloudevents-batch+json" {
		return nil, errors.New("the content type is none of application/json, application/cloudevents+json and application/cloudevents-batch+json")
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, errors.New("the body cannot be read, or is longer than 1 MiB")
	}
	if kind == "application/cloudevents+json" {
		var one event
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, errors.New("the body is no event")
		}
		return []event{one}, nil
	}
	var all []event
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, errors.New("the body is no array of events")
	}
	return all, nil
}

// wireWebhook is where Event Grid is to send the events of key vaults.
type wireWebhook struct {
	URL    string   `json:"endpointUrl"`
	Events []string `json:"includedEventTypes"`
}

// listKeyEventWebhook tells the webhook's URL, which is a secret: hence a POST.
func (p *Provider) listKeyEventWebhook(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return &arm.Response{Body: wireWebhook{URL: "https://" + r.HTTP.Host + EventsPath + p.c.EventSecret, Events: keyEvents}}, nil
}
