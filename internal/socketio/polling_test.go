package socketio

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// poller is a client that polls, over in-memory connections.
type poller struct {
	t    *testing.T
	dial func(context.Context, string, string) (net.Conn, error)
	web  *http.Client
	base string
	sid  string
}

// pipes is a listener of in-memory connections.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// polls runs a test with simulated time and one client that has opened a session by
// polling. The test ends with a shutdown, after which nothing may be left running.
func polls(t *testing.T, c Config, test func(t *testing.T, s *server, p *poller)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(c)
		listener := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		httpServer := &http.Server{Handler: s}
		go func() { _ = httpServer.Serve(listener) }()
		p := &poller{t: t, base: "http://relay", dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case listener.conns <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		transport := &http.Transport{DialContext: p.dial}
		p.web = &http.Client{Transport: transport}
		p.open()
		test(t, s, p)
		s.Shutdown("test is over")
		transport.CloseIdleConnections()
		_ = httpServer.Close()
		if len(s.polling)+len(s.sockets) > 0 {
			t.Errorf("%d sessions and %d sockets are left", len(s.polling), len(s.sockets))
		}
	})
}

func (p *poller) open() {
	p.t.Helper()
	status, body := p.do("GET", "")
	if status != 200 || !strings.HasPrefix(body, `0{"sid":"`) || !strings.Contains(body, `"upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":`) {
		p.t.Fatalf("open = %d %s", status, body)
	}
	p.sid = strings.Split(body, `"`)[3]
}

func (p *poller) url() string {
	u := p.base + "/socket.io/?EIO=4&transport=polling"
	if p.sid != "" {
		u += "&sid=" + p.sid
	}
	return u
}

// do makes a request; status 0 is a broken connection.
func (p *poller) do(method, body string, headers ...string) (status int, answer string) {
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url(), strings.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return 0, ""
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := p.web.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

func (p *poller) get(want ...string) {
	p.t.Helper()
	if status, got := p.do("GET", ""); status != 200 || got != strings.Join(want, "\x1e") {
		p.t.Errorf("poll = %d %.200q, want %q", status, got, want)
	}
}

func (p *poller) post(packets ...string) {
	p.t.Helper()
	if status, got := p.do("POST", strings.Join(packets, "\x1e")); status != 200 || got != "ok" {
		p.t.Errorf("post = %d %s, want ok", status, got)
	}
}

// join connects the namespace.
func (p *poller) join(s *server) *recorder {
	p.t.Helper()
	p.post("40")
	rec := <-s.connected
	p.get(`40{"sid":"` + rec.socket.ID() + `"}`)
	return rec
}

// background runs a request; its answer comes out of the channel as "status body".
func (p *poller) background(method, body string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		status, got := p.do(method, body)
		answer <- fmt.Sprintf("%d %s", status, got)
	}()
	synctest.Wait()
	return answer
}

func wantAnswer(t *testing.T, what string, answer <-chan string, want string) {
	t.Helper()
	if got := <-answer; got != want {
		t.Errorf("%s = %q, want %q", what, got, want)
	}
}

func wantClosed(t *testing.T, rec *recorder, want string) {
	t.Helper()
	if got := <-rec.closed; got != want {
		t.Errorf("Closed(%q), want %q", got, want)
	}
}

const refused = `{"code":3,"message":"Bad request"}`

func TestPollingCarriesEventsBothWays(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		p.post(`42["a",{"x":"\u001e é"}]`, `427["b"]`)
		if got := []string{<-rec.events, <-rec.events}; !slices.Equal(got, []string{`a {"x":"\u001e é"}`, "b"}) {
			t.Errorf("events = %v", got)
		}
		long := `"` + strings.Repeat("x", 3*writeChunk) + `"`
		rec.socket.Send(NewEvent("c"), NewEvent("d", []byte(long)))
		rec.socket.Send(NewEvent("e", []byte(`"`+strings.Repeat("y", 200)+`"`)))
		p.get("437[]", `42["c"]`, `42["d",`+long+`]`, `42["e","`+strings.Repeat("y", 200)+`"]`)

		waiting := p.background("GET", "")
		rec.socket.Send(NewEvent("f"))
		wantAnswer(t, "the poll that waited", waiting, `200 42["f"]`)
	})
}

