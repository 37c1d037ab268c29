package vault

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxBodyBytes bounds a request's body; the largest valid one is a create with 15 tags.
const maxBodyBytes = 64 << 10

// maxBackupBytes bounds the body of a restore: a backup of maxVersions RSA-4096 keys.
const maxBackupBytes = 4 << 20

// decode parses a request's body: one JSON object with known members only, each once.
func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		// The library's text may quote the body, which may hold key material.
		return badParameter("The request body is not valid JSON of this operation's form: a member is unknown, repeated, or of another type.")
	}
	return nil
}

// optional is a member that may be absent, null, or set.
type optional[T any] struct {
	present bool
	value   *T // nil when null
}

// UnmarshalJSON is called for null too.
func (o *optional[T]) UnmarshalJSON(b []byte) error {
	o.present = true
	return json.Unmarshal(b, &o.value)
}

// createBody is the body of POST /keys/{key}/create.
type createBody struct {
	Type          string            `json:"kty"`
	Bits          *int              `json:"key_size"`
	Curve         string            `json:"crv"`
	Exponent      *int              `json:"public_exponent"`
	Operations    []string          `json:"key_ops"`
	Attributes    *attributesBody   `json:"attributes"`
	Tags          map[string]string `json:"tags"`
	ReleasePolicy jsontext.Value    `json:"release_policy"`
}

// updateBody is the body of PATCH /keys/{key}[/{version}].
type updateBody struct {
	Operations    []string          `json:"key_ops"`
	Attributes    *attributesBody   `json:"attributes"`
	Tags          map[string]string `json:"tags"`
	ReleasePolicy jsontext.Value    `json:"release_policy"`
}

// attributesBody is what a client may set. What only the vault sets is taken and
// ignored: clients send back what they got.
type attributesBody struct {
	Enabled    optional[bool]  `json:"enabled"`
	NotBefore  optional[int64] `json:"nbf"`
	Expires    optional[int64] `json:"exp"`
	Exportable optional[bool]  `json:"exportable"`

	Created         jsontext.Value `json:"created"`
	Updated         jsontext.Value `json:"updated"`
	RecoveryLevel   jsontext.Value `json:"recoveryLevel"`
	RecoverableDays jsontext.Value `json:"recoverableDays"`
	HSMPlatform     jsontext.Value `json:"hsmPlatform"`
	Attestation     jsontext.Value `json:"attestation"`
}

// operateBody is the body of the crypto operations.
type operateBody struct {
	Algorithm string  `json:"alg"`
	Value     *string `json:"value"`
	Digest    *string `json:"digest"` // verify
	IV        *string `json:"iv"`     // of symmetric keys, as the next two
	AAD       *string `json:"aad"`
	Tag       *string `json:"tag"`
}

// spec checks what kind of key is wanted.
func (b createBody) spec(v Vault) (keySpec, error) {
	k := keySpec{kind: b.Type}
	switch b.Type {
	case "":
		return k, badParameter("The property 'kty' is required.")
	case typeRSAHSM, typeECHSM:
		if !v.premium() && !v.HSM {
			return k, badParameter("Property 'kty' has an invalid value: a key of type '%s' needs a vault with SKU premium.", b.Type)
		}
	case typeRSA, typeEC:
		if v.HSM {
			return k, badParameter("Property 'kty' has an invalid value: a managed HSM has keys of types RSA-HSM, EC-HSM and oct-HSM only.")
		}
	case typeOctHSM, "oct":
		if !v.HSM || b.Type == "oct" {
			return k, badParameter("Property 'kty' has an invalid value: keys of type '%s' are not for this vault: only a managed HSM has oct keys, of type oct-HSM.", b.Type)
		}
	default:
		return k, badParameter("Property 'kty' has an invalid value: '%s'.", printable(b.Type))
	}
	if !absent(b.ReleasePolicy) {
		return k, badParameter("Property 'release_policy' is not supported by this vault.")
	}
	if b.Type == typeOctHSM {
		return b.octSpec()
	}
	if !k.isRSA() {
		if b.Bits != nil || b.Exponent != nil {
			return k, badParameter("Properties 'key_size' and 'public_exponent' do not apply to keys of type '%s'.", b.Type)
		}
		if k.curve = b.Curve; k.curve == "" {
			k.curve = "P-256"
		}
		if err := checkCurve(k.curve); err != nil {
			return k, err
		}
		return k, checkApproved(k.curve)
	}
	if b.Curve != "" {
		return k, badParameter("Property 'crv' does not apply to keys of type '%s'.", b.Type)
	}
	if b.Exponent != nil && *b.Exponent != 65537 {
		return k, badParameter("Property 'public_exponent' has an invalid value: only 65537 is supported.")
	}
	k.bits = 2048
	if b.Bits != nil {
		k.bits = *b.Bits
	}
	if k.bits != 2048 && k.bits != 3072 && k.bits != 4096 {
		return k, badParameter("Property 'key_size' has an invalid value: sizes are 2048, 3072 and 4096.")
	}
	return k, nil
}

