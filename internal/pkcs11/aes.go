//go:build cgo

package pkcs11

import (
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

const (
	aesBlock   = 16
	gcmTagBits = 128
	modeWrap   = "KW"  // which tokens do on keys, and not on bytes
	modePadded = "KWP" // see padded.go
)

// mechanism of a mode. free ends its use.
func mechanism(mode string, iv, aad []byte) (m *p11.Mechanism, free func(), err error) {
	switch mode {
	case "GCM":
		params := p11.NewGCMParams(iv, aad, gcmTagBits)
		return p11.NewMechanism(p11.CKM_AES_GCM, params), params.Free, nil
	case "CBC":
		return p11.NewMechanism(p11.CKM_AES_CBC, iv), func() {}, nil
	case "CBCPAD":
		return p11.NewMechanism(p11.CKM_AES_CBC_PAD, iv), func() {}, nil
	case modeWrap:
		return p11.NewMechanism(p11.CKM_AES_KEY_WRAP, nil), func() {}, nil
	case modePadded:
		return p11.NewMechanism(p11.CKM_AES_ECB, nil), func() {}, nil
	}
	return nil, nil, fmt.Errorf("AES mode %q is not known", mode)
}

// EncryptAES encrypts with an AES key: mode GCM (the tag comes last), CBC, CBCPAD, KW
// (RFC 3394) or KWP (RFC 5649). ok is false for what the mode cannot take.
func (t *Token) EncryptAES(id, mode string, iv, aad, plain []byte) (sealed []byte, ok bool, err error) {
	switch {
	case mode == "CBC" && (len(plain) == 0 || len(plain)%aesBlock != 0),
		mode == modeWrap && (len(plain) < 16 || len(plain)%8 != 0),
		mode == modePadded && (len(plain) == 0 || len(plain) > maxPadded):
		return nil, false, nil
	}
	m, free, err := mechanism(mode, iv, aad)
	if err != nil {
		return nil, false, err
	}
	defer free()
	err = t.withAES(id, func(session p11.SessionHandle, key p11.ObjectHandle) (err error) {
		encrypt := func(b []byte) ([]byte, error) {
			if err := t.ctx.EncryptInit(session, []*p11.Mechanism{m}, key); err != nil {
				return nil, err
			}
			return t.ctx.Encrypt(session, b)
		}
		switch mode {
		case modeWrap:
			sealed, err = t.wrap(session, key, m, plain)
		case modePadded:
			sealed, err = wrapPadded(encrypt, plain)
		default:
			sealed, err = encrypt(plain)
		}
		return err
	})
	return sealed, err == nil, err
}

// DecryptAES undoes EncryptAES.
func (t *Token) DecryptAES(id, mode string, iv, aad, sealed []byte) (plain []byte, ok bool, err error) {
	switch {
	case (mode == "CBC" || mode == "CBCPAD") && (len(sealed) == 0 || len(sealed)%aesBlock != 0),
		mode == "GCM" && len(sealed) < gcmTagBits/8,
		mode == modeWrap && (len(sealed) < 24 || len(sealed)%8 != 0),
		mode == modePadded && (len(sealed) < 16 || len(sealed)%8 != 0 || len(sealed) > 8+maxPadded):
		return nil, false, nil
	}
	m, free, err := mechanism(mode, iv, aad)
	if err != nil {
		return nil, false, err
	}
	defer free()
	refused := false
	err = t.withAES(id, func(session p11.SessionHandle, key p11.ObjectHandle) (err error) {
		decrypt := func(b []byte) ([]byte, error) {
			if err := t.ctx.DecryptInit(session, []*p11.Mechanism{m}, key); err != nil {
				return nil, err
			}
			return t.ctx.Decrypt(session, b)
		}
		switch mode {
		case modeWrap:
			plain, refused, err = t.unwrap(session, key, m, sealed)
			return err
		case modePadded:
			var ok bool
			plain, ok, err = unwrapPadded(decrypt, sealed)
			refused = err == nil && !ok
			return err
		}
		plain, err = decrypt(sealed)
		if err != nil && !failed(err) {
			refused, err = true, nil // a bad tag or bad padding
		}
		return err
	})
	return plain, err == nil && !refused, err
}

func (t *Token) withAES(id string, f func(p11.SessionHandle, p11.ObjectHandle) error) error {
	return t.with(func(session p11.SessionHandle) error {
		key, err := t.find(session, id, p11.CKO_SECRET_KEY)
		if err != nil {
			return err
		}
		return f(session, key)
	})
}

// passing are the attributes of a value on its way through the token: it comes from a
// client or goes to one, and ends with the call.
func passing(more ...*p11.Attribute) []*p11.Attribute {
	return append([]*p11.Attribute{
		attribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), attribute(p11.CKA_KEY_TYPE, p11.CKK_GENERIC_SECRET),
		attribute(p11.CKA_TOKEN, false), attribute(p11.CKA_SENSITIVE, false), attribute(p11.CKA_EXTRACTABLE, true),
	}, more...)
}

// wrap has tokens' key wrapping work on bytes.
func (t *Token) wrap(session p11.SessionHandle, key p11.ObjectHandle, m *p11.Mechanism, plain []byte) ([]byte, error) {
	value, err := t.ctx.CreateObject(session, passing(attribute(p11.CKA_VALUE, plain)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = t.ctx.DestroyObject(session, value) }() // it ends with the session at the latest
	return t.ctx.WrapKey(session, []*p11.Mechanism{m}, key, value)
}

func (t *Token) unwrap(session p11.SessionHandle, key p11.ObjectHandle, m *p11.Mechanism, sealed []byte) (plain []byte, refused bool, err error) {
	value, err := t.ctx.UnwrapKey(session, []*p11.Mechanism{m}, key, sealed, passing())
	if err != nil && !failed(err) {
		return nil, true, nil // the integrity check
	}
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = t.ctx.DestroyObject(session, value) }()
	read, err := t.ctx.GetAttributeValue(session, value, []*p11.Attribute{attribute(p11.CKA_VALUE, nil)})
	if err != nil {
		return nil, false, err
	}
	return read[0].Value, false, nil
}
