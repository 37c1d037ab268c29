package activity

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/arm"
)

const namespace = "Microsoft.Insights"

// Register adds the routes to rt.
func (l *Log) Register(rt *arm.Router) {
	const read = namespace + "/eventtypes/management/values/read"
	rt.Handle(arm.Provider{Namespace: namespace, Versions: []string{"2014-04-01", "2015-04-01", "2017-03-01-preview"}, Routes: []arm.Route{
		{Method: "GET", Pattern: arm.InSubscription + "/providers/" + namespace + "/eventtypes/management/values", Action: read, Handle: l.list},
	}})
}

// named is a value with what it is called; here both are the same.
type named struct {
	Value     string `json:"value"`
	Localized string `json:"localizedValue"`
}

func name(s string) named { return named{s, s} }

type authorization struct {
	Action string `json:"action"`
	Scope  string `json:"scope"`
}

type httpRequest struct {
	ClientRequestID string `json:"clientRequestId,omitempty"`
	Address         string `json:"clientIpAddress,omitempty"`
	Method          string `json:"method"`
}

// view is an event in the shape of the service.
type view struct {
	Authorization authorization     `json:"authorization"`
	Caller        string            `json:"caller"`
	Channels      string            `json:"channels"`
	Claims        map[string]string `json:"claims"`
	CorrelationID string            `json:"correlationId"`
	Description   string            `json:"description"`
	EventDataID   string            `json:"eventDataId"`
	EventName     named             `json:"eventName"`
	Category      named             `json:"category"`
	HTTPRequest   httpRequest       `json:"httpRequest"`
	ID            string            `json:"id"`
	Level         string            `json:"level"`
	Group         string            `json:"resourceGroupName"`
	Provider      named             `json:"resourceProviderName"`
	ResourceID    string            `json:"resourceId"`
	ResourceType  named             `json:"resourceType"`
	OperationID   string            `json:"operationId"`
	OperationName named             `json:"operationName"`
	Properties    map[string]string `json:"properties"`
	Status        named             `json:"status"`
	SubStatus     named             `json:"subStatus"`
	Timestamp     time.Time         `json:"eventTimestamp"`
	Submission    time.Time         `json:"submissionTimestamp"`
	Subscription  string            `json:"subscriptionId"`
	Tenant        string            `json:"tenantId"`
}

// ticks count 100 ns since the year 1, as event ids have them.
func ticks(t time.Time) int64 { return t.Unix()*1e7 + int64(t.Nanosecond()/100) + 621355968000000000 }

func (e event) view() view {
	status, level := "Succeeded", "Informational"
	if e.Status >= 400 {
		status, level = "Failed", "Error"
	}
	text := strings.ReplaceAll(http.StatusText(e.Status), " ", "")
	v := view{
		Authorization: authorization{e.Action, e.Scope}, Caller: e.Caller.ClientID, Channels: "Operation",
		Claims: map[string]string{
			"appid": e.Caller.ClientID,
			"http://schemas.microsoft.com/identity/claims/objectidentifier": e.Caller.ObjectID,
			"http://schemas.microsoft.com/identity/claims/tenantid":         e.Caller.Directory,
		},
		CorrelationID: e.Correlation, EventDataID: e.ID, EventName: named{"EndRequest", "End request"}, Category: name("Administrative"),
		HTTPRequest: httpRequest{e.ClientID, e.Address, e.Method}, ID: fmt.Sprintf("%s/events/%s/ticks/%d", e.Scope, e.ID, ticks(e.At)),
		Level: level, Group: e.Group, Provider: name(e.Namespace), ResourceID: e.Scope, ResourceType: name(e.Type),
		OperationID: e.RequestID, OperationName: name(e.Action),
		Properties: map[string]string{"statusCode": text, "serviceRequestId": e.RequestID},
		Status:     name(status), SubStatus: named{text, fmt.Sprintf("%s (HTTP Status Code: %d)", http.StatusText(e.Status), e.Status)},
		Timestamp: e.At, Submission: e.Done, Subscription: e.Subscribed, Tenant: e.Caller.Directory,
	}
	if e.Code != "" {
		message, err := json.Marshal(map[string]any{"error": map[string]string{"code": e.Code, "message": e.Message}})
		if err == nil {
			v.Properties["statusMessage"] = string(message)
		}
	}
	return v
}