func TestPollingPings(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		start := time.Now()
		rec := p.join(s)
		for i := range 3 {
			p.get("2")
			if at := time.Since(start); at != time.Duration(i+1)*25*time.Second {
				t.Errorf("ping at %v, want one every 25 s", at)
			}
			time.Sleep(19 * time.Second) // simulated
			p.post("3")
		}
		p.get("2") // this one gets no pong
		p.get("1")
		wantClosed(t, rec, "ping timeout")
		if at := time.Since(start); at != 4*25*time.Second+20*time.Second {
			t.Errorf("ended at %v, want 120 s", at)
		}
		synctest.Wait()
		if status, got := p.do("GET", ""); status != 400 || got != `{"code":1,"message":"Session ID unknown"}` {
			t.Errorf("poll of an ended session = %d %s", status, got)
		}
	})
}

func TestWhoNeverPollsIsGivenUp(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		start := time.Now()
		rec := p.join(s)
		wantClosed(t, rec, "ping timeout")
		if at := time.Since(start); at != 45*time.Second {
			t.Errorf("ended at %v, want 45 s", at)
		}
	})
}

func TestPollingMustConnectTheNamespaceInTime(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		start := time.Now()
		p.get("1")
		if at := time.Since(start); at != 25*time.Second {
			t.Errorf("ended at %v, want 25 s", at)
		}
	})
}

func TestSlowPollerOverflows(t *testing.T) {
	frame := NewEvent("op", []byte(`"0123456789"`))
	polls(t, Config{QueueBytes: 10 * frame.Len()}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		for range 10 {
			rec.socket.Send(frame)
		}
		if rec.socket.Send(frame) {
			t.Error("Send beyond the bound = true, want false")
		}
		wantClosed(t, rec, "outbound queue overflow")
	})
}

// A client that sends its poll and does not read the answer: what is on its way still
// counts.
func TestPollerThatDoesNotReadOverflows(t *testing.T) {
	frame := NewEvent("op", []byte(`"`+strings.Repeat("x", writeChunk)+`"`))
	polls(t, Config{QueueBytes: 3 * frame.Len()}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		conn, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: relay\r\n\r\n", strings.TrimPrefix(p.url(), "http://relay"))
		start := time.Now()
		for range 3 {
			rec.socket.Send(frame)
			synctest.Wait()
		}
		if rec.socket.Send(frame) {
			t.Error("Send beyond the bound = true, want false")
		}
		wantClosed(t, rec, "outbound queue overflow")
		if time.Since(start) != 0 {
			t.Errorf("ended after %v, want at once", time.Since(start))
		}
	})
}

func TestPollThatIsNotReadTimesOut(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		conn, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: relay\r\n\r\n", strings.TrimPrefix(p.url(), "http://relay"))
		synctest.Wait()
		start := time.Now()
		rec.socket.Send(NewEvent("never read"))
		wantClosed(t, rec, "write timeout")
		if at := time.Since(start); at != 20*time.Second {
			t.Errorf("ended after %v, want 20 s", at)
		}
	})
}

func TestLostPollEndsTheSession(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		conn, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: relay\r\n\r\n", strings.TrimPrefix(p.url(), "http://relay"))
		synctest.Wait()
		conn.Close()
		wantClosed(t, rec, "connection lost")
	})
}

func TestOverlappingRequestsEndTheSession(t *testing.T) {
	t.Run("GET", func(t *testing.T) {
		polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
			rec := p.join(s)
			first := p.background("GET", "")
			wantAnswer(t, "the second poll", p.background("GET", ""), "400 "+refused)
			wantAnswer(t, "the first poll", first, "200 1")
			wantClosed(t, rec, "overlapping requests")
		})
	})
	t.Run("POST", func(t *testing.T) {
		polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
			hold := make(chan struct{})
			s.event = func(string) { <-hold }
			rec := p.join(s)
			first := p.background("POST", `42["a"]`+"\x1e"+`42["never"]`)
			wantAnswer(t, "the second post", p.background("POST", `42["b"]`), "400 "+refused)
			if len(rec.closed) > 0 {
				t.Error("Closed while an event is handled")
			}
			close(hold)
			wantAnswer(t, "the first post", first, "200 ok")
			wantClosed(t, rec, "overlapping requests")
			if got := <-rec.events; got != "a" || len(rec.events) > 0 {
				t.Errorf("events = %s and %d more, want a alone", got, len(rec.events))
			}
		})
	})
}

