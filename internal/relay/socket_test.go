package relay

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// all takes what arrived once everything is at rest.
func (c *client) all() []event {
	synctest.Wait()
	var list []event
	for {
		select {
		case e := <-c.events:
			list = append(list, e)
		default:
			return list
		}
	}
}

// The messages around connects, ops, nacks, signals and leaves, as clients get
// them. The order within is part of the protocol.
func TestWireShapes(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a, b := r.dial(), r.dial()
		nonce := func(m map[string]any) { m["nonce"] = "n1" }
		a.emit("connect_document", connectBody(id, r.token(id), "write", nonce))
		golden(t, "connect_write", a.all()...)
		b.emit("connect_document", connectBody(id, r.token(id), "read"))
		golden(t, "connect_read", b.all()...)
		golden(t, "audience_join", a.all()...)

		ids := r.clientIDs(id)
		a.id, b.id = ids[0], ids[1]
		op := a.op(`{"k":"<v>"}`)
		op["metadata"] = map[string]any{"localId": "l"}
		op["compression"] = "lz4"
		op["traces"] = []any{}
		op["serverMetadata"] = "forged"
		op["data"] = "forged"
		a.emit("submitOp", a.id, []any{[]any{op, a.op("second")}})
		golden(t, "op", b.all()...)
		a.all()

		a.csn++
		a.emit("submitOp", a.id, []any{a.op("after a gap")})
		golden(t, "nack_sequencer", a.all()...)
		b.emit("submitOp", b.id, []any{a.op("")})
		golden(t, "nack_readonly", b.all()...)

		a.emit("submitSignal", a.id, []any{map[string]any{"content": "hello", "type": "t", "clientId": "forged", "clientConnectionNumber": 1}})
		golden(t, "signal_v2", b.all()...)
		r.use(id, func(d *document) { d.broadcastSignal([]byte(`"{}"`)) })
		golden(t, "signal_service", b.all()...)
		a.close()
		golden(t, "audience_leave", b.all()...)
	})
}

// clientIDs lists the sessions of a document in order of arrival.
func (r *rig) clientIDs(id string) []string {
	var ids []string
	r.use(id, func(d *document) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, s := range d.sessions {
			ids = append(ids, string(s.id))
		}
	})
	return ids
}

func TestConnectRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		token := r.token(id)
		client := func(change func(map[string]any)) func(map[string]any) {
			return func(m map[string]any) { change(m["client"].(map[string]any)) }
		}
		var events []event
		for _, test := range []struct {
			name string
			body any
			code int
		}{
			{"NoObject", "x", 400},
			{"NoID", connectBody(id, token, "write", func(m map[string]any) { delete(m, "id") }), 400},
			{"IDIsNumber", connectBody(id, token, "write", func(m map[string]any) { m["id"] = 7 }), 400},
			{"BadMode", connectBody(id, token, "admin"), 400},
			{"NoVersions", connectBody(id, token, "write", func(m map[string]any) { delete(m, "versions") }), 400},
			{"NoUser", connectBody(id, token, "write", client(func(m map[string]any) { delete(m, "user") })), 400},
			{"NoDetails", connectBody(id, token, "write", client(func(m map[string]any) { delete(m, "details") })), 400},
			{"ScopesAreString", connectBody(id, token, "write", client(func(m map[string]any) { m["scopes"] = "doc:write" })), 400},
			{"InteractiveIsString", connectBody(id, token, "write", client(func(m map[string]any) {
				m["details"] = map[string]any{"capabilities": map[string]any{"interactive": "yes"}}
			})), 400},
			{"NoInteractive", connectBody(id, token, "write", client(func(m map[string]any) {
				m["details"] = map[string]any{"capabilities": map[string]any{}}
			})), 400},
			{"NoCapabilities", connectBody(id, token, "write", client(func(m map[string]any) { m["details"] = map[string]any{} })), 400},
			{"HugeDetails", connectBody(id, token, "write", client(func(m map[string]any) {
				m["details"].(map[string]any)["environment"] = strings.Repeat("x", maxDetailsBytes)
			})), 400},
			{"NonceIsNumber", connectBody(id, token, "write", func(m map[string]any) { m["nonce"] = 1 }), 400},
			{"OldVersions", connectBody(id, token, "write", func(m map[string]any) { m["versions"] = []string{"^1.0.0"} }), 400},
			{"NoToken", connectBody(id, "", "write"), 403},
			{"NoJWT", connectBody(id, "abc", "write"), 401},
			{"OtherDocument", connectBody(id, r.token("other"), "write"), 403},
			{"OtherTenant", connectBody(id, r.token(id, func(m jwt.MapClaims) { m["tenantId"] = "t2" }), "write"), 403},
			{"NoScopes", connectBody(id, r.token(id, withScopes()), "write"), 403},
			{"MayNotRead", connectBody(id, r.token(id, withScopes("doc:write")), "write"), 403},
			{"Forged", connectBody(id, token[:len(token)-4]+"AAAA", "write"), 403},
			{"Expired", connectBody(id, r.token(id, func(m jwt.MapClaims) {
				m["iat"], m["exp"] = time.Now().Add(-2*time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
			}), "write"), 401},
			{"UnknownDocument", connectBody("none", r.token("none"), "write"), 404},
			{"EmptyID", connectBody("", token, "write"), 404},
		} {
			c := r.dial()
			c.emit("connect_document", test.body)
			got := c.all()
			if len(got) != 1 || got[0].name != "connect_document_error" {
				t.Errorf("%s: got %v, want one connect_document_error", test.name, got)
				continue
			}
			var e connectError
			if err := json.Unmarshal(got[0].args[0], &e); err != nil || e.Code != test.code {
				t.Errorf("%s: code %d %q (%v), want %d", test.name, e.Code, e.Message, err, test.code)
			}
			events = append(events, got...)
			c.close()
		}
		golden(t, "connect_errors", events...)
		r.use(id, func(d *document) {
			if d.active() {
				t.Error("a refused client is in the room")
			}
			if ops := r.log(id); len(ops) != 0 {
				t.Errorf("%d ops in the log, want none", len(ops))
			}
		})
	})
}

// What a client says of itself is not believed; its token is.
func TestIdentityIsTheTokens(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		watcher := r.read(id)
		watcher.all()
		for _, test := range []struct {
			name         string
			scopes       []string
			mode         string
			change       []func(map[string]any)
			wantMode     string
			wantInScopes []string
		}{
			{"WriterOfReadToken", []string{"doc:read"}, "write", nil, "read", []string{"doc:read"}},
			{"Reader", []string{"doc:read", "doc:write"}, "read", nil, "read", []string{"doc:read", "doc:write"}},
			{"NoSummarizer", []string{"doc:read", "doc:write", "summary:write"}, "write", nil, "write", []string{"doc:read", "doc:write"}},
			{"Summarizer", []string{"doc:read", "summary:write"}, "read", []func(map[string]any){summarizer}, "read", []string{"doc:read", "summary:write"}},
		} {
			c := r.dial()
			success := c.connect(connectBody(id, r.token(id, withScopes(test.scopes...)), test.mode, test.change...))
			if got := string(success["mode"]); got != `"`+test.wantMode+`"` {
				t.Errorf("%s: mode %s, want %s", test.name, got, test.wantMode)
			}
			var content string
			var join struct {
				Content struct {
					ClientID string
					Client   clientDetail
				}
			}
			var signal struct{ Content *string }
			signal.Content = &content
			if err := json.Unmarshal(watcher.await("signal").args[0], &signal); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(content), &join); err != nil {
				t.Fatal(err)
			}
			detail := join.Content.Client
			if !strings.Contains(string(detail.User), `"u1"`) || strings.Contains(string(detail.User), "forged") {
				t.Errorf("%s: user %s, want the token's", test.name, detail.User)
			}
			if !slices.Equal(detail.Scopes, test.wantInScopes) || detail.Mode != test.wantMode {
				t.Errorf("%s: %s with scopes %v, want %s with %v", test.name, detail.Mode, detail.Scopes, test.wantMode, test.wantInScopes)
			}
			c.close()
			watcher.all()
		}
	})
}

