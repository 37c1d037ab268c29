package cli

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// sign is a JWS of payload, and the public key of it.
func sign(t *testing.T, kind, payload string) (string, publicKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString
	signed := text([]byte(`{"alg":"RS256","kid":"k1","typ":"`+kind+`"}`)) + "." + text([]byte(payload))
	signature, err := jwt.SigningMethodRS256.Sign(signed, key)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + text(signature), publicKey{KeyType: "RSA", ID: "k1", N: text(key.N.Bytes()), E: text(big.NewInt(int64(key.E)).Bytes())}
}

func TestVerifyReport(t *testing.T) {
	const payload = `{"state":"Ended","secondsToEnforce":21.5,"promiseKept":true}`
	jws, key := sign(t, drillReportType, payload)
	other, _ := sign(t, drillReportType, payload)
	token, tokenKey := sign(t, "JWT", payload)
	report := func(body, signature string) string {
		return strings.TrimSuffix(body, "}") + `,"signedReport":"` + signature + `"}`
	}
	whole := strings.ReplaceAll(report(payload, jws), ",", ",\n  ")
	parts := strings.Split(jws, ".")
	for name, c := range map[string]struct {
		report string
		keys   []publicKey
		fails  string // empty: it verifies
	}{
		"Report":           {whole, []publicKey{{ID: "another"}, key}, ""},
		"JWSAlone":         {jws + "\n", []publicKey{key}, ""},
		"OtherNumber":      {strings.Replace(whole, "21.5", "20.5", 1), []publicKey{key}, "secondsToEnforce is not what was signed"},
		"LeftOut":          {report(`{"state":"Ended","promiseKept":true}`, jws), []publicKey{key}, "secondsToEnforce is not what was signed"},
		"Added":            {report(`{"more":1,"state":"Ended","secondsToEnforce":21.5,"promiseKept":true}`, jws), []publicKey{key}, "more was not signed"},
		"SignedByAnother":  {report(payload, other), []publicKey{key}, "signature does not fit"},
		"OtherPayload":     {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"state":"Ended"}`)) + "." + parts[2], []publicKey{key}, "signature does not fit"},
		"NoSignature":      {parts[0] + "." + parts[1] + ".", []publicKey{key}, "signature does not fit"},
		"NoneAlgorithm":    {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1","typ":"`+drillReportType+`"}`)) + "." + parts[1] + ".", []publicKey{key}, "not the report of a drill"},
		"Token":            {token, []publicKey{tokenKey}, "not the report of a drill"},
		"UnknownKey":       {jws, []publicKey{{ID: "another"}}, "not among the public keys"},
		"Unsigned":         {payload, []publicKey{key}, "not signed"},
		"SignatureOfNoUse": {report(payload, "x"), []publicKey{key}, "no JWS"},
	} {
		got, err := verifyReport([]byte(c.report), c.keys)
		switch {
		case c.fails == "" && (err != nil || string(got) != payload):
			t.Errorf("%s: %q, %v; want what was signed", name, got, err)
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
			t.Errorf("%s: %v, want an error with %q", name, err, c.fails)
		}
	}
}
