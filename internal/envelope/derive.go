package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"runtime"
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
	labelAnchor         = "tidelock/1/anchor"
	labelNextRetention  = "tidelock/1/next-retention-key"
	labelServiceID      = "tidelock/1/service-key-id"
)

// appendField appends a length-prefixed field. Without the length, ("ab","c") and
// ("a","bc") would bind alike.
func appendField[T []byte | string](b []byte, field T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field))) // no field is longer than a plaintext, see MaxPlaintextBytes
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
	header := make([]byte, len(facts)+saltBytes, len(facts)+endBytes)
	copy(header, facts)
	rand.Read(header[len(facts):]) // never fails, see crypto/rand
	sealing, commitment, err := derive(key, header, context)
	if err != nil {
		return nil, nil, err
	}
	defer clear(sealing)
	aead, err := newAEAD(sealing)
	return append(header, commitment...), aead, err
}

// openHeader makes the AEAD of a stored header. The commitment is compared first:
// GCM alone lets one ciphertext open under two keys, and a header whose facts were
// changed is refused before anyone acts on them.
func openHeader(key, header []byte, context ...[]byte) (cipher.AEAD, error) {
	uncommitted, stored := header[:len(header)-commitmentBytes], header[len(header)-commitmentBytes:]
	sealing, commitment, err := derive(key, uncommitted, context)
	if err != nil {
		return nil, err
	}
	defer clear(sealing)
	if subtle.ConstantTimeCompare(commitment, stored) != 1 {
		return nil, ErrOpen
	}
	return newAEAD(sealing)
}

// derive makes the sealing key and the commitment of a header that still lacks its
// commitment and so ends in its salt:
//
//	prk        = HKDF-Extract(SHA-256, salt, key)
//	sealing    = HKDF-Expand(prk, field(label) | field(header) | field(context)…, 32)
//	commitment = HKDF-Expand(prk, field(label) | field(header) | field(context)…, 16)
//
// All of the header is bound, not only the salt: that makes the commitment a MAC
// of the header, and a place forgotten in associated data would still get another key.
func derive(key, header []byte, context [][]byte) (sealing, commitment []byte, err error) {
	prk := extract(key, header[len(header)-saltBytes:])
	defer clear(prk)
	bound := binding(header, context)
	if sealing, err = hkdf.Expand(sha256.New, prk, info(labelSealingKey, bound), keyBytes); err != nil {
		return nil, nil, fmt.Errorf("derive sealing key: %w", err)
	}
	if commitment, err = hkdf.Expand(sha256.New, prk, info(labelCommitment, bound), commitmentBytes); err != nil {
		return nil, nil, fmt.Errorf("derive key commitment: %w", err)
	}
	return sealing, commitment, nil
}

// extract is HKDF-Extract, which is HMAC with the salt for key. The standard library's
// leaves the message, here a long-lived key, in the buffer of a hash that nobody
// overwrites; this one does.
func extract(key, salt []byte) (prk []byte) {
	mac := hmac.New(sha256.New, salt)
	mac.Write(key)
	prk = mac.Sum(nil)
	var zeros [sha256.BlockSize - 1]byte // short of a block, so that they go into the buffer
	mac.Reset()
	mac.Write(zeros[:])
	overwriteStack()
	return prk
}

// overwriteStack overwrites what the calls before it left on the stack below.
//
//go:noinline
func overwriteStack() {
	var b [2048]byte
	clear(b[:])
	runtime.KeepAlive(&b)
}

// newAEAD lets the standard library draw the nonces. A counter of ours would repeat
// after a restored snapshot or with two writers, which is fatal for GCM.
func newAEAD(sealing []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return nil, fmt.Errorf("set up AES: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("set up GCM: %w", err)
	}
	return aead, nil
}

// info is what HKDF-Expand gets: a label, then the fields in bound.
func info(label string, bound []byte) string {
	return string(append(appendField(nil, label), bound...))
}
