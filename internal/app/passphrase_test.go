package app_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
)

// The service key may lie sealed by a passphrase: a plain one is sealed when that is asked
// for, and then the passphrase opens the data, and nothing else does.
func TestServiceKeyByPassphrase(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	phrase := filepath.Join(dir, "phrase")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(c app.Config) error {
		t.Helper()
		c.DataDir, c.RelayAddr, c.ManagementAddr = data, "127.0.0.1:0", "127.0.0.1:0"
		server, err := app.Open(t.Context(), c)
		if err == nil {
			server.Close()
		}
		return err
	}
	refused := func(what, want string, c app.Config) {
		t.Helper()
		if err := open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", what, err, want)
		}
	}
	if err := open(app.Config{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(data+".keys", "service.key")
	plain, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(phrase, "short\n")
	refused("a short passphrase", "at least 12 bytes", app.Config{PassphraseFile: phrase})
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, plain) {
		t.Fatalf("a refused passphrase changed the key: %v", err)
	}
	write(phrase, "correct horse battery staple\n")
	for range 2 {
		if err := open(app.Config{PassphraseFile: phrase}); err != nil {
			t.Fatal(err)
		}
	}
	sealed, err := os.ReadFile(file)
	if err != nil || bytes.Contains(sealed, plain[:16]) {
		t.Errorf("the sealed key holds the plain one, %v", err)
	}
	refused("without the passphrase", "is sealed by a passphrase", app.Config{})
	refused("both ways", "give one of them", app.Config{PassphraseFile: phrase, SealServiceKey: true})
	write(phrase, "wrong horse battery staple\n")
	refused("another passphrase", "is not the one it is sealed by", app.Config{PassphraseFile: phrase})
	write(phrase, "correct horse battery staple\n")
	if err := os.Chmod(phrase, 0o644); err != nil {
		t.Fatal(err)
	}
	refused("a passphrase that all can read", "chmod 600", app.Config{PassphraseFile: phrase})
	if err := os.Chmod(phrase, 0o600); err != nil {
		t.Fatal(err)
	}
	write(file, string(sealed[:60]))
	refused("cut off", "is cut off", app.Config{PassphraseFile: phrase})
	sealed[len(sealed)-1] ^= 1
	write(file, string(sealed))
	refused("damaged", "does not open", app.Config{PassphraseFile: phrase})
}
