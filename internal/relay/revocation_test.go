package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func withJTI(jti string) func(jwt.MapClaims) { return func(m jwt.MapClaims) { m["jti"] = jti } }

// revoke asks for a revocation as a backend does.
func (r *rig) revoke(id, jti string) reply {
	r.t.Helper()
	path := "/documents/t1/document/" + id + "/revokeToken"
	headers := authorization(path, r.token(id, withScopes("doc:read", "doc:write", "token:revoke")))
	headers["x-correlation-id"] = "my-id"
	return r.do(wrap("POST", path, headers, string(encode(map[string]string{"jti": jti}))))
}

// awaitCut waits for the server to close the socket long before its token ends.
func (c *client) awaitCut() {
	c.t.Helper()
	start := time.Now()
	c.awaitEnd()
	if took := time.Since(start); took > 5*time.Second {
		c.t.Errorf("the socket was closed after %v, want at once", took)
	}
}

func (r *rig) revocations() []store.Row {
	r.t.Helper()
	rows, err := r.store.ListRows(r.t.Context(), revokedTokens, envelope.Name{}, envelope.Name{}, 1<<20)
	if err != nil {
		r.t.Fatal(err)
	}
	return rows
}

func TestRevokedTokenOpensNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id, other := r.create(), r.create()
		revoked, kept := r.token(id, withJTI("j1")), r.token(id, withJTI("j2"))
		refused := func(when string) {
			t.Helper()
			for _, path := range []string{"/documents/t1/session/" + id, "/deltas/t1/" + id, "/repos/t1/git/summaries/latest"} {
				if a := r.call("GET", path, revoked, ""); a.status != 403 || string(a.body) != `"Permission denied. Access token has been revoked."` {
					t.Errorf("%s: %s: %d %s, want 403", when, path, a.status, a.body)
				}
			}
			for name, token := range map[string]string{
				"another jti":                            kept,
				"no jti":                                 r.token(id),
				"the same jti, of another document":      r.token(other, withJTI("j1")),
				"the same jti, in letters of other size": r.token(id, withJTI("J1")),
			} {
				c, err := parseClaims(token)
				if err != nil {
					t.Fatal(err)
				}
				if a := r.call("GET", "/deltas/t1/"+c.DocumentID, token, ""); a.status != 200 {
					t.Errorf("%s: a token with %s: %d %s, want 200", when, name, a.status, a.body)
				}
			}
		}

		r.revoke(id, "j1").golden(t, "revoke")
		r.revoke(id, "j1").golden(t, "revoke") // again, for whoever got no answer
		refused("revoked")
		r.call("GET", "/deltas/t1/"+id, revoked, "").golden(t, "revoked")
		c := r.dial()
		c.emit("connect_document", connectBody(id, revoked, "write"))
		golden(t, "connect_revoked", c.all()...)
		c.close()
		if clients := r.clientIDs(id); len(clients) != 0 {
			t.Errorf("%v got into the document", clients)
		}

		r.restart()
		refused("after a restart")
	})
}

func TestRevocationCutsLiveSockets(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id, other := r.create(), r.create()
		connect := func(id, jti, mode string) *client {
			c := r.dial()
			c.connect(connectBody(id, r.token(id, withJTI(jti)), mode))
			return c
		}
		writer, reader := connect(id, "j1", "write"), connect(id, "j1", "read")
		stays, elsewhere := connect(id, "j2", "write"), connect(other, "j1", "write")
		if a := r.revoke(id, "j1"); a.status != 200 {
			t.Fatalf("revoke: %d %s", a.status, a.body)
		}
		writer.awaitCut()
		reader.awaitCut()
		synctest.Wait()
		if ids := r.clientIDs(id); len(ids) != 1 || ids[0] != stays.id {
			t.Errorf("in the document are %v, want only %s", ids, stays.id)
		}
		if ids := r.clientIDs(other); len(ids) != 1 || ids[0] != elsewhere.id {
			t.Errorf("in the other document are %v, want %s", ids, elsewhere.id)
		}
		// Nobody is there, and nothing is loaded.
		if a := r.revoke(newUUID(), "j1"); a.status != 200 {
			t.Errorf("revoke where there is no document: %d %s, want 200", a.status, a.body)
		}
		stays.close()
		elsewhere.close()
	})
}

// rowHook is a store that calls afterGet after a read of a row.
type rowHook struct {
	store.Store
	afterGet func(key store.RowKey) error
}

func (h *rowHook) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	row, err := h.Store.GetRow(ctx, key)
	if failed := h.afterGet(key); failed != nil {
		return store.Row{}, failed
	}
	return row, err
}

