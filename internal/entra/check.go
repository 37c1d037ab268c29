package entra

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxTokenBytes bounds what is parsed; our tokens have some 1100 bytes.
const maxTokenBytes = 16 << 10

// Caller is who a checked token speaks for.
type Caller struct {
	ObjectID  string
	ClientID  string
	Directory DirectoryID
	Kind      string // as in Principal

	Administrator bool // of the directory: may manage its applications
}

// TokenError is a refused token.
type TokenError struct {
	Code    string // AuthenticationFailed, InvalidAuthenticationToken, ExpiredAuthenticationToken, InvalidAuthenticationTokenAudience, InvalidAuthenticationTokenTenant
	Message string // in the words of the service that was asked, management or vault
	Vault   string // the vault's code for it: AKV10000, AKV10022, AKV10032, ...
}

func (e *TokenError) Error() string { return e.Message }

// Management checks a request's bearer token for the management plane. The error
// is a *TokenError, unless the store failed.
func (s *Service) Management(r *http.Request) (Caller, error) {
	if t, raw := s.trustedBy(r); t != nil {
		caller, c, f, err := s.external(r.Context(), t, raw, t.ManagementAudiences)
		if err == nil && f != faultNone {
			err = s.managementError(f, c)
		}
		return caller, err
	}
	c, f, err := s.verify(r)
	if err != nil {
		return Caller{}, err
	}
	if f == faultNone && !s.management.has(c.Audience) {
		f = faultAudience
	}
	caller, f, err := s.caller(r.Context(), c, f)
	if err != nil {
		return Caller{}, err
	}
	if f != faultNone {
		return Caller{}, s.managementError(f, c)
	}
	return caller, nil
}

// Graph checks a request's bearer token for the directory's own API. The error is a
// *TokenError, unless the store failed.
func (s *Service) Graph(r *http.Request) (Caller, error) {
	c, f, err := s.verify(r)
	if err != nil {
		return Caller{}, err
	}
	if f == faultNone && !s.graph.has(c.Audience) {
		f = faultAudience
	}
	caller, f, err := s.caller(r.Context(), c, f)
	if err != nil {
		return Caller{}, err
	}
	if f != faultNone {
		e := s.managementError(f, c)
		if f == faultAudience {
			e.Message = fmt.Sprintf("Access token validation failure. Invalid audience '%s'.", c.Audience)
		}
		e.Code = "InvalidAuthenticationToken"
		return Caller{}, e
	}
	return caller, nil
}

// Vault checks a request's bearer token for the vault data plane, for a vault of
// this directory. The error is a *TokenError, unless the store failed.
func (s *Service) Vault(r *http.Request, d DirectoryID) (Caller, error) {
	return s.dataPlane(r, d, s.vault, AudienceVault)
}

// ManagedHSM is Vault for the data plane of managed HSMs.
func (s *Service) ManagedHSM(r *http.Request, d DirectoryID) (Caller, error) {
	return s.dataPlane(r, d, s.hsm, AudienceHSM)
}

func (s *Service) dataPlane(r *http.Request, d DirectoryID, served audiences, public string) (Caller, error) {
	if t, raw := s.trustedBy(r); t != nil {
		caller, c, f, err := s.external(r.Context(), t, raw, t.VaultAudiences)
		if err != nil {
			return Caller{}, err
		}
		if f == faultNone && !strings.EqualFold(string(caller.Directory), string(d)) {
			f = faultDirectory
		}
		if f != faultNone {
			return Caller{}, vaultError(f, c, d, public)
		}
		return caller, nil
	}
	c, f, err := s.verify(r)
	if err != nil {
		return Caller{}, err
	}
	switch {
	case f != faultNone:
	case !served.has(c.Audience):
		f = faultAudience
	case !strings.EqualFold(c.Directory, string(d)):
		f = faultDirectory
	}
	caller, f, err := s.caller(r.Context(), c, f)
	if err != nil {
		return Caller{}, err
	}
	if f != faultNone {
		return Caller{}, vaultError(f, c, d, public)
	}
	return caller, nil
}

// fault is what is wrong with a token.
type fault int

const (
	faultNone fault = iota
	faultMissing
	faultMalformed // not a token of ours: form, algorithm, key or signature
	faultExpired
	faultEarly // before nbf
	faultAudience
	faultDirectory // issued for another directory
	faultPrincipal // the principal was deleted
)

// verify checks form, signature, time and issuer of the request's token. The
// claims are set only if the signature is good.
func (s *Service) verify(r *http.Request) (claims, fault, error) {
	raw, f := bearer(r)
	if f != faultNone {
		return claims{}, f, nil
	}
	var c claims
	// One algorithm, fixed here and not by the token: "none", and an HMAC keyed with
	// our public key, are the classic forgeries (RFC 8725, 2.1).
	_, err := jwt.ParseWithClaims(raw, &c, s.verificationKey(r.Context()),
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(),
		jwt.WithNotBeforeRequired(), jwt.WithStrictDecoding())
	var failed *keysError
	switch {
	case err == nil:
	case errors.As(err, &failed):
		return claims{}, faultNone, failed
	// jwt looks at times only after the signature was found good.
	case errors.Is(err, jwt.ErrTokenExpired):
		return c, faultExpired, nil
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return c, faultEarly, nil
	default:
		return claims{}, faultMalformed, nil
	}
	if c.Issuer != issuerOf(DirectoryID(c.Directory)) {
		return c, faultDirectory, nil
	}
	return c, faultNone, nil
}

