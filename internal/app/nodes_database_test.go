package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// A node that is killed at any step of a rewrap disturbs nobody whom another node serves,
// and leaves a relay that opens: under the old version or the new one, and with the root key
// that it always had.
func TestScenario37KillANodeAtEachStepOfARewrap(t *testing.T) {
	f := newFleet(t)
	survivor, doomed := f.nodes[0], f.mortal()
	versions := []string{f.newVersion(), f.newVersion()}
	if err := survivor.patchKey(t.Context(), f.relayPath, versions[0]); err != nil {
		t.Fatal(err)
	}
	writer := f.write(survivor)
	generation := f.generation(survivor)
	var documents []string
	for step := 1; ; step++ {
		old, next := versions[(step+1)%2], versions[step%2]
		made, err := f.endpoint(doomed).Create(t.Context()) // by a process that has just started
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		documents = append(documents, made.ID)
		acked := writer.acked.Load()
		doomed.dieAt(t, step)
		failed := doomed.patchKey(t.Context(), f.relayPath, next)
		killed := failed != nil && doomed.died(func() bool { return true })
		if failed != nil && !killed {
			t.Fatalf("step %d: not killed, and %v", step, failed)
		}
		if kid := f.keyInForce(survivor); kid != old && kid != next {
			t.Fatalf("step %d: under %s, want the old version or the new one", step, kid)
		}
		if err := survivor.patchKey(t.Context(), f.relayPath, next); err != nil {
			t.Fatalf("step %d: the same update through another node: %v", step, err)
		}
		if got := f.generation(survivor); got != generation+1 || f.keyInForce(survivor) != next {
			t.Fatalf("step %d: wrapped %d times, last by %s; want once by %s", step, got-generation, f.keyInForce(survivor), next)
		}
		generation++
		f.await("the client of another node writes on", 10*time.Second, func() bool { return writer.acked.Load() > acked })
		if !killed {
			if t.Logf("killed at each of %d steps", step-1); step <= leastSteps {
				t.Errorf("killed at %d steps, want at least %d", step-1, leastSteps)
			}
			break
		}
		f.again(doomed)
	}
	f.undisturbed(documents, writer)
}

// Of nodes that find a new version at the same moment one rewraps; a node that is killed
// while it does leaves it to another one.
func TestScenario37RotationRunsOnceWhileNodesDie(t *testing.T) {
	f := newFleet(t)
	survivors := []*member{f.nodes[0], f.node()}
	doomed := f.mortal()
	writer := f.write(survivors[1])
	generation := f.generation(survivors[0])
	var documents []string
	for step := 1; ; step++ {
		made, err := f.endpoint(doomed).Create(t.Context())
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		documents = append(documents, made.ID)
		version := f.newVersion()
		doomed.dieAt(t, step)
		doomed.lookSooner(t)
		killed := doomed.died(func() bool { return f.keyInForce(survivors[0]) == version })
		for _, m := range survivors {
			m.lookSooner(t)
		}
		for _, m := range survivors {
			f.await("every node follows the key", 30*time.Second, func() bool { return m.app.custody.Status(f.resource).KeyID == version })
		}
		if got := f.generation(survivors[0]); got != generation+1 {
			t.Fatalf("step %d: wrapped %d times, want once", step, got-generation)
		}
		generation++
		if !killed {
			if t.Logf("killed at each of %d steps", step-1); step <= leastSteps {
				t.Errorf("killed at %d steps, want at least %d", step-1, leastSteps)
			}
			break
		}
		f.again(doomed)
	}
	f.undisturbed(documents, writer)
}

// leastSteps is how many steps a node takes at least to rewrap a root key; fewer mean that a test
// shows little.
const leastSteps = 10

func (f *fleet) history(m *member) []custody.Wrap {
	f.t.Helper()
	all, err := m.app.custody.History(f.t.Context(), f.resource)
	if err != nil {
		f.t.Fatal(err)
	}
	return all
}

