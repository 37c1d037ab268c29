package pkcs11

import (
	"crypto"
	"crypto/subtle"
	"encoding/binary"
)

// unpadOAEP takes off the padding of RSA-OAEP without a label (RFC 8017, 7.1.2, 3), with
// the same hash for the label and for MGF1. em is as long as the modulus and is
// overwritten. The time it takes depends on lengths and on whether the padding is good,
// and on nothing else: Manger's attack lives on telling the ways apart in which it is bad.
func unpadOAEP(em []byte, h crypto.Hash) (message []byte, ok bool) {
	size := h.Size()
	if len(em) < 2*size+2 {
		return nil, false
	}
	seed, db := em[1:1+size], em[1+size:]
	mask(seed, db, h)
	mask(db, seed, h)

	label := h.New().Sum(nil) // of no label
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeCompare(db[:size], label)
	// Behind the label's hash: zeros, a one, the message.
	rest := db[size:]
	looking, at := 1, 0
	for i, b := range rest {
		one, zero := subtle.ConstantTimeByteEq(b, 1), subtle.ConstantTimeByteEq(b, 0)
		at = subtle.ConstantTimeSelect(looking&one, i, at)
		good &= subtle.ConstantTimeSelect(looking, one|zero, 1)
		looking &= zero
	}
	if good&(1-looking) != 1 {
		return nil, false
	}
	return rest[at+1:], true
}

// mask xors MGF1 of seed into out (RFC 8017, B.2.1).
func mask(out, seed []byte, h crypto.Hash) {
	var counter [4]byte
	for n := uint32(0); len(out) > 0; n++ {
		binary.BigEndian.PutUint32(counter[:], n)
		d := h.New()
		d.Write(seed)
		d.Write(counter[:])
		out = out[subtle.XORBytes(out, out[:min(len(out), h.Size())], d.Sum(nil)):]
	}
}

// unpadPKCS1v15 takes off the padding of RSAES-PKCS1-v1_5 (RFC 8017, 7.2.2, 3): 0, 2, at
// least eight bytes that are not zero, 0, the message.
func unpadPKCS1v15(em []byte) (message []byte, ok bool) {
	const shortest = 2 + 8 + 1
	if len(em) < shortest {
		return nil, false
	}
	good := subtle.ConstantTimeByteEq(em[0], 0) & subtle.ConstantTimeByteEq(em[1], 2)
	looking, at := 1, 0
	for i, b := range em[2:] {
		zero := subtle.ConstantTimeByteEq(b, 0)
		at = subtle.ConstantTimeSelect(looking&zero, i+2, at)
		looking &= 1 - zero
	}
	good &= (1 - looking) & subtle.ConstantTimeLessOrEq(shortest-1, at)
	if good != 1 {
		return nil, false
	}
	return em[at+1:], true
}
