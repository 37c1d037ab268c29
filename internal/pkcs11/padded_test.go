package pkcs11

import (
	"bytes"
	"crypto/aes"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
)

// The published vectors of key wrap with padding, on single blocks in software.
func TestWycheproofPadded(t *testing.T) {
	raw, err := fs.ReadFile(wycheproof.TestVectors, "aes_kwp_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Groups []struct {
			Tests []struct {
				ID                   int `json:"tcId"`
				Comment              string
				Key, Msg, CT, Result string
			} `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(raw, &suite); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, group := range suite.Groups {
		for _, test := range group.Tests {
			cipher, err := aes.NewCipher(unhex(t, test.Key))
			if err != nil {
				t.Fatal(err)
			}
			msg, ct := unhex(t, test.Msg), unhex(t, test.CT)
			encrypt := func(b []byte) ([]byte, error) {
				out := make([]byte, aes.BlockSize)
				cipher.Encrypt(out, b)
				return out, nil
			}
			decrypt := func(b []byte) ([]byte, error) {
				out := make([]byte, aes.BlockSize)
				cipher.Decrypt(out, b)
				return out, nil
			}
			if test.Result != "invalid" && len(msg) > 0 {
				if got, err := wrapPadded(encrypt, msg); err != nil || !bytes.Equal(got, ct) {
					t.Errorf("vector %d (%s): wraps to %x, %v, want %x", test.ID, test.Comment, got, err, ct)
				}
			}
			if len(ct) < 16 || len(ct)%8 != 0 {
				continue // which is refused before
			}
			ran++
			got, ok, err := unwrapPadded(decrypt, ct)
			if err != nil || ok == (test.Result == "invalid") || ok && !bytes.Equal(got, msg) {
				t.Errorf("vector %d (%s): got %x, %t, %v, want %s %x", test.ID, test.Comment, got, ok, err, test.Result, msg)
			}
		}
	}
	if ran < 50 {
		t.Errorf("only %d vectors ran", ran)
	}
}