// generation is how often the relay's root key was wrapped.
func (f *fleet) generation(m *member) uint64 {
	f.t.Helper()
	return f.history(m)[0].Generation
}

// keyInForce is the version that holds the relay's root key.
func (f *fleet) keyInForce(m *member) string {
	f.t.Helper()
	return f.history(m)[0].KeyID
}

// undisturbed stops clients that must not have noticed anything, and has their documents and
// the others opened anew.
func (f *fleet) undisturbed(documents []string, writers ...*typing) {
	f.t.Helper()
	for _, w := range writers {
		if n := w.errors.Load(); n > 0 {
			f.t.Errorf("a client was disturbed %d times: %v", n, w.said())
		}
		w.stop()
		documents = append(documents, w.document.ID)
	}
	f.opensAnew(documents)
}

// opensAnew has a node that knows nothing read every document, with no other one left.
func (f *fleet) opensAnew(documents []string) {
	f.t.Helper()
	for _, m := range f.nodes {
		m.stop()
		if m.process != nil {
			m.kill()
		}
	}
	last := f.node()
	deadline := time.Now().Add(30 * time.Second) // those of a node that was killed are waited for
	for _, id := range documents {
		for {
			_, err := f.endpoint(last).Deltas(f.t.Context(), id, 0, 0)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				f.t.Fatalf("a document does not open in a new process: %v", err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// The keys of containers are replaced through one node, and the one that has a container open
// goes on under the new key: no client notices, and a node that knows nothing opens all of it.
func TestNodesReplaceDocumentKeys(t *testing.T) {
	f := newFleet(t)
	a, b := f.nodes[0], f.node()
	f.await("both are nodes", 20*time.Second, func() bool { return len(a.app.node.Members()) == 2 && len(b.app.node.Members()) == 2 })
	var all []*typing
	of := map[*member]*typing{}
	for _, m := range f.nodes {
		for of[m] == nil {
			w := f.writeAnywhere(a)
			if all = append(all, w); m.owns(f, w) {
				of[m] = w
			}
		}
	}
	// sealedUnder counts documents by the number of keys that their segments are under.
	sealedUnder := func() map[int]int {
		keys, counts := map[envelope.DocumentHandle]map[envelope.KeyID]bool{}, map[int]int{}
		err := a.app.store.Walk(t.Context(), func(s store.Stored) error {
			if s.Part != store.PartHeader {
				return nil
			}
			h, err := envelope.ParseHeader(slices.Clone(s.Value))
			if err != nil {
				return err
			}
			if keys[s.Document] == nil {
				keys[s.Document] = map[envelope.KeyID]bool{}
			}
			keys[s.Document][h.Place().KeyID] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			counts[len(k)]++
		}
		return counts
	}
	rotate := func(m *member, path string, want int) {
		t.Helper()
		var answer struct{ Rotated int }
		if err := m.Do(t.Context(), "POST", f.relayPath+path, preview, nil, &answer); err != nil || answer.Rotated != want {
			t.Fatalf("%s: %d keys were replaced, want %d; %v", path, answer.Rotated, want, err)
		}
	}
	under := func(want map[int]int) {
		t.Helper()
		var got map[int]int
		f.await("all write under the new keys", 20*time.Second, func() bool {
			got = sealedUnder()
			return maps.Equal(got, want)
		})
	}
	under(map[int]int{1: len(all)})
	rotate(a, "/rotateDocumentKeys", len(all))
	under(map[int]int{2: len(all)})
	// One container each, through the node that has it not.
	rotate(a, "/fluidRelayContainers/"+of[b].document.ID+"/rotateKey", 1)
	rotate(b, "/fluidRelayContainers/"+of[a].document.ID+"/rotateKey", 1)
	want := map[int]int{3: 2}
	if rest := len(all) - 2; rest > 0 {
		want[2] = rest
	}
	under(want)
	f.undisturbed(nil, all...)
}

// A drill is played on the node that was asked; its report says so, and names the one that
// served the relay on.
func TestNodesDrillOnOneOfThem(t *testing.T) {
	f := newFleet(t)
	a, b := f.nodes[0], f.node()
	f.await("both are nodes", 20*time.Second, func() bool { return len(a.app.node.Members()) == 2 })
	for _, m := range f.nodes {
		if err := m.app.custody.Admit(t.Context(), f.resource); err != nil {
			t.Fatal(err)
		}
	}
	var report struct {
		Node   string
		Others []string `json:"nodesNotCovered"`
	}
	if err := a.Do(t.Context(), "POST", f.relayPath+"/drillEncryption", preview, map[string]int{"holdSeconds": 1}, &report); err != nil {
		t.Fatal(err)
	}
	if report.Node != a.relay || !slices.Equal(report.Others, []string{b.relay}) {
		t.Errorf("the report is of %s and not of %v, want %s and %s", report.Node, report.Others, a.relay, b.relay)
	}
	f.await("the relay stops", time.Minute, func() bool { return a.status(f).State == custody.Unusable })
	if s := b.status(f); s.State != custody.Healthy {
		t.Errorf("on the other node the key is %s (%s)", s.State, s.Reason)
	}
}

// What one node finds out about a key all of them say within a second, and they stay ready:
// the key of one relay says nothing of the others.
func TestNodesAgreeOnAKey(t *testing.T) {
	f := newFleet(t)
	f.node()
	f.node()
	version := f.newVersion()
	if err := f.nodes[0].patchKey(t.Context(), f.relayPath, version); err != nil {
		t.Fatal(err)
	}
	writers := []*typing{f.write(f.nodes[0]), f.write(f.nodes[1]), f.write(f.nodes[2])}
	for _, m := range f.nodes {
		f.await("every node follows", 30*time.Second, func() bool { return m.status(f).State == custody.Healthy && m.status(f).KeyID == version })
	}
	f.enable(version, false)
	f.await("all nodes know", time.Minute, func() bool {
		for _, m := range f.nodes {
			if m.status(f).State != custody.Unusable {
				return false
			}
		}
		return true
	})
	first := slices.MinFunc(f.nodes, func(a, b *member) int { return a.status(f).Enforced.Compare(b.status(f).Enforced) })
	var told time.Time
	f.await("the node that found out tells the others", 10*time.Second, func() bool {
		told = first.postedAfter(first.status(f).Enforced)
		return !told.IsZero()
	})
	for _, m := range f.nodes {
		took := m.status(f).Enforced.Sub(told)
		t.Logf("%s stopped %s after the news was in the database", m.relay, took.Round(time.Millisecond))
		if took > time.Second {
			t.Errorf("%s stopped %s after the news was in the database, want within a second", m.relay, took)
		}
	}
	for _, w := range writers { // what was on its way to it has arrived
		f.await("its client is sent away", 10*time.Second, w.offline)
	}
	acked := func() (n int64) {
		for _, w := range writers {
			n += w.acked.Load()
		}
		return n
	}
	before := acked()
	for _, m := range f.nodes { // as 'tidelock cmk status' asks
		var answer struct {
			Properties struct{ State, Reason string }
		}
		if err := m.Do(t.Context(), "GET", f.relayPath+"/encryptionStatus", preview, nil, &answer); err != nil {
			t.Fatal(err)
		}
		if p := answer.Properties; p.State != string(custody.Unusable) || p.Reason != "KeyDisabled" {
			t.Errorf("%s says %+v", m.relay, p)
		}
		if got := m.ready(t); got != http.StatusOK {
			t.Errorf("%s: readiness %d while a key is disabled, want 200", m.relay, got)
		}
	}
	if after := acked(); after != before {
		t.Errorf("%d ops were acknowledged under a disabled key", after-before)
	}
	f.enable(version, true)
	for _, m := range f.nodes {
		f.await("every node serves again", 30*time.Second, func() bool { return m.status(f).State == custody.Healthy })
	}
	f.await("clients go on", 90*time.Second, func() bool { return acked() > before })
}

func (m *member) status(f *fleet) custody.Status { return m.app.custody.Status(f.resource) }

func (m *member) ready(t *testing.T) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", m.relay+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// A node that the database does not answer fences itself when its lease ends, before another
// one has its documents, and is a node again when the database answers.
func TestNodesCutOffFromTheDatabase(t *testing.T) {
	for _, fault := range []string{"Silent", "Refused"} {
		t.Run(fault, func(t *testing.T) {
			f := newFleet(t)
			proxy := pgtest.NewProxy(t, f.database)
			cut := f.nodeOn(proxy.URL(f.url))
			other := f.nodes[0]
			f.await("both are nodes", 20*time.Second, func() bool { return len(other.app.node.Members()) == 2 && cut.ready(t) == http.StatusOK })
			writer := f.write(cut)
			f.await("the client writes", 10*time.Second, func() bool { return writer.acked.Load() > 0 })
			if fault == "Silent" {
				proxy.Set(pgtest.Silence)
			} else {
				proxy.Set(pgtest.LoseRequest)
			}
			start := time.Now()
			f.await("its lease ends", 10*time.Second, func() bool { return !cut.app.node.Serving() })
			fenced := time.Since(start)
			f.await("its client is sent away", 10*time.Second, writer.offline)
			if got := cut.ready(t); got != http.StatusServiceUnavailable {
				t.Errorf("readiness of the node that is cut off: %d", got)
			}
			acked := writer.acked.Load()
			f.await("the other has the document", 20*time.Second, func() bool {
				_, err := f.endpoint(other).Deltas(t.Context(), writer.document.ID, 0, 0)
				return err == nil
			})
			t.Logf("fenced after %s, taken over after %s", fenced.Round(10*time.Millisecond), time.Since(start).Round(10*time.Millisecond))
			if fenced > cluster.Lease {
				t.Errorf("fenced only after %s, when others may have its documents", fenced)
			}
			if got := writer.acked.Load(); got != acked {
				t.Errorf("%d ops were acknowledged by a node that is fenced", got-acked)
			}
			proxy.Set(pgtest.None)
			proxy.Cut()
			f.await("it is ready again", 30*time.Second, func() bool { return cut.ready(t) == http.StatusOK })
			f.await("its client goes on", 30*time.Second, func() bool { return writer.acked.Load() > acked })
			f.hasAll(other, writer)
		})
	}
}

// hasAll stops a client and compares what was acknowledged to it with the log.
func (f *fleet) hasAll(m *member, w *typing) {
	f.t.Helper()
	w.stop()
	ops, err := f.endpoint(m).Deltas(f.t.Context(), w.document.ID, 0, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	typed := int64(0)
	for i, op := range ops {
		if op.Seq != int64(i)+1 {
			f.t.Fatalf("op %d has the number %d", i+1, op.Seq)
		}
		if op.Type == "op" {
			typed++
		}
	}
	if got := w.acked.Load(); typed < got {
		f.t.Errorf("the log has %d ops of %d that were acknowledged", typed, got)
	}
}

// When the database has no room, the nodes whose writes fail say that they are not ready, and tell
// clients to try again; when there is room, all go on by themselves, and nothing is missing.
func TestNodesWithAFullDisk(t *testing.T) {
	disk := pgtest.SmallDisk(t, "64m")
	server := pgtest.Start(t)
	f := newFleetOn(t, server, server.NewDatabaseOn(t, disk))
	f.node()
	writer := f.write(f.nodes[1])
	f.await("the client writes", 10*time.Second, func() bool { return writer.acked.Load() > 10 })
	admin, err := pgx.Connect(t.Context(), f.url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), "CREATE TABLE filler (b text) WITH (autovacuum_enabled = off)"); err != nil {
		t.Fatal(err)
	}
	for _, rows := range []int{1000, 10, 1} { // to the last page
		for err = nil; err == nil; {
			_, err = admin.Exec(t.Context(), fmt.Sprintf("INSERT INTO filler SELECT repeat('x', 700) FROM generate_series(1, %d)", rows))
		}
	}
	f.await("the node whose writes fail notices", time.Minute, func() bool {
		return f.nodes[0].ready(t) == http.StatusServiceUnavailable || f.nodes[1].ready(t) == http.StatusServiceUnavailable
	})
	f.await("the client is told", 30*time.Second, func() bool { return writer.errors.Load() > 0 })
	for text := range writer.said() { // drivers try again after 500 and 503, and after nothing else here
		if !strings.Contains(text, ": 503 ") && !strings.Contains(text, ": 500 ") && !strings.Contains(text, "disconnect") {
			t.Errorf("the client was told %q, which it does not try again after", text)
		}
	}
	acked := writer.acked.Load()
	if _, err := admin.Exec(t.Context(), "DROP TABLE filler"); err != nil {
		t.Fatal(err)
	}
	for _, m := range f.nodes {
		f.await("nodes are ready again", time.Minute, func() bool { return m.ready(t) == http.StatusOK })
	}
	f.await("the client goes on", time.Minute, func() bool { return writer.acked.Load() > acked })
	f.hasAll(f.nodes[0], writer)
}

// owns says whether a client's document is placed on m, as m itself knows.
func (m *member) owns(f *fleet, w *typing) bool {
	at, err := m.app.node.Locate(f.t.Context(), cluster.Document{Tenant: f.tenant, ID: w.document.ID})
	return err == nil && at.Self
}

// Writes that contradict each other and come to two nodes at once end in one state, all of it
// there or none.
func TestNodesTakeConflictingWrites(t *testing.T) {
	f := newFleet(t)
	a, b := f.nodes[0], f.node()
	both := func(on func(m *member) error) (errs [2]error) {
		var all sync.WaitGroup
		for i, m := range []*member{a, b} {
			all.Go(func() { errs[i] = on(m) })
		}
		all.Wait()
		return errs
	}
	// refusal is what a node may say to the one that was slower.
	refusal := func(err error, statuses ...int) {
		t.Helper()
		var refused *cli.APIError
		if err == nil || errors.As(err, &refused) && slices.Contains(statuses, refused.Status) {
			return
		}
		t.Errorf("got %v, want success or one of %v", err, statuses)
	}
	subscription := "/subscriptions/" + a.profile.SubscriptionID
	group := func(name string) string { return subscription + "/resourceGroups/" + name }
	located := map[string]any{"location": "westus2"}
	makeGroup := func(name string) {
		t.Helper()
		if err := a.Do(t.Context(), "PUT", group(name), "2021-04-01", located, nil); err != nil {
			t.Fatal(err)
		}
	}
	relay := func(name, of string) string {
		return group(of) + "/providers/Microsoft.FluidRelay/fluidRelayServers/" + name
	}
	type shown struct {
		Properties struct {
			Tenant string `json:"frsTenantId"`
		}
	}
	// whole checks that a relay is there for both nodes and works, or for neither.
	whole := func(path string) bool {
		t.Helper()
		var views [2]shown
		var keys [2]struct{ Key1 string }
		errs := [2]error{}
		for i, m := range []*member{a, b} {
			errs[i] = m.Do(t.Context(), "GET", path, released, nil, &views[i])
			if errs[i] == nil {
				errs[i] = m.Do(t.Context(), "POST", path+"/listKeys", released, nil, &keys[i])
			}
			refusal(errs[i], 404)
		}
		if (errs[0] == nil) != (errs[1] == nil) || views[0] != views[1] || keys[0] != keys[1] {
			t.Fatalf("the nodes disagree: %v, %v", errs[0], errs[1])
		}
		if errs[0] != nil {
			return false
		}
		for _, m := range []*member{a, b} {
			e := f.endpoint(m)
			e.Tenant, e.Key = views[0].Properties.Tenant, keys[0].Key1
			if _, err := e.Create(t.Context()); err != nil {
				t.Fatalf("the relay does not work: %v", err)
			}
		}
		return true
	}

	t.Run("TheSameRelayMadeTwice", func(t *testing.T) {
		makeGroup("g1")
		for i := range 10 {
			path := relay(fmt.Sprint("r", i), "g1")
			for _, err := range both(func(m *member) error { return m.Do(t.Context(), "PUT", path, released, located, nil) }) {
				refusal(err, 409)
			}
			if !whole(path) {
				t.Fatal("nobody made it")
			}
		}
	})
	t.Run("ARelayMadeAndDeleted", func(t *testing.T) {
		makeGroup("g2")
		there := 0
		for i := range 20 {
			path := relay("r", "g2")
			for _, err := range both(func(m *member) error {
				if m == a {
					time.Sleep(time.Duration(i) * time.Millisecond)
					return m.Do(t.Context(), "DELETE", path, released, nil, nil)
				}
				return m.Do(t.Context(), "PUT", path, released, located, nil)
			}) {
				refusal(err, 409, 404)
			}
			if whole(path) {
				there++
			}
		}
		t.Logf("20 times made and deleted at once: there %d times", there)
	})
	t.Run("TwoKeysAtOnce", func(t *testing.T) {
		versions := []string{f.newVersion(), f.newVersion()}
		generation := f.generation(a)
		for range 10 {
			errs := both(func(m *member) error {
				version := versions[0]
				if m == b {
					version = versions[1]
				}
				return m.patchKey(t.Context(), f.relayPath, version)
			})
			moved := uint64(0)
			for _, err := range errs {
				if refusal(err, 409); err == nil {
					moved++
				}
			}
			var view struct {
				Properties struct {
					Encryption struct {
						CMK struct {
							URL string `json:"keyEncryptionKeyUrl"`
						} `json:"customerManagedKeyEncryption"`
					} `json:"encryption"`
				} `json:"properties"`
			}
			if err := b.Do(t.Context(), "GET", f.relayPath, released, nil, &view); err != nil {
				t.Fatal(err)
			}
			if shown, used := view.Properties.Encryption.CMK.URL, f.keyInForce(a); shown != used {
				t.Fatalf("the resource says %s, the root key is under %s", shown, used)
			}
			now := f.generation(b)
			if moved == 0 || now < generation || now > generation+moved {
				t.Fatalf("%d updates were accepted, and the root key was wrapped %d times", moved, now-generation)
			}
			generation = now
			if !whole(f.relayPath) {
				t.Fatal("the relay is gone")
			}
		}
	})
	t.Run("AGroupDeletedWhileItIsFilled", func(t *testing.T) {
		for i := range 15 {
			name := fmt.Sprint("filled", i)
			makeGroup(name)
			path := relay("r", name)
			errs := both(func(m *member) error {
				if m == a {
					time.Sleep(time.Duration(i) * 3 * time.Millisecond)
					return m.Do(t.Context(), "DELETE", group(name), "2021-04-01", nil, nil)
				}
				return m.Do(t.Context(), "PUT", path, released, located, nil)
			})
			refusal(errs[0])
			refusal(errs[1], 409, 404)
			all, err := b.app.relays.Resources(context.Background(), a.profile.SubscriptionID)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range all {
				if one.ID == path {
					t.Fatalf("the relay survived its group (made: %v)", errs[1])
				}
			}
		}
	})
	t.Run("AGroupDeletedTwice", func(t *testing.T) {
		makeGroup("twice")
		for i := range 3 {
			if err := a.Do(t.Context(), "PUT", relay(fmt.Sprint("r", i), "twice"), released, located, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range both(func(m *member) error { return m.Do(t.Context(), "DELETE", group("twice"), "2021-04-01", nil, nil) }) {
			refusal(err, 404, 409)
		}
		// Whoever was refused because of the other tries again.
		refusal(a.Do(t.Context(), "DELETE", group("twice"), "2021-04-01", nil, nil), 404, 204)
		if err := b.Do(t.Context(), "GET", group("twice"), "2021-04-01", nil, nil); err == nil {
			t.Error("the group is still there")
		}
	})
}
