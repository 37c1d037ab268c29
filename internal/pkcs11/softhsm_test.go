//go:build cgo && pkcs11

package pkcs11_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	signatures "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"github.com/tidelock/tidelock/internal/pkcs11"
	"github.com/tidelock/tidelock/internal/pkcs11/softhsm"
)

func openToken(t *testing.T) *pkcs11.Token {
	t.Helper()
	token, err := pkcs11.Open(pkcs11.Config(softhsm.New(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(token.Close)
	return token
}

func TestRSAInTheToken(t *testing.T) {
	token := openToken(t)
	imported, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Import("imported", imported); err != nil {
		t.Fatal(err)
	}
	made, err := token.GenerateRSA("made", 2048)
	if err != nil {
		t.Fatal(err)
	}
	for id, public := range map[string]*rsa.PublicKey{"imported": &imported.PublicKey, "made": made} {
		key, err := token.Private(id, public)
		if err != nil {
			t.Fatal(err)
		}
		message := []byte("a data key of thirty-two bytes..")
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
			sealed, err := rsa.EncryptOAEP(h.New(), rand.Reader, public, message, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := key.(crypto.Decrypter).Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: h})
			if err != nil || !bytes.Equal(got, message) {
				t.Errorf("%s: OAEP with %v: got %q, %v", id, h, got, err)
			}
			sealed[3] ^= 1
			for _, bad := range [][]byte{sealed, sealed[1:], public.N.Bytes(), nil} {
				if _, err := key.(crypto.Decrypter).Decrypt(nil, bad, &rsa.OAEPOptions{Hash: h}); !errors.Is(err, rsa.ErrDecryption) {
					t.Errorf("%s: OAEP with %v of garbage: got %v", id, h, err)
				}
			}
		}
		sealed, err := rsa.EncryptPKCS1v15(rand.Reader, public, message)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.(crypto.Decrypter).Decrypt(nil, sealed, &rsa.PKCS1v15DecryptOptions{}); err != nil || !bytes.Equal(got, message) {
			t.Errorf("%s: PKCS #1 v1.5: got %q, %v", id, got, err)
		}
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			digest := bytes.Repeat([]byte{7}, h.Size())
			signed, err := key.(crypto.Signer).Sign(rand.Reader, digest, h)
			if err != nil || rsa.VerifyPKCS1v15(public, h, digest, signed) != nil {
				t.Errorf("%s: PKCS #1 v1.5 with %v: %v", id, h, err)
			}
			signed, err = key.(crypto.Signer).Sign(rand.Reader, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h})
			if err != nil || rsa.VerifyPSS(public, h, digest, signed, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) != nil {
				t.Errorf("%s: PSS with %v: %v", id, h, err)
			}
		}
		signed, err := key.(crypto.Signer).Sign(rand.Reader, []byte("anything"), crypto.Hash(0))
		if err != nil || rsa.VerifyPKCS1v15(public, 0, []byte("anything"), signed) != nil {
			t.Errorf("%s: without a hash: %v", id, err)
		}
		if err := token.Destroy(id); err != nil {
			t.Fatal(err)
		}
		if _, err := key.(crypto.Signer).Sign(rand.Reader, []byte("x"), crypto.Hash(0)); err == nil {
			t.Errorf("%s: a destroyed key signs", id)
		}
		if err := token.Destroy(id); err != nil {
			t.Errorf("%s: destroyed again: %v", id, err)
		}
	}
}

func TestECInTheToken(t *testing.T) {
	token := openToken(t)
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		name := curve.Params().Name
		made, err := token.GenerateEC("made "+name, name)
		if err != nil {
			t.Fatal(err)
		}
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := token.Import("imported "+name, private); err != nil {
			t.Fatal(err)
		}
		for id, public := range map[string]crypto.PublicKey{"made " + name: made, "imported " + name: &private.PublicKey} {
			key, err := token.Private(id, public)
			if err != nil {
				t.Fatal(err)
			}
			digest := bytes.Repeat([]byte{7}, 32)
			signed, err := key.(crypto.Signer).Sign(rand.Reader, digest, crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest, signed) {
				t.Errorf("%s: %v", id, err)
			}
		}
	}
}

