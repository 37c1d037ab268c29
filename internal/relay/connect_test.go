package relay

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestChooseVersion(t *testing.T) {
	for _, test := range []struct {
		ranges []string
		want   string
	}{
		{[]string{"^0.4.0", "^0.3.0"}, "^0.4.0"},
		{[]string{"^0.1.0"}, "^0.1.0"},
		{[]string{"^9.0.0", "~0.2.7"}, "^0.2.0"},
		{[]string{"0.3.1"}, "^0.3.0"},
		{[]string{"^0.5.0", "^0.0.1"}, ""},
		{[]string{"^1.0.0", "^1.4.0", "*", "", "0.4", "0.x.0"}, ""},
		{nil, ""},
	} {
		got, ok := chooseVersion(test.ranges)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%q: %q %v, want %q", test.ranges, got, ok, test.want)
		}
	}
}

func FuzzParseConnect(f *testing.F) {
	f.Add(string(encode(connectBody("d", "a.b.c", "write"))))
	f.Add(`{"tenantId":null}`)
	f.Fuzz(func(t *testing.T, in string) {
		m, err := parseConnect([]json.RawMessage{json.RawMessage(in)})
		if err != nil {
			return
		}
		if m.TenantID == nil || m.ID == nil || !isMode(m.Mode) || !json.Valid(m.Client.Details) {
			t.Errorf("took %q", in)
		}
	})
}

func FuzzParseOps(f *testing.F) {
	f.Add(`[[{"clientSequenceNumber":1,"referenceSequenceNumber":0,"type":"op","contents":"x","metadata":{}}],{"clientSequenceNumber":2}]`)
	f.Add(`[7]`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, in string) {
		if !json.Valid([]byte(in)) {
			return // the socket ends below us
		}
		ops, refused := parseOps(json.RawMessage(in))
		if refused == nil && strings.TrimLeft(in, " \t\r\n")[0] != '[' {
			t.Errorf("took %q, which is no list", in)
		}
		for _, op := range ops {
			if op.Contents != nil && !json.Valid(op.Contents) {
				t.Errorf("contents %q of %q", op.Contents, in)
			}
		}
	})
}

func FuzzParseSignal(f *testing.F) {
	f.Add(`{"content":"x","targetClientId":"c","clientId":"forged","\u0063lientId":"again"}`)
	f.Add(`{"content":null}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := splitSignals(json.RawMessage(in)); err == nil && !json.Valid([]byte(in)) {
			t.Errorf("split %q, which is no JSON", in)
		}
		body, _, err := rewriteSignal(json.RawMessage(in), []byte(`"me"`))
		if err != nil {
			return
		}
		var out map[string]json.RawMessage
		if err := json.Unmarshal(body, &out); err != nil {
			t.Fatalf("%q became %q: %v", in, body, err)
		}
		if string(out["clientId"]) != `"me"` {
			t.Errorf("%q is from %s", in, out["clientId"])
		}
	})
}
