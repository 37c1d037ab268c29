package relay

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// What clients and services ask of the REST face and what they are answered, in
// testdata/requests: those of 1.x and 2.x as unmodified clients were seen to send them. A
// line "> POST …" begins a wrapped call, lines ">> name=value" are its fields, decoded;
// "< …" is the answer to it, which -update rewrites. What differs each time has names:
// $A and $B the documents made, $CREATE, $TOKEN_A, $STORAGE_A, $OWNER_A, $MOVE tokens,
// $HEAD_A and $ROOT_A the version that was answered last and its tree, $BLOB the blob.
func TestRequests(t *testing.T) {
	files, err := filepath.Glob("testdata/requests/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no requests: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		run := bubble
		if name == "local" {
			run = localBubble
		}
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				e := exchange{t: t, r: r, local: name == "local", known: map[string]string{}}
				got := e.run(string(want))
				if *updateGolden {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				} else if got != string(want) {
					t.Errorf("%s:\n got %s\nwant %s", file, got, want)
				}
			})
		})
	}
}

type exchange struct {
	t     *testing.T
	r     *rig
	local bool
	made  int               // documents
	known map[string]string // what names stand for
}

func (e *exchange) run(script string) string {
	var out, form strings.Builder
	path := ""
	ask := func() {
		if path != "" {
			out.WriteString(e.ask(path, form.String()))
			path = ""
			form.Reset()
		}
	}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "< ") {
			continue // what was answered the last time
		}
		text := strings.TrimSuffix(line, "\n")
		if field, ok := strings.CutPrefix(text, ">> "); ok {
			name, value, _ := strings.Cut(field, "=")
			if form.Len() > 0 {
				form.WriteByte('&')
			}
			form.WriteString(name + "=" + url.QueryEscape(e.replace(value)))
		} else {
			ask()
		}
		if asked, ok := strings.CutPrefix(text, "> POST "); ok {
			path = e.replace(asked)
		}
		out.WriteString(line)
	}
	ask()
	return out.String()
}

var exchangeName = regexp.MustCompile(`\$[A-Z]+(_[A-Z])?`)

// replace puts in what names stand for.
func (e *exchange) replace(text string) string {
	return exchangeName.ReplaceAllStringFunc(text, func(name string) string {
		kind, document, _ := strings.Cut(name, "_")
		id := e.known["$"+document]
		switch kind {
		case "$CREATE":
			return e.token("", func(m jwt.MapClaims) { m["jti"] = newUUID() })
		case "$MOVE":
			return e.token("moved", func(m jwt.MapClaims) { m["jti"] = newUUID() })
		case "$TOKEN":
			return e.token(id)
		case "$OWNER":
			return e.token(id, withScopes("doc:read", "doc:write", "doc:delete", "token:revoke"))
		case "$STORAGE":
			return base64.StdEncoding.EncodeToString([]byte(testTenant + ":" + e.token(id)))
		}
		if e.known[name] == "" {
			e.t.Errorf("%s is not known yet", name)
		}
		return e.known[name]
	})
}

func (e *exchange) token(id string, change ...func(jwt.MapClaims)) string {
	if e.local {
		return e.r.unsigned(id, change...)
	}
	return e.r.token(id, change...)
}

var (
	madeDocument = regexp.MustCompile(`^(?:\{"id":)?"(` + uuidPattern.String() + `)"`)
	listedCommit = regexp.MustCompile(`^\[\{"sha":"([0-9a-f]{40})".*?"tree":\{"sha":"([0-9a-f]{40})"`)
	shownVersion = regexp.MustCompile(`^\{"id":"([0-9a-f]{40})","trees"`)
	storedBlob   = regexp.MustCompile(`^\{"sha":"([0-9a-f]{40})","url":""\}$`)
	madeToken    = regexp.MustCompile(`"token":"[^"]+"`)
)

// ask makes a call, learns names from its answer, and writes that down.
func (e *exchange) ask(path, form string) string {
	e.t.Helper()
	a := e.r.do(wrapped(path, form))
	body := strings.TrimSuffix(string(a.body), "\n")
	if m := madeDocument.FindStringSubmatch(body); m != nil && strings.HasPrefix(path, "/documents/") && strings.Count(path, "/") == 2 {
		e.known[fmt.Sprintf("$%c", 'A'+e.made)] = m[1]
		e.made++
	}
	// Only the first document's versions have names.
	if m := listedCommit.FindStringSubmatch(body); m != nil {
		e.known["$HEAD_A"], e.known["$ROOT_A"] = m[1], m[2]
	}
	if m := shownVersion.FindStringSubmatch(body); m != nil && e.known["$HEAD_A"] == "" {
		e.known["$HEAD_A"] = m[1]
	}
	if m := storedBlob.FindStringSubmatch(body); m != nil {
		e.known["$BLOB"] = m[1]
	}
	for name, id := range e.known {
		body = strings.ReplaceAll(body, id, name)
	}
	body = madeToken.ReplaceAllLiteralString(body, `"token":"$CREATED"`)
	return strings.TrimSuffix(fmt.Sprintf("< %d %s", a.status, body), " ") + "\n"
}
