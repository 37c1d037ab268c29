package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// limitedBubble is bubble under other limits.
func limitedBubble(t *testing.T, l Limits, f func(t *testing.T, r *rig)) {
	t.Helper()
	bubble(t, func(t *testing.T, r *rig) {
		r.limits = l
		r.restart()
		f(t, r)
	})
}

// many returns n copies of v.
func many(n int, v any) []any {
	list := make([]any, n)
	for i := range list {
		list[i] = v
	}
	return list
}

var throttled = nackContent{429, throttling, throttledMessage, 1}

// wantThrottled fails unless the next nack says to come back after wait seconds.
func (c *client) wantThrottled(what string, wait float64) {
	c.t.Helper()
	want := throttled
	want.RetryAfter = wait
	if got := c.awaitNack(); got.Content != want || got.SequenceNumber != -1 || got.Operation != nil {
		c.t.Errorf("%s: %+v, want %+v at -1 without op", what, got, want)
	}
}

// A message over the rate is refused whole, and its ops come in when they are sent
// again, after the time that was told, under a new client id.
func TestOpsOverTheRate(t *testing.T) {
	limitedBubble(t, Limits{ClientOps: 10}, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id)
		a.submit(strings.Split(strings.Repeat("x", 15), "")...)
		a.awaitMine(15)
		a.submit(strings.Split(strings.Repeat("y", 6), "")...)
		a.wantThrottled("6 ops, 5 left", 1)
		a.close()
		time.Sleep(time.Second) // as told
		b := r.join(id)
		b.submit(strings.Split(strings.Repeat("y", 6), "")...)
		b.awaitMine(6)
		if got, want := strings.Join(contentsOf(t, r.log(id)), ""), strings.Repeat("x", 15)+strings.Repeat("y", 6); got != want {
			t.Errorf("log has %s, want %s", got, want)
		}
	})
}

// Summaries that nobody has decided on yet are held, so there are only so many of them: who
// proposes more is told to come back, and everything taken is answered.
func TestSummariesThatWait(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		var broken atomic.Bool
		r.store.swap(unreadable{r.store.Store, &broken})
		a := r.join(id, summarizer)
		proposal := string(encode(map[string]any{"handle": "unknown", "head": r.head(id)}))
		propose := func(n int) {
			var batch []any
			for range n {
				op := a.op(proposal)
				op["type"] = "summarize"
				batch = append(batch, op)
			}
			a.emit("submitOp", a.id, []any{batch})
		}
		verdicts := func() (n int) {
			for _, op := range r.log(id) {
				if op.Type == sequencer.TypeSummaryNack {
					n++
				}
			}
			return n
		}
		propose(maxUndecided)
		synctest.Wait()
		if got := verdicts(); got != maxUndecided {
			t.Errorf("%d summaries were answered, want %d", got, maxUndecided)
		}
		propose(maxUndecided + 1)
		if got, want := a.awaitNack().Content, (nackContent{429, throttling, nackSummaries.message, 5}); got != want {
			t.Errorf("one more: %+v, want %+v", got, want)
		}
		a.csn -= maxUndecided + 1 // nothing of it was taken

		// While none can be decided.
		broken.Store(true)
		for range maxUndecided + 1 {
			propose(1)
			synctest.Wait()
		}
		if got := a.awaitNack().Content.Code; got != 429 {
			t.Errorf("one more than may wait: nack %d, want 429", got)
		}
		broken.Store(false)
		time.Sleep(time.Minute) // until it is tried again
		synctest.Wait()
		if got := verdicts(); got != 2*maxUndecided {
			t.Errorf("%d summaries were answered, want %d", got, 2*maxUndecided)
		}
	})
}

// unreadable is a store that reads no objects while it is broken.
type unreadable struct {
	store.Store
	broken *atomic.Bool
}

func (u unreadable) GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (envelope.Sealed, error) {
	if u.broken.Load() {
		return envelope.Sealed{}, errDisk
	}
	return u.Store.GetObject(ctx, doc, name)
}

