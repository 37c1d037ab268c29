package eventgrid

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/vault"
)

// subscription is as it is stored. Its JSON is on disk.
type subscription struct {
	ID            string   `json:"id"` // with the letters of its creation
	Name          string   `json:"name"`
	Topic         string   `json:"topic"` // the vault's ARM id
	URL           string   `json:"url"`   // with its query, which may hold a secret
	CloudEvents   bool     `json:"cloudEvents"`
	Types         []string `json:"types,omitempty"` // nil: all
	BeginsWith    string   `json:"beginsWith,omitempty"`
	EndsWith      string   `json:"endsWith,omitempty"`
	CaseSensitive bool     `json:"caseSensitive,omitempty"`
	Labels        []string `json:"labels,omitempty"`
	MaxAttempts   int      `json:"maxAttempts"`
	TTLMinutes    int      `json:"ttlMinutes"`
}

const (
	schemaEventGrid   = "EventGridSchema"
	schemaCloudEvents = "CloudEventSchemaV1_0"

	defaultAttempts   = 30
	defaultTTLMinutes = 1440
)

// body is that of a PUT.
type body struct {
	Properties struct {
		Destination struct {
			Type       string `json:"endpointType"`
			Properties struct {
				URL      string          `json:"endpointUrl"`
				AADAppID json.RawMessage `json:"azureActiveDirectoryApplicationIdOrUri"`
			} `json:"properties"`
		} `json:"destination"`
		Filter struct {
			BeginsWith    string            `json:"subjectBeginsWith"`
			EndsWith      string            `json:"subjectEndsWith"`
			CaseSensitive bool              `json:"isSubjectCaseSensitive"`
			Types         []string          `json:"includedEventTypes"`
			Advanced      []json.RawMessage `json:"advancedFilters"`
		} `json:"filter"`
		Schema string   `json:"eventDeliverySchema"`
		Labels []string `json:"labels"`
		Retry  *struct {
			Attempts int `json:"maxDeliveryAttempts"`
			TTL      int `json:"eventTimeToLiveInMinutes"`
		} `json:"retryPolicy"`
		DeadLetter       json.RawMessage `json:"deadLetterDestination"`
		ResourceIdentity json.RawMessage `json:"deliveryWithResourceIdentity"`
	} `json:"properties"`
}

// wire is a subscription as answered; the URL without its query.
type wire struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties wireProperties `json:"properties"`
}

type wireProperties struct {
	Topic       string          `json:"topic"`
	State       string          `json:"provisioningState"`
	Destination wireDestination `json:"destination"`
	Filter      wireFilter      `json:"filter"`
	Labels      []string        `json:"labels"`
	Schema      string          `json:"eventDeliverySchema"`
	Retry       wireRetry       `json:"retryPolicy"`
}

type wireDestination struct {
	Type       string `json:"endpointType"`
	Properties struct {
		BaseURL   string `json:"endpointBaseUrl"`
		MaxEvents int    `json:"maxEventsPerBatch"`
	} `json:"properties"`
}

type wireFilter struct {
	BeginsWith    string   `json:"subjectBeginsWith"`
	EndsWith      string   `json:"subjectEndsWith"`
	CaseSensitive bool     `json:"isSubjectCaseSensitive"`
	Types         []string `json:"includedEventTypes"`
}

type wireRetry struct {
	Attempts int `json:"maxDeliveryAttempts"`
	TTL      int `json:"eventTimeToLiveInMinutes"`
}

func (s subscription) baseURL() string {
	base, _, _ := strings.Cut(s.URL, "?")
	return base
}

func (s subscription) wire() wire {
	w := wire{ID: s.ID, Name: s.Name, Type: Type, Properties: wireProperties{
		Topic: s.Topic, State: "Succeeded", Labels: s.Labels, Schema: schemaEventGrid, Retry: wireRetry{s.MaxAttempts, s.TTLMinutes},
		Filter: wireFilter{s.BeginsWith, s.EndsWith, s.CaseSensitive, s.Types},
	}}
	w.Properties.Destination.Type = "WebHook"
	w.Properties.Destination.Properties.BaseURL, w.Properties.Destination.Properties.MaxEvents = s.baseURL(), 1
	if s.CloudEvents {
		w.Properties.Schema = schemaCloudEvents
	}
	if w.Properties.Filter.Types == nil {
		w.Properties.Filter.Types = vault.EventTypes
	}
	if w.Properties.Labels == nil {
		w.Properties.Labels = []string{}
	}
	return w
}

