package arm

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// pattern is a route's path, cut into segments.
type pattern struct {
	segments []string // as written; a parameter keeps its braces
	action   bool     // the last segment is a verb, not a type
	scoped   bool     // it began with InScope, which is not among the segments
}

func parsePattern(method, p string) pattern {
	p, scoped := strings.CutPrefix(p, InScope)
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	_, param := parameter(segments[len(segments)-1])
	return pattern{segments: segments, action: method == http.MethodPost && !param, scoped: scoped}
}

func parameter(segment string) (name string, ok bool) {
	if len(segment) > 2 && segment[0] == '{' && segment[len(segment)-1] == '}' {
		return segment[1 : len(segment)-1], true
	}
	return "", false
}

// match returns the parameters of a path that p describes.
func (p pattern) match(path []string) (map[string]string, bool) {
	if p.scoped {
		head := len(path) - len(p.segments)
		if head < 0 {
			return nil, false
		}
		if _, ok := scopeID(path[:head]); !ok {
			return nil, false
		}
		path = path[head:]
	}
	if len(path) != len(p.segments) {
		return nil, false
	}
	params := map[string]string{}
	for i, want := range p.segments {
		if name, ok := parameter(want); ok {
			params[name] = path[i]
		} else if !strings.EqualFold(want, path[i]) {
			return nil, false
		}
	}
	return params, true
}

// id builds the id that a matching path names: fixed parts as the pattern spells
// them, names as the path does. That of an extension resource is the id of its scope.
func (p pattern) id(path []string) ResourceID {
	if p.scoped {
		id, _ := scopeID(path[:len(path)-len(p.segments)])
		return id
	}
	parts := make([]string, len(path))
	for i, s := range p.segments {
		parts[i] = s
		if _, param := parameter(s); param {
			parts[i] = path[i]
		}
	}
	if p.action {
		parts = parts[:len(parts)-1]
	}
	var id ResourceID
	for len(parts) > 0 {
		head, value := parts[0], ""
		if len(parts) > 1 {
			value = parts[1]
		}
		switch {
		case id.Namespace == "" && head == "subscriptions":
			id.Subscription = value
		case id.Namespace == "" && head == "resourceGroups":
			id.ResourceGroup = value
		case id.Namespace == "" && head == "providers":
			id.Namespace = value
		default:
			id.Types = append(id.Types, head)
			if value != "" {
				id.Names = append(id.Names, value)
			}
		}
		parts = parts[min(2, len(parts)):]
	}
	return id
}

// scopeID is what an extension resource belongs to: nothing, a subscription, a group,
// or a resource.
func scopeID(path []string) (id ResourceID, ok bool) {
	if value, ok := inPath(path, 0, "subscriptions"); ok {
		id.Subscription, path = value, path[2:]
		if value, ok := inPath(path, 0, "resourceGroups"); ok {
			id.ResourceGroup, path = value, path[2:]
		}
	}
	if len(path) == 0 {
		return id, true
	}
	if value, ok := inPath(path, 0, "providers"); ok && id.Subscription != "" && len(path) >= 4 && len(path)%2 == 0 {
		id.Namespace = value
		for pair := range slices.Chunk(path[2:], 2) {
			id.Types, id.Names = append(id.Types, pair[0]), append(id.Names, pair[1])
		}
		return id, true
	}
	return ResourceID{}, false
}

// resource is the id of what a path names, an extension resource's own too.
func (p pattern) resource(id ResourceID, path []string) string {
	if !p.scoped {
		return id.String()
	}
	parts := slices.Clone(p.segments)
	for i, s := range p.segments {
		if _, param := parameter(s); param {
			parts[i] = path[len(path)-len(parts)+i]
		}
	}
	return id.String() + "/" + strings.Join(parts, "/")
}

// typeName is the type of what a pattern names, without its namespace.
func (p pattern) typeName(id ResourceID) string {
	if !p.scoped {
		return strings.Join(id.Types, "/")
	}
	return p.segments[2] // providers, namespace, type
}

// splitPath cuts an escaped path at its slashes and then undoes the escapes, so
// that an escaped slash stays inside its segment. Clients write double slashes and
// slashes at the end; both mean nothing.
func splitPath(escaped string) ([]string, error) {
	var path []string
	for s := range strings.SplitSeq(escaped, "/") {
		if s == "" {
			continue
		}
		plain, err := url.PathUnescape(s)
		if err != nil {
			return nil, fmt.Errorf("path segment %q: %w", s, err)
		}
		path = append(path, plain)
	}
	return path, nil
}

// inPath returns the segment after a fixed one: the subscription of a path, or its
// namespace with the type that follows.
func inPath(path []string, at int, fixed string) (string, bool) {
	if len(path) > at+1 && strings.EqualFold(path[at], fixed) {
		return path[at+1], true
	}
	return "", false
}

// namespaceOf finds namespace and type of a path below ".../providers/", of an extension
// resource its own.
func namespaceOf(path []string) (namespace, resourceType string, ok bool) {
	for i := 0; i+1 < len(path); i += 2 {
		if strings.EqualFold(path[i], "providers") {
			var types []string
			for j := i + 2; j < len(path); j += 2 {
				types = append(types, path[j])
			}
			namespace, resourceType, ok = path[i+1], strings.Join(types, "/"), true
		}
	}
	return namespace, resourceType, ok
}
