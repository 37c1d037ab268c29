// Package softhsm makes SoftHSM tokens for tests.
package softhsm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Config names a token; its fields are those of pkcs11.Config.
type Config struct{ Module, Label, PINFile string }

// modules are where distributions put the library.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
}

// New makes an empty token that lives as long as the test; without SoftHSM the test is
// skipped.
func New(t *testing.T) Config {
	t.Helper()
	tool, err := exec.LookPath("softhsm2-util")
	if err != nil {
		t.Skip("SoftHSM is not installed (Debian: apt-get install softhsm2): what needs a PKCS#11 token is not tested")
	}
	c := Config{Label: "tidelock-test"}
	for _, path := range modules {
		if _, err := os.Stat(path); err == nil {
			c.Module = path
			break
		}
	}
	if c.Module == "" {
		t.Fatalf("softhsm2-util is installed and its library is in none of %v", modules)
	}
	dir := t.TempDir()
	tokens, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	c.PINFile = filepath.Join(dir, "pin")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(tokens, 0o700))
	must(os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	must(os.WriteFile(c.PINFile, []byte("1234\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.CommandContext(t.Context(), tool, "--init-token", "--free", "--label", c.Label, "--pin", "1234", "--so-pin", "5678").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v: %s", err, out)
	}
	return c
}
