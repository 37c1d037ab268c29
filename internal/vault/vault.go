package vault

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Config of a Service.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey // seals the rows, private keys among them
	Entra   *entra.Service
	// Suffix is the DNS suffix of vaults here, with the port that clients use:
	// "vault.tidelock.localhost:8443". A vault's URI is https://{name}.{Suffix}/.
	Suffix string
	Login  string // the authority's URL, for challenges
	Log    *slog.Logger
}

// Service holds all vaults. It is safe for concurrent use.
type Service struct{ todo int }

// New returns the service.
func New(c Config) *Service { panic("todo") }

// Vault is a vault as its resource provider manages it.
type Vault struct {
	Name       string // globally unique here; matched without case
	ResourceID string
	Location   string // short form
	Directory  entra.DirectoryID
	SKU        string // standard or premium; premium has RSA-HSM keys too
	Policies   []Policy
	// Public network rules.
	DefaultDeny         bool     // networkAcls.defaultAction is Deny, or public access is off
	BypassTrusted       bool     // networkAcls.bypass has AzureServices
	IPRules             []string // addresses or CIDR ranges
	SoftDeleteRetention int      // days, 7 to 90
	PurgeProtection     bool
	Deleted             time.Time // zero unless soft-deleted
}

// Policy is an access policy: what a principal may do with keys.
type Policy struct {
	ObjectID  string
	Directory entra.DirectoryID
	Keys      []string // permissions as written; compared without case
}

// URI is the vault's address, ending in a slash.
func (s *Service) URI(name string) string { panic("todo") }

// Get finds a vault by name; a deleted one too. store.ErrNotFound.
func (s *Service) Get(ctx context.Context, name string) (Vault, error) { panic("todo") }

// List returns all vaults, deleted ones too, by name.
func (s *Service) List(ctx context.Context) ([]Vault, error) { panic("todo") }

// Put makes or replaces a vault's settings, in one write with also. Its keys stay.
func (s *Service) Put(ctx context.Context, v Vault, also ...store.RowWrite) error { panic("todo") }

// Delete soft-deletes a vault, in one write with also: it answers nothing until it
// is put again without Deleted. store.ErrNotFound.
func (s *Service) Delete(ctx context.Context, name string, also ...store.RowWrite) error {
	panic("todo")
}

// Handler serves the data plane of all vaults, chosen by the request's Host.
func (s *Service) Handler() http.Handler { panic("todo") }

// Transport carries requests to Handler in this process, without a network. They
// count as coming from a trusted service, and a deleted or unknown vault is a
// failure to resolve its name.
func (s *Service) Transport() http.RoundTripper { panic("todo") }
