package relay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/sequencer"
)

// reply is an answer of the REST face.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request over a connection of its own.
func (r *rig) do(request *http.Request) reply {
	r.t.Helper()
	transport := &http.Transport{DialContext: r.pipes.dial, DisableKeepAlives: true, DisableCompression: true}
	request.RequestURI = ""
	if request.URL.Host == "" {
		request.URL.Scheme, request.URL.Host = "http", "relay.test:7070"
	}
	request.Host = ""
	response, err := transport.RoundTrip(request.WithContext(r.t.Context()))
	if err != nil {
		r.t.Fatalf("%s %s: %v", request.Method, request.URL, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatalf("%s %s: read the answer: %v", request.Method, request.URL, err)
	}
	return reply{response.StatusCode, response.Header, body}
}

// call makes a call as drivers do: wrapped, with the token in the route's form.
func (r *rig) call(method, path, token, body string) reply {
	r.t.Helper()
	return r.do(wrap(method, path, authorization(path, token), body))
}

// plain makes the same call unwrapped, as curl would.
func (r *rig) plain(method, path, token, body string) reply {
	r.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for name, value := range authorization(path, token) {
		request.Header.Set(name, value)
	}
	return r.do(request)
}

func authorization(path, token string) map[string]string {
	if token == "" {
		return nil
	}
	if strings.HasPrefix(path, "/repos/") {
		token = base64.StdEncoding.EncodeToString([]byte(testTenant + ":" + token))
	}
	return map[string]string{"Authorization": "Basic " + token}
}

// want fails unless the answer has this status and, as a JSON string, this body.
func (a reply) want(t *testing.T, status int, message string) {
	t.Helper()
	if a.status != status || string(a.body) != string(encode(message)) {
		t.Errorf("got %d %s, want %d %q", a.status, a.body, status, message)
	}
}

func (a reply) decode(t *testing.T, status int, v any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %d %s, want %d", a.status, a.body, status)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("answer %s: %v", a.body, err)
	}
}

// golden compares the whole answer with testdata/rest/<name>.txt.
func (a reply) golden(t *testing.T, name string) {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", a.status)
	for _, header := range slices.Sorted(func(yield func(string) bool) {
		for h := range a.header {
			if h != "Date" && h != "Connection" && !yield(h) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "%s: %s\n", header, strings.Join(a.header[header], ", "))
	}
	fmt.Fprintf(&b, "\n%s", a.body)
	names := map[string]string{}
	got := uuidPattern.ReplaceAllStringFunc(b.String(), func(id string) string {
		if names[id] == "" {
			names[id] = fmt.Sprintf("uuid-%d", len(names)+1)
		}
		return names[id]
	})
	path := filepath.Join("testdata", "rest", name+".txt")
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n got %s\nwant %s", path, got, want)
	}
}

// createBody is what azure-client sends, 2.x and 1.x.
const (
	createBody = `{"summary":{"type":"tree","entries":[{"path":".channels","type":"tree","value":{"type":"tree","entries":[` +
		`{"path":"A%%2FB","type":"blob","value":{"type":"blob","content":"hello","encoding":"utf-8"}}]}}]},` +
		`"sequenceNumber":0,"values":[["code",{"key":"code","value":{"package":"no-dynamic-package","config":{}},"approvalSequenceNumber":0,` +
		`"commitSequenceNumber":0,"sequenceNumber":0}]],"enableDiscovery":%t,"generateToken":%t,"isEphemeralContainer":false,"enableAnyBinaryBlobOnFirstSummary":true}`
	classicBody = `{"summary":{"type":1,"tree":{".channels":{"type":1,"tree":{"A/B":{"type":2,"content":"hello"}}}}},"sequenceNumber":0,"values":[]}`
)

// createToken is a token for one creation.
func (r *rig) createToken() string {
	return r.token("", func(m jwt.MapClaims) { m["jti"] = newUUID() })
}