// A client on its way in is not yet among the sessions that a revocation cuts.
func TestRevocationWhileConnecting(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id, withJTI("j1"))
		reads := 0
		r.store.swap(&rowHook{r.store.Store, func(key store.RowKey) error {
			if key.Table != revokedTokens {
				return nil
			}
			if reads++; reads == 1 { // the token was found good
				return r.server.revoke(t.Context(), r.tenant, id, "j1")
			}
			return nil
		}})
		c := r.dial()
		c.connect(connectBody(id, token, "write"))
		c.awaitCut()
		synctest.Wait()
		if ids := r.clientIDs(id); len(ids) != 0 {
			t.Errorf("%v stayed in the document", ids)
		}
	})
}

// What cannot be looked up was perhaps revoked.
func TestUnreadableRevocationsOpenNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		r.store.swap(&rowHook{r.store.Store, func(key store.RowKey) error {
			if key.Table == revokedTokens {
				return errDisk
			}
			return nil
		}})
		r.call("GET", "/deltas/t1/"+id, r.token(id, withJTI("j1")), "").want(t, 500, "Internal Server Error")
		if got := r.dial().connectErrorOf(connectBody(id, r.token(id, withJTI("j1")), "read")); got.Code != 500 {
			t.Errorf("connect: %+v, want 500", got)
		}
		if a := r.call("GET", "/deltas/t1/"+id, r.token(id), ""); a.status != 200 {
			t.Errorf("without jti: %d %s, want 200", a.status, a.body)
		}
	})
}

// A revocation outlives every token that was good when it was made, and is then
// forgotten.
func TestRevocationsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		ahead := r.token(id, withJTI("j"), func(m jwt.MapClaims) {
			at := time.Now().Add(maxTokenAhead)
			m["iat"], m["exp"] = at.Unix(), at.Add(maxTokenLife).Unix()
		})
		r.revoke(id, "j")
		time.Sleep(maxTokenLife + maxTokenAhead - time.Second)
		r.call("GET", "/deltas/t1/"+id, ahead, "").want(t, 403, "Permission denied. Access token has been revoked.")
		time.Sleep(time.Second)
		r.call("GET", "/deltas/t1/"+id, ahead, "").want(t, 401, "Expired token")
		if a := r.call("GET", "/deltas/t1/"+id, r.token(id, withJTI("j")), ""); a.status != 200 {
			t.Errorf("a later token with this jti: %d %s, want 200", a.status, a.body)
		}

		for i := range 200 {
			r.revoke(id, fmt.Sprint(i))
		}
		time.Sleep(revocationLife + time.Second)
		for i := range 200 {
			r.revoke(id, fmt.Sprint("later ", i))
		}
		if got := len(r.revocations()); got > 200+sweepTokens {
			t.Errorf("%d rows, 200 of them live", got)
		}
	})
}

func TestDamagedRevocationIsNoPermission(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		key := r.server.revokedKey(testTenant, "d", "j")
		sealed, err := r.service.SealRow(string(key.Table), key.Partition, key.Name, []byte("short"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.store.WriteRows(t.Context(), []store.RowWrite{{RowKey: key, Value: &sealed}}); err != nil {
			t.Fatal(err)
		}
		_, _, err = r.server.checkToken(t.Context(), r.token("d", withJTI("j")), testTenant, "d", restFace)
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("got %v, want store.ErrCorrupt", err)
		}
	})
}

// The older forms of the deltas route answer as the route does.
func TestRESTDeltasForms(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		c := r.join(id)
		c.submit("a", "b", "c")
		c.awaitMine(3)
		c.close()
		token := r.token(id)
		want := r.call("GET", "/deltas/t1/"+id+"?from=1&to=4", token, "")
		for _, path := range []string{"/deltas/v1/t1/" + id, "/deltas/t1/" + id + "/v1", "/deltas/raw/t1/" + id} {
			for name, a := range map[string]reply{
				"wrapped": r.call("GET", path+"?from=1&to=4", token, ""),
				"plain":   r.plain("GET", path+"?from=1&to=4", token, ""),
			} {
				if a.status != 200 || string(a.body) != string(want.body) {
					t.Errorf("%s, %s: %d %s, want %s", path, name, a.status, a.body, want.body)
				}
			}
			r.call("GET", path, "", "").want(t, 403, "Missing Authorization header.")
			r.call("GET", path, r.token(id, withScopes("doc:write")), "").want(t, 403, "Permission denied. Insufficient scopes. Required scopes: doc:read")
			r.call("GET", path, r.token("other"), "").want(t, 403, "DocumentId in token claims does not match request.")
			r.call("GET", strings.Replace(path, "t1", "t2", 1), token, "").want(t, 403, "TenantId in token claims does not match request.")
		}
		r.call("GET", "/deltas/raw/t1/"+id+"?from=1&to=3", token, "").golden(t, "deltas_raw")
		if a := r.call("GET", "/deltas/t1/"+id+"/v2", token, ""); a.status != 404 {
			t.Errorf("/v2: %d %s, want 404", a.status, a.body)
		}
	})
}
