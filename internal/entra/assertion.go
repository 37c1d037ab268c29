package entra

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
)

// assertionType is the only kind of client assertion (RFC 7523, 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionAlgorithms are what other issuers may sign with.
var assertionAlgorithms = []string{oidc.RS256, oidc.PS256, oidc.ES256}

// assertion is what is read of a client assertion before its signature is checked:
// enough to find what to check it with.
type assertion struct {
	raw       string
	algorithm string
	x5t       string
	x5tS256   string
	issuer    string
	subject   string
	audiences []string
}

func parseAssertion(raw string) (assertion, error) {
	malformed := &authorityError{
		status: http.StatusBadRequest, kind: "invalid_request", number: 50027,
		text: "JWT token is invalid or malformed.",
	}
	var c jwt.RegisteredClaims
	token, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(raw, &c)
	if err != nil || len(raw) > maxTokenBytes {
		return assertion{}, malformed
	}
	a := assertion{raw: raw, issuer: c.Issuer, subject: c.Subject, audiences: c.Audience}
	a.algorithm, _ = token.Header["alg"].(string)
	a.x5t, _ = token.Header["x5t"].(string)
	a.x5tS256, _ = token.Header["x5t#S256"].(string)
	return a, nil
}

// proveByAssertion checks a client assertion: one that the application signed with
// its certificate, or a token of another issuer that stands for the principal.
func (a authorityRequest) proveByAssertion(directory string, p principalRow, form url.Values) error {
	if kind := form.Get("client_assertion_type"); kind != assertionType {
		if kind == "" {
			return missing("client_assertion_type")
		}
		return badForm(fmt.Sprintf("The 'client_assertion_type' '%s' is not supported. It must be '%s'.", excerpt(kind), assertionType))
	}
	given, err := parseAssertion(form.Get("client_assertion"))
	if err != nil {
		return err
	}
	// An application names itself as issuer and subject (RFC 7523, 3).
	if strings.EqualFold(given.issuer, p.ClientID) || given.x5t != "" || given.x5tS256 != "" {
		return a.provenByCertificate(directory, p, given)
	}
	return a.service.provenByIssuer(a.r.Context(), p, given)
}

func (a authorityRequest) provenByCertificate(directory string, p principalRow, given assertion) error {
	at := slices.IndexFunc(p.Certificates, func(c certificateRow) bool { return c.named(given.x5t, given.x5tS256) })
	if at < 0 {
		return invalidClient(700027, fmt.Sprintf("The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '%s']", excerpt(given.x5t+given.x5tS256)))
	}
	certificate, err := ParseCertificate(p.Certificates[at].DER)
	if err != nil {
		return err
	}
	now := time.Now()
	if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return invalidClient(1000502, "The provided certificate is not within its specified validity window.")
	}
	var c jwt.RegisteredClaims
	// The algorithms are fixed here, and the key is an RSA public key: no other family
	// can be confused with it (RFC 8725, 2.1).
	_, err = jwt.ParseWithClaims(given.raw, &c, func(*jwt.Token) (any, error) { return certificate.PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256", "PS256"}), jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(), jwt.WithLeeway(clockSkew))
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return notInTime(c.NotBefore, c.ExpiresAt)
	default:
		return badSignature()
	}
	if !strings.EqualFold(c.Issuer, p.ClientID) || !strings.EqualFold(c.Subject, p.ClientID) {
		return invalidClient(700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
	}
	known := a.ownURLs(directory, p)
	if !slices.ContainsFunc(c.Audience, func(aud string) bool { return slices.Contains(known, canonicalAudience(aud)) }) {
		return invalidClient(700023, fmt.Sprintf("Client assertion audience claim does not match Realm issuer. [Audience: '%s']", excerpt(strings.Join(c.Audience, " "))))
	}
	return nil
}

// clockSkew is what clocks of clients may differ from ours.
const clockSkew = 5 * time.Minute

func notInTime(from, to *jwt.NumericDate) error {
	at := func(d *jwt.NumericDate) string {
		if d == nil {
			return "(none)"
		}
		return d.UTC().Format(time.RFC3339)
	}
	return invalidClient(700024, fmt.Sprintf("Client assertion is not within its valid time range. Current time: %s, assertion valid from %s, expiry time of assertion %s.",
		time.Now().UTC().Format(time.RFC3339), at(from), at(to)))
}

func badSignature() error {
	return invalidClient(700027, "Client assertion contains an invalid signature. [Reason - Client assertion failed signature validation.]")
}

// ownURLs are the audiences by which a client means this authority: the token
// endpoint it used, in both versions, and the issuer.
func (a authorityRequest) ownURLs(directory string, p principalRow) []string {
	var all []string
	for _, d := range []string{directory, string(p.Directory)} {
		base := canonicalAudience(a.login() + "/" + d)
		all = append(all, base, base+"/oauth2/v2.0/token", base+"/oauth2/token", base+"/v2.0")
	}
	return all
}

// provenByIssuer checks a token of another issuer: exactly the issuer, subject and
// audience of one of the principal's federated credentials, and the issuer's signature.
func (s *Service) provenByIssuer(ctx context.Context, p principalRow, given assertion) error {
	match := func(f FederatedCredential) bool {
		return f.Issuer == given.issuer && f.Subject == given.subject &&
			slices.ContainsFunc(given.audiences, func(a string) bool { return slices.Contains(f.Audiences, a) })
	}
	if !slices.ContainsFunc(p.Federated, match) {
		return noFederatedCredential(p, given)
	}
	verifier, err := s.issuers.verifier(ctx, given.issuer)
	if err != nil {
		return s.issuerFailed(ctx, given.issuer, err)
	}
	if !slices.Contains(assertionAlgorithms, given.algorithm) {
		return badSignature()
	}
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	token, err := verifier.Verify(ctx, given.raw)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return notInTime(nil, jwt.NewNumericDate(expired.Expiry))
	case err != nil && fetchFailed(err):
		return s.issuerFailed(ctx, given.issuer, err)
	case err != nil:
		return badSignature()
	case token.Issuer != given.issuer || token.Subject != given.subject || !slices.Equal(token.Audience, given.audiences):
		return badSignature() // what was matched is not what was signed
	}
	return nil
}

// fetchFailed says whether a check failed because the issuer's keys could not be
// had: the library has no type for it.
func fetchFailed(err error) bool { return strings.Contains(err.Error(), "fetching keys") }

func (s *Service) issuerFailed(ctx context.Context, issuer string, err error) error {
	s.log.WarnContext(ctx, "issuer cannot be asked", "issuer", excerpt(issuer), "err", err)
	return &authorityError{
		status: http.StatusBadRequest, kind: "invalid_request", number: 50166,
		text: "Request to External OIDC endpoint failed.",
	}
}

// noFederatedCredential says which part of the token is nobody's.
func noFederatedCredential(p principalRow, given assertion) error {
	of := slices.Clone(p.Federated)
	keep := func(match func(FederatedCredential) bool) bool {
		of = slices.DeleteFunc(of, func(f FederatedCredential) bool { return !match(f) })
		return len(of) > 0
	}
	number, part, value := 700212, "audience", strings.Join(given.audiences, " ")
	switch {
	case !keep(func(f FederatedCredential) bool { return f.Issuer == given.issuer }):
		number, part, value = 700211, "issuer", given.issuer
	case !keep(func(f FederatedCredential) bool { return f.Subject == given.subject }):
		number, part, value = 700213, "subject", given.subject
	}
	return invalidClient(number, fmt.Sprintf("No matching federated identity record found for presented assertion %s '%s'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion.", part, excerpt(value)))
}

func tlsRoots(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}
