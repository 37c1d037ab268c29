package vault

import (
	"crypto/rand"
	"slices"
)

// aesAlgorithm is an algorithm of oct-HSM keys.
type aesAlgorithm struct {
	mode string
	bits int // of the key; 0: any
	wrap bool
}

var aesAlgorithms = map[string]aesAlgorithm{
	"A128KW": {modeKW, 128, true}, "A192KW": {modeKW, 192, true}, "A256KW": {modeKW, 256, true},
	"CKM_AES_KEY_WRAP": {modeKW, 0, true}, "CKM_AES_KEY_WRAP_PAD": {modeKWP, 0, true},
	"A128GCM": {modeGCM, 128, false}, "A192GCM": {modeGCM, 192, false}, "A256GCM": {modeGCM, 256, false},
	"A128CBC": {modeCBC, 128, false}, "A192CBC": {modeCBC, 192, false}, "A256CBC": {modeCBC, 256, false},
	"A128CBCPAD": {modeCBCPad, 128, false}, "A192CBCPAD": {modeCBCPad, 192, false}, "A256CBCPAD": {modeCBCPad, 256, false},
}

func (a aesAlgorithm) check(v versionRow, operation, alg, kid string) error {
	if a.wrap != (operation == opWrap || operation == opUnwrap) {
		return badParameter("Property 'alg' has an invalid value: '%s' is not an algorithm for %s.", alg, operation)
	}
	if a.bits != 0 && a.bits != v.Bits {
		return badParameter("Key and algorithm are incompatible. Key %s has %d bits, and algorithm '%s' can only be used with a key of %d.", kid, v.Bits, alg, a.bits)
	}
	return nil
}

const (
	gcmNonceBytes = 12
	gcmTagBytes   = 16
	cbcIVBytes    = 16
)

// operand is what a crypto operation is given and gives.
type operand struct{ value, iv, aad, tag []byte }

// operateAES serves encrypt, decrypt, wrapKey and unwrapKey of an oct-HSM key.
func (s *Service) operateAES(v versionRow, operation, alg string, in operand) (operand, error) {
	if s.token == nil {
		return operand{}, errNoToken
	}
	a := aesAlgorithms[alg]
	if a.mode != modeGCM && (in.aad != nil || in.tag != nil) || a.wrap && in.iv != nil {
		return operand{}, badParameter("Properties 'iv', 'aad' and 'tag' do not all apply to algorithm '%s'.", alg)
	}
	if operation == opEncrypt || operation == opWrap {
		return s.encryptAES(v, a, in)
	}
	switch a.mode {
	case modeGCM:
		if len(in.iv) != gcmNonceBytes || len(in.tag) != gcmTagBytes {
			return operand{}, badParameter("Algorithm '%s' needs an 'iv' of %d bytes and a 'tag' of %d.", alg, gcmNonceBytes, gcmTagBytes)
		}
	case modeCBC, modeCBCPad:
		if len(in.iv) != cbcIVBytes {
			return operand{}, badParameter("Algorithm '%s' needs an 'iv' of %d bytes.", alg, cbcIVBytes)
		}
	}
	plain, ok, err := s.token.DecryptAES(v.ID, a.mode, in.iv, in.aad, slices.Concat(in.value, in.tag))
	if err == nil && !ok {
		err = errParameter()
	}
	return operand{value: plain}, err
}

func (s *Service) encryptAES(v versionRow, a aesAlgorithm, in operand) (operand, error) {
	if in.tag != nil {
		return operand{}, badParameter("Property 'tag' does not apply to encryption.")
	}
	out := operand{iv: in.iv, aad: in.aad}
	switch a.mode {
	case modeGCM:
		// The nonce is ours alone: one used twice would give the key away.
		if in.iv != nil {
			return operand{}, badParameter("Property 'iv' must be left out: the vault makes the nonce of GCM.")
		}
		out.iv = make([]byte, gcmNonceBytes)
		_, _ = rand.Read(out.iv)
	case modeCBC, modeCBCPad:
		if len(in.iv) != cbcIVBytes {
			return operand{}, badParameter("CBC needs an 'iv' of %d bytes.", cbcIVBytes)
		}
	}
	sealed, ok, err := s.token.EncryptAES(v.ID, a.mode, out.iv, in.aad, in.value)
	if err == nil && !ok {
		err = errParameter()
	}
	if err != nil {
		return operand{}, err
	}
	if a.mode == modeGCM {
		at := len(sealed) - gcmTagBytes
		sealed, out.tag = sealed[:at:at], sealed[at:]
	}
	out.value = sealed
	return out, nil
}
