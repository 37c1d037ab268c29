//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/tidelock/tidelock/e2e/load"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// TestDatabaseKilledUnderLoadLosesNothingSeen is the crash history of a server whose data
// is in PostgreSQL: the server is killed, the database, or both.
func TestDatabaseKilledUnderLoadLosesNothingSeen(t *testing.T) {
	database := pgtest.Start(t)
	random := seeded(t)
	server := newServer(t, "--store", database.NewDatabase(t), "--store-without-standby", "--blobs", "dir:"+t.TempDir())
	clients := load.Start(t, server.endpoint, crowd)
	for range 12 {
		clients.Await(t, 5+random.IntN(50), time.Minute)
		victims := 1 + random.IntN(3) // one bit for each
		if victims&1 != 0 {
			server.process.Kill()
		}
		if victims&2 != 0 {
			database.Kill()
			if err := database.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if victims&1 != 0 {
			server.start(t, "serve")
		}
	}
	clients.Await(t, 50, time.Minute) // all are connected again and go on
	clients.Stop()
	server.stop(t)
	server.start(t, "serve")
	clients.Check(t)
}

// TestDatabaseFailsOverUnderLoad: the database's primary is lost, its standby takes over,
// and nothing that a client saw is gone.
func TestDatabaseFailsOverUnderLoad(t *testing.T) {
	primary := pgtest.Start(t)
	standby := primary.StartStandby(t)
	url := pgtest.URLOf(primary.NewDatabase(t), primary, standby)
	server := newServer(t, "--store", url)
	clients := load.Start(t, server.endpoint, crowd)
	clients.Await(t, 100, time.Minute)
	primary.Kill()
	standby.Promote(t)
	// The new primary has no standby, and is refused until it is said that this is meant.
	server.process.Kill()
	server.flags = append(server.flags, "--store-without-standby")
	server.start(t, "serve")
	clients.Await(t, 100, time.Minute)
	clients.Stop()
	clients.Check(t)
}
