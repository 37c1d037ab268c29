package relay

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// poll makes a request of the socket face as a browser elsewhere does.
func (r *rig) poll(method, sid, body string) reply {
	r.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, "/socket.io/?EIO=4&transport=polling"+sid, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Origin", "https://app.example")
	// Were it taken for a wrapped REST call, its method and body would be another's.
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded;restless")
	return r.do(request)
}

// A client that polls is let in, submits, and leaves as one with a WebSocket.
func TestPollingReachesTheDocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		opened := r.poll("GET", "", "")
		if opened.status != 200 || opened.header.Get("Access-Control-Allow-Origin") != "*" || !strings.HasPrefix(string(opened.body), "0{") {
			t.Fatalf("open = %d %v %s", opened.status, opened.header, opened.body)
		}
		var open struct{ SID string }
		if err := json.Unmarshal(opened.body[1:], &open); err != nil {
			t.Fatal(err)
		}
		sid := "&sid=" + open.SID
		post := func(packets ...string) {
			t.Helper()
			if got := r.poll("POST", sid, strings.Join(packets, "\x1e")); got.status != 200 || string(got.body) != "ok" {
				t.Errorf("post = %d %s", got.status, got.body)
			}
		}
		post("40", "42"+string(encode([]any{"connect_document", connectBody(id, r.token(id), "write")})))
		got := string(r.poll("GET", sid, "").body)
		for !strings.Contains(got, `"join"`) {
			got += string(r.poll("GET", sid, "").body)
		}
		if !strings.Contains(got, `42["connect_document_success",`) {
			t.Errorf("polls = %s, want connect_document_success", got)
		}
		other := r.join(id)
		clientID := r.clientIDs(id)[0]
		post("42" + string(encode([]any{"submitOp", clientID, []any{[]any{other.op("polled")}}})))
		for {
			op := other.await("op")
			if strings.Contains(string(op.args[1]), "polled") {
				break
			}
		}
		post("41", "1")
		if got := string(r.poll("GET", sid, "").body); !strings.HasSuffix(got, "1") {
			t.Errorf("last poll = %s, want the end", got)
		}
		other.all()
		if ids := r.clientIDs(id); len(ids) != 1 {
			t.Errorf("%d sessions after the goodbye, want the other's", len(ids))
		}
	})
}

func TestPollingPreflight(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		got := r.poll("OPTIONS", "&sid=any", "")
		if got.status != http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(got.header.Get("Access-Control-Allow-Methods"), "POST") {
			t.Errorf("preflight = %d %v", got.status, got.header)
		}
		refused := r.poll("GET", "&sid=none", "")
		if refused.status != 400 || refused.header.Get("Access-Control-Allow-Origin") != "*" || strings.TrimSpace(string(refused.body)) != `{"code":1,"message":"Session ID unknown"}` {
			t.Errorf("unknown session = %d %v %s", refused.status, refused.header, refused.body)
		}
	})
}
