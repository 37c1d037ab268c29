package pgtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartStandby starts a standby of s that s waits for with every commit from now on, and
// which takes no writes until it is promoted.
func (s *Server) StartStandby(t testing.TB) *Server {
	t.Helper()
	const name = "standby"
	// The last of two settings counts: s may have been a standby itself.
	standby, err := newServer(t, append(slices.Clone(s.settings),
		fmt.Sprintf("primary_conninfo=host=127.0.0.1 port=%d user=postgres application_name=%s", s.Port, name))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.remove)
	err = standby.run("pg_basebackup", "-h", "127.0.0.1", "-p", fmt.Sprint(s.Port), "-U", "postgres",
		"-D", standby.data(), "-X", "stream", "-c", "fast", "-R", "--no-sync")
	if err == nil {
		err = standby.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = '"+name+"'")
	s.Exec(t, "SELECT pg_reload_conf()")
	s.await1(t, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'")
	return standby
}

// await1 waits until the query says 1.
func (s *Server) await1(t testing.TB, query string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for n := 0; n != 1; time.Sleep(20 * time.Millisecond) {
		if err := c.QueryRow(ctx, query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}

// Promote makes a standby the primary. The old one must be down, and must stay so: two
// primaries are what failover is there to prevent.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	if err := s.run("pg_ctl", "promote", "-D", s.data(), "-w"); err != nil {
		t.Fatal(err)
	}
}

// URLOf names all servers, for clients that take the one that takes writes. database is the
// URL of NewDatabase.
func URLOf(database string, servers ...*Server) string {
	name := database[strings.LastIndex(database, "/")+1:]
	hosts := make([]string, len(servers))
	for i, s := range servers {
		hosts[i] = fmt.Sprintf("127.0.0.1:%d", s.Port)
	}
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/" + name
}
