package relay

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

// values gathers all series: name{label="value",…} to its value, or the number of
// observations of a histogram.
func (r *rig) values() map[string]float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

// wantValues compares some series once all is at rest.
func (r *rig) wantValues(t *testing.T, want map[string]float64) {
	t.Helper()
	synctest.Wait()
	got := r.values()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[name]; !ok || v != want[name] {
			t.Errorf("%s = %v (there: %t), want %v", name, v, ok, want[name])
		}
	}
}

func TestMetricsSayWhatHappened(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		writer := r.join(id, summarizer)
		reader := r.read(id)
		writer.propose(r)
		writer.settled()
		writer.submit("one", "two", "three")
		writer.awaitMine(3)
		reader.submit("refused")
		reader.await("nack")
		writer.emit("submitSignal", writer.id, []any{map[string]any{"content": "s"}, map[string]any{"content": "s", "targetClientId": reader.id}})
		reader.await("signal")
		r.plain("GET", "/deltas/t1/"+id, r.token(id), "")
		r.plain("GET", "/deltas/t1/"+id, "", "")
		r.plain("GET", "/nowhere/"+id, "", "")
		r.do(wrapped("/deltas/t1/"+id, "header=A%3A+b"))
		r.wantValues(t, map[string]float64{
			`tidelock_relay_sessions{mode="write"}`:                                                 1,
			`tidelock_relay_sessions{mode="read"}`:                                                  1,
			`tidelock_relay_documents`:                                                              1,
			`tidelock_relay_ops_sequenced_total`:                                                    6, // join, three, summarize, ack
			`tidelock_relay_unsummarized_max_ops`:                                                   5, // the summary holds the join
			`tidelock_relay_long_log_documents`:                                                     0,
			`tidelock_relay_signals_total`:                                                          2,
			`tidelock_relay_nacks_total{code="400"}`:                                                1,
			`tidelock_relay_nacks_total{code="403"}`:                                                0,
			`tidelock_relay_summaries_total{verdict="ack"}`:                                         1,
			`tidelock_relay_summaries_total{verdict="nack"}`:                                        0,
			`tidelock_relay_document_load_seconds{result="loaded"}`:                                 1,
			`tidelock_relay_broadcast_queue_bytes`:                                                  0,
			`tidelock_relay_rest_requests_total{route="GET /deltas/{tenant}/{id}",status="2xx"}`:    1,
			`tidelock_relay_rest_requests_total{route="GET /deltas/{tenant}/{id}",status="4xx"}`:    1,
			`tidelock_relay_rest_requests_total{route="other",status="4xx"}`:                        2,
			`tidelock_relay_rest_requests_total{route="GET /documents/{tenant}/{id}",status="2xx"}`: 0,
			`tidelock_custody_resources{state="Healthy"}`:                                           1,
		})
		if got := r.values()["tidelock_relay_append_seconds"]; got < 4 || got > 6 {
			t.Errorf("%v appends, want 4 to 6", got)
		}
		writer.close()
		reader.close()
		r.wantValues(t, map[string]float64{`tidelock_relay_sessions{mode="write"}`: 0, `tidelock_relay_sessions{mode="read"}`: 0})
	})
}

func TestLoadsByResult(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		r.headOf(id)
		if _, _, err := r.server.open(t.Context(), r.tenant, "unknown"); !errors.Is(err, errUnknownDocument) {
			t.Errorf("open: %v, want errUnknownDocument", err)
		}
		r.wantValues(t, map[string]float64{
			`tidelock_relay_document_load_seconds{result="loaded"}`:  1,
			`tidelock_relay_document_load_seconds{result="unknown"}`: 1,
		})
		r.restart()
		r.store.swap(damaged{r.store.Store})
		if _, _, err := r.server.open(t.Context(), r.tenant, id); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("open: %v, want ErrCorrupt", err)
		}
		r.wantValues(t, map[string]float64{
			`tidelock_relay_document_load_seconds{result="damaged"}`: 1,
			`tidelock_relay_document_load_seconds{result="failed"}`:  0,
		})
	})
}

// damaged is a store whose objects are.
type damaged struct{ store.Store }

func (damaged) GetObject(context.Context, envelope.DocumentHandle, envelope.Name) (envelope.Sealed, error) {
	return envelope.Sealed{}, store.ErrCorrupt
}

// A log that nobody summarizes is shown, with its age, after a restart too; a summary
// ends it.
func TestLongLogIsShown(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.create()
		a := r.join(id, summarizer)
		for range longLogOps / 100 {
			a.submit(slices.Repeat([]string{"x"}, 100)...)
		}
		a.awaitMine(longLogOps)
		time.Sleep(time.Minute)
		long := map[string]float64{
			"tidelock_relay_long_log_documents":      1,
			"tidelock_relay_unsummarized_max_ops":    longLogOps + 1,
			"tidelock_relay_summary_age_max_seconds": 60,
		}
		r.wantValues(t, long)
		r.restart()
		r.headOf(id) // loads it; the writer has left, and with him the last client: two ops more
		long["tidelock_relay_unsummarized_max_ops"] += 2
		r.wantValues(t, long)

		b := r.join(id, summarizer)
		const last = longLogOps + 4 // b's join
		b.proposeAt(r, last)
		if ack := b.settled(); ack.Type != sequencer.TypeSummaryAck {
			t.Fatalf("%s %s, want summaryAck", ack.Type, ack.Contents)
		}
		r.wantValues(t, map[string]float64{
			"tidelock_relay_long_log_documents":      0,
			"tidelock_relay_unsummarized_max_ops":    2, // summarize and ack
			"tidelock_relay_summary_age_max_seconds": 0,
		})
	})
}

