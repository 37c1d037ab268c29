package app

import (
	"context"
	"crypto/rsa"
)

// OpenWith is Open with another way to make RSA keys.
func OpenWith(ctx context.Context, c Config, generateRSA func(bits int) (*rsa.PrivateKey, error)) (*App, error) {
	in := outside()
	in.generateRSA = generateRSA
	return openIn(ctx, c, in)
}
