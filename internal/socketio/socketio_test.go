package socketio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

const handshake = "/socket.io/?EIO=4&transport=websocket"

// recorder is a Handler that tells what it saw.
type recorder struct {
	socket *Socket
	events chan string // name and args
	closed chan string // the reason
	event  func(name string)
}

func (r *recorder) Event(name string, args []json.RawMessage) {
	line := name
	for _, arg := range args {
		line += " " + string(arg)
	}
	r.events <- line
	if r.event != nil {
		r.event(name)
	}
}

func (r *recorder) Closed(reason string) { r.closed <- reason }

// server runs a Server; every connected namespace comes out of connected.
type server struct {
	*Server
	connected chan *recorder
	event     func(name string)
}

func newServer(c Config) *server {
	return &server{Server: New(c), connected: make(chan *recorder, 2000)}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Serve(w, r, func(socket *Socket) Handler {
		rec := &recorder{socket: socket, events: make(chan string, 1000), closed: make(chan string, 1), event: s.event}
		s.connected <- rec
		return rec
	})
}

// pipe serves one client over a net.Pipe, so that all of it can run in a synctest
// bubble, where time is simulated and leftover goroutines fail the test.
func pipe(t *testing.T, s *server) *websocket.Conn {
	t.Helper()
	clientEnd, serverEnd := net.Pipe()
	listener := &oneConn{conn: make(chan net.Conn, 1)}
	listener.conn <- serverEnd
	httpServer := &http.Server{Handler: s}
	go func() { _ = httpServer.Serve(listener) }()
	t.Cleanup(func() { _ = httpServer.Close() })
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return clientEnd, nil }}
	ws, resp, err := dialer.Dial("ws://relay"+handshake, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	resp.Body.Close()
	t.Cleanup(func() { ws.Close() })
	return ws
}

type oneConn struct{ conn chan net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *oneConn) Close() error   { close(l.conn); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs a test with simulated time and one client that is past the open
// packet. The test ends with a shutdown, after which nothing may be left running.
func inBubble(t *testing.T, c Config, test func(t *testing.T, s *server, ws *websocket.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(c)
		ws := pipe(t, s)
		if got := receive(t, ws); !strings.HasPrefix(got, `0{"sid":"`) {
			t.Errorf("first frame = %s, want the open packet", got)
		}
		test(t, s, ws)
		ws.Close()
		s.Shutdown("test is over")
	})
}

// join connects the namespace.
func join(t *testing.T, s *server, ws *websocket.Conn) *recorder {
	t.Helper()
	send(t, ws, "40")
	rec := <-s.connected
	if got, want := receive(t, ws), fmt.Sprintf(`40{"sid":%q}`, rec.socket.ID()); got != want {
		t.Errorf("answer to 40 = %s, want %s", got, want)
	}
	return rec
}

func send(t *testing.T, ws *websocket.Conn, frame string) {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		t.Errorf("send %s: %v", frame, err)
	}
}

func receive(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	_, b, err := ws.ReadMessage()
	if err != nil {
		t.Errorf("receive: %v", err)
	}
	return string(b)
}

// rest reads to the end: the frames, and the close frame's code and text (1006 if
// there was none).
func rest(ws *websocket.Conn) (frames []string, code int, text string) {
	for {
		_, b, err := ws.ReadMessage()
		if err == nil {
			frames = append(frames, string(b))
			continue
		}
		var closed *websocket.CloseError
		if !errors.As(err, &closed) {
			return frames, websocket.CloseAbnormalClosure, err.Error()
		}
		return frames, closed.Code, closed.Text
	}
}

func TestOpenPacketAnnouncesLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(Config{})
		ws := pipe(t, s)
		var open map[string]any
		got := receive(t, ws)
		if err := json.Unmarshal([]byte(got[1:]), &open); err != nil || got[0] != '0' {
			t.Fatalf("open packet %s: %v", got, err)
		}
		if open["pingInterval"] != 25000.0 || open["pingTimeout"] != 20000.0 || open["maxPayload"] != 1e6 || fmt.Sprint(open["upgrades"]) != "[]" || open["sid"] == "" {
			t.Errorf("open packet %s; want 25000, 20000, 1000000, no upgrades, an id", got)
		}
		ws.Close()
		s.Shutdown("test is over")
	})
}

