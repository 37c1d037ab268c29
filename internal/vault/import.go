package vault

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/go-json-experiment/json/jsontext"
)

// importBody is the body of PUT /keys/{key}. Some clients write Hsm, some hsm.
type importBody struct {
	Key           *importKey        `json:"key"`
	HSM           bool              `json:"Hsm,case:ignore"`
	Attributes    *attributesBody   `json:"attributes"`
	Tags          map[string]string `json:"tags"`
	ReleasePolicy jsontext.Value    `json:"release_policy"`
}

// importKey is a JWK with its private members (RFC 7518, 6).
type importKey struct {
	ID         string         `json:"kid"` // ignored: the vault names the key
	Type       string         `json:"kty"`
	Operations []string       `json:"key_ops"`
	N          *string        `json:"n"`
	E          *string        `json:"e"`
	D          *string        `json:"d"`
	P          *string        `json:"p"`
	Q          *string        `json:"q"`
	DP         *string        `json:"dp"`
	DQ         *string        `json:"dq"`
	QI         *string        `json:"qi"`
	Curve      string         `json:"crv"`
	X          *string        `json:"x"`
	Y          *string        `json:"y"`
	K          *string        `json:"k"`
	Transfer   jsontext.Value `json:"key_hsm"`
}

func importKeyHandler(ctx context.Context, s *Service, c *call) (any, error) {
	var body importBody
	defer clear(c.body) // it holds a private key
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	if body.Key == nil {
		return nil, badParameter("The property 'key' is required.")
	}
	if !absent(body.ReleasePolicy) {
		return nil, badParameter("Property 'release_policy' is not supported by this vault.")
	}
	key, spec, err := body.Key.parse(body.HSM, c.vault)
	if err != nil {
		return nil, err
	}
	row := versionRow{Enabled: true, Tags: body.Tags}
	if row.Operations, err = operations(body.Key.Operations, spec.operations()); err != nil {
		return nil, err
	}
	if err := body.Attributes.apply(&row); err != nil {
		return nil, err
	}
	if err := checkTags(body.Tags); err != nil {
		return nil, err
	}
	if err := s.spend(c.vault, true, spec.units()); err != nil {
		return nil, err
	}
	k, row, err := s.add(ctx, c.vault, c.target.key, row, func(row *versionRow) error { return s.place(spec, key, row) })
	return s.answer(c, k, row, err)
}

// place puts an imported key where a made one of its type would be.
func (s *Service) place(spec keySpec, key any, row *versionRow) error {
	row.is(spec)
	signer, asymmetric := key.(crypto.Signer)
	if asymmetric {
		if err := row.setPrivate(signer); err != nil {
			return fmt.Errorf("import a key: %w", err)
		}
	}
	if s.token == nil || !spec.hardware() {
		if !asymmetric {
			return errNoToken
		}
		return nil
	}
	clear(row.Private)
	row.Private, row.InToken = nil, true
	if own, ok := key.(koblitzKey); ok {
		key = own.key
	}
	var err error
	if raw, ok := key.([]byte); ok && spec.mac {
		err = s.token.ImportMAC(row.ID, raw)
	} else {
		err = s.token.Import(row.ID, key)
	}
	if err != nil {
		return fmt.Errorf("import a key into the token: %w", err)
	}
	return nil
}

// parse checks a JWK and returns the crypto.Signer or []byte in it.
func (k importKey) parse(hsm bool, v Vault) (any, keySpec, error) {
	if !absent(k.Transfer) {
		return nil, keySpec{}, badParameter("Property 'key_hsm' is not supported by this vault: transfer packages are for the hardware of their maker.")
	}
	kind := k.Type
	if hsm && (kind == typeRSA || kind == typeEC || kind == "oct") {
		kind += "-HSM"
	}
	var key any
	var bits int
	var err error
	switch kind {
	case typeRSA, typeRSAHSM:
		var private *rsa.PrivateKey
		if private, err = k.rsa(); err == nil {
			key, bits = private, private.N.BitLen()
		}
	case typeEC, typeECHSM:
		key, err = k.ec()
	case typeOctHSM:
		var raw []byte
		if raw, err = decodeBinary("key.k", k.K); err == nil {
			key, bits = raw, 8*len(raw)
		}
	}
	if err != nil {
		return nil, keySpec{}, err
	}
	wanted := createBody{Type: kind, Curve: k.Curve, Operations: k.Operations}
	if bits != 0 {
		wanted.Bits = &bits
	}
	spec, err := wanted.spec(v)
	return key, spec, err
}

