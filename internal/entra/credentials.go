package entra

import (
	"context"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is a name of a certificate; the signature is checked with its key
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/store"
)

// secretRow is one client secret of an application, as a hash.
type secretRow struct {
	ID      string    `json:"id,omitempty"`
	Name    string    `json:"name,omitempty"`
	Hint    string    `json:"hint,omitempty"` // first three characters, to tell secrets apart
	Salt    []byte    `json:"salt"`
	Hash    []byte    `json:"hash"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// certificateRow is one certificate of an application.
type certificateRow struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	DER     []byte    `json:"der"`
	Created time.Time `json:"created"`
}

// SecretInfo is what is shown of a client secret.
type SecretInfo struct {
	ID, Name, Hint   string
	Created, Expires time.Time // Expires is zero for never
}

// CertificateInfo is what is shown of an application's certificate.
type CertificateInfo struct {
	ID, Name           string
	Thumbprint         []byte // SHA-1 of the certificate, as portals show it
	DER                []byte
	NotBefore, Expires time.Time
}

// FederatedCredential lets tokens of another issuer stand for a principal: those
// with exactly this issuer and subject, and one of these audiences.
type FederatedCredential struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Issuer      string    `json:"issuer"`
	Subject     string    `json:"subject"`
	Audiences   []string  `json:"audiences"`
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`
}

// FederatedError says what is wrong with a federated credential.
type FederatedError struct {
	Part    string // name, issuer, subject or audiences
	Message string
}

func (e *FederatedError) Error() string { return e.Message }

