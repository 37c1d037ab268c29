package entra

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/store"
)

// TrustedIssuer is an OpenID provider, such as an Entra tenant, whose access tokens
// are taken beside our own. Who is who among its users is said by external principals:
// a token of somebody who is none is refused.
type TrustedIssuer struct {
	Issuer    string      `json:"issuer"`    // exactly as tokens have it
	Directory DirectoryID `json:"directory"` // of ours, to which its principals belong; empty: Config says which
	// Audiences that its tokens must have to be taken by the management plane and by
	// vaults; an empty list: they are not taken there. They should be names of this
	// service alone: a token that is also good elsewhere can be used there by whoever sees it.
	ManagementAudiences []string `json:"managementAudiences"`
	VaultAudiences      []string `json:"vaultAudiences"`
	// Claim tells principals apart: "oid" (the default) or "sub".
	Claim string `json:"claim"`
}

// Check says what is wrong with the settings.
func (t TrustedIssuer) Check() error {
	check := FederatedCredential{Name: "trusted", Issuer: t.Issuer, Subject: "x", Audiences: []string{"x"}}
	switch {
	case check.Check() != nil:
		return fmt.Errorf("the issuer %q is no https URL", t.Issuer)
	case len(t.ManagementAudiences)+len(t.VaultAudiences) == 0:
		return fmt.Errorf("the issuer %s has neither managementAudiences nor vaultAudiences: none of its tokens would be taken", t.Issuer)
	case slices.Contains(append(t.ManagementAudiences, t.VaultAudiences...), ""):
		return fmt.Errorf("the issuer %s has an empty audience", t.Issuer)
	case t.Claim != "" && t.Claim != "oid" && t.Claim != "sub":
		return fmt.Errorf("the claim %q of issuer %s is neither oid nor sub", t.Claim, t.Issuer)
	}
	return nil
}

// Trust takes tokens of these issuers from now on, and of no others but our own. Call it
// before serving.
func (s *Service) Trust(issuers []TrustedIssuer) error {
	trusted := map[string]*TrustedIssuer{}
	for _, t := range issuers {
		if err := t.Check(); err != nil {
			return err
		}
		if trusted[t.Issuer] != nil {
			return fmt.Errorf("the issuer %s is there twice", t.Issuer)
		}
		trusted[t.Issuer] = &t
	}
	s.trusted = trusted
	return nil
}

// External is who an external principal is at its issuer.
type External struct {
	Issuer string `json:"issuer"`
	Value  string `json:"value"` // of the issuer's claim
}

func (s *Service) externalKey(e External) store.RowKey {
	return s.externals.Key(e.Issuer + "\n" + e.Value)
}

// ImportPrincipal makes a principal for somebody of a trusted issuer. It gets no tokens
// here. objectID may be the one it has there, so that access policies can be
// written for both; empty: a new one. store.ErrConflict when there is such a principal.
func (s *Service) ImportPrincipal(ctx context.Context, d DirectoryID, name, objectID string, e External) (Details, error) {
	if err := s.checkDirectory(ctx, d); err != nil {
		return Details{}, fmt.Errorf("import principal %q: %w", name, err)
	}
	row := newPrincipal(d, KindExternal, name)
	if objectID != "" {
		row.ObjectID = strings.ToLower(objectID)
	}
	row.External = &e
	writes, err := s.principalWrites(row)
	if err != nil {
		return Details{}, err
	}
	index, err := s.externals.Put(s.externalKey(e), reference{row.ObjectID}, store.Absent)
	if err != nil {
		return Details{}, err
	}
	if err := s.store.WriteRows(ctx, append(writes, index)); err != nil {
		return Details{}, fmt.Errorf("import principal %q: %w", name, err)
	}
	return row.details(), nil
}

// trustedBy returns the trusted issuer that the request's token names, and the token.
// Nothing of it is checked yet.
func (s *Service) trustedBy(r *http.Request) (*TrustedIssuer, string) {
	if len(s.trusted) == 0 {
		return nil, ""
	}
	raw, f := bearer(r)
	if f != faultNone {
		return nil, ""
	}
	var c jwt.RegisteredClaims
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(raw, &c); err != nil {
		return nil, ""
	}
	return s.trusted[c.Issuer], raw
}

// external checks a token of a trusted issuer, which must have one of the audiences. The
// claims are set as far as the token was good.
func (s *Service) external(ctx context.Context, t *TrustedIssuer, raw string, audiences []string) (Caller, claims, fault, error) {
	verifier, err := s.issuers.verifier(ctx, t.Issuer)
	if err != nil {
		return Caller{}, claims{}, faultNone, err
	}
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	token, err := verifier.Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return Caller{}, claims{Issuer: t.Issuer, Expires: jwt.NewNumericDate(expired.Expiry)}, faultExpired, nil
	case err != nil && fetchFailed(err):
		return Caller{}, claims{}, faultNone, fmt.Errorf("check a token of %s: %w", t.Issuer, err)
	case err != nil:
		return Caller{}, claims{}, faultMalformed, nil
	}
	var given struct {
		ObjectID  string           `json:"oid"`
		NotBefore *jwt.NumericDate `json:"nbf"`
	}
	if err := token.Claims(&given); err != nil {
		return Caller{}, claims{}, faultMalformed, nil
	}
	c := claims{Issuer: t.Issuer, Audience: strings.Join(token.Audience, " "), Expires: jwt.NewNumericDate(token.Expiry)}
	if given.NotBefore != nil && time.Now().Before(given.NotBefore.Time) {
		return Caller{}, c, faultEarly, nil
	}
	if !slices.ContainsFunc(token.Audience, func(a string) bool { return slices.Contains(audiences, a) }) {
		return Caller{}, c, faultAudience, nil
	}
	value := given.ObjectID
	if t.Claim == "sub" {
		value = token.Subject
	}
	caller, f, err := s.externalCaller(ctx, t, value)
	return caller, c, f, err
}

func (s *Service) externalCaller(ctx context.Context, t *TrustedIssuer, value string) (Caller, fault, error) {
	if value == "" {
		return Caller{}, faultPrincipal, nil
	}
	ref, _, err := s.externals.Get(ctx, s.externalKey(External{t.Issuer, value}))
	if notFound(err) {
		return Caller{}, faultPrincipal, nil
	}
	if err != nil {
		return Caller{}, faultNone, err
	}
	p, _, err := s.principals.Get(ctx, s.principals.Key(ref.ObjectID))
	switch {
	case notFound(err):
		return Caller{}, faultPrincipal, nil
	case err != nil:
		return Caller{}, faultNone, err
	case p.Directory != t.Directory:
		return Caller{}, faultPrincipal, nil
	}
	return Caller{ObjectID: p.ObjectID, ClientID: p.ClientID, Directory: p.Directory, Kind: p.Kind}, faultNone, nil
}