func TestP256KInTheToken(t *testing.T) {
	token := openToken(t)
	made, err := token.GenerateEC("made", "P-256K")
	if err != nil {
		t.Fatal(err)
	}
	private, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Import("imported", private); err != nil {
		t.Fatal(err)
	}
	for id, public := range map[string]crypto.PublicKey{"made": made, "imported": private.PubKey()} {
		key, err := token.Private(id, public)
		if err != nil {
			t.Fatal(err)
		}
		digest := bytes.Repeat([]byte{7}, 32)
		signed, err := key.(crypto.Signer).Sign(rand.Reader, digest, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if parsed, err := signatures.ParseDERSignature(signed); err != nil || !parsed.Verify(digest, public.(*secp256k1.PublicKey)) {
			t.Errorf("%s: got %x, %v", id, signed, err)
		}
	}
}

// The published vectors of HMAC, with keys that are long enough for the hash.
func TestMACsInTheToken(t *testing.T) {
	token := openToken(t)
	if err := token.GenerateMAC("made", 256); err != nil {
		t.Fatal(err)
	}
	first, err := token.MAC("made", crypto.SHA256, []byte("x"))
	second, again := token.MAC("made", crypto.SHA256, []byte("x"))
	if err != nil || again != nil || len(first) != 32 || !bytes.Equal(first, second) {
		t.Errorf("got %x, %v, then %x, %v", first, err, second, again)
	}
	if _, err := token.MAC("made", crypto.SHA1, []byte("x")); err == nil {
		t.Error("a MAC with SHA-1 was made")
	}
	for file, h := range map[string]crypto.Hash{"hmac_sha256_test.json": crypto.SHA256, "hmac_sha384_test.json": crypto.SHA384, "hmac_sha512_test.json": crypto.SHA512} {
		raw, err := fs.ReadFile(wycheproof.TestVectors, file)
		if err != nil {
			t.Fatal(err)
		}
		var suite struct {
			Groups []struct {
				KeySize, TagSize int
				Tests            []struct {
					ID                    int `json:"tcId"`
					Key, Msg, Tag, Result string
				} `json:"tests"`
			} `json:"testGroups"`
		}
		if err := json.Unmarshal(raw, &suite); err != nil {
			t.Fatal(err)
		}
		ran := 0
		for _, group := range suite.Groups {
			if group.KeySize < 8*h.Size() || group.TagSize != 8*h.Size() {
				continue
			}
			for _, test := range group.Tests {
				if err := token.ImportMAC("vector", unhex(t, test.Key)); err != nil {
					t.Fatal(err)
				}
				got, err := token.MAC("vector", h, unhex(t, test.Msg))
				if err != nil || bytes.Equal(got, unhex(t, test.Tag)) != (test.Result == "valid") {
					t.Errorf("%s, vector %d: got %x, %v, want %s %s", file, test.ID, got, err, test.Result, test.Tag)
				}
				if err := token.Destroy("vector"); err != nil {
					t.Fatal(err)
				}
				ran++
			}
		}
		if ran < 20 {
			t.Errorf("%s: only %d vectors ran", file, ran)
		}
	}
}

func TestAESInTheToken(t *testing.T) {
	token := openToken(t)
	if err := token.GenerateAES("k", 256); err != nil {
		t.Fatal(err)
	}
	iv := map[string][]byte{"GCM": make([]byte, 12), "CBC": make([]byte, 16), "CBCPAD": make([]byte, 16)}
	for _, mode := range []string{"GCM", "CBC", "CBCPAD", "KW", "KWP"} {
		plain := bytes.Repeat([]byte("0123456789abcdef"), 2)
		var aad []byte
		if mode == "GCM" {
			aad = []byte("bound")
		}
		sealed, ok, err := token.EncryptAES("k", mode, iv[mode], aad, plain)
		if err != nil || !ok || bytes.Contains(sealed, plain[:16]) {
			t.Errorf("%s: %t, %v", mode, ok, err)
			continue
		}
		got, ok, err := token.DecryptAES("k", mode, iv[mode], aad, sealed)
		if err != nil || !ok || !bytes.Equal(got, plain) {
			t.Errorf("%s: got %x, %t, %v", mode, got, ok, err)
		}
		if _, ok, err := token.EncryptAES("k", mode, iv[mode], aad, []byte("short")); err != nil || ok != (mode == "GCM" || mode == "CBCPAD" || mode == "KWP") {
			t.Errorf("%s of five bytes: %t, %v", mode, ok, err)
		}
		if mode == "CBC" {
			continue // which notices nothing
		}
		sealed[len(sealed)-1] ^= 1
		if _, ok, err := token.DecryptAES("k", mode, iv[mode], aad, sealed); err != nil || ok {
			t.Errorf("%s of a changed value: %t, %v", mode, ok, err)
		}
		if _, ok, err := token.DecryptAES("k", mode, iv[mode], aad, sealed[:5]); err != nil || ok {
			t.Errorf("%s of five bytes: %t, %v", mode, ok, err)
		}
	}
}

// The published vectors of AES key wrap, without and with padding.
func TestWycheproofKeyWrap(t *testing.T) {
	token := openToken(t)
	for file, mode := range map[string]string{"aes_wrap_test.json": "KW", "aes_kwp_test.json": "KWP"} {
		raw, err := fs.ReadFile(wycheproof.TestVectors, file)
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
				id := mode + test.Key
				if err := token.Import(id, unhex(t, test.Key)); err != nil {
					t.Fatal(err)
				}
				got, ok, err := token.DecryptAES(id, mode, nil, nil, unhex(t, test.CT))
				if err != nil || ok && test.Result == "invalid" || ok && !bytes.Equal(got, unhex(t, test.Msg)) || !ok && test.Result == "valid" {
					t.Errorf("%s, vector %d (%s): got %x, %t, %v, want %s %s", file, test.ID, test.Comment, got, ok, err, test.Result, test.Msg)
				}
				if test.Result == "valid" {
					sealed, ok, err := token.EncryptAES(id, mode, nil, nil, unhex(t, test.Msg))
					if err != nil || !ok || !bytes.Equal(sealed, unhex(t, test.CT)) {
						t.Errorf("%s, vector %d (%s): wraps to %x, %t, %v, want %s", file, test.ID, test.Comment, sealed, ok, err, test.CT)
					}
				}
				if err := token.Destroy(id); err != nil {
					t.Fatal(err)
				}
				ran++
			}
		}
		if ran < 20 {
			t.Errorf("%s: only %d vectors ran", file, ran)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	token := openToken(t)
	public, err := token.GenerateRSA("k", 2048)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.Private("k", public)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			digest := bytes.Repeat([]byte{7}, 32)
			signed, err := key.(crypto.Signer).Sign(rand.Reader, digest, crypto.SHA256)
			if err != nil || rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signed) != nil {
				t.Errorf("sign: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	good := pkcs11.Config(softhsm.New(t))
	pin := filepath.Join(t.TempDir(), "pin")
	for name, test := range map[string]struct {
		change func(*pkcs11.Config)
		want   string
	}{
		"Module": {func(c *pkcs11.Config) { c.Module = "/nowhere.so" }, "cannot be loaded"},
		"Label":  {func(c *pkcs11.Config) { c.Label = "other" }, `no token is labelled "other"`},
		"NoPIN":  {func(c *pkcs11.Config) { c.PINFile = "/nowhere" }, "no such file"},
		"OpenPIN": {func(c *pkcs11.Config) {
			c.PINFile = pin
			write(t, pin, "1234", 0o644)
		}, "chmod 600"},
		"WrongPIN": {func(c *pkcs11.Config) {
			c.PINFile = pin + "2"
			write(t, pin+"2", "0000", 0o600)
		}, "log in: pkcs11: 0xA0: CKR_PIN_INCORRECT"},
	} {
		c := good
		test.change(&c)
		token, err := pkcs11.Open(c)
		if err == nil {
			token.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
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