func TestRESTCreate(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, test := range []struct {
			name, body string
		}{
			{"create", fmt.Sprintf(createBody, false, false)},
			{"create_discovery", fmt.Sprintf(createBody, true, false)},
			{"create_1x", classicBody},
		} {
			r.call("POST", "/documents/t1", r.createToken(), test.body).golden(t, test.name)
		}

		var made struct {
			ID, Token string
			Session   *sessionInfo
		}
		r.call("POST", "/documents/t1", r.createToken(), fmt.Sprintf(createBody, true, true)).decode(t, 201, &made)
		c, _, err := r.server.checkToken(t.Context(), made.Token, testTenant, made.ID, restFace)
		if err == nil || err.Error() != "Missing scopes in token claims." {
			t.Errorf("the token of a creation opens something: %+v, %v", c, err)
		}
		c, err = parseClaims(made.Token)
		if err != nil || c.DocumentID != made.ID || c.Expires.Sub(c.IssuedAt) != 5*time.Minute || !strings.Contains(string(c.User), `"u1"`) || c.Version != "1.0" {
			t.Errorf("claims %+v, %v", c, err)
		}
		if _, err := r.server.checkSignature(t.Context(), made.Token, c); err != nil {
			t.Errorf("the token of a creation is not signed by its tenant: %v", err)
		}
		if made.Session == nil || made.Session.Stream != "http://relay.test:7070" {
			t.Errorf("session %+v", made.Session)
		}
	})
}

func TestRESTCreateOnlyOncePerToken(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		token := r.createToken()
		for _, bad := range []string{"", "{", "[]", `{"summary":1}`, `{"summary":{"type":"tree"}}`, `{"sequenceNumber":"x"}`, fmt.Sprintf(createBody, false, false)[1:]} {
			if a := r.call("POST", "/documents/t1", token, bad); a.status != 400 {
				t.Errorf("body %q: %d %s, want 400", bad, a.status, a.body)
			}
		}
		// What created nothing did not use it up.
		if a := r.call("POST", "/documents/t1", token, classicBody); a.status != 201 {
			t.Fatalf("create: %d %s", a.status, a.body)
		}
		const used = "Access token has already been used."
		r.call("POST", "/documents/t1", token, classicBody).want(t, 403, used)
		r.restart()
		r.call("POST", "/documents/t1", token, classicBody).want(t, 403, used)
	})
}

// An id that a client gives is not used: it could be somebody's document.
func TestRESTCreateIgnoresGivenIDs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		var made string
		r.call("POST", "/documents/t1", r.createToken(), `{"id":"`+id+`",`+classicBody[1:]).decode(t, 201, &made)
		if made == id {
			t.Error("a document was created over an existing one")
		}
	})
}

func TestRESTDocuments(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		r.call("GET", "/documents/t1/"+id, token, "").golden(t, "document")
		r.call("GET", "/documents/t1/session/"+id, token, "").golden(t, "session")
		signal := `{"signalContent":{"contents":{"type":"t","content":{"a":1}}}}`
		r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", token, signal).golden(t, "signal_inactive")

		c := r.read(id)
		r.call("GET", "/documents/t1/session/"+id, token, "").golden(t, "session_active")
		r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", token, signal).golden(t, "signal")
		for {
			if got := string(c.await("signal").args[0]); strings.Contains(got, "RuntimeMessage") {
				if want := `{"clientId":null,"content":"{\"type\":\"RuntimeMessage\",\"contents\":{\"type\":\"t\",\"content\":{\"a\":1}}}"}`; got != want {
					t.Errorf("signal %s, want %s", got, want)
				}
				break
			}
		}
		for _, bad := range []string{"{}", `{"signalContent":{}}`, `{"signalContent":{"contents":{"type":"t"}}}`} {
			r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", token, bad).
				want(t, 400, "signalContent must contain 'contents.content' and 'contents.type' keys.")
		}
		c.close()

		revoker := r.token(id, withScopes("doc:read", "doc:write", "token:revoke"))
		revoke := "/documents/t1/document/" + id + "/revokeToken"
		r.call("POST", revoke, token, `{"jti":"x"}`).want(t, 403, "Missing RevokeToken scopes in token claims.")
		r.call("POST", revoke, revoker, `{}`).want(t, 400, "Missing jti in request body.")
		r.call("POST", revoke, revoker, `{"jti":"x"}`).want(t, 400, "Missing x-correlation-id header.")

		r.call("DELETE", "/documents/t1/document/"+id, token, "").want(t, 403, "Missing DocDelete scopes in token claims.")
		deleter := r.token(id, withScopes("doc:read", "doc:write", "doc:delete"))
		r.call("DELETE", "/documents/t1/document/"+id, deleter, "").golden(t, "delete")
		r.call("GET", "/documents/t1/session/"+id, token, "").golden(t, "session_unknown")
		r.call("GET", "/documents/t1/"+id, token, "").golden(t, "document_unknown")
		r.call("GET", "/deltas/t1/"+id, token, "").golden(t, "deltas_unknown")
		r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", token, signal).want(t, 404, "Document is deleted and cannot be accessed.")
		r.call("GET", "/repos/t1/git/summaries/latest", token, "").want(t, 404, "Document is deleted and cannot be accessed.")
		if a := r.call("DELETE", "/documents/t1/document/"+id, deleter, ""); a.status != 204 {
			t.Errorf("deleted again: %d %s, want 204", a.status, a.body)
		}
	})
}

