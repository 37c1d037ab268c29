package entra

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// DirectoryID is a directory's GUID ("tenant" in Azure's words).
type DirectoryID string

// Audiences of the services here, without trailing slash; both forms are accepted.
const (
	AudienceManagement = "https://management.azure.com" // also management.core.windows.net, and our own URL
	AudienceVault      = "https://vault.azure.net"
)

// Config of a Service.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey // seals the rows
	// Login is the authority's URL, such as https://127.0.0.1:8443: part of the
	// discovery document, its issuer and its challenges.
	Login string
	// Audiences are accepted as the management audience besides the public ones.
	Audiences []string
	// VaultSuffix is the DNS suffix of vaults here, with the port if there is one:
	// "https://"+VaultSuffix is a vault audience too.
	VaultSuffix string
	Log         *slog.Logger
}

// Service is the directory service. It is safe for concurrent use.
type Service struct{ todo int }

// Open loads the signing key, or makes it when there is none.
func Open(ctx context.Context, c Config) (*Service, error) { panic("todo") }

// Principal is who can have a token.
type Principal struct {
	ObjectID   string // oid: what policies and role assignments name
	ClientID   string // appid
	Directory  DirectoryID
	Kind       string // "application" or "managedIdentity"
	Name       string
	ResourceID string // of a managed identity: its ARM resource id
}

// CreateDirectory makes a directory.
func (s *Service) CreateDirectory(ctx context.Context, name string) (DirectoryID, error) {
	panic("todo")
}

// CreateApplication makes an application with a client secret, which is returned
// once and kept only as a hash.
func (s *Service) CreateApplication(ctx context.Context, d DirectoryID, name string) (p Principal, secret string, err error) {
	panic("todo")
}

// CreateManagedIdentity makes the principal of a user-assigned identity.
func (s *Service) CreateManagedIdentity(ctx context.Context, d DirectoryID, resourceID string) (Principal, error) {
	panic("todo")
}

// ManagedIdentity finds a user-assigned identity by resource id, without regard to
// case; store.ErrNotFound.
func (s *Service) ManagedIdentity(ctx context.Context, resourceID string) (Principal, error) {
	panic("todo")
}

// DeleteManagedIdentity removes it; its tokens are refused from now on. Idempotent.
func (s *Service) DeleteManagedIdentity(ctx context.Context, resourceID string) error { panic("todo") }

// Credential gives tokens of a user-assigned identity to code in this process, as
// the managed-identity endpoint would. GetToken fails with an error that names the
// identity when it does not exist.
func (s *Service) Credential(resourceID string) azcore.TokenCredential { panic("todo") }

// Caller is who a checked token speaks for.
type Caller struct {
	ObjectID  string
	ClientID  string
	Directory DirectoryID
	Kind      string // as in Principal
}

// Management checks a request's bearer token for the management plane. The error
// is a *TokenError.
func (s *Service) Management(r *http.Request) (Caller, error) { panic("todo") }

// Vault checks a request's bearer token for the vault data plane, for a vault of
// this directory. The error is a *TokenError.
func (s *Service) Vault(r *http.Request, d DirectoryID) (Caller, error) { panic("todo") }

// TokenError is a refused token.
type TokenError struct {
	Code    string // AuthenticationFailed, InvalidAuthenticationToken, ExpiredAuthenticationToken, InvalidAuthenticationTokenAudience, InvalidAuthenticationTokenTenant
	Message string
	Vault   string // the vault's code for it: AKV10000, AKV10022, AKV10032, ...
}

func (e *TokenError) Error() string { return e.Message }

// Assign gives a principal a built-in role (Owner, Contributor, Reader) at an ARM
// scope and everything below it. Idempotent.
func (s *Service) Assign(ctx context.Context, objectID, role, scope string) error { panic("todo") }

// Allowed says whether the caller may do action (such as
// "Microsoft.FluidRelay/fluidRelayServers/write") at scope.
func (s *Service) Allowed(ctx context.Context, c Caller, action, scope string) (bool, error) {
	panic("todo")
}

// Handler serves the authority: discovery documents, keys, tokens.
func (s *Service) Handler() http.Handler { panic("todo") }
