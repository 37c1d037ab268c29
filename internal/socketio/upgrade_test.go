package socketio

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// takeOver does what a client does to upgrade, the poll that waits included.
func (p *poller) takeOver(ws *websocket.Conn) {
	p.t.Helper()
	waiting := p.background("GET", "")
	send(p.t, ws, "2probe")
	if got := receive(p.t, ws); got != "3probe" {
		p.t.Errorf("answer to the probe = %s", got)
	}
	wantAnswer(p.t, "the poll that waited", waiting, "200 6")
	send(p.t, ws, "5")
	synctest.Wait()
}

func TestUpgradeKeepsOrderAndHandler(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		ws := p.webSocket()
		waiting := p.background("GET", "")
		send(t, ws, "2probe")
		receive(t, ws)
		wantAnswer(t, "the poll that waited", waiting, "200 6")
		rec.socket.Send(NewEvent("a")) // before the client says 5: for whoever comes first
		send(t, ws, "5")
		switched := time.Now()
		for _, want := range []string{`42["a"]`, `42["b"]`} {
			if got := receive(t, ws); got != want {
				t.Errorf("over the WebSocket: %s, want %s", got, want)
			}
			rec.socket.Send(NewEvent("b"))
		}
		if waited := time.Since(switched); waited > 0 {
			t.Errorf("what was queued came after %v", waited)
		}
		receive(t, ws) // the second "b"
		send(t, ws, `421["c"]`)
		if got := receive(t, ws); got != "431[]" || <-rec.events != "c" {
			t.Errorf("answer to an event = %s, want 431[]", got)
		}
		if status, got := p.do("GET", ""); status != 400 || got != `{"code":1,"message":"Session ID unknown"}` {
			t.Errorf("a poll after the upgrade = %d %s, want 400", status, got)
		}
		rec.socket.Close("token expired")
		if frames, code, text := rest(ws); len(frames) != 1 || frames[0] != "41" || code != 1000 || text != "token expired" {
			t.Errorf("end: %v, %d %q; want 41, 1000 and the reason", frames, code, text)
		}
		wantClosed(t, rec, "token expired")
	})
}

// The connect may come after the upgrade: clients do not wait for one to do the other.
func TestUpgradeBeforeConnect(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		ws := p.webSocket()
		p.takeOver(ws)
		join(t, s, ws)
	})
}

func TestUpgradeKeepsTheDeadlineOfAPong(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		start := time.Now()
		rec := p.join(s)
		time.Sleep(30 * time.Second) // simulated; the ping at 25 s is queued
		ws := p.webSocket()
		send(t, ws, "2probe")
		receive(t, ws)
		send(t, ws, "5")
		if got := receive(t, ws); got != "2" {
			t.Errorf("first over the WebSocket: %s, want the ping", got)
		}
		wantClosed(t, rec, "ping timeout")
		if at := time.Since(start); at != 45*time.Second {
			t.Errorf("ended at %v, want 45 s", at)
		}
	})
}

func TestUpgradePingsGoOn(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		ws := p.webSocket()
		p.takeOver(ws)
		for range 3 {
			if got := receive(t, ws); got != "2" {
				t.Errorf("got %s, want a ping", got)
			}
			send(t, ws, "3")
		}
		ws.Close()
		wantClosed(t, rec, "connection lost")
	})
}

// What fails before the switch leaves the polling as it was.
func TestFailedUpgrades(t *testing.T) {
	cases := []struct {
		name string
		try  func(t *testing.T, ws *websocket.Conn)
	}{
		{"no_probe", func(t *testing.T, ws *websocket.Conn) { send(t, ws, "40") }},
		{"too_large", func(t *testing.T, ws *websocket.Conn) { send(t, ws, "2probe2probe") }},
		{"closed", func(_ *testing.T, ws *websocket.Conn) { ws.Close() }},
		{"no_upgrade", func(t *testing.T, ws *websocket.Conn) {
			send(t, ws, "2probe")
			receive(t, ws)
			send(t, ws, "3")
		}},
		{"silent", func(t *testing.T, ws *websocket.Conn) {
			start := time.Now()
			if rest(ws); time.Since(start) != upgradeWithin {
				t.Errorf("ended after %v, want %v", time.Since(start), upgradeWithin)
			}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
				rec := p.join(s)
				ws := p.webSocket()
				c.try(t, ws)
				rest(ws)
				synctest.Wait()
				rec.socket.Send(NewEvent("still here"))
				p.get(`42["still here"]`)
				p.takeOver(p.webSocket()) // and it may try again
			})
		})
	}
}

func TestOneUpgradeAtATime(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		p.join(s)
		first := p.webSocket()
		d := websocket.Dialer{NetDialContext: p.dial}
		_, resp, err := d.DialContext(t.Context(), "ws://relay/socket.io/?EIO=4&transport=websocket&sid="+p.sid, nil)
		if err == nil || resp == nil || resp.StatusCode != 400 {
			t.Errorf("a second upgrade = %v, %v; want 400", resp, err)
		}
		p.takeOver(first)
	})
}

func TestShutdownEndsAProbe(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		ws := p.webSocket()
		start := time.Now()
		s.Shutdown("going down")
		if at := time.Since(start); at > closeWithin {
			t.Errorf("Shutdown took %v, want %v at most", at, closeWithin)
		}
		rest(ws)
		wantClosed(t, rec, "going down")
	})
}

func TestPostDuringTheSwitchEndsTheSession(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		hold := make(chan struct{})
		s.event = func(string) { <-hold }
		rec := p.join(s)
		ws := p.webSocket()
		send(t, ws, "2probe")
		receive(t, ws)
		posting := p.background("POST", `42["a"]`)
		send(t, ws, "5")
		rest(ws)
		close(hold)
		wantAnswer(t, "the post", posting, "200 ok")
		wantClosed(t, rec, "overlapping requests")
	})
}
