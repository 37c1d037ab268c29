package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/store"
)

// Config of a Handler.
type Config struct {
	Entra *entra.Service
	// Home is the directory whose administrators may make others.
	Home entra.DirectoryID
	// Subscription is the write that makes a subscription of a directory.
	Subscription func(id, name string, d entra.DirectoryID) (store.RowWrite, error)
	Log          *slog.Logger
}

const maxBodyBytes = 1 << 20

// handler serves one request after another; it keeps no state.
type handler struct {
	Config
	mux *http.ServeMux
}

// call is one request on its way.
type call struct {
	r      *http.Request
	caller entra.Caller
	body   []byte
}

func (c *call) directory() entra.DirectoryID { return c.caller.Directory }

// answer is a status and a body; a nil body is none.
type answer struct {
	status int
	body   any
}

func ok(body any) (answer, error) { return answer{http.StatusOK, body}, nil }

// New returns the handler. Its paths begin with the version, /v1.0 or /beta; they are
// matched without regard to case.
func New(c Config) http.Handler {
	h := &handler{Config: c, mux: http.NewServeMux()}
	read, write := h.route(false), h.route(true)
	for _, v := range []string{"/v1.0", "/beta"} {
		read("GET", v+"/me", h.me)
		read("GET", v+"/organization", h.organization)
		read("GET", v+"/users", h.nobody)
		write("POST", v+"/users", h.refuseUser)
		read("GET", v+"/groups", h.nobody)
		write("POST", v+"/groups", h.refuseGroup)
		read("GET", v+"/serviceprincipals", h.listServicePrincipals)
		write("POST", v+"/serviceprincipals", h.createServicePrincipal)
		read("GET", v+"/serviceprincipals/{id}", h.getServicePrincipal)
		write("DELETE", v+"/serviceprincipals/{id}", h.deleteApplication)
		read("GET", v+"/applications", h.listApplications)
		write("POST", v+"/applications", h.createApplication)
		read("GET", v+"/applications/{id}", h.getApplication)
		write("PATCH", v+"/applications/{id}", h.patchApplication)
		write("DELETE", v+"/applications/{id}", h.deleteApplication)
		write("POST", v+"/applications/{id}/addpassword", h.addPassword)
		write("POST", v+"/applications/{id}/removepassword", h.removePassword)
		read("GET", v+"/applications/{id}/federatedidentitycredentials", h.listFederated)
		write("POST", v+"/applications/{id}/federatedidentitycredentials", h.createFederated)
		read("GET", v+"/applications/{id}/federatedidentitycredentials/{name}", h.getFederated)
		write("DELETE", v+"/applications/{id}/federatedidentitycredentials/{name}", h.deleteFederated)
		read("POST", v+"/directoryobjects/getbyids", h.getByIDs)
	}
	read("GET", "/beta/directories", h.listDirectories)
	write("POST", "/beta/directories", h.createDirectory)
	write("POST", "/beta/rotatesigningkey", h.rotateSigningKey)
	write("POST", "/beta/externalprincipals", h.importPrincipal)
	return h
}

// route binds operations; a write takes an administrator.
func (h *handler) route(write bool) func(method, path string, do func(context.Context, *call) (answer, error)) {
	return func(method, path string, do func(context.Context, *call) (answer, error)) {
		h.mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			a, err := h.serve(w, r, write, do)
			h.write(w, r, a, err)
		})
	}
}

