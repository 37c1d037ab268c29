//go:build e2e

package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/tidelock/tidelock/e2e/load"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// TestDatabaseUnderPatroni: the database is a Patroni cluster, as docs/postgresql.md sets it up,
// and the server is told nothing of what becomes of it. An operator's failover, the loss of the
// primary's machine, a primary that dies and comes back, and the loss of both standbys take nothing
// away that a client saw.
func TestDatabaseUnderPatroni(t *testing.T) {
	database := pgtest.StartPatroni(t)
	server := newServer(t, "--store", database.NewDatabase())
	clients := load.Start(t, server.endpoint, crowd)
	clients.Await(t, 50, time.Minute)
	goOn := func(what string) {
		t.Helper()
		began := time.Now()
		clients.Await(t, 50, 2*time.Minute)
		t.Logf("%s: all documents took 50 more ops %s later", what, time.Since(began).Round(100*time.Millisecond))
		database.AwaitStandby()
	}

	database.Failover()
	goOn("an operator's failover")

	lost := database.Leader()
	lost.Kill()
	database.AwaitLeader(lost)
	clients.Await(t, 50, 2*time.Minute) // with the two that are left
	lost.Start()
	goOn("the primary's machine was lost, and is back")

	database.Leader().KillServer()
	goOn("the primary died, and was started again or replaced")

	standbys := database.Standbys()
	for _, m := range standbys {
		m.Kill()
	}
	server.awaitReady(t, http.StatusServiceUnavailable) // nothing is kept once only
	for _, m := range standbys {
		m.Start()
	}
	server.awaitReady(t, http.StatusOK)
	goOn("both standbys were lost, and are back")

	clients.Stop()
	t.Logf("%d ops compared with every client's copy", clients.Check(t))
}

// awaitReady waits until the server's readiness is so.
func (s *server) awaitReady(t *testing.T, want int) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got := 0
		if resp, err := client.Get("http://" + s.relay + "/readyz"); err == nil {
			_ = resp.Body.Close()
			got = resp.StatusCode
		}
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("readiness is %d, want %d", got, want)
		}
	}
}