// unwritable is a store that takes no writes.
type unwritable struct{ store.Store }

func (unwritable) Writable(context.Context) error { return errDisk }

func TestReadiness(t *testing.T) {
	want := func(t *testing.T, r *rig, path string, status int) reply {
		t.Helper()
		a := r.plain("GET", path, "", "")
		if a.status != status {
			t.Errorf("%s: %d %s, want %d", path, a.status, a.body, status)
		}
		var detail restDetail
		if status == http.StatusServiceUnavailable {
			a.decode(t, status, &detail)
			if detail.RetryAfter < 1 || detail.RetryAfterMS < 1000 || a.header.Get("Retry-After") == "" {
				t.Errorf("%s: %s says not when to come back", path, a.body)
			}
		}
		return a
	}
	t.Run("Draining", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			a := r.join(r.create())
			gate := make(chan struct{})
			r.store.onAppend(func(ctx context.Context, app store.Append) error {
				<-gate
				return r.store.Store.Append(ctx, app)
			})
			a.submit("slow")
			synctest.Wait()
			down := make(chan error)
			go func() { down <- r.server.Shutdown(context.Background()) }()
			synctest.Wait()
			want(t, r, "/readyz", 503)
			want(t, r, "/healthz/ready", 503)
			want(t, r, "/livez", 200)
			close(gate)
			if err := <-down; err != nil {
				t.Errorf("shut down: %v", err)
			}
		})
	})
	t.Run("StoreTakesNoWrites", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *rig) {
			var log lockedBuffer
			r.output = &log
			r.restart()
			whole := r.store.Store
			r.store.swap(unwritable{whole})
			for range 3 {
				if a := want(t, r, "/readyz", 503); strings.Contains(string(a.body), errDisk.Error()) {
					t.Errorf("the answer tells strangers why: %s", a.body)
				}
			}
			want(t, r, "/livez", 200)
			synctest.Wait()
			if n := strings.Count(log.String(), "the store takes no writes"); n != 1 {
				t.Errorf("said %d times in the log, want once", n)
			}
			r.store.swap(whole)
			want(t, r, "/readyz", 200)
		})
	})
	// Traffic that is sent away, or a process that is ended, would not bring a key back.
	t.Run("KeyDisabled", func(t *testing.T) {
		keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
			a := r.join(r.create())
			v.set(keystore.Disabled)
			a.awaitEnd()
			want(t, r, "/readyz", 200)
			want(t, r, "/livez", 200)
			r.wantValues(t, map[string]float64{
				`tidelock_custody_resources{state="Unusable"}`: 1,
				`tidelock_relay_nacks_total{code="503"}`:       1,
				`cmk_revocation_to_enforcement_seconds`:        1,
			})
		})
	})
}

