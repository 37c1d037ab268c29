package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

// base is the last op of the documents that these tests bring from elsewhere.
const base = 1234

const migratedID = "0b5e8a7c-2f0e-4f1d-9a55-9b7f0c9e7a10"

// migration is the body of a create call as the published copying tool sends it.
func migration(id string, sequenceNumber int) string {
	return fmt.Sprintf(`{"id":%q,"summary":{"type":"tree","entries":[{"path":"a","type":"blob","value":{"type":"blob","content":"x","encoding":"utf-8"}}]},
		"sequenceNumber":%d,"values":[["code",{"key":"code","value":{"package":"p"},"approvalSequenceNumber":7,"commitSequenceNumber":-1,"sequenceNumber":3}]],
		"enableDiscovery":true,"enableAnyBinaryBlobOnFirstSummary":true}`, id, sequenceNumber)
}

// migrate brings a document from elsewhere.
func (r *rig) migrate() string {
	r.t.Helper()
	var made struct{ ID string }
	answer := r.plain("POST", "/documents/t1", r.token(migratedID), migration(migratedID, base))
	if err := json.Unmarshal(answer.body, &made); err != nil || answer.status != 201 || made.ID != migratedID {
		r.t.Fatalf("got %d %s, want 201 with the id %s", answer.status, answer.body, migratedID)
	}
	return made.ID
}

func TestMigratedDocumentGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.migrate()
		a := r.join(id)
		a.submit("one", "two")
		mine := a.awaitMine(2)
		if first := a.seen[0]; first.Seq != base+1 || first.Type != sequencer.TypeJoin || first.MSN != base {
			t.Errorf("the first op is %d, a %s, msn %d; want the join at %d, msn %d", first.Seq, first.Type, first.MSN, base+1, base)
		}
		if mine[0].Seq != base+2 || mine[1].Seq != base+3 {
			t.Errorf("ops %d and %d, want %d and %d", mine[0].Seq, mine[1].Seq, base+2, base+3)
		}
		check := func(when string) {
			t.Helper()
			for _, from := range []int{-1, 0, base - 1, base} {
				var ops []struct {
					Seq sequencer.Seq `json:"sequenceNumber"`
				}
				path := fmt.Sprintf("/deltas/t1/%s?from=%d&to=%d", id, from, base+4)
				r.plain("GET", path, r.token(id), "").decode(t, 200, &ops)
				if len(ops) != 3 || ops[0].Seq != base+1 {
					t.Errorf("%s: deltas from %d: %v, want %d to %d", when, from, ops, base+1, base+3)
				}
			}
			if got := r.plain("GET", fmt.Sprintf("/deltas/t1/%s?from=3&to=%d", id, base), r.token(id), ""); got.status != 200 || string(got.body) != "[]" {
				t.Errorf("%s: deltas before the first op: %d %s, want none", when, got.status, got.body)
			}
		}
		check("at once")
		r.restart()
		check("after a restart")
		b := r.join(id)
		b.submit("three")
		b.awaitMine(1)
		ops := r.log(id)
		checkOrder(t, "the log", ops)
		if got := contentsOf(t, ops); !slices.Equal(got, []string{"one", "two", "three"}) {
			t.Errorf("the log has %v", got)
		}
	})
}

// TestMigratedDocumentAtRest: it can be restarted before it has any op, and again.
func TestMigratedDocumentAtRest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.migrate()
		for range 3 {
			r.restart()
			c := r.read(id)
			r.use(id, func(d *document) {
				if state := d.seq.State(); state.Seq != base || state.MSN != base || d.durable != base {
					t.Errorf("state %+v, durable to %d; want all at %d", state, d.durable, base)
				}
			})
			c.close()
		}
		var tree struct {
			Blobs []struct{ Content []byte } // base64
		}
		r.plain("GET", "/repos/t1/git/summaries/latest", r.token(id), "").decode(t, 200, &tree)
		contents := ""
		for _, b := range tree.Blobs {
			contents += string(b.Content) + "\n"
		}
		for _, want := range []string{`"sequenceNumber":1234`, `"minimumSequenceNumber":1234`, `"approvalSequenceNumber":7`} {
			if !strings.Contains(contents, want) {
				t.Errorf("summary has no %s: %s", want, contents)
			}
		}
	})
}

func TestMigratedDocumentIsSummarized(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.migrate()
		a := r.join(id, summarizer)
		a.submit("one")
		a.awaitMine(1)
		a.proposeAt(r, base+1)
		if ack := a.settled(); ack.Type != sequencer.TypeSummaryAck {
			t.Fatalf("%s: %s, want summaryAck", ack.Type, ack.Contents)
		}
		synctest.Wait()
		head := r.headOf(id)
		r.restart()
		if got := r.headOf(id); got != head {
			t.Errorf("head after a restart %s, want %s", got, head)
		}
		var commits []json.RawMessage
		r.plain("GET", "/repos/t1/commits?sha="+id+"&count=5", r.token(id), "").decode(t, 200, &commits)
		if len(commits) != 2 {
			t.Errorf("%d versions, want 2", len(commits))
		}
	})
}

func TestMigrationRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		exists, deleted := r.create(), r.create()
		if _, err := r.server.DeleteContainer(t.Context(), testTenant, deleted); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, token, body string
			status            int
			message           string
		}{
			{"Exists", r.token(exists), migration(exists, base), 409, errIDExists.message},
			{"Deleted", r.token(deleted), migration(deleted, base), 409, errIDDeleted.message},
			{"TokenOfAnother", r.token(exists), migration(migratedID, base), 403, "DocumentId in token claims does not match request."},
			{"NoSummaryScope", r.token(migratedID, withScopes("doc:read", "doc:write")), migration(migratedID, base), 403, "Permission denied. Insufficient scopes. Required scopes: doc:read,doc:write,summary:write"},
			{"TokenNamesNone", r.createToken(), migration(migratedID, base), 400, "The summary cannot be stored: a new document begins at sequence number 0, not 1234; one that comes from elsewhere needs an id, and a token for that id"},
			{"BadID", r.token("../x"), migration("../x", base), 400, "The id must be 1 to 128 letters, digits, hyphens, underscores or dots, and begin with a letter or digit."},
			{"Negative", r.token(migratedID), migration(migratedID, -1), 400, "The summary cannot be stored: sequenceNumber -1 is not from 0 to 4503599627370496"},
			{"TooLarge", r.token(migratedID), migration(migratedID, 1<<52+1), 400, "The summary cannot be stored: sequenceNumber 4503599627370497 is not from 0 to 4503599627370496"},
		} {
			if got := r.plain("POST", "/documents/t1", c.token, c.body); got.status != c.status || string(got.body) != string(encode(c.message)) {
				t.Errorf("%s: got %d %s, want %d %q", c.name, got.status, got.body, c.status, c.message)
			}
		}
		if ids := r.listed(10); !slices.Equal(ids, []string{exists}) {
			t.Errorf("documents %v, want %s alone", ids, exists)
		}
		if got := contentsOf(t, r.log(exists)); len(got) != 0 {
			t.Errorf("the existing document has ops %v", got)
		}
		// What was refused used up nothing: the same document can come now.
		r.migrate()
	})
}

// TestMigrationRace: of many copies of one document at once, one is made.
func TestMigrationRace(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const copies = 8
		var checked sync.WaitGroup // that the id is free
		checked.Add(copies)
		r.store.swap(&rowHook{r.store.Store, func(key store.RowKey) error {
			if key.Table == documentsTable {
				checked.Done()
				checked.Wait()
			}
			return nil
		}})
		errs := make(chan error, copies)
		for range copies {
			go func() {
				errs <- r.server.createAs(t.Context(), r.tenant, migratedID, newDocument{Initial: initialOf("x")})
			}()
		}
		made := 0
		for range copies {
			switch err := <-errs; {
			case err == nil:
				made++
			case !errors.Is(err, errIDExists):
				t.Errorf("create: %v, want errIDExists", err)
			}
		}
		if ids := r.listed(10); made != 1 || len(ids) != 1 {
			t.Errorf("%d made, listed %v; want one", made, ids)
		}
	})
}

// TestCutLogOfAMigratedDocument: a log without its ops, or without the first ones, is
// no log that begins later.
func TestCutLogOfAMigratedDocument(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, r *rig, h envelope.DocumentHandle, checkpoint envelope.Name){
		"FirstRecord": func(_ *testing.T, r *rig, _ envelope.DocumentHandle, _ envelope.Name) {
			first := true
			r.store.Store.(*memory.Store).Mutate(func(what string, raw []byte) []byte {
				if what == "record" && first {
					first = false
					return nil
				}
				return raw
			})
		},
		// As if nothing had happened since the document came, but for its checkpoint.
		"WholeLog": func(t *testing.T, r *rig, h envelope.DocumentHandle, checkpoint envelope.Name) {
			sealed, err := r.store.GetObject(t.Context(), h, checkpoint)
			if err == nil {
				err = r.store.DeleteDocument(t.Context(), h)
			}
			if err == nil {
				err = r.store.PutObjects(t.Context(), h, []store.Object{{Name: checkpoint, Value: sealed}})
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				id := r.migrate()
				a := r.join(id)
				for _, text := range []string{"one", "two", "three"} {
					a.submit(text)
					synctest.Wait()
				}
				a.close()
				var handle envelope.DocumentHandle
				var checkpoint envelope.Name
				r.use(id, func(d *document) {
					handle, checkpoint = d.keys.Handle(), d.keys.Name(envelope.KindCheckpoint, checkpointID)
				})
				r.stop() // with a checkpoint at the end
				cut(t, r, handle, checkpoint)
				r.start()
				d, release, err := r.server.open(t.Context(), r.tenant, id)
				if err == nil {
					defer release()
					_, err = d.store().Ops(t.Context(), 0, 1<<40, 100, 1<<20)
				}
				if !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("got %v, want ErrCorrupt", err)
				}
			})
		})
	}
}