func TestRESTDeltas(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		c := r.join(id)
		c.submit("a", "b", "c", "d")
		c.awaitMine(4)
		token := r.token(id)
		r.call("GET", "/deltas/t1/"+id+"?from=1&to=3&fetchReason=x&retry=1", token, "").golden(t, "deltas")
		for query, want := range map[string]string{
			"":                          "[1 2 3 4 5]",
			"?from=2&to=5":              "[3 4]",
			"?from=3":                   "[4 5]",
			"?to=4":                     "[1 2 3]",
			"?from=-1&to=3":             "[1 2]",
			"?from=x&to=y":              "[1 2 3 4 5]",
			"?from=x&to=3":              "[1 2]",
			"?from=5":                   "[]",
			"?from=9223372036854775807": "[]",
			"?to=-9223372036854775808":  "[]",
		} {
			var ops []struct {
				Seq sequencer.Seq `json:"sequenceNumber"`
			}
			r.call("GET", "/deltas/t1/"+id+query, token, "").decode(t, 200, &ops)
			var seqs []sequencer.Seq
			for _, op := range ops {
				seqs = append(seqs, op.Seq)
			}
			if got := fmt.Sprint(seqs); got != want {
				t.Errorf("%q: ops %s, want %s", query, got, want)
			}
		}
		if a := r.call("GET", "/deltas/t1/unknown", r.token("unknown"), ""); a.status != 200 || string(a.body) != "[]" {
			t.Errorf("unknown document: %d %s, want no ops", a.status, a.body)
		}
		c.close()
	})
}

func TestDeltaWindow(t *testing.T) {
	for _, test := range []struct {
		from, to         string
		wantFrom, wantTo sequencer.Seq
	}{
		{"", "", 0, 2001},
		{"5", "", 5, 2006},
		{"", "4", 0, 4},
		{"", "5000", 2999, 5000},
		{"2", "5", 2, 5},
	} {
		if from, to := deltaWindow(test.from, test.to); from != test.wantFrom || to != test.wantTo {
			t.Errorf("from=%q to=%q: %d to %d, want %d to %d", test.from, test.to, from, to, test.wantFrom, test.wantTo)
		}
	}
}

