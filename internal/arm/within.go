package arm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Within hands a request of the same caller to the route of what r's ID names, at the
// newest version that is served. It checks no permission: r was allowed for what it does,
// such as changing tags. It is for handlers of extension resources, which hold what r holds.
func (rt *Router) Within(ctx context.Context, r *Request, method string, body any) (*Response, error) {
	path, err := splitPath(r.ID.String())
	if err != nil {
		return nil, err
	}
	in := &Request{HTTP: r.HTTP.Clone(ctx), Caller: r.Caller}
	in.HTTP.Method, in.HTTP.Header = method, http.Header{} // its conditions were for r
	if body != nil {
		if in.Body, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	for i := range rt.routes {
		route := &rt.routes[i]
		params, ok := route.pattern.match(path)
		if !ok || route.Method != method || route.pattern.scoped {
			continue
		}
		served := route.Versions
		if served == nil {
			served = route.provider.Versions
		}
		if len(served) > 0 {
			in.APIVersion = served[len(served)-1]
		}
		in.ID, in.params = route.pattern.id(path), params
		return route.Handle(ctx, in)
	}
	return nil, &Error{Status: 404, Code: "InvalidResourceType", Message: fmt.Sprintf("The resource type '%s' cannot be found, or does not support this.", strings.TrimPrefix(r.ID.Type(), "/"))}
}
