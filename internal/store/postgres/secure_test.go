package postgres

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// certificate returns a certificate for an address, its own authority, and its key.
func certificate(t *testing.T, ip string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "database"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.ParseIP(ip)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func put(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TLS with a checked certificate and a password that changes, against a server that
// demands both.
func TestTLSAndPassword(t *testing.T) {
	server := pgtest.Start(t)
	database := server.NewDatabase(t)
	server.Exec(t, "CREATE ROLE ada LOGIN PASSWORD 'first' SUPERUSER")
	cert, key := certificate(t, "127.0.0.1")
	other, _ := certificate(t, "127.0.0.2")
	server.Configure(t, []string{"ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key"}, map[string][]byte{
		"server.crt": cert, "server.key": key,
		"pg_hba.conf": []byte("hostssl all ada 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n"),
	})
	urlOf := func(root []byte, mode string) string {
		q := url.Values{"sslmode": {mode}, "sslrootcert": {put(t, root)}}
		return strings.Replace(database, "postgres@", "ada@", 1) + "?" + q.Encode()
	}
	file := put(t, []byte("first\n"))
	o := Options{URL: urlOf(cert, "verify-full"), PasswordFile: file}
	e := openOn(t, o)

	server.Exec(t, "ALTER ROLE ada PASSWORD 'second'")
	if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.pool.Reset() // its connections have ended, as after a failover
	if err := e.pool.Ping(t.Context()); err != nil {
		t.Errorf("after the password changed: %v", err)
	}

	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"OtherAuthority", Options{URL: urlOf(other, "verify-full"), PasswordFile: file}, "certificate"},
		{"WrongPassword", Options{URL: o.URL, PasswordFile: put(t, []byte("third"))}, "password authentication failed"},
		{"NoTLS", Options{URL: urlOf(cert, "disable"), PasswordFile: file}, "no pg_hba.conf entry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			start := time.Now()
			e, err := Open(ctx, c.o)
			if err == nil {
				e.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "third") {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
			if time.Since(start) > 5*time.Second {
				t.Errorf("a refusal was tried again for %s", time.Since(start))
			}
		})
	}
}

// Whoever weakens the database while it is in use is noticed by the next connection.
func TestWeakServerIsRefused(t *testing.T) {
	server := pgtest.Start(t)
	database := server.NewDatabase(t)
	refused := func(o Options, want string) {
		t.Helper()
		e, err := Open(t.Context(), o)
		if err == nil {
			e.Close()
			t.Errorf("opened, want %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
	refused(Options{URL: database, NeedStandby: true}, "synchronous_standby_names is empty")
	server.Exec(t, "ALTER ROLE postgres SET synchronous_commit = off")
	refused(Options{URL: database}, "synchronous_commit is off")
	openOn(t, Options{URL: database, MayLoseWrites: true})
	server.Exec(t, "ALTER ROLE postgres RESET synchronous_commit")
	e := openOn(t, Options{URL: database})
	server.Configure(t, []string{"fsync=off"}, nil)
	if err := e.Writable(t.Context()); err == nil || !strings.Contains(err.Error(), "fsync is off") {
		t.Errorf("writable: %v, want it to say that fsync is off", err)
	}
	refused(Options{URL: database, MayLoseWrites: true}, "fsync is off")
}

// A database that loses its synchronous standby's name under connections that are open takes no more
// writes from them, until there is one again.
func TestStandbyTakenAwayInUse(t *testing.T) {
	primary := pgtest.Start(t)
	database := primary.NewDatabase(t)
	primary.StartStandby(t)
	e := openOn(t, Options{URL: database, NeedStandby: true})
	load := storetest.StartLoad(t, e, loadWriters)
	load.Await(100)
	primary.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = ''")
	primary.Exec(t, "SELECT pg_reload_conf()")
	awaitRefused(t, e, "synchronous_standby_names is empty")
	awaitFailures(t, load, loadWriters)
	primary.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = '*'")
	primary.Exec(t, "SELECT pg_reload_conf()")
	load.Await(100)
	awaitWritable(t, e)
	load.Check(e)
}