// subscriptionName: 3 to 64 letters, digits and hyphens. Source: Azure naming rules.
var subscriptionName = regexp.MustCompile(`^[a-zA-Z0-9-]{3,64}$`)

func bad(target, format string, args ...any) error {
	return &arm.Error{Status: http.StatusBadRequest, Code: "InvalidRequest", Target: target, Message: fmt.Sprintf(format, args...)}
}

func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// subscription checks a body in full; what cannot be honoured is refused, not ignored.
func (b body) subscription(id arm.ResourceID, v vault.Vault) (subscription, error) {
	q := b.Properties
	s := subscription{
		ID: id.String(), Name: id.Name(), Topic: v.ResourceID, URL: q.Destination.Properties.URL, Types: q.Filter.Types,
		BeginsWith: q.Filter.BeginsWith, EndsWith: q.Filter.EndsWith, CaseSensitive: q.Filter.CaseSensitive, Labels: q.Labels,
		MaxAttempts: defaultAttempts, TTLMinutes: defaultTTLMinutes,
	}
	switch {
	case !subscriptionName.MatchString(s.Name):
		return s, bad("name", "The name '%.64s' of an event subscription must have 3 to 64 letters, digits and hyphens.", s.Name)
	case !strings.EqualFold(q.Destination.Type, "WebHook"):
		return s, bad("properties.destination.endpointType", "The endpointType '%.64s' is not supported here: use WebHook.", q.Destination.Type)
	case given(q.Destination.Properties.AADAppID) || given(q.ResourceIdentity):
		return s, bad("properties", "Delivery with an identity's token is not supported here.")
	case given(q.DeadLetter):
		return s, bad("properties.deadLetterDestination", "Dead-letter destinations are not supported here: dropped events are counted and logged.")
	case len(q.Filter.Advanced) > 0:
		return s, bad("properties.filter.advancedFilters", "Advanced filters are not supported here: filter by event type and subject.")
	case len(s.Labels) > 64 || len(s.BeginsWith) > 256 || len(s.EndsWith) > 256 || len(s.URL) > 2048:
		return s, bad("properties", "A filter has at most 256 characters, a URL 2048, and there are at most 64 labels.")
	}
	switch {
	case q.Schema == "" || strings.EqualFold(q.Schema, schemaEventGrid):
	case strings.EqualFold(q.Schema, schemaCloudEvents):
		s.CloudEvents = true
	default:
		return s, bad("properties.eventDeliverySchema", "The eventDeliverySchema '%.64s' is neither EventGridSchema nor CloudEventSchemaV1_0.", q.Schema)
	}
	for _, kind := range s.Types {
		if !slices.Contains(vault.EventTypes, kind) {
			return s, bad("properties.filter.includedEventTypes", "The event type '%.80s' is none of a vault here; those are %s.", kind, strings.Join(vault.EventTypes, ", "))
		}
	}
	if r := q.Retry; r != nil {
		if r.Attempts < 1 || r.Attempts > defaultAttempts || r.TTL < 1 || r.TTL > defaultTTLMinutes {
			return s, bad("properties.retryPolicy", "maxDeliveryAttempts is from 1 to %d and eventTimeToLiveInMinutes from 1 to %d.", defaultAttempts, defaultTTLMinutes)
		}
		s.MaxAttempts, s.TTLMinutes = r.Attempts, r.TTL
	}
	return s, nil
}

// checkURL refuses an endpoint that the operator did not allow, before anything is sent.
func (p *Provider) checkURL(raw string) error {
	const target = "properties.destination.properties.endpointUrl"
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return bad(target, "The endpointUrl must be an https URL without user information and fragment.")
	}
	if !slices.ContainsFunc(p.c.Hosts, func(h string) bool { return withPort(h) == withPort(u.Host) }) {
		return bad(target, "The host '%.256s' of the endpointUrl is not one that this server sends events to: its operator allows hosts with --event-webhook-host.", u.Host)
	}
	return nil
}
