package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/store"
)

// knownErrors are all kinds of errors that a client may be refused for.
func knownErrors() []error {
	known := []error{
		errDraining, errIdle, errTooManyClients, errUnknownDocument, errNoReadScope, errIDExists, errIDDeleted,
		errMoving, errPeer, cluster.ErrCutOff, &cluster.ElsewhereError{},
		&endedError{errDisk}, &endedError{store.ErrFenced}, store.ErrFenced, store.ErrClosed, store.ErrNotFound, store.ErrCorrupt, store.ErrConflict,
		context.DeadlineExceeded, errDisk, errBadOp, errBadConnect, errRestLessForm, errTokenUsed, errRevokedSock, errExpired, errSignature,
		&throttledError{time.Second}, &throttledError{uploadsBusy}, &http.MaxBytesError{Limit: 1},
		history.ErrNotFound, history.ErrBadSummary, &history.TrimmedError{To: 1},
	}
	for bits := range 16 {
		on := func(i int) bool { return bits>>i&1 == 1 }
		e := &custody.UnusableError{Reason: "KeyDisabled", Revoked: on(0), Checking: on(1), Rollback: on(2), Close: on(3)} // and no RetryAfter
		known = append(known, e, keyError{e})
	}
	return known
}

// Clients take a 503 without a time to wait for final, and a 429 without one for one to
// be tried again at once.
func TestEvery503SaysWhenToComeBack(t *testing.T) {
	late := map[int]bool{http.StatusServiceUnavailable: true, http.StatusTooManyRequests: true}
	seen := map[string]bool{}
	wait := func(face string, err error, code int, body any) {
		t.Helper()
		if !late[code] {
			return
		}
		seen[fmt.Sprintf("%s %d", face, code)] = true
		var says struct{ RetryAfter, RetryAfterMS float64 }
		if json.Unmarshal(encode(body), &says) != nil || says.RetryAfter < 1 {
			t.Errorf("%s refused for %v: %d %s does not say when to come back", face, err, code, encode(body))
		}
		if code == http.StatusServiceUnavailable && face != "nack" && says.RetryAfterMS < 1000 {
			t.Errorf("%s refused for %v: %d %s does not say it in milliseconds", face, err, code, encode(body))
		}
	}
	s := &Server{c: Config{Log: slog.New(slog.DiscardHandler)}}
	for _, bare := range knownErrors() {
		for _, err := range []error{bare, fmt.Errorf("while trying: %w", bare)} {
			r, _ := connectRefusal(err)
			wait("connect", err, r.code, r.connectError())
			wait("nack", err, r.code, r.nack())

			w := httptest.NewRecorder()
			s.answerError(w, httptest.NewRequest("GET", "/", nil), err)
			wait("REST", err, w.Code, json.RawMessage(w.Body.Bytes()))
			if late[w.Code] && w.Header().Get("Retry-After") == "" {
				t.Errorf("REST refused for %v: no Retry-After", err)
			}
		}
	}
	for _, wanted := range []string{"connect 503", "connect 429", "nack 503", "REST 503", "REST 429"} {
		if !seen[wanted] {
			t.Errorf("no error gave a %s: is the list of errors whole?", wanted)
		}
	}
}

// What the list of errors above may lack, the source does not: only what always has a
// time to wait says 503 or 429.
func TestOnlyWhatSaysWhenSays503(t *testing.T) {
	// Functions that see to the time themselves, or count.
	trusted := []string{"answerLater", "answerThrottled", "keyRefusal", "submitOp", "submitSignal"}
	files := token.NewFileSet()
	for _, dir := range []string{".", "../socketio"} {
		paths, err := fs.Glob(os.DirFS(dir), "*.go")
		if err != nil || len(paths) == 0 {
			t.Fatalf("no source in %s: %v", dir, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(files, dir+"/"+path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					return !slices.Contains(trusted, n.Name.Name)
				case *ast.ValueSpec:
					return n.Names[0].Name != "nackCodes" // labels of a metric
				case *ast.CompositeLit:
					if saysWhen(n) {
						return false
					}
				case *ast.CallExpr:
					if saysWhenToPoll(n) {
						return false
					}
				case *ast.BasicLit, *ast.SelectorExpr:
					if isLate(n.(ast.Expr)) {
						t.Errorf("%s: 503 or 429 without a time to wait", files.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}

func isLate(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Value == "503" || e.Value == "429"
	case *ast.SelectorExpr:
		return e.Sel.Name == "StatusServiceUnavailable" || e.Sel.Name == "StatusTooManyRequests"
	}
	return false
}

// saysWhen is true of a refusal whose retryAfter is set.
func saysWhen(lit *ast.CompositeLit) bool {
	if name, ok := lit.Type.(*ast.Ident); !ok || name.Name != "refusal" {
		return false
	}
	return slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		return ok && kv.Key.(*ast.Ident).Name == "retryAfter"
	})
}

// saysWhenToPoll is true of socketio's refusals that say when to come back, which its own
// tests check.
func saysWhenToPoll(call *ast.CallExpr) bool {
	if name, ok := call.Fun.(*ast.Ident); !ok || name.Name != "refuse" || len(call.Args) != 3 {
		return false
	}
	e, ok := call.Args[2].(*ast.Ident)
	return ok && (e.Name == "shuttingDown" || e.Name == "tooManyPolling")
}
