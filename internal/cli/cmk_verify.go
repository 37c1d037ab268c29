package cli

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/cobra"
)

const drillReportType = "tidelock-drill-report+jws"

func (o *Options) cmkVerifyCommand() *cobra.Command {
	var report, keys string
	c := o.withOutput(&cobra.Command{
		Use: "verify", Short: "Verify the signed report of a drill", Args: cobra.NoArgs,
		Long: "Checks that a report, as 'tidelock cmk drill --output json' printed it, is what the server signed, and prints what was\n" +
			"signed. The public keys are the server's, or those of a file that was kept: they change every few months, so keep\n" +
			"what the server publishes at /common/discovery/v2.0/keys together with the report.",
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := o.printer()
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(report)
			if err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			set, err := o.publicKeys(c.Context(), keys)
			if err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			payload, err := verifyReport(raw, set)
			if err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			var r drillReport
			if err := json.Unmarshal(payload, &r); err != nil {
				return fmt.Errorf("verify: what was signed is no report: %w", err)
			}
			return p.print(json.RawMessage(payload), r.rows())
		},
	})
	c.Flags().StringVar(&report, "report", "", "file with the report")
	c.Flags().StringVar(&keys, "keys", "", "file with the public keys, a JWK set (default: the server's)")
	required(c, "report")
	return c
}

// publicKey is a member of a JWK set (RFC 7517).
type publicKey struct {
	KeyType string `json:"kty"`
	ID      string `json:"kid"`
	N       string `json:"n"`
	E       string `json:"e"`
}

func (k publicKey) rsa() (*rsa.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(k.N)
	if err != nil {
		return nil, err
	}
	e, err := base64.RawURLEncoding.DecodeString(k.E)
	if err != nil || len(e) > 4 || k.KeyType != "RSA" {
		return nil, errors.New("it is no RSA key")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}

func (o *Options) publicKeys(ctx context.Context, file string) ([]publicKey, error) {
	var raw []byte
	var set struct {
		Keys []publicKey `json:"keys"`
	}
	var err error
	if file != "" {
		raw, err = os.ReadFile(file)
	} else {
		raw, err = o.publishedKeys(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("the public keys: %w", err)
	}
	return set.Keys, nil
}

func (o *Options) publishedKeys(ctx context.Context) (json.RawMessage, error) {
	client, err := o.connect()
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	err = client.send(ctx, http.MethodGet, client.profile.ManagementURL+"/common/discovery/v2.0/keys", nil, &raw)
	return raw, err
}

// verifyReport returns what was signed. raw is a report, or a JWS alone. What a report
// says beside its signature must be what was signed.
func verifyReport(raw []byte, keys []publicKey) ([]byte, error) {
	compact := strings.TrimSpace(string(raw))
	var said map[string]json.RawMessage
	if json.Unmarshal(raw, &said) == nil {
		if err := json.Unmarshal(said["signedReport"], &compact); err != nil || compact == "" {
			return nil, errors.New("the report is not signed: reports are once the drill is over")
		}
		delete(said, "signedReport")
	}
	payload, err := verifyJWS(compact, keys)
	if err != nil {
		return nil, err
	}
	var signed map[string]json.RawMessage
	if err := json.Unmarshal(payload, &signed); err != nil {
		return nil, errors.New("what was signed is no JSON object")
	}
	if said == nil {
		return payload, nil
	}
	for name := range said {
		if _, ok := signed[name]; !ok {
			return nil, fmt.Errorf("the report was changed: %s was not signed", name)
		}
	}
	for name, value := range signed {
		if !sameJSON(value, said[name]) {
			return nil, fmt.Errorf("the report was changed: %s is not what was signed", name)
		}
	}
	return payload, nil
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func verifyJWS(compact string, keys []publicKey) ([]byte, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, errors.New("the signed report is no JWS")
	}
	var decoded [3][]byte
	for n, part := range parts {
		var err error
		if decoded[n], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return nil, errors.New("the signed report is no JWS")
		}
	}
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}
	if err := json.Unmarshal(decoded[0], &header); err != nil || header.Algorithm != "RS256" || header.Type != drillReportType {
		return nil, errors.New("what was signed is not the report of a drill")
	}
	for _, k := range keys {
		if k.ID != header.KeyID {
			continue
		}
		public, err := k.rsa()
		if err != nil {
			return nil, fmt.Errorf("the public key %s: %w", k.ID, err)
		}
		if err := jwt.SigningMethodRS256.Verify(parts[0]+"."+parts[1], decoded[2], public); err != nil {
			return nil, errors.New("the signature does not fit: the report was changed, or another installation signed it")
		}
		return decoded[1], nil
	}
	return nil, Hint(fmt.Errorf("the report is signed with the key %s, which is not among the public keys", header.KeyID),
		"keys change every few months: give the set that was kept with the report as --keys")
}
