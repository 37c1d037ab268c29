package app

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
)

// relayServer is a relay resource of a world.
type relayServer struct {
	w           *world
	path        string // in the management plane
	tenant, key string
}

func (w *world) relayPath(name string) string {
	return w.group() + "/providers/Microsoft.FluidRelay/fluidRelayServers/" + name
}

// cmk is the request of the article, with these values; identities are assigned, the
// first of them is used.
func (w *world) cmk(keyURL string, identities ...string) map[string]any {
	assigned := map[string]any{}
	for _, id := range identities {
		assigned[id] = map[string]any{}
	}
	return map[string]any{
		"location": location,
		"identity": map[string]any{"type": "UserAssigned", "userAssignedIdentities": assigned},
		"properties": map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": map[string]any{
			"keyEncryptionKeyIdentity": map[string]any{"identityType": "UserAssigned", "userAssignedIdentityResourceId": identities[0]},
			"keyEncryptionKeyUrl":      keyURL,
		}}},
	}
}

// put makes a relay, or changes it.
func (w *world) put(name string, body any) reply {
	w.t.Helper()
	return w.arm("PUT", w.relayPath(name), released, body)
}

// newRelay makes a relay under a key, used as id1.
func (w *world) newRelay(name, keyURL string) relayServer {
	w.t.Helper()
	return w.made(name, w.put(name, w.cmk(keyURL, w.id1)))
}

func (w *world) made(name string, answer reply) relayServer {
	w.t.Helper()
	r := relayServer{w: w, path: w.relayPath(name)}
	var shown struct {
		Properties struct {
			Tenant string `json:"frsTenantId"`
		} `json:"properties"`
	}
	w.decode(w.want(200, answer), &shown)
	r.tenant = shown.Properties.Tenant
	var keys struct {
		Key1 string `json:"key1"`
	}
	w.decode(w.want(200, w.arm("POST", r.path+"/listKeys", released, nil)), &keys)
	r.key = keys.Key1
	return r
}

// patch sends encryption settings: any of keyEncryptionKeyUrl and the identity's id.
func (r relayServer) patch(keyURL, identity string) reply {
	r.w.t.Helper()
	cmk := map[string]any{}
	if keyURL != "" {
		cmk["keyEncryptionKeyUrl"] = keyURL
	}
	if identity != "" {
		cmk["keyEncryptionKeyIdentity"] = map[string]any{"userAssignedIdentityResourceId": identity}
	}
	return r.w.arm("PATCH", r.path, released, map[string]any{"properties": map[string]any{"encryption": map[string]any{"customerManagedKeyEncryption": cmk}}})
}

// shown is the CMK of a relay as GET shows it; nil for none.
func (r relayServer) shown() map[string]any {
	r.w.t.Helper()
	var found struct {
		Properties struct {
			Encryption struct {
				CMK map[string]any `json:"customerManagedKeyEncryption"`
			} `json:"encryption"`
		} `json:"properties"`
	}
	r.w.decode(r.w.want(200, r.w.arm("GET", r.path, released, nil)), &found)
	return found.Properties.Encryption.CMK
}