func (b createBody) octSpec() (keySpec, error) {
	signs := func(operation string) bool { return canonical(signOperations, operation) != "" }
	k := keySpec{kind: b.Type, bits: 256, mac: slices.ContainsFunc(b.Operations, signs)}
	if b.Bits != nil {
		k.bits = *b.Bits
	}
	if b.Curve != "" || b.Exponent != nil {
		return k, badParameter("Properties 'crv' and 'public_exponent' do not apply to keys of type '%s'.", b.Type)
	}
	switch {
	case k.mac && slices.ContainsFunc(b.Operations, func(operation string) bool { return !signs(operation) }):
		return k, badParameter("Property 'key_ops' has an invalid value: an oct-HSM key that signs and verifies does nothing else, for in a token a key is either of AES or of HMAC.")
	case k.mac && k.bits != 256 && k.bits != 384 && k.bits != 512:
		return k, badParameter("Property 'key_size' has an invalid value: sizes of oct-HSM keys that sign are 256, 384 and 512.")
	case !k.mac && k.bits != 128 && k.bits != 192 && k.bits != 256:
		return k, badParameter("Property 'key_size' has an invalid value: sizes of oct-HSM keys are 128, 192 and 256.")
	}
	return k, nil
}

func checkCurve(name string) error {
	if curves[name] != nil || name == curveP256K {
		return nil
	}
	return badParameter("Property 'crv' has an invalid value: '%s'; curves are P-256, P-256K, P-384 and P-521.", printable(name))
}

func absent(v jsontext.Value) bool { return len(v) == 0 || string(v) == "null" }

// operations checks key_ops; nil means all that the type can do.
func operations(asked []string, possible []string) ([]string, error) {
	if asked == nil {
		return possible, nil
	}
	var result []string
	for _, one := range asked {
		name := canonical(possible, one)
		if name == "" {
			return nil, badParameter("Property 'key_ops' has an invalid value: '%s'.", printable(one))
		}
		if !slices.Contains(result, name) {
			result = append(result, name)
		}
	}
	return result, nil
}

// canonical is the one of possible that is name in any case; "" if none is.
func canonical(possible []string, name string) string {
	at := slices.IndexFunc(possible, func(p string) bool { return strings.EqualFold(p, name) })
	if at < 0 {
		return ""
	}
	return possible[at]
}

// maxUnixSeconds is the end of the year 9999, beyond which clients cannot show a date.
const maxUnixSeconds = 253402300799

// apply sets what the client gave; an absent member leaves what is there, null
// clears a date.
func (b *attributesBody) apply(row *versionRow) error {
	if b == nil {
		return nil
	}
	if b.Exportable.value != nil && *b.Exportable.value {
		return badParameter("Property 'exportable' has an invalid value: keys of this vault are not exportable.")
	}
	if b.Enabled.value != nil {
		row.Enabled = *b.Enabled.value
	}
	if b.NotBefore.present {
		row.NotBefore = b.NotBefore.value
	}
	if b.Expires.present {
		row.Expires = b.Expires.value
	}
	for _, date := range []*int64{row.NotBefore, row.Expires} {
		if date != nil && (*date < 0 || *date > maxUnixSeconds) {
			return badParameter("Properties 'nbf' and 'exp' are seconds since 1970-01-01T00:00:00Z.")
		}
	}
	if row.NotBefore != nil && row.Expires != nil && *row.NotBefore >= *row.Expires {
		return badParameter("Property 'exp' must be later than 'nbf'.")
	}
	return nil
}

func checkTags(tags map[string]string) error {
	const most, longest = 15, 256
	if len(tags) > most {
		return badParameter("There may be no more than %d tags.", most)
	}
	for name, value := range tags {
		if name == "" || len(name) > longest || len(value) > longest {
			return badParameter("A tag's name has 1 to %d characters, its value at most %d.", longest, longest)
		}
	}
	return nil
}

// decodeBinary reads base64url without padding (RFC 7515, 2).
func decodeBinary(name string, s *string) ([]byte, error) {
	if s == nil {
		return nil, badParameter("The property '%s' is required.", name)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(*s)
	if err != nil || strings.ContainsAny(*s, "\r\n") { // which the decoder would skip
		return nil, badParameter("Property '%s' has an invalid value: it is not base64url without padding.", name)
	}
	return b, nil
}

func encodeBinary(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
