//go:build azcli

package azcli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/e2e/process"
)

// rig is a server process, and the proxy beside it.
type rig struct {
	t       *testing.T
	url     string   // of the management plane
	proxy   []string // variables that lead a client through it
	flags   []string // of the server
	server  *process.Process
	profile struct {
		DirectoryID, SubscriptionID, ClientID, ClientSecret, ObjectID, CAFile, VaultSuffix string
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	data, management := filepath.Join(t.TempDir(), "data"), process.FreeAddress(t)
	r := &rig{t: t, url: "https://" + management, flags: []string{"--data", data, "--relay", process.FreeAddress(t), "--management", management}}
	r.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.server.Log())
		}
	})
	raw, err := os.ReadFile(data + ".keys/admin.json")
	r.must(err)
	r.must(json.Unmarshal(raw, &r.profile))
	proxy := process.Start(t, "proxy", "--data", data, "--listen", process.FreeAddress(t))
	for _, line := range proxy.Printed {
		if variables, ok := strings.CutPrefix(line, "export "); ok {
			r.proxy = append(r.proxy, strings.Fields(variables)...)
		}
	}
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// start serves with more flags than the rig's own.
func (r *rig) start(more ...string) {
	r.t.Helper()
	r.server = process.Start(r.t, slices.Concat([]string{"quickstart"}, r.flags, more)...)
}

// roots is the system's certificates and the server's own authority.
func (r *rig) roots() string {
	r.t.Helper()
	system, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	r.must(err)
	own, err := os.ReadFile(r.profile.CAFile)
	r.must(err)
	path := filepath.Join(r.t.TempDir(), "roots.pem")
	r.must(os.WriteFile(path, append(system, own...), 0o600))
	return path
}

// client is one user's shell: a configuration directory and variables of its own.
type client struct {
	*rig
	environment []string
}

func (r *rig) client(variables ...string) client {
	r.t.Helper()
	home := r.t.TempDir()
	return client{r, append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AZURE_CONFIG_DIR=" + home, "LC_ALL=C.UTF-8",
		"AZURE_CORE_COLLECT_TELEMETRY=false", "AZURE_CORE_ONLY_SHOW_ERRORS=true", "AZURE_CORE_NO_COLOR=true",
	}, variables...)}
}

func (c client) run(name string, args ...string) (stdout, stderr string, err error) {
	command := exec.Command(name, args...)
	command.Env = c.environment
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err = command.Run()
	return out.String(), errOut.String(), err
}

// az runs a command that must succeed.
func (c client) az(args ...string) string {
	c.t.Helper()
	out, stderr, err := c.run("az", args...)
	if err != nil {
		c.t.Fatalf("az %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	return strings.TrimSpace(out)
}

// value is what a query finds.
func (c client) value(query string, args ...string) string {
	c.t.Helper()
	return c.az(append(args, "--query", query, "--output", "tsv")...)
}

// wants compares what a query finds.
func (c client) wants(want, query string, args ...string) {
	c.t.Helper()
	if got := c.value(query, args...); got != want {
		c.t.Errorf("az %s: %s is %q, want %q", strings.Join(args, " "), query, got, want)
	}
}

// refused runs a command that must fail, and say why.
func (c client) refused(want string, args ...string) {
	c.t.Helper()
	out, stderr, err := c.run("az", args...)
	if err == nil || !strings.Contains(stderr, want) {
		c.t.Errorf("az %s: %v\n%s%s\nwant a failure with %q", strings.Join(args, " "), err, out, stderr, want)
	}
}

// file puts content where an argument can name it.
func (c client) file(name, content string) string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), name)
	c.must(os.WriteFile(path, []byte(content), 0o600))
	return path
}