func TestEventsAndAcknowledgements(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		send(t, ws, `42["submitOp","id",[[{"contents":"\ud83d \u2028","n":1,"n":2}]]]`)
		if got, want := <-rec.events, `submitOp "id" [[{"contents":"\ud83d \u2028","n":1,"n":2}]]`; got != want {
			t.Errorf("event = %s, want %s (byte for byte)", got, want)
		}
		send(t, ws, `420["ping"]`)
		if got := receive(t, ws); got != "430[]" {
			t.Errorf("acknowledgement = %s, want 430[]", got)
		}
		if got := <-rec.events; got != "ping" {
			t.Errorf("event = %s, want ping", got)
		}
		send(t, ws, `43[]`) // an acknowledgement that no one asked for
		if !rec.socket.Send(NewEvent("op", []byte(`"d"`), []byte(`[{"a":1}]`)), NewEvent("naïve\"")) {
			t.Error("Send = false, want true")
		}
		if got := receive(t, ws); got != `42["op","d",[{"a":1}]]` {
			t.Errorf("event = %s", got)
		}
		if got := receive(t, ws); got != `42["naïve\""]` {
			t.Errorf("event = %s", got)
		}
	})
}

func TestAcknowledgementFollowsWhatTheHandlerSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(Config{})
		ws := pipe(t, s)
		receive(t, ws)
		var rec *recorder
		s.event = func(string) { rec.socket.Send(NewEvent("answer")) }
		rec = join(t, s, ws)
		send(t, ws, `427["ask"]`)
		if got := []string{receive(t, ws), receive(t, ws)}; !slices.Equal(got, []string{`42["answer"]`, "437[]"}) {
			t.Errorf("got %v, want the answer before the acknowledgement", got)
		}
		ws.Close()
		s.Shutdown("test is over")
	})
}

func TestPingsAndProbes(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		start := time.Now()
		for i := range 3 {
			if got, at := receive(t, ws), time.Since(start); got != "2" || at != time.Duration(i+1)*25*time.Second {
				t.Errorf("at %v: %s; want a ping every 25 s", at, got)
			}
			time.Sleep(19 * time.Second) // simulated
			send(t, ws, "3")
		}
		send(t, ws, "2probe")
		if got := receive(t, ws); got != "3probe" {
			t.Errorf("answer to 2probe = %s, want 3probe", got)
		}
		send(t, ws, "2")
		if got := receive(t, ws); got != "3" {
			t.Errorf("answer to 2 = %s, want 3", got)
		}
		pongs := make(chan string, 1)
		ws.SetPongHandler(func(data string) error { pongs <- data; return nil })
		if err := ws.WriteControl(websocket.PingMessage, []byte("hello"), time.Time{}); err != nil {
			t.Error(err)
		}
		if receive(t, ws); <-pongs != "hello" { // reads on to the next ping
			t.Error("the WebSocket ping was not answered with its payload")
		}
		frames, code, _ := rest(ws) // this one gets no pong
		if len(frames) > 0 || code != websocket.CloseAbnormalClosure || time.Since(start) != 4*25*time.Second+20*time.Second {
			t.Errorf("after the unanswered ping: %v, code %d at %v; want the end at 120 s", frames, code, time.Since(start))
		}
		if got := <-rec.closed; got != "ping timeout" {
			t.Errorf("Closed(%q), want ping timeout", got)
		}
	})
}

func TestNamespaceMustBeConnectedInTime(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		start := time.Now()
		if _, code, _ := rest(ws); code != websocket.CloseAbnormalClosure || time.Since(start) != 25*time.Second {
			t.Errorf("ended with %d at %v, want at 25 s", code, time.Since(start))
		}
	})
}

