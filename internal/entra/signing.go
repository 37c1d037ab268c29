package entra

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"

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

// signingKeys are the keys of the authority: one signs, all verify.
type signingKeys struct {
	current signingKey
	byID    map[string]signingKey
}

type signingKey struct {
	id      string // kid
	private *rsa.PrivateKey
}

// openSigningKeys loads the keys, or makes the first one.
func openSigningKeys(ctx context.Context, st store.Rows, t row.Table[signingKeyRow]) (signingKeys, error) {
	rows, err := t.List(ctx, store.RowKey{}.Partition)
	if err != nil {
		return signingKeys{}, err
	}
	if len(rows) == 0 {
		if err := createSigningKey(ctx, st, t, 1); err != nil {
			return signingKeys{}, err
		}
		// Read back: another node may have been faster.
		if rows, err = t.List(ctx, store.RowKey{}.Partition); err != nil {
			return signingKeys{}, err
		}
	}
	keys := signingKeys{byID: map[string]signingKey{}}
	newest := 0
	for _, found := range rows {
		key, err := parseSigningKey(found.Value)
		if err != nil {
			return signingKeys{}, err
		}
		keys.byID[key.id] = key
		if found.Value.Number > newest {
			newest, keys.current = found.Value.Number, key
		}
	}
	if newest == 0 {
		return signingKeys{}, fmt.Errorf("token signing key: %w", store.ErrNotFound)
	}
	return keys, nil
}

// createSigningKey makes the key with this number unless there is one.
func createSigningKey(ctx context.Context, st store.Rows, t row.Table[signingKeyRow], number int) error {
	private, err := rsa.GenerateKey(rand.Reader, signingKeyBits)
	if err != nil {
		return fmt.Errorf("make the token signing key: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("make the token signing key: %w", err)
	}
	row := signingKeyRow{Number: number, PKCS8: pkcs8, Created: time.Now().UTC()}
	write, err := t.Put(t.Key(fmt.Sprint(number)), row, store.Absent)
	if err != nil {
		return err
	}
	err = st.WriteRows(ctx, []store.RowWrite{write})
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
	return signingKey{id: base64.RawURLEncoding.EncodeToString(thumbprint[:]), private: private}, nil
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