func TestOpsRefusedBelowTheSequencer(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		writer, reader := r.join(id), r.read(id)
		powerless := r.dial()
		powerless.connect(connectBody(id, r.token(id, withScopes("doc:read")), "write"))
		good := writer.op("x")
		huge := map[string]any{"clientSequenceNumber": 2, "referenceSequenceNumber": -1, "type": "op", "contents": strings.Repeat("x", maxOpBytes)}
		for _, test := range []struct {
			name string
			c    *client
			args []any
			want refusal
		}{
			{"ReadConnection", reader, []any{reader.id, []any{good}}, nackReadonly},
			{"ReadToken", powerless, []any{powerless.id, []any{good}}, nackScope},
			{"OtherSocketsClient", reader, []any{writer.id, []any{good}}, nackClient},
			{"ClientIsNumber", writer, []any{7, []any{good}}, nackClient},
			{"NoBatches", writer, []any{writer.id}, nackClient},
			{"BatchesAreObject", writer, []any{writer.id, map[string]any{}}, nackOp},
			{"OpIsNumber", writer, []any{writer.id, []any{7}}, nackOp},
			{"NoType", writer, []any{writer.id, []any{map[string]any{"clientSequenceNumber": 1, "referenceSequenceNumber": -1}}}, nackOp},
			{"FractionalCSN", writer, []any{writer.id, []any{map[string]any{"clientSequenceNumber": 1.5, "referenceSequenceNumber": -1, "type": "op"}}}, nackOp},
			{"TooLarge", writer, []any{writer.id, []any{huge}}, nackTooLarge},
		} {
			test.c.emit("submitOp", test.args...)
			nack := test.c.awaitNack()
			want := nackContent{test.want.code, test.want.kind, test.want.message, 0}
			if nack.Content != want || nack.SequenceNumber != -1 || nack.Operation != nil {
				t.Errorf("%s: %+v, want %+v at -1 without op", test.name, nack, want)
			}
		}
		writer.emit("submitOp", writer.id, []any{good}) // still as if nothing had been sent
		writer.awaitMine(1)
	})
}

// What is no UTF-8 must not get into the log: whoever was sent it would lose its socket.
func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a, b := r.join(id), r.read(id)
		b.all()
		a.write(`42["submitOp","` + a.id + `",[{"clientSequenceNumber":1,"referenceSequenceNumber":-1,"type":"op","contents":"` + "\xff" + `"}]]`)
		synctest.Wait()
		for _, e := range b.all() {
			if e.name == "op" && strings.Contains(string(e.args[1]), `"op"`) {
				t.Errorf("others got %s", e.args[1])
			}
		}
		a.awaitEnd()
	})
}

