package blobs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidelock/tidelock/internal/envelope"
)

// ErrNotFound: there is no such blob.
var ErrNotFound = errors.New("blobs: not found")

// ErrTooLarge: a blob is longer than it was said to be.
var ErrTooLarge = errors.New("blobs: too large")

// Name is that of a blob: random, so that it says nothing of what is in it.
type Name [16]byte

// NewName returns a name that nobody has used.
func NewName() (n Name) {
	rand.Read(n[:])
	return n
}

func (n Name) String() string { return hex.EncodeToString(n[:]) }

// ParseName takes what String gave; anything else in an object store is not ours.
func ParseName(s string) (n Name, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(n) || s != strings.ToLower(s) {
		return n, false
	}
	return Name(b), true
}

// Store is an object store. All methods are safe for concurrent use. After an error of Put
// the blob may or may not be there.
type Store interface {
	// Put makes the value durable under a name that is not in use.
	Put(ctx context.Context, name Name, value envelope.Sealed) error
	// Get returns ErrNotFound for an unknown name. It reads no more than most bytes: a
	// larger one is ErrTooLarge.
	Get(ctx context.Context, name Name, most int) ([]byte, error)
	// Delete removes a blob, durably. Idempotent.
	Delete(ctx context.Context, name Name) error
	// List returns names in their order, those after the given one (zero: from the
	// start), at most limit (> 0). What is not named as a blob is passed over.
	List(ctx context.Context, after Name, limit int) ([]Name, error)
}

// Options name an object store.
type Options struct {
	// Place is azure:https://account.blob.core.windows.net/container,
	// s3:https://host/bucket[?region=…] or dir:/path. What it names must exist.
	Place string
	// CredentialsFile holds, as JSON, an account's name and key for azure
	// ({"accountName","accountKey"}), or {"accessKeyId","secretAccessKey"} for s3.
	// Default: what the SDKs find: a managed identity, or the environment.
	CredentialsFile string
	// ReadOnly leaves out the trial: nothing is to be written.
	ReadOnly bool
}

// Open finds the object store and tries it: what it writes it must read, and may delete.
func Open(ctx context.Context, o Options) (Store, error) {
	s, err := open(o)
	if err == nil && !o.ReadOnly {
		err = try(ctx, s)
	}
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	return s, nil
}

func open(o Options) (Store, error) {
	kind, place, _ := strings.Cut(o.Place, ":")
	switch kind {
	case "azure", "s3":
		u, err := parsePlace(place)
		if err != nil {
			return nil, err
		}
		var c credentials
		if o.CredentialsFile != "" {
			if c, err = readCredentials(o.CredentialsFile); err != nil {
				return nil, err
			}
		}
		if kind == "azure" {
			return openAzure(u, c)
		}
		return openS3(u, c)
	case "dir":
		if o.CredentialsFile != "" {
			return nil, errors.New("a directory takes no credentials")
		}
		return openDirectory(filepath.Clean(place))
	default:
		return nil, fmt.Errorf("%q is not azure:https://account.blob.core.windows.net/container, s3:https://host/bucket or dir:/path", o.Place)
	}
}

// parsePlace takes http(s)://host/name. Without TLS it must be this machine: credentials go
// there.
func parsePlace(place string) (*url.URL, error) {
	u, err := url.Parse(place)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("want https://host/name after azure: or s3:, without credentials") // it may hold some: it is not repeated
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return nil, fmt.Errorf("%s is reached without TLS: want https", u.Host)
	}
	return u, nil
}

// credentials of either kind of store; empty ones are found elsewhere.
type credentials struct {
	AccountName     string `json:"accountName"`
	AccountKey      string `json:"accountKey"`
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
}

func readCredentials(path string) (c credentials, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("credentials in %s are not the JSON object that is expected", path) // the cause could quote them
	}
	return c, nil
}

// try does what the engine will do, so that a missing right is found at the start.
func try(ctx context.Context, s Store) error {
	key, name := envelope.NewServiceKey(), NewName()
	value, err := key.SealRow("trial", envelope.Name{}, envelope.Name{}, []byte("trial"))
	if err != nil {
		return err
	}
	if err := s.Put(ctx, name, value); err != nil {
		return fmt.Errorf("write a trial blob: %w", err)
	}
	if _, err := s.Get(ctx, name, len(value.Bytes())); err != nil {
		return fmt.Errorf("read the trial blob: %w", err)
	}
	if err := s.Delete(ctx, name); err != nil {
		return fmt.Errorf("delete the trial blob: %w", err)
	}
	return nil
}

// tooLarge says that a blob is not one that was written.
func tooLarge(name Name, most int) error {
	return fmt.Errorf("%w: %s has more than %d bytes", ErrTooLarge, name, most)
}