func TestMalformedPayloadsCloseTheSession(t *testing.T) {
	cases := []struct {
		name, body string
		headers    []string
		status     int
		reason     string
	}{
		{"empty", "", nil, 400, "empty frame"},
		{"empty_packet", "3\x1e\x1e3", nil, 400, "empty frame"},
		{"trailing_separator", "3\x1e", nil, 400, "empty frame"},
		{"not_utf8", "42[\"a\",\"\xff\"]", nil, 400, "text is not UTF-8"},
		{"base64_binary", "bAAAA", nil, 400, "binary data is not supported"},
		{"octets", "3", []string{"Content-Type", "application/octet-stream"}, 400, "binary data is not supported"},
		{"raw_separator_in_string", "42[\"a\x1eb\"]", nil, 400, "event is not JSON"},
		{"compressed", "\x1f\x8b", []string{"Content-Encoding", "gzip"}, 415, errEncoded.Error()},
		{"too_large", strings.Repeat("3", 1001), nil, 413, "payload is too large"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			polls(t, Config{MaxPayload: 1000}, func(t *testing.T, s *server, p *poller) {
				rec := p.join(s)
				waiting := p.background("GET", "")
				status, got := p.do("POST", c.body, c.headers...)
				if want := fmt.Sprintf(`{"code":3,"message":%q}`, c.reason); status != c.status || got != want {
					t.Errorf("answer = %d %s, want %d %s", status, got, c.status, want)
				}
				wantAnswer(t, "the poll", waiting, "200 41\x1e1")
				wantClosed(t, rec, c.reason)
			})
		})
	}
}

func TestPayloadOfUnknownLengthIsBounded(t *testing.T) {
	polls(t, Config{MaxPayload: 1000}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		req, err := http.NewRequestWithContext(t.Context(), "POST", p.url(), io.MultiReader(strings.NewReader(strings.Repeat("3", 1001))))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("status %d, want 413", resp.StatusCode)
		}
		wantClosed(t, rec, "payload is too large")
	})
}

// A body that never ends holds a session for as long as a pong may be out.
func TestStuckPostIsGivenUp(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		body, stuck := io.Pipe()
		defer stuck.Close()
		req, err := http.NewRequestWithContext(t.Context(), "POST", p.url(), body)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if resp, err := p.web.Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		start := time.Now()
		wantClosed(t, rec, "ping timeout")
		if at := time.Since(start); at != 45*time.Second {
			t.Errorf("ended at %v, want 45 s", at)
		}
	})
}

func TestPollingClientMayLeave(t *testing.T) {
	for _, goodbye := range []string{"41", "1", "41\x1e1"} {
		t.Run(fmt.Sprintf("%q", goodbye), func(t *testing.T) {
			polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
				rec := p.join(s)
				waiting := p.background("GET", "")
				p.post(goodbye)
				if got := <-waiting; !strings.HasSuffix(got, "1") {
					t.Errorf("the poll = %q, want the end", got)
				}
				wantClosed(t, rec, "disconnected by the client")
			})
		})
	}
}

func TestCloseOfAPollingSocketSendsWhatIsQueued(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
			rec := p.join(s)
			rec.socket.Send(NewEvent("a"))
			rec.socket.Close("token expired")
			p.get(`42["a"]`, "41", "1")
			wantClosed(t, rec, "token expired")
		})
	})
	t.Run("nobody_polls", func(t *testing.T) {
		polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
			rec := p.join(s)
			start := time.Now()
			rec.socket.Close("moved")
			if got := <-rec.closed; got != "moved" || time.Since(start) != closeWithin {
				t.Errorf("Closed(%q) after %v, want moved after %v", got, time.Since(start), closeWithin)
			}
		})
	})
}

func TestShutdownEndsPolls(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		waiting := p.background("GET", "")
		s.Shutdown("going down")
		if len(rec.closed) != 1 {
			t.Error("Shutdown returned before the handler's Closed")
		}
		wantAnswer(t, "the poll", waiting, "200 41\x1e1")
		p.sid = ""
		if status, _ := p.do("GET", ""); status != http.StatusServiceUnavailable {
			t.Errorf("open after Shutdown = %d, want 503", status)
		}
	})
}

