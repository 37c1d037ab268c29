package resources

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/tidelock/tidelock/internal/provider/tracked"
)

// term is one comparison of a $filter: a field, eq, and a quoted value in which a
// quote is written twice.
var term = regexp.MustCompile(`(?i)^\s*([a-z]+)\s+eq\s+'((?:[^']|'')*)'\s*`)

// parseFilter reads the $filter that clients send: comparisons joined by "and". An
// empty one keeps everything.
func parseFilter(filter string) (func(tracked.Summary) bool, error) {
	wanted := map[string]string{}
	for rest := filter; strings.TrimSpace(rest) != ""; {
		m := term.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("'%.100s' is not of the form: field eq 'value' [and …]", rest)
		}
		field := strings.ToLower(m[1])
		switch field {
		case "resourcetype", "resourcegroup", "name", "location", "tagname", "tagvalue":
			wanted[field] = strings.ReplaceAll(m[2], "''", "'")
		default:
			return nil, fmt.Errorf("the field '%.40s' cannot be filtered by", m[1])
		}
		rest = rest[len(m[0]):]
		if rest == "" {
			break
		}
		after, ok := cutAnd(rest)
		if !ok {
			return nil, fmt.Errorf("'and' is missing before '%.100s'", rest)
		}
		rest = after
	}
	if _, ok := wanted["tagvalue"]; ok && wanted["tagname"] == "" {
		return nil, fmt.Errorf("tagValue needs tagName beside it")
	}
	return func(s tracked.Summary) bool { return matches(s, wanted) }, nil
}

func cutAnd(s string) (after string, ok bool) {
	if len(s) < 4 || !strings.EqualFold(s[:4], "and ") || strings.TrimSpace(s[4:]) == "" {
		return "", false
	}
	return s[4:], true
}

func matches(s tracked.Summary, wanted map[string]string) bool {
	for field, value := range wanted {
		var got string
		switch field {
		case "resourcetype":
			got = s.Type
		case "resourcegroup":
			got = groupOf(s)
		case "name":
			got = s.Name
		case "location":
			got = s.Location
		case "tagname":
			if !hasTag(s.Tags, value, wanted["tagvalue"]) {
				return false
			}
			continue
		case "tagvalue":
			continue // with its name
		}
		if !strings.EqualFold(got, value) {
			return false
		}
	}
	return true
}

// hasTag: names of tags are compared without case, values are not.
func hasTag(tags map[string]string, name, value string) bool {
	for n, v := range tags {
		if strings.EqualFold(n, name) && (value == "" || v == value) {
			return true
		}
	}
	return false
}
