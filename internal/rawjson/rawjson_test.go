package rawjson_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/tidelock/tidelock/internal/rawjson"
)

var seeds = []string{
	`[]`, `{}`, ` [ ] `, `[1]`, `[1,"a,]\"\\",[2,{"x":[]}],{"a":{"b":"}"}}, null ,true,-1.5e3]`,
	`{"a":1}`, "{ \"a\" : [1,2] ,\n\t\"b\\\"\": {\"c\":\"{\"} , \"\":null }", `{"a":1,"a":2}`,
	`"text"`, ` "te\\u0078t\\n" `, `12`, `null`, `[[[[]]]]`, "[\"\xff\"]", `["\ud800"]`, ``, `[`, `{`, `{"a"`, `{"a":`, `["`, `["\`, `[,]`, `{,}`, `[}`, `]`,
}

// elements is what encoding/json says the parts of an array are.
func elements(t *testing.T, b []byte) []json.RawMessage {
	t.Helper()
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		t.Fatal(err)
	}
	return parts
}

func FuzzParts(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		array := slices.Collect(rawjson.Elements(b))
		names, values := [][]byte{}, [][]byte{}
		for name, value := range rawjson.Members(b) {
			names, values = append(names, name), append(values, value)
		}
		if !json.Valid(b) {
			return // it was enough to come to an end
		}
		if got, want := rawjson.Kind(b), bytes.TrimLeft(b, " \n\r\t")[0]; got != want {
			t.Fatalf("Kind(%q) = %q, want %q", b, got, want)
		}
		switch rawjson.Kind(b) {
		case '[':
			want := elements(t, b)
			if len(array) != len(want) || len(names) != 0 {
				t.Fatalf("%q: elements %q, want %q", b, array, want)
			}
			for i := range want {
				if !bytes.Equal(array[i], want[i]) {
					t.Fatalf("%q: element %d is %q, want %q", b, i, array[i], want[i])
				}
			}
		case '{':
			if len(array) != 0 {
				t.Fatalf("%q: an object has elements %q", b, array)
			}
			var want map[string]json.RawMessage
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			got := map[string]json.RawMessage{}
			for i, name := range names {
				var text string
				if err := json.Unmarshal(name, &text); err != nil {
					t.Fatalf("%q: name %q: %v", b, name, err)
				}
				got[text] = values[i] // the last one counts, as in encoding/json
			}
			if len(got) != len(want) {
				t.Fatalf("%q: members %q, want %q", b, got, want)
			}
			for name, value := range want {
				if !bytes.Equal(got[name], value) {
					t.Fatalf("%q: member %q is %q, want %q", b, name, got[name], value)
				}
			}
		default:
			if len(array)+len(names) != 0 {
				t.Fatalf("%q: parts %q and %q of a value without any", b, array, names)
			}
		}
		var want string
		isString := rawjson.Kind(b) == '"' && json.Unmarshal(b, &want) == nil
		got, err := rawjson.String(b)
		if (err == nil) != isString || got != want {
			t.Fatalf("String(%q) = %q, %v; want %q, %t", b, got, err, want, isString)
		}
	})
}

func TestStopsWhenAsked(t *testing.T) {
	for part := range rawjson.Elements([]byte(`[1,2]`)) {
		if string(part) != "1" {
			t.Fatalf("got %q after the end", part)
		}
		break
	}
	for name := range rawjson.Members([]byte(`{"a":1,"b":2}`)) {
		if string(name) != `"a"` {
			t.Fatalf("got %q after the end", name)
		}
		break
	}
}
