// Package rsatest makes RSA keys for tests. A key takes a tenth of a second or more to
// make, and tests of what is done with keys are many: those of one process share them.
package rsatest

import (
	"crypto/rand"
	"crypto/rsa"
	"sync"
)

var (
	mu   sync.Mutex // held while a key is made
	pool = map[int][]*rsa.PrivateKey{}
)

// New returns a function that makes keys as rsa.GenerateKey does. No two that it returns
// are alike; another such function returns the same ones in the same order.
func New() func(bits int) (*rsa.PrivateKey, error) {
	given := map[int]int{}
	return func(bits int) (*rsa.PrivateKey, error) {
		mu.Lock()
		defer mu.Unlock()
		n := given[bits]
		if n == len(pool[bits]) {
			key, err := rsa.GenerateKey(rand.Reader, bits)
			if err != nil {
				return nil, err
			}
			pool[bits] = append(pool[bits], key)
		}
		given[bits]++
		return pool[bits][n], nil
	}
}
