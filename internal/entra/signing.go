package entra

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

// signingKeyBits is what Azure signs with; RS256 is the one algorithm that every
// client of these tokens takes.
const signingKeyBits = 2048

// signingKeyRow is a key that tokens are signed with.
type signingKeyRow struct {
	Number  int       `json:"number"` // from 1; the highest one signs
	PKCS8   []byte    `json:"pkcs8"`
	Created time.Time `json:"created"`
}

// When keys change. A new key signs at once: whoever checks a token with a key id
// it does not know asks again, we too (see find). An old one is published and checked
// with for longer than any token of it lives, counted from its successor's making;
// the rest covers nodes that still sign with it because they have not looked.
const (
	signingKeyLife   = 90 * 24 * time.Hour
	signingKeyLinger = 2 * tokenLifetime
	signingKeysFresh = 5 * time.Minute // how long keys are used before they are read again
)

// signingKeys are the keys of the authority: the newest signs, all verify. Other
// nodes on the same store may make new ones at any time.
type signingKeys struct {
	store    store.Rows
	table    row.Table[signingKeyRow]
	generate func(bits int) (*rsa.PrivateKey, error)

	mu     sync.Mutex // guards what follows; held across a read, so that there is one at a time
	read   time.Time
	newest signingKey
	byID   map[string]signingKey
}

type signingKey struct {
	id      string // kid
	number  int
	created time.Time
	private *rsa.PrivateKey
}

// openSigningKeys loads the keys, or makes the first one.
func openSigningKeys(ctx context.Context, c Config) (*signingKeys, error) {
	k := &signingKeys{store: c.Store, table: row.NewTable[signingKeyRow](c.Store, c.Service, "entra-signing-keys"), generate: c.GenerateRSA}
	if k.generate == nil {
		k.generate = func(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	_, err := k.signing(ctx)
	return k, err
}

// signing returns the key to sign with, and makes one when there is none or it is old.
func (k *signingKeys) signing(ctx context.Context) (signingKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx, signingKeysFresh); err != nil {
		return signingKey{}, err
	}
	if k.newest.private == nil || time.Since(k.newest.created) > signingKeyLife {
		if err := k.rotate(ctx); err != nil {
			return signingKey{}, err
		}
	}
	return k.newest, nil
}

// find returns the key of this id. Keys are read again for one that is not known, but
// not more often than every ten seconds: anybody can make up ids.
func (k *signingKeys) find(ctx context.Context, id string) (signingKey, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fresh := signingKeysFresh
	if _, known := k.byID[id]; !known {
		fresh = 10 * time.Second
	}
	if err := k.load(ctx, fresh); err != nil {
		return signingKey{}, false, err
	}
	key, known := k.byID[id]
	return key, known, nil
}

// published returns all keys, by id.
func (k *signingKeys) published(ctx context.Context) ([]signingKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx, signingKeysFresh); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(k.byID), func(x, y signingKey) int { return strings.Compare(x.id, y.id) }), nil
}

// load reads the keys unless they were read less than fresh ago. The caller holds mu.
func (k *signingKeys) load(ctx context.Context, fresh time.Duration) error {
	if k.byID != nil && time.Since(k.read) < fresh {
		return nil
	}
	rows, err := k.table.List(ctx, store.RowKey{}.Partition)
	if err != nil {
		return err
	}
	var all []signingKey
	for _, found := range rows {
		key, err := parseSigningKey(found.Value)
		if err != nil {
			return err
		}
		all = append(all, key)
	}
	slices.SortFunc(all, func(x, y signingKey) int { return y.number - x.number }) // newest first
	k.byID, k.newest, k.read = map[string]signingKey{}, signingKey{}, time.Now()
	for n, key := range all {
		if n == 0 {
			k.newest = key
		} else if time.Since(all[n-1].created) > signingKeyLinger {
			break // it and all older ones are over
		}
		k.byID[key.id] = key
	}
	return nil
}

// rotate makes the next key, unless another node was faster, and deletes those that
// are over. The caller holds mu.
func (k *signingKeys) rotate(ctx context.Context) error {
	if err := k.create(ctx, k.newest.number+1); err != nil {
		return err
	}
	if err := k.load(ctx, 0); err != nil {
		return err
	}
	if k.newest.private == nil {
		return fmt.Errorf("token signing key: %w", store.ErrNotFound)
	}
	rows, err := k.table.List(ctx, store.RowKey{}.Partition)
	if err != nil {
		return err
	}
	var over []store.RowWrite
	for _, found := range rows {
		key, err := parseSigningKey(found.Value)
		if err != nil {
			return err
		}
		if _, used := k.byID[key.id]; !used {
			over = append(over, store.RowWrite{RowKey: k.table.Key(fmt.Sprint(key.number))})
		}
	}
	if len(over) == 0 {
		return nil
	}
	return k.store.WriteRows(ctx, over)
}

// RotateSigningKey makes a new key that signs from now on. Tokens of the old one stay
// good for as long as they live.
func (s *Service) RotateSigningKey(ctx context.Context) error {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	if err := s.keys.load(ctx, 0); err != nil {
		return err
	}
	return s.keys.rotate(ctx)
}

// Sign signs a document of this installation with the key that signs tokens, as a JWS in
// compact form (RFC 7515). The key is published where those of tokens are. kind goes into
// the header as typ; a document is no token, for it names no issuer, audience or expiry.
func (s *Service) Sign(ctx context.Context, kind string, payload []byte) (string, error) {
	key, err := s.keys.signing(ctx)
	if err != nil {
		return "", err
	}
	header, err := json.Marshal(map[string]string{"alg": "RS256", "kid": key.id, "typ": kind})
	if err != nil {
		return "", fmt.Errorf("sign a document: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := jwt.SigningMethodRS256.Sign(signed, key.private)
	if err != nil {
		return "", fmt.Errorf("sign a document: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// create makes the key with this number unless there is one.
func (k *signingKeys) create(ctx context.Context, number int) error {
	private, err := k.generate(signingKeyBits)
	if err != nil {
		return fmt.Errorf("make the token signing key: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("make the token signing key: %w", err)
	}
	row := signingKeyRow{Number: number, PKCS8: pkcs8, Created: time.Now().UTC()}
	write, err := k.table.Put(k.table.Key(fmt.Sprint(number)), row, store.Absent)
	if err != nil {
		return err
	}
	err = k.store.WriteRows(ctx, []store.RowWrite{write})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("store the token signing key: %w", err)
	}
	return nil
}

func parseSigningKey(row signingKeyRow) (signingKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(row.PKCS8)
	if err != nil {
		return signingKey{}, fmt.Errorf("token signing key %d: %w", row.Number, store.ErrCorrupt)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return signingKey{}, fmt.Errorf("token signing key %d is not RSA: %w", row.Number, store.ErrCorrupt)
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return signingKey{}, fmt.Errorf("token signing key %d: %w", row.Number, err)
	}
	thumbprint := sha256.Sum256(spki)
	return signingKey{
		id: base64.RawURLEncoding.EncodeToString(thumbprint[:]), number: row.Number, created: row.Created, private: private,
	}, nil
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	KeyType string `json:"kty"`
	Use     string `json:"use"`
	Alg     string `json:"alg"`
	ID      string `json:"kid"`
	N       string `json:"n"`
	E       string `json:"e"`
}

func (k signingKey) jwk() jwk {
	return jwk{
		KeyType: "RSA", Use: "sig", Alg: "RS256", ID: k.id,
		N: base64.RawURLEncoding.EncodeToString(k.private.N.Bytes()),
		E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.private.E)).Bytes()),
	}
}
