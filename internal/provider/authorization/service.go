package authorization

import (
	"context"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/tracked"
)

// Assignments is what this provider needs of the directory service.
type Assignments interface {
	PutAssignment(ctx context.Context, a entra.Assignment) (_ entra.Assignment, created bool, err error)
	Assignment(ctx context.Context, name string) (entra.Assignment, error)
	Assignments(ctx context.Context) ([]entra.Assignment, error)
	DeleteAssignment(ctx context.Context, name string) error
}

// Config of a Provider.
type Config struct {
	Assignments   Assignments
	Subscriptions tracked.Directories
	// Exists says whether there is a tracked resource, or the one that id is a part of.
	Exists func(ctx context.Context, id arm.ResourceID) (bool, error)
}

// Provider serves roles and their assignments. It is safe for concurrent use.
type Provider struct{ c Config }

// New returns the provider.
func New(c Config) *Provider { return &Provider{c} }

const (
	namespace       = "Microsoft.Authorization"
	definitionType  = namespace + "/roleDefinitions"
	assignmentType  = namespace + "/roleAssignments"
	permissionsRead = namespace + "/permissions/read"
)

// Register adds the routes to rt.
func (p *Provider) Register(rt *arm.Router) {
	const (
		definitions = "/providers/" + definitionType
		assignments = arm.InScope + "/providers/" + assignmentType
		one         = assignments + "/{name}"
	)
	rt.Handle(arm.Provider{
		Namespace: namespace,
		Versions: []string{
			"2015-07-01", "2017-10-01-preview", "2018-01-01-preview", "2018-07-01", "2018-09-01-preview", "2020-03-01-preview", "2020-04-01-preview",
			"2020-08-01-preview", "2020-10-01-preview", "2021-04-01-preview", "2022-04-01", "2022-05-01-preview", "2023-07-01-preview",
		},
		Routes: []arm.Route{
			// What the built-in roles are is no secret: everyone may read it.
			{Method: "GET", Pattern: definitions, Handle: p.listDefinitions},
			{Method: "GET", Pattern: definitions + "/{name}", Handle: p.getDefinition},
			{Method: "GET", Pattern: arm.InScope + definitions, Action: definitionType + "/read", Handle: p.listDefinitions},
			{Method: "GET", Pattern: arm.InScope + definitions + "/{name}", Action: definitionType + "/read", Handle: p.getDefinition},
			{Method: "PUT", Pattern: arm.InScope + definitions + "/{name}", Action: definitionType + "/write", Handle: p.refuseDefinition},
			{Method: "DELETE", Pattern: arm.InScope + definitions + "/{name}", Action: definitionType + "/delete", Handle: p.refuseDefinition},
			{Method: "GET", Pattern: assignments, Action: assignmentType + "/read", Handle: p.list},
			{Method: "GET", Pattern: one, Action: assignmentType + "/read", Handle: p.get},
			{Method: "PUT", Pattern: one, Action: assignmentType + "/write", Handle: p.put},
			{Method: "DELETE", Pattern: one, Action: assignmentType + "/delete", Handle: p.delete},
			{Method: "GET", Pattern: arm.InScope + "/providers/" + namespace + "/permissions", Action: permissionsRead, Handle: p.permissions},
		},
	})
}