func TestPollingSessionsAreBounded(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		s.mu.Lock()
		for i := range maxPolling - 1 {
			s.polling[fmt.Sprint(i)] = nil
		}
		s.mu.Unlock()
		sid := p.sid
		p.sid = ""
		if status, _ := p.do("GET", ""); status != http.StatusServiceUnavailable {
			t.Errorf("one session too many = %d, want 503", status)
		}
		p.sid = sid
		p.post("40")
		s.mu.Lock()
		for i := range maxPolling - 1 {
			delete(s.polling, fmt.Sprint(i))
		}
		s.mu.Unlock()
	})
}

func TestOtherMethodsAreRefused(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		rec := p.join(s)
		if status, got := p.do("PUT", "3"); status != 400 || got != refused {
			t.Errorf("PUT = %d %s, want 400 %s", status, got, refused)
		}
		if len(rec.closed) > 0 {
			t.Error("it ended the session")
		}
	})
}

func TestPanicOfAHandlerEndsTheSession(t *testing.T) {
	polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
		s.event = func(string) { panic(http.ErrAbortHandler) } // which net/http does not log
		rec := p.join(s)
		if status, _ := p.do("POST", `42["a"]`); status != 0 {
			t.Errorf("status %d, want a broken connection", status)
		}
		wantClosed(t, rec, "internal error")
	})
}

// Browsers poll over HTTP/2 where there is TLS: there an answer has no connection of its
// own whose deadlines end it.
func TestPollingOverHTTP2(t *testing.T) {
	s := newServer(Config{PingInterval: 25 * time.Second, QueueBytes: 1 << 20})
	web := httptest.NewUnstartedServer(s)
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	defer s.Shutdown("test is over")
	p := &poller{t: t, web: web.Client(), base: web.URL}
	p.open()
	rec := p.join(s)
	answer := make(chan string)
	go func() {
		_, got := p.do("GET", "")
		answer <- got
	}()
	long := `"` + strings.Repeat("x", 5*writeChunk) + `"`
	rec.socket.Send(NewEvent("a", []byte(long)))
	if got := <-answer; got != `42["a",`+long+`]` {
		t.Errorf("poll = %.40s of %d bytes", got, len(got))
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url(), nil)
	if err != nil {
		t.Fatal(err)
	}
	huge := NewEvent("a", []byte(`"`+strings.Repeat("x", 1<<20-100)+`"`))
	rec.socket.Send(huge)
	rec.socket.Close("moved")
	resp, err := p.web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("protocol %s, want HTTP/2", resp.Proto)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(b), "\x1e41\x1e1") {
		t.Errorf("last poll of %d bytes: %v", len(b), err)
	}
	wantClosed(t, rec, "moved")
}

// FuzzSplitPayload: the packets of a payload joined are the payload, none holds a
// separator, and none can grow into its neighbour.
func FuzzSplitPayload(f *testing.F) {
	for _, in := range []string{"", "3", "3\x1e", "\x1e\x1e", "40\x1e42[\"a\"]\x1e3", "42[\"\\u001e\"]"} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		was := bytes.Clone(in)
		var packets [][]byte
		for packet := range splitPayload(in) {
			if bytes.IndexByte(packet, separator) >= 0 {
				t.Errorf("packet %q of %q holds a separator", packet, in)
			}
			_ = append(packet, 'x')
			packets = append(packets, packet)
		}
		if got := bytes.Join(packets, []byte{separator}); !bytes.Equal(got, was) {
			t.Errorf("%q split and joined is %q", was, got)
		}
	})
}

// webSocket opens the WebSocket that wants to take over.
func (p *poller) webSocket() *websocket.Conn {
	p.t.Helper()
	d := websocket.Dialer{NetDialContext: p.dial}
	ws, resp, err := d.DialContext(p.t.Context(), "ws://relay/socket.io/?EIO=4&transport=websocket&sid="+p.sid, nil)
	if err != nil {
		p.t.Fatalf("dial: %v", err)
	}
	resp.Body.Close()
	p.t.Cleanup(func() { ws.Close() })
	return ws
}
