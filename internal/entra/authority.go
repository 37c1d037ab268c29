package entra

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// anyDirectory are words in the place of a directory that stand for whichever one a
// user is of. There are documents for them, but no tokens: an application is of one.
var anyDirectory = []string{"common", "organizations"}

// The public cloud's authority. Clients that are led here by a proxy know us under
// its name, and compare it with what the documents say.
const (
	publicLoginHost = "login.microsoftonline.com"
	publicLogin     = "https://" + publicLoginHost
)

// login is the authority's URL as the client knows it.
func (a authorityRequest) login() string {
	host, _, _ := strings.Cut(strings.ToLower(a.r.Host), ":")
	if host == publicLoginHost {
		return publicLogin
	}
	return a.service.login
}

// adfs in the place of a directory is how old command-line clients are told not to
// ask the public cloud about us; the directory is then that of the application.
const adfs = "adfs"

// maxFormBytes bounds a token request; a client assertion is its largest part.
const maxFormBytes = 64 << 10

// Handler serves the authority: discovery documents, keys, tokens. Paths are
// matched without regard to case.
//
//	GET  /{directory}/v2.0/.well-known/openid-configuration
//	GET  /{directory}/.well-known/openid-configuration
//	GET  /{directory}/discovery/v2.0/keys, /{directory}/discovery/keys
//	GET  /common/discovery/instance
//	POST /{directory}/oauth2/v2.0/token, /{directory}/oauth2/token
//
// {directory} is a directory's id or "adfs"; for documents also "common" or
// "organizations".
func (s *Service) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The trace id is what a user finds in the error and the operator in the log.
		a := authorityRequest{service: s, w: w, r: r, trace: uuid.NewString()}
		w.Header().Set("X-Ms-Request-Id", a.trace)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Pragma", "no-cache")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
		if err := a.serve(); err != nil {
			a.fail(err)
		}
	})
}

// authorityRequest is one request to the authority.
type authorityRequest struct {
	service *Service
	w       http.ResponseWriter
	r       *http.Request
	trace   string
}

func (a authorityRequest) serve() error {
	first, rest, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(a.r.URL.Path, "/")), "/")
	// A client that appends to the login URL sends /adfs/{directory}/oauth2/v2.0/token.
	if directory, behind, ok := strings.Cut(rest, "/"); first == adfs && ok && uuid.Validate(directory) == nil {
		first, rest = directory, behind
	}
	var method string
	var handle func(directory string) error
	switch rest {
	case "v2.0/.well-known/openid-configuration", ".well-known/openid-configuration":
		method, handle = http.MethodGet, a.openID
	case "discovery/v2.0/keys", "discovery/keys":
		method, handle = http.MethodGet, a.keys
	case "discovery/instance":
		method, handle = http.MethodGet, a.instance
	case "oauth2/v2.0/token", "oauth2/token":
		method, handle = http.MethodPost, a.token
	default:
		return &authorityError{
			status: http.StatusNotFound, kind: "invalid_request", number: 90023,
			text: "The path is none of this authority's endpoints.",
		}
	}
	if a.r.Method != method {
		a.w.Header().Set("Allow", method)
		return &authorityError{
			status: http.StatusMethodNotAllowed, kind: "invalid_request", number: 900561,
			text: fmt.Sprintf("The endpoint only accepts %s requests. Received a %s request.", method, a.r.Method),
		}
	}
	return handle(first)
}

// discovery is an OpenID provider's description of itself.
type discovery struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	KeysURI               string   `json:"jwks_uri"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	Grants                []string `json:"grant_types_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	SubjectTypes          []string `json:"subject_types_supported"`
	SigningAlgorithms     []string `json:"id_token_signing_alg_values_supported"`
}

func (a authorityRequest) openID(directory string) error {
	if err := a.knowDirectory(directory); err != nil {
		return err
	}
	base := a.login() + "/" + directory
	version, issuer := "/v2.0", base+"/v2.0"
	switch {
	case directory == adfs:
		version, issuer = "", base
	case slices.Contains(anyDirectory, directory):
		issuer = a.login() + "/{tenantid}/v2.0" // the braces are Azure's: clients put a token's tid there
	}
	a.answer(discovery{
		// MSAL compares the issuer's host with the authority's, so it is ours, although
		// tokens name the public one.
		Issuer:                issuer,
		AuthorizationEndpoint: base + "/oauth2" + version + "/authorize",
		TokenEndpoint:         base + "/oauth2" + version + "/token",
		KeysURI:               base + "/discovery" + version + "/keys",
		AuthMethods:           []string{"client_secret_post", "private_key_jwt", "client_secret_basic"},
		Grants:                []string{"client_credentials"},
		ResponseTypes:         []string{"token"},
		SubjectTypes:          []string{"pairwise"},
		SigningAlgorithms:     []string{"RS256"},
	})
	return nil
}

// knowDirectory refuses a directory that is not here.
func (a authorityRequest) knowDirectory(directory string) error {
	if directory == adfs || slices.Contains(anyDirectory, directory) {
		return nil
	}
	_, _, err := a.service.directories.Get(a.r.Context(), a.service.directories.Key(directory))
	if notFound(err) {
		return &authorityError{
			status: http.StatusBadRequest, kind: "invalid_request", number: 90002,
			text: fmt.Sprintf("Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.", excerpt(directory)),
		}
	}
	return err
}

