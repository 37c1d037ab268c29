package relay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// crowd is many clients that keep nothing of what they are sent.
type crowd struct {
	r       *rig
	id      string
	wg      sync.WaitGroup // readers
	sockets []*websocket.Conn

	mu       sync.Mutex
	received map[string]int // events, by how they begin
}

func newCrowd(r *rig, id string) *crowd { return &crowd{r: r, id: id, received: map[string]int{}} }

// join connects n readers at once. Stalled ones read nothing after the handshake.
func (w *crowd) join(n int, stalled bool) {
	dialer := websocket.Dialer{NetDialContext: w.r.pipes.dial}
	hello := "42" + string(encode([]any{"connect_document", connectBody(w.id, w.r.token(w.id), "read")}))
	for range n {
		ws, _, err := dialer.DialContext(w.r.t.Context(), "ws://relay.test/socket.io/?EIO=4&transport=websocket", nil)
		if err != nil {
			w.r.t.Fatalf("dial: %v", err)
		}
		w.sockets = append(w.sockets, ws)
		if stalled {
			// The writer of each is stuck at the first frame, and not at as many as had come
			// by then: what waits for whom does not depend on which goroutine was faster.
			synctest.Wait()
		}
		w.wg.Go(func() {
			for _, frame := range []string{"40", hello} {
				if err := ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
					w.r.t.Errorf("write: %v", err)
				}
			}
		})
		if !stalled {
			w.wg.Go(func() { w.read(ws.NetConn()) })
		}
	}
}

// read counts events in the stream as it comes: parsing half a million frames would
// be most of the test's time.
func (w *crowd) read(conn net.Conn) {
	b := make([]byte, 64<<10)
	kept := 0 // the end of what was read, where a name may have begun
	for {
		n, err := conn.Read(b[kept:])
		if err != nil {
			return
		}
		text := b[:kept+n]
		w.mu.Lock()
		for _, name := range []string{`42["signal",`, `42["connect_document_success",`} {
			w.received[name] += bytes.Count(text, []byte(name)) - bytes.Count(text[:kept], []byte(name))
		}
		w.mu.Unlock()
		kept = copy(b, text[max(0, len(text)-keptBytes):])
	}
}

// keptBytes is longer than any name that is counted.
const keptBytes = 64

func (w *crowd) leave() {
	for _, ws := range w.sockets {
		ws.Close()
	}
	w.wg.Wait()
}

// heap is what is in use, without what pools keep until the second collection.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// A thousand clients come to one document at once. Half a million join signals are
// sent, each encoded once and nobody's copy: what the clients who do not read have
// waiting for them is mostly the same bytes.
func TestThousandClientsJoinAtOnce(t *testing.T) {
	const n = 1000
	t.Run("AllRead", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.create()
			w := newCrowd(r, id)
			w.join(n, false)
			synctest.Wait()
			r.use(id, func(d *document) { d.broadcastSignal([]byte(`"all"`)) })
			synctest.Wait()
			if got := w.received[`42["connect_document_success",`]; got != n {
				t.Errorf("%d of %d clients connected", got, n)
			}
			if got, want := w.received[`42["signal",`], n*(n+1)/2+n; got != want {
				t.Errorf("%d signals, want %d: one per join for everyone there, and one for all", got, want)
			}
			w.leave()
		})
	})
	t.Run("NoneReads", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			id := r.create()
			w := newCrowd(r, id)
			before := heap()
			w.join(n, true)
			synctest.Wait()
			used := heap() - before
			if got := len(r.clientIDs(id)); got != n {
				t.Errorf("%d of %d clients are in the document", got, n)
			}
			// The lists that joiners are sent are each one's own: n²/2 members. The
			// signals are not: as copies they would be as much again.
			member := len(r.sessionsOf(id)[0].member)
			lists := n * n / 2 * member
			if limit := lists + lists/2; used > limit {
				t.Errorf("%d MB in use, want at most %d", used>>20, limit>>20)
			}
			t.Logf("%d MB in use, %d MB of them lists of members", used>>20, lists>>20)
			w.leave()
		})
	})
}