func TestRESTStorage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		const git = "/repos/t1/git/"
		r.call("GET", git+"summaries/latest?disableCache=true", token, "").golden(t, "summary_latest")
		var latest struct {
			ID    string
			Trees []struct{ ID string }
		}
		r.call("GET", git+"summaries/latest", token, "").decode(t, 200, &latest)

		r.call("POST", git+"blobs", token, `{"content":"AAEC","encoding":"base64"}`).golden(t, "blob_post")
		const sha = "8352675d67aed6625ece79af41c27fdb4ee2e867" // git hash-object of those bytes
		r.call("GET", git+"blobs/"+sha, token, "").golden(t, "blob")
		r.call("GET", git+"blobs/"+sha+"?disableCache", token, "").golden(t, "blob_uncached")
		r.call("GET", git+"blobs/"+strings.Repeat("0", 40), token, "").golden(t, "blob_unknown")
		r.call("POST", git+"blobs", token, `{"content":"*","encoding":"base64"}`).want(t, 400, "The blob cannot be stored: content is not base64.")
		r.call("POST", git+"blobs", token, `{"encoding":"utf-8"}`).want(t, 400, "The request body has no content.")
		r.call("POST", git+"blobs", token, `{"content":{}}`).want(t, 400, "Failed to parse json body: content is a object.")

		r.call("GET", git+"summaries/"+latest.ID, token, "").golden(t, "summary_version")
		r.call("GET", git+"trees/"+latest.Trees[0].ID, token, "").golden(t, "tree")
		r.call("GET", git+"trees/"+latest.Trees[0].ID+"?recursive=1", token, "").golden(t, "tree_recursive")
		r.call("GET", git+"commits/"+latest.ID, token, "").golden(t, "commit")
		r.call("GET", "/repos/t1/commits?count=5&sha="+id, token, "").golden(t, "commits")
		r.call("GET", "/repos/t1/commits?count=0&sha="+id, token, "").want(t, 400, "count must be a number of commits, at least 1.")
		r.call("GET", "/repos/t1/commits?count=1&sha=latest", token, "").want(t, 404, "The requested object does not exist in this document.")

		upload := `{"type":"channel","message":"","sequenceNumber":0,"entries":[{"path":"a","type":"blob","id":"` + latest.ID + `/.app/a"},{"path":"0","type":"blob","id":"` + sha + `"}]}`
		a := r.call("POST", git+"summaries?initial=false", token, upload)
		a.golden(t, "summary_post")
		r.call("POST", git+"summaries", token, `{"type":"channel","entries":[{"path":"a","type":"tree","id":"x/.app"}]}`).golden(t, "summary_unresolved")
		r.call("POST", git+"summaries", r.token(id, withScopes("doc:read", "doc:write")), upload).
			want(t, 403, "Permission denied. Insufficient scopes. Required scopes: doc:read,doc:write,summary:write")

		// Proposed, judged and acknowledged, the upload is the latest version.
		var up struct{ ID string }
		a.decode(t, 201, &up)
		c := r.join(id, summarizer)
		if ack := c.summarize(up.ID, latest.ID, 1); ack.Type != sequencer.TypeSummaryAck {
			t.Fatalf("the summary was answered with %s %s", ack.Type, ack.Contents)
		}
		c.close()
		var now struct {
			ID    string
			Blobs []struct{ ID string }
		}
		r.call("GET", git+"summaries/latest", token, "").decode(t, 200, &now)
		if now.ID == latest.ID || !slices.ContainsFunc(now.Blobs, func(b struct{ ID string }) bool { return b.ID == sha }) {
			t.Errorf("latest is %+v; want a new version with the attachment in it", now)
		}
		var versions []struct{ SHA string }
		r.call("GET", "/repos/t1/commits?count=5&sha="+id, token, "").decode(t, 200, &versions)
		if len(versions) != 2 || versions[0].SHA != now.ID || versions[1].SHA != latest.ID {
			t.Errorf("versions %v, want %s and %s", versions, now.ID, latest.ID)
		}
	})
}

// The ref of a document, as the tools that copy documents ask for it: wrapped or plain,
// its slash encoded or not. It cannot be moved.
func TestRESTRefs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		const refs = "/repos/t1/git/refs"
		r.call("GET", refs, token, "").golden(t, "refs")
		r.call("GET", refs+"/heads%2F"+id, token, "").golden(t, "ref")
		var want, got gitRef
		r.call("GET", refs+"/heads%2F"+id, token, "").decode(t, 200, &want)
		for what, a := range map[string]reply{
			"plain":             r.plain("GET", refs+"/heads%2F"+id, token, ""),
			"with a bare slash": r.call("GET", refs+"/heads/"+id, token, ""),
		} {
			if a.decode(t, 200, &got); got != want {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		}
		var summary struct{ ID string }
		if r.plain("GET", "/repos/t1/git/summaries/"+want.Object.SHA, token, "").decode(t, 200, &summary); summary.ID != want.Object.SHA {
			t.Errorf("the ref names summary %s, which says it is %s", want.Object.SHA, summary.ID)
		}
		for _, other := range []string{"heads%2F" + r.create(), "heads%2F", "heads", id, "tags%2F" + id} {
			r.call("GET", refs+"/"+other, token, "").want(t, 404, "The requested object does not exist in this document.")
		}
		for _, method := range []string{"POST", "PATCH", "DELETE"} {
			if a := r.call(method, refs+"/heads%2F"+id, token, `{"sha":"x","force":true}`); a.status != 404 && a.status != 405 {
				t.Errorf("%s of a ref: %d %s, want no such route", method, a.status, a.body)
			}
		}
	})
}

