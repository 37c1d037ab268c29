package fluidrelay

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
)

// Nodes are the processes that serve together on one database.
type Nodes interface {
	Nodes() []Node
	// Drain has a node give up its documents, soon; it shows in the node's state.
	Drain(id string)
	// Uncordon has a node that was drained take documents again; likewise.
	Uncordon(id string)
	// Rebalance has every node give up idle documents that another one should have.
	Rebalance()
}

// Node is one such process, as the one that answers sees it.
type Node struct {
	ID        string
	URL       string
	State     string // Active, Draining, Dead
	Started   time.Time
	Seen      time.Time
	Documents int
	Sessions  int
	Answers   bool // it is the one that answers
}

type wireNode struct {
	ID         string             `json:"id"`
	Name       string             `json:"name"`
	Type       string             `json:"type"`
	Properties wireNodeProperties `json:"properties"`
}

type wireNodeProperties struct {
	State     string     `json:"state"`
	URL       string     `json:"url"`
	Started   *time.Time `json:"startedAt,omitempty"`
	Seen      *time.Time `json:"lastSeenAt,omitempty"`
	Documents int        `json:"documents"`
	Sessions  int        `json:"sessions"`
	Answers   bool       `json:"answers"`
}

// nodeRoutes are there in a cluster only.
func (p *Provider) nodeRoutes() []arm.Route {
	if p.c.Nodes == nil {
		return nil
	}
	versions := []string{previewVersion}
	all := arm.InSubscription + "/providers/" + namespace + "/nodes"
	return []arm.Route{
		{Method: "GET", Pattern: all, Action: namespace + "/nodes/read", Versions: versions, Handle: p.listNodes},
		{Method: "POST", Pattern: all + "/{node}/drain", Action: namespace + "/nodes/drain/action", Versions: versions, Handle: p.drainNode},
		{Method: "POST", Pattern: all + "/{node}/uncordon", Action: namespace + "/nodes/uncordon/action", Versions: versions, Handle: p.uncordonNode},
		{Method: "POST", Pattern: arm.InSubscription + "/providers/" + namespace + "/rebalanceNodes", Action: namespace + "/rebalanceNodes/action", Versions: versions, Handle: p.rebalanceNodes},
	}
}

func (p *Provider) listNodes(_ context.Context, r *arm.Request) (*arm.Response, error) {
	list := []wireNode{}
	for _, n := range p.c.Nodes.Nodes() {
		list = append(list, p.wireNode(r, n))
	}
	return &arm.Response{Body: struct {
		Value []wireNode `json:"value"`
	}{list}}, nil
}

func (p *Provider) wireNode(r *arm.Request, n Node) wireNode {
	return wireNode{
		ID:   "/subscriptions/" + r.Param("subscription") + "/providers/" + namespace + "/nodes/" + n.ID,
		Name: n.ID, Type: namespace + "/nodes",
		Properties: wireNodeProperties{
			State: n.State, URL: n.URL, Started: when(n.Started), Seen: when(n.Seen),
			Documents: n.Documents, Sessions: n.Sessions, Answers: n.Answers,
		},
	}
}

// drainNode answers at once: 202, and the node's state tells the rest.
func (p *Provider) drainNode(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return p.orderNode(r, p.c.Nodes.Drain, "there is nothing to drain, the others take over its documents")
}

// uncordonNode undoes drainNode, and answers as that does.
func (p *Provider) uncordonNode(_ context.Context, r *arm.Request) (*arm.Response, error) {
	return p.orderNode(r, p.c.Nodes.Uncordon, "start it again, then it takes documents")
}

// orderNode gives an order to a node that lives; ifDead says what to do with one that does not.
func (p *Provider) orderNode(r *arm.Request, order func(id string), ifDead string) (*arm.Response, error) {
	for _, n := range p.c.Nodes.Nodes() {
		if n.ID != r.Param("node") {
			continue
		}
		if n.State == "Dead" {
			return nil, &arm.Error{Status: http.StatusConflict, Code: "NodeIsDead", Target: n.ID, Message: fmt.Sprintf(
				"Node %s has not been seen since %s: %s.", n.ID, n.Seen.UTC().Format(time.RFC3339), ifDead)}
		}
		order(n.ID)
		return &arm.Response{Status: http.StatusAccepted, Body: p.wireNode(r, n)}, nil
	}
	return nil, &arm.Error{Status: http.StatusNotFound, Code: "NodeNotFound", Target: r.Param("node"), Message: "There is no such node: list the nodes to see their names. A process has a new one after each start."}
}

func (p *Provider) rebalanceNodes(context.Context, *arm.Request) (*arm.Response, error) {
	p.c.Nodes.Rebalance()
	return &arm.Response{Status: http.StatusAccepted}, nil
}
