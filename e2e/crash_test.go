//go:build e2e

package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tidelock/tidelock/e2e/load"
)

const crashes = 25

var crowd = load.Options{Documents: 3, Writers: 2, InFlight: 4}

// TestKilledUnderLoadLosesNothingSeen kills the server again and again while
// clients write and read, and then compares what every client received with what
// the server still has: no op that anybody saw is missing, changed, repeated or
// moved.
func TestKilledUnderLoadLosesNothingSeen(t *testing.T) {
	random := seeded(t)
	server := newServer(t)
	clients := load.Start(t, server.endpoint, crowd)
	for range crashes {
		clients.Await(t, 5+random.IntN(100), time.Minute)
		server.process.Kill()
		server.start(t, "serve")
	}
	clients.Await(t, 50, time.Minute) // all are connected again and go on
	clients.Stop()
	server.stop(t)
	server.start(t, "serve")
	t.Logf("%d crashes, %d ops compared with every client's copy", crashes, clients.Check(t))
}

// seeded prints its seed and takes it back.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TIDELOCK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TIDELOCK_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
