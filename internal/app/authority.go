package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is a certificate authority of this installation: clients are told to
// trust its certificate. Its names are constrained, so that whoever trusts it trusts
// it for nothing else.
type authority struct {
	scope authorityScope
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	path  string // of the certificate, PEM
}

// authorityScope is what an authority is for.
type authorityScope struct {
	file    string       // its files are {file}.crt and {file}.key
	name    string       // of the certificate
	domains []string     // it may speak for them and what is below them
	ranges  []*net.IPNet // and for these addresses
	// Of the certificates that it issues:
	dnsNames  []string
	addresses []net.IP
}

// localScope is that of the management listener's own names.
var localScope = authorityScope{
	file: "ca", name: "Tidelock local authority",
	domains: []string{"localhost", Domain}, ranges: loopbackRanges(),
	dnsNames:  []string{"localhost", Domain, "*." + Domain, "*.vault." + Domain, "*.managedhsm." + Domain},
	addresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
}

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 90 * 24 * time.Hour // Apple's and the browsers' limits are above it
)

// loadAuthority reads the authority of a data directory, or makes it.
func loadAuthority(dataDir string, scope authorityScope) (*authority, error) {
	certPath := filepath.Join(keysDir(dataDir), scope.file+".crt")
	keyPath := filepath.Join(keysDir(dataDir), scope.file+".key")
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthority(certPath, keyPath, scope); err != nil {
			return nil, fmt.Errorf("make the local certificate authority: %w", err)
		}
		pair, err = tls.LoadX509KeyPair(certPath, keyPath)
	}
	if err != nil {
		return nil, fmt.Errorf("local certificate authority: %w; delete %s and %s to have a new one made", err, certPath, keyPath)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("local certificate authority: %s is not an ECDSA key", keyPath)
	}
	return &authority{scope: scope, cert: pair.Leaf, key: key, path: certPath}, nil
}

func makeAuthority(certPath, keyPath string, scope authorityScope) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{CommonName: scope.name},
		NotBefore:                   time.Now().Add(-time.Hour),
		NotAfter:                    time.Now().Add(authorityLife),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         scope.domains,
		PermittedIPRanges:           scope.ranges,
	}
	if len(scope.ranges) == 0 { // none permitted would mean all
		template.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// The key first: a certificate without its key would be an error at every start.
	if err := writeSecret(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return err
	}
	return writeSecret(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func loopbackRanges() []*net.IPNet {
	return []*net.IPNet{
		{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
		{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
	}
}

// leaf issues a certificate of the management listener; it lives in memory only.
func (a *authority) leaf() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := serialNumber()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Tidelock"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     a.scope.dnsNames,
		IPAddresses:  a.scope.addresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}, nil
}

// tlsConfig serves leaves, a new one when half of the last one's life is over, so
// that a server may run for years.
func (a *authority) tlsConfig(public *publicNames) (*tls.Config, error) {
	first, err := a.leaf()
	if err != nil {
		return nil, fmt.Errorf("certificate of the management listener: %w", err)
	}
	leaves := &leafCache{authority: a, current: first, renewAt: time.Now().Add(leafLife / 2)}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if public.has(hello.ServerName) {
			if of := public.leaves(); of != nil {
				return of.get(hello)
			}
		}
		return leaves.get(hello)
	}}, nil
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// fileExists says whether path is there at all.
func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
