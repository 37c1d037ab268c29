package arm

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// pattern is a route's path, cut into segments.
type pattern struct {
	segments []string // as written; a parameter keeps its braces
	action   bool     // the last segment is a verb, not a type
}

func parsePattern(method, p string) pattern {
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	_, param := parameter(segments[len(segments)-1])
	return pattern{segments: segments, action: method == http.MethodPost && !param}
}

func parameter(segment string) (name string, ok bool) {
	if len(segment) > 2 && segment[0] == '{' && segment[len(segment)-1] == '}' {
		return segment[1 : len(segment)-1], true
	}
	return "", false
}

// match returns the parameters of a path that p describes.
func (p pattern) match(path []string) (map[string]string, bool) {
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
// them, names as the path does.
func (p pattern) id(path []string) ResourceID {
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

// namespaceOf finds namespace and type of a path below ".../providers/".
func namespaceOf(path []string) (namespace, resourceType string, ok bool) {
	for i := 0; i+1 < len(path) && i <= 4; i += 2 {
		if strings.EqualFold(path[i], "providers") {
			var types []string
			for j := i + 2; j < len(path); j += 2 {
				types = append(types, path[j])
			}
			return path[i+1], strings.Join(types, "/"), true
		}
	}
	return "", "", false
}