// federatedName: 3 to 120 letters, digits, hyphens and underscores, a letter or digit
// first. Source: Azure naming rules, Microsoft.ManagedIdentity.
var federatedName = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z_]{2,119}$`)

const maxFederatedValue = 600 // characters of an issuer, subject or audience: Azure's limit

// Check says what is wrong with a credential: nil or a *FederatedError.
func (f FederatedCredential) Check() error {
	bad := func(part, format string, args ...any) error {
		return &FederatedError{Part: part, Message: fmt.Sprintf(format, args...)}
	}
	if !federatedName.MatchString(f.Name) {
		return bad("name", "The federated credential's name '%s' is not allowed: it has 3 to 120 letters, digits, hyphens and underscores, and begins with a letter or digit.", excerpt(f.Name))
	}
	u, err := url.Parse(f.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad("issuer", "The issuer '%s' is not valid: it is the https URL that the tokens have as 'iss', without query.", excerpt(f.Issuer))
	}
	if f.Subject == "" {
		return bad("subject", "The subject is missing: it is what the tokens have as 'sub', exactly.")
	}
	if len(f.Audiences) != 1 || f.Audiences[0] == "" {
		return bad("audiences", "One audience is needed; 'api://AzureADTokenExchange' is what clients ask for.")
	}
	for part, value := range map[string]string{"issuer": f.Issuer, "subject": f.Subject, "audiences": f.Audiences[0]} {
		if len(value) > maxFederatedValue {
			return bad(part, "The %s has %d characters; at most %d are allowed.", part, len(value), maxFederatedValue)
		}
	}
	return nil
}

// Azure's limits of credentials for one principal.
const (
	MaxFederatedCredentials = 20
	maxSecrets              = 50
)

// ErrTooMany says that a principal has as many credentials of a kind as are allowed.
var ErrTooMany = errors.New("the principal has as many credentials of this kind as are allowed")

// AddSecret gives an application another client secret, which is returned once and
// kept only as a hash. A zero expires is never. store.ErrNotFound.
func (s *Service) AddSecret(ctx context.Context, objectID, name string, expires time.Time) (string, SecretInfo, error) {
	secret, hashed := newSecret()
	hashed.Name, hashed.Expires = name, expires.UTC()
	err := s.change(ctx, objectID, func(p *principalRow) error {
		if p.Kind != KindApplication {
			return fmt.Errorf("a %s has no secrets: %w", p.Kind, store.ErrNotFound)
		}
		if len(p.Secrets) >= maxSecrets {
			return ErrTooMany
		}
		p.Secrets = append(p.Secrets, hashed)
		return nil
	})
	if err != nil {
		return "", SecretInfo{}, fmt.Errorf("add a secret to %s: %w", objectID, err)
	}
	return secret, hashed.info(), nil
}

// RemoveSecret ends a client secret. Tokens it got live on to their end.
// store.ErrNotFound.
func (s *Service) RemoveSecret(ctx context.Context, objectID, id string) error {
	return s.change(ctx, objectID, func(p *principalRow) error {
		before := len(p.Secrets)
		p.Secrets = slices.DeleteFunc(p.Secrets, func(r secretRow) bool { return r.ID == id && id != "" })
		if len(p.Secrets) == before {
			return fmt.Errorf("secret %s: %w", id, store.ErrNotFound)
		}
		return nil
	})
}

// ParseCertificate reads a certificate that may prove an application: RSA of 2048
// bits or more, as RS256 and PS256 need.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < 2048 {
		return nil, errors.New("the certificate's key is not RSA of 2048 bits or more")
	}
	return c, nil
}

// SetCertificates gives an application these certificates instead of those it has;
// one that it has already keeps its id. store.ErrNotFound.
func (s *Service) SetCertificates(ctx context.Context, objectID string, add []CertificateInfo) error {
	if len(add) > maxSecrets {
		return ErrTooMany
	}
	return s.change(ctx, objectID, func(p *principalRow) error {
		if p.Kind != KindApplication {
			return fmt.Errorf("a %s has no certificates: %w", p.Kind, store.ErrNotFound)
		}
		var rows []certificateRow
		for _, c := range add {
			if _, err := ParseCertificate(c.DER); err != nil {
				return err
			}
			row := certificateRow{ID: uuid.NewString(), Name: c.Name, DER: c.DER, Created: time.Now().UTC()}
			if at := slices.IndexFunc(p.Certificates, func(had certificateRow) bool { return string(had.DER) == string(c.DER) }); at >= 0 {
				row = p.Certificates[at]
			}
			rows = append(rows, row)
		}
		p.Certificates = rows
		return nil
	})
}

// FederatedCredentials returns a principal's federated credentials; store.ErrNotFound.
func (s *Service) FederatedCredentials(ctx context.Context, objectID string) ([]FederatedCredential, error) {
	p, _, err := s.principals.Get(ctx, s.principals.Key(objectID))
	if err != nil {
		return nil, fmt.Errorf("principal %s: %w", objectID, err)
	}
	return p.Federated, nil
}

// PutFederatedCredential adds a federated credential, or replaces the one of its
// name, and says whether it is new. store.ErrNotFound, ErrTooMany.
func (s *Service) PutFederatedCredential(ctx context.Context, objectID string, f FederatedCredential) (_ FederatedCredential, isNew bool, err error) {
	err = s.change(ctx, objectID, func(p *principalRow) error {
		at := slices.IndexFunc(p.Federated, func(had FederatedCredential) bool { return strings.EqualFold(had.Name, f.Name) })
		if isNew = at < 0; !isNew {
			f.ID, f.Name, f.Created = p.Federated[at].ID, p.Federated[at].Name, p.Federated[at].Created
			p.Federated[at] = f
			return nil
		}
		if len(p.Federated) >= MaxFederatedCredentials {
			return ErrTooMany
		}
		f.ID, f.Created = uuid.NewString(), time.Now().UTC()
		p.Federated = append(p.Federated, f)
		return nil
	})
	if err != nil {
		return f, false, fmt.Errorf("federated credential %s: %w", f.Name, err)
	}
	return f, isNew, nil
}

// DeleteFederatedCredential removes one by name or id; store.ErrNotFound.
func (s *Service) DeleteFederatedCredential(ctx context.Context, objectID, name string) error {
	return s.change(ctx, objectID, func(p *principalRow) error {
		before := len(p.Federated)
		p.Federated = slices.DeleteFunc(p.Federated, func(f FederatedCredential) bool {
			return strings.EqualFold(f.Name, name) || f.ID == name
		})
		if len(p.Federated) == before {
			return fmt.Errorf("federated credential %s: %w", name, store.ErrNotFound)
		}
		return nil
	})
}

// change edits a principal's row, once more if somebody else was faster.
func (s *Service) change(ctx context.Context, objectID string, edit func(*principalRow) error) error {
	const tries = 5
	for try := 1; ; try++ {
		key := s.principals.Key(objectID)
		p, revision, err := s.principals.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("principal %s: %w", objectID, err)
		}
		if err := edit(&p); err != nil {
			return err
		}
		write, err := s.principals.Put(key, p, store.AtRevision(revision))
		if err != nil {
			return err
		}
		err = s.store.WriteRows(ctx, []store.RowWrite{write})
		if err == nil || try == tries || !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// newSecret makes a client secret of 256 random bits. A password hash that is slow
// on purpose protects secrets that can be guessed; 2^256 cannot, so one salted
// HMAC-SHA-256 is enough, and a flood of token requests does not cost seconds of CPU.
func newSecret() (secret string, hashed secretRow) {
	var raw, salt [32]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand ends the process instead
	_, _ = rand.Read(salt[:])
	secret = base64.RawURLEncoding.EncodeToString(raw[:])
	if secret[0] == '-' { // a command line would take it for a flag
		return newSecret()
	}
	return secret, secretRow{
		ID: uuid.NewString(), Hint: secret[:3], Salt: salt[:], Hash: hashSecret(salt[:], secret), Created: time.Now().UTC(),
	}
}

func hashSecret(salt []byte, secret string) []byte {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(secret))
	return mac.Sum(nil)
}

// secretState is what a presented secret is.
type secretState int

const (
	secretUnknown secretState = iota
	secretExpired
	secretGood
)

// checkSecret says what secret is to the application; a managed identity has none.
func (p principalRow) checkSecret(secret string, now time.Time) secretState {
	state := secretUnknown
	for _, s := range p.Secrets {
		switch {
		case !hmac.Equal(hashSecret(s.Salt, secret), s.Hash):
		case s.Expires.IsZero() || now.Before(s.Expires):
			state = secretGood
		case state == secretUnknown:
			state = secretExpired
		}
	}
	return state
}

func (r secretRow) info() SecretInfo {
	return SecretInfo{ID: r.ID, Name: r.Name, Hint: r.Hint, Created: r.Created, Expires: r.Expires}
}

func (r certificateRow) info() CertificateInfo {
	sum := thumbprint(r.DER)
	info := CertificateInfo{ID: r.ID, Name: r.Name, Thumbprint: sum[:], DER: r.DER}
	if c, err := x509.ParseCertificate(r.DER); err == nil { // it was parsed when it came
		info.NotBefore, info.Expires = c.NotBefore, c.NotAfter
	}
	return info
}

// thumbprint is x5t. SHA-1 is no protection here, so it may be used in FIPS mode, too.
func thumbprint(der []byte) (sum [sha1.Size]byte) {
	fips140.WithoutEnforcement(func() { sum = sha1.Sum(der) }) //nolint:gosec // a name
	return sum
}

// named says whether the certificate is the one that a token's header names, by
// x5t (SHA-1) or x5t#S256.
func (r certificateRow) named(x5t, x5tS256 string) bool {
	if x5tS256 != "" {
		sum := sha256.Sum256(r.DER)
		return unpadded(x5tS256) == base64.RawURLEncoding.EncodeToString(sum[:])
	}
	sum := thumbprint(r.DER)
	return unpadded(x5t) == base64.RawURLEncoding.EncodeToString(sum[:])
}

// unpadded brings a thumbprint to the encoding of RFC 7515: MSAL for Go sends
// standard base64, with its padding.
func unpadded(s string) string {
	return strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(s)
}
