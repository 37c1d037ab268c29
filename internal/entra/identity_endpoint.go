package entra

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// IdentityEndpoint configures where workloads on this machine get tokens of managed
// identities, as on Azure's own machines.
type IdentityEndpoint struct {
	// Identities are the resource ids of those that may be had here; no others are.
	Identities []string
	// Secret is what App Service's form asks for.
	Secret string
	// Unguarded also serves the forms without a secret, IMDS and Cloud Shell: any
	// program on this machine may then have the identities.
	Unguarded bool
}

// IdentityHandler serves the managed-identity endpoints. It must be reached on loopback
// only: it speaks plain HTTP, as the real ones do.
//
//	GET  /metadata/identity/oauth2/token  IMDS: header Metadata: true
//	POST /oauth2/token                    Cloud Shell: the same header, a form
//	GET  /msi/token                       App Service: header X-IDENTITY-HEADER; in 2017-09-01, secret
func (s *Service) IdentityHandler(c IdentityEndpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		answer, err := s.identityToken(r, c)
		if err != nil {
			s.refuseIdentity(w, r, err)
			return
		}
		_ = json.NewEncoder(w).Encode(answer) // nothing can be done about a client that went away
	})
}

// identityRefusal is an error of the endpoint, in IMDS' shape.
type identityRefusal struct {
	status      int
	Kind        string `json:"error"`
	Description string `json:"error_description"`
}

func (e *identityRefusal) Error() string { return e.Description }

func badIdentityRequest(text string) error {
	return &identityRefusal{http.StatusBadRequest, "invalid_request", text}
}

func (s *Service) refuseIdentity(w http.ResponseWriter, r *http.Request, err error) {
	refusal, ok := err.(*identityRefusal) //nolint:errorlint // identityToken wraps none
	if !ok {
		s.log.ErrorContext(r.Context(), "identity endpoint failed", slog.Any("err", err))
		refusal = &identityRefusal{http.StatusInternalServerError, "server_error", "An internal error has occurred; the log says why."}
	} else {
		s.log.InfoContext(r.Context(), "identity request refused", slog.String("reason", refusal.Description))
	}
	w.WriteHeader(refusal.status)
	_ = json.NewEncoder(w).Encode(refusal)
}

// identityAnswer has its numbers as strings, as Azure's.
type identityAnswer struct {
	Token      string `json:"access_token"`
	ClientID   string `json:"client_id"`
	Expires    string `json:"expires_in"`
	ExpiresOn  string `json:"expires_on"`
	ExtExpires string `json:"ext_expires_in"`
	NotBefore  string `json:"not_before"`
	Resource   string `json:"resource"`
	Type       string `json:"token_type"`
}

func (s *Service) identityToken(r *http.Request, c IdentityEndpoint) (identityAnswer, error) {
	if err := admitWorkload(r, c); err != nil {
		return identityAnswer{}, err
	}
	if err := r.ParseForm(); err != nil {
		return identityAnswer{}, badIdentityRequest("The parameters could not be read.")
	}
	resource := strings.TrimSuffix(r.Form.Get("resource"), "/.default")
	switch {
	case resource == "":
		return identityAnswer{}, badIdentityRequest("Required query variable 'resource' is missing")
	case !s.knows(resource):
		return identityAnswer{}, &identityRefusal{http.StatusBadRequest, "invalid_resource",
			"AADSTS500011: The resource principal named " + excerpt(resource) + " was not found in the tenant."}
	}
	p, err := s.chosenIdentity(r.Context(), c.Identities, r.Form)
	if err != nil {
		return identityAnswer{}, err
	}
	token, issued, expires, err := s.issue(r.Context(), p, authCertificate, resource)
	if err != nil {
		return identityAnswer{}, err
	}
	s.log.InfoContext(r.Context(), "token issued to a workload", slog.String("object_id", p.ObjectID), slog.String("resource", resource))
	seconds := strconv.Itoa(int(expires.Sub(issued)/time.Second) - 1)
	return identityAnswer{
		Token: token, ClientID: p.ClientID, Expires: seconds, ExtExpires: seconds, Resource: resource, Type: "Bearer",
		ExpiresOn: strconv.FormatInt(expires.Unix(), 10), NotBefore: strconv.FormatInt(issued.Unix(), 10),
	}, nil
}

// admitWorkload checks that the request is one of a form, and its proof.
func admitWorkload(r *http.Request, c IdentityEndpoint) error {
	// A web page that had a name lead here would show it in the Host header (DNS
	// rebinding); one that is fetched by somebody else's server, in X-Forwarded-For.
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	if host != "localhost" && (ip == nil || !ip.IsLoopback() && !ip.Equal(net.IPv4(169, 254, 169, 254))) || r.Header.Get("X-Forwarded-For") != "" {
		return badIdentityRequest("The request did not come from this machine.")
	}
	guarded, method := false, http.MethodGet
	switch strings.ToLower(strings.TrimSuffix(r.URL.Path, "/")) {
	case "/msi/token":
		guarded = true
	case "/oauth2/token":
		method = http.MethodPost
	case "/metadata/identity/oauth2/token":
	default:
		return &identityRefusal{http.StatusNotFound, "not_found", "There is no such endpoint."}
	}
	if r.Method != method {
		return &identityRefusal{http.StatusMethodNotAllowed, "invalid_request", "The endpoint only accepts " + method + " requests."}
	}
	if guarded {
		given := r.Header.Get("X-Identity-Header")
		if given == "" {
			given = r.Header.Get("Secret")
		}
		if c.Secret == "" || !hmac.Equal([]byte(given), []byte(c.Secret)) {
			return &identityRefusal{http.StatusUnauthorized, "unauthorized_client", "The X-IDENTITY-HEADER is missing or wrong."}
		}
		return nil
	}
	if !c.Unguarded {
		return &identityRefusal{http.StatusNotFound, "not_found", "This form, which needs no secret, is not served; --identity-imds turns it on."}
	}
	// A page in a browser cannot set this header without asking first, and it is not answered.
	if !strings.EqualFold(r.Header.Get("Metadata"), "true") {
		return badIdentityRequest("Required metadata header not specified")
	}
	return nil
}

// chosenIdentity is the one that the request names, among those that may be had; without
// a name the only one.
func (s *Service) chosenIdentity(ctx context.Context, allowed []string, form map[string][]string) (Principal, error) {
	var kind, wanted string
	for _, name := range []string{"client_id", "clientid", "object_id", "principal_id", "mi_res_id", "msi_res_id"} {
		for _, value := range form[name] {
			if wanted != "" {
				return Principal{}, badIdentityRequest("More than one of client_id, object_id and mi_res_id is given.")
			}
			kind, wanted = name, value
		}
	}
	var found []Principal
	for _, id := range allowed {
		p, err := s.ManagedIdentity(ctx, id)
		if notFound(err) {
			continue
		}
		if err != nil {
			return Principal{}, err
		}
		names := map[string]string{
			"": "", "client_id": p.ClientID, "clientid": p.ClientID, "object_id": p.ObjectID, "principal_id": p.ObjectID,
			"mi_res_id": p.ResourceID, "msi_res_id": p.ResourceID,
		}
		if strings.EqualFold(strings.TrimSuffix(wanted, "/"), names[kind]) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return Principal{}, badIdentityRequest("Identity not found")
	case 1:
		return found[0], nil
	}
	return Principal{}, badIdentityRequest("Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request")
}
