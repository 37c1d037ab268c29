package arm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	sub   = "00000000-0000-0000-0000-000000000001"
	other = "00000000-0000-0000-0000-000000000002"
	group = "/subscriptions/" + sub + "/resourceGroups/Rg1"
	thing = group + "/providers/Microsoft.Thing/things/T1"
	v1    = "?api-version=2022-06-01"
)

// testRouter serves one provider; logged collects its log.
func testRouter(t *testing.T, routes ...Route) (rt *Router, logged *bytes.Buffer) {
	t.Helper()
	logged = &bytes.Buffer{}
	rt = NewRouter(Config{
		Authenticate: func(r *http.Request) (Caller, error) {
			switch r.Header.Get("Authorization") {
			case "Bearer good":
				return Caller{ObjectID: "oid", ClientID: "appid", Kind: "Application"}, nil
			case "":
				return Caller{}, &Error{Status: 401, Code: "AuthenticationFailed", Message: "Authentication failed. The 'Authorization' header is missing."}
			}
			return Caller{}, &Error{Status: 401, Code: "InvalidAuthenticationToken", Message: `The "token" is bad.`}
		},
		Allowed: func(_ context.Context, _ Caller, action, scope string) (bool, error) {
			return action != "Microsoft.Thing/things/forbidden", nil
		},
		Subscription: func(_ context.Context, id string) (bool, error) { return id == sub, nil },
		ResourceGroup: func(_ context.Context, _, name string) (GroupState, error) {
			if strings.EqualFold(name, "rg1") {
				return GroupExists, nil
			}
			return NoGroup, nil
		},
		LoginURL: func(_ *http.Request, subscription string) string { return "https://login.test/of-" + subscription },
		Log:      slog.New(slog.NewTextHandler(logged, nil)),
	})
	rt.Handle(Provider{Namespace: "Microsoft.Thing", Versions: []string{"2022-05-26", "2022-06-01"}, Routes: routes})
	return rt, logged
}

func things() []Route {
	pattern := InGroup + "/providers/Microsoft.Thing/things/{name}"
	show := func(_ context.Context, r *Request) (*Response, error) {
		return &Response{Body: map[string]string{"id": r.ID.String(), "name": r.Param("name")}, ETag: `"e"`}, nil
	}
	return []Route{
		{Method: "GET", Pattern: pattern, Action: "Microsoft.Thing/things/read", Handle: show},
		{Method: "PUT", Pattern: pattern, Action: "Microsoft.Thing/things/write", Handle: func(ctx context.Context, r *Request) (*Response, error) {
			var v struct {
				Location string
				Count    int
			}
			if err := r.Decode(&v); err != nil {
				return nil, err
			}
			return show(ctx, r)
		}},
		{Method: "DELETE", Pattern: pattern, Action: "Microsoft.Thing/things/forbidden", Handle: show},
		{Method: "POST", Pattern: pattern + "/list", Action: "Microsoft.Thing/things/list/action", Handle: show},
		{Method: "POST", Pattern: pattern + "/panic", Action: "x", Handle: func(context.Context, *Request) (*Response, error) { panic("secret 4711") }},
		{Method: "POST", Pattern: pattern + "/fail", Action: "x", Handle: func(context.Context, *Request) (*Response, error) { return nil, errors.New("secret 4711") }},
	}
}

func do(t *testing.T, h http.Handler, method, target, token, body string) (*httptest.ResponseRecorder, Error) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "https://management.test"+target, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var envelope struct{ Error Error }
	if w.Code >= 400 {
		if err := json.Unmarshal(w.Body.Bytes(), &envelope); err != nil {
			t.Fatalf("%s %s: error body %q: %v", method, target, w.Body, err)
		}
	}
	return w, envelope.Error
}