func TestUnknownNamespaceIsRefused(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		send(t, ws, `40/admin,{"token":"x"}`)
		if got, want := receive(t, ws), `44/admin,{"message":"Invalid namespace"}`; got != want {
			t.Errorf("answer = %s, want %s", got, want)
		}
		send(t, ws, "41/admin,")
		join(t, s, ws)
	})
}

func TestClientMayLeave(t *testing.T) {
	for _, goodbye := range []string{"41", "1"} {
		t.Run(goodbye, func(t *testing.T) {
			inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
				rec := join(t, s, ws)
				send(t, ws, goodbye)
				if _, code, _ := rest(ws); code != websocket.CloseNormalClosure {
					t.Errorf("close code = %d, want 1000", code)
				}
				if got := <-rec.closed; got != "disconnected by the client" {
					t.Errorf("Closed(%q)", got)
				}
				if rec.socket.Send(NewEvent("late")) {
					t.Error("Send to a closed socket = true")
				}
			})
		})
	}
	t.Run("close_frame", func(t *testing.T) {
		inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
			rec := join(t, s, ws)
			ws.SetCloseHandler(func(int, string) error { return nil })
			if err := ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1001, ""), time.Time{}); err != nil {
				t.Fatal(err)
			}
			if frames, code, _ := rest(ws); len(frames) > 0 || code != websocket.CloseNormalClosure {
				t.Errorf("answer to a close frame = %v and code %d, want code 1000 alone", frames, code)
			}
			if got := <-rec.closed; got != "closed by the client (1001)" {
				t.Errorf("Closed(%q)", got)
			}
		})
	})
}

func TestMalformedFramesCloseTheSocket(t *testing.T) {
	cases := []struct {
		name, frame string
		code        int
	}{
		{"empty", "", 1002},
		{"open_from_client", `0{}`, 1002},
		{"unknown_engine_type", "7", 1002},
		{"ping_with_data", "2x", 1002},
		{"pong_with_data", "3probe", 1002},
		{"empty_packet", "4", 1002},
		{"unknown_packet_type", "49[]", 1002},
		{"connect_error_from_client", `44{}`, 1002},
		{"second_connect", "40", 1002},
		{"connect_with_array", "40[]", 1002},
		{"disconnect_with_payload", "41{}", 1002},
		{"no_array", `42{"a":1}`, 1002},
		{"empty_array", `42[]`, 1002},
		{"name_is_number", `42[1]`, 1002},
		{"reserved_name", `42["disconnect"]`, 1002},
		{"truncated", `42["a",{]`, 1002},
		{"trailing_comma", `42["a",]`, 1002},
		{"missing_comma", `42["a" 1]`, 1002},
		{"trailing_bytes", `42["a"]x`, 1002},
		{"huge_ack_id", `4299999999999999999999["a"]`, 1002},
		{"foreign_event", `42/admin,["a"]`, 1002},
		{"long_namespace", "40/" + strings.Repeat("n", 300) + ",", 1002},
		{"binary_event", `451-["a",{"_placeholder":true,"num":0}]`, 1003},
		{"base64_binary", "bAAAA", 1003},
		{"not_utf8", "42[\"a\",\"\xff\"]", 1007},
		{"surrogate_bytes", "42[\"a\",\"\xed\xa0\x80\"]", 1007},
		{"too_large", `42["a","` + strings.Repeat("x", 1000) + `"]`, 1009},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Config{MaxPayload: 1000}, func(t *testing.T, s *server, ws *websocket.Conn) {
				rec := join(t, s, ws)
				send(t, ws, c.frame)
				if _, code, text := rest(ws); code != c.code {
					t.Errorf("close code %d %q, want %d", code, text, c.code)
				}
				if reason := <-rec.closed; reason == "" || reason == "connection lost" || reason == "internal error" {
					t.Errorf("Closed(%q), want the cause", reason)
				}
				if len(rec.events) > 0 {
					t.Errorf("the handler saw %s", <-rec.events)
				}
			})
		})
	}
}