func (a authorityRequest) keys(string) error {
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	keys, err := a.service.keys.published(a.r.Context())
	if err != nil {
		return err
	}
	for _, key := range keys {
		set.Keys = append(set.Keys, key.jwk())
	}
	a.answer(set)
	return nil
}

// instance answers MSAL's question which names an authority has. It is asked of
// the public authority, so it reaches us only under that name.
func (a authorityRequest) instance(string) error {
	type cloud struct {
		Network string   `json:"preferred_network"`
		Cache   string   `json:"preferred_cache"`
		Aliases []string `json:"aliases"`
	}
	endpoint, err := url.Parse(a.r.URL.Query().Get("authorization_endpoint"))
	directory, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(endpointPath(endpoint)), "/"), "/")
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" || directory == "" {
		return &authorityError{
			status: http.StatusBadRequest, kind: "invalid_request", number: 50049,
			text: "Unknown or invalid instance.",
		}
	}
	if err := a.knowDirectory(directory); err != nil {
		return err
	}
	a.answer(struct {
		Discovery string  `json:"tenant_discovery_endpoint"`
		Version   string  `json:"api-version"`
		Clouds    []cloud `json:"metadata"`
	}{
		Discovery: "https://" + endpoint.Host + "/" + directory + "/v2.0/.well-known/openid-configuration",
		Version:   "1.1",
		Clouds:    []cloud{{Network: endpoint.Host, Cache: endpoint.Host, Aliases: []string{endpoint.Host}}},
	})
	return nil
}

// excerpt makes a parameter fit for a message.
func excerpt(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func endpointPath(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Path
}

func (a authorityRequest) answer(body any) {
	a.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	// Nothing can be done about a client that went away.
	_ = json.NewEncoder(a.w).Encode(body)
}

// form reads the parameters of a token request.
func (a authorityRequest) form() (url.Values, error) {
	kind, _, err := mime.ParseMediaType(a.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, badForm("The request body must be application/x-www-form-urlencoded.")
	}
	a.r.Body = http.MaxBytesReader(a.w, a.r.Body, maxFormBytes)
	if err := a.r.ParseForm(); err != nil {
		return nil, badForm("The request body could not be read as a form of at most 65536 bytes.")
	}
	for name, values := range a.r.PostForm {
		if len(values) > 1 { // RFC 6749, 3.2
			return nil, &authorityError{
				status: http.StatusBadRequest, kind: "invalid_request", number: 9000411,
				text: fmt.Sprintf("The request is not properly formatted. The parameter '%s' is duplicated.", excerpt(name)),
			}
		}
	}
	return a.r.PostForm, nil
}

func badForm(text string) error {
	return &authorityError{status: http.StatusBadRequest, kind: "invalid_request", number: 90023, text: text}
}

// authorityError is a refusal of the authority.
type authorityError struct {
	status int
	kind   string // RFC 6749, 5.2
	number int    // AADSTS
	text   string
}

func (e *authorityError) Error() string { return fmt.Sprintf("AADSTS%d: %s", e.number, e.text) }

// fail answers an error in the authority's shape; one that is not a refusal is
// ours, and its cause goes to the log alone.
func (a authorityRequest) fail(err error) {
	var refusal *authorityError
	if !errors.As(err, &refusal) {
		a.service.log.ErrorContext(a.r.Context(), "authority failed",
			slog.String("request_id", a.trace), slog.Any("err", err))
		refusal = &authorityError{
			status: http.StatusInternalServerError, kind: "server_error", number: 90033,
			text: "A transient error has occurred. Please try again.",
		}
	} else {
		a.service.log.InfoContext(a.r.Context(), "token request refused",
			slog.String("request_id", a.trace), slog.Int("aadsts", refusal.number))
	}
	correlation := a.r.Header.Get("Client-Request-Id")
	if uuid.Validate(correlation) != nil {
		correlation = uuid.NewString()
	}
	now := time.Now().UTC().Format("2006-01-02 15:04:05Z")
	body := struct {
		Kind        string `json:"error"`
		Description string `json:"error_description"`
		Numbers     []int  `json:"error_codes"`
		Time        string `json:"timestamp"`
		Trace       string `json:"trace_id"`
		Correlation string `json:"correlation_id"`
	}{
		Kind: refusal.kind,
		Description: fmt.Sprintf("%s Trace ID: %s Correlation ID: %s Timestamp: %s",
			refusal.Error(), a.trace, correlation, now),
		Numbers: []int{refusal.number}, Time: now, Trace: a.trace, Correlation: correlation,
	}
	if refusal.kind == "invalid_client" && a.r.Header.Get("Authorization") != "" { // RFC 6749, 5.2
		a.w.Header().Set("WWW-Authenticate", `Basic realm="`+a.login()+`"`)
	}
	a.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	a.w.WriteHeader(refusal.status)
	_ = json.NewEncoder(a.w).Encode(body)
}
