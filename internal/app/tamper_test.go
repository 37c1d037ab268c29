package app_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/bench"
)

// pair is a stored key and value.
type pair struct{ key, value []byte }

// TestTamperedRecordsAreRefused changes what is stored, a bit, a cut or a swap at
// a time, and asks a server on it for the document: it must refuse, or give what
// it gave before.
func TestTamperedRecordsAreRefused(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	r := newRig(t)
	document := writeDocument(t, r.endpoint)
	r.stop()
	r.start()
	wantOps, wantSummary := r.settled(document)
	r.stop()

	stored := r.pairs('d')
	records, objects := ofPart(stored, 'l'), append(ofPart(stored, 'o'), ofPart(stored, 'h')...)
	if len(records) < 5 || len(objects) < 5 {
		t.Fatalf("%d records and %d objects are too few to change", len(records), len(objects))
	}
	type change struct {
		what  string
		pairs []pair
	}
	var changes []change
	for _, p := range slices.Concat(records, objects) {
		changes = append(changes, change{"flip in " + p.name(), []pair{{p.key, flip(random, p.value)}}})
		changes = append(changes, change{"cut of " + p.name(), []pair{{p.key, p.value[:random.IntN(len(p.value))]}}})
	}
	for i := range len(records) - 1 {
		a, b := records[i], records[i+1]
		changes = append(changes, change{"swap of " + a.name(), []pair{{a.key, b.value}, {b.key, a.value}}})
	}
	for i := range len(objects) - 1 {
		a, b := objects[i], objects[i+1]
		changes = append(changes, change{"swap of " + a.name(), []pair{{a.key, b.value}, {b.key, a.value}}})
	}
	random.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
	refused := 0
	for _, c := range changes[:min(len(changes), 60)] {
		undo := r.write(c.pairs)
		r.start()
		ops, summary := r.ask(document)
		if ops.status == http.StatusOK && !bytes.Equal(ops.body, wantOps.body) {
			t.Errorf("%s: other ops were served", c.what)
		}
		if summary.status == http.StatusOK && !bytes.Equal(summary.body, wantSummary.body) {
			t.Errorf("%s: another summary was served", c.what)
		}
		if ops.status != http.StatusOK || summary.status != http.StatusOK {
			refused++ // else it was in a version that is no longer the newest, and is not read
		}
		r.stop()
		r.write(undo)
	}
	t.Logf("%d changes refused", refused)
	if refused < 30 {
		t.Errorf("%d of 60 changes were refused, too few for what is read", refused)
	}
	r.start()
	ops, summary := r.ask(document)
	if !bytes.Equal(ops.body, wantOps.body) {
		t.Errorf("with all changes undone the ops are %d %s, want %s", ops.status, ops.body, wantOps.body)
	}
	if !bytes.Equal(summary.body, wantSummary.body) {
		t.Errorf("with all changes undone the summary is %d %s, want %s", summary.status, summary.body, wantSummary.body)
	}
}

// writeDocument makes a document with a first summary and some records of ops.
func writeDocument(t *testing.T, e bench.Endpoint) bench.Document {
	t.Helper()
	document, err := e.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := make(chan struct{}, 1)
	client, err := bench.Dial(t.Context(), e, document, bench.Options{Mode: bench.Write, OnOp: func(op bench.Op) {
		if op.Own && op.Type == "op" {
			own <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for n := range 6 {
		if _, err := client.Submit("op", fmt.Appendf(nil, `"op %d"`, n)); err != nil {
			t.Fatal(err)
		}
		<-own // so that each is a record of its own
	}
	return document
}

// answer is what a request got; zero if the connection was cut off.
type answer struct {
	status int
	body   []byte
}

// ask reads all ops and the newest summary.
func (r *rig) ask(d bench.Document) (ops, summary answer) {
	r.t.Helper()
	token, err := r.endpoint.Token(d.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	tenant := r.endpoint.Tenant
	storageToken := base64.StdEncoding.EncodeToString([]byte(tenant + ":" + token))
	return r.get("/deltas/"+tenant+"/"+d.ID+"?to=8", token), // the leaves of later restarts follow
		r.get("/repos/"+tenant+"/git/summaries/latest", storageToken)
}

// settled is ask once nothing changes by itself any more: the service makes a version of its
// own when everyone has left, in its own time. Where there are nodes, the document may have
// to move first.
func (r *rig) settled(d bench.Document) (ops, summary answer) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ops, summary = r.ask(d)
		if ops.status == http.StatusOK && summary.status == http.StatusOK && bytes.Contains(summary.body, []byte(".serviceProtocol")) {
			return ops, summary
		}
		if time.Now().After(end) {
			r.t.Fatalf("no version of the service's own within a minute: deltas %d %s, summary %d %s", ops.status, ops.body, summary.status, summary.body)
		}
	}
}

func (r *rig) get(path, token string) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.endpoint.URL+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Basic "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{} // cut off: damage that was met when the answer had begun
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}
	}
	if resp.StatusCode != http.StatusOK && !json.Valid(body) {
		r.t.Errorf("%s: %d with a body that is no JSON: %q", path, resp.StatusCode, body)
	}
	return answer{resp.StatusCode, body}
}

// pairs reads all that is stored in one key space, behind the engine's back.
func (r *rig) pairs(space byte) (all []pair) {
	r.t.Helper()
	db := r.database()
	defer db.Close()
	it, err := db.NewIter(&cockroach.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		r.t.Fatal(err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		all = append(all, pair{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
	}
	return all
}

// write stores pairs and returns what undoes it.
func (r *rig) write(pairs []pair) (undo []pair) {
	r.t.Helper()
	db := r.database()
	defer db.Close()
	for _, p := range pairs {
		old, closer, err := db.Get(p.key)
		if err != nil {
			r.t.Fatal(err)
		}
		undo = append(undo, pair{p.key, bytes.Clone(old)})
		closer.Close()
	}
	for _, p := range pairs {
		if err := db.Set(p.key, p.value, cockroach.Sync); err != nil {
			r.t.Fatal(err)
		}
	}
	return undo
}

func (r *rig) database() *cockroach.DB {
	r.t.Helper()
	db, err := cockroach.Open(r.data, &cockroach.Options{Logger: silent{}, ErrorIfNotExists: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return db
}

// silent keeps Pebble's routine out of the test's output.
type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// ofPart returns the pairs of one part of documents: 'l' records, 'h' headers, 'o' objects.
func ofPart(all []pair, part byte) (some []pair) {
	for _, p := range all {
		if p.key[17] == part {
			some = append(some, p)
		}
	}
	return some
}

func (p pair) name() string { return fmt.Sprintf("%c %x", p.key[17], p.key[18:min(len(p.key), 26)]) }

func flip(random *rand.Rand, value []byte) []byte {
	changed := bytes.Clone(value)
	changed[random.IntN(len(changed))] ^= 1 << random.IntN(8)
	return changed
}