// keysError says that the keys could not be read, which is no fault of the token.
type keysError struct{ error }

func (e *keysError) Unwrap() error { return e.error }

func (s *Service) verificationKey(ctx context.Context) jwt.Keyfunc {
	return func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		key, known, err := s.keys.find(ctx, id)
		if err != nil {
			return nil, &keysError{fmt.Errorf("check a token: %w", err)}
		}
		if !known {
			return nil, errors.New("token is signed by an unknown key")
		}
		return &key.private.PublicKey, nil
	}
}

// bearer takes the token out of a request.
func bearer(r *http.Request) (string, fault) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", faultMissing
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") || len(token) > maxTokenBytes {
		return "", faultMalformed
	}
	return token, faultNone
}

// caller finds the principal of a good token. A fault found before stays.
func (s *Service) caller(ctx context.Context, c claims, f fault) (Caller, fault, error) {
	if f != faultNone {
		return Caller{}, f, nil
	}
	p, _, err := s.principals.Get(ctx, s.principals.Key(c.ObjectID))
	switch {
	case notFound(err):
		return Caller{}, faultPrincipal, nil
	case err != nil:
		return Caller{}, faultNone, fmt.Errorf("check a token: %w", err)
	case p.ClientID != c.ClientID || string(p.Directory) != c.Directory:
		return Caller{}, faultPrincipal, nil
	}
	return Caller{ObjectID: p.ObjectID, ClientID: p.ClientID, Directory: p.Directory, Kind: p.Kind, Administrator: p.Administrator}, faultNone, nil
}

// managementError says a fault in the words of Azure Resource Manager.
func (s *Service) managementError(f fault, c claims) *TokenError {
	e := &TokenError{Code: "InvalidAuthenticationToken", Message: "The access token is invalid.", Vault: vaultCodes[f]}
	switch f {
	case faultNone, faultMalformed: // the words above
	case faultMissing:
		e.Code = "AuthenticationFailed"
		e.Message = "Authentication failed. The 'Authorization' header is missing."
	case faultExpired:
		e.Code = "ExpiredAuthenticationToken"
		e.Message = fmt.Sprintf("The access token expiry UTC time '%s' is earlier than current UTC time '%s'.",
			c.Expires.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	case faultEarly:
		e.Message = "The access token is not valid yet."
	case faultAudience:
		e.Code = "InvalidAuthenticationTokenAudience"
		e.Message = fmt.Sprintf("The access token has been obtained for wrong audience or resource '%s'. It should exactly match with one of the allowed audiences '%s/', '%s/'.",
			c.Audience, AudienceManagement, s.login)
	case faultDirectory:
		e.Code = "InvalidAuthenticationTokenTenant"
		e.Message = fmt.Sprintf("The access token is from the wrong issuer '%s'. It must match the tenant of the token.", c.Issuer)
	case faultPrincipal:
		e.Message = "The access token's principal does not exist any more."
	}
	return e
}

// vaultCodes are the vault's codes. AKV10046 is for what cannot be verified; an
// expired token has a code of its own form.
var vaultCodes = map[fault]string{
	faultMissing:   "AKV10000",
	faultMalformed: "AKV10046",
	faultExpired:   "TokenExpired",
	faultEarly:     "TokenNotYetValid",
	faultAudience:  "AKV10022",
	faultDirectory: "AKV10032",
	faultPrincipal: "AKV10032",
}

// vaultError says a fault in the words of Azure Key Vault.
func vaultError(f fault, c claims, d DirectoryID, public string) *TokenError {
	code := vaultCodes[f]
	e := &TokenError{Code: "Unauthorized", Vault: code}
	switch f {
	case faultMissing:
		e.Message = code + ": Request is missing a Bearer or PoP token."
	case faultExpired:
		e.Message = "[" + code + "] Error validating token: 'S2S12086'."
	case faultEarly:
		e.Message = "[" + code + "] Error validating token: it is not valid yet."
	case faultAudience:
		e.Message = fmt.Sprintf("%s: Invalid audience. Expected %s, found: %s.", code, public, c.Audience)
	case faultDirectory:
		e.Message = fmt.Sprintf("%s: Invalid issuer. Expected one of %s, found %s.", code, issuerOf(d), c.Issuer)
	case faultPrincipal:
		e.Message = code + ": The token's principal does not exist any more."
	default:
		e.Message = code + ": Unable to resolve the key used for signature validation."
	}
	return e
}
