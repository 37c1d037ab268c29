package entra

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// token answers a token request: client credentials, with a client secret, an
// assertion signed with a certificate, or a token of another issuer.
func (a authorityRequest) token(directory string) error {
	if slices.Contains(anyDirectory, directory) {
		return &authorityError{
			status: http.StatusBadRequest, kind: "invalid_request", number: 50059,
			text: "No tenant-identifying information found in either the request or implied by any provided credentials.",
		}
	}
	if err := a.knowDirectory(directory); err != nil {
		return err
	}
	form, err := a.form()
	if err != nil {
		return err
	}
	switch grant := form.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		return missing("grant_type")
	default:
		return &authorityError{
			status: http.StatusBadRequest, kind: "unsupported_grant_type", number: 70003,
			text: fmt.Sprintf("The app requested an unsupported grant type '%s'.", excerpt(grant)),
		}
	}
	p, how, err := a.authenticate(directory, form)
	if err != nil {
		return err
	}
	resource, err := a.resource(p.Directory, form)
	if err != nil {
		return err
	}
	token, issued, expires, err := a.service.issue(a.r.Context(), p.principal(), how, resource)
	if err != nil {
		return err
	}
	a.service.log.InfoContext(a.r.Context(), "token issued",
		slog.String("request_id", a.trace), slog.String("object_id", p.ObjectID),
		slog.String("client_id", p.ClientID), slog.String("resource", resource))

	seconds := int(expires.Sub(issued).Seconds()) - 1 // as Azure counts: 3599
	// The version 1 endpoint has its numbers as strings; adfs answers like version 2.
	if strings.HasSuffix(strings.ToLower(a.r.URL.Path), "/oauth2/token") && directory != adfs {
		a.answer(map[string]string{
			"token_type": "Bearer", "expires_in": strconv.Itoa(seconds), "ext_expires_in": strconv.Itoa(seconds),
			"expires_on": strconv.FormatInt(expires.Unix(), 10), "not_before": strconv.FormatInt(issued.Unix(), 10),
			"resource": resource, "access_token": token,
		})
		return nil
	}
	a.answer(struct {
		Type    string `json:"token_type"`
		Expires int    `json:"expires_in"`
		// ExtExpires is for clients that go on while the authority is down.
		ExtExpires int    `json:"ext_expires_in"`
		Token      string `json:"access_token"`
	}{"Bearer", seconds, seconds, token})
	return nil
}

func missing(parameter string) error {
	return &authorityError{
		status: http.StatusBadRequest, kind: "invalid_request", number: 900144,
		text: fmt.Sprintf("The request body must contain the following parameter: '%s'.", parameter),
	}
}

// How a client proved itself, as a token says it: appidacr.
const (
	authSecret      = "1"
	authCertificate = "2" // or a federated credential, or, for managed identities, where it runs
)

// authenticate finds the principal and checks its secret or assertion.
func (a authorityRequest) authenticate(directory string, form url.Values) (_ principalRow, how string, err error) {
	id, secret, err := a.credentials(form)
	if err != nil {
		return principalRow{}, "", err
	}
	p, err := a.service.client(a.r.Context(), id)
	if err != nil && !notFound(err) {
		return principalRow{}, "", err
	}
	// An application of another directory is as unknown as one that does not exist.
	if err != nil || directory != adfs && string(p.Directory) != directory {
		return principalRow{}, "", &authorityError{
			status: http.StatusBadRequest, kind: "unauthorized_client", number: 700016,
			text: fmt.Sprintf("Application with identifier '%s' was not found in the directory '%s'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.", excerpt(id), directory),
		}
	}
	if form.Get("client_assertion") != "" {
		if secret != "" {
			return principalRow{}, "", badForm("Client credentials were given as a secret and as an assertion.")
		}
		return p, authCertificate, a.proveByAssertion(directory, p, form)
	}
	if secret == "" {
		return principalRow{}, "", invalidClient(7000216, "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.")
	}
	switch p.checkSecret(secret, time.Now()) {
	case secretGood:
		return p, authSecret, nil
	case secretExpired:
		return principalRow{}, "", invalidClient(7000222, fmt.Sprintf("The provided client secret keys for app '%s' are expired. Create a new one, with 'tidelock app secret add' for instance.", p.ClientID))
	default:
		return principalRow{}, "", invalidClient(7000215, fmt.Sprintf("Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", p.ClientID))
	}
}

func invalidClient(number int, text string) error {
	return &authorityError{status: http.StatusUnauthorized, kind: "invalid_client", number: number, text: text}
}

// credentials reads client id and secret from the form or from a Basic header, in
// which both are form-encoded (RFC 6749, 2.3.1).
func (a authorityRequest) credentials(form url.Values) (id, secret string, err error) {
	id, secret = form.Get("client_id"), form.Get("client_secret")
	if a.r.Header.Get("Authorization") != "" {
		user, password, ok := a.r.BasicAuth()
		headerID, idErr := url.QueryUnescape(user)
		headerSecret, secretErr := url.QueryUnescape(password)
		if !ok || idErr != nil || secretErr != nil {
			return "", "", invalidClient(7000216, "The Authorization header is not valid Basic authentication.")
		}
		if secret != "" || id != "" && !strings.EqualFold(id, headerID) { // one method only: RFC 6749, 2.3
			return "", "", badForm("Client credentials were given in the header and in the body.")
		}
		id, secret = headerID, headerSecret
	}
	if id == "" {
		return "", "", missing("client_id")
	}
	return id, secret, nil
}

// resource is what the token is wanted for: "resource" in version 1 of the
// endpoint, in "scope" since.
func (a authorityRequest) resource(d DirectoryID, form url.Values) (string, error) {
	resource := form.Get("resource")
	if scope := form.Get("scope"); resource == "" {
		if scope == "" {
			return "", missing("scope")
		}
		var err error
		if resource, err = resourceOfScope(scope); err != nil {
			return "", &authorityError{
				status: http.StatusBadRequest, kind: "invalid_scope", number: 1002012,
				text: fmt.Sprintf("The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).", excerpt(scope)),
			}
		}
	}
	if !a.service.knows(resource) {
		return "", &authorityError{
			status: http.StatusBadRequest, kind: "invalid_resource", number: 500011,
			text: fmt.Sprintf("The resource principal named %s was not found in the tenant named %s. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant.", excerpt(resource), d),
		}
	}
	return resource, nil
}
