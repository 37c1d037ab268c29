package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzBodies sends any body to every route that takes one, with a good token: the
// answer is never a fault of ours, always JSON, and what is refused changes nothing.
func FuzzBodies(f *testing.F) {
	r := newRig(f, nil)
	f.Cleanup(r.stop)
	id := r.create()
	first := r.head(id)
	all := withScopes(docRead, docWrite, summaryWrite, docDelete, tokenRevoke)
	var rows []route
	for _, row := range restRoutes {
		if row.body != noBody {
			rows = append(rows, row)
		}
	}
	bodies := []string{
		fmt.Sprintf(createBody, true, true), classicBody, `{"id":"x","sequenceNumber":7}`, `{"jti":"x"}`,
		`{"signalContent":{"contents":{"type":"t","content":{"a":1}}}}`, `{"content":"AAEC","encoding":"base64"}`, `{"content":"\ud800","encoding":"utf-8"}`,
		`{"tree":[{"mode":"100644","path":"A","sha":"8352675d67aed6625ece79af41c27fdb4ee2e867","type":"blob"}]}`,
		`{"type":"channel","entries":[{"path":"a","type":"tree","id":"` + first + `/.app"},{"path":"b","type":"blob","value":{"type":"blob","content":"x","encoding":"utf-8"}}]}`,
		"", "null", "[]", `{"summary":null}`, `{"summary":{"type":"tree","entries":null},"values":[["code"]]}`,
	}
	for i := range rows {
		for _, body := range bodies {
			f.Add(uint8(i), body)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		r.t = t
		row := rows[int(which)%len(rows)]
		path := strings.NewReplacer("{tenant}", testTenant, "{id}", id).Replace(row.path)
		token := r.token(id, all)
		if row.path == "/documents/{tenant}" {
			token = r.createToken()
		}
		// A tree waits for what it names, which never comes.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if row.path != "/repos/{tenant}/git/trees" {
			ctx = t.Context()
		}
		request := httptest.NewRequestWithContext(ctx, row.method, path, strings.NewReader(body))
		for name, value := range authorization(path, token) {
			request.Header.Set(name, value)
		}
		request.Header.Set(correlationHeader, "c")
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, request)
		outOfTime := ctx.Err() != nil && w.Code == 503 // ours, before anything was looked at
		if !slices.Contains([]int{200, 201, 400, 410, 413}, w.Code) && !outOfTime {
			t.Fatalf("%s with %q: %d %s", row.pattern(), body, w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s with %q: the answer is no JSON: %s", row.pattern(), body, w.Body)
		}
		if w.Code < 300 && row.path != "/repos/{tenant}/git/blobs" && !json.Valid([]byte(body)) {
			t.Errorf("%s took %q, which is no JSON", row.pattern(), body)
		}
		r.use(id, func(d *document) {
			if d.head() != first {
				t.Errorf("%s with %q: the newest version is now %s", row.pattern(), body, d.head())
			}
		})
	})
}