// Connecting again gives nobody more than staying connected.
func TestRatesSurviveAReconnect(t *testing.T) {
	limitedBubble(t, Limits{ClientOps: 10, ClientSignals: 10}, func(t *testing.T, r *rig) {
		id, other := r.create(), r.create()
		sent := 0
		started := time.Now()
		for range 50 { // as fast as it can, in whatever document of the tenant
			for _, doc := range []string{id, other} {
				c := r.join(doc)
				c.submit(strings.Split(strings.Repeat("x", 10), "")...)
				synctest.Wait()
				sent += len(contentsOf(t, c.drain()))
				c.close()
				synctest.Wait()
			}
			time.Sleep(100 * time.Millisecond)
		}
		if most := 20 + 10*int(time.Since(started)/time.Second+1); sent > most || sent < most/2 {
			t.Errorf("%d ops came through, want at most %d and about as many", sent, most)
		}

		// Signals, too; and who is somebody else, or there at the same time, has his own.
		flood := func(c *client) (nacked bool) {
			c.emit("submitSignal", c.id, many(20, map[string]any{"content": "s"}))
			synctest.Wait()
			for _, e := range c.all() {
				nacked = nacked || e.name == "nack"
			}
			return nacked
		}
		as := func(user string) *client {
			c := r.dial()
			c.connect(connectBody(id, r.token(id, func(m jwt.MapClaims) { m["user"] = map[string]any{"id": user} }), "read"))
			return c
		}
		a, again := as("a"), as("a")
		if flood(a) || flood(again) {
			t.Error("two clients of one user share what one may send")
		}
		a.close()
		synctest.Wait()
		back, b := as("a"), as("b")
		if !flood(back) {
			t.Error("a client that came back was given a full bucket")
		}
		if flood(b) {
			t.Error("another user had to pay for it")
		}
		back.close()
		b.close()
		time.Sleep(burstSeconds*time.Second + time.Millisecond)
		r.server.spent.mu.Lock()
		defer r.server.spent.mu.Unlock()
		if n := len(r.server.spent.of); n != 0 {
			t.Errorf("%d users are remembered whose buckets are full again", n)
		}
	})
}

// What can never fit the bucket takes all of it; refusing it for ever would make the
// client come back for ever.
func TestMessageLargerThanTheBucket(t *testing.T) {
	limitedBubble(t, Limits{ClientOps: 2}, func(t *testing.T, r *rig) {
		a := r.join(r.create())
		a.submit(strings.Split(strings.Repeat("x", 9), "")...)
		a.awaitMine(9)
		a.submit("y")
		a.wantThrottled("bucket is empty", 1)
	})
}

func TestLargeOpsCountMore(t *testing.T) {
	limitedBubble(t, Limits{ClientOps: 10}, func(t *testing.T, r *rig) {
		a := r.join(r.create())
		a.submit(strings.Repeat("x", 18*unitBytes))
		a.awaitMine(1)
		a.submit(strings.Repeat("x", 2*unitBytes))
		a.wantThrottled("20 KiB after 72", 1)
	})
}

func TestSignalsOverTheRate(t *testing.T) {
	limitedBubble(t, Limits{ClientSignals: 10}, func(t *testing.T, r *rig) {
		id := r.create()
		a, b := r.read(id), r.read(id)
		a.all()
		b.all()
		signal := map[string]any{"content": "x"}
		a.emit("submitSignal", a.id, many(20, signal))
		a.emit("submitSignal", a.id, many(1, signal))
		a.wantThrottled("21 signals", 1)
		if got := len(b.all()); got != 20 {
			t.Errorf("others got %d signals, want the 20 within the rate", got)
		}
		b.emit("submitSignal", b.id, many(20, signal)) // its own rate is untouched
		if got := len(a.all()); got != 20 {
			t.Errorf("got %d signals of another client, want 20", got)
		}
		time.Sleep(time.Second)
		a.emit("submitSignal", a.id, many(10, signal))
		if got := len(b.all()); got != 20+10 {
			t.Errorf("others got %d signals a second later, want 10 more and b's own 20", got)
		}
	})
}

