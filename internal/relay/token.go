package relay

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/store"
)

const (
	// maxTokenBytes bounds a token before anything of it is decoded.
	maxTokenBytes = 16 << 10
	// maxTokenLife is the longest a token may be valid for, from iat to exp.
	maxTokenLife = time.Hour
	// maxTokenAhead is how far the clock of who issues tokens may be ahead of ours. A
	// token from further on would outlive its revocation.
	maxTokenAhead = 5 * time.Minute
)

// claims are the claims of a token. Source: ITokenClaims of the Fluid protocol
// definitions.
type claims struct {
	DocumentID string // empty on the call that creates one
	TenantID   string
	Scopes     []string
	User       json.RawMessage // an object; the audience sees it as it is
	IssuedAt   time.Time
	Expires    time.Time
	JTI        string
	Version    string

	raw json.RawMessage // the decoded claims object as sent
}

func (c claims) has(scope string) bool { return slices.Contains(c.Scopes, scope) }

// authError is why a token does not open what it was sent for. Clients go by the
// status: 401 makes them ask their token provider for a fresh one and try once
// more, 403 makes them give up (on sockets, also try once more), 404 give up.
type authError struct {
	Status  int
	Message string
}

func (e *authError) Error() string { return e.Message }

// tokenFace is which of the service's faces a token came to: they answer in
// different words.
type tokenFace uint8

const (
	restFace tokenFace = iota
	socketFace
)

// Every refusal of a token, by face. Tests hold the two tables of the reference.
var (
	errNoHeader       = &authError{http.StatusForbidden, "Missing Authorization header."}
	errNoAccessToken  = &authError{http.StatusForbidden, "Missing access token."}
	errBasicMalformed = &authError{http.StatusForbidden, "Malformed authorization token"}
	errTokenUsed      = &authError{http.StatusForbidden, "Access token has already been used."}
	errNoTenant       = &authError{http.StatusNotFound, "Tenant is disabled or does not exist."}
	errNoDeleteScope  = &authError{http.StatusForbidden, "Missing DocDelete scopes in token claims."}
	errNoRevokeScope  = &authError{http.StatusForbidden, "Missing RevokeToken scopes in token claims."}

	errNoToken       = [2]*authError{errNoAccessToken, {http.StatusForbidden, "Must provide an authorization token"}}
	errNotJWT        = [2]*authError{{http.StatusForbidden, "Missing token claims."}, {http.StatusUnauthorized, "Invalid token"}}
	errOtherTenant   = [2]*authError{{http.StatusForbidden, "TenantId in token claims does not match request."}, errOtherResource}
	errOtherDocument = [2]*authError{{http.StatusForbidden, "DocumentId in token claims does not match request."}, errOtherResource}
	errOtherResource = &authError{http.StatusForbidden, "DocumentId and/or TenantId in token claims do not match requested resource"}
	errNoScopes      = [2]*authError{{http.StatusForbidden, "Missing scopes in token claims."}, {http.StatusForbidden, "Missing scopes in token claims"}}
	errTokenLife     = [2]*authError{{http.StatusForbidden, "Invalid token expiry"}, {http.StatusForbidden, "Invalid token expiry"}}
	errExpired       = &authError{http.StatusUnauthorized, "Expired token"}
	errSignature     = &authError{http.StatusForbidden, "Invalid token validated with key2."}
)

// checkToken checks all of a token but what a single call wants on top: that it is
// of this tenant and document, lives, is signed with one of the tenant's keys, and
// was not revoked. documentID "" is not compared. The error is an *authError, or
// internal.
func (s *Server) checkToken(ctx context.Context, raw, tenantID, documentID string, face tokenFace) (claims, Tenant, error) {
	c, err := s.readClaims(raw, tenantID, documentID, face)
	if err != nil {
		return claims{}, Tenant{}, err
	}
	t, err := s.checkSignature(ctx, raw, c)
	if err != nil {
		return claims{}, Tenant{}, err
	}
	if err := s.checkRevoked(ctx, c, face); err != nil {
		return claims{}, Tenant{}, err
	}
	return c, t, nil
}

// checkClaims reads a token and checks its claims, in the reference's order. They
// are not to be believed before checkSignature: until then they only choose
// between refusals.
func checkClaims(raw, tenantID, documentID string, face tokenFace) (claims, error) {
	c, err := matchClaims(raw, tenantID, documentID, face)
	if err != nil {
		return claims{}, err
	}
	switch life := c.Expires.Sub(c.IssuedAt); {
	case c.IssuedAt.IsZero() || c.Expires.IsZero() || life <= 0 || life > maxTokenLife:
		return claims{}, errTokenLife[face]
	case c.IssuedAt.After(time.Now().Add(maxTokenAhead)):
		return claims{}, errTokenLife[face]
	case face == restFace && c.expired():
		return claims{}, errExpired
	}
	return c, nil
}

