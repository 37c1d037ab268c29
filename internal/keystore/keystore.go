package keystore

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Algorithm is the only one asked for: RSA-OAEP with SHA-256 and MGF1 with SHA-256.
const Algorithm = "RSA-OAEP-256"

// Key is what a key store says of a key version.
type Key struct {
	ID         URL    // with version
	Type       string // RSA, RSA-HSM, EC, EC-HSM, oct, oct-HSM
	Bits       int    // size of the modulus; 0 if not RSA
	Operations []string
	Enabled    bool
	NotBefore  time.Time // zero: none
	Expires    time.Time // zero: none
	// RecoveryLevel is the vault's deletion policy for the key, such as
	// "Recoverable+Purgeable"; empty when unknown.
	RecoveryLevel string
	RequestID     string // the key store's, for its audit log
}

// Wrapped is key material under a key version.
type Wrapped struct {
	ID        URL // the version that wrapped it
	Algorithm string
	Value     []byte
	RequestID string // the key store's, for its audit log
}

// Client is a key store as one identity sees it. Every error of its methods is an
// *Error. Calls are safe for concurrent use and are bounded by ctx alone.
type Client interface {
	// Describe reads a key; without a version, its newest.
	Describe(ctx context.Context, key URL) (Key, error)
	// Wrap wraps with RSA-OAEP-256; without a version, with the newest.
	Wrap(ctx context.Context, key URL, material []byte) (Wrapped, error)
	// Unwrap needs w.ID to have a version. requestID is the key store's.
	Unwrap(ctx context.Context, w Wrapped) (material []byte, requestID string, err error)
	// Deleted finds a key that was deleted and can still be recovered; NotFound says that
	// there is none. It needs the permission that Describe needs. The version is ignored.
	Deleted(ctx context.Context, key URL) (Deleted, error)
}

// Deleted is a key that waits to be recovered or purged.
type Deleted struct {
	Purge     time.Time // when it is purged; zero: not known
	RequestID string
}

// Class says what a refusal means for the data under the key.
type Class uint8

// The classes of refusals. Only Unreachable and Throttled are outages; all others
// are the key store's considered answer.
const (
	Unreachable        Class = iota + 1 // no answer, or one that is not the key store's (5xx, TLS, time-out)
	Throttled                           // 429
	Denied                              // no permission on the key
	Firewall                            // the network rules keep us out
	Disabled                            // key disabled
	Expired                             // past exp, or before nbf
	NotFound                            // no such key or version; it may be deleted and recoverable
	VaultNotFound                       // no such vault
	IdentityFailed                      // no token for the identity
	Invalid                             // the key store could not make sense of the request or the wrapped value
	DeniedUnclassified                  // a 403 with an inner code we do not know
)

// Error is a key store's refusal, or the lack of its answer.
type Error struct {
	Class     Class
	Op        string // get, wrapKey, unwrapKey
	Key       URL
	Status    int    // HTTP; 0 if there was none
	Code      string // the inner code if there is one, else the outer
	Message   string // the key store's, for people
	RequestID string
	Cause     error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "keystore: %s %s", e.Op, e.Key)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d %s", e.Status, e.Code)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Outage says that this is no answer of the key store's.
func (e *Error) Outage() bool { return e.Class == Unreachable || e.Class == Throttled }