// number reads a required member that is a big-endian number.
func number(name string, s *string) (*big.Int, error) {
	b, err := decodeBinary(name, s)
	if err != nil {
		return nil, err
	}
	const longest = 4096 / 8
	if len(b) == 0 || len(b) > longest+1 {
		return nil, badParameter("Property '%s' has an invalid value: it is empty or too long.", name)
	}
	return new(big.Int).SetBytes(b), nil
}

var errNotAKey = errors.New("not a key")

func (k importKey) rsa() (*rsa.PrivateKey, error) {
	var n [5]*big.Int
	for i, m := range []struct {
		name string
		text *string
	}{{"key.n", k.N}, {"key.e", k.E}, {"key.d", k.D}, {"key.p", k.P}, {"key.q", k.Q}} {
		var err error
		if n[i], err = number(m.name, m.text); err != nil {
			return nil, err
		}
	}
	if !n[1].IsInt64() || n[1].Int64() > 1<<31-1 {
		return nil, badParameter("Property 'key.e' has an invalid value.")
	}
	// dp, dq and qi follow from the others and are computed again.
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n[0], E: int(n[1].Int64())}, D: n[2], Primes: []*big.Int{n[3], n[4]}}
	if bits := n[0].BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, badParameter("Property 'key.n' has an invalid value: sizes are 2048, 3072 and 4096.")
	}
	if !validRSA(key) {
		return nil, badParameter("Property 'key' has an invalid value: its numbers do not belong together.")
	}
	return key, nil
}

// validRSA checks a key from outside.
func validRSA(k *rsa.PrivateKey) bool {
	k.Precompute()
	return k.Validate() == nil
}

func (k importKey) ec() (crypto.Signer, error) {
	if err := checkCurve(k.Curve); err != nil {
		return nil, err
	}
	size := fieldBytes(k.Curve)
	d, err := number("key.d", k.D)
	if err != nil {
		return nil, err
	}
	if d.BitLen() > 8*size {
		return nil, badParameter("Property 'key.d' has an invalid value: it is too long for the curve.")
	}
	var key crypto.Signer
	if raw := d.FillBytes(make([]byte, size)); k.Curve == curveP256K {
		key, err = parseP256K(raw)
	} else {
		key, err = ecdsa.ParseRawPrivateKey(curves[k.Curve], raw)
	}
	if err != nil {
		return nil, badParameter("Property 'key.d' has an invalid value: it is no private key of the curve.")
	}
	x, err := number("key.x", k.X)
	if err != nil {
		return nil, err
	}
	y, err := number("key.y", k.Y)
	if err != nil {
		return nil, err
	}
	ownX, ownY, err := coordinates(key.Public())
	if err != nil {
		return nil, fmt.Errorf("import a key: %w", err)
	}
	if new(big.Int).SetBytes(ownX).Cmp(x) != 0 || new(big.Int).SetBytes(ownY).Cmp(y) != 0 {
		return nil, badParameter("Property 'key' has an invalid value: its numbers do not belong together.")
	}
	return key, nil
}

// likeSpec is the spec of a key like v; rows of old do not have the size of an RSA key.
func (v versionRow) likeSpec() (keySpec, error) {
	spec := v.spec()
	if spec.isRSA() && spec.bits == 0 {
		public, err := v.publicKey()
		if err != nil {
			return spec, err
		}
		if key, ok := public.(*rsa.PublicKey); ok {
			spec.bits = key.N.BitLen()
		}
	}
	return spec, nil
}
