package arm

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Param returns a parameter of the route's pattern, with the letters of the path.
func (r *Request) Param(name string) string { return r.params[name] }

// Decode reads the body, one JSON object, into v. Unknown members are ignored. The
// error is an *Error InvalidRequestContent that says where the trouble is.
func (r *Request) Decode(v any) error {
	if err := DecodeObject(r.Body, v); err != nil {
		return &Error{Status: 400, Code: "InvalidRequestContent", Message: fmt.Sprintf("The request content was invalid and could not be deserialized: '%v'.", err)}
	}
	return nil
}

// DecodeObject reads one JSON object and nothing after it. Of members that have one name the
// last counts. The error is fit for the client: it says what is wrong and where.
func DecodeObject(raw []byte, v any) error {
	if len(bytes.TrimLeft(raw, " \t\r\n")) == 0 {
		return errors.New("the body is empty; a JSON object is needed")
	}
	if !utf8.Valid(raw) {
		return errors.New("the body is not UTF-8")
	}
	if json.Valid(raw) {
		if bytes.TrimLeft(raw, " \t\r\n")[0] != '{' {
			return errors.New("the body is not a JSON object")
		}
		raw = lastOfEach(raw)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(v); err != nil {
		return explain(raw, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("there is more after the JSON object, %s", position(raw, d.InputOffset()))
	}
	return nil
}

// lastOfEach blanks all but the last of an object's members that have one name, at each
// depth: that one is what the real service reads, where encoding/json would make one map or
// one object of all of them. Every other byte stays where it is.
func lastOfEach(raw []byte) []byte {
	type level struct {
		named  map[string]int // the member that a name is of; nil in an array
		begins []int          // where each member does
		value  bool           // what comes next is a member's value
	}
	var open []level
	clean := raw
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // else one that is too large would end it
	for {
		before := d.InputOffset()
		token, err := d.Token()
		if err != nil { // the end: raw is valid
			return clean
		}
		if n := len(open); n > 0 && open[n-1].named != nil && !open[n-1].value && token != json.Delim('}') {
			in := &open[n-1]
			name := token.(string)
			at := int(before) + bytes.IndexByte(raw[before:], '"')
			in.begins = append(in.begins, at)
			if earlier, twice := in.named[name]; twice {
				if &clean[0] == &raw[0] {
					clean = bytes.Clone(raw)
				}
				for i := in.begins[earlier]; i < in.begins[earlier+1]; i++ {
					if clean[i] != '\n' { // lines are counted
						clean[i] = ' '
					}
				}
			}
			in.named[name], in.value = len(in.begins)-1, true
			continue
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{named: map[string]int{}})
			continue
		case json.Delim('['):
			open = append(open, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			open[len(open)-1].value = false // that was one
		}
	}
}

func explain(raw []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%w, %s", syntax, position(raw, syntax.Offset))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("unexpected end of JSON input, %s", position(raw, int64(len(raw))))
	case errors.As(err, &kind):
		return fmt.Errorf("a JSON %s cannot be the value of '%s', %s", kind.Value, kind.Field, position(raw, kind.Offset))
	}
	return err
}

// position counts from 1, in bytes.
func position(raw []byte, offset int64) string {
	before := raw[:min(max(offset, 0), int64(len(raw)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Sprintf("line %d, position %d", line, max(column, 1))
}

// MergePatch applies a JSON merge patch (RFC 7396) to v: members of patch replace
// those of v, null removes them, objects merge. An error is fit for the client.
func MergePatch[T any](v T, patch json.RawMessage) (T, error) {
	var merged T
	base, err := json.Marshal(v)
	if err != nil {
		return merged, fmt.Errorf("encode %T: %w", v, err)
	}
	target, err := generic(base)
	if err != nil {
		return merged, err
	}
	change, err := generic(patch)
	if err != nil {
		return merged, explain(patch, err)
	}
	out, err := json.Marshal(mergeValue(target, change))
	if err != nil {
		return merged, err
	}
	if err := json.Unmarshal(out, &merged); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return merged, fmt.Errorf("a JSON %s cannot be the value of '%s'", kind.Value, kind.Field)
		}
		return merged, err
	}
	return merged, nil
}

// generic decodes with numbers kept as written.
func generic(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

func mergeValue(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	members, ok := target.(map[string]any)
	if !ok {
		members = map[string]any{}
	}
	for name, change := range changes {
		if change == nil {
			delete(members, name)
		} else {
			members[name] = mergeValue(members[name], change)
		}
	}
	return members
}

// Precondition checks If-Match and If-None-Match of a write against the resource's
// ETag, empty when there is no resource; 412. (RFC 9110, 13.1, as ARM narrows it.)
func (r *Request) Precondition(etag string) error {
	failed := func(what string) error {
		return &Error{Status: 412, Code: "PreconditionFailed", Message: fmt.Sprintf("The condition '%s' of the request is not met: %s.", what, r.ID)}
	}
	match, none := r.HTTP.Header.Values("If-Match"), r.HTTP.Header.Values("If-None-Match")
	if len(match) > 0 && !matches(match, etag) {
		return failed("If-Match")
	}
	if len(none) > 0 && matches(none, etag) {
		return failed("If-None-Match")
	}
	return nil
}

func matches(header []string, etag string) bool {
	for _, line := range header {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimSpace(tag)
			if etag != "" && (tag == "*" || strings.TrimPrefix(tag, "W/") == etag) {
				return true
			}
		}
	}
	return false
}

// NewETag returns a fresh ETag, quotes included.
func NewETag() string { return `"` + newGUID() + `"` }

// PageItems is how many items a list shows at once.
const PageItems = 100

// List is the shape of ARM's lists.
type List[T any] struct {
	Value    []T    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

// Page answers with the page of items that r asks for. key is unique to an item and
// does not change; items are shown in its order, so an item that comes or goes between two
// pages moves no other.
func Page[T any](r *Request, items []T, key func(T) string) (*Response, error) {
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	after, err := r.SkipToken()
	if err != nil {
		return nil, err
	}
	if len(after) > 0 {
		items = slices.DeleteFunc(items, func(v T) bool { return key(v) <= string(after) })
	}
	list := List[T]{Value: items}
	if list.Value == nil {
		list.Value = []T{}
	}
	if len(items) > PageItems {
		list.Value = items[:PageItems]
		list.NextLink = r.NextLink([]byte(key(items[PageItems-1])))
	}
	return &Response{Body: list}, nil
}

// SkipToken returns the place that a page of a list is to follow, as NextLink was
// given it; nil for the first page. The client may have made it up. 400 if it has
// another form.
func (r *Request) SkipToken() ([]byte, error) {
	token, err := base64.RawURLEncoding.DecodeString(r.HTTP.URL.Query().Get("$skipToken"))
	if err != nil {
		return nil, ErrInvalidSkipToken()
	}
	return token, nil
}

// NextLink returns the URL of the list's page after token.
func (r *Request) NextLink(token []byte) string {
	query := r.HTTP.URL.Query()
	query.Set("$skipToken", base64.RawURLEncoding.EncodeToString(token))
	next := url.URL{Scheme: "https", Host: r.HTTP.Host, Path: r.HTTP.URL.Path, RawPath: r.HTTP.URL.RawPath, RawQuery: query.Encode()}
	return next.String()
}

// ErrInvalidSkipToken is the 400 of a $skipToken that the server did not make.
func ErrInvalidSkipToken() *Error {
	return &Error{Status: 400, Code: "InvalidSkipToken", Message: "The $skipToken is not one that a nextLink of this list has."}
}

// ErrResourceNotFound is the 404 of a resource.
func ErrResourceNotFound(id ResourceID) *Error {
	types := strings.Join(append([]string{id.Namespace}, id.Types...), "/")
	return &Error{Status: http.StatusNotFound, Code: "ResourceNotFound", Message: fmt.Sprintf(
		"The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
		types, strings.Join(id.Names, "/"), id.ResourceGroup)}
}

// ErrResourceGroupNotFound is the 404 of a resource group.
func ErrResourceGroupNotFound(name string) *Error {
	return &Error{Status: http.StatusNotFound, Code: "ResourceGroupNotFound", Message: fmt.Sprintf("Resource group '%s' could not be found.", name)}
}

// ErrGroupBeingDeleted is the 409 of a write in a resource group that is being deleted.
func ErrGroupBeingDeleted(name string) *Error {
	return &Error{Status: http.StatusConflict, Code: "ResourceGroupBeingDeleted", Message: fmt.Sprintf(
		"The resource group '%s' is in deprovisioning state and cannot perform this operation.", name)}
}
