package relay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// localBubble is bubble with local mode on.
func localBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	bubble(t, func(t *testing.T, r *rig) {
		r.local = []Tenant{{ID: "local", Resource: r.tenant.Resource}}
		r.restart()
		f(t, r)
	})
}

// unsigned is a token of tenant local, long over and signed by nobody.
func (r *rig) unsigned(id string, change ...func(jwt.MapClaims)) string {
	old := func(m jwt.MapClaims) {
		m["tenantId"] = "local"
		m["iat"], m["exp"] = time.Now().Add(-48*time.Hour).Unix(), time.Now().Add(-24*time.Hour).Unix()
	}
	token := r.token(id, append([]func(jwt.MapClaims){old}, change...)...)
	return token[:strings.LastIndexByte(token, '.')+1] + "bm90LWEtc2lnbmF0dXJl"
}

func asLocal(m map[string]any) { m["tenantId"] = "local" }

func (r *rig) createLocal(t *testing.T) (id string) {
	t.Helper()
	r.call("POST", "/documents/local", r.unsigned(""), fmt.Sprintf(createBody, true, true)).decode(t, 201, &id)
	return id
}

func TestLocalStorage(t *testing.T) {
	localBubble(t, func(t *testing.T, r *rig) {
		// The bare id, whatever was asked for.
		r.call("POST", "/documents/local", r.unsigned(""), fmt.Sprintf(createBody, true, true)).golden(t, "local_create")
		id := r.createLocal(t)
		token := r.unsigned(id)
		const git = "/repos/local/git/"
		var first []struct {
			SHA    string
			Commit struct{ Tree struct{ SHA string } }
		}
		commits := "/repos/local/commits?count=1&sha="
		r.call("GET", commits+id, token, "").golden(t, "local_commits")
		r.call("GET", commits+id, token, "").decode(t, 200, &first)
		r.call("GET", git+"trees/"+first[0].Commit.Tree.SHA+"?recursive=1", token, "").golden(t, "local_tree_recursive")
		r.call("GET", git+"refs", token, "").golden(t, "local_refs")
		r.call("GET", git+"refs/heads/"+id, token, "").golden(t, "local_ref")
		r.call("GET", git+"refs/heads/"+newUUID(), token, "").want(t, 404, "The requested object does not exist in this document.")

		// Bottom up, as drivers do it.
		var blob, tree gitObject
		r.call("POST", git+"blobs", token, `{"content":"new","encoding":"utf-8"}`).decode(t, 201, &blob)
		leaf := `{"tree":[{"mode":"100644","path":"A%2FB","sha":"` + blob.SHA + `","type":"blob"}]}`
		r.call("POST", git+"trees", token, leaf).golden(t, "local_tree_post")
		r.call("POST", git+"trees", token, leaf).decode(t, 201, &tree)
		r.call("POST", git+"trees", token, `{"tree":[{"mode":"040000","path":".channels","sha":"`+tree.SHA+`","type":"tree"}]}`).decode(t, 201, &tree)
		r.call("POST", git+"trees", token, `{"tree":[{"mode":"100644","path":"x","sha":"`+strings.Repeat("0", 40)+`","type":"blob"}]}`).golden(t, "local_tree_absent")
		r.call("POST", git+"trees", r.unsigned(id, withScopes("doc:read")), leaf).
			want(t, 403, "Permission denied. Insufficient scopes. Required scopes: doc:read,doc:write")

		c := r.dial()
		c.connect(connectBody(id, token, "write", asLocal, summarizer))
		op := c.op(string(encode(map[string]any{"handle": tree.SHA, "head": first[0].SHA, "message": "m", "parents": []string{first[0].SHA}})))
		op["type"], op["referenceSequenceNumber"] = "summarize", 1
		c.awaitOp(1)
		c.emit("submitOp", c.id, []any{[]any{op}})
		if ack := c.awaitOp(3); ack.Type != sequencer.TypeSummaryAck {
			t.Fatalf("the summary was answered with %s %s", ack.Type, ack.Contents)
		}
		c.close()
		r.restart()
		r.call("GET", commits+id, token, "").decode(t, 200, &first)
		var listed struct{ Tree []treeEntry }
		r.call("GET", git+"trees/"+first[0].Commit.Tree.SHA+"?recursive=1", token, "").decode(t, 200, &listed)
		var paths []string
		for _, e := range listed.Tree {
			paths = append(paths, e.Path)
		}
		want := ".channels .channels/A%2FB .logTail .logTail/logTail .protocol .protocol/attributes .protocol/quorumMembers .protocol/quorumProposals .protocol/quorumValues"
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("the newest version holds %s, want %s", got, want)
		}

		const dialect = `Tenant "local" has no git/summaries: connect with type "local".`
		r.call("GET", git+"summaries/latest", token, "").want(t, 404, dialect)
		r.call("POST", git+"summaries", token, `{"type":"channel","entries":[]}`).want(t, 404, dialect)
	})
}

func TestLocalSignalFromService(t *testing.T) {
	localBubble(t, func(t *testing.T, r *rig) {
		id := r.createLocal(t)
		c := r.dial()
		c.connect(connectBody(id, r.unsigned(id), "read", asLocal))
		a := r.call("POST", "/local/"+id+"/broadcast-signal", r.unsigned(id), `{"signalContent":{"contents":{"type":"t","content":1}}}`)
		a.want(t, 200, "OK")
		for {
			if got := string(c.await("signal").args[0]); strings.Contains(got, "RuntimeMessage") {
				break
			}
		}
		c.close()
	})
}

