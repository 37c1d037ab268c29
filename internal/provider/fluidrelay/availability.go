package fluidrelay

import (
	"context"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
)

// healthVersion is a released version of Microsoft.ResourceHealth, in whose shape the
// health of a server is shown to tools that know no better.
const healthVersion = "2022-10-01"

const healthNamespace = "Microsoft.ResourceHealth"

// wireAvailability is an availability status of Azure Resource Health.
type wireAvailability struct {
	ID         string                 `json:"id"`
	Name       string                 `json:"name"`
	Type       string                 `json:"type"`
	Location   string                 `json:"location"`
	Properties availabilityProperties `json:"properties"`
}

type availabilityProperties struct {
	State       string     `json:"availabilityState"` // Available, Degraded, Unavailable, Unknown
	Title       string     `json:"title"`
	Summary     string     `json:"summary"`
	ReasonType  string     `json:"reasonType,omitempty"` // Customer Initiated, Unplanned
	Category    string     `json:"category,omitempty"`
	Context     string     `json:"context,omitempty"`
	Occurred    *time.Time `json:"occurredTime,omitempty"`
	Chronicity  string     `json:"reasonChronicity"`
	Reported    *time.Time `json:"reportedTime"`
	Actions     []action   `json:"recommendedActions,omitempty"`
	Attribution *time.Time `json:"rootCauseAttributionTime,omitempty"`
}

type action struct {
	Action string `json:"action"`
}

// availabilityProvider has the extension resources of Azure Resource Health for the
// servers of this provider.
func (p *Provider) availabilityProvider() arm.Provider {
	const (
		read = healthNamespace + "/availabilityStatuses/read"
		all  = arm.InScope + "/providers/" + healthNamespace + "/availabilityStatuses"
	)
	return arm.Provider{Namespace: healthNamespace, Versions: []string{"2015-01-01", "2020-05-01", healthVersion}, Routes: []arm.Route{
		{Method: "GET", Pattern: all, Action: read, Handle: p.listAvailability},
		{Method: "GET", Pattern: all + "/current", Action: read, Handle: p.currentAvailability},
	}}
}

// listAvailability shows the health of a server, or of those in a group or subscription.
func (p *Provider) listAvailability(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var some []server
	var err error
	if len(r.ID.Types) == 0 && r.ID.Subscription != "" {
		some, err = p.in(ctx, r.ID.Subscription, r.ID.ResourceGroup)
	} else {
		var s server
		s, err = p.healthOf(ctx, r)
		some = []server{s}
	}
	if err != nil {
		return nil, err
	}
	views := make([]wireAvailability, len(some))
	for n, s := range some {
		views[n] = p.availability(s)
	}
	return arm.Page(r, views, func(w wireAvailability) string { return strings.ToLower(w.ID) })
}

func (p *Provider) currentAvailability(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.healthOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Body: p.availability(s)}, nil
}

// healthOf finds the server whose health is asked for.
func (p *Provider) healthOf(ctx context.Context, r *arm.Request) (server, error) {
	if !r.ID.IsType(Type) {
		return server{}, &arm.Error{Status: 400, Code: "UnsupportedResourceType", Message: "Health is kept of resources of type " + Type + " only."}
	}
	row, err := p.row(ctx, r.ID)
	return row.Value, err
}

func (p *Provider) availability(s server) wireAvailability {
	k := p.c.Custody.Status(s.Resource)
	now := time.Now()
	a := availabilityProperties{Chronicity: "Persistent", Reported: when(now), Occurred: when(k.Since)}
	switch {
	case k.State == "":
		a.State, a.Title, a.Summary = "Unknown", "Unknown", "The key of this resource was not needed since the server started."
	case k.State == custody.Healthy:
		a.State, a.Title, a.Summary = "Available", "Available", "There are no known problems with this resource."
	case k.State == custody.Warned:
		a.State, a.Title = "Available", "Available, with a warning"
		for _, w := range k.Warnings {
			a.Summary += w.Message + " "
			a.Actions = append(a.Actions, action{w.Message})
		}
	case k.State == custody.Suspect, k.State == custody.Unreachable:
		a.State, a.Title, a.ReasonType = "Degraded", "Degraded", "Unplanned"
		a.Chronicity = "Transient"
		a.Summary = "The key store that holds this resource's key does not answer, or refused it once and is being asked again (" + k.Reason + ")."
	case k.Reason == "UnreachableTimeout", k.Reason == "LeaseExpired":
		a.State, a.Title, a.ReasonType = "Unavailable", "Unavailable", "Unplanned"
		a.Summary = "The key store that holds this resource's key has not answered for longer than the grace (" + k.Reason + ")."
	default:
		a.State, a.Title, a.ReasonType = "Unavailable", "Unavailable (customer initiated)", "Customer Initiated"
		a.Summary = "The customer-managed key of this resource cannot be used (" + k.Reason + ")."
	}
	if a.State != "Available" && a.State != "Unknown" {
		a.Category, a.Context, a.Attribution = "Unplanned", "Platform Initiated", when(k.Since)
		if a.ReasonType == "Customer Initiated" {
			a.Category, a.Context = "Not Applicable", "Customer Initiated"
		}
		if fix := fixes[k.Reason]; fix != "" {
			a.Actions = append(a.Actions, action{fix})
		}
	}
	const name = "current"
	return wireAvailability{
		ID:   s.ID + "/providers/" + healthNamespace + "/availabilityStatuses/" + name,
		Name: name, Type: healthNamespace + "/AvailabilityStatuses", Location: s.Location, Properties: a,
	}
}
