package keystore

import (
	"context"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
)

// Hosts says which key stores may be spoken to.
type Hosts struct {
	// Suffixes are DNS suffixes of vaults that are registered here, such as
	// "vault.tidelock.localhost"; a host is one label in front of one of them, on any port.
	Suffixes []string
}

// URL is a key identifier: https://{vault}.{suffix}[:port]/keys/{name}[/{version}].
// It can only be made by ParseURL. The zero URL names nothing.
type URL struct{ host, vault, name, version string }

// ParseURL takes a key identifier and nothing else: no other scheme, no user
// info, no query, no blank. The error is a *URLError.
func ParseURL(s string, hosts Hosts) (URL, error) { panic("todo") }

// URLError says what is wrong with a key URL, and where.
type URLError struct {
	Code    string // KeyUrlMalformed or KeyStoreNotSupported
	Message string // for people; says what to do
}

func (e *URLError) Error() string { return e.Message }

// String returns the URL in its canonical form.
func (u URL) String() string { panic("todo") }

// IsZero says whether u names nothing.
func (u URL) IsZero() bool { panic("todo") }

// Host is the vault's host, in lower case, with the port if one was given.
func (u URL) Host() string { panic("todo") }

// Vault is the vault's name: the first label of the host.
func (u URL) Vault() string { panic("todo") }

// Name is the key's name.
func (u URL) Name() string { panic("todo") }

// Version is the key's version; empty if the URL has none.
func (u URL) Version() string { panic("todo") }

// WithVersion returns the identifier of one version of the same key.
func (u URL) WithVersion(v string) URL { panic("todo") }

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

func (e *Error) Error() string { panic("todo") }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Outage says that this is no answer of the key store's.
func (e *Error) Outage() bool { return e.Class == Unreachable || e.Class == Throttled }

// Config of a client.
type Config struct {
	Credential azcore.TokenCredential // of the identity
	Transport  http.RoundTripper      // to the key store
}

// New returns a client over the Key Vault REST API (azkeys).
func New(c Config) Client { panic("todo") }
