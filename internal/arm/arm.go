package arm

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"
)

// Error is the ARM error envelope. Code is API contract and never changes meaning;
// Message is for people; Cause is for our log and is never serialised.
type Error struct {
	Status  int      `json:"-"`
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Target  string   `json:"target,omitempty"` // resource id, or JSON path of the bad property
	Details []*Error `json:"details,omitempty"`
	Cause   error    `json:"-"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Caller is who makes a request.
type Caller struct {
	ObjectID  string
	ClientID  string
	Directory string
	Kind      string // Application or ManagedIdentity, as systemData shows it
}

// Config of a Router: what it needs from the rest of the management plane.
type Config struct {
	// Authenticate checks the request's token; the error is an *Error with status 401.
	Authenticate func(r *http.Request) (Caller, error)
	// Allowed says whether the caller may do action at scope.
	Allowed func(ctx context.Context, c Caller, action, scope string) (bool, error)
	// Subscription says whether there is one.
	Subscription func(ctx context.Context, id string) (bool, error)
	// ResourceGroup is asked before a request in a group, and after one that made something:
	// another process may delete the group meanwhile.
	ResourceGroup func(ctx context.Context, subscription, name string) (GroupState, error)
	// Directory is that of a subscription, whose callers alone may see it; nil: it is not
	// looked at.
	Directory func(ctx context.Context, subscription string) (string, error)
	// Deleted is told of each group or resource that a request deleted, with its scope; it
	// may be told twice. An error is the answer's: the client then deletes again. Nil: nobody is told.
	Deleted func(ctx context.Context, scope string) error
	// Record is told of each write in a subscription that the caller was allowed to ask for,
	// after it was done or refused. Nil: nobody is told.
	Record func(ctx context.Context, e Event)
	// LoginURL is where whoever made a request gets tokens for a subscription, for
	// WWW-Authenticate: https://host/{directory}. It is empty where the path names none, and may
	// be one that is not here.
	LoginURL func(r *http.Request, subscription string) string
	Log      *slog.Logger
}

// GroupState says what is known of a resource group.
type GroupState int

// The states of a group.
const (
	NoGroup GroupState = iota
	GroupExists
	GroupBeingDeleted // what is in it can be read, as long as it is there
)

// Event is one write, as the activity log shows it.
type Event struct {
	At          time.Time // when it came
	Done        time.Time
	Caller      Caller
	Action      string
	ID          ResourceID // of what it was for; of an extension resource, its scope
	Resource    string     // the id of what it was for
	Method      string
	Status      int    // HTTP
	Error       *Error // nil when it was done
	RequestID   string
	Correlation string
	ClientID    string // the client's own id of the request, if it sent a good one
	Address     string // the client's, without port
}

// Request is a management request that has passed the checks of the router.
type Request struct {
	HTTP       *http.Request
	Caller     Caller
	ID         ResourceID // of the resource or collection the path names
	APIVersion string
	// Body is what was sent, of at most MaxBodyBytes; nil when there was none.
	// Decode checks and reads it: only then is it known to be JSON.
	Body json.RawMessage

	params map[string]string
}

// Response is what a handler answers. A nil Body is an empty answer.
type Response struct {
	Status int // 0 is 200
	Body   any
	ETag   string
	// Poll is the path, with its query, where a client asks how a 202 ended.
	Poll string
}

// Provider is one resource provider's part of the surface.
type Provider struct {
	Namespace string   // such as Microsoft.FluidRelay
	Versions  []string // the api-versions it serves, oldest first; none: every well-formed one
	Routes    []Route
}

// Route is one operation of a resource type.
type Route struct {
	Method string
	// Pattern is the whole path as in docs, from the slash on; parameters are whole
	// segments in braces. InGroup and InSubscription begin most of them. The
	// parameters {subscription} and {group} are checked by the router. InScope begins
	// those of extension resources, which belong to whatever is before them: the
	// request's ID is that of the scope then.
	Pattern string
	// Action is the permission it needs, such as
	// Microsoft.FluidRelay/fluidRelayServers/read. Empty: every authenticated caller
	// may; the handler then shows only what the caller may see.
	Action string
	// Versions are those it serves, if they are others than its provider's.
	Versions []string
	Handle   func(ctx context.Context, r *Request) (*Response, error)
}

// What patterns begin with.
const (
	InSubscription = "/subscriptions/{subscription}"
	InGroup        = InSubscription + "/resourceGroups/{group}"
	InScope        = "{scope}"
)
