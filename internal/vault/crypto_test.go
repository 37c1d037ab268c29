package vault

import (
	"bytes"
	"crypto/fips140"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
)

// TestWycheproofOAEP runs the vectors through what decrypts and unwraps. Those with
// a label are left out: a vault has none.
func TestWycheproofOAEP(t *testing.T) {
	for alg, files := range map[string][]string{
		"RSA-OAEP":     {"rsa_oaep_2048_sha1_mgf1sha1_test.json"},
		"RSA-OAEP-256": {"rsa_oaep_2048_sha256_mgf1sha256_test.json", "rsa_oaep_3072_sha256_mgf1sha256_test.json", "rsa_oaep_4096_sha256_mgf1sha256_test.json"},
	} {
		for _, file := range files {
			t.Run(file, func(t *testing.T) { wycheproofOAEP(t, alg, file) })
		}
	}
}

func wycheproofOAEP(t *testing.T, alg, file string) {
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
		row := versionRow{ID: "vector", Type: typeRSA, Private: unhex(t, group.PKCS8)}
		for _, test := range group.Tests {
			if test.Label != "" {
				continue
			}
			ran++
			got, err := new(Service).decrypt(row, alg, unhex(t, test.CT))
			if good := err == nil; good != (test.Result == "valid") || good && !bytes.Equal(got, unhex(t, test.Msg)) {
				t.Errorf("vector %d (%s): got %x, %v, want %s %s", test.ID, test.Comment, got, err, test.Result, test.Msg)
			}
		}
	}
	if ran < 20 {
		t.Errorf("only %d vectors ran", ran)
	}
}

// TestWycheproofSignatures runs the vectors of RSA and ECDSA through what verifies.
func TestWycheproofSignatures(t *testing.T) {
	for file, alg := range map[string]string{
		"rsa_signature_2048_sha256_test.json":    "RS256",
		"rsa_signature_3072_sha384_test.json":    "RS384",
		"rsa_pss_2048_sha256_mgf1_32_test.json":  "PS256",
		"ecdsa_secp256r1_sha256_p1363_test.json": "ES256",
		"ecdsa_secp256k1_sha256_p1363_test.json": "ES256K",
		"ecdsa_secp521r1_sha512_p1363_test.json": "ES512",
	} {
		t.Run(file, func(t *testing.T) {
			raw, err := fs.ReadFile(wycheproof.TestVectors, file)
			if err != nil {
				t.Fatal(err)
			}
			var suite struct {
				Groups []struct {
					Public string `json:"publicKeyDer"`
					Tests  []struct {
						ID               int `json:"tcId"`
						Comment          string
						Msg, Sig, Result string
					} `json:"tests"`
				} `json:"testGroups"`
			}
			if err := json.Unmarshal(raw, &suite); err != nil {
				t.Fatal(err)
			}
			ran := 0
			for _, group := range suite.Groups {
				row := versionRow{ID: "vector", Public: unhex(t, group.Public), Curve: signatures[alg].curve}
				for _, test := range group.Tests {
					h := signatures[alg].hash.New()
					h.Write(unhex(t, test.Msg))
					good, err := row.verify(alg, h.Sum(nil), unhex(t, test.Sig))
					if err != nil || test.Result == "valid" && !good || test.Result == "invalid" && good {
						t.Errorf("vector %d (%s): got %t, %v, want %s", test.ID, test.Comment, good, err, test.Result)
					}
					ran++
				}
			}
			if ran < 50 {
				t.Errorf("only %d vectors ran", ran)
			}
		})
	}
}