// list shows the events that $filter asks for, the newest first; $select names the
// members that are wanted.
func (l *Log) list(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	query := r.HTTP.URL.Query()
	keep, err := parseFilter(query.Get("$filter"))
	if err != nil {
		return nil, &arm.Error{Status: 400, Code: "BadRequest", Message: fmt.Sprintf("The $filter is not valid: %v.", err)}
	}
	all, err := l.newest(ctx, strings.ToLower(r.ID.Subscription))
	if err != nil {
		return nil, err
	}
	oldest := time.Now().Add(-retention)
	var views []selected
	for _, e := range all {
		if v := e.view(); e.At.After(oldest) && keep(v) {
			views = append(views, selected{v, fields(query.Get("$select")), fmt.Sprintf("%020d %s", 1<<62-ticks(e.At), e.ID)})
		}
	}
	return arm.Page(r, views, func(s selected) string { return s.order })
}

func fields(query string) []string {
	var names []string
	for one := range strings.SplitSeq(query, ",") {
		if one = strings.TrimSpace(one); one != "" {
			names = append(names, one)
		}
	}
	return names
}

// selected is a view of which some members are shown; all without names.
type selected struct {
	view
	names []string
	order string // the newest first
}

func (s selected) MarshalJSON() ([]byte, error) {
	raw, err := json.Marshal(s.view)
	if err != nil || len(s.names) == 0 {
		return raw, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	for name := range members {
		if !slices.ContainsFunc(s.names, func(n string) bool { return strings.EqualFold(n, name) }) {
			delete(members, name)
		}
	}
	return json.Marshal(members)
}

var (
	andWord  = regexp.MustCompile(`(?i)\s+and\s+`)
	timeTerm = regexp.MustCompile(`(?i)^eventTimestamp\s+(ge|gt|le|lt)\s+'?([0-9T:.Z+-]+)'?$`)
	eqTerm   = regexp.MustCompile(`(?i)^([a-z]+)\s+eq\s+'([^']*)'$`)
)

// parseFilter reads comparisons joined by "and". The time from which on is a must, as in the
// service; so is that it begins.
func parseFilter(filter string) (func(view) bool, error) {
	var tests []func(view) bool
	begins := false
	for _, term := range andWord.Split(strings.TrimSpace(filter), -1) {
		if m := timeTerm.FindStringSubmatch(term); m != nil {
			at, err := parseTime(m[2])
			if err != nil {
				return nil, err
			}
			op := strings.ToLower(m[1])
			begins = begins || op[0] == 'g'
			tests = append(tests, func(v view) bool {
				order := v.Timestamp.Compare(at)
				return order == 0 && op[1] == 'e' || order > 0 && op[0] == 'g' || order < 0 && op[0] == 'l'
			})
			continue
		}
		m := eqTerm.FindStringSubmatch(term)
		if m == nil {
			return nil, fmt.Errorf("'%.100s' is not of the form: eventTimestamp ge TIME [and eventTimestamp le TIME] [and field eq 'value']", term)
		}
		test, err := comparison(m[1], m[2])
		if err != nil {
			return nil, err
		}
		tests = append(tests, test)
	}
	if !begins {
		return nil, fmt.Errorf("eventTimestamp ge TIME is missing: it says from when on events are wanted")
	}
	return func(v view) bool {
		return !slices.ContainsFunc(tests, func(test func(view) bool) bool { return !test(v) })
	}, nil
}

func comparison(field, value string) (func(view) bool, error) {
	of := map[string]func(view) string{
		"resourcegroupname": func(v view) string { return v.Group },
		"resourceuri":       func(v view) string { return v.ResourceID },
		"resourceid":        func(v view) string { return v.ResourceID },
		"resourceprovider":  func(v view) string { return v.Provider.Value },
		"resourcetype":      func(v view) string { return v.ResourceType.Value },
		"correlationid":     func(v view) string { return v.CorrelationID },
		"caller":            func(v view) string { return v.Caller },
		"status":            func(v view) string { return v.Status.Value },
		"operationname":     func(v view) string { return v.OperationName.Value },
		"levels":            func(v view) string { return v.Level },
	}[strings.ToLower(field)]
	if of != nil {
		return func(v view) bool { return strings.EqualFold(of(v), value) }, nil
	}
	if strings.EqualFold(field, "eventChannels") {
		return func(view) bool { return strings.Contains(value, "Operation") }, nil
	}
	return nil, fmt.Errorf("the field '%.40s' cannot be filtered by", field)
}

// parseTime takes RFC 3339, and what azure-cli sends: the same without a zone, in UTC.
func parseTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	t, err := time.Parse("2006-01-02T15:04:05.999999999", s)
	if err != nil {
		return t, fmt.Errorf("'%.40s' is not a time such as 2026-01-02T15:04:05Z", s)
	}
	return t, nil
}