// sessionsOf lists the sessions of a document.
func (r *rig) sessionsOf(id string) []*session {
	var list []*session
	r.use(id, func(d *document) {
		d.mu.Lock()
		defer d.mu.Unlock()
		list = append(list, d.sessions...)
	})
	return list
}

// What joiners are told of the others stays right when some leave, and is bounded.
func TestAudience(t *testing.T) {
	var a audience
	var sessions []*session
	check := func(want string) {
		t.Helper()
		if got := string(a.encoded(sessions)); got != want {
			t.Errorf("audience %s, want %s", got, want)
		}
	}
	add := func(member string) {
		s := &session{member: []byte(member)}
		sessions = append(sessions, s)
		a.add(s.member)
	}
	check("")
	add(`{"a":1}`)
	add(`{"b":2}`)
	check(`{"a":1},{"b":2}`)
	a.remove(sessions[0].member)
	sessions = sessions[1:]
	add(`{"c":3}`)
	check(`{"b":2},{"c":3}`)
	a.remove(sessions[0].member)
	a.remove(sessions[1].member)
	sessions = nil
	check("")
	if a.bytes != 0 {
		t.Errorf("%d bytes of nobody", a.bytes)
	}
	add(`{"d":4}`)
	check(`{"d":4}`)
	a.bytes = maxAudienceBytes - 1
	if a.fits([]byte("xx")) || !a.fits([]byte("x")) {
		t.Error("the bound does not hold at its last byte")
	}
}

// outcome is what came of a frame: how the socket ended, or the code of a refusal.
func (c *client) outcome() string {
	for _, e := range c.all() {
		switch e.name {
		case "nack":
			return fmt.Sprintf("nack %s", between(string(e.args[1]), `"code":`, ","))
		case "connect_document_error":
			return fmt.Sprintf("connect_document_error %s", between(string(e.args[0]), `"code":`, ","))
		}
	}
	select {
	case <-c.ended:
		return "closed"
	default:
		return "nothing"
	}
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// What malformed, deep and huge messages get their sender, while the others go on.
func TestHostileMessages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		witness := r.join(id)
		deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
		op := func(csn int, contents string) string {
			return fmt.Sprintf(`{"clientSequenceNumber":%d,"referenceSequenceNumber":-1,"type":"op","contents":%s}`, csn, contents)
		}
		for _, test := range []struct {
			name, frame, want string // %s is the client's id
		}{
			{"NotEngineIO", "x", "closed"},
			{"Empty", "", "closed"},
			{"BinaryAttachment", `451-["submitOp",{"_placeholder":true,"num":0}]`, "closed"},
			{"OtherNamespace", `42/admin,["submitOp"]`, "closed"},
			{"NotJSON", `42["submitOp",`, "closed"},
			{"TrailingBytes", `42["submitOp"]]`, "closed"},
			{"ReservedName", `42["disconnect"]`, "closed"},
			{"NameIsNumber", `42[1]`, "closed"},
			{"NotUTF8", "42[\"submitSignal\",\"\xff\"]", "closed"},
			{"FrameTooLarge", `42["submitOp","%s","` + strings.Repeat("x", 1_000_000) + `"]`, "closed"},
			{"NestedTooDeep", `42["submitOp","%s",[[` + op(1, deep(20_000)) + `]]]`, "closed"},
			{"ListsTooDeep", `42["submitOp","%s",` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `]`, "closed"},
			{"UnknownEvent", `42["disconnect_document","%s"]`, "nothing"},
			{"OpsAreDeepLists", `42["submitOp","%s",` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `]`, "nack 400"},
			{"TooManyOps", `42["submitOp","%s",[` + strings.Repeat("1,", maxOpsPerMessage) + `1]]`, "nack 413"},
			{"TooManyEmptyBatches", `42["submitOp","%s",[` + strings.Repeat("[],", maxOpsPerMessage) + `[]]]`, "nack 413"},
			{"TooManySignals", `42["submitSignal","%s",[` + strings.Repeat(`{},`, maxOpsPerMessage) + `{}]]`, "nack 413"},
			{"OpTooLarge", `42["submitOp","%s",[[` + op(1, `"`+strings.Repeat("x", maxOpUnits+1)+`"`) + `]]]`, "nack 413"},
			{"HugeNumber", `42["submitOp","%s",[[{"clientSequenceNumber":1e400,"referenceSequenceNumber":-1,"type":"op"}]]]`, "nack 400"},
			{"ForeignClient", `42["submitOp","` + witness.id + `",[[` + op(1, "1") + `]]]`, "nack 400"},
			{"ConnectIsDeep", `42["connect_document",` + deep(5000) + `]`, "connect_document_error 400"},
			{"ConnectWithHugeToken", `42["connect_document",` + string(encode(connectBody(id, strings.Repeat("x", 900_000), "read"))) + `]`, "connect_document_error 401"},
			{"ManySignalsAtOnce", `42["submitSignal","%s",[` + strings.Repeat(`{"content":1},`, 1000) + `{"content":1}]]`, "nothing"}, // the whole burst
			{"DeepOpWithinTheRules", `42["submitOp","%s",[[` + op(1, deep(5000)) + `]]]`, "nothing"},
		} {
			c := r.join(id)
			c.all()
			c.write(strings.ReplaceAll(test.frame, "%s", c.id))
			if got := c.outcome(); got != test.want {
				t.Errorf("%s: %s, want %s", test.name, got, test.want)
			}
			if test.want != "closed" {
				c.close()
			}
		}
		witness.submit("still here")
		witness.awaitMine(1)
		r.restart() // what was taken can be read again
		if got := len(r.log(id)); got == 0 {
			t.Error("log is empty")
		}
		r.join(id)
	})
}

