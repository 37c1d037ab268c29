package arm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestPageThroughAll(t *testing.T) {
	var all []string
	for i := range 250 {
		all = append(all, fmt.Sprintf("item-%03d", 249-i))
	}
	rt, _ := testRouter(t, Route{Method: "GET", Pattern: InGroup + "/providers/Microsoft.Thing/things", Action: "r", Handle: func(_ context.Context, r *Request) (*Response, error) {
		return Page(r, append([]string(nil), all...), func(s string) string { return s })
	}})
	var got []string
	target, pages := group+"/providers/Microsoft.Thing/things"+v1+"&$filter=a%20b", 0
	for target != "" {
		w, _ := do(t, rt, "GET", target, "good", "")
		var list List[string]
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatalf("page %d: %v: %s", pages, err, w.Body)
		}
		got = append(got, list.Value...)
		target = strings.TrimPrefix(list.NextLink, "https://management.test")
		if target != "" && !strings.Contains(target, "filter=a+b") {
			t.Errorf("nextLink %s lost the filter", target)
		}
		pages++
		if pages == 1 {
			all = append(all, "item-000-new") // behind us: moves nothing
		}
	}
	if len(got) != 250 || pages != 3 || got[0] != "item-000" || got[249] != "item-249" {
		t.Errorf("got %d items in %d pages, want 250 in 3", len(got), pages)
	}
	if w, e := do(t, rt, "GET", group+"/providers/Microsoft.Thing/things"+v1+"&$skipToken=***", "good", ""); w.Code != 400 || e.Code != "InvalidSkipToken" {
		t.Errorf("a bad $skipToken: got %d %s", w.Code, e.Code)
	}
	all = nil
	if w, _ := do(t, rt, "GET", group+"/providers/Microsoft.Thing/things"+v1, "good", ""); strings.TrimSpace(w.Body.String()) != `{"value":[]}` {
		t.Errorf("an empty list: got %s", w.Body)
	}
}

func TestMergePatch(t *testing.T) {
	type inner struct {
		URL  string `json:"url,omitempty"`
		Name string `json:"name,omitempty"`
	}
	type outer struct {
		Inner *inner         `json:"inner,omitempty"`
		Count int            `json:"count"`
		Map   map[string]any `json:"map,omitempty"`
	}
	base := outer{Inner: &inner{"u", "n"}, Count: 3}
	for _, c := range []struct {
		name, patch string
		want        outer
	}{
		{"AbsentIsKept", `{}`, base},
		{"LeafIsReplaced", `{"inner":{"url":"v"}}`, outer{Inner: &inner{"v", "n"}, Count: 3}},
		{"NullRemovesLeaf", `{"inner":{"url":null}}`, outer{Inner: &inner{"", "n"}, Count: 3}},
		{"NullRemovesObject", `{"inner":null}`, outer{Count: 3}},
		{"UnknownIsIgnored", `{"foo":{"bar":1}}`, base},
		{"NullInNewObjectIsDropped", `{"map":{"a":null,"b":"c"}}`, outer{Inner: &inner{"u", "n"}, Count: 3, Map: map[string]any{"b": "c"}}},
	} {
		got, err := MergePatch(base, json.RawMessage(c.patch))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := MergePatch(base, json.RawMessage(`{"count":"x"}`)); err == nil || !strings.Contains(err.Error(), "'count'") {
		t.Errorf("wrong type: got %v, want an error that names count", err)
	}
}

// The examples of RFC 7396, appendix A, that are objects.
func TestMergePatchRFC7396(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		got, err := MergePatch(json.RawMessage(c[0]), json.RawMessage(c[1]))
		if err != nil || string(got) != c[2] {
			t.Errorf("%s with %s: got %s, %v, want %s", c[0], c[1], got, err, c[2])
		}
	}
}

func TestPrecondition(t *testing.T) {
	for _, c := range []struct {
		name, header, value, etag string
		ok                        bool
	}{
		{"NoCondition", "", "", `"a"`, true},
		{"IfMatchAnyOnNothing", "If-Match", "*", "", false},
		{"IfMatchAnyOnSomething", "If-Match", "*", `"a"`, true},
		{"IfMatchSame", "If-Match", `"a"`, `"a"`, true},
		{"IfMatchOneOfMany", "If-Match", `"b", "a"`, `"a"`, true},
		{"IfMatchOther", "If-Match", `"b"`, `"a"`, false},
		{"IfNoneMatchAnyOnSomething", "If-None-Match", "*", `"a"`, false},
		{"IfNoneMatchAnyOnNothing", "If-None-Match", "*", "", true},
		{"IfNoneMatchOther", "If-None-Match", `"b"`, `"a"`, true},
	} {
		r := &Request{HTTP: httptest.NewRequestWithContext(t.Context(), "PUT", "/", nil)}
		if c.header != "" {
			r.HTTP.Header.Set(c.header, c.value)
		}
		if err := r.Precondition(c.etag); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want ok=%v", c.name, err, c.ok)
		}
	}
}