// A tool may upload a summary object by object in either dialect.
func TestRESTTreeUpload(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		var blob, tree gitObject
		r.plain("POST", "/repos/t1/git/blobs", token, `{"content":"new","encoding":"utf-8"}`).decode(t, 201, &blob)
		r.plain("POST", "/repos/t1/git/trees", token, `{"tree":[{"mode":"100644","path":"A","sha":"`+blob.SHA+`","type":"blob"}]}`).decode(t, 201, &tree)
		c := r.join(id, summarizer)
		if ack := c.summarize(tree.SHA, r.head(id), 1); ack.Type != sequencer.TypeSummaryAck {
			t.Errorf("the summary was answered with %s %s", ack.Type, ack.Contents)
		}
		c.close()
	})
}

// In the reference DELETE of summaries takes no more than the right to write, and
// leaves a document without any.
func TestRESTDeleteSummaries(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		const path = "/repos/t1/git/summaries"
		r.call("DELETE", path, r.token(id), "").want(t, 403, "Missing DocDelete scopes in token claims.")
		r.call("DELETE", path, r.token(id, withScopes("doc:read", "doc:write", "doc:delete")), "").
			want(t, 403, "Permission denied. Insufficient scopes. Required scopes: doc:read,doc:write,summary:write")
		deleter := r.token(id, withScopes("doc:read", "doc:write", "summary:write", "doc:delete"))
		headers := authorization(path, deleter)
		for value, status := range map[string]int{"true": 501, "TRUE": 501, "yes": 400} {
			headers["Soft-Delete"] = value
			if a := r.do(wrap("DELETE", path, headers, "")); a.status != status {
				t.Errorf("Soft-Delete: %s is answered with %d %s, want %d", value, a.status, a.body, status)
			}
		}
		if a := r.call("GET", path+"/latest", r.token(id), ""); a.status != 200 {
			t.Errorf("the latest summary after refused deletions: %d %s", a.status, a.body)
		}
		headers["Soft-Delete"] = "false"
		r.do(wrap("DELETE", path, headers, "")).golden(t, "delete_summaries")
		r.call("GET", path+"/latest", r.token(id), "").want(t, 404, "Document is deleted and cannot be accessed.")
	})
}

// Objects are found in the document of the token only.
func TestRESTStorageIsPerDocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		mine, other := r.create(), r.create()
		var blob gitObject
		r.call("POST", "/repos/t1/git/blobs", r.token(mine), `{"content":"secret","encoding":"utf-8"}`).decode(t, 201, &blob)
		if a := r.call("GET", "/repos/t1/git/blobs/"+blob.SHA, r.token(other), ""); a.status != 404 {
			t.Errorf("another document's token reads the blob: %d %s", a.status, a.body)
		}
		r.call("GET", "/repos/t1/git/blobs/"+blob.SHA, r.token(""), "").want(t, 403, "DocumentId in token claims does not match request.")
	})
}

func TestRESTAuthorization(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		const latest = "/repos/t1/git/summaries/latest"
		deltas := "/deltas/t1/" + id
		send := func(path, header string) reply {
			headers := map[string]string{}
			if header != "" {
				headers["Authorization"] = header
			}
			return r.do(wrap("GET", path, headers, ""))
		}
		pair := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

		send(deltas, "").golden(t, "unauthorized")
		send(deltas, "Bearer "+token).want(t, 403, "Missing access token.")
		send(deltas, "Basic ").want(t, 403, "Missing access token.")
		send(deltas, pair(testTenant+":"+token)).want(t, 403, "Missing token claims.")
		send(latest, "").want(t, 403, "Missing Authorization header.")
		send(latest, "Basic "+token).want(t, 403, "Malformed authorization token")
		send(latest, pair(token)).want(t, 403, "Malformed authorization token")
		send(latest, pair(testTenant+":")).want(t, 403, "Missing access token.")
		if a := send(latest, strings.TrimRight(pair(testTenant+":"+token), "=")); a.status != 200 {
			t.Errorf("without padding: %d %s", a.status, a.body)
		}
		send(deltas, "Basic "+r.token(id, withScopes("doc:write"))).want(t, 403, "Permission denied. Insufficient scopes. Required scopes: doc:read")
		send("/deltas/t2/"+id, "Basic "+token).want(t, 403, "TenantId in token claims does not match request.")
		send("/deltas/t2/"+id, "Basic "+r.token(id, func(m jwt.MapClaims) { m["tenantId"] = "t2" })).want(t, 404, "Tenant is disabled or does not exist.")
		send("/deltas/t1/other", "Basic "+token).want(t, 403, "DocumentId in token claims does not match request.")
		send(deltas, "Basic "+swapSignature(token)).want(t, 403, "Invalid token validated with key2.")

		// A key that is made anew ends its tokens at once; the other one's go on.
		r.tenant.Keys[0] = "made anew ......................"
		send(deltas, "Basic "+token).want(t, 403, "Invalid token validated with key2.")
	})
}

