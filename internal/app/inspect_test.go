package app_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/app"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store/postgres/pgtest"
)

// contents are the hashes of all files of a directory, but for the lock.
func contents(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (r *rig) inspect(c app.InspectConfig) app.InspectReport {
	r.t.Helper()
	if c.DataDir == "" {
		c.DataDir = r.data
	}
	report, err := app.Inspect(r.t.Context(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

const canary = "a canary for the auditor"

func TestInspectDataOfAStoppedServer(t *testing.T) {
	r := newRig(t)
	writeDocument(t, r.endpoint)
	if _, err := app.Inspect(t.Context(), app.InspectConfig{DataDir: r.data}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("with a server on it: %v, want that it is in use", err)
	}
	r.stop()

	before := contents(t, r.data)
	got := r.inspect(app.InspectConfig{Canaries: []string{canary, "op 3 and some more"}})
	if got.State != "Intact" || got.Documents != 1 || got.DocumentKeys != 1 || got.Records < 6 || got.Objects < 3 || got.Rows < 10 || len(got.KeyIDs) != 1 || got.Shredded != 0 || got.Files < 3 {
		t.Errorf("%+v, want one document under one key, and all intact", got)
	}
	if len(got.Shown) != 4 || len(got.NotShown) != 1 {
		t.Errorf("shown %q, not shown %q", got.Shown, got.NotShown)
	}
	after := contents(t, r.data)
	for path, sum := range before {
		if after[path] != sum {
			t.Errorf("%s was changed", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files are %d now", len(before), len(after))
	}

	// A copy without the key, as an auditor may have it.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(r.data)); err != nil {
		t.Fatal(err)
	}
	got = r.inspect(app.InspectConfig{DataDir: copied})
	if got.State != "Intact" || got.Documents != 1 || len(got.KeyIDs) != 0 || len(got.Resources) != 1 || len(got.NotShown) != 3 || !strings.Contains(got.NotShown[1], "service key is not at") {
		t.Errorf("without the service key: %+v", got)
	}
	// With the key of other data.
	if err := os.MkdirAll(copied+".keys", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied+".keys", "service.key"), bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Inspect(t.Context(), app.InspectConfig{DataDir: copied}); err == nil || !strings.Contains(err.Error(), "service key is not the one") {
		t.Errorf("with another service key: %v", err)
	}
	if _, err := app.Inspect(t.Context(), app.InspectConfig{DataDir: filepath.Join(t.TempDir(), "nothing")}); err == nil {
		t.Error("a directory that is not there was inspected")
	}
	if _, err := app.Inspect(t.Context(), app.InspectConfig{DataDir: r.data, Canaries: []string{"short"}}); err == nil {
		t.Error("a short text was searched for")
	}
}

func TestInspectFindsWhatIsWrong(t *testing.T) {
	r := newRig(t)
	writeDocument(t, r.endpoint)
	writeDocument(t, r.endpoint)
	r.stop()
	stored := r.pairs('d')
	records, objects, headers := ofPart(stored, 'l'), ofPart(stored, 'o'), ofPart(stored, 'h')
	rows := r.pairs('r')
	row := rows[0]
	var keys []pair // of documents
	for _, one := range rows {
		s, err := envelope.ParseSealed(one.value[8:]) // behind the revision
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := envelope.WrappedPlace(s); ok {
			keys = append(keys, one)
		}
	}
	if len(keys) != 2 {
		t.Fatalf("%d document keys, want 2", len(keys))
	}
	plain := []byte(canary)
	for name, change := range map[string][]pair{
		"PlainRecord":      {{records[1].key, plain}},
		"PlainObject":      {{objects[0].key, plain}},
		"PlainHeader":      {{headers[0].key, plain}},
		"PlainRow":         {{row.key, append(bytes.Clone(row.value[:8]), plain...)}},
		"RowOfAnotherTime": {{row.key, append(bytes.Clone(row.value[:len(row.value)-1]), row.value[len(row.value)-1]^1)}},
		"SwappedRecords":   {{records[1].key, records[2].value}, {records[2].key, records[1].value}},
		"RepeatedRecord":   {{records[2].key, records[1].value}},
		"ChangedRecord":    {{records[1].key, flipAt(records[1].value, len(records[1].value)-1)}}, // the tag, by which the next one follows
		"SwappedKeys":      {{keys[0].key, keys[1].value}, {keys[1].key, keys[0].value}},
		"ForeignDocument":  {{headers[0].key, flipAt(headers[0].value, 24)}},
		"ForeignObject":    {{objects[0].key, flipAt(objects[0].value, 30)}},
		"ForeignResource":  {{objects[0].key, flipAt(objects[0].value, 9)}},
	} {
		undo := r.write(change)
		if got := r.inspect(app.InspectConfig{}); got.State != "Failed" || got.Failed == 0 || len(got.Failures) == 0 {
			t.Errorf("%s: %+v, want it failed", name, got)
		} else if strings.Contains(strings.Join(got.Failures, "\n"), canary) {
			t.Errorf("%s: a failure repeats the contents: %q", name, got.Failures)
		}
		r.write(undo)
	}

	// What is in no value, such as a file that somebody forgot.
	// Another text than above, which the engine's files may hold still.
	const canary = "a text that only the stray file has"
	stray := filepath.Join(r.data, "stray")
	for name, content := range map[string]string{
		"Plain":       canary,
		"Base64":      base64.StdEncoding.EncodeToString([]byte("x" + canary + "y")),
		"Base64Else":  base64.URLEncoding.EncodeToString([]byte("xy" + canary)),
		"AcrossReads": strings.Repeat("x", 1<<20-5) + canary,
		"UTF16":       string(bytes.Join(bytes.Split([]byte(canary), nil), []byte{0})) + "\x00",
	} {
		if err := os.WriteFile(stray, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := r.inspect(app.InspectConfig{Canaries: []string{"not in there", canary}}); got.State != "Failed" || got.Failed != 1 || !strings.Contains(got.Failures[0], "text 2 is in the file "+stray) {
			t.Errorf("%s: %+v, want the file named", name, got)
		}
	}
	if err := os.Remove(stray); err != nil {
		t.Fatal(err)
	}
	if got := r.inspect(app.InspectConfig{}); got.State != "Intact" {
		t.Errorf("with all of it undone: %+v", got)
	}
}

func flipAt(value []byte, at int) []byte {
	changed := bytes.Clone(value)
	changed[at] ^= 1
	return changed
}

// TestServerOnADatabaseIsInspected: tables and object store, without a server.
func TestServerOnADatabaseIsInspected(t *testing.T) {
	store := app.StoreConfig{URL: pgtest.Start(t).NewDatabase(t), WithoutStandby: true, Blobs: "dir:" + t.TempDir()}
	r := &rig{t: t, data: filepath.Join(t.TempDir(), "data"), store: store}
	r.setUp()
	writeDocument(t, r.endpoint)
	r.stop()
	got := r.inspect(app.InspectConfig{Store: store, Canaries: []string{canary}})
	if got.State != "Intact" || got.Documents != 1 || got.Records < 6 || len(got.KeyIDs) != 1 || len(got.NotShown) != 2 {
		t.Errorf("%+v, want one document under one key, and all intact", got)
	}
}