// matchClaims is the part of checkClaims that does not look at the time.
func matchClaims(raw, tenantID, documentID string, face tokenFace) (claims, error) {
	if raw == "" {
		return claims{}, errNoToken[face]
	}
	c, err := parseClaims(raw)
	switch {
	case err != nil:
		return claims{}, errNotJWT[face]
	case c.TenantID != tenantID:
		return claims{}, errOtherTenant[face]
	case documentID != "" && c.DocumentID != documentID:
		return claims{}, errOtherDocument[face]
	case len(c.Scopes) == 0:
		return claims{}, errNoScopes[face]
	}
	return c, nil
}

func (c claims) expired() bool { return !time.Now().Before(c.Expires) }

// checkOpen says whether tokens open a tenant now.
func (s *Server) checkOpen(ctx context.Context, id string) error {
	if _, local := s.localTenant(id); local {
		return nil
	}
	t, found, err := s.c.Tenants.Lookup(ctx, id)
	switch {
	case err != nil:
		return fmt.Errorf("look up tenant %s: %w", id, err)
	case !found:
		return errNoTenant
	case t.Closed != "":
		return &authError{http.StatusForbidden, t.Closed}
	}
	return nil
}

// checkSignature checks a token's signature, under key1, then key2, and returns
// its tenant. A token that key1 verifies but that is expired is not tried again. One
// of a tenant of local mode needs no signature.
func (s *Server) checkSignature(ctx context.Context, raw string, c claims) (Tenant, error) {
	if t, local := s.localTenant(c.TenantID); local {
		return t, nil
	}
	t, found, err := s.c.Tenants.Lookup(ctx, c.TenantID)
	if err != nil {
		return Tenant{}, fmt.Errorf("look up tenant %s: %w", c.TenantID, err)
	}
	if !found {
		return Tenant{}, errNoTenant
	}
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.Strict().DecodeString(raw[dot+1:])
	if err != nil {
		return Tenant{}, errSignature
	}
	for i, key := range t.Keys {
		// A key that is not there signs nothing: an empty one would be anybody's.
		if key == "" || jwt.SigningMethodHS256.Verify(raw[:dot], signature, []byte(key)) != nil {
			continue
		}
		if c.expired() {
			return Tenant{}, &authError{http.StatusUnauthorized, fmt.Sprintf("Token expired validated with key%d.", i+1)}
		}
		// After the signature: whoever has no good token learns nothing of the tenant.
		if t.Closed != "" {
			return Tenant{}, &authError{http.StatusForbidden, t.Closed}
		}
		return t, nil
	}
	return Tenant{}, errSignature
}

var errMalformedToken = errors.New("not a JWT signed with HS256")

// parseClaims reads a JSON Web Token (RFC 7519) in compact form without checking
// its signature. Only HS256 is accepted here, so nothing later can be talked into
// another algorithm or none.
func parseClaims(raw string) (claims, error) {
	parts := strings.Split(raw, ".")
	if len(raw) > maxTokenBytes || len(parts) != 3 {
		return claims{}, errMalformedToken
	}
	header, err := decodeObject(parts[0])
	if err != nil {
		return claims{}, err
	}
	var alg string
	if err := json.Unmarshal(header["alg"], &alg); err != nil || alg != jwt.SigningMethodHS256.Alg() {
		return claims{}, errMalformedToken
	}
	if _, critical := header["crit"]; critical { // RFC 7515, 4.1.11: not understood, so refused
		return claims{}, errMalformedToken
	}
	members, err := decodeObject(parts[1])
	if err != nil {
		return claims{}, err
	}
	var c claims
	for _, member := range []struct {
		name string
		into any
	}{
		{"documentId", &c.DocumentID},
		{"tenantId", &c.TenantID},
		{"scopes", &c.Scopes},
		{"jti", &c.JTI},
		{"ver", &c.Version},
		{"iat", (*numericDate)(&c.IssuedAt)},
		{"exp", (*numericDate)(&c.Expires)},
	} {
		if value, ok := members[member.name]; ok && json.Unmarshal(value, member.into) != nil {
			return claims{}, errMalformedToken
		}
	}
	if c.User = members["user"]; c.User != nil && c.User[0] != '{' {
		return claims{}, errMalformedToken
	}
	if c.raw, err = base64.RawURLEncoding.Strict().DecodeString(parts[1]); err != nil {
		return claims{}, errMalformedToken
	}
	return c, nil
}

// decodeObject decodes a base64url JSON object into its members. Their names are
// matched exactly, unlike those of a struct's fields.
func decodeObject(part string) (map[string]json.RawMessage, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errMalformedToken
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil || members == nil {
		return nil, errMalformedToken
	}
	return members, nil
}

// numericDate reads seconds since 1970, fractions allowed (RFC 7519, 2).
type numericDate time.Time

