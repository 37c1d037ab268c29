//go:build azcli

package azcli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// rig is a server process, and the proxy beside it.
type rig struct {
	t       *testing.T
	binary  string
	data    string
	url     string   // of the management plane
	proxy   []string // variables that lead a client through it
	serving []string // the server's command line
	stop    func()   // ends it
	profile struct {
		DirectoryID, SubscriptionID, ClientID, ClientSecret, ObjectID, CAFile, VaultSuffix string
	}
}

func newRig(t *testing.T, flags ...string) *rig {
	t.Helper()
	r := &rig{t: t, binary: os.Getenv("TIDELOCK_BIN"), data: filepath.Join(t.TempDir(), "data")}
	if r.binary == "" {
		t.Fatal("TIDELOCK_BIN is not set: run 'make azcli'")
	}
	management := free(t)
	r.url = "https://" + management
	r.serving = append([]string{"quickstart", "--relay", free(t), "--management", management}, flags...)
	_, r.stop = r.start("is serving", r.serving...)
	raw, err := os.ReadFile(r.data + ".keys/admin.json")
	r.must(err)
	r.must(json.Unmarshal(raw, &r.profile))
	line, _ := r.start("NODE_EXTRA_CA_CERTS", "proxy", "--listen", free(t))
	r.proxy = append(strings.Fields(line[0])[1:], strings.Fields(line[1])[1:]...)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// restart stops the server and starts it with more flags.
func (r *rig) restart(flags ...string) {
	r.t.Helper()
	r.stop()
	_, r.stop = r.start("is serving", append(r.serving, flags...)...)
}

// start runs a command of the binary until it is stopped or the test ends, and returns
// what it printed until it was ready.
func (r *rig) start(ready string, args ...string) (printed []string, stop func()) {
	r.t.Helper()
	c := exec.Command(r.binary, append(args, "--data", r.data)...)
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	r.must(err)
	r.must(c.Start())
	stop = sync.OnceFunc(func() {
		_ = c.Process.Signal(os.Interrupt) // it may have ended by itself: Wait says so
		if err := c.Wait(); err != nil || r.t.Failed() {
			r.t.Logf("tidelock %s: %v\n%s", args[0], err, &log)
		}
	})
	r.t.Cleanup(stop)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		printed = append(printed, lines.Text())
		if strings.Contains(lines.Text(), ready) {
			go func() {
				for lines.Scan() { // the rest, so that the process never waits for us
				}
			}()
			return printed, stop
		}
	}
	r.t.Fatalf("tidelock %s ended before it was ready: %s", args[0], &log)
	return nil, nil
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