func TestTenantRates(t *testing.T) {
	limits := Limits{TenantConnects: 1, TenantOps: 3, TenantSignals: 4, TenantRequests: 2}
	limitedBubble(t, limits, func(t *testing.T, r *rig) {
		id := r.create()
		// Strangers use up nothing.
		stranger := r.token(id) + "x"
		for range 10 {
			r.call("GET", "/deltas/t1/"+id, stranger, "").want(t, 403, errSignature.Message)
			c := r.dial()
			if got := c.connectErrorOf(connectBody(id, stranger, "read")).Code; got != 403 {
				t.Fatalf("stranger got %d, want 403", got)
			}
			c.close()
		}
		a, b := r.join(id), r.join(id)
		third := r.dial()
		want := connectError{Code: 429, Message: throttledMessage, CanRetry: true, RetryAfter: 1, RetryAfterMS: 1000}
		if got := third.connectErrorOf(connectBody(id, r.token(id), "write")); got != want {
			t.Errorf("third connect: %+v, want %+v", got, want)
		}
		time.Sleep(time.Second)
		third.connect(connectBody(id, r.token(id), "read"))

		a.submit("1", "2", "3")
		b.submit("4", "5", "6")
		a.awaitMine(3)
		b.awaitMine(3)
		a.submit("7")
		a.wantThrottled("the tenant's seventh op", 1)
		a.emit("submitSignal", a.id, many(8, map[string]any{"content": "x"}))
		synctest.Wait()
		third.emit("submitSignal", third.id, many(1, map[string]any{"content": "x"}))
		third.wantThrottled("the tenant's ninth signal", 1)

		for range 4 {
			if got := r.call("GET", "/deltas/t1/"+id, r.token(id), "").status; got != 200 {
				t.Errorf("request within the rate: %d", got)
			}
		}
		r.call("GET", "/deltas/t1/"+id, r.token(id), "").golden(t, "throttled")
		if got := r.plain("GET", "/livez", "", "").status; got != 200 {
			t.Errorf("health check of a throttled tenant: %d, want 200", got)
		}
		time.Sleep(time.Second)
		if got := r.call("GET", "/deltas/t1/"+id, r.token(id), "").status; got != 200 {
			t.Errorf("request after the time that was told: %d", got)
		}
	})
}

func TestClientsPerDocument(t *testing.T) {
	limitedBubble(t, Limits{ClientsPerDocument: 2}, func(t *testing.T, r *rig) {
		id, other := r.create(), r.create()
		a, b := r.join(id), r.read(id)
		c := r.dial()
		want := connectError{Code: 429, Message: connectTooMany.message, CanRetry: true, RetryAfter: 300, RetryAfterMS: 300_000}
		if got := c.connectErrorOf(connectBody(id, r.token(id), "read")); got != want {
			t.Errorf("third client: %+v, want %+v", got, want)
		}
		c.connect(connectBody(other, r.token(other), "read"))
		b.close()
		synctest.Wait() // its place is free once it is noticed that it left
		r.read(id)
		for _, e := range a.all() {
			if strings.Contains(string(e.args[0]), "third") {
				t.Errorf("the room was told of a client that was refused: %s", e.args)
			}
		}
	})
}

func TestSocketWithoutDocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		start := time.Now()
		c := r.dial()
		c.awaitEnd()
		if got := time.Since(start).Round(time.Second); got != 30*time.Second {
			t.Errorf("silent socket was closed after %v, want %v", got, 30*time.Second)
		}
		c = r.dial()
		time.Sleep(connectWithin - time.Second)
		c.connectErrorOf(connectBody(id, "", "read"))
		time.Sleep(connectWithin - time.Second)
		c.connect(connectBody(id, r.token(id), "read"))
		time.Sleep(2 * connectWithin)
		select {
		case <-c.ended:
			t.Error("socket with a document was closed")
		default:
		}
	})
}

// Clients stop at the first refusal; the others are cut off.
func TestWhoIgnoresRefusalsIsCutOff(t *testing.T) {
	for name, flood := range map[string]func(c *client){
		"Ops":     func(c *client) { c.submit("x") },
		"Signals": func(c *client) { c.emit("submitSignal", c.id, many(1, map[string]any{"content": "x"})) },
		"Connects": func(c *client) {
			c.emit("connect_document", "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			limitedBubble(t, Limits{ClientOps: 1, ClientSignals: 1}, func(t *testing.T, r *rig) {
				id := r.create()
				a, b := r.join(id), r.read(id)
				for range socketConnects*burstSeconds + maxRefusals {
					flood(a)
				}
				a.awaitEnd()
				refusals := 0
				for len(a.events) > 0 {
					if e := <-a.events; e.name == "nack" || e.name == "connect_document_error" && !strings.Contains(string(e.args[0]), "Invalid") {
						refusals++
					}
				}
				if refusals != maxRefusals {
					t.Errorf("%d refusals, want %d", refusals, maxRefusals)
				}
				b.emit("submitSignal", b.id, many(1, map[string]any{"content": "still here"}))
				b.await("signal")
			})
		})
	}
}