func TestParseResourceID(t *testing.T) {
	id, err := ParseResourceID("/Subscriptions/" + sub + "/resourcegroups/Rg1/providers/Microsoft.Thing/things/T1/parts/P1/")
	if err != nil {
		t.Fatal(err)
	}
	want := "/subscriptions/" + sub + "/resourceGroups/Rg1/providers/Microsoft.Thing/things/T1/parts/P1"
	if id.String() != want || id.Key() != strings.ToLower(want) || id.Name() != "P1" || !id.IsType("microsoft.thing/THINGS/parts") {
		t.Errorf("got %s, key %s, name %s", id, id.Key(), id.Name())
	}
	for name, bad := range map[string]string{
		"Empty": "", "Relative": want[1:], "Collection": group + "/providers/Microsoft.Thing/things", "Group": group,
		"NoGUID":     "/subscriptions/x/resourceGroups/r/providers/n/t/x",
		"EmptyName":  "/subscriptions/" + sub + "/resourceGroups//providers/n/t/x",
		"WrongFixed": "/subscriptions/" + sub + "/resourceGroups/r/suppliers/n/t/x",
		"BadName":    "/subscriptions/" + sub + "/resourceGroups/r/providers/n/t/x?y",
		"DotDot":     "/subscriptions/" + sub + "/resourceGroups/../providers/n/t/x",
		"TooLong":    "/subscriptions/" + sub + "/resourceGroups/r/providers/n/t/" + strings.Repeat("x", 2100),
		"Quotes":     "“" + want + "”",
	} {
		if id, err := ParseResourceID(bad); err == nil {
			t.Errorf("%s: %q parses as %s", name, bad, id)
		}
	}
}

func FuzzParseResourceID(f *testing.F) {
	f.Add("/subscriptions/" + sub + "/resourceGroups/r/providers/n/t/x")
	f.Add("/SUBSCRIPTIONS/" + sub + "/resourcegroups/R/providers/N/T/x/U/y/")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseResourceID(s)
		if err != nil {
			return
		}
		again, err := ParseResourceID(id.String())
		if err != nil || !reflect.DeepEqual(again, id) {
			t.Fatalf("%q parses as %+v, which prints %q and parses as %+v, %v", s, id, id, again, err)
		}
	})
}

func FuzzMergePatch(f *testing.F) {
	f.Add(`{"a":{"b":1}}`, `{"a":{"b":null,"c":[1,null]}}`)
	f.Add(`{"a":1}`, `null`)
	f.Fuzz(func(t *testing.T, target, patch string) {
		got, err := MergePatch(json.RawMessage(target), json.RawMessage(patch))
		if err != nil || len(got) == 0 {
			return
		}
		again, err := MergePatch(got, json.RawMessage(patch))
		if err != nil || string(again) != string(got) {
			t.Fatalf("merging %q twice into %q gives %q, then %q, %v", patch, target, got, again, err)
		}
	})
}

func TestTheLastOfEachMemberCounts(t *testing.T) {
	type body struct {
		Tags  map[string]string             `json:"tags"`
		Inner *struct{ A, B string }        `json:"inner"`
		Raw   json.RawMessage               `json:"raw"`
		List  []map[string]*struct{ A int } `json:"list"`
	}
	for _, c := range []struct{ name, given, same string }{
		{"Map", `{"tags":{"a":"1"},"tags":{"b":"2"}}`, `{"tags":{"b":"2"}}`},
		{"InMap", `{"tags":{"a":"1","b":"2","a":"3"}}`, `{"tags":{"b":"2","a":"3"}}`},
		{"Object", `{"inner":{"A":"1","B":"2"},"inner":{"A":"3"}}`, `{"inner":{"A":"3"}}`},
		{"Null", `{"inner":{"A":"1"},"tags":{"a":"1"},"inner":null,"tags":null}`, `{}`},
		{"ThreeTimes", `{ "tags" : {"a":"1"} , "inner":{"A":"1"}, "tags":null,"tags" : {"c":"3"} }`, `{"inner":{"A":"1"},"tags":{"c":"3"}}`},
		{"Escaped", `{"tags":{"a":"1"},"\u0074ags":{"b":"2"}}`, `{"tags":{"b":"2"}}`},
		{"InLists", `{"list":[{"x":{"A":1},"x":{}},{"x":{"A":1}}]}`, `{"list":[{"x":{}},{"x":{"A":1}}]}`},
		{"AfterLargeNumbers", `{"other":1e999,"tags":{"a":"1"},"tags":{}}`, `{"tags":{}}`},
		{"NotAcrossObjects", `{"inner":{"A":"1"},"list":[{"inner":{"A":1}}]}`, `{"inner":{"A":"1"},"list":[{"inner":{"A":1}}]}`},
	} {
		var got, want body
		if err := DecodeObject([]byte(c.given), &got); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := json.Unmarshal([]byte(c.same), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
	}
	var v body
	if err := DecodeObject([]byte("{\"tags\":{},\n \"tags\":[]}"), &v); err == nil || !strings.Contains(err.Error(), "'tags', line 2, position 9") {
		t.Errorf("a wrong type after a repetition: %v", err)
	}
}

func FuzzDecodeObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":`, "{\n\"a\" 1}", `[]`, `{}x`, "\xff", `{"Location":3}`, `{"a":[{"b":1,"b":{}}],"a":2e999}`, `{"a":{"a":1},"b":[],"a":"a"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v json.RawMessage
		if DecodeObject(raw, &v) != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("%q is taken, but is not JSON", raw)
		}
		if !jsontext.Value(v).IsValid(jsontext.AllowInvalidUTF8(true)) {
			t.Fatalf("%q is read as %q, in which a member is repeated", raw, v)
		}
		want, wantErr := generic(raw) // in which the last counts
		got, err := generic(v)
		if err != nil || wantErr != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q is read as %q: %v, %v", raw, v, err, wantErr)
		}
	})
}
