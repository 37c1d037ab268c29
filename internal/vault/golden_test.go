package vault_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var volatile = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "{guid}"},
	{regexp.MustCompile(`/[0-9a-f]{32}`), "/{version}"},
	{regexp.MustCompile(`"(created|updated|deletedDate|scheduledPurgeDate)": [0-9]+`), `"$1": "{time}"`},
	{regexp.MustCompile(`"(n|x|y|value)": "[0-9A-Za-z_-]+"`), `"$1": "{base64url}"`},
	{regexp.MustCompile(`localhost:[0-9]+`), "localhost"},
	{regexp.MustCompile(`api-version=[0-9.-]+`), "api-version={version}"},
}

// Each operation answers in the shape of its golden file, and in the same one for every
// api-version: what later versions added, these keys do not have.
func TestGolden(t *testing.T) {
	steps := []struct{ name, method, path, body string }{
		{"create-rsa", "POST", "/keys/Kek/create", `{"kty":"RSA","key_size":2048,"attributes":{"enabled":true,"nbf":10,"exp":4102444800},"tags":{"a":"b"}}`},
		{"get", "GET", "/keys/kek", ""},
		{"update", "PATCH", "/keys/kek", `{"attributes":{"enabled":true},"tags":{"c":"d"}}`},
		{"list", "GET", "/keys", ""},
		{"versions", "GET", "/keys/kek/versions", ""},
		{"create-ec", "POST", "/keys/ec/create", `{"kty":"EC","crv":"P-256"}`},
		{"encrypt", "POST", "/keys/kek/encrypt", `{"alg":"RSA-OAEP","value":"AAAA"}`},
		{"wrap", "POST", "/keys/kek/wrapkey", `{"alg":"RSA-OAEP-256","value":"AAAA"}`},
		{"sign", "POST", "/keys/ec/sign", `{"alg":"ES256","value":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`},
		{"verify", "POST", "/keys/ec/verify", `{"alg":"ES256","digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","value":"AAAA"}`},
		{"policy-default", "GET", "/keys/kek/rotationpolicy", ""},
		{"policy-set", "PUT", "/keys/kek/rotationpolicy", `{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P1Y"}}`},
		{"backup", "POST", "/keys/kek/backup", ""},
		{"release", "POST", "/keys/kek/release", "{}"},
		{"delete", "DELETE", "/keys/kek", ""},
		{"deleted-get", "GET", "/deletedkeys/kek", ""},
		{"deleted-list", "GET", "/deletedkeys", ""},
		{"get-deleted", "GET", "/keys/kek", ""},
		{"recover", "POST", "/deletedkeys/kek/recover", ""},
		{"delete-again", "DELETE", "/keys/kek", ""},
		{"purge", "DELETE", "/deletedkeys/kek", ""},
		{"unauthorized", "GET", "/keys", ""},
	}
	c := newCloud(t, io.Discard)
	token := c.token(t, "https://"+c.suffix)
	for n, version := range []string{"7.6", "2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "2025-07-01"} {
		host := fmt.Sprintf("contoso%d", n)
		c.put(t, c.vault(host))
		for _, s := range steps {
			as := token
			if s.name == "unauthorized" {
				as = ""
			}
			resp := c.send(t, s.method, host, s.path+"?api-version="+version, as, s.body)
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, s.name, fmt.Sprintf("%s as of %s", s.name, version), resp.StatusCode, bytes.ReplaceAll(raw, []byte(host), []byte("contoso")), *update && n == 0)
		}
	}
}

func golden(t *testing.T, name, what string, status int, body []byte, write bool) {
	t.Helper()
	whole := fmt.Appendf(nil, `{"status":%d`, status)
	if len(bytes.TrimSpace(body)) > 0 {
		whole = fmt.Appendf(whole, `,"body":%s`, body)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, append(whole, '}'), "", "  "); err != nil {
		t.Fatalf("%s: %v: %s", what, err, body)
	}
	got := indented.String() + "\n"
	for _, v := range volatile {
		got = v.pattern.ReplaceAllString(got, v.word)
	}
	file := filepath.Join("testdata", "golden", name+".json")
	if write {
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from %s (-update rewrites it):\ngot:\n%s\nwant:\n%s", what, file, got, strings.TrimSpace(string(want)))
	}
}