// A refusal comes before the body is kept, and the client gets to read it.
func TestRESTLargeBodies(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		large := strings.Repeat("x", 4<<20)
		r.plain("POST", "/repos/t1/git/summaries", "", large).want(t, 403, "Missing Authorization header.")
		r.call("POST", "/repos/t1/git/summaries", "", large).want(t, 403, "Missing Authorization header.")
		r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", r.token(id), large).want(t, 413, "The request body is larger than 65536 bytes.")
		r.plain("POST", "/api/v1/t1/"+id+"/broadcast-signal", r.token(id), large).golden(t, "too_large")
		r.call("POST", "/repos/t1/git/summaries", r.token(id), large).want(t, 400, "The summary cannot be stored: not JSON: invalid character 'x' looking for beginning of value")
	})
}

// A client that sends all it has before it looks for an answer gets one, however much that is.
func TestRESTTooLargeIsAnswered(t *testing.T) {
	limitedBubble(t, Limits{UploadBytes: 1 << 20, UploadsBytes: 8 << 20}, func(t *testing.T, r *rig) {
		id := r.create()
		body := strings.Repeat("x", 32<<20)
		for name, token := range map[string]string{"TooLarge": r.token(id), "Stranger": "nobody's"} {
			conn, err := r.pipes.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "POST /repos/t1/git/summaries HTTP/1.1\r\nHost: relay.test\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s",
				authorization("/repos/t1/git/summaries", token)["Authorization"], len(body), body)
			if err != nil {
				t.Fatalf("%s: the connection ended while the client was sending: %v", name, err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			response.Body.Close()
			if want := map[string]int{"TooLarge": 413, "Stranger": 403}[name]; response.StatusCode != want {
				t.Errorf("%s: %d, want %d", name, response.StatusCode, want)
			}
		}
	})
}

// One that never ends is given up when its time is over.
func TestRESTEndlessBody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		conn, err := r.pipes.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		fmt.Fprint(conn, "POST /repos/t1/git/summaries HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n")
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for {
				if _, err := fmt.Fprint(conn, "1\r\nx\r\n"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 403 ") || time.Since(start) > slow+2*time.Second {
			t.Errorf("after %v: %s %v; want the answer when the call's time is over", time.Since(start), answer, err)
		}
		conn.Close()
		<-sent
	})
}

