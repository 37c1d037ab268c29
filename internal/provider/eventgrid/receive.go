package eventgrid

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
)

// maxReceivedBytes is what Event Grid sends at once, at most.
const maxReceivedBytes = 1 << 20

// Received is an event as a webhook gets it, of either schema, with what the events of key
// vaults have in their data.
type Received struct {
	Kind string // its type
	ID   string // of the key version, or the vault's URI
}

// received is an event in either of the schemas.
type received struct {
	EventType string `json:"eventType"` // Event Grid's own schema
	Type      string `json:"type"`      // CloudEvents 1.0
	Data      struct {
		ID             string `json:"Id"`
		ValidationCode string `json:"validationCode"`
	} `json:"data"`
}

// Receive serves a webhook, the other end of what this package sends: it answers the
// handshakes of both schemas, and gives take the events. Who may send is the caller's
// affair.
func Receive(w http.ResponseWriter, r *http.Request, take func(Received)) {
	switch r.Method {
	case http.MethodOptions: // CloudEvents: "HTTP 1.1 Web Hooks for Event Delivery", 4
		origin := r.Header.Get(headerOrigin)
		if origin == "" {
			http.Error(w, headerOrigin+" is missing", http.StatusBadRequest)
			return
		}
		w.Header().Set(headerAllowed, origin)
		w.Header().Set("WebHook-Allowed-Rate", "*")
		w.Header().Set("Allow", "OPTIONS, POST")
		return
	case http.MethodPost:
	default:
		w.Header().Set("Allow", "OPTIONS, POST")
		http.Error(w, "only OPTIONS and POST", http.StatusMethodNotAllowed)
		return
	}
	events, err := readEvents(http.MaxBytesReader(w, r.Body, maxReceivedBytes), r.Header.Get("Content-Type"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	isHandshake := func(e received) bool { return e.EventType == validationType }
	if at := slices.IndexFunc(events, isHandshake); at >= 0 { // Event Grid's own handshake; it comes alone
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(validationAnswer{events[at].Data.ValidationCode})
		return
	}
	for _, e := range events {
		kind := e.EventType
		if kind == "" {
			kind = e.Type
		}
		take(Received{kind, e.Data.ID})
	}
}

// readEvents reads an array of events, or a single one.
func readEvents(body io.Reader, contentType string) ([]received, error) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "application/json" && kind != mediaCloudEvent && kind != "application/cloudevents-batch+json" {
		return nil, errors.New("the content type is none of application/json, application/cloudevents+json and application/cloudevents-batch+json")
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, errors.New("the body cannot be read, or is longer than 1 MiB")
	}
	if kind == mediaCloudEvent {
		var one received
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, errors.New("the body is no event")
		}
		return []received{one}, nil
	}
	var all []received
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, errors.New("the body is no array of events")
	}
	return all, nil
}
