package fluidrelay

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/custody"
)

// ServiceKeys are the versions of the installation's own key.
type ServiceKeys interface {
	Status() (all []custody.ServiceKeyVersion, left int, done bool)
	// Rotate makes the next version and has it seal; not yet while nodes lack it.
	Rotate(ctx context.Context) (lacking []string, err error)
}

// wireServiceKey is the state of the service key.
type wireServiceKey struct {
	State    string                  `json:"state"`              // Current, Resealing
	Left     int                     `json:"underOlderVersions"` // values, when that was last looked at
	Versions []wireServiceKeyVersion `json:"versions"`
}

type wireServiceKeyVersion struct {
	Number uint32     `json:"number"`
	ID     string     `json:"id"`
	State  string     `json:"state"` // Staged, Sealing, Opening
	Since  *time.Time `json:"sealingSince,omitempty"`
	Until  *time.Time `json:"keptUntil,omitempty"`
}

func (p *Provider) serviceKeyRoutes() []arm.Route {
	if p.c.ServiceKeys == nil {
		return nil
	}
	versions := []string{previewVersion}
	one := arm.InSubscription + "/providers/" + namespace
	return []arm.Route{
		{Method: "GET", Pattern: one + "/serviceKey", Action: namespace + "/serviceKey/read", Versions: versions, Handle: p.showServiceKey},
		{Method: "POST", Pattern: one + "/rotateServiceKey", Action: namespace + "/rotateServiceKey/action", Versions: versions, Handle: p.rotateServiceKey},
	}
}

func (p *Provider) wireServiceKey() wireServiceKey {
	all, left, done := p.c.ServiceKeys.Status()
	w := wireServiceKey{State: "Resealing", Left: left, Versions: []wireServiceKeyVersion{}}
	if done {
		w.State = "Current"
	}
	for _, v := range all {
		w.Versions = append(w.Versions, wireServiceKeyVersion{Number: v.Number, ID: v.ID, State: string(v.State), Since: when(v.Since), Until: when(v.Until)})
	}
	return w
}

func (p *Provider) showServiceKey(context.Context, *arm.Request) (*arm.Response, error) {
	return &arm.Response{Body: p.wireServiceKey()}, nil
}

func (p *Provider) rotateServiceKey(ctx context.Context, _ *arm.Request) (*arm.Response, error) {
	lacking, err := p.c.ServiceKeys.Rotate(ctx)
	if err != nil {
		return nil, fmt.Errorf("rotate the service key: %w", err)
	}
	if len(lacking) > 0 {
		return nil, &arm.Error{Status: http.StatusConflict, Code: "ServiceKeyNotOnAllNodes", Target: strings.Join(lacking, ","), Message: fmt.Sprintf(
			"The next version of the service key is in the file DATA.keys/service.key of the node that answers, and seals nothing yet: %d other nodes lack it (%s). Copy that file to each of them, wait a minute, and rotate again.",
			len(lacking), strings.Join(lacking, ", "))}
	}
	return &arm.Response{Body: p.wireServiceKey()}, nil
}
