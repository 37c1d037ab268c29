package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

const (
	saltBytes       = 16
	commitmentBytes = 16
	nonceBytes      = 12
	tagBytes        = 16
	sealBytes       = nonceBytes + tagBytes // what sealing adds
)

// Labels keep the outputs of one key apart. They are part of the format.
const (
	labelSealingKey     = "tidelock/1/sealing-key"
	labelCommitment     = "tidelock/1/key-commitment"
	labelRootCommitment = "tidelock/1/root-commitment"
	labelNamingKey      = "tidelock/1/naming-key"
)

// appendField appends a length-prefixed field. Without the length, ("ab","c") and
// ("a","bc") would bind alike.
func appendField[T []byte | string](b []byte, field T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field))) //nolint:gosec // no field is longer than a plaintext, see MaxPlaintextBytes
	return append(b, field...)
}

// binding is a header and whatever else the value must be bound to, unambiguously.
func binding(header []byte, context [][]byte) []byte {
	b := appendField(nil, header)
	for _, c := range context {
		b = appendField(b, c)
	}
	return b
}

// newHeader completes facts (preamble and the facts of the kind) to a header and
// makes the AEAD it stands for. The salt is random, so no state has to survive a
// crash, a restored backup or a second writer: each gets a key of its own.
func newHeader(key, facts []byte, context ...[]byte) ([]byte, cipher.AEAD, error) {
	header := make([]byte, 0, len(facts)+saltBytes+commitmentBytes)
	header = append(header, facts...)
	header = header[:len(facts)+saltBytes]
	rand.Read(header[len(facts):]) // never fails, see crypto/rand
	aead, commitment, err := derive(key, header, context)
	if err != nil {
		return nil, nil, err
	}
	return append(header, commitment...), aead, nil
}

// openHeader makes the AEAD of a stored header. The commitment is compared first:
// GCM alone lets one ciphertext open under two keys, and a header whose facts were
// changed is refused before anyone acts on them.
func openHeader(key, header []byte, context ...[]byte) (cipher.AEAD, error) {
	uncommitted := header[:len(header)-commitmentBytes]
	aead, commitment, err := derive(key, uncommitted, context)
	if err != nil || subtle.ConstantTimeCompare(commitment, header[len(uncommitted):]) != 1 {
		return nil, ErrOpen
	}
	return aead, nil
}

// derive makes the sealing key and the commitment of a header that still lacks its
// commitment and ends in its salt:
//
//	prk        = HKDF-Extract(SHA-256, salt, key)
//	sealing    = HKDF-Expand(prk, field(label) | field(header) | field(context)…, 32)
//	commitment = HKDF-Expand(prk, field(label) | field(header) | field(context)…, 16)
//
// All of the header is bound, not only the salt: that makes the commitment a MAC
// of the header, and a place forgotten in associated data still gets another key.
func derive(key, header []byte, context [][]byte) (cipher.AEAD, []byte, error) {
	bound := binding(header, context)
	prk, err := hkdf.Extract(sha256.New, key, header[len(header)-saltBytes:])
	if err != nil {
		return nil, nil, fmt.Errorf("derive sealing key: %w", err)
	}
	defer clear(prk)
	sealing, err := hkdf.Expand(sha256.New, prk, info(labelSealingKey, bound), 32)
	if err != nil {
		return nil, nil, fmt.Errorf("derive sealing key: %w", err)
	}
	defer clear(sealing)
	commitment, err := hkdf.Expand(sha256.New, prk, info(labelCommitment, bound), commitmentBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("derive key commitment: %w", err)
	}
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return nil, nil, fmt.Errorf("derive sealing key: %w", err)
	}
	// The module draws the nonces: a counter of ours would repeat after a restored
	// snapshot or with two writers, which is fatal for GCM.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, nil, fmt.Errorf("derive sealing key: %w", err)
	}
	return aead, commitment, nil
}

func info(label string, bound []byte) string {
	return string(append(appendField(nil, label), bound...))
}