func TestBinaryFrameIsRefused(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		if err := ws.WriteMessage(websocket.BinaryMessage, []byte(`42["a"]`)); err != nil {
			t.Error(err)
		}
		if _, code, text := rest(ws); code != 1003 || text != "binary data is not supported" {
			t.Errorf("close code %d %q, want 1003", code, text)
		}
		if got := <-rec.closed; got != "binary data is not supported" {
			t.Errorf("Closed(%q)", got)
		}
	})
}

// Compression is not spoken: a client that offers it is served without, and one that
// sends a compressed frame all the same is cut off before anything is unpacked.
func TestCompressionIsNotSpoken(t *testing.T) {
	web := httptest.NewServer(newServer(Config{}))
	defer web.Close()
	conn, err := net.Dial("tcp", web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Sec-WebSocket-Extensions"); resp.StatusCode != 101 || got != "" {
		t.Fatalf("answered %d with extensions %q, want 101 and none", resp.StatusCode, got)
	}
	// FIN, RSV1, text; masked with zeros, 4 bytes: RFC 7692, section 6.
	if _, err := conn.Write([]byte{0x80 | 0x40 | 1, 0x80 | 4, 0, 0, 0, 0, 1, 2, 3, 4}); err != nil {
		t.Fatal(err)
	}
	sent, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	// After the open packet a close frame with a protocol error, RFC 6455, section 7.4.1.
	at := bytes.IndexByte(sent, 0x88)
	if at < 0 || len(sent) < at+4 || binary.BigEndian.Uint16(sent[at+2:]) != websocket.CloseProtocolError {
		t.Errorf("got %q, want the socket closed with %d", sent, websocket.CloseProtocolError)
	}
}

func TestEventBeforeConnectIsRefused(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		send(t, ws, `42["a"]`)
		if frames, code, _ := rest(ws); code != 1002 || len(frames) > 0 {
			t.Errorf("got %v, code %d; want nothing and 1002", frames, code)
		}
	})
}

func TestCloseSendsWhatIsQueued(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		rec.socket.Send(NewEvent("a"))
		rec.socket.Send(NewEvent("b"), NewEvent("c", []byte(`"`+strings.Repeat("x", 3*writeChunk)+`"`)), NewEvent("d"))
		rec.socket.Close("token expired")
		rec.socket.Close("again")
		if rec.socket.Send(NewEvent("late")) {
			t.Error("Send after Close = true")
		}
		frames, code, text := rest(ws)
		if len(frames) != 5 || frames[0] != `42["a"]` || len(frames[2]) != len(`42["c",""]`)+3*writeChunk || frames[3] != `42["d"]` || frames[4] != "41" {
			t.Errorf("got %d frames %.40s, want a, b, c, d, 41", len(frames), frames)
		}
		if code != 1000 || text != "token expired" {
			t.Errorf("close frame %d %q, want 1000 token expired", code, text)
		}
		if got := <-rec.closed; got != "token expired" {
			t.Errorf("Closed(%q), want the first reason", got)
		}
	})
}

func TestCloseTakesASecondAtMost(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		start := time.Now()
		rec.socket.Send(NewEvent("read late"))
		synctest.Wait()
		rec.socket.Send(NewEvent("never read"))
		rec.socket.Close("moved")
		time.Sleep(closeWithin / 2) // simulated
		if got := receive(t, ws); got != `42["read late"]` {
			t.Errorf("event = %s", got)
		}
		if got := <-rec.closed; got != "moved" || time.Since(start) != closeWithin {
			t.Errorf("Closed(%q) after %v, want moved after %v", got, time.Since(start), closeWithin)
		}
	})
}

func TestStuckPeerIsGivenUp(t *testing.T) {
	inBubble(t, Config{PingInterval: time.Hour}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		start := time.Now()
		rec.socket.Send(NewEvent("never read"))
		if got := <-rec.closed; got != "write timeout" || time.Since(start) != 20*time.Second {
			t.Errorf("Closed(%q) after %v, want write timeout after 20 s", got, time.Since(start))
		}
	})
}