// Who floods a document with signals is cut off; the others stay connected and their
// ops go through.
func TestSignalFlood(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		flooder, writer, reader := r.read(id), r.join(id), r.read(id)
		big := map[string]any{"content": strings.Repeat("x", 100_000)}
		for range 1000 {
			flooder.emit("submitSignal", flooder.id, many(1, big))
		}
		flooder.awaitEnd()
		writer.submit("through")
		writer.awaitMine(1)
		signals := 0
		for _, e := range reader.all() {
			if e.name == "signal" && len(e.args[0]) > 100_000 {
				signals++
			}
		}
		// The burst, in signals of 25 units.
		if most := DefaultLimits().ClientSignals * burstSeconds / messageUnits(1, 100_000); signals > most {
			t.Errorf("others got %d signals, want at most %d", signals, most)
		}
		select {
		case <-reader.ended:
			t.Error("a reader that reads was cut off")
		default:
		}
	})
}

// Two hundred readers stop reading while a writer goes on. What waits for them is the
// same bytes, and when a queue is full its owner is cut off and his memory is free.
func TestManyReadersThatStopReading(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const n = 200
		id := r.create()
		w := newCrowd(r, id)
		w.join(n, true)
		writer := r.join(id)
		synctest.Wait()
		writer.all()
		before := heap()
		text := strings.Repeat("x", 500_000)
		var most int
		for i := range 30 {
			writer.submit(text)
			synctest.Wait()
			if i%5 == 0 {
				most = max(most, heap()-before)
			}
			writer.all()
		}
		// The log is in memory, too, as are 8 MiB of events that all of them share.
		if limit := 64 << 20; most > limit {
			t.Errorf("%d MB in use for %d clients that do not read, want at most %d", most>>20, n, limit>>20)
		}
		if got := len(r.clientIDs(id)); got != 1 {
			t.Errorf("%d clients are left, want the writer alone", got)
		}
		if waiting := r.server.io.QueuedBytes(); waiting != 0 {
			t.Errorf("%d bytes wait for nobody", waiting)
		}
		writer.submit("still here")
		writer.awaitMine(1)
		w.leave()
	})
}

