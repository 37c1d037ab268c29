package pgtest

import (
	"sync"
	"testing"
)

var shared struct {
	sync.Mutex
	server *Server
}

// Shared returns one server for all tests of a package whose TestMain is Main. Nobody
// kills it; a test that wants to starts its own.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := begin(t)
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	return shared.server
}

// Main runs the tests and ends the shared server: os.Exit(pgtest.Main(m)).
func Main(m *testing.M) int {
	defer func() {
		if shared.server != nil {
			shared.server.remove()
		}
	}()
	return m.Run()
}
