package arm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// MaxBodyBytes is the largest request body: ARM's own limit.
const MaxBodyBytes = 4 << 20

// deadline of one request. ARM gives a provider 60 s; an answer after that is lost.
const deadline = 55 * time.Second

var versionPattern = regexp.MustCompile(`(?i)^[0-9]{4}-[0-9]{2}-[0-9]{2}(-[a-z]{1,20})?$`)

// Router checks requests in ARM's order and hands them to the providers' routes.
// Providers register before it serves; it is then safe for concurrent use.
type Router struct {
	c         Config
	providers []Provider
	routes    []boundRoute

	mu     sync.Mutex               // guards groups
	groups map[string]*sync.RWMutex // by lower-case group id; see holdGroup
}

type boundRoute struct {
	Route
	pattern  pattern
	provider *Provider
}

// NewRouter returns a router without routes.
func NewRouter(c Config) *Router {
	return &Router{c: c, groups: map[string]*sync.RWMutex{}}
}

// Handle adds a provider's routes. Of two patterns that describe a path, the one
// added first is taken.
func (rt *Router) Handle(p Provider) {
	rt.providers = append(rt.providers, p)
	for _, r := range p.Routes {
		rt.routes = append(rt.routes, boundRoute{Route: r, pattern: parsePattern(r.Method, r.Pattern), provider: &p})
	}
}

// Providers returns what was added.
func (rt *Router) Providers() []Provider { return slices.Clone(rt.providers) }

