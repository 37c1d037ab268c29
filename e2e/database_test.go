//go:build e2e

package e2e

import (
	"testing"

	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// TestDatabaseKilledUnderLoadLosesNothingSeen is the crash history of a server whose data
// is in PostgreSQL: the server is killed, the database, or both.
func TestDatabaseKilledUnderLoadLosesNothingSeen(t *testing.T) {
	database := pgtest.Start(t)
	random := seeded(t)
	server := newServer(t, "--store", database.NewDatabase(t), "--store-without-standby", "--blobs", "dir:"+t.TempDir())
	load := startLoad(t, server.endpoint)
	for range 12 {
		load.await(t, 50+random.IntN(500))
		victims := 1 + random.IntN(3) // one bit for each
		if victims&1 != 0 {
			server.kill(t)
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
	load.await(t, 500) // all are connected again and go on
	load.stop()
	server.stop(t)
	server.start(t, "serve")
	load.check(t)
}

// TestDatabaseFailsOverUnderLoad: the database's primary is lost, its standby takes over,
// and nothing that a client saw is gone.
func TestDatabaseFailsOverUnderLoad(t *testing.T) {
	primary := pgtest.Start(t)
	standby := primary.StartStandby(t)
	url := pgtest.URLOf(primary.NewDatabase(t), primary, standby)
	server := newServer(t, "--store", url)
	load := startLoad(t, server.endpoint)
	load.await(t, 1000)
	primary.Kill()
	standby.Promote(t)
	// The new primary has no standby, and is refused until it is said that this is meant.
	server.kill(t)
	server.flags = append(server.flags, "--store-without-standby")
	server.start(t, "serve")
	load.await(t, 1000)
	load.stop()
	load.check(t)
}
