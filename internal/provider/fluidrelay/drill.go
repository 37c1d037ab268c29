package fluidrelay

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
)

// What the key rules promise, as a drill's report measures it.
const (
	enforceWithin = 60 * time.Second
	recoverWithin = 30 * time.Second
)

// wireDrill is the report of a drill, complete once its state is Ended.
type wireDrill struct {
	ID       string     `json:"id"`
	Relay    string     `json:"relay"`
	Key      string     `json:"keyIdentifier"`
	State    string     `json:"state"` // Running, Ended, Failed
	Failure  string     `json:"failure,omitempty"`
	Started  *time.Time `json:"startedAt"`
	Refusal  *time.Time `json:"firstRefusalAt,omitempty"`
	Enforced *time.Time `json:"enforcedAt,omitempty"`
	Permit   *time.Time `json:"permittedAt,omitempty"`
	Recover  *time.Time `json:"recoveredAt,omitempty"`

	EnforceSeconds *float64 `json:"secondsToEnforce,omitempty"` // from startedAt
	RecoverSeconds *float64 `json:"secondsToRecover,omitempty"` // from permittedAt
	Kept           *bool    `json:"promiseKept,omitempty"`      // at most 60 and 30 seconds
	Documents      int      `json:"documentsEnded"`

	// Of several nodes: the one that the drill was on, and those that served the relay on.
	Node   string   `json:"node,omitempty"`
	Others []string `json:"nodesNotCovered,omitempty"`

	// Signed is all of the above, once the drill is over, as a JWS in compact form, signed
	// with the key that signs tokens.
	Signed string `json:"signedReport,omitempty"`
}

// drillReportType is the typ of a signed report. It is read by programs: frozen.
const drillReportType = "tidelock-drill-report+jws"

func newWireDrill(s server, d custody.Drill) wireDrill {
	w := wireDrill{
		ID: d.ID, Relay: s.ID, Key: d.KeyID, State: "Running", Failure: d.Failure, Started: when(d.Started), Refusal: when(d.FirstRefusal),
		Enforced: when(d.Enforced), Permit: when(d.Permitted), Recover: when(d.Recovered), Documents: d.Documents, Node: d.On.Node, Others: d.On.Others,
		EnforceSeconds: seconds(d.Started, d.Enforced), RecoverSeconds: seconds(d.Permitted, d.Recovered),
	}
	if d.Ended {
		w.State = "Ended"
		if d.Failure != "" {
			w.State = "Failed"
		}
		kept := w.EnforceSeconds != nil && w.RecoverSeconds != nil &&
			d.Enforced.Sub(d.Started) <= enforceWithin && d.Recovered.Sub(d.Permitted) <= recoverWithin
		w.Kept = &kept
	}
	return w
}

func seconds(from, to time.Time) *float64 {
	if from.IsZero() || to.IsZero() {
		return nil
	}
	s := to.Sub(from).Round(time.Millisecond).Seconds()
	return &s
}

// drillNodes are the nodes that serve now.
func (p *Provider) drillNodes() (on custody.DrillNodes) {
	if p.c.Nodes == nil {
		return on
	}
	for _, n := range p.c.Nodes.Nodes() {
		switch {
		case n.Answers:
			on.Node = n.URL
		case n.State != "Dead":
			on.Others = append(on.Others, n.URL)
		}
	}
	return on
}

// startDrill plays a refusal of the server's key on the running service. It answers at
// once; the report is read with encryptionDrill.
func (p *Provider) startDrill(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	var b struct {
		HoldSeconds int `json:"holdSeconds"`
	}
	if len(r.Body) > 0 {
		if err := r.Decode(&b); err != nil {
			return nil, err
		}
	}
	if b.HoldSeconds < 0 || b.HoldSeconds > int(custody.MaxDrillHold/time.Second) {
		b.HoldSeconds = -1 // which is refused below, in custody's words
	}
	d, err := p.c.Custody.StartDrill(ctx, s.Resource, time.Duration(b.HoldSeconds)*time.Second, p.drillNodes())
	var refused *custody.DrillError
	var unusable *custody.UnusableError
	switch {
	case errors.As(err, &refused):
		return nil, &arm.Error{Status: http.StatusConflict, Code: "DrillRefused", Message: "No drill was begun: " + refused.Why + "."}
	case errors.As(err, &unusable):
		return nil, &arm.Error{Status: http.StatusConflict, Code: "DrillRefused", Message: "No drill was begun: the key cannot be used (" + unusable.Reason + "). " + fixes[unusable.Reason]}
	case err != nil:
		return nil, err
	}
	return &arm.Response{Body: newWireDrill(s, d)}, nil
}

func (p *Provider) showDrill(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	s, err := p.owner(ctx, r)
	if err != nil {
		return nil, err
	}
	d, err := p.c.Custody.Drill(s.Resource)
	if errors.Is(err, custody.ErrNoDrill) {
		return nil, &arm.Error{Status: http.StatusNotFound, Code: "DrillNotFound", Message: "There was no drill of this resource since the server started; earlier ones are in the log of key uses."}
	}
	if err != nil {
		return nil, err
	}
	report := newWireDrill(s, d)
	if d.Ended && p.c.Sign != nil {
		payload, err := json.Marshal(report)
		if err != nil {
			return nil, err
		}
		if report.Signed, err = p.c.Sign(ctx, drillReportType, payload); err != nil {
			return nil, err
		}
	}
	return &arm.Response{Body: report}, nil
}
