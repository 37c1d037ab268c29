package custody

import (
	"context"
	"log/slog"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// The times of the promise; see docs/formats/custody.md.
const (
	Lease        = 60 * time.Second // from the last proof
	ProbeEvery   = 20 * time.Second // ± 20 %
	ConfirmAfter = 5 * time.Second  // after a denial or fault
	RecoverEvery = 10 * time.Second // while unusable or unreachable
	ProbeTimeout = 2 * time.Second
	Grace        = 15 * time.Minute // of an outage, from the last proof
	Hold         = time.Hour        // clients of a revoked key are held, then closed
)

// Settings say which key protects a resource, and as whom it is used.
type Settings struct {
	Key      keystore.URL // zero: the service-managed key
	Identity string       // resource id of the user-assigned identity, as the client wrote it
}

// Config of a Keeper.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey
	// KeyStore returns the key store as the identity with this resource id sees it.
	KeyStore func(identity string) keystore.Client
	Hosts    keystore.Hosts // to parse the key ids of stored wrap records
	Log      *slog.Logger
}

// Keeper keeps the keys of all resources. It is safe for concurrent use.
type Keeper struct{ todo int }

// New returns a keeper.
func New(c Config) *Keeper { panic("todo") }

// Close wipes all keys; every Document ends.
func (k *Keeper) Close() { panic("todo") }

// Problem is one thing that keeps a key from being used.
type Problem struct {
	Code    string // KeyNotFound, KeyTypeNotRsa, KeySizeUnsupported, KeyOpsMissing, KeyDisabled, KeyExpired, ...
	Message string // says what is wrong and what to do
}

// CheckError holds every failed check of a key, at least one.
type CheckError struct{ Problems []Problem }

func (e *CheckError) Error() string { panic("todo") }

// Check tries whether a key can protect a resource, by using it as its identity
// would: get, wrap a probe, unwrap, compare. It changes nothing. The error is a
// *CheckError. The service-managed key is always fine.
func (k *Keeper) Check(ctx context.Context, s Settings) error { panic("todo") }

// Create checks s, makes the root key of a new resource and stores it wrapped, in
// one write with also. *CheckError, store.ErrConflict.
func (k *Keeper) Create(ctx context.Context, r envelope.ResourceID, s Settings, also ...store.RowWrite) error {
	panic("todo")
}

// Update checks s, unwraps the root key with the key it has (which must be enabled
// and unexpired), wraps it with the new one, unwraps that and compares, and
// stores the new record in one write with also. No data moves. An update to the
// same settings checks them and writes also.
func (k *Keeper) Update(ctx context.Context, r envelope.ResourceID, s Settings, also ...store.RowWrite) error {
	panic("todo")
}

// Delete destroys all keys of a resource, in one write with also; it needs no key
// store. Open documents end. What is left of them cannot be opened again.
func (k *Keeper) Delete(ctx context.Context, r envelope.ResourceID, also ...store.RowWrite) error {
	panic("todo")
}

// State of a resource's key.
type State string

// The states.
const (
	Healthy     State = "Healthy"
	Suspect     State = "Suspect"     // refused once; being confirmed
	Unreachable State = "Unreachable" // no answer; served until the grace is over
	Unusable    State = "Unusable"    // refused; nothing is served
)

// Status is what is known of a resource's key.
type Status struct {
	State     State
	Reason    string // KeyDisabled, AccessDenied, ...; empty when healthy
	Since     time.Time
	LastProof time.Time
	KeyID     string // the version in use; "service" for the service-managed key
}

// Status returns the present state; it asks no key store.
func (k *Keeper) Status(r envelope.ResourceID) Status { panic("todo") }

// Admit says whether the resource's data may be served now: nil, or an
// *UnusableError. It loads and unwraps the root key when that is not in memory.
func (k *Keeper) Admit(ctx context.Context, r envelope.ResourceID) error { panic("todo") }

// UnusableError says why a resource's data cannot be served, and until when to wait.
type UnusableError struct {
	Reason     string // KeyDisabled, KeyExpired, KeyDeleted, AccessDenied, UnreachableTimeout, ...
	Since      time.Time
	RetryAfter time.Duration
	Revoked    bool // the key store refused; else it does not answer, or is being asked
	Close      bool // revoked for longer than Hold: clients are told to go away for good
}

func (e *UnusableError) Error() string { panic("todo") }

var _ = context.Background
