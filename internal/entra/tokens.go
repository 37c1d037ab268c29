package entra

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/golang-jwt/jwt/v5"
)

// tokenLifetime is Azure's for application tokens.
const tokenLifetime = time.Hour

// issuerOf is the issuer in a directory's tokens; clients of vaults compare it
// with the public one.
func issuerOf(d DirectoryID) string { return "https://sts.windows.net/" + string(d) + "/" }

// claims of an access token, version 1.0. Source: Microsoft identity platform,
// access token claims reference.
type claims struct {
	Audience  string           `json:"aud"`
	Issuer    string           `json:"iss"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	Expires   *jwt.NumericDate `json:"exp"`
	ClientID  string           `json:"appid"`
	// ClientAuth is how the client proved itself: 1 by a secret, 2 by a certificate
	// or, for managed identities, by where it runs.
	ClientAuth string `json:"appidacr"`
	Provider   string `json:"idp"`
	IDType     string `json:"idtyp"`
	ObjectID   string `json:"oid"`
	Subject    string `json:"sub"`
	Directory  string `json:"tid"`
	Unique     string `json:"uti"`
	Version    string `json:"ver"`
}

// The methods by which jwt reads the registered claims.

func (c claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.Expires, nil }
func (c claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.IssuedAt, nil }
func (c claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.NotBefore, nil }
func (c claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }

// knows says whether resource is a service here that tokens are given for.
func (s *Service) knows(resource string) bool {
	return s.management.has(resource) || s.vault.has(resource) || s.hsm.has(resource) || s.graph.has(resource)
}

// issue signs a token of p for a resource, which is echoed as it was asked for.
// how is claims.ClientAuth.
func (s *Service) issue(ctx context.Context, p Principal, how, resource string) (token string, issued, expires time.Time, err error) {
	key, err := s.keys.signing(ctx)
	if err != nil {
		return "", time.Time{}, time.Time{}, err
	}
	issued = time.Now().UTC().Truncate(time.Second)
	expires = issued.Add(tokenLifetime)
	var unique [16]byte
	_, _ = rand.Read(unique[:])
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims{
		Audience:   resource,
		Issuer:     issuerOf(p.Directory),
		IssuedAt:   jwt.NewNumericDate(issued),
		NotBefore:  jwt.NewNumericDate(issued),
		Expires:    jwt.NewNumericDate(expires),
		ClientID:   p.ClientID,
		ClientAuth: how,
		Provider:   issuerOf(p.Directory),
		IDType:     "app",
		ObjectID:   p.ObjectID,
		Subject:    p.ObjectID,
		Directory:  string(p.Directory),
		Unique:     base64.RawURLEncoding.EncodeToString(unique[:]),
		Version:    "1.0",
	})
	t.Header["kid"] = key.id
	token, err = t.SignedString(key.private)
	if err != nil {
		return "", time.Time{}, time.Time{}, fmt.Errorf("sign a token: %w", err)
	}
	return token, issued, expires, nil
}

// IdentityError says that a managed identity got no token.
type IdentityError struct {
	ResourceID string
	Err        error // store.ErrNotFound when the identity does not exist
}

func (e *IdentityError) Error() string {
	if notFound(e.Err) {
		return fmt.Sprintf("managed identity %s does not exist", e.ResourceID)
	}
	return fmt.Sprintf("token of managed identity %s: %v", e.ResourceID, e.Err)
}

// Unwrap returns the cause.
func (e *IdentityError) Unwrap() error { return e.Err }

// NonRetriable tells the Azure SDK's pipeline not to try again.
func (e *IdentityError) NonRetriable() {}

// Credential gives tokens of a user-assigned identity to code in this process, as
// the managed-identity endpoint would. GetToken fails with an *IdentityError.
func (s *Service) Credential(resourceID string) azcore.TokenCredential {
	return identityCredential{service: s, resourceID: resourceID}
}

type identityCredential struct {
	service    *Service
	resourceID string
}

func (c identityCredential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := c.token(ctx, o)
	if err != nil {
		return azcore.AccessToken{}, &IdentityError{ResourceID: c.resourceID, Err: err}
	}
	return token, nil
}

func (c identityCredential) token(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	resource, err := resourceOfScope(strings.Join(o.Scopes, " "))
	if err != nil {
		return azcore.AccessToken{}, err
	}
	if !c.service.knows(resource) {
		return azcore.AccessToken{}, fmt.Errorf("the resource %q is not known here", resource)
	}
	p, err := c.service.ManagedIdentity(ctx, c.resourceID)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	// An Azure identity belongs to one directory; a vault of another one cannot use it.
	if o.TenantID != "" && !strings.EqualFold(o.TenantID, string(p.Directory)) {
		return azcore.AccessToken{}, fmt.Errorf("the identity is of directory %s, the token is wanted for %s", p.Directory, o.TenantID)
	}
	token, _, expires, err := c.service.issue(ctx, p, authCertificate, resource)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return azcore.AccessToken{Token: token, ExpiresOn: expires}, nil
}
