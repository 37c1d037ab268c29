package vault

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
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
	// HSMSuffix is that of managed HSMs; "": there are none.
	HSMSuffix string
	Login     string // the authority's URL, for challenges
	// Roles says whether a caller has a role with a data action at a scope, for vaults
	// that are authorised by roles; nil: there are none such.
	Roles func(ctx context.Context, c entra.Caller, action, scope string) (bool, error)
	// Token keeps the keys of hardware types; nil: those of premium vaults are sealed as
	// all others.
	Token Token
	// GenerateRSA makes the key pairs of the types that are no hardware's; nil: crypto/rsa.
	// Tests share theirs.
	GenerateRSA func(bits int) (*rsa.PrivateKey, error)
	// Events takes events to their subscribers; nil: there are none.
	Events Events
	// Throttle turns requests away that are more than the service's published limits.
	Throttle bool
	Log      *slog.Logger
}

// Service holds all vaults. It is safe for concurrent use. It keeps no state: a
// row changed by another node counts at once.
type Service struct {
	store  store.Store
	entra  *entra.Service
	log    *slog.Logger
	suffix string // with port
	domain string // suffix without port

	hsmSuffix, hsmDomain string // the same of managed HSMs

	login  string
	roles  func(ctx context.Context, c entra.Caller, action, scope string) (bool, error)
	token  Token
	events Events

	generateRSA func(bits int) (*rsa.PrivateKey, error)

	throttles *throttles // nil: no limits
	backups   envelope.ServiceKey

	vaults   row.Table[Vault]
	keys     row.Table[keyRow]
	versions row.Table[versionRow]

	audits   *auditLog
	refusals quiet // of authentications

	assignments row.Table[assignment] // of managed HSMs
}

