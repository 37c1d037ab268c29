package app

import (
	"crypto/fips140"
	"crypto/rand"
	"fmt"
	"os"
	"sync"
	"testing"
)

// In FIPS mode generators of random numbers are seeded by the clock's jitter, of which the
// bubbles of package synctest have none: so enough of them are made before. The garbage
// collector would take them away: 'make fips' runs without.
func TestMain(m *testing.M) {
	if raw := os.Getenv(memberEnv); raw != "" { // a node of a fleet, to be killed
		fmt.Fprintln(os.Stderr, "node:", runMember(raw))
		os.Exit(1)
	}
	if fips140.Enabled() {
		var all sync.WaitGroup
		for range 12 { // long enough reads that all of them are under way at once
			all.Go(func() { rand.Read(make([]byte, 24<<20)) })
		}
		all.Wait()
	}
	os.Exit(m.Run())
}