func TestOverflowClosesAtOnce(t *testing.T) {
	frame := NewEvent("op", []byte(`"0123456789"`))
	inBubble(t, Config{QueueBytes: 10 * frame.Len()}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		start := time.Now()
		for i := range 10 {
			if !rec.socket.Send(frame) {
				t.Fatalf("Send %d = false, want true", i)
			}
			synctest.Wait() // the writer takes it, but cannot write it: it still counts
		}
		if rec.socket.Send(frame) {
			t.Error("Send beyond the bound = true, want false")
		}
		if got := <-rec.closed; got != "outbound queue overflow" || time.Since(start) != 0 {
			t.Errorf("Closed(%q) after %v, want the overflow at once", got, time.Since(start))
		}
	})
}

// A peer that asks and asks and reads no answer is cut off while what waits for it is
// little: it need not have shown who it is. One that reads may ask for ever.
func TestAnswersThatNobodyReads(t *testing.T) {
	for name, ask := range map[string]string{
		"acknowledgements": `421["ping"]`, "pongs": "2", "probes": "2probe", "namespaces": "40/nobody,",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
				rec := join(t, s, ws)
				go func() {
					for range rec.events { // or it would block
					}
				}()
				for range 3 * maxAnswers {
					send(t, ws, ask)
					receive(t, ws)
				}
				asked := 0
				for ws.WriteMessage(websocket.TextMessage, []byte(ask)) == nil {
					asked++
				}
				if got := <-rec.closed; got != "answers are not read" {
					t.Errorf("Closed(%q), want answers are not read", got)
				}
				close(rec.events)
				if asked > 2*maxAnswers+2 { // those that the writer holds, and those behind it
					t.Errorf("%d answers waited, want at most %d", asked, 2*maxAnswers+2)
				}
			})
		})
	}
	t.Run("polling", func(t *testing.T) {
		polls(t, Config{}, func(t *testing.T, s *server, p *poller) {
			rec := p.join(s)
			p.do("POST", strings.Repeat("2\x1e", maxAnswers+1)+"2")
			wantClosed(t, rec, "answers are not read")
		})
	})
}

func TestShutdown(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		done := make(chan struct{})
		go func() {
			s.Shutdown("going down")
			if len(rec.closed) != 1 {
				t.Error("Shutdown returned before the handler's Closed")
			}
			close(done)
		}()
		if frames, code, text := rest(ws); !slices.Equal(frames, []string{"41"}) || code != 1000 || text != "going down" {
			t.Errorf("got %v, %d %q; want 41 and the reason", frames, code, text)
		}
		<-done
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", handshake, nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("handshake after Shutdown = %d, want 503", w.Code)
		}
		if got, want := w.Header().Get("Retry-After"), "2"; got != want || !strings.Contains(w.Body.String(), `"retryAfter":2`) {
			t.Errorf("handshake after Shutdown: Retry-After %q, body %s; want %s in both", got, w.Body, want)
		}
	})
}

