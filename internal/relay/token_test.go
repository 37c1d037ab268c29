package relay

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/store"
)

// forge is a token with this header and claims, signed with key.
func forge(header, claims, key string) string {
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	signature, err := jwt.SigningMethodHS256.Sign(unsigned, []byte(key))
	if err != nil {
		panic(err)
	}
	return unsigned + "." + base64.RawURLEncoding.EncodeToString(signature)
}

const hs256 = `{"alg":"HS256","typ":"JWT"}`

func TestCheckToken(t *testing.T) {
	keyed := func(key string) func(r *rig) string {
		return func(r *rig) string {
			_, claims, _ := strings.Cut(r.token("d"), ".")
			claims, _, _ = strings.Cut(claims, ".")
			raw, err := base64.RawURLEncoding.DecodeString(claims)
			if err != nil {
				panic(err)
			}
			return forge(hs256, string(raw), key)
		}
	}
	with := func(change func(jwt.MapClaims)) func(r *rig) string {
		return func(r *rig) string { return r.token("d", change) }
	}
	set := func(name string, value any) func(r *rig) string {
		return with(func(m jwt.MapClaims) { m[name] = value })
	}
	without := func(name string) func(r *rig) string {
		return with(func(m jwt.MapClaims) { delete(m, name) })
	}
	raw := func(s string) func(*rig) string { return func(*rig) string { return s } }
	expired := func(m jwt.MapClaims) {
		m["iat"], m["exp"] = time.Now().Add(-time.Hour).Unix(), time.Now().Unix()
	}
	const otherResource = "DocumentId and/or TenantId in token claims do not match requested resource"

	for _, test := range []struct {
		name       string
		token      func(r *rig) string
		restStatus int // 0: accepted
		rest       string
		sockStatus int
		sock       string
	}{
		{"Key1", keyed(testKey), 0, "", 0, ""},
		{"Key2", keyed("the other key of this tenant ...."), 0, "", 0, ""},
		{"FractionsOfSeconds", with(func(m jwt.MapClaims) { m["iat"] = float64(time.Now().Unix()) + 0.5 }), 0, "", 0, ""},
		{"None", raw(""), 403, "Missing access token.", 403, "Must provide an authorization token"},
		{"NoJWT", raw("x"), 403, "Missing token claims.", 401, "Invalid token"},
		{"TwoParts", raw("e30.e30"), 403, "Missing token claims.", 401, "Invalid token"},
		{"AlgNone", raw(forge(`{"alg":"none"}`, `{}`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"AlgRS256", raw(forge(`{"alg":"RS256"}`, `{}`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"AlgHS512", raw(forge(`{"alg":"HS512"}`, `{}`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"AlgOfOtherCase", raw(forge(`{"ALG":"HS256"}`, `{}`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"CriticalHeader", raw(forge(`{"alg":"HS256","crit":["b64"],"b64":false}`, `{}`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"ClaimsNoObject", raw(forge(hs256, `[]`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"ClaimsNull", raw(forge(hs256, `null`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"ClaimsTrailing", raw(forge(hs256, `{} {}`, testKey)), 403, "Missing token claims.", 401, "Invalid token"},
		{"TenantNoString", set("tenantId", 1), 403, "Missing token claims.", 401, "Invalid token"},
		{"UserNoObject", set("user", "ada"), 403, "Missing token claims.", 401, "Invalid token"},
		{"ScopesNoArray", set("scopes", "doc:read"), 403, "Missing token claims.", 401, "Invalid token"},
		{"TooLong", set("jti", strings.Repeat("x", maxTokenBytes)), 403, "Missing token claims.", 401, "Invalid token"},
		{"OtherTenant", set("tenantId", "t2"), 403, "TenantId in token claims does not match request.", 403, otherResource},
		{
			"TenantOfOtherCase", with(func(m jwt.MapClaims) { delete(m, "tenantId"); m["TenantId"] = testTenant }),
			403, "TenantId in token claims does not match request.", 403, otherResource,
		},
		{"OtherDocument", set("documentId", "e"), 403, "DocumentId in token claims does not match request.", 403, otherResource},
		{"NoDocument", without("documentId"), 403, "DocumentId in token claims does not match request.", 403, otherResource},
		{"NoScopes", without("scopes"), 403, "Missing scopes in token claims.", 403, "Missing scopes in token claims"},
		{"EmptyScopes", set("scopes", []string{}), 403, "Missing scopes in token claims.", 403, "Missing scopes in token claims"},
		{"LivesAnHour", with(func(m jwt.MapClaims) { m["exp"] = m["iat"].(int64) + 3600 }), 0, "", 0, ""},
		{"LivesLonger", with(func(m jwt.MapClaims) { m["exp"] = m["iat"].(int64) + 3601 }), 403, "Invalid token expiry", 403, "Invalid token expiry"},
		{"LivesTooLong", set("iat", 1), 403, "Invalid token expiry", 403, "Invalid token expiry"},
		{"NoExpiry", without("exp"), 403, "Invalid token expiry", 403, "Invalid token expiry"},
		{"NoIssue", without("iat"), 403, "Invalid token expiry", 403, "Invalid token expiry"},
		{"NegativeExpiry", set("exp", -1), 403, "Missing token claims.", 401, "Invalid token"},
		{"EndsBeforeItBegins", with(func(m jwt.MapClaims) { m["iat"] = time.Now().Add(2 * time.Hour).Unix() }), 403, "Invalid token expiry", 403, "Invalid token expiry"},
		{"ClockAhead", with(func(m jwt.MapClaims) {
			at := time.Now().Add(maxTokenAhead)
			m["iat"], m["exp"] = at.Unix(), at.Add(maxTokenLife).Unix()
		}), 0, "", 0, ""},
		{"FromTheFuture", with(func(m jwt.MapClaims) {
			at := time.Now().Add(maxTokenAhead + time.Second)
			m["iat"], m["exp"] = at.Unix(), at.Add(maxTokenLife).Unix()
		}), 403, "Invalid token expiry", 403, "Invalid token expiry"},
		{"Expired", with(expired), 401, "Expired token", 401, "Token expired validated with key1."},
		{"ExpiredAndForged", func(r *rig) string { return swapSignature(r.token("d", expired)) }, 401, "Expired token", 403, "Invalid token validated with key2."},
		{"Forged", func(r *rig) string { return swapSignature(r.token("d")) }, 403, "Invalid token validated with key2.", 403, "Invalid token validated with key2."},
		{
			"NoSignature", func(r *rig) string { s := r.token("d"); return s[:strings.LastIndexByte(s, '.')+1] },
			403, "Invalid token validated with key2.", 403, "Invalid token validated with key2.",
		},
		{"SignedWithNothing", keyed(""), 403, "Invalid token validated with key2.", 403, "Invalid token validated with key2."},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				token := test.token(r)
				for _, face := range []struct {
					name    string
					face    tokenFace
					status  int
					message string
				}{
					{"REST", restFace, test.restStatus, test.rest},
					{"socket", socketFace, test.sockStatus, test.sock},
				} {
					c, tenant, err := r.server.checkToken(t.Context(), token, testTenant, "d", face.face)
					if face.status == 0 {
						if err != nil || c.DocumentID != "d" || tenant.ID != testTenant || !c.has("doc:write") || c.has("doc:delete") {
							t.Errorf("%s: claims %+v of tenant %q, %v; want them accepted", face.name, c, tenant.ID, err)
						}
						continue
					}
					var auth *authError
					if !errors.As(err, &auth) || auth.Status != face.status || auth.Message != face.message {
						t.Errorf("%s: got %v (%+v), want %d %s", face.name, err, auth, face.status, face.message)
					}
				}
			})
		})
	}
}

// swapSignature signs a token with a key of somebody else.
func swapSignature(token string) string {
	unsigned := token[:strings.LastIndexByte(token, '.')]
	signature, err := jwt.SigningMethodHS256.Sign(unsigned, []byte("somebody else's key"))
	if err != nil {
		panic(err)
	}
	return unsigned + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestTenantWithoutKeysOpensToNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		token := forge(hs256, string(encode(map[string]any{
			"tenantId": testTenant, "documentId": "d", "scopes": []string{"doc:read"}, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60,
		})), "")
		r.tenant.Keys = [2]string{}
		if _, _, err := r.server.checkToken(t.Context(), token, testTenant, "d", restFace); !errors.Is(err, errSignature) {
			t.Errorf("got %v, want %v", err, errSignature)
		}
	})
}

func TestUnknownTenant(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		token := r.token("d", func(m jwt.MapClaims) { m["tenantId"] = "t2" })
		if _, _, err := r.server.checkToken(t.Context(), token, "t2", "d", restFace); !errors.Is(err, errNoTenant) {
			t.Errorf("got %v, want %v", err, errNoTenant)
		}
	})
}

// A used token is remembered as long as it lives, and then forgotten.
func TestUsedTokensAreSwept(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		use := func() error {
			token := r.token("", func(m jwt.MapClaims) { m["jti"] = newUUID() })
			c, err := parseClaims(token)
			if err != nil {
				t.Fatal(err)
			}
			return r.server.useToken(t.Context(), &call{token: token, claims: c})
		}
		count := func() int {
			rows, err := r.store.ListRows(t.Context(), usedTokens, r.server.usedTokenKey("").Partition, [32]byte{}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			return len(rows)
		}
		for range 500 {
			if err := use(); err != nil {
				t.Fatal(err)
			}
		}
		if got := count(); got != 500 {
			t.Fatalf("%d rows after 500 uses", got)
		}
		time.Sleep(time.Hour + time.Second) // the bubble's time
		synctest.Wait()
		for range 500 {
			if err := use(); err != nil {
				t.Fatal(err)
			}
		}
		// Whatever lies after the last name is looked at only by those still further on.
		if got := count(); got > 500+sweepTokens {
			t.Errorf("%d rows, 500 of them live", got)
		}
	})
}

func FuzzClaims(f *testing.F) {
	f.Add(hs256, `{"tenantId":"t1","documentId":"d","scopes":["doc:read"],"iat":1,"exp":2.5,"user":{"id":"u"},"ver":"1.0","jti":"j"}`)
	f.Add(hs256, `{"tenantId":null,"iat":null,"user":null,"scopes":null}`)
	f.Add(`{"alg":"none"}`, `{}`)
	f.Add(hs256, `{"exp":1e308,"iat":-1}`)
	f.Fuzz(func(t *testing.T, header, body string) {
		c, err := parseClaims(forge(header, body, "k"))
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(body), &members); err != nil || string(c.raw) != body {
			t.Fatalf("accepted claims %q as %q: %v", body, c.raw, err)
		}
		var head struct{ Alg string }
		if err := json.Unmarshal([]byte(header), &head); err != nil || !strings.Contains(header, "HS256") {
			t.Errorf("accepted header %q: %v", header, err)
		}
		if c.IssuedAt.Before(time.Time{}) || c.Expires.Year() > 40_000 {
			t.Errorf("dates %v to %v", c.IssuedAt, c.Expires)
		}
	})
}

func BenchmarkCheckClaimsAndSignature(b *testing.B) {
	now := time.Now().Unix()
	token := forge(hs256, string(encode(map[string]any{
		"tenantId": testTenant, "documentId": "d", "scopes": []string{docRead, docWrite}, "iat": now, "exp": now + 3600,
		"user": map[string]string{"id": "u", "name": "Ada Lovelace"}, "ver": "1.0", "jti": newUUID(),
	})), testKey)
	dot := strings.LastIndexByte(token, '.')
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := checkClaims(token, testTenant, "d", restFace); err != nil {
			b.Fatal(err)
		}
		if err := jwt.SigningMethodHS256.Verify(token[:dot], signature, []byte(testKey)); err != nil {
			b.Fatal(err)
		}
	}
}

// A tenant whose access was switched off is closed to good tokens, on both faces; bad ones
// are told nothing of it.
// Whoever is in when a tenant is closed is cut off, with all that was acknowledged kept.
func TestClosingATenantCutsItsSockets(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id, other := r.create(), r.create()
		writer, reader, elsewhere := r.join(id), r.read(id), r.join(other)
		writer.submit("a", "b")
		writer.awaitMine(2)
		const closed = "Public network access is disabled for this tenant."
		r.close(closed)
		r.server.CutOff(testTenant)
		for _, c := range []*client{writer, reader, elsewhere} {
			c.awaitCut()
		}
		if got := r.dial().connectErrorOf(connectBody(id, r.token(id), "write")); got.Code != 403 || got.Message != closed {
			t.Errorf("connect: %+v, want 403 %s", got, closed)
		}
		r.close("")
		again := r.join(id)
		own := 0
		for _, op := range r.log(id) {
			if op.Type == "op" {
				own++
			}
		}
		if own != 2 {
			t.Errorf("%d ops are in the log, want the 2 that were acknowledged", own)
		}
		again.close()
	})
}

// A client on its way in is not yet among the sessions that are cut off.
func TestClosingATenantWhileConnecting(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		done := false
		r.store.swap(&rowHook{r.store.Store, func(key store.RowKey) error {
			if key.Table == documentsTable && !done { // the token was found good
				done = true
				r.close("Shared key access is disabled for this tenant.")
				r.server.CutOff(testTenant)
			}
			return nil
		}})
		c := r.dial()
		c.connect(connectBody(id, r.token(id), "write"))
		c.awaitCut()
		synctest.Wait()
		if ids := r.clientIDs(id); len(ids) != 0 {
			t.Errorf("%v stayed in the document", ids)
		}
	})
}

func TestClosedTenant(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		const closed = "Shared key access is disabled for this tenant."
		r.close(closed)
		r.call("GET", "/deltas/t1/"+id, r.token(id), "").want(t, 403, closed)
		if got := r.dial().connectErrorOf(connectBody(id, r.token(id), "write")); got.Code != 403 || got.Message != closed {
			t.Errorf("connect: %+v, want 403 %s", got, closed)
		}
		forged := r.token(id)
		r.call("GET", "/deltas/t1/"+id, forged[:len(forged)-2]+"AA", "").want(t, 403, errSignature.Message)
		r.close("")
		if a := r.call("GET", "/deltas/t1/"+id, r.token(id), ""); a.status != 200 {
			t.Errorf("opened again: %d %s, want 200", a.status, a.body)
		}
	})
}
