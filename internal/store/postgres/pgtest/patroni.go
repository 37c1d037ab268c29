package pgtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Patroni is three PostgreSQL servers that Patroni keeps: one is the primary, another one its
// synchronous standby, and when the primary is lost the standby takes its place. Who is what is
// agreed on in an etcd.
type Patroni struct {
	t       testing.TB
	dir     string
	members []*Member
}

// Member is one of the servers, with the Patroni beside it.
type Member struct {
	Name string

	p          *Patroni
	dir        string
	port, rest int
	process    *process // of Patroni; nil while it is down
}

// patroniTime is how long anything that Patroni does may take. It acts each second, and gives a
// primary that says nothing up after 20 s.
const patroniTime = 2 * time.Minute

// StartPatroni starts the servers, which end with the test. It skips the test where Patroni is
// not installed.
func StartPatroni(t testing.TB) *Patroni {
	t.Helper()
	if os.Getenv(Variable) == "" {
		t.Skip("needs PostgreSQL's server programs: run 'make postgres'")
	}
	for _, program := range []string{"patroni", "patronictl", "etcd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs Patroni and etcd (Debian: apt-get install patroni etcd-server): %v", err)
		}
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	p := &Patroni{t: t}
	if p.dir, err = os.MkdirTemp("", "tidelock-patroni-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	p.own(p.dir)
	etcd := p.startEtcd()
	for _, name := range []string{"one", "two", "three"} {
		m := &Member{Name: name, p: p, dir: filepath.Join(p.dir, name), port: p.freePort(), rest: p.freePort()}
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		p.own(m.dir)
		m.configure(bin, etcd)
		p.members = append(p.members, m)
		m.Start()
		if name == "one" {
			p.await("a first server", func() bool { return p.leader() != nil })
		}
	}
	p.AwaitStandby()
	return p
}

func (p *Patroni) own(path string) {
	if err := giveAway(path); err != nil {
		p.t.Fatal(err)
	}
}

func (p *Patroni) freePort() int {
	port, err := freePort()
	if err != nil {
		p.t.Fatal(err)
	}
	return port
}

func (p *Patroni) end() {
	for _, m := range p.members {
		m.Kill()
	}
	_ = os.RemoveAll(p.dir) // what is left lies in the temporary directory
}