func TestBadHandshakes(t *testing.T) {
	web := httptest.NewServer(newServer(Config{}))
	defer web.Close()
	cases := []struct {
		name, method, query, want string
		status                    int
	}{
		{"webtransport", "GET", "?EIO=4&transport=webtransport", `{"code":0,"message":"Transport unknown"}`, 400},
		{"poll_of_nobody", "GET", "?EIO=4&transport=polling&sid=x", `{"code":1,"message":"Session ID unknown"}`, 400},
		{"post_of_nobody", "POST", "?EIO=4&transport=polling&sid=", `{"code":1,"message":"Session ID unknown"}`, 400},
		{"polling_opened_by_post", "POST", "?EIO=4&transport=polling", `{"code":2,"message":"Bad handshake method"}`, 400},
		{"polling_version_3", "GET", "?EIO=3&transport=polling", `{"code":5,"message":"Unsupported protocol version"}`, 400},
		{"no_transport", "GET", "?EIO=4", `{"code":0,"message":"Transport unknown"}`, 400},
		{"upgrade", "GET", "?EIO=4&transport=websocket&sid=x", `{"code":1,"message":"Session ID unknown"}`, 400},
		{"post", "POST", "?EIO=4&transport=websocket", `{"code":2,"message":"Bad handshake method"}`, 400},
		{"not_websocket", "GET", "?EIO=4&transport=websocket", `{"code":3,"message":"Bad request"}`, 400},
		{"version_3", "GET", "?EIO=3&transport=websocket", `{"code":5,"message":"Unsupported protocol version"}`, 400},
		{"no_version", "GET", "?transport=websocket", `{"code":5,"message":"Unsupported protocol version"}`, 400},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, web.URL+"/socket.io/"+c.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if got := strings.TrimSpace(string(body)); err != nil || resp.StatusCode != c.status || got != c.want {
				t.Errorf("got %d %s (%v), want %d %s", resp.StatusCode, got, err, c.status, c.want)
			}
		})
	}
}

// dial connects a client over TCP, namespace included.
func dial(t testing.TB, url string) *websocket.Conn {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.DialContext(context.Background(), "ws"+strings.TrimPrefix(url, "http")+handshake, http.Header{"Origin": {"https://elsewhere.example"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := ws.WriteMessage(websocket.TextMessage, []byte("40")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // open, connect
		if _, _, err := ws.ReadMessage(); err != nil {
			t.Fatal(err)
		}
	}
	return ws
}

// TestSlowReaderCostsOthersNothing broadcasts over TCP, at the pace of four readers,
// to five sockets. The fifth does not read.
func TestSlowReaderCostsOthersNothing(t *testing.T) {
	const readers, events = 4, 2000
	s := newServer(Config{QueueBytes: 1 << 20})
	web := httptest.NewServer(s)
	defer web.Close()
	defer s.Shutdown("test is over")

	defer dial(t, web.URL).Close() // never read from again
	slow := <-s.connected
	var recs []*recorder
	got := make(chan struct{})
	for range readers {
		ws := dial(t, web.URL)
		defer ws.Close()
		recs = append(recs, <-s.connected)
		go func() {
			for n := range events {
				if _, _, err := ws.ReadMessage(); err != nil {
					t.Errorf("event %d: %v", n, err)
				}
				got <- struct{}{}
			}
		}()
	}
	frame := NewEvent("op", []byte(`"`+strings.Repeat("x", 10_000)+`"`))
	overflowed := false
	for range events {
		overflowed = !slow.socket.Send(frame) || overflowed
		for _, rec := range recs {
			if !rec.socket.Send(frame) {
				t.Fatal("Send to a reader = false")
			}
		}
		for range recs {
			<-got
		}
	}
	if !overflowed {
		t.Fatal("the slow reader's queue never overflowed")
	}
	if got := <-slow.closed; got != "outbound queue overflow" {
		t.Errorf("slow reader: Closed(%q)", got)
	}
}

// What a peer must get at the start has no part in the bound; what follows has.
func TestUnboundedFrame(t *testing.T) {
	inBubble(t, Config{QueueBytes: 1000}, func(t *testing.T, s *server, ws *websocket.Conn) {
		rec := join(t, s, ws)
		large := NewEvent("large", []byte(`"`+strings.Repeat("x", 5000)+`"`))
		if rec.socket.Send(large.Unbounded()); !rec.socket.Send(NewEvent("small")) {
			t.Error("a frame after an unbounded one was refused")
		}
		for _, want := range []string{`42["large"`, `42["small"`} {
			if got := receive(t, ws); !strings.HasPrefix(got, want) {
				t.Errorf("received %.20s, want %s", got, want)
			}
		}
		if rec.socket.Send(large) {
			t.Error("a frame over the bound was taken")
		}
	})
}