func (d *numericDate) UnmarshalJSON(b []byte) error {
	var seconds float64
	if err := json.Unmarshal(b, &seconds); err != nil {
		return err
	}
	if bytes.Equal(b, []byte("null")) || seconds < 1 || seconds > 1<<40 {
		return errMalformedToken
	}
	*d = numericDate(time.UnixMilli(int64(math.Floor(seconds * 1000))))
	return nil
}

// creationToken lets an application's backend prove who created a document: it
// names the document and its creator and grants nothing.
func creationToken(t Tenant, documentID string, by claims) (string, error) {
	const life = 5 * time.Minute
	now := time.Now()
	m := jwt.MapClaims{
		"documentId": documentID,
		"tenantId":   t.ID,
		"scopes":     []string{},
		"iat":        now.Unix(),
		"exp":        now.Add(life).Unix(),
	}
	if by.User != nil {
		m["user"] = by.User
	}
	if by.Version != "" {
		m["ver"] = by.Version
	}
	if by.JTI != "" {
		m["jti"] = by.JTI
	}
	key := t.Keys[0]
	if key == "" {
		key = t.Keys[1]
	}
	if key == "" {
		return "", fmt.Errorf("tenant %s has no key to sign with", t.ID)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, m).SignedString([]byte(key))
	if err != nil {
		return "", fmt.Errorf("sign the token of a new document: %w", err)
	}
	return token, nil
}

// authorize checks a call's token and the scopes its row wants, in the reference's
// order.
func (s *Server) authorize(row *route, c *call) error {
	if row.face == openFace {
		return nil
	}
	raw, err := tokenOf(c.r, row.face)
	if err != nil {
		return err
	}
	c.token = raw
	if c.claims, err = s.readClaims(raw, c.r.PathValue("tenant"), c.r.PathValue("id"), restFace); err != nil {
		return err
	}
	// Its id comes from the token, so the token must have one.
	if row.face == storageFace && c.claims.DocumentID == "" {
		return errOtherDocument[restFace]
	}
	for _, scope := range row.scopes {
		if !c.claims.has(scope) {
			return &authError{http.StatusForbidden, "Permission denied. Insufficient scopes. Required scopes: " + strings.Join(row.scopes, ",")}
		}
	}
	if c.tenant, err = s.checkSignature(c.r.Context(), raw, c.claims); err != nil {
		return err
	}
	return s.checkRevoked(c.r.Context(), c.claims, restFace)
}

// tokenOf takes the token from the Authorization header, as the face has it.
func tokenOf(r *http.Request, f face) (string, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return "", errNoHeader
	}
	value, ok := strings.CutPrefix(header, "Basic ")
	if !ok || value == "" {
		return "", errNoAccessToken
	}
	if f == ordererFace {
		return value, nil
	}
	// "<tenant>:<jwt>"; some clients leave the padding out.
	pair, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return "", errBasicMalformed
	}
	_, token, ok := strings.Cut(string(pair), ":")
	if !ok {
		return "", errBasicMalformed
	}
	return token, nil
}

// usedTokens has one row per token that created a document: such a token works
// once, also across restarts and nodes, so a request that is sent again cannot make
// a second document. The row's plaintext is when the token ends, in milliseconds
// since 1970, 8 bytes big endian.
const usedTokens store.Table = "used-tokens"

// sweepTokens is how many other rows each use looks at, to drop those of tokens
// that have ended: the table cannot grow beyond some multiple of the live ones.
const sweepTokens = 16

func (s *Server) usedTokenKey(raw string) store.RowKey {
	return store.RowKey{Table: usedTokens, Name: s.c.Service.Name(string(usedTokens), raw)}
}

// useToken marks a token as used, durably; errTokenUsed if it was. Those of local
// mode may be used again: they keep nobody out.
func (s *Server) useToken(ctx context.Context, c *call) error {
	if _, local := s.localTenant(c.tenant.ID); local {
		return nil
	}
	key := s.usedTokenKey(c.token)
	write, err := s.endWrite(key, c.claims.Expires)
	if err != nil {
		return err
	}
	write.Expect = store.Absent
	ended, err := s.endedRows(ctx, key)
	if err != nil {
		return err
	}
	writes := []store.RowWrite{write}
	for _, row := range ended {
		writes = append(writes, store.RowWrite{RowKey: row.RowKey})
	}
	err = s.c.Store.WriteRows(ctx, writes)
	if errors.Is(err, store.ErrConflict) { // only the first write expects anything
		return errTokenUsed
	}
	if err != nil {
		return fmt.Errorf("store used token: %w", err)
	}
	return nil
}

// releaseToken makes a used token good again: it created nothing.
func (s *Server) releaseToken(ctx context.Context, c *call) error {
	if err := s.c.Store.WriteRows(ctx, []store.RowWrite{{RowKey: s.usedTokenKey(c.token)}}); err != nil {
		return fmt.Errorf("release used token: %w", err)
	}
	return nil
}