// keyStatus is what encryptionStatus says.
type keyStatus struct {
	State       string     `json:"state"`
	Reason      string     `json:"reason"`
	Fix         string     `json:"fix"`
	KeyID       string     `json:"currentVersionedKeyIdentifier"`
	Rotation    string     `json:"rotationMode"`
	ServedUntil *time.Time `json:"servedUntil"`
	Grace       *time.Time `json:"graceDeadline"`
	Enforced    *time.Time `json:"enforcedAt"`
	Recoverable *time.Time `json:"recoverableUntil"`
	Missing     []string   `json:"missingPermissions"`
	Newer       string     `json:"newerVersionAvailable"`
	Warnings    []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"warnings"`
	Previous []struct {
		KeyID         string `json:"keyIdentifier"`
		SafeToDisable bool   `json:"safeToDisable"`
		Why           string `json:"why"`
	} `json:"previousVersions"`
}

func (r relayServer) status() (s keyStatus) {
	r.w.t.Helper()
	var found struct {
		Properties *keyStatus `json:"properties"`
	}
	found.Properties = &s
	r.w.decode(r.w.want(200, r.w.arm("GET", r.path+"/encryptionStatus", preview, nil)), &found)
	return s
}

func (s keyStatus) warns(code string) bool {
	for _, warning := range s.Warnings {
		if warning.Code == code {
			return true
		}
	}
	return false
}

// is says whether the key is in this state, for this reason.
func (r relayServer) is(state, reason string) bool {
	s := r.status()
	return s.State == state && s.Reason == reason
}

// becomes waits for a state, and checks that it comes in time.
func (r relayServer) becomes(state, reason string, within time.Duration) {
	r.w.t.Helper()
	var last keyStatus
	start := time.Now()
	for {
		if last = r.status(); last.State == state && last.Reason == reason {
			return
		}
		if time.Since(start) > within {
			r.w.t.Fatalf("after %s the key is %s (%s), want %s (%s)", within, last.State, last.Reason, state, reason)
		}
		time.Sleep(pollEvery(within))
	}
}

// typist is a client that types: an op every 300 ms while it is connected.
type typist struct {
	client *bench.Client
	stop   chan struct{}
	once   sync.Once
	done   sync.WaitGroup

	mu     sync.Mutex
	acked  []string // contents of own ops that came back sequenced, in order
	errors []string // what went wrong, and when
	sent   int
}

// document makes a document.
func (r relayServer) document() bench.Document {
	r.w.t.Helper()
	d, err := r.w.endpoint(r).Create(r.w.t.Context())
	if err != nil {
		r.w.t.Fatal(err)
	}
	return d
}

// join connects a typist to a document. It reconnects by itself, until leave.
func (r relayServer) join(d bench.Document, name string) *typist {
	r.w.t.Helper()
	y := &typist{stop: make(chan struct{})}
	r.w.typists = append(r.w.typists, y)
	var err error
	y.client, err = bench.Dial(r.w.t.Context(), r.w.endpoint(r), d, bench.Options{
		Mode: bench.Write, Reconnect: true, Record: true,
		OnOp: func(op bench.Op) {
			if !op.Own || op.Type != "op" {
				return
			}
			var m struct {
				Contents json.RawMessage `json:"contents"`
			}
			_ = json.Unmarshal(op.Raw, &m)
			y.mu.Lock()
			defer y.mu.Unlock()
			y.acked = append(y.acked, string(m.Contents))
		},
		OnError: func(err error) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.errors = append(y.errors, err.Error())
		},
	})
	if err != nil {
		r.w.t.Fatal(err)
	}
	y.done.Go(func() {
		for {
			select {
			case <-y.stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
			y.mu.Lock()
			n := y.sent
			y.mu.Unlock()
			if _, err := y.client.Submit("op", fmt.Appendf(nil, `"%s %d"`, name, n)); err == nil {
				y.mu.Lock()
				y.sent++
				y.mu.Unlock()
			}
		}
	})
	return y
}

func (y *typist) leave() {
	y.once.Do(func() {
		close(y.stop)
		y.done.Wait()
		y.client.Close()
	})
}

// seen returns what came back and what went wrong so far.
func (y *typist) seen() (acked, wrong []string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return slices.Clone(y.acked), slices.Clone(y.errors)
}

// rest reads the ops of a document.
func (r relayServer) deltas(d bench.Document) reply {
	r.w.t.Helper()
	token, err := r.w.endpoint(r).Token(d.ID)
	if err != nil {
		r.w.t.Fatal(err)
	}
	a, err := r.w.trySend("GET", "http://"+relayAddr+"/deltas/"+r.tenant+"/"+d.ID+"?from=0", "Basic "+token, nil)
	if err != nil {
		r.w.t.Fatal(err)
	}
	return a
}

// latest reads the newest summary of a document.
func (r relayServer) latest(d bench.Document) reply {
	r.w.t.Helper()
	token, err := r.w.endpoint(r).Token(d.ID)
	if err != nil {
		r.w.t.Fatal(err)
	}
	basic := base64.StdEncoding.EncodeToString([]byte(r.tenant + ":" + token))
	a, err := r.w.trySend("GET", "http://"+relayAddr+"/repos/"+r.tenant+"/git/summaries/latest", "Basic "+basic, nil)
	if err != nil {
		r.w.t.Fatal(err)
	}
	return a
}

// serves says whether a document can be read.
func (r relayServer) serves(d bench.Document) bool {
	return r.deltas(d).status == http.StatusOK && r.latest(d).status == http.StatusOK
}

// contents reads all ops of a document, checks that their numbers have no gap, and
// returns the contents of those of clients, in order.
func (r relayServer) contents(d bench.Document) (all []string) {
	r.w.t.Helper()
	ops, err := r.w.endpoint(r).Deltas(r.w.t.Context(), d.ID, 0, 0)
	if err != nil {
		r.w.t.Fatal(err)
	}
	for n, op := range ops {
		if op.Seq != int64(n+1) {
			r.w.t.Fatalf("op %d stands in the place of %d", op.Seq, n+1)
		}
		var m struct {
			Contents json.RawMessage `json:"contents"`
		}
		if op.Type == "op" && json.Unmarshal(op.Raw, &m) == nil {
			all = append(all, string(m.Contents))
		}
	}
	return all
}

// wantAll checks that every op that a client saw sequenced is there, in order.
func wantAll(t *testing.T, stored []string, typists ...*typist) {
	t.Helper()
	for _, y := range typists {
		acked, _ := y.seen()
		at := 0
		for _, op := range acked {
			n := slices.Index(stored[at:], op)
			if n < 0 {
				t.Fatalf("the op %s was acknowledged and is not there after %d others", op, at)
			}
			at += n + 1
		}
	}
}

// nothing says whether none of these has an error that is not of kind.
func nothingWrong(t *testing.T, typists ...*typist) {
	t.Helper()
	for n, y := range typists {
		if _, wrong := y.seen(); len(wrong) > 0 {
			t.Errorf("client %d: %s", n, strings.Join(wrong, "; "))
		}
	}
}

// tryJoin connects a client once, and says how it was refused.
func (w *world) tryJoin(r relayServer, d bench.Document) (*bench.Client, error) {
	c, err := bench.Dial(w.t.Context(), w.endpoint(r), d, bench.Options{Mode: bench.Write})
	if err == nil {
		c.Close()
	}
	return c, err
}
