package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable is set where servers may be started.
const Variable = "TIDELOCK_POSTGRES"

// Server is one PostgreSQL server. Its role "postgres" needs no password.
type Server struct {
	Port int

	bin, dir string // dir holds the data, the log and the socket
	settings []string

	mu      sync.Mutex // guards the rest
	process *process   // nil while it is down
}

// Start starts a server that ends with the test. settings are of postgresql.conf, as
// name=value.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := begin(t, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	return s
}

func begin(t testing.TB, settings ...string) (*Server, error) {
	t.Helper()
	s, err := newServer(t, settings...)
	if err != nil {
		return nil, err
	}
	if err := s.run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D", s.data()); err != nil {
		s.remove()
		return nil, err
	}
	if err := s.Start(); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func newServer(t testing.TB, settings ...string) (*Server, error) {
	t.Helper()
	if os.Getenv(Variable) == "" {
		t.Skipf("needs PostgreSQL's server programs: run 'make postgres'")
	}
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	// Not the test's own directory: the server's user cannot enter that.
	dir, err := os.MkdirTemp("", "tidelock-postgres-")
	if err != nil {
		return nil, err
	}
	if err := giveAway(dir); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return &Server{Port: port, bin: bin, dir: dir, settings: settings}, nil
}

// programs is the directory of the newest server programs.
func programs() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		path, err = filepath.EvalSymlinks(path) // the others are beside it
		return filepath.Dir(path), err
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("no initdb in PATH or /usr/lib/postgresql: install PostgreSQL's server (Debian: apt-get install postgresql)")
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(found[len(found)-1]), nil
}

func version(initdb string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb)))) // 0 sorts first
	return n
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// command is one of PostgreSQL's programs.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	return command(s.dir, filepath.Join(s.bin, program), args...)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// run runs one of PostgreSQL's programs to its end.
func (s *Server) run(program string, args ...string) error {
	c := s.command(program, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out.Bytes())
	}
	return nil
}

// Start starts a server that was stopped or killed.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return errors.New("the server runs")
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.Port), "-k", s.dir, "-c", "listen_addresses=127.0.0.1",
		"-c", "shared_buffers=32MB", "-c", "max_connections=200", "-c", "wal_level=replica", "-c", "max_wal_size=256MB"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	// What a killed server left may hold its memory for a moment.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c := s.command("postgres", args...)
		c.Stdout, c.Stderr = log, log
		p, err := spawn(c)
		if err != nil {
			return err
		}
		if err = s.await(p); err == nil {
			s.process = p
			return nil
		}
		p.kill()
		if time.Now().After(end) {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("PostgreSQL does not start: %w\n%s", err, said[max(0, len(said)-4096):])
		}
	}
}

// await waits until the server answers or its process ends.
func (s *Server) await(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-p.ended:
			return p.err
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the server and all its processes at once, as kill -9 does.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.kill()
		s.process = nil
	}
}

// Stop ends the server in order and cuts its clients off.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	err := s.run("pg_ctl", "stop", "-D", s.data(), "-m", "fast", "-w")
	<-s.process.ended
	s.process = nil
	return err
}

// Configure stops the server, adds settings, writes files into its data directory and
// starts it again.
func (s *Server) Configure(t testing.TB, settings []string, files map[string][]byte) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(s.data(), name)
		err := os.WriteFile(path, content, 0o600)
		if err == nil {
			err = giveAway(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.settings = append(s.settings, settings...)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) remove() {
	s.Kill()
	_ = os.RemoveAll(s.dir) // what is left lies in the temporary directory
}

// URL of a database.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s", s.Port, database)
}

// NewDatabase makes an empty database and returns its URL.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	var b [8]byte
	rand.Read(b[:])
	name := "t" + hex.EncodeToString(b[:])
	s.Exec(t, "CREATE DATABASE "+name)
	return s.URL(name)
}

// Exec runs a statement in the database postgres.
func (s *Server) Exec(t testing.TB, sql string) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