// ServeHTTP answers one management request.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w, r, rt.c)
	defer func() {
		if v := recover(); v != nil {
			a.fail(r, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	resp, err := rt.serve(r, a)
	if err != nil {
		a.fail(r, err)
		return
	}
	a.succeed(r, resp)
}

func (rt *Router) serve(r *http.Request, a *answer) (*Response, error) {
	caller, err := rt.c.Authenticate(r)
	if err != nil {
		return nil, err
	}
	a.caller = caller
	path, err := splitPath(r.URL.EscapedPath())
	if err != nil {
		return nil, &Error{Status: 400, Code: "InvalidRequestUri", Message: "The request URI is not valid.", Cause: err}
	}
	if err := rt.checkSubscription(r.Context(), path, caller); err != nil {
		return nil, err
	}
	version, err := apiVersion(r)
	if err != nil {
		return nil, err
	}
	req := &Request{HTTP: r, Caller: caller, APIVersion: version}
	route, err := rt.route(req, path, a)
	if err != nil {
		return nil, err
	}
	if err := rt.authorize(r.Context(), route, req); err != nil {
		return nil, err
	}
	a.fromService = true
	a.event.Action, a.event.ID, a.event.Resource = route.Action, req.ID, route.pattern.resource(req.ID, path)
	return rt.run(route, req)
}

// run does what is left once the caller may: group, body, handler.
func (rt *Router) run(route *boundRoute, req *Request) (*Response, error) {
	// It is read first, for as long as its sender takes: nothing waits for that.
	body, bodyErr := readBody(req.HTTP)
	ctx := req.HTTP.Context()
	if req.HTTP.Method != http.MethodGet && req.HTTP.Method != http.MethodHead {
		// A client that hangs up does not leave a write half done.
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()

	release, err := rt.holdGroup(route, req)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := rt.checkGroup(ctx, route, req); err != nil {
		return nil, err
	}
	if bodyErr != nil {
		return nil, bodyErr
	}
	req.Body = body
	resp, err := route.Handle(ctx, req)
	if err == nil && req.HTTP.Method == http.MethodPut {
		err = rt.undoInLostGroup(ctx, route, req)
	}
	if err == nil && req.HTTP.Method == http.MethodDelete && rt.c.Deleted != nil && route.deletes(req) {
		err = rt.c.Deleted(ctx, req.ID.String())
	}
	return resp, err
}

func (rt *Router) checkSubscription(ctx context.Context, path []string, caller Caller) error {
	id, ok := inPath(path, 0, "subscriptions")
	if !ok {
		return nil
	}
	if !isGUID(id) {
		return &Error{Status: 400, Code: "InvalidSubscriptionId", Message: fmt.Sprintf("The provided subscription identifier '%s' is malformed or invalid.", truncate(id))}
	}
	known, err := rt.c.Subscription(ctx, id)
	if err != nil {
		return err
	}
	if !known {
		return &Error{Status: 404, Code: "SubscriptionNotFound", Message: fmt.Sprintf("The subscription '%s' could not be found.", id)}
	}
	if rt.c.Directory == nil {
		return nil
	}
	directory, err := rt.c.Directory(ctx, id)
	if err != nil || strings.EqualFold(directory, caller.Directory) {
		return err
	}
	return &Error{Status: 401, Code: "InvalidAuthenticationTokenTenant", Message: fmt.Sprintf(
		"The access token is from the wrong issuer 'https://sts.windows.net/%s/'. It must match the tenant 'https://sts.windows.net/%s/' associated with this subscription.",
		caller.Directory, directory)}
}

func apiVersion(r *http.Request) (string, error) {
	var values []string
	for name, v := range r.URL.Query() {
		if strings.EqualFold(name, "api-version") {
			values = append(values, v...)
		}
	}
	slices.Sort(values)
	switch values = slices.Compact(values); {
	case len(values) == 0 || values[0] == "":
		return "", &Error{Status: 400, Code: "MissingApiVersionParameter", Message: "The api-version query parameter (?api-version=) is required for all requests."}
	case len(values) > 1:
		return "", &Error{Status: 400, Code: "InvalidApiVersionParameter", Message: "The api-version query parameter is given more than once, with different values."}
	}
	return values[0], nil
}

// route finds the route, checks the version it serves, and the names in the path.
func (rt *Router) route(req *Request, path []string, a *answer) (*boundRoute, error) {
	var found *boundRoute
	var allow []string
	for i := range rt.routes {
		route := &rt.routes[i]
		params, ok := route.pattern.match(path)
		if !ok {
			continue
		}
		allow = append(allow, route.Method)
		if route.Method == req.HTTP.Method {
			found, req.params = route, params
			break
		}
	}
	if !versionPattern.MatchString(req.APIVersion) {
		return nil, &Error{Status: 400, Code: "InvalidApiVersionParameter", Message: fmt.Sprintf(
			"The api-version '%s' is invalid. The supported versions are '%s'.", truncate(req.APIVersion), strings.Join(rt.versions(path), ","))}
	}
	if found == nil && len(allow) == 0 {
		return nil, rt.unknown(req, path)
	}
	if found == nil {
		a.w.Header().Set("Allow", strings.Join(slices.Compact(slices.Sorted(slices.Values(allow))), ", "))
		return nil, &Error{Status: 405, Code: "MethodNotAllowed", Message: fmt.Sprintf("The requested resource does not support http method '%s'.", req.HTTP.Method)}
	}
	req.ID = found.pattern.id(path)
	served := found.Versions
	if served == nil {
		served = found.provider.Versions
	}
	if len(served) > 0 && !slices.ContainsFunc(served, func(v string) bool { return strings.EqualFold(v, req.APIVersion) }) {
		return nil, &Error{Status: 400, Code: "NoRegisteredProviderFound", Message: fmt.Sprintf(
			"No registered resource provider found for API version '%s' for type '%s'. The supported api-versions are '%s'.",
			req.APIVersion, found.pattern.typeName(req.ID), strings.Join(newestFirst(served), ", "))}
	}
	names := slices.Collect(maps.Values(req.params))
	if found.pattern.scoped {
		names = append(names, req.ID.Names...)
	}
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return nil, &Error{Status: 400, Code: "InvalidResourceName", Message: fmt.Sprintf("The request URI has an illegal name: %v.", err)}
		}
	}
	return found, nil
}

// versions that a path could be asked for: those of its namespace.
func (rt *Router) versions(path []string) []string {
	namespace, _, _ := namespaceOf(path)
	var all []string
	for _, p := range rt.providers {
		if strings.EqualFold(p.Namespace, namespace) || namespace == "" {
			all = append(all, p.Versions...)
		}
	}
	slices.Sort(all)
	return newestFirst(slices.Compact(all))
}

func newestFirst(versions []string) []string {
	versions = slices.Clone(versions)
	slices.Reverse(versions)
	return versions
}

// unknown is the error for a path that no pattern describes.
func (rt *Router) unknown(req *Request, path []string) error {
	namespace, resourceType, ok := namespaceOf(path)
	if !ok {
		return &Error{Status: 404, Code: "NotFound", Message: fmt.Sprintf("There is no resource or operation at the path '%s'.", truncate(req.HTTP.URL.Path))}
	}
	for _, p := range rt.providers {
		if strings.EqualFold(p.Namespace, namespace) {
			return &Error{Status: 404, Code: "InvalidResourceType", Message: fmt.Sprintf(
				"The resource type '%s' could not be found in the namespace '%s' for api version '%s'. The supported api-versions are '%s'.",
				truncate(resourceType), p.Namespace, req.APIVersion, strings.Join(newestFirst(p.Versions), ","))}
		}
	}
	return &Error{Status: 404, Code: "InvalidResourceNamespace", Message: fmt.Sprintf("The resource namespace '%s' is invalid.", truncate(namespace))}
}

func (rt *Router) authorize(ctx context.Context, route *boundRoute, req *Request) error {
	if route.Action == "" {
		return nil
	}
	scope := req.ID.Scope()
	ok, err := rt.c.Allowed(ctx, req.Caller, route.Action, scope)
	if err != nil {
		return err
	}
	if ok {
		return nil
	}
	return &Error{Status: 403, Code: "AuthorizationFailed", Message: fmt.Sprintf(
		"The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		req.Caller.ClientID, req.Caller.ObjectID, route.Action, scope)}
}

// deletes says whether a DELETE of the route ends what the request's id names: it does not if
// the id is an extension resource's scope, or if the path goes on after the last name.
func (b *boundRoute) deletes(req *Request) bool {
	return !b.pattern.scoped && len(req.ID.Names) == len(req.ID.Types) && (len(req.ID.Names) > 0 || req.ID.ResourceGroup != "")
}

// insideGroup says whether the request is for what is below a group, and not for the group
// itself.
func (b *boundRoute) insideGroup(req *Request) bool {
	if b.pattern.scoped {
		return req.ID.ResourceGroup != ""
	}
	return len(b.pattern.segments) > 4 && strings.HasPrefix(b.Pattern, InGroup+"/")
}

// holdGroup keeps writes in a group and the group's own deletion apart in this process: else a
// resource could be made in a group that is gone when it is stored. A write that comes
// during the deletion is refused. It returns the release. For other processes see
// undoInLostGroup.
func (rt *Router) holdGroup(route *boundRoute, req *Request) (release func(), err error) {
	deletes := route.Pattern == InGroup && req.HTTP.Method == http.MethodDelete
	if !deletes && (reads(req) || !route.insideGroup(req)) {
		return func() {}, nil
	}
	group := ResourceID{Subscription: req.ID.Subscription, ResourceGroup: req.ID.ResourceGroup}.Key()
	rt.mu.Lock()
	lock := rt.groups[group]
	if lock == nil {
		lock = new(sync.RWMutex)
		rt.groups[group] = lock
	}
	rt.mu.Unlock()
	if deletes {
		lock.Lock()
		return lock.Unlock, nil
	}
	// It fails only while a deletion goes on, or waits for the writes before it.
	if !lock.TryRLock() {
		return nil, ErrGroupBeingDeleted(req.ID.ResourceGroup)
	}
	return lock.RUnlock, nil
}

// checkGroup refuses what is for a group that is not there, and writes in one that is being
// deleted, be it by another process.
func (rt *Router) checkGroup(ctx context.Context, route *boundRoute, req *Request) error {
	if !route.insideGroup(req) {
		return nil
	}
	state, err := rt.c.ResourceGroup(ctx, req.ID.Subscription, req.ID.ResourceGroup)
	switch {
	case err != nil:
		return err
	case state == NoGroup:
		return ErrResourceGroupNotFound(req.ID.ResourceGroup)
	case state == GroupBeingDeleted && !reads(req):
		return ErrGroupBeingDeleted(req.ID.ResourceGroup)
	}
	return nil
}

func reads(req *Request) bool {
	return req.HTTP.Method == http.MethodGet || req.HTTP.Method == http.MethodHead
}

// undoInLostGroup takes back what was made in a group that another process began to delete
// meanwhile. That process marks the group before it looks what is in it: so either it finds
// what was made here, or this finds the mark.
func (rt *Router) undoInLostGroup(ctx context.Context, route *boundRoute, req *Request) error {
	err := rt.checkGroup(ctx, route, req)
	var refused *Error
	if !errors.As(err, &refused) {
		return err
	}
	if !route.pattern.scoped {
		_, err = rt.Within(ctx, req, http.MethodDelete, nil)
		if err != nil && !errors.As(err, &refused) { // a refusal: it is gone already
			return err
		}
	}
	if rt.c.Deleted != nil {
		if err := rt.c.Deleted(ctx, req.ID.String()); err != nil {
			return err
		}
	}
	return ErrGroupBeingDeleted(req.ID.ResourceGroup)
}

func readBody(r *http.Request) ([]byte, error) {
	tooLarge := &Error{Status: 413, Code: "RequestContentTooLarge", Message: fmt.Sprintf("The request content is larger than the %d bytes that are allowed.", MaxBodyBytes)}
	if r.ContentLength > MaxBodyBytes {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, MaxBodyBytes))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case err != nil:
		return nil, &Error{Status: 400, Code: "InvalidRequestContent", Message: "The request content was not received completely.", Cause: err}
	case len(body) == 0:
		return nil, nil
	}
	return body, nil
}
