package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/big"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
)

// bare is what a token's CKM_RSA_X_509 gives.
func bare(k *rsa.PrivateKey, c []byte) []byte {
	return new(big.Int).Exp(new(big.Int).SetBytes(c), k.D, k.N).FillBytes(make([]byte, k.Size()))
}

// The published vectors of OAEP and of PKCS #1 v1.5, unpadded here behind a bare RSA operation.
func TestWycheproofUnpad(t *testing.T) {
	for file, unpad := range map[string]func([]byte) ([]byte, bool){
		"rsa_oaep_2048_sha1_mgf1sha1_test.json":     func(em []byte) ([]byte, bool) { return unpadOAEP(em, crypto.SHA1) },
		"rsa_oaep_2048_sha256_mgf1sha256_test.json": func(em []byte) ([]byte, bool) { return unpadOAEP(em, crypto.SHA256) },
		"rsa_oaep_3072_sha256_mgf1sha256_test.json": func(em []byte) ([]byte, bool) { return unpadOAEP(em, crypto.SHA256) },
		"rsa_pkcs1_2048_test.json":                  unpadPKCS1v15,
	} {
		t.Run(file, func(t *testing.T) {
			raw, err := fs.ReadFile(wycheproof.TestVectors, file)
			if err != nil {
				t.Fatal(err)
			}
			var suite struct {
				Groups []struct {
					PKCS8 string `json:"privateKeyPkcs8"`
					Tests []struct {
						ID                     int `json:"tcId"`
						Comment                string
						Msg, CT, Label, Result string
					} `json:"tests"`
				} `json:"testGroups"`
			}
			if err := json.Unmarshal(raw, &suite); err != nil {
				t.Fatal(err)
			}
			ran := 0
			for _, group := range suite.Groups {
				parsed, err := x509.ParsePKCS8PrivateKey(unhex(t, group.PKCS8))
				if err != nil {
					t.Fatal(err)
				}
				key := parsed.(*rsa.PrivateKey)
				for _, test := range group.Tests {
					c := unhex(t, test.CT)
					if test.Label != "" || len(c) != key.Size() || new(big.Int).SetBytes(c).Cmp(key.N) >= 0 {
						continue
					}
					ran++
					got, ok := unpad(bare(key, c))
					if ok != (test.Result == "valid") || ok && !bytes.Equal(got, unhex(t, test.Msg)) {
						t.Errorf("vector %d (%s): got %x, %t, want %s %s", test.ID, test.Comment, got, ok, test.Result, test.Msg)
					}
				}
			}
			if ran < 10 {
				t.Errorf("only %d vectors ran", ran)
			}
		})
	}
}

// Every change of one byte of good padding is bad padding.
func TestUnpadOAEPRefusesChanges(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte(strings.Repeat("k", 32))
	c, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, &key.PublicKey, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	em := bare(key, c)
	if got, ok := unpadOAEP(bytes.Clone(em), crypto.SHA256); !ok || !bytes.Equal(got, message) {
		t.Fatalf("got %q, %t", got, ok)
	}
	for i := range em {
		changed := bytes.Clone(em)
		changed[i] ^= 1
		if got, ok := unpadOAEP(changed, crypto.SHA256); ok && bytes.Equal(got, message) {
			t.Errorf("byte %d changed: it still unpads to the message", i)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
