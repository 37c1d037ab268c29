package socketio

import (
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// BenchmarkBroadcast sends one event of 300 B to 1000 sockets over loopback TCP and
// waits until all clients have it; burst sends 100 events at a time. The clients
// share the machine: they only count bytes.
func BenchmarkBroadcast(b *testing.B) {
	const sockets = 1000
	for _, c := range []struct {
		name  string
		burst int
	}{{"single", 1}, {"burst100", 100}} {
		b.Run(c.name, func(b *testing.B) {
			s := newServer(Config{})
			web := httptest.NewServer(s)
			defer web.Close()
			defer s.Shutdown("benchmark is over")
			frame := NewEvent("op", []byte(`"`+strings.Repeat("x", 300-len(`42["op",""]`))+`"`))
			var all []*Socket
			var got sync.WaitGroup
			for range sockets {
				conn := dial(b, web.URL).NetConn()
				all = append(all, (<-s.connected).socket)
				go countBytes(conn, c.burst*frame.Len(), &got)
			}
			for b.Loop() {
				got.Add(sockets)
				for _, socket := range all {
					for range c.burst {
						if !socket.Send(frame) {
							b.Fatal("Send = false")
						}
					}
				}
				got.Wait()
			}
			deliveries := float64(b.N * c.burst * sockets)
			b.ReportMetric(deliveries/b.Elapsed().Seconds(), "deliveries/s")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/deliveries, "ns/delivery")
		})
	}
}

// countBytes marks done each time n bytes have come.
func countBytes(conn net.Conn, n int, done *sync.WaitGroup) {
	buf := make([]byte, 64<<10)
	for have := 0; ; {
		m, err := conn.Read(buf)
		if err != nil {
			return
		}
		for have += m; have >= n; have -= n {
			done.Done()
		}
	}
}