// In local mode only signature and time of a token do not count.
func TestLocalTokens(t *testing.T) {
	localBubble(t, func(t *testing.T, r *rig) {
		id := r.createLocal(t)
		claim := func(name string, value any) func(jwt.MapClaims) {
			return func(m jwt.MapClaims) {
				m[name] = value
				if value == nil {
					delete(m, name)
				}
			}
		}
		deltas := func(token string) reply { return r.call("GET", "/deltas/local/"+id, token, "") }
		for name, token := range map[string]string{
			"Expired":    r.unsigned(id),
			"NoTimes":    r.unsigned(id, claim("iat", nil), claim("exp", nil)),
			"LongLife":   r.unsigned(id, claim("exp", time.Now().Add(1000*time.Hour).Unix())),
			"NoUser":     r.unsigned(id, claim("user", nil)),
			"WellSigned": r.token(id, claim("tenantId", "local")),
		} {
			if a := deltas(token); a.status != 200 {
				t.Errorf("%s: %d %s, want 200", name, a.status, a.body)
			}
		}
		for name, test := range map[string]struct{ token, want string }{
			"None":          {"", "Missing Authorization header."},
			"NoJWT":         {"x", "Missing token claims."},
			"OtherTenant":   {r.unsigned(id, claim("tenantId", testTenant)), "TenantId in token claims does not match request."},
			"OtherDocument": {r.unsigned("other"), "DocumentId in token claims does not match request."},
			"NoScopes":      {r.unsigned(id, withScopes()), "Missing scopes in token claims."},
			"OtherScope":    {r.unsigned(id, withScopes("doc:write")), "Permission denied. Insufficient scopes. Required scopes: doc:read"},
		} {
			if a := deltas(test.token); a.status != 403 || string(a.body) != string(encode(test.want)) {
				t.Errorf("%s: %d %s, want 403 %q", name, a.status, a.body, test.want)
			}
		}
		// One token makes as many documents as it is asked to.
		token := r.unsigned("")
		for range 2 {
			if a := r.call("POST", "/documents/local", token, classicBody); a.status != 201 {
				t.Errorf("create: %d %s, want 201", a.status, a.body)
			}
		}
	})
}

// A socket of local mode outlives its token, and its scopes count.
func TestLocalSocket(t *testing.T) {
	localBubble(t, func(t *testing.T, r *rig) {
		id := r.createLocal(t)
		c := r.dial()
		c.connect(connectBody(id, r.unsigned(id), "write", asLocal))
		c.awaitOp(1)
		select {
		case <-c.ended:
			t.Fatal("the socket was cut")
		case <-time.After(2 * time.Hour): // the bubble's
		}
		reader := r.dial()
		success := reader.connect(connectBody(id, r.unsigned(id, withScopes("doc:read")), "write", asLocal))
		if string(success["mode"]) != `"read"` {
			t.Errorf("a token that can only read connects in mode %s", success["mode"])
		}
		c.close()
		reader.close()
	})
}

// Local mode changes nothing for other tenants, and without it there is none of it.
func TestLocalModeIsOfItsTenantsOnly(t *testing.T) {
	localBubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		forged := r.token(id)
		forged = forged[:strings.LastIndexByte(forged, '.')+1] + "bm90LWEtc2lnbmF0dXJl"
		r.call("GET", "/deltas/t1/"+id, forged, "").want(t, 403, "Invalid token validated with key2.")
		expired := func(m jwt.MapClaims) {
			m["iat"], m["exp"] = time.Now().Add(-time.Minute).Unix(), time.Now().Add(-time.Second).Unix()
		}
		r.call("GET", "/deltas/t1/"+id, r.token(id, expired), "").want(t, 401, "Expired token")
		c := r.dial()
		c.emit("connect_document", connectBody(id, forged, "write"))
		if e := c.next(); e.name != "connect_document_error" {
			t.Errorf("a forged token connects: %s", e.name)
		}
		c.close()
		if a := r.call("POST", "/t1/"+id+"/broadcast-signal", r.token(id), `{}`); a.status != 404 || !strings.Contains(string(a.body), "Not Found") {
			t.Errorf("the local signal route with another tenant: %d %s, want it unrouted", a.status, a.body)
		}
		// Tenants share no documents, though they share keys here.
		r.call("GET", "/repos/local/git/refs", r.unsigned(id), "").want(t, 404, "Document is deleted and cannot be accessed.")

		mine := r.createLocal(t)
		r.local = nil
		r.restart()
		signed := func(m jwt.MapClaims) { m["tenantId"] = "local" }
		r.call("GET", "/deltas/local/"+mine, r.token(mine, signed), "").want(t, 404, "Tenant is disabled or does not exist.")
		r.call("GET", "/deltas/local/"+mine, r.unsigned(mine), "").want(t, 403, "Invalid token expiry")
		if a := r.call("POST", "/local/"+mine+"/broadcast-signal", r.token(mine, signed), `{}`); a.status != 404 || !strings.Contains(string(a.body), "Not Found") {
			t.Errorf("the local signal route without local mode: %d %s, want it unrouted", a.status, a.body)
		}
	})
}