func TestOpSize(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for _, test := range []struct {
			name, contents string
			taken          bool
		}{
			{"AtTheLimit", strings.Repeat("x", maxOpUnits), true},
			{"OneMore", strings.Repeat("x", maxOpUnits+1), false},
			{"EscapesCountOnce", strings.Repeat(`"`, 450_000), true},
			{"CountedAsClientsDo", strings.Repeat("é", 450_000), true},
		} {
			id := r.create()
			c := r.join(id)
			c.submit(test.contents)
			if test.taken {
				c.awaitMine(1)
				continue
			}
			want := nackContent{413, badRequest, nackTooLarge.message, 0}
			if got := c.awaitNack(); got.Content != want {
				t.Errorf("%s: %+v, want %+v", test.name, got.Content, want)
			}
			if got := contentsOf(t, r.log(id)); len(got) != 0 {
				t.Errorf("%s: an op was sequenced", test.name)
			}
		}
	})
}

func TestUploadsOverTheLimits(t *testing.T) {
	limitedBubble(t, Limits{UploadBytes: 1000, DocumentBytes: 2000}, func(t *testing.T, r *rig) {
		id := r.create()
		blob := func(n int) string { return `{"content":"` + strings.Repeat("x", n) + `","encoding":"utf-8"}` }
		if a := r.call("POST", "/repos/t1/git/blobs", r.token(id), blob(1000)); a.status != 201 {
			t.Errorf("blob at the limit: %d %s", a.status, a.body)
		}
		r.call("POST", "/repos/t1/git/blobs", r.token(id), blob(1001)).
			want(t, 400, "The summary cannot be stored: blob of 1001 bytes, over the limit of 1000")
		r.call("POST", "/repos/t1/git/blobs", r.token(id), blob(1<<20+1000*4/3)).want(t, 413, "The request body is larger than 1049909 bytes.")
		// What unpacks to more than it has bytes is not unpacked.
		packed := wrap("POST", "/repos/t1/git/blobs", authorization("/repos/", r.token(id)), "\x1f\x8b\x08")
		packed.Header.Set("Content-Encoding", "gzip")
		r.do(packed).want(t, 400, "Failed to parse json body")
	})
}