// New returns the service.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	suffix, hsmSuffix := strings.ToLower(c.Suffix), strings.ToLower(c.HSMSuffix)
	s := &Service{
		store: c.Store, entra: c.Entra, log: c.Log,
		suffix: suffix, domain: withoutPort(suffix), hsmSuffix: hsmSuffix, hsmDomain: withoutPort(hsmSuffix), login: strings.TrimSuffix(c.Login, "/"),
		roles: c.Roles, token: c.Token, events: c.Events, generateRSA: c.GenerateRSA, backups: c.Service,
		vaults:   row.NewTable[Vault](c.Store, c.Service, "vaults"),
		keys:     row.NewTable[keyRow](c.Store, c.Service, "vault-keys"),
		versions: row.NewTable[versionRow](c.Store, c.Service, "vault-key-versions"),

		assignments: row.NewTable[assignment](c.Store, c.Service, "hsm-role-assignments"),
	}
	if s.generateRSA == nil {
		s.generateRSA = func(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	s.audits = newAuditLog(c)
	if c.Throttle {
		s.throttles = newThrottles()
	}
	return s
}

// Vault is a vault as its resource provider manages it.
type Vault struct {
	Name       string            `json:"name"`          // globally unique here, among its kind; matched without case
	HSM        bool              `json:"hsm,omitempty"` // a managed HSM
	ResourceID string            `json:"resourceId"`
	Location   string            `json:"location"` // short form
	Directory  entra.DirectoryID `json:"directory"`
	SKU        string            `json:"sku"` // standard (also if empty) or premium; premium has RSA-HSM keys too
	Policies   []Policy          `json:"policies"`
	Admins     []string          `json:"admins,omitempty"` // of a managed HSM when it was made: object ids
	RBAC       bool              `json:"rbac,omitempty"`   // roles count, policies do not
	// Public network rules.
	DefaultDeny         bool      `json:"defaultDeny"` // networkAcls.defaultAction is Deny
	PublicDisabled      bool      `json:"publicDisabled,omitempty"`
	BypassTrusted       bool      `json:"bypassTrusted"`       // networkAcls.bypass has AzureServices
	IPRules             []string  `json:"ipRules"`             // addresses or CIDR ranges
	SoftDeleteRetention int       `json:"softDeleteRetention"` // days, 7 to 90; 0 is 90
	PurgeProtection     bool      `json:"purgeProtection"`
	Deleted             time.Time `json:"deleted"` // zero unless soft-deleted
	PurgeBegun          bool      `json:"purgeBegun,omitempty"`

	public bool // the client reached it under the public cloud's name
}

// ref names a vault's rows. A managed HSM may have the name of a vault.
func (v Vault) ref() string {
	if v.HSM {
		return "hsm:" + strings.ToLower(v.Name)
	}
	return strings.ToLower(v.Name)
}

// PurgeAt is when a deleted vault goes for good.
func (v Vault) PurgeAt() time.Time { return v.Deleted.AddDate(0, 0, v.SoftDeleteRetention) }

// Policy is an access policy: what a principal may do with keys.
type Policy struct {
	ObjectID  string            `json:"objectId"`
	Directory entra.DirectoryID `json:"directory"`
	Keys      []string          `json:"keys"` // permissions as written; compared without case
}

const defaultRetentionDays = 90

// vaultName is 3 to 24 letters, digits and single hyphens, a letter first.
var vaultName = regexp.MustCompile(`^[a-z](-?[a-z0-9]){2,23}$`)

// The public cloud's names. A client that a proxy leads here knows a vault under
// publicSuffix, and is answered in the names that it knows.
const (
	publicSuffix     = "vault.azure.net"
	publicHSMSuffix  = "managedhsm.azure.net"
	publicManagement = "management.azure.com"
	publicLogin      = "https://login.microsoftonline.com"
)

// URI is the vault's address, ending in a slash, for a client that reached the
// management plane under the name asked; any but the public cloud's, the empty one
// too, is ours.
func (s *Service) URI(name, asked string) string {
	return s.uri(Vault{Name: name, public: isPublic(asked)})
}

// HSMURI is URI for a managed HSM.
func (s *Service) HSMURI(name, asked string) string {
	return s.uri(Vault{Name: name, HSM: true, public: isPublic(asked)})
}

func isPublic(management string) bool {
	return strings.EqualFold(withoutPort(management), publicManagement)
}

// suffixOf is what follows a vault's name in the host that its client knows.
func (s *Service) suffixOf(v Vault) string {
	switch {
	case v.HSM && v.public:
		return publicHSMSuffix
	case v.HSM:
		return s.hsmSuffix
	case v.public:
		return publicSuffix
	}
	return s.suffix
}

// uri is the vault's address in the names that its client knows.
func (s *Service) uri(v Vault) string {
	return "https://" + strings.ToLower(v.Name) + "." + s.suffixOf(v) + "/"
}

// challenge says where to get a token, in the names that the client knows. Clients
// split this header at blanks and equal signs: the form is exact.
func (s *Service) challenge(v Vault) string {
	login := s.login
	if v.public {
		login = publicLogin
	}
	return `Bearer authorization="` + login + "/" + string(v.Directory) + `", resource="https://` + s.suffixOf(v) + `"`
}

// Get finds a vault by name; a deleted one too. store.ErrNotFound.
func (s *Service) Get(ctx context.Context, name string) (Vault, error) {
	return s.get(ctx, Vault{Name: name})
}

// GetHSM finds a managed HSM by name; a deleted one too. store.ErrNotFound.
func (s *Service) GetHSM(ctx context.Context, name string) (Vault, error) {
	return s.get(ctx, Vault{Name: name, HSM: true})
}

func (s *Service) get(ctx context.Context, named Vault) (Vault, error) {
	v, _, err := s.vaults.Get(ctx, s.vaultKey(named))
	if err != nil {
		return Vault{}, fmt.Errorf("vault %s: %w", named.Name, err)
	}
	return v, nil
}

// AtHost finds the vault or managed HSM that a host names, the port aside; a deleted one
// too. store.ErrNotFound.
func (s *Service) AtHost(ctx context.Context, host string) (Vault, error) {
	name, domain, _ := strings.Cut(strings.ToLower(withoutPort(host)), ".")
	named := Vault{Name: name}
	known := domain != "" && (s.hsmDomain != "" || domain != publicHSMSuffix)
	switch domain {
	case s.domain:
	case publicSuffix:
		named.public = true
	case s.hsmDomain:
		named.HSM = true
	case publicHSMSuffix:
		named.HSM, named.public = true, true
	default:
		known = false
	}
	if !known || len(name) > 24 || !vaultName.MatchString(name) {
		return Vault{}, fmt.Errorf("host %q: %w", host, store.ErrNotFound)
	}
	v, err := s.get(ctx, named)
	v.public = named.public
	return v, err
}

// List returns all vaults, deleted ones too, by name.
func (s *Service) List(ctx context.Context) ([]Vault, error) {
	rows, err := s.vaults.List(ctx, envelope.Name{})
	if err != nil {
		return nil, err
	}
	all := make([]Vault, len(rows))
	for i, r := range rows {
		all[i] = r.Value
	}
	slices.SortFunc(all, func(a, b Vault) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return all, nil
}

// Put makes or replaces a vault's settings, in one write with also. Its keys stay.
func (s *Service) Put(ctx context.Context, v Vault, also ...store.RowWrite) error {
	if v.SoftDeleteRetention == 0 {
		v.SoftDeleteRetention = defaultRetentionDays
	}
	if err := v.check(); err != nil {
		return fmt.Errorf("put vault %q: %w", v.Name, err)
	}
	if v.HSM && s.token == nil {
		return fmt.Errorf("put managed HSM %q: %w", v.Name, errNoToken)
	}
	at := s.vaultKey(v)
	before, revision, err := s.vaults.Get(ctx, at)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("put vault %s: %w", v.Name, err)
	}
	if before.PurgeBegun {
		return fmt.Errorf("put vault %s: %w", v.Name, ErrPurging)
	}
	write, err := s.vaults.Put(at, v, atRevision(revision))
	if err != nil {
		return err
	}
	writes := append([]store.RowWrite{write}, also...)
	if v.HSM && revision == 0 {
		admins, err := s.admins(v, v.Admins)
		if err != nil {
			return fmt.Errorf("put vault %s: %w", v.Name, err)
		}
		writes = append(writes, admins...)
	}
	if s.events != nil && revision > 0 && !reflect.DeepEqual(before.Policies, v.Policies) {
		more, err := s.events.Queue(ctx, Event{Type: EventPolicyChanged, Time: time.Now().UTC(), Vault: v, ID: s.uri(v)})
		if err != nil {
			return fmt.Errorf("put vault %s: %w", v.Name, err)
		}
		writes = append(writes, more...)
	}
	if err := s.store.WriteRows(ctx, writes); err != nil {
		return fmt.Errorf("put vault %s: %w", v.Name, err)
	}
	return nil
}

// HasToken says whether there is a token, without which there are no managed HSMs.
func (s *Service) HasToken() bool { return s.token != nil }

// HasRoles says whether vaults can be authorised by roles.
func (s *Service) HasRoles() bool { return s.roles != nil }

// ErrPurging: the vault's purge has begun; there is no way back.
var ErrPurging = errors.New("the vault is being purged")

// Purge destroys a deleted vault, of which Name and HSM are looked at, with all its keys; also goes with the last write.
// Idempotent; store.ErrNotFound when there is no such vault or it is not deleted.
func (s *Service) Purge(ctx context.Context, named Vault, also ...store.RowWrite) error {
	at := s.vaultKey(named)
	v, revision, err := s.vaults.Get(ctx, at)
	if err == nil && v.Deleted.IsZero() {
		err = store.ErrNotFound
	}
	if err == nil && !v.PurgeBegun {
		v.PurgeBegun = true
		var write store.RowWrite
		if write, err = s.vaults.Put(at, v, store.AtRevision(revision)); err == nil {
			err = s.store.WriteRows(ctx, []store.RowWrite{write})
		}
	}
	if err == nil {
		err = s.purgeKeys(ctx, v)
	}
	var roles []store.RowWrite
	if err == nil && v.HSM {
		roles, err = s.assignmentRemovals(ctx, v)
	}
	if err == nil {
		err = s.store.WriteRows(ctx, slices.Concat(roles, []store.RowWrite{{RowKey: at}}, also))
	}
	if err != nil {
		return fmt.Errorf("purge vault %s: %w", named.Name, err)
	}
	return nil
}

func (s *Service) assignmentRemovals(ctx context.Context, v Vault) (writes []store.RowWrite, err error) {
	rows, err := s.assignments.List(ctx, s.assignments.Partition(v.ref()))
	for _, r := range rows {
		writes = append(writes, store.RowWrite{RowKey: s.assignments.KeyIn(v.ref(), r.Value.Name)})
	}
	return writes, err
}

// purgeKeys destroys all keys of a vault whose purge has begun: nobody can reach them.
func (s *Service) purgeKeys(ctx context.Context, v Vault) error {
	rows, err := s.keys.List(ctx, s.keyPartition(v))
	if err != nil {
		return err
	}
	for _, r := range rows {
		inToken, err := s.inToken(ctx, v, r.Value)
		if err == nil {
			err = s.destroyKeys(inToken)
		}
		if err == nil {
			gone := store.RowWrite{RowKey: s.keyKey(v, r.Value.Name)}
			err = s.store.WriteRows(ctx, append(s.versionRemovals(v, r.Value), gone))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check refuses settings that the data plane could not obey; the friendly errors
// are the resource provider's.
func (v Vault) check() error {
	if len(v.Name) > 24 || !vaultName.MatchString(strings.ToLower(v.Name)) {
		return errors.New("a name is 3 to 24 letters, digits and single hyphens, begins with a letter and ends with a letter or digit")
	}
	if v.Directory == "" {
		return errors.New("the directory is missing")
	}
	if v.HSM {
		return v.checkRules()
	}
	switch strings.ToLower(v.SKU) {
	case "", "standard", "premium":
	default:
		return fmt.Errorf("SKU %q is neither standard nor premium", v.SKU)
	}
	return v.checkRules()
}

func (v Vault) checkRules() error {
	if v.SoftDeleteRetention < 7 || v.SoftDeleteRetention > 90 {
		return fmt.Errorf("retention of %d days is not within 7 to 90", v.SoftDeleteRetention)
	}
	for _, rule := range v.IPRules {
		if _, err := parseIPRule(rule); err != nil {
			return fmt.Errorf("IP rule %q is neither an address nor a CIDR range", rule)
		}
	}
	return nil
}

func parseIPRule(rule string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(rule); err == nil {
		return address.Prefix(address.BitLen())
	}
	return netip.ParsePrefix(rule)
}

// Delete soft-deletes a vault, of which Name and HSM are looked at, in one write with also: it answers nothing until it
// is put again without Deleted. store.ErrNotFound.
func (s *Service) Delete(ctx context.Context, named Vault, also ...store.RowWrite) error {
	key := s.vaultKey(named)
	v, revision, err := s.vaults.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("delete vault %s: %w", named.Name, err)
	}
	if v.Deleted.IsZero() {
		v.Deleted = time.Now().UTC()
	}
	write, err := s.vaults.Put(key, v, store.AtRevision(revision))
	if err != nil {
		return err
	}
	if err := s.store.WriteRows(ctx, append([]store.RowWrite{write}, also...)); err != nil {
		return fmt.Errorf("delete vault %s: %w", named.Name, err)
	}
	return nil
}

func (s *Service) vaultKey(named Vault) store.RowKey { return s.vaults.Key(named.ref()) }

func (v Vault) premium() bool { return strings.EqualFold(v.SKU, "premium") }

// recoveryLevel is what the vault says of deletion for each of its keys.
func (v Vault) recoveryLevel() string {
	level := "Recoverable"
	if v.SoftDeleteRetention < defaultRetentionDays {
		level = "CustomizedRecoverable"
	}
	if !v.PurgeProtection {
		level += "+Purgeable"
	}
	return level
}

// vaultOfHost is AtHost without deleted ones, whose names do not resolve.
func (s *Service) vaultOfHost(ctx context.Context, host string) (Vault, error) {
	v, err := s.AtHost(ctx, host)
	if err == nil && !v.Deleted.IsZero() {
		return Vault{}, fmt.Errorf("vault %s is deleted: %w", v.Name, store.ErrNotFound)
	}
	return v, err
}

func withoutPort(host string) string {
	if at := strings.LastIndexByte(host, ':'); at >= 0 && !strings.HasSuffix(host, "]") {
		return host[:at]
	}
	return host
}
