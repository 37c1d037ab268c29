package history

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/memory"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// rig is a keeper over an engine in memory, and one document in it.
type rig struct {
	t      testing.TB
	st     *spyStore
	keeper *custody.Keeper
	keys   *custody.Document
	doc    *Document

	writer *custody.Writer
	seq    sequencer.Seq
	clock  int64
}

var testResource = envelope.ResourceID{1}

func newRig(t testing.TB) *rig {
	t.Helper()
	st := &spyStore{Store: memory.New()}
	keeper := custody.New(custody.Config{Store: st, Service: envelope.NewServiceKey(), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(keeper.Close)
	if err := keeper.Create(t.Context(), testResource, custody.Settings{}); err != nil {
		t.Fatalf("create the resource's key: %v", err)
	}
	r := &rig{t: t, st: st, keeper: keeper, clock: 1_700_000_000_000}
	r.keys, r.doc = r.newDocument()
	claim, err := st.Claim(t.Context(), r.keys.Handle())
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	r.writer = r.keys.NewWriter(claim, custody.Tail{})
	return r
}

func (r *rig) newDocument() (*custody.Document, *Document) {
	r.t.Helper()
	keys, err := r.keeper.NewDocument(r.t.Context(), testResource)
	if err != nil {
		r.t.Fatalf("new document: %v", err)
	}
	if err := keys.Create(r.t.Context()); err != nil {
		r.t.Fatalf("store the document's key: %v", err)
	}
	r.t.Cleanup(keys.Close)
	return keys, New(keys, r.st)
}

// log numbers ops and appends them to the log as one record; it returns the last.
func (r *rig) log(ops ...sequencer.SequencedOp) sequencer.SequencedOp {
	r.t.Helper()
	first := r.seq + 1
	var plain []byte
	for i := range ops {
		r.seq++
		r.clock += 10
		ops[i].Seq, ops[i].Timestamp = r.seq, r.clock
		plain = AppendOp(plain, ops[i])
	}
	a, err := r.writer.Seal(uint64(first), uint64(r.seq), plain)
	if err != nil {
		r.t.Fatalf("seal: %v", err)
	}
	if err := r.st.Append(r.t.Context(), a); err != nil {
		r.t.Fatalf("append: %v", err)
	}
	return ops[len(ops)-1]
}

func join(id string) sequencer.SequencedOp {
	return sequencer.SequencedOp{
		CSN: -1, RSN: -1, Type: sequencer.TypeJoin,
		Data: literal(fmt.Sprintf(`{"clientId":%q,"detail":{"mode":"write","user":{"id":"u"}}}`, id)),
	}
}

func leave(id string) sequencer.SequencedOp {
	return sequencer.SequencedOp{CSN: -1, RSN: -1, Type: sequencer.TypeLeave, Data: literal(fmt.Sprintf("%q", id))}
}

func edit(msn sequencer.Seq) sequencer.SequencedOp {
	return sequencer.SequencedOp{ClientID: "a", CSN: 1, MSN: msn, Type: sequencer.TypeOp, Contents: literal("{}")}
}

func propose(key, value string) sequencer.SequencedOp {
	return sequencer.SequencedOp{ClientID: "a", CSN: 1, Type: sequencer.TypePropose, Contents: literal(fmt.Sprintf(`{"key":%q,"value":%s}`, key, value))}
}

// summarizeOp proposes a summary of the state at rsn.
func summarizeOp(handle, head string, rsn sequencer.Seq) sequencer.SequencedOp {
	return sequencer.SequencedOp{
		ClientID: "s", CSN: 1, RSN: rsn, Type: sequencer.TypeSummarize,
		Contents: literal(fmt.Sprintf(`{"handle":%q,"head":%q,"message":"m","parents":[%q],"details":{"includesProtocolTree":false}}`, handle, head, head)),
	}
}

// literal is s as a JSON string.
func literal(s string) json.RawMessage {
	b, err := encodeJSON(s)
	if err != nil {
		panic(err)
	}
	return b
}

const codeValues = `[["code",{"key":"code","value":{"package":"no-dynamic-package","config":{}},"approvalSequenceNumber":0,"commitSequenceNumber":0,"sequenceNumber":0}]]`

// create creates the rig's document with these entries.
func (r *rig) create(entries ...string) (commit string) {
	r.t.Helper()
	commit, err := r.doc.Create(r.t.Context(), Initial{Summary: wholeTree(entries...), Values: json.RawMessage(codeValues), AnyBinary: true})
	if err != nil {
		r.t.Fatalf("create: %v", err)
	}
	return commit
}

func (r *rig) upload(entries ...string) (handle string) {
	r.t.Helper()
	handle, err := r.doc.UploadSummary(r.t.Context(), channel(entries...))
	if err != nil {
		r.t.Fatalf("upload: %v", err)
	}
	return handle
}

// accept has a summary of the state at rsn judged, which must be accepted.
func (r *rig) accept(handle, head string, rsn sequencer.Seq) (commit string) {
	r.t.Helper()
	op := r.log(summarizeOp(handle, head, rsn))
	v, err := r.doc.Judge(r.t.Context(), []string{head}, op)
	if err != nil {
		r.t.Fatalf("judge: %v", err)
	}
	if v.Type != sequencer.TypeSummaryAck {
		r.t.Fatalf("judge: %s %s, want an ack", v.Type, v.Contents)
	}
	s := State{Head: head}
	s.Apply(sequencer.SequencedOp{Type: v.Type, Contents: v.Contents})
	return s.Head
}

func wholeTree(entries ...string) json.RawMessage {
	return json.RawMessage(`{"type":"tree","entries":[` + strings.Join(entries, ",") + `]}`)
}

func channel(entries ...string) []byte {
	return []byte(`{"type":"channel","message":"","sequenceNumber":0,"entries":[` + strings.Join(entries, ",") + `]}`)
}

func blob(path, content string) string {
	return fmt.Sprintf(`{"path":%q,"type":"blob","value":{"type":"blob","content":%q,"encoding":"utf-8"}}`, path, content)
}

func dir(path string, entries ...string) string {
	return fmt.Sprintf(`{"path":%q,"type":"tree","value":%s}`, path, wholeTree(entries...))
}

func handle(path, typ, id string) string {
	return fmt.Sprintf(`{"path":%q,"type":%q,"id":%q}`, path, typ, id)
}

// snapshot is a downloaded summary as a client reads it.
type snapshot struct {
	ID    string `json:"id"`
	Trees []struct {
		ID      string `json:"id"`
		Entries []struct {
			Path         string `json:"path"`
			Type         string `json:"type"`
			ID           string `json:"id"`
			Unreferenced bool   `json:"unreferenced"`
			GroupID      string `json:"groupId"`
		} `json:"entries"`
	} `json:"trees"`
	Blobs []struct {
		ID       string `json:"id"`
		Content  []byte `json:"content"`
		Encoding string `json:"encoding"`
		Size     int    `json:"size"`
	} `json:"blobs"`
}

func (r *rig) download(commit string) snapshot {
	r.t.Helper()
	return parseSnapshot(r.t, r.downloadJSON(commit))
}

func (r *rig) downloadJSON(commit string) []byte {
	r.t.Helper()
	s, err := r.doc.Summary(r.t.Context(), commit)
	if err != nil {
		r.t.Fatalf("summary %s: %v", commit, err)
	}
	var out bytes.Buffer
	if err := s.Write(r.t.Context(), &out); err != nil {
		r.t.Fatalf("write summary %s: %v", commit, err)
	}
	return out.Bytes()
}

func parseSnapshot(t testing.TB, b []byte) snapshot {
	t.Helper()
	var s snapshot
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("summary is not JSON: %v\n%s", err, b)
	}
	return s
}

// files lists a snapshot as "path: content" and "path/", marks appended, in order.
// It fails on what breaks a client's parser.
func (s snapshot) files(t testing.TB) []string {
	t.Helper()
	contents := map[string]string{}
	for _, b := range s.Blobs {
		if b.Encoding != "base64" || b.Size != len(b.Content) {
			t.Errorf("blob %s: encoding %q, size %d of %d bytes", b.ID, b.Encoding, b.Size, len(b.Content))
		}
		contents[b.ID] = string(b.Content)
	}
	var files []string
	trees := map[string]bool{"": true}
	for _, e := range s.Trees[0].Entries {
		parent := ""
		if i := strings.LastIndexByte(e.Path, '/'); i >= 0 {
			parent = e.Path[:i]
		}
		if !trees[parent] {
			t.Errorf("%s comes before its parent", e.Path)
		}
		line := e.Path + "/"
		if e.Type == typeBlob {
			content, ok := contents[e.ID]
			if !ok {
				t.Errorf("blob %s of %s is not in the answer", e.ID, e.Path)
			}
			line = e.Path + ": " + content
		} else {
			trees[e.Path] = true
		}
		if e.Unreferenced {
			line += " unreferenced"
		}
		if e.GroupID != "" {
			line += " group=" + e.GroupID
		}
		files = append(files, line)
	}
	return files
}

// appFiles is files below .app.
func (s snapshot) appFiles(t testing.TB) []string {
	t.Helper()
	var app []string
	for _, f := range s.files(t) {
		if f, ok := strings.CutPrefix(f, appName+"/"); ok && f != "" {
			app = append(app, f)
		}
	}
	return app
}

// rebuild is the upload that a downloaded .app came from.
func (s snapshot) rebuild() json.RawMessage {
	type node struct {
		Type    string `json:"type"`
		Entries []any  `json:"entries"`
	}
	contents := map[string][]byte{}
	for _, b := range s.Blobs {
		contents[b.ID] = b.Content
	}
	root := &node{Type: typeTree, Entries: []any{}}
	trees := map[string]*node{appName: root}
	for _, e := range s.Trees[0].Entries {
		i := strings.LastIndexByte(e.Path, '/')
		if i < 0 || trees[e.Path[:i]] == nil {
			continue
		}
		m := map[string]any{"path": e.Path[i+1:], "type": e.Type}
		if e.Unreferenced {
			m["unreferenced"] = true
		}
		if e.GroupID != "" {
			m["groupId"] = e.GroupID
		}
		if e.Type == typeTree {
			n := &node{Type: typeTree, Entries: []any{}}
			trees[e.Path], m["value"] = n, n
		} else {
			m["value"] = map[string]any{"type": typeBlob, "encoding": "base64", "content": base64.StdEncoding.EncodeToString(contents[e.ID])}
		}
		trees[e.Path[:i]].Entries = append(trees[e.Path[:i]].Entries, m)
	}
	b, err := json.Marshal(root)
	if err != nil {
		panic(err)
	}
	return b
}

func diff(t *testing.T, what string, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.TrimSuffix(string(want), "\n") {
		t.Errorf("%s:\n got %s\nwant %s", path, got, want)
	}
}

// spyStore counts writes of objects and can fail them.
type spyStore struct {
	store.Store

	mu   sync.Mutex
	puts []int // objects of each write
	fail error // of the next write
}

func (s *spyStore) PutObjects(ctx context.Context, doc envelope.DocumentHandle, objects []store.Object) error {
	s.mu.Lock()
	fail := s.fail
	s.fail = nil
	s.puts = append(s.puts, len(objects))
	s.mu.Unlock()
	if fail != nil {
		return fail
	}
	return s.Store.PutObjects(ctx, doc, objects)
}

func (s *spyStore) takePuts() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	puts := s.puts
	s.puts = nil
	return puts
}