// The bodies of all uploads together are bounded before any of them is read; half is for
// others than the tenant that sends much.
func TestUploadsAtOnce(t *testing.T) {
	limitedBubble(t, Limits{UploadBytes: 200_000, UploadsBytes: 4 << 20}, func(t *testing.T, r *rig) {
		id := r.create()
		authorized := authorization("/repos/", r.token(id))["Authorization"]
		// Bodies of 1 MB each are announced and not sent.
		var stuck []net.Conn
		begin := func() net.Conn {
			conn, err := r.pipes.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST /repos/t1/git/blobs HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 1000000\r\n\r\n{", authorized)
			return conn
		}
		for range 2 {
			stuck = append(stuck, begin())
		}
		synctest.Wait()
		started := time.Now()
		body := `{"content":"` + strings.Repeat("x", 100_000) + `","encoding":"utf-8"}`
		a := r.call("POST", "/repos/t1/git/blobs", r.token(id), body)
		var throttledAnswer struct{ Code, RetryAfter int }
		a.decode(t, 429, &throttledAnswer)
		if throttledAnswer.RetryAfter != 5 || time.Since(started) != uploadPatience {
			t.Errorf("answered %s after %v", a.body, time.Since(started))
		}
		// Small ones find room, reads need none.
		if a := r.call("POST", "/repos/t1/git/blobs", r.token(id), `{"content":"x","encoding":"utf-8"}`); a.status != 201 {
			t.Errorf("a small upload: %d %s", a.status, a.body)
		}
		if a := r.call("GET", "/repos/t1/git/summaries/latest", r.token(id), ""); a.status != 200 {
			t.Errorf("a read: %d %s", a.status, a.body)
		}
		if !r.server.uploads.TryAcquire(2 << 20) {
			t.Error("nothing is left for other tenants")
		} else {
			r.server.uploads.Release(2 << 20)
		}
		// One that ends makes room for one that waits.
		go func() {
			time.Sleep(time.Second)
			stuck[0].Close()
		}()
		started = time.Now()
		if a := r.call("POST", "/repos/t1/git/blobs", r.token(id), body); a.status != 201 || time.Since(started) != time.Second {
			t.Errorf("an upload that waited: %d %s after %v", a.status, a.body, time.Since(started))
		}
		stuck[1].Close()
		time.Sleep(time.Second) // net/http lingers on connections that it closes
		if u := r.server.usage.of(testTenant); !u.uploads.TryAcquire(2<<20) || !r.server.uploads.TryAcquire(4<<20) {
			t.Error("room was not given back")
		}
	})
}

func TestLimitsCheck(t *testing.T) {
	for name, test := range map[string]struct {
		limits Limits
		want   string
	}{
		"Defaults":          {Limits{}, ""},
		"Raised":            {Limits{UploadBytes: 64 << 20, DocumentBytes: 200 << 20, TenantOps: 100_000}, ""},
		"Negative":          {Limits{ClientOps: -1}, "--client-ops-per-second -1 must be between 0 and"},
		"TooLarge":          {Limits{UploadBytes: 1 << 40, DocumentBytes: 1 << 30}, "--max-upload-bytes"},
		"UploadOverWhole":   {Limits{UploadBytes: 96 << 20}, "no document could take such an upload"},
		"TooManyPerTenant":  {Limits{TenantRequests: 1 << 31}, "--tenant-requests-per-second"},
		"NegativeDocuments": {Limits{DocumentBytes: -1}, "--max-document-bytes"},
	} {
		err := test.limits.Check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// elementsOf is what countElements counts, by a decoder.
func elementsOf(arg []byte) (n int, ok bool) {
	var list []json.RawMessage
	if json.Unmarshal(arg, &list) != nil {
		return 0, false
	}
	for _, e := range list {
		var inner []json.RawMessage
		if isArray(e) && json.Unmarshal(e, &inner) == nil {
			n += max(1, len(inner))
		} else {
			n++
		}
	}
	return n, true
}

func FuzzCountElements(f *testing.F) {
	for _, s := range []string{
		`[]`, `[1]`, `[[]]`, `[[],[]]`, `[[1,2],3]`, `[3, [1, 2] ]`, `[[[1,2],[3]],{"a":[1,[2]]},"],[\"",[{"b":"]"}]]`, `[ [ ] , "\\" ]`, `[null,[true,-1e5]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, arg []byte) {
		if want, ok := elementsOf(arg); ok && isArray(arg) {
			if got := countElements(arg); got != want {
				t.Errorf("%s: %d elements, want %d", arg, got, want)
			}
		}
	})
}

func FuzzUTF16Units(f *testing.F) {
	for _, s := range []string{`""`, `"abc"`, `"\"\\\n\u00e9"`, `"é€😀"`, `"\ud83d\ude00"`, `"\ud83d"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s string
		if len(raw) == 0 || raw[0] != '"' || raw[len(raw)-1] != '"' || !validText(raw) || json.Unmarshal(raw, &s) != nil {
			return
		}
		if got, want := utf16Units(raw), len(utf16.Encode([]rune(s))); got != want {
			t.Errorf("%s: %d units, want %d", raw, got, want)
		}
	})
}

// validText: a socket takes nothing else.
func validText(raw []byte) bool { return strings.ToValidUTF8(string(raw), "") == string(raw) }

// A token that creates a document works once, however often it is sent at once.
func TestCreateTokenReplayedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		token := r.token("", func(m jwt.MapClaims) { m["jti"] = newUUID() })
		const n = 20
		statuses := make(chan int, n)
		for range n {
			go func() { statuses <- r.call("POST", "/documents/t1", token, classicBody).status }()
		}
		synctest.Wait()
		made := 0
		for range n {
			switch status := <-statuses; status {
			case 201:
				made++
			case 403:
			default:
				t.Errorf("got %d, want 201 or 403", status)
			}
		}
		if made != 1 {
			t.Errorf("%d documents, want 1", made)
		}
	})
}