// A half-open connection: the peer's machine is gone and says nothing more.
func TestHalfOpenSocket(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		witness := r.read(id)
		w := newCrowd(r, id)
		w.join(1, false) // it reads and never answers a ping
		witness.all()
		time.Sleep(46 * time.Second) // a ping after 25 s, 20 s for its pong
		var left bool
		for _, e := range witness.all() {
			left = left || e.name == "signal" && strings.Contains(string(e.args[0]), "leave")
		}
		if !left {
			t.Error("the others were not told after 46 s")
		}
		w.leave()
	})
}

// A stranger who sends what is refused, and reads no refusal, is cut off while few wait.
func TestRefusalsThatNobodyReads(t *testing.T) {
	long := connectBody("x", "", "read")
	long["versions"] = []string{strings.Repeat("9", 900_000)}
	for name, frame := range map[string]string{
		"Nacks": `42["submitOp"]`, "ConnectErrors": `42["connect_document"]`, "Echoes": "42" + string(encode([]any{"connect_document", long})),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				dialer := websocket.Dialer{NetDialContext: r.pipes.dial}
				ws, _, err := dialer.DialContext(t.Context(), "ws://relay.test/socket.io/?EIO=4&transport=websocket", nil)
				if err != nil {
					t.Fatal(err)
				}
				defer ws.Close()
				most, next := 0, "40"
				for range min(5000, 100_000_000/len(frame)) {
					if ws.WriteMessage(websocket.TextMessage, []byte(next)) != nil {
						break
					}
					next = frame
					synctest.Wait()
					most = max(most, r.server.io.QueuedBytes())
				}
				if limit := 256 << 10; most > limit {
					t.Errorf("%d bytes of refusals waited, want at most %d", most, limit)
				}
			})
		})
	}
}

// Many ask for one large attachment and read nothing: it is in memory once.
func TestDownloadsOfABlobThatNobodyReads(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const n, size = 50, 4 << 20
		id := r.create()
		sent := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), size))
		var blob gitObject
		if a := r.call("POST", "/repos/t1/git/blobs", r.token(id), fmt.Sprintf(`{"content":%q,"encoding":"base64"}`, sent)); json.Unmarshal(a.body, &blob) != nil || a.status != 201 {
			t.Fatalf("upload: %d %s", a.status, a.body)
		}
		authorization := authorization("/repos/", r.token(id))["Authorization"]
		before := heap()
		for range n {
			conn, err := r.pipes.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "GET /repos/t1/git/blobs/%s HTTP/1.1\r\nHost: relay.test\r\nAuthorization: %s\r\n\r\n", blob.SHA, authorization); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if used, most := heap()-before, 3*size; used > most {
			t.Errorf("%d MB in use for %d downloads of %d MB, want at most %d", used>>20, n, size>>20, most>>20)
		}
	})
}

// Who announces a body and sends none is given up, wherever that is looked for.
func TestBodiesThatDoNotCome(t *testing.T) {
	const socket = "/socket.io/?EIO=4&transport=polling"
	for name, request := range map[string]string{
		"Handshake":        "GET " + socket,
		"Chunked":          "GET " + socket + "&chunked",
		"PostHandshake":    "POST " + socket,
		"UnknownSession":   "POST " + socket + "&sid=unknown",
		"UnknownTransport": "POST /socket.io/?EIO=4",
		"Preflight":        "OPTIONS " + socket,
		"RESTPreflight":    "OPTIONS /documents/t1",
		"Unrouted":         "POST /nowhere",
		"Health":           "GET /livez",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				conn, err := r.pipes.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				length := "Content-Length: 100000"
				if name == "Chunked" {
					length = "Transfer-Encoding: chunked"
				}
				started := time.Now()
				_ = conn.SetReadDeadline(started.Add(time.Hour))
				fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: relay.test\r\n%s\r\n\r\n", request, length)
				if _, err := io.ReadAll(conn); err != nil {
					t.Errorf("after %v: %v", time.Since(started), err)
				}
				if took := time.Since(started); took > quick+time.Second {
					t.Errorf("given up after %v", took)
				}
			})
		})
	}
}