// spawn starts a program that writes a log.
func (p *Patroni) spawn(dir, program string, args ...string) *process {
	path, err := exec.LookPath(program)
	if err != nil {
		p.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	c := command(dir, path, args...)
	c.Stdout, c.Stderr = log, log
	started, err := spawn(c)
	if err != nil {
		p.t.Fatal(err)
	}
	return started
}

// startEtcd returns the address of an etcd that ends with the test.
func (p *Patroni) startEtcd() string {
	dir := filepath.Join(p.dir, "etcd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	p.own(dir)
	clients, peers := fmt.Sprintf("127.0.0.1:%d", p.freePort()), fmt.Sprintf("http://127.0.0.1:%d", p.freePort())
	process := p.spawn(dir, "etcd", "--data-dir", filepath.Join(dir, "data"), "--name", "etcd",
		"--listen-client-urls", "http://"+clients, "--advertise-client-urls", "http://"+clients,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "etcd="+peers)
	p.t.Cleanup(process.kill)
	p.await("etcd", func() bool {
		status, _ := get("http://" + clients + "/health")
		return status == http.StatusOK
	})
	return clients
}

// configure writes Patroni's configuration, as docs/postgresql.md has it but for its times.
func (m *Member) configure(bin, etcd string) {
	config := map[string]any{
		"scope": "tidelock", "name": m.Name,
		"restapi": map[string]any{"listen": m.at(m.rest), "connect_address": m.at(m.rest)},
		"etcd3":   map[string]any{"host": etcd},
		"bootstrap": map[string]any{
			"dcs": map[string]any{
				"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "synchronous_mode": true,
				"postgresql": map[string]any{"use_pg_rewind": true},
			},
			"initdb": []any{map[string]any{"auth": "trust"}, map[string]any{"encoding": "UTF8"}, map[string]any{"locale": "C"}, "no-sync"},
			"pg_hba": []string{"local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"},
		},
		"postgresql": map[string]any{
			"listen": m.at(m.port), "connect_address": m.at(m.port), "data_dir": m.data(), "bin_dir": bin, "pgpass": filepath.Join(m.dir, "pgpass"),
			"authentication": map[string]any{"superuser": map[string]any{"username": "postgres"}, "replication": map[string]any{"username": "postgres"}},
			"parameters":     map[string]any{"unix_socket_directories": m.dir, "shared_buffers": "32MB"},
			"basebackup":     []any{map[string]any{"checkpoint": "fast"}, "no-sync"},
		},
	}
	raw, err := json.Marshal(config) // which is YAML, too
	if err == nil {
		err = os.WriteFile(m.config(), raw, 0o600)
	}
	if err != nil {
		m.p.t.Fatal(err)
	}
	m.p.own(m.config())
}

func (m *Member) at(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
func (m *Member) data() string       { return filepath.Join(m.dir, "data") }
func (m *Member) config() string     { return filepath.Join(m.dir, "patroni.yml") }

// Start starts a member that was killed.
func (m *Member) Start() { m.process = m.p.spawn(m.dir, "patroni", m.config()) }

// Kill ends a member at once, as the loss of its machine does.
func (m *Member) Kill() {
	if m.process != nil {
		m.process.kill()
		m.process = nil
	}
	m.KillServer()
}

// KillServer ends a member's PostgreSQL at once, and leaves its Patroni.
func (m *Member) KillServer() {
	raw, err := os.ReadFile(filepath.Join(m.data(), "postmaster.pid"))
	if err != nil {
		return // it does not run
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	if pid, err := strconv.Atoi(first); err == nil && pid > 1 && serves(pid, m.data()) {
		killTree(pid)
	}
}

// serves says whether a process is a PostgreSQL of a data directory: the file that names it may be
// of one that was killed.
func serves(pid int, data string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(raw, []byte(data))
}

// await waits until ok.
func (p *Patroni) await(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patroniTime); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			logs := ""
			for _, m := range p.members {
				said, _ := os.ReadFile(filepath.Join(m.dir, "log"))
				logs += fmt.Sprintf("\n%s:\n%s", m.Name, said[max(0, len(said)-4096):])
			}
			p.t.Fatalf("Patroni: no %s within %s%s", what, patroniTime, logs)
		}
	}
}

func get(url string) (status int, body []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil // not there yet, or not any more
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	_, _ = out.ReadFrom(resp.Body) // what is cut off does not decode
	return resp.StatusCode, out.Bytes()
}

// leader returns the primary; nil if there is none.
func (p *Patroni) leader() *Member {
	for _, m := range p.members {
		if status, _ := get("http://" + m.at(m.rest) + "/primary"); m.process != nil && status == http.StatusOK {
			return m
		}
	}
	return nil
}

// Standbys returns all members but the primary.
func (p *Patroni) Standbys() []*Member {
	p.t.Helper()
	leader := p.Leader()
	return slices.DeleteFunc(slices.Clone(p.members), func(m *Member) bool { return m == leader })
}

// Leader waits for a primary.
func (p *Patroni) Leader() (m *Member) {
	p.t.Helper()
	p.await("primary", func() bool {
		m = p.leader()
		return m != nil
	})
	return m
}

// AwaitLeader waits until the primary is another one than before.
func (p *Patroni) AwaitLeader(before *Member) (m *Member) {
	p.t.Helper()
	p.await("primary other than "+before.Name, func() bool {
		m = p.leader()
		return m != nil && m != before
	})
	return m
}

// AwaitStandby waits until all members are there and one of them is the synchronous standby.
func (p *Patroni) AwaitStandby() {
	p.t.Helper()
	p.await("three servers of which one is the synchronous standby", func() bool {
		m := p.leader()
		if m == nil {
			return false
		}
		var found struct {
			Members []struct{ Role, State string }
		}
		_, raw := get("http://" + m.at(m.rest) + "/cluster")
		if json.Unmarshal(raw, &found) != nil || len(found.Members) != len(p.members) {
			return false
		}
		standbys, running := 0, 0
		for _, one := range found.Members {
			if one.Role == "sync_standby" {
				standbys++
			}
			if one.State == "running" || one.State == "streaming" {
				running++
			}
		}
		return standbys == 1 && running == len(p.members)
	})
}

// Failover has the synchronous standby take the primary's place, as an operator does.
func (p *Patroni) Failover() {
	p.t.Helper()
	before := p.Leader()
	path, err := exec.LookPath("patronictl")
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := command(before.dir, path, "-c", before.config(), "failover", "--candidate", p.standby().Name, "--force", "tidelock").CombinedOutput()
	if err != nil {
		p.t.Fatalf("patronictl failover: %v\n%s", err, out)
	}
	p.AwaitLeader(before)
}

// standby waits for the synchronous standby.
func (p *Patroni) standby() (m *Member) {
	p.t.Helper()
	p.await("synchronous standby", func() bool {
		for _, m = range p.members {
			if status, _ := get("http://" + m.at(m.rest) + "/synchronous"); status == http.StatusOK {
				return true
			}
		}
		return false
	})
	return m
}

// NewDatabase makes an empty database and returns its URL, which names all servers.
func (p *Patroni) NewDatabase() string {
	p.t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, "postgres://postgres@"+p.Leader().at(p.Leader().port)+"/postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, "CREATE DATABASE tidelock"); err != nil {
		p.t.Fatal(err)
	}
	var hosts []string
	for _, m := range p.members {
		hosts = append(hosts, m.at(m.port))
	}
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/tidelock?target_session_attrs=read-write"
}