func TestSignals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id, other := r.create(), r.create()
		a, b, old := r.read(id), r.read(id), r.read(id, signalsV1)
		stranger := r.read(other)
		everyone := []*client{a, b, old, stranger}
		contents := func(c *client) []string {
			var list []string
			for _, e := range c.all() {
				if e.name == "signal" {
					var s struct {
						ClientID *string
						Content  string
					}
					if err := json.Unmarshal(e.args[0], &s); err != nil {
						t.Fatal(err)
					}
					from := "nobody"
					if s.ClientID != nil {
						from = *s.ClientID
					}
					list = append(list, from+": "+s.Content)
				} else {
					list = append(list, e.name)
				}
			}
			return list
		}
		object := func(content string, target ...string) map[string]any {
			m := map[string]any{"content": content, "clientId": "forged"}
			if len(target) > 0 {
				m["targetClientId"] = target[0]
			}
			return m
		}
		for _, test := range []struct {
			name string
			from *client
			arg  any
			want map[*client][]string
		}{
			{"ToAll", a, []any{object("1"), object("2")}, map[*client][]string{
				a: {"1", "2"}, b: {"1", "2"}, old: {"1", "2"},
			}},
			{"Targeted", a, []any{object("1", b.id)}, map[*client][]string{b: {"1"}}},
			{"TargetInAnotherDocument", a, []any{object("1", stranger.id)}, nil},
			{"TargetUnknown", a, []any{object("1", "none")}, nil},
			{"OldDialectNested", old, []any{[]any{"1", "2"}}, map[*client][]string{
				a: {"1", "2"}, b: {"1", "2"}, old: {"1", "2"},
			}},
			{"OldDialectFlat", old, []any{"1"}, map[*client][]string{a: {"1"}, b: {"1"}, old: {"1"}}},
		} {
			for _, c := range everyone {
				c.all()
			}
			test.from.emit("submitSignal", test.from.id, test.arg)
			for i, c := range everyone {
				var want []string
				for _, content := range test.want[c] {
					want = append(want, test.from.id+": "+content)
				}
				if got := contents(c); !slices.Equal(got, want) {
					t.Errorf("%s: client %d got %v, want %v", test.name, i, got, want)
				}
			}
		}
		for name, arg := range map[string]any{
			"NoObject":       []any{object("first"), "text", object("never")},
			"NoContent":      []any{object("first"), map[string]any{"type": "t"}, object("never")},
			"TargetIsNumber": []any{object("first"), map[string]any{"content": "x", "targetClientId": 7}, object("never")},
		} {
			a.emit("submitSignal", a.id, arg)
			if got := a.awaitNack(); got.Content.Message != nackSignal.message {
				t.Errorf("%s: %+v, want %s", name, got.Content, nackSignal.message)
			}
			if got, want := contents(b), []string{a.id + ": first"}; !slices.Equal(got, want) {
				t.Errorf("%s: others got %v, want %v", name, got, want)
			}
		}
		b.emit("submitSignal", a.id, []any{object("as a")})
		if got := b.awaitNack(); got.Content.Message != nackClient.message {
			t.Errorf("signal as another client: %+v, want %s", got.Content, nackClient.message)
		}
	})
}

func TestTokenExpiryCutsTheSocket(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		start := time.Now()
		a := r.read(id)
		a.awaitEnd()
		if got := time.Since(start); got < time.Hour || got > time.Hour+2*time.Second {
			t.Errorf("cut after %v, want an hour", got)
		}
	})
}

// One socket with several documents, and twice with one of them.
func TestSeveralSessionsOnOneSocket(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		first, second := r.create(), r.create()
		watch := r.read(first)
		c := r.dial()
		var ids []string
		for _, id := range []string{first, second, first} {
			c.connect(connectBody(id, r.token(id), "write"))
			ids = append(ids, c.id)
		}
		if ids[0] == ids[1] || ids[0] == ids[2] {
			t.Errorf("client ids %v, want three", ids)
		}
		for _, id := range ids {
			c.emit("submitOp", id, []any{map[string]any{"clientSequenceNumber": 1, "referenceSequenceNumber": -1, "type": "op", "contents": id}})
		}
		c.all()
		c.close()
		synctest.Wait()
		if got, want := contentsOf(t, r.log(first)), []string{ids[0], ids[2]}; !slices.Equal(got, want) {
			t.Errorf("first document has %v, want %v", got, want)
		}
		left := leaversOf(r.log(first))
		slices.Sort(left)
		want := []string{ids[0], ids[2]}
		slices.Sort(want)
		if !slices.Equal(left, want) {
			t.Errorf("leaves of %v, want of %v", left, want)
		}
		watch.close()
	})
}

// What a joiner is told of the head and what it is sent leave no gap.
func TestReaderJoinsUnderLoad(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
					a.submit("x")
					a.awaitMine(n)
				}
			}
		}()
		for range 10 {
			c := r.dial()
			success := c.connect(connectBody(id, r.token(id), "read"))
			var head sequencer.Seq
			if err := json.Unmarshal(success["checkpointSequenceNumber"], &head); err != nil {
				t.Fatal(err)
			}
			c.awaitOp(head + 1)
			if first := c.seen[0].Seq; first != head+1 {
				t.Errorf("head %d, first op sent %d, want %d", head, first, head+1)
			}
			c.close()
		}
		close(stop)
		<-stopped
		checkOrder(t, "writer", a.seen)
	})
}