// Each row violates the rule it names and every later one, so the table shows the order too.
func TestOrderOfChecks(t *testing.T) {
	rt, _ := testRouter(t, things()...)
	for _, c := range []struct {
		name, method, target, token, body string
		status                            int
		code, message                     string
	}{
		{"NoToken", "GET", "/subscriptions/x/y", "", "", 401, "AuthenticationFailed", "header is missing"},
		{"BadToken", "GET", "/subscriptions/x/y", "bad", "", 401, "InvalidAuthenticationToken", "token"},
		{"SubscriptionIsNoGUID", "GET", "/subscriptions/x/y", "good", "", 400, "InvalidSubscriptionId", "'x'"},
		{"SubscriptionUnknown", "GET", "/subscriptions/" + other + "/y", "good", "", 404, "SubscriptionNotFound", other},
		{"VersionMissing", "GET", "/subscriptions/" + sub + "/y", "good", "", 400, "MissingApiVersionParameter", "(?api-version=)"},
		{"VersionTwice", "GET", thing + v1 + "&API-version=2022-05-26", "good", "", 400, "InvalidApiVersionParameter", "more than once"},
		{"VersionMalformed", "GET", group + "/providers/Microsoft.Thing/y/z?api-version=latest", "good", "", 400, "InvalidApiVersionParameter", "'2022-06-01,2022-05-26'"},
		{"PathUnknown", "GET", "/nothing/here" + v1, "good", "", 404, "NotFound", "/nothing/here"},
		{"NamespaceUnknown", "GET", group + "/providers/Microsoft.Other/things/x?api-version=2001-01-01", "good", "", 404, "InvalidResourceNamespace", "'Microsoft.Other'"},
		{"TypeUnknown", "GET", group + "/providers/Microsoft.Thing/wings/x?api-version=2001-01-01", "good", "", 404, "InvalidResourceType", "'wings'"},
		{"ExtensionTypeUnknown", "GET", thing + "/providers/Microsoft.Thing/notes/x?api-version=2001-01-01", "good", "", 404, "InvalidResourceType", "'notes'"},
		{"ExtensionNamespaceUnknown", "GET", thing + "/providers/Microsoft.Other/notes/x?api-version=2001-01-01", "good", "", 404, "InvalidResourceNamespace", "'Microsoft.Other'"},
		{"MethodUnknown", "PATCH", thing + "?api-version=2001-01-01", "good", "", 405, "MethodNotAllowed", "'PATCH'"},
		{"VersionNotServed", "DELETE", thing + "?api-version=2001-01-01", "good", "", 400, "NoRegisteredProviderFound", "'2022-06-01, 2022-05-26'"},
		{"NameWithSlash", "DELETE", group + "/providers/Microsoft.Thing/things/a%2Fb" + v1, "good", "", 400, "InvalidResourceName", "'/'"},
		{"Forbidden", "DELETE", strings.Replace(thing, "Rg1", "gone", 1) + v1, "good", "", 403, "AuthorizationFailed", "Microsoft.Thing/things/forbidden"},
		{"GroupUnknown", "PUT", strings.Replace(thing, "Rg1", "gone", 1) + v1, "good", "{", 404, "ResourceGroupNotFound", "'gone'"},
		{"BodyTooLarge", "PUT", thing + v1, "good", strings.Repeat(" ", MaxBodyBytes+1), 413, "RequestContentTooLarge", "4194304"},
		{"BodyEmpty", "PUT", thing + v1, "good", "", 400, "InvalidRequestContent", "empty"},
		{"BodyCutOff", "PUT", thing + v1, "good", "{\n \"a\": [1", 400, "InvalidRequestContent", "line 2, position 8"},
		{"BodyMalformed", "PUT", thing + v1, "good", "{\n \"a\" 1}", 400, "InvalidRequestContent", "line 2, position 6"},
		{"BodyOfWrongType", "PUT", thing + v1, "good", `{"count":"x"}`, 400, "InvalidRequestContent", "'Count'"},
		{"BodyNoObject", "PUT", thing + v1, "good", `[]`, 400, "InvalidRequestContent", "not a JSON object"},
		{"BodyNull", "PUT", thing + v1, "good", `null`, 400, "InvalidRequestContent", "not a JSON object"},
		{"BodyTrailing", "PUT", thing + v1, "good", `{} {}`, 400, "InvalidRequestContent", "line 1, position 4"},
		{"BodyNotUTF8", "PUT", thing + v1, "good", "{\"a\":\"\xff\"}", 400, "InvalidRequestContent", "UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, got := do(t, rt, c.method, c.target, c.token, c.body)
			if w.Code != c.status || got.Code != c.code || !strings.Contains(got.Message, c.message) {
				t.Errorf("got %d %s %q, want %d %s with %q", w.Code, got.Code, got.Message, c.status, c.code, c.message)
			}
		})
	}
}

func TestPathsMatchWithoutCase(t *testing.T) {
	rt, _ := testRouter(t, things()...)
	for _, target := range []string{
		thing,
		thing + "/",
		strings.ReplaceAll(thing, "/", "//"),
		"/SUBSCRIPTIONS/" + sub + "/resourcegroups/Rg1/Providers/microsoft.thing/THINGS/T1",
	} {
		w, _ := do(t, rt, "GET", target+v1, "good", "")
		want := `{"id":"` + thing + `","name":"T1"}`
		if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want {
			t.Errorf("GET %s: got %d %s, want 200 %s", target, w.Code, got, want)
		}
	}
	if w, _ := do(t, rt, "POST", thing+"/LIST"+v1, "good", ""); !strings.Contains(w.Body.String(), `"id":"`+thing+`"`) {
		t.Errorf("an action is answered with id %s, want that of its resource", w.Body)
	}
}