func TestRESTFraming(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		if a, b := r.plain("GET", "/deltas/t1/"+id, token, ""), r.call("get", "/deltas/t1/"+id, token, ""); a.status != 200 || string(a.body) != string(b.body) {
			t.Errorf("plain %d %s, wrapped %d %s", a.status, a.body, b.status, b.body)
		}
		r.plain("GET", "/nowhere", "", "").golden(t, "unrouted")
		r.plain("PUT", "/documents/t1", token, "{}").golden(t, "unrouted_method")
		r.do(wrapped("/deltas/t1/"+id, "header=A%3A+b")).golden(t, "restless_malformed")
		for _, path := range []string{"/api/v1/ping", "/repos/ping", "/healthz/startup", "/healthz/ready", "/livez", "/readyz"} {
			if a := r.plain("GET", path, "", ""); a.status != 200 || string(a.body) != "OK" {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
		r.plain("GET", "/api/v1/ping", "", "").golden(t, "ping")
		// The paths that the published scripts probe.
		for _, path := range []string{"/repos/ping", "/healthz/startup", "/healthz/ready", "/livez", "/readyz"} {
			if a := r.plain("GET", path, "", ""); a.status != 200 || string(a.body) != "OK" {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}

		preflight, err := http.NewRequestWithContext(t.Context(), "OPTIONS", "/documents/t1", nil)
		if err != nil {
			t.Fatal(err)
		}
		preflight.Header.Set("Access-Control-Request-Headers", "authorization,x-driver-version")
		preflight.Header.Set("X-Correlation-Id", "from-the-client")
		r.do(preflight).golden(t, "preflight")

		for id, want := range map[string]string{
			"a-1":                    "a-1",
			"two words":              "",
			strings.Repeat("x", 129): "",
		} {
			a := r.do(wrap("GET", "/api/v1/ping", map[string]string{"X-Correlation-Id": id}, ""))
			got := a.header.Get("X-Correlation-Id")
			if want == "" && !uuidPattern.MatchString(got) || want != "" && got != want {
				t.Errorf("correlation id %q is answered with %q", id, got)
			}
		}
	})
}

// Session URLs lead back to where the client came from.
func TestSessionURLsAreTheClients(t *testing.T) {
	for _, test := range []struct{ host, proto, want string }{
		{"relay.contoso.com", "", "http://relay.contoso.com"},
		{"relay.contoso.com:8443", "https", "https://relay.contoso.com:8443"},
		{"[::1]:7070", "javascript", "http://[::1]:7070"},
	} {
		r := wrapped("/", "")
		r.Host = test.host
		r.Header.Set("X-Forwarded-Proto", test.proto)
		if got := sessionAt(r); got.Orderer != test.want || got.Historian != test.want || got.Stream != test.want {
			t.Errorf("%+v: %+v", test, got)
		}
	}
}

// What REST answers while the key cannot be used.
func TestRESTWithoutKey(t *testing.T) {
	for _, test := range []struct {
		name  string
		class keystore.Class
		after time.Duration
		// Statuses of: discovery and creation, content.
		connect, content int
	}{
		{"Checking", keystore.Disabled, 0, 503, 503},
		{"Revoked", keystore.Disabled, 2 * time.Minute, 503, 403},
		{"RevokedForLong", keystore.Disabled, 2 * time.Hour, 403, 403},
		{"Unreachable", keystore.Unreachable, 20 * time.Minute, 503, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
				id, deleted := r.create(), r.create()
				v.set(test.class)
				if test.after == 0 {
					r.awaitSuspect()
				}
				time.Sleep(test.after) // the bubble's time
				token := r.token(id)
				for path, want := range map[string]int{
					"/documents/t1/session/" + id:    test.connect,
					"/documents/t1/" + id:            test.content,
					"/deltas/t1/" + id:               test.content,
					"/repos/t1/git/summaries/latest": test.content,
					"/repos/t1/commits?count=1&sha=": test.content,
				} {
					if a := r.call("GET", path, token, ""); a.status != want {
						t.Errorf("%s: %d %s, want %d", path, a.status, a.body, want)
					}
				}
				r.call("GET", "/documents/t1/session/"+id, token, "").golden(t, "key_"+strings.ToLower(test.name)+"_connect")
				r.call("GET", "/deltas/t1/"+id, token, "").golden(t, "key_"+strings.ToLower(test.name)+"_content")

				creation := r.createToken()
				if a := r.call("POST", "/documents/t1", creation, classicBody); a.status != test.connect {
					t.Errorf("create: %d %s, want %d", a.status, a.body, test.connect)
				}
				deleter := r.token(deleted, withScopes("doc:read", "doc:write", "doc:delete"))
				if a := r.call("DELETE", "/documents/t1/document/"+deleted, deleter, ""); a.status != 204 {
					t.Errorf("delete: %d %s, want 204", a.status, a.body)
				}

				v.set(0)
				time.Sleep(30 * time.Second)
				if a := r.call("GET", "/repos/t1/git/summaries/latest", r.token(id), ""); a.status != 200 {
					t.Errorf("with its key back: %d %s", a.status, a.body)
				}
				if a := r.call("POST", "/documents/t1", creation, classicBody); a.status != 201 {
					t.Errorf("create with the same token: %d %s, want 201", a.status, a.body)
				}
			})
		})
	}
}

func TestRESTWhileDraining(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		r.server.mu.Lock()
		r.server.draining = true
		r.server.mu.Unlock()
		r.call("GET", "/documents/t1/session/"+id, r.token(id), "").golden(t, "draining")
		if a := r.plain("GET", "/readyz", "", ""); a.status != 503 {
			t.Errorf("/readyz: %d, want 503", a.status)
		}
		if a := r.plain("GET", "/livez", "", ""); a.status != 200 {
			t.Errorf("/livez: %d, want 200", a.status)
		}
	})
}