// TestP256KIsStoredAsOthersStoreIt reads a key that OpenSSL made, and what is written of it.
func TestP256KIsStoredAsOthersStoreIt(t *testing.T) {
	const (
		number = "120b29b7127afb549be0ad23beb0ba97fd18be7ff5f503ad0485b65cc8472248"
		point  = "04281c0dd768673f58cb0a78696a66b54f5b20f784f47c3ae5a346dac22b7ed3bc277d09721ee007f69254ff8dc7ef5dd3ab9a4709b7bb19433e7959d24775cd2d"
		pkcs8  = "308184020100301006072a8648ce3d020106052b8104000a046d306b0201010420" + number + "a144034200" + point
		spki   = "3056301006072a8648ce3d020106052b8104000a034200" + point
	)
	key, err := parsePrivateP256K(unhex(t, pkcs8))
	if err != nil {
		t.Fatal(err)
	}
	row := versionRow{ID: "vector", Curve: curveP256K}
	if err := row.setPrivate(key); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(row.Public); got != spki {
		t.Errorf("public key: got %s, want %s", got, spki)
	}
	if again, err := parsePrivateP256K(row.Private); err != nil || hex.EncodeToString(again.key.Serialize()) != number {
		t.Errorf("private key: got %x, %v", row.Private, err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	signed, err := new(Service).sign(row, "ES256K", digest)
	if err != nil || len(signed) != 64 {
		t.Fatalf("sign: got %x, %v", signed, err)
	}
	if good, err := row.verify("ES256K", digest, signed); err != nil || !good {
		t.Errorf("verify: %t, %v", good, err)
	}
	for name, der := range map[string]string{
		"nothing": "", "another curve": strings.Replace(pkcs8, "052b8104000a", "052b81040022", 1), "more behind": pkcs8 + "00",
		"the number zero": strings.Replace(pkcs8, number, strings.Repeat("00", 32), 1), "a short number": strings.Replace(pkcs8, "306b0201010420"+number, "306b020101041f"+number[:62], 1),
	} {
		if _, err := parsePrivateP256K(unhex(t, der)); err == nil {
			t.Errorf("%s: is a private key", name)
		}
	}
	for name, der := range map[string]string{"nothing": "", "another curve": strings.Replace(spki, "052b8104000a", "052b81040022", 1), "a point off the curve": spki[:len(spki)-2] + "2e"} {
		if _, err := parsePublicP256K(unhex(t, der)); err == nil {
			t.Errorf("%s: is a public key", name)
		}
	}
}

func TestP256KIsRefusedUnderFIPS(t *testing.T) {
	for name, err := range map[string]error{
		"create": func() error { _, err := createBody{Type: typeEC, Curve: curveP256K}.spec(Vault{}); return err }(),
		"sign":   versionRow{Type: typeEC, Curve: curveP256K}.checkAlgorithm(opSign, "ES256K", "k"),
	} {
		if (err != nil) != fips140.Enforced() {
			t.Errorf("%s: got %v with FIPS 140 enforced: %t", name, err, fips140.Enforced())
		}
	}
}

func FuzzParseRolePath(f *testing.F) {
	for _, seed := range []string{
		"/providers/Microsoft.Authorization/roleAssignments", "//providers/Microsoft.Authorization/roleDefinitions/",
		"/keys/k/providers/Microsoft.Authorization/roleAssignments/33413926-3206-4cdd-b39a-83574fe37a17", "/keys/../providers/microsoft.authorization/roleassignments",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, err := parseRolePath(path)
		if r == nil || err != nil {
			return
		}
		if r.scope != "/" && r.scope != "/keys" && !keyName.MatchString(strings.TrimPrefix(r.scope, "/keys/")) || r.name != "" && !guidPattern.MatchString(r.name) {
			t.Fatalf("%q: got %+v", path, r)
		}
		again, err := parseRolePath(strings.TrimSuffix(r.scope, "/") + "/providers/Microsoft.Authorization/" + r.kind + "/" + r.name)
		if err != nil || *again != *r {
			t.Fatalf("%q: got %+v, then %+v, %v", path, r, again, err)
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"/keys", "/keys/", "/keys/k", "/keys/k/", "/keys/k/0123456789abcdef0123456789abcdef", "/keys/k//wrapkey",
		"/keys/k/create", "/keys/k/0123456789ABCDEF0123456789ABCDEF/unwrapKey", "/deletedkeys/k/recover", "/keys/../x",
		"//keys/k", "/keys/k/a/b/c", "/keys/%6B", "/secrets", "", "/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parsePath(path)
		if err != nil {
			return
		}
		if got.key != "" && !keyName.MatchString(got.key) || got.version != "" && !keyVersion.MatchString(got.version) {
			t.Fatalf("%q: got %+v", path, got)
		}
		// What parses re-encodes to what parses alike.
		again := "/" + got.collection
		if got.key != "" {
			again += "/" + got.key + "/" + got.version
		}
		if got.operation != "" {
			again += "/" + got.operation
		}
		if second, err := parsePath(again); err != nil || second != got {
			t.Fatalf("%q: got %+v, and %q gives %+v, %v", path, got, again, second, err)
		}
	})
}

func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"kty":"RSA","key_size":2048,"key_ops":["wrapKey"],"attributes":{"enabled":true,"nbf":1,"exp":2},"tags":{"a":"b"}}`,
		`{"attributes":{"exp":null}}`, `{"alg":"RSA-OAEP-256","value":"AAAA"}`, `{"kty":"EC","crv":"P-521"}`,
		`{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P1Y"}}`,
		`{"Hsm":false,"key":{"kty":"EC","crv":"P-256","d":"AQ","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}}`, `{`, `[]`, `null`, `""`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var create createBody
		if decode(body, &create) == nil {
			row := versionRow{Enabled: true}
			spec, err := create.spec(Vault{})
			if err == nil && spec.isRSA() && (spec.bits < 2048 || spec.bits > 4096) {
				t.Errorf("%s: got a key of %d bits", body, spec.bits)
			}
			if err := create.Attributes.apply(&row); err == nil && row.Expires != nil && (*row.Expires < 0 || *row.Expires > maxUnixSeconds) {
				t.Errorf("%s: got exp %d", body, *row.Expires)
			}
			if ops, err := operations(create.Operations, rsaOperations); err == nil && len(ops) > len(rsaOperations) {
				t.Errorf("%s: got operations %v", body, ops)
			}
		}
		var operate operateBody
		if decode(body, &operate) == nil && operate.Value != nil {
			if value, err := decodeBinary("value", operate.Value); err == nil && encodeBinary(value) != *operate.Value {
				t.Errorf("%s: the value re-encodes as %s", body, encodeBinary(value))
			}
		}
		var update updateBody
		if decode(body, &update) == nil {
			_ = update.Attributes.apply(&versionRow{})
		}
		var imported importBody
		if decode(body, &imported) == nil && imported.Key != nil {
			if key, spec, err := imported.Key.parse(imported.HSM, Vault{}); err == nil && (key == nil || spec.kind == "") {
				t.Errorf("%s: got no key of no type", body)
			}
		}
		var policy rotationBody
		if decode(body, &policy) == nil {
			if parsed, err := policy.parse(); err == nil { // then it is answered as it was asked
				again, err := parsed.wire("").parse()
				if err != nil || again != parsed {
					t.Errorf("%s: got %+v, then %+v, %v", body, parsed, again, err)
				}
			}
		}
	})
}

func TestDecodeNamesNothingOfTheBody(t *testing.T) {
	secret := base64.RawURLEncoding.EncodeToString([]byte("plaintext of a data key"))
	err := decode([]byte(`{"alg":"RSA-OAEP-256","value":["`+secret+`"]}`), &operateBody{})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v, want an error without the value", err)
	}
}