func TestHeaders(t *testing.T) {
	rt, _ := testRouter(t, things()...)
	r := httptest.NewRequestWithContext(t.Context(), "GET", "https://management.test"+thing+v1, nil)
	r.Header.Set("Authorization", "Bearer good")
	r.Header.Set("x-ms-correlation-request-id", "corr-1")
	r.Header.Set("x-ms-client-request-id", "client-1")
	r.Header.Set("x-ms-return-client-request-id", "True")
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, r)
	for name, want := range map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1",
		"ETag": `"e"`, "X-Content-Type-Options": "nosniff", "x-ms-correlation-request-id": "corr-1",
		"x-ms-client-request-id": "client-1", "x-ms-ratelimit-remaining-subscription-reads": "11999", "x-ms-failure-cause": "",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if id := w.Header().Get("x-ms-request-id"); !isGUID(id) {
		t.Errorf("x-ms-request-id: got %q, want a GUID", id)
	}
	w, _ = do(t, rt, "GET", thing+v1, "bad", "")
	want := `Bearer authorization_uri="https://login.test/of-` + sub + `", error="invalid_token", error_description="The 'token' is bad."`
	if got := w.Header().Get("WWW-Authenticate"); got != want {
		t.Errorf("WWW-Authenticate: got %q, want %q", got, want)
	}
	w, _ = do(t, rt, "PATCH", thing+v1, "good", "{}")
	if got := w.Header().Get("Allow"); got != "DELETE, GET, PUT" {
		t.Errorf("Allow: got %q, want DELETE, GET, PUT", got)
	}
}

func TestInternalErrorsAreLoggedOnly(t *testing.T) {
	for _, verb := range []string{"panic", "fail"} {
		rt, logged := testRouter(t, things()...)
		w, got := do(t, rt, "POST", thing+"/"+verb+v1, "good", "")
		if w.Code != 500 || got.Code != "InternalServerError" || strings.Contains(w.Body.String(), "4711") {
			t.Errorf("%s: got %d %s", verb, w.Code, w.Body)
		}
		if !strings.Contains(logged.String(), "4711") || !strings.Contains(logged.String(), w.Header().Get("x-ms-request-id")) {
			t.Errorf("%s: the log has not cause and request id: %s", verb, logged)
		}
		if w.Header().Get("x-ms-failure-cause") != "service" {
			t.Errorf("%s: x-ms-failure-cause is %q, want service", verb, w.Header().Get("x-ms-failure-cause"))
		}
	}
}

func TestGroupIsNotDeletedUnderAWrite(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	var order []string
	rt, _ := testRouter(t,
		Route{Method: "PUT", Pattern: InGroup + "/providers/Microsoft.Thing/things/{name}", Action: "w", Handle: func(context.Context, *Request) (*Response, error) {
			close(entered)
			<-leave
			order = append(order, "written")
			return nil, nil
		}},
		Route{Method: "DELETE", Pattern: InGroup, Action: "d", Handle: func(context.Context, *Request) (*Response, error) {
			order = append(order, "deleted")
			return nil, nil
		}})
	done := make(chan struct{}, 2)
	go func() { do(t, rt, "PUT", thing+v1, "good", "{}"); done <- struct{}{} }()
	<-entered
	go func() { do(t, rt, "DELETE", strings.ToLower(group)+v1, "good", ""); done <- struct{}{} }()
	close(leave)
	<-done
	<-done
	if got := strings.Join(order, " "); got != "written deleted" {
		t.Errorf("got order %q, want the write first", got)
	}
}

// A writer that takes its time to send a body keeps nobody from deleting the group.
func TestGroupIsDeletedBesideASlowBody(t *testing.T) {
	nothing := func(context.Context, *Request) (*Response, error) { return nil, nil }
	rt, _ := testRouter(t,
		Route{Method: "PUT", Pattern: InGroup + "/providers/Microsoft.Thing/things/{name}", Action: "w", Handle: nothing},
		Route{Method: "DELETE", Pattern: InGroup, Action: "d", Handle: nothing})
	body, sender := io.Pipe()
	slow := httptest.NewRequestWithContext(t.Context(), "PUT", "https://management.test"+thing+v1, body)
	slow.Header.Set("Authorization", "Bearer good")
	var sending sync.WaitGroup
	sending.Go(func() { rt.ServeHTTP(httptest.NewRecorder(), slow) })
	if _, err := sender.Write([]byte("{")); err != nil { // returns when it was read
		t.Fatal(err)
	}
	deleted := make(chan int, 1)
	go func() {
		w, _ := do(t, rt, "DELETE", group+v1, "good", "")
		deleted <- w.Code
	}()
	select {
	case got := <-deleted:
		if got != 200 {
			t.Errorf("got %d, want 200", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("the deletion waits for the body")
	}
	sender.Close()
	sending.Wait()
}