// byAppID is Graph's other way to name an object: applications(appId='…').
var byAppID = regexp.MustCompile(`\(appid='([^'/]*)'\)`)

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := byAppID.ReplaceAllString(strings.ToLower(strings.TrimSuffix(r.URL.Path, "/")), "/$1")
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = path, ""
	if _, pattern := h.mux.Handler(r); pattern == "" {
		// Who has no token is told that, and nothing of the paths.
		if _, err := h.authenticate(r); err != nil {
			h.write(w, r, answer{}, err)
			return
		}
		h.write(w, r, answer{}, &graphError{http.StatusNotFound, "ResourceNotFound", fmt.Sprintf(
			"There is no %s on '%s' here; see the documentation for what of Microsoft Graph is served.", r.Method, path)})
		return
	}
	h.mux.ServeHTTP(w, r)
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, write bool, do func(context.Context, *call) (answer, error)) (answer, error) {
	caller, err := h.authenticate(r)
	if err != nil {
		return answer{}, err
	}
	if write && !caller.Administrator {
		return answer{}, forbidden("Insufficient privileges to complete the operation: it takes an administrator of the directory.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return answer{}, badRequest("The request content could not be read, or has more than %d bytes.", maxBodyBytes)
	}
	return do(r.Context(), &call{r: r, caller: caller, body: body})
}

func (h *handler) authenticate(r *http.Request) (entra.Caller, error) {
	caller, err := h.Entra.Graph(r)
	var refused *entra.TokenError
	if errors.As(err, &refused) {
		return caller, &graphError{http.StatusUnauthorized, refused.Code, refused.Message}
	}
	return caller, err
}

// decode reads the body, one JSON object.
func (c *call) decode(v any) error {
	if err := arm.DecodeObject(c.body, v); err != nil {
		return badRequest("Unable to read JSON request payload: %v.", err)
	}
	return nil
}

// graphError is a refusal.
type graphError struct {
	status        int
	code, message string
}

func (e *graphError) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &graphError{http.StatusBadRequest, "Request_BadRequest", fmt.Sprintf(format, args...)}
}

func forbidden(message string) error {
	return &graphError{http.StatusForbidden, "Authorization_RequestDenied", message}
}

func noObject(id string) error {
	return &graphError{http.StatusNotFound, "Request_ResourceNotFound", fmt.Sprintf(
		"Resource '%s' does not exist or one of its queried reference-property objects are not present.", id)}
}

// write sends the answer, or the error in Graph's shape.
func (h *handler) write(w http.ResponseWriter, r *http.Request, a answer, err error) {
	request := uuid.NewString()
	w.Header().Set("Request-Id", request)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	if err != nil {
		var e *graphError
		if !errors.As(err, &e) {
			e = h.unexpected(r, request, err)
		}
		if e.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="", authorization_uri="https://`+r.Host+`/common/oauth2/authorize"`)
		}
		a = answer{e.status, map[string]any{"error": map[string]any{
			"code": e.code, "message": e.message,
			"innerError": map[string]string{"date": time.Now().UTC().Format("2006-01-02T15:04:05"), "request-id": request},
		}}}
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(a.status)
	_ = json.NewEncoder(w).Encode(a.body) // nothing can be done about a client that went away
}

// unexpected is for errors that no operation explained: conflicts of two writers, and
// what is ours, whose cause goes to the log alone.
func (h *handler) unexpected(r *http.Request, request string, err error) *graphError {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &graphError{http.StatusNotFound, "Request_ResourceNotFound", "The resource does not exist."}
	case errors.Is(err, store.ErrConflict):
		return &graphError{http.StatusConflict, "Request_MultipleObjectsWithSameKeyValue", "Another request changed the same object at the same time; try again."}
	case errors.Is(err, entra.ErrTooMany):
		return &graphError{http.StatusBadRequest, "Directory_QuotaExceeded", "The application has as many credentials of this kind as are allowed."}
	}
	h.Log.ErrorContext(r.Context(), "graph request failed", slog.String("request_id", request), slog.Any("err", err))
	return &graphError{http.StatusInternalServerError, "InternalServerError", "An internal error has occurred. The request id leads to its cause in the log."}
}

// list is the shape of Graph's lists; there is one page.
func list[T any](all []T) map[string]any {
	if all == nil {
		all = []T{}
	}
	return map[string]any{"value": all}
}