// lockedBuffer takes the log of many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Whatever clients say, in its right place or not, neither log nor metrics repeat it,
// and no series is added: what is in a label is known before anyone has come.
func TestLogAndMetricsTellNothing(t *testing.T) {
	const canary = "canary-7c1f"
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		var log lockedBuffer
		r.output = &log
		r.restart()
		before := slices.Sorted(maps.Keys(r.values()))

		named := func(m jwt.MapClaims) {
			m["user"] = map[string]any{"id": canary, "name": canary, "email": canary}
		}
		create := r.token("", named, func(m jwt.MapClaims) { m["jti"] = newUUID() })
		answer := r.call("POST", "/documents/t1", create, strings.ReplaceAll(classicBody, "hello", canary))
		if answer.status != 201 {
			t.Fatalf("create: %d %s", answer.status, answer.body)
		}
		id := strings.Trim(string(answer.body), `"`)
		token := r.token(id, named)
		tokens := []string{create, token}

		a := r.dial()
		a.connect(connectBody(id, token, "write", func(m map[string]any) {
			summarizer(m)
			m["client"].(map[string]any)["user"] = map[string]any{"id": canary}
			m["client"].(map[string]any)["details"].(map[string]any)["environment"] = canary
			m["nonce"] = canary
		}))
		a.submit(canary)
		a.awaitMine(1)
		a.proposeAt(r, 2)
		a.emit("submitSignal", a.id, []any{map[string]any{"content": canary}})
		a.emit("submitSignal", a.id, canary)
		a.emit("submitOp", a.id, []any{map[string]any{"type": canary}})
		a.emit("submitOp", a.id, []any{map[string]any{
			"clientSequenceNumber": 99, "referenceSequenceNumber": 1, "type": canary, "contents": canary, "metadata": canary,
		}})
		a.emit("submitOp", canary, []any{})
		a.emit(canary, canary)
		a.settled()

		b := r.dial()
		b.connectErrorOf(connectBody(canary, canary, "write"))
		b.connectErrorOf(connectBody(id, token, "write", func(m map[string]any) { m["versions"] = []string{canary} }))
		b.connectErrorOf(connectBody(id, token, "write", func(m map[string]any) { m["tenantId"] = canary }))
		b.write("42[" + canary)
		b.awaitEnd()

		const git = "/repos/t1/git/"
		blob := base64.StdEncoding.EncodeToString([]byte(canary))
		r.call("POST", git+"blobs", token, `{"content":"`+blob+`","encoding":"base64"}`)
		r.call("POST", git+"blobs", token, `{"`+canary+`":`)
		r.call("POST", git+"summaries", token, canary)
		r.call("GET", git+"trees/"+canary, token, "")
		r.call("GET", "/deltas/t1/"+id+"?from="+canary, token, "")
		r.call("GET", "/deltas/t1/"+id, canary, "")
		r.call("GET", "/deltas/"+canary+"/"+canary, token, "")
		r.plain("GET", "/"+canary, "", "")
		r.plain("GET", "/deltas//"+canary, token, "")
		r.plain(strings.ToUpper(strings.ReplaceAll(canary, "-", "")), "/deltas/t1/"+id, token, "")
		r.do(wrapped("/deltas/t1/"+id, canary+"="+canary))
		r.call("POST", "/api/v1/t1/"+id+"/broadcast-signal", token, `{"signalContent":{"contents":"`+canary+`"}}`)

		// A failed append, a damaged log, a lost key: what is said then is of our making.
		r.store.onAppend(func(context.Context, store.Append) error { return errDisk })
		a.submit(canary)
		a.awaitEnd()
		r.store.onAppend(nil)
		c := r.dial()
		c.connect(connectBody(id, token, "write"))
		v.set(keystore.Disabled)
		c.awaitEnd()
		v.set(0)
		time.Sleep(30 * time.Second)
		r.stop()

		said := log.String()
		for _, what := range []string{"session connected", "session ended", "connect refused", "route=\"GET /deltas/{tenant}/{id}\"", "document_id=" + id, "correlation_id=", errDisk.Error()} {
			if !strings.Contains(said, what) {
				t.Errorf("the log does not say %q", what)
			}
		}
		after := r.values()
		if got := slices.Sorted(maps.Keys(after)); !slices.Equal(got, before) {
			t.Errorf("series after all that:\n%q\nwant those of before:\n%q", got, before)
		}
		series := strings.Join(slices.Collect(maps.Keys(after)), "\n")
		for _, secret := range append(tokens, canary, strings.ToUpper(strings.ReplaceAll(canary, "-", "")), blob, testKey) {
			for place, text := range map[string]string{"log": said, "metrics": series} {
				if i := strings.Index(text, secret); i >= 0 {
					t.Errorf("%s holds %s: …%s…", place, secret, text[max(0, i-200):min(len(text), i+200)])
				}
			}
		}
		r.start() // for the rig's own end
	})
}

// The client's correlation id is in the log with its request and with its sessions.
func TestCorrelationIDIsLogged(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var log lockedBuffer
		r.output = &log
		r.restart()
		id := r.create()
		request := wrap("GET", "/deltas/t1/"+id, map[string]string{"Authorization": "Basic " + r.token(id), "X-Correlation-Id": "from-the-client"}, "")
		if got := r.do(request).header.Get("X-Correlation-Id"); got != "from-the-client" {
			t.Errorf("answer has correlation id %q, want the client's", got)
		}
		r.read(id).close()
		synctest.Wait()
		var correlated []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "correlation_id=") && strings.Contains(line, "document_id="+id) && strings.Contains(line, "tenant_id="+testTenant) {
				_, line, _ = strings.Cut(line, "msg=")
				correlated = append(correlated, line)
			}
		}
		if len(correlated) != 3 || !strings.Contains(correlated[0], "correlation_id=from-the-client") ||
			!strings.HasPrefix(correlated[1], `"session connected"`) || !strings.HasPrefix(correlated[2], `"session ended"`) {
			t.Errorf("got %q, want a request, a session connected and ended", correlated)
		}
	})
}

// What the goroutine of a document counts for each batch costs it no memory.
func TestCountingCostsNoMemory(t *testing.T) {
	m := newMetrics(nil)
	d := &document{durable: 10, state: history.State{HeadSeq: 3, HeadAt: 1}}
	if n := testing.AllocsPerRun(1000, func() {
		started := time.Now()
		m.appendSeconds.Observe(time.Since(started).Seconds())
		m.ops.Add(3)
		m.nacked(400)
		m.signals.Inc()
		d.noteTail()
	}); n != 0 {
		t.Errorf("%v allocations a batch, want none", n)
	}
}
