package envelope

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
)

func loadWycheproof(t *testing.T, file string, v any) {
	t.Helper()
	b, err := fs.ReadFile(wycheproof.TestVectors, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// All vectors for the sizes of this format, through the AEAD of this format. It
// draws its own nonces, so only opening takes the vectors'; that what it seals is
// the same GCM follows from sealing and opening the plaintexts.
func TestWycheproofAESGCM(t *testing.T) {
	var file struct {
		TestGroups []struct {
			KeySize, IVSize, TagSize int
			Tests                    []struct {
				TcID                       int
				Key, IV, AAD, Msg, Ct, Tag hexBytes
				Result                     string
			}
		}
	}
	loadWycheproof(t, "aes_gcm_test.json", &file)
	ran := 0
	for _, g := range file.TestGroups {
		if g.KeySize != 8*keyBytes || g.IVSize != 8*nonceBytes || g.TagSize != 8*tagBytes {
			continue
		}
		for _, v := range g.Tests {
			ran++
			aead, err := newAEAD(v.Key)
			if err != nil {
				t.Fatalf("vector %d: %v", v.TcID, err)
			}
			sealed := bytes.Join([][]byte{v.IV, v.Ct, v.Tag}, nil)
			got, err := aead.Open(nil, nil, sealed, v.AAD)
			if valid := v.Result == "valid"; valid != (err == nil) {
				t.Errorf("vector %d: %v, want it %s", v.TcID, err, v.Result)
			} else if valid && !bytes.Equal(got, v.Msg) {
				t.Errorf("vector %d: opens to %x, want %x", v.TcID, got, v.Msg)
			}
			resealed(t, aead, v.Msg, v.AAD)
		}
	}
	if ran < 60 {
		t.Errorf("ran %d vectors, want at least 60: the file has changed", ran)
	}
}

func resealed(t *testing.T, aead cipher.AEAD, plaintext, aad []byte) {
	t.Helper()
	got, err := aead.Open(nil, nil, aead.Seal(nil, nil, plaintext, aad), aad)
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("sealed again it opens to %x, %v; want %x", got, err, plaintext)
	}
}

func TestWycheproofHKDF(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Tests []struct {
				TcID                 int
				IKM, Salt, Info, OKM hexBytes
				Size                 int
				Result               string
			}
		}
	}
	loadWycheproof(t, "hkdf_sha256_test.json", &file)
	ran := 0
	for _, g := range file.TestGroups {
		for _, v := range g.Tests {
			ran++
			// derive uses the two halves, the naming key and the root commitment the whole.
			whole, err := hkdf.Key(sha256.New, v.IKM, v.Salt, string(v.Info), v.Size)
			if valid := v.Result == "valid"; valid != (err == nil) {
				t.Errorf("vector %d: %v, want it %s", v.TcID, err, v.Result)
				continue
			} else if !valid {
				continue
			}
			prk, err := hkdf.Extract(sha256.New, v.IKM, v.Salt)
			if err != nil {
				t.Fatalf("vector %d: %v", v.TcID, err)
			}
			halves, err := hkdf.Expand(sha256.New, prk, string(v.Info), v.Size)
			if err != nil || !bytes.Equal(whole, v.OKM) || !bytes.Equal(halves, v.OKM) {
				t.Errorf("vector %d: got %x and %x, %v; want %x", v.TcID, whole, halves, err, v.OKM)
			}
		}
	}
	if ran < 80 {
		t.Errorf("ran %d vectors, want at least 80: the file has changed", ran)
	}
}
