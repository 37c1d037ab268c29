package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/store"
)

func TestCreate(t *testing.T) {
	entries := []string{
		dir(".channels", dir("A", blob("header", "h€llo"), dir("empty")), dir("a%2Fb", blob("%25%20", "{}"))),
		`{"path":"bin","type":"blob","value":{"type":"blob","content":"AAEC/w==","encoding":"base64"}}`,
		`{"path":"gone","type":"tree","unreferenced":true,"groupId":"g\"1","value":{"type":"tree","entries":[]}}`,
	}
	want := []string{
		".channels/",
		".channels/A/",
		".channels/A/empty/",
		".channels/A/header: h€llo",
		".channels/a%2Fb/",
		".channels/a%2Fb/%25%20: {}",
		"bin: \x00\x01\x02\xff",
		"gone/ unreferenced group=g\"1",
	}
	t.Run("WholeFormat", func(t *testing.T) {
		r := newRig(t)
		commit := r.create(entries...)
		s := r.download(commit)
		diff(t, ".app", s.appFiles(t), want)
		if s.ID != commit {
			t.Errorf("id %s, want the commit %s", s.ID, commit)
		}
		v, err := r.doc.Commit(t.Context(), commit)
		if err != nil || v.Message != "New document" || len(v.Parents) != 0 {
			t.Errorf("commit %+v, %v", v, err)
		}
	})
	t.Run("ClassicFormatMakesTheSameTree", func(t *testing.T) {
		r := newRig(t)
		whole := r.create(dir("a b", blob("x", "1")), blob("y%2F", "2"))
		classic, err := r.doc.Create(t.Context(), Initial{
			Summary: json.RawMessage(`{"type":1,"tree":{"a b":{"type":1,"tree":{"x":{"type":2,"content":"1"}}},"y/":{"type":2,"content":"2"}}}`),
			Values:  json.RawMessage(codeValues),
		})
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		if got, want := r.download(classic).Trees[0].ID, r.download(whole).Trees[0].ID; got != want {
			t.Errorf("tree %s, want %s", got, want)
		}
	})
	t.Run("ProtocolIsThere", func(t *testing.T) {
		r := newRig(t)
		golden(t, "protocol_new.txt", []byte(strings.Join(r.download(r.create()).files(t), "\n")))
	})
	t.Run("OneWrite", func(t *testing.T) {
		r := newRig(t)
		r.create(entries...)
		if puts := r.st.takePuts(); len(puts) != 1 {
			t.Errorf("objects were written in %d steps, want 1", len(puts))
		}
	})
	t.Run("FailedWriteIsAnError", func(t *testing.T) {
		r := newRig(t)
		r.st.fail = errors.New("disk full")
		if _, err := r.doc.Create(t.Context(), Initial{Summary: wholeTree(), AnyBinary: true}); err == nil || errors.Is(err, ErrBadSummary) {
			t.Errorf("got %v, want the store's error", err)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		in   Initial
		want string
	}{
		{"NotJSON", Initial{Summary: []byte(`{"type":"tree"`), AnyBinary: true}, "not JSON"},
		{"TrailingBytes", Initial{Summary: []byte(`{"type":"tree","entries":[]} x`), AnyBinary: true}, "not JSON"},
		{"ClassicTreeUnderTheFlag", Initial{Summary: []byte(`{"type":1,"tree":{}}`), AnyBinary: true}, "type is a number where a string belongs"},
		{"WholeTreeWithoutTheFlag", Initial{Summary: wholeTree()}, "type is a string where a int belongs"},
		{"ClassicBinaryBlob", Initial{Summary: []byte(`{"type":1,"tree":{"b":{"type":2,"content":{"0":1}}}}`)}, "content is a object where a string belongs"},
		{"ClassicHandle", Initial{Summary: []byte(`{"type":1,"tree":{"b":{"type":3,"handle":"/x"}}}`)}, `"b" has type 3`},
		{"ClassicNull", Initial{Summary: []byte(`{"type":1,"tree":{"b":null}}`)}, `"b" is null`},
		{"ClassicNoContent", Initial{Summary: []byte(`{"type":1,"tree":{"b":{"type":2}}}`)}, `blob "b" has no content`},
		{"ClassicNoName", Initial{Summary: []byte(`{"type":1,"tree":{"":{"type":2,"content":""}}}`)}, "without a name"},
		{"ClassicRootBlob", Initial{Summary: []byte(`{"type":2,"content":"x"}`)}, "summary has type 2"},
		{"SequenceNumberNegative", Initial{Summary: wholeTree(), AnyBinary: true, SequenceNumber: -1}, "sequenceNumber -1 is not from 0"},
		{"SequenceNumberTooLarge", Initial{Summary: wholeTree(), AnyBinary: true, SequenceNumber: MaxFirstSequenceNumber + 1}, "is not from 0 to 4503599627370496"},
		{"ValuesNoPairs", Initial{Summary: wholeTree(), AnyBinary: true, Values: []byte(`[["code"]]`)}, "array of [key, value]"},
		{"ValuesNoKey", Initial{Summary: wholeTree(), AnyBinary: true, Values: []byte(`[[1,{}]]`)}, "string with an object"},
		{"ValuesNoObject", Initial{Summary: wholeTree(), AnyBinary: true, Values: []byte(`[["code",1]]`)}, "string with an object"},
		{"HandleWithoutCommit", Initial{Summary: wholeTree(handle("x", "tree", strings.Repeat("0", 40)+"/.app")), AnyBinary: true}, "no such commit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			_, err := r.doc.Create(t.Context(), test.in)
			wantBad(t, err, test.want)
			if puts := r.st.takePuts(); len(puts) != 0 {
				t.Errorf("%d writes for a refused summary", len(puts))
			}
		})
	}
}

func wantBad(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, ErrBadSummary) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want ErrBadSummary with %q", err, want)
	}
}

func TestUploadTakesOverWhatIsUnchanged(t *testing.T) {
	r := newRig(t)
	first := r.create(
		dir(".channels", dir("A", blob("h", "old A")), dir("b%2Fc%20d", blob("h", "B"))),
		`{"path":"old","type":"tree","unreferenced":true,"groupId":"g","value":{"type":"tree","entries":[]}}`,
		blob("meta", "m"),
	)
	attachment, err := r.doc.PutBlob(t.Context(), []byte{0, 1, 2})
	if err != nil {
		t.Fatalf("put blob: %v", err)
	}
	r.st.takePuts()
	uploaded := r.upload(
		dir(".channels", dir("A", blob("h", "new A")), handle("moved", "tree", first+"/.app/.channels/b%2Fc%20d")),
		handle("old", "tree", first+"/.app/old"),
		handle("meta", "blob", first+"/.app/meta"),
		dir(".blobs", handle("0", "blob", attachment)),
		handle("all", "tree", first+"/.app"),
	)
	if puts := r.st.takePuts(); len(puts) != 1 {
		t.Errorf("objects were written in %d steps, want 1", len(puts))
	}

	r.log(join("a"))
	second := r.accept(uploaded, first, 1)
	diff(t, ".app", r.download(second).appFiles(t), []string{
		".blobs/",
		".blobs/0: \x00\x01\x02",
		".channels/",
		".channels/A/",
		".channels/A/h: new A",
		".channels/moved/",
		".channels/moved/h: B",
		"all/",
		"all/.channels/",
		"all/.channels/A/",
		"all/.channels/A/h: old A",
		"all/.channels/b%2Fc%20d/",
		"all/.channels/b%2Fc%20d/h: B",
		"all/meta: m",
		"all/old/ unreferenced group=g",
		"meta: m",
		"old/ unreferenced group=g",
	})
	// Older versions stay as they were.
	if got := r.download(first).appFiles(t); !slices.Contains(got, ".channels/A/h: old A") {
		t.Errorf("first version is now %q", got)
	}
}

func TestUploadTwiceWritesOnce(t *testing.T) {
	r := newRig(t)
	a := r.upload(dir("d", blob("x", "same"), blob("y", "same")))
	if puts := r.st.takePuts(); !slices.Equal(puts, []int{3}) {
		t.Errorf("writes %v, want one of 3 objects: a blob and two trees", puts)
	}
	b := r.upload(dir("d", blob("y", "same"), blob("x", "same")))
	if puts := r.st.takePuts(); len(puts) != 0 {
		t.Errorf("writes %v for what was there", puts)
	}
	if a != b {
		t.Errorf("handles %s and %s of the same content differ", a, b)
	}
}

func TestUploadIsInvisibleUntilCommitted(t *testing.T) {
	r := newRig(t)
	first := r.create()
	uploaded := r.upload(blob("x", "1"))
	if _, err := r.doc.Summary(t.Context(), uploaded); !errors.Is(err, ErrNotFound) {
		t.Errorf("summary by tree id: %v, want ErrNotFound", err)
	}
	versions, err := r.doc.Commits(t.Context(), first, 10)
	if err != nil || len(versions) != 1 {
		t.Errorf("versions %v, %v; want the first one only", versions, err)
	}
}

func TestUploadRefuses(t *testing.T) {
	r := newRig(t)
	first := r.create(dir("d", blob("x", "1")), blob("f", "2"))
	other := strings.Repeat("ab", 20)
	_, stranger := r.newDocument()
	foreign, err := stranger.PutBlob(t.Context(), []byte("of another document"))
	if err != nil {
		t.Fatalf("put blob: %v", err)
	}
	ownTree := r.upload(blob("x", "1"))
	r.st.takePuts()

	for _, test := range []struct {
		name string
		body []byte
		want string
	}{
		{"NotJSON", []byte(`{`), "not JSON"},
		{"NoType", []byte(`{"entries":[]}`), `only "channel"`},
		{"Container", []byte(`{"type":"container","entries":[]}`), `only "channel"`},
		{"EntriesNoArray", []byte(`{"type":"channel","entries":{}}`), "entries is a object"},
		{"NullEntry", channel("null"), "without a name"},
		{"UnknownEntryType", channel(`{"path":"x","type":"commit","id":"y"}`), `has type "commit"`},
		{"NeitherValueNorID", channel(`{"path":"x","type":"tree"}`), "either a value or an id"},
		{"ValueAndID", channel(`{"path":"x","type":"tree","id":"y","value":{"type":"tree","entries":[]}}`), "either a value or an id"},
		{"ValueOfOtherType", channel(`{"path":"x","type":"tree","value":{"type":"blob","content":"","encoding":"utf-8"}}`), `its value "blob"`},
		{"BlobWithoutContent", channel(`{"path":"x","type":"blob","value":{"type":"blob","encoding":"utf-8"}}`), "no content"},
		{"BlobOfObject", channel(`{"path":"x","type":"blob","value":{"type":"blob","content":{"type":"Buffer"},"encoding":"utf-8"}}`), "is a object where a string belongs"},
		{"UnknownEncoding", channel(`{"path":"x","type":"blob","value":{"type":"blob","content":"","encoding":"utf-16"}}`), `encoding "utf-16"`},
		{"BadBase64", channel(`{"path":"x","type":"blob","value":{"type":"blob","content":"A*","encoding":"base64"}}`), "not base64"},
		{"EmptyName", channel(blob("", "1")), "without a name"},
		{"SlashInName", channel(blob("a/b", "1")), "more than one segment"},
		{"BadEscape", channel(blob("a%2", "1")), "not a URI-encoded segment"},
		{"EscapeIsNoUTF8", channel(blob("%ff", "1")), "not a URI-encoded segment"},
		{"LongName", channel(blob(strings.Repeat("n", MaxNameBytes+1), "1")), "name of 513 bytes"},
		{"SameNameTwice", channel(blob("a", "1"), blob("%61", "2")), `two entries named "a"`},
		{"HandleOfUnknownCommit", channel(handle("x", "tree", other+"/.app/d")), "no such commit"},
		{"HandleOfTree", channel(handle("x", "tree", ownTree+"/.app/d")), "no such commit"},
		{"HandleToNothing", channel(handle("x", "tree", first+"/.app/d/no")), `no "no" there`},
		{"HandleThroughBlob", channel(handle("x", "tree", first+"/.app/f/x")), `"f" is not a tree`},
		{"HandleOutsideApp", channel(handle("x", "tree", first+"/.protocol")), "must begin with .app"},
		{"HandleWithoutPath", channel(handle("x", "tree", first+"/")), "must begin with .app"},
		{"HandleWithBadEscape", channel(handle("x", "tree", first+"/.app/%zz")), "segment 1 is not URI-encoded"},
		{"HandleOfOtherType", channel(handle("x", "tree", first+"/.app/f")), "is a blob"},
		{"TreeByID", channel(handle("x", "tree", ownTree)), `must be "<commit>/.app/<path>"`},
		{"UnknownAttachment", channel(handle("x", "blob", other)), "no attachment blob"},
		{"AttachmentOfAnotherDocument", channel(handle("x", "blob", foreign)), "no attachment blob"},
		{"TreeAsAttachment", channel(handle("x", "blob", ownTree)), "no attachment blob"},
		{"AttachmentIsNoID", channel(handle("x", "blob", "..")), "no attachment blob"},
		{"TooDeep", channel(nested(MaxDepth)), "deeper than 64"},
		{"FarTooDeep", []byte(strings.Repeat(`{"entries":[`, 5000)), "deeper than 64"},
		{"TooManyEntries", channel(slices.Repeat([]string{"null"}, 8*MaxEntries+2)...), "more than 100000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := r.doc.UploadSummary(t.Context(), test.body)
			wantBad(t, err, test.want)
			if puts := r.st.takePuts(); len(puts) != 0 {
				t.Errorf("%d writes for a refused summary", len(puts))
			}
		})
	}
	if _, err := r.doc.UploadSummary(t.Context(), channel(nested(MaxDepth-1))); err != nil {
		t.Errorf("tree of the greatest depth: %v", err)
	}
}

func TestUploadOfTooManyBytes(t *testing.T) {
	b := newRig(t).doc.newBatch()
	b.content = MaxUploadBytes - 1
	if _, err := b.addContent(t.Context(), []byte("x")); err != nil {
		t.Errorf("last byte: %v", err)
	}
	_, err := b.addContent(t.Context(), []byte("y"))
	wantBad(t, err, "more than 29360128 bytes")
}

// A lost key is not a lost object: 404 would be final for clients.
func TestLostKeyIsNotNotFound(t *testing.T) {
	r := newRig(t)
	commit := r.create(blob("x", "1"))
	r.log(join("a"))
	op := r.log(summarizeOp(r.upload(), commit, 1))
	r.keys.Close()
	if _, err := r.doc.Summary(t.Context(), commit); !errors.Is(err, store.ErrClosed) {
		t.Errorf("summary: %v, want ErrClosed", err)
	}
	if _, err := r.doc.UploadSummary(t.Context(), channel(handle("x", "blob", commit+"/.app/x"))); !errors.Is(err, store.ErrClosed) {
		t.Errorf("upload: %v, want ErrClosed", err)
	}
	if v, err := r.doc.Judge(t.Context(), []string{commit}, op); !errors.Is(err, store.ErrClosed) {
		t.Errorf("judge: %s, %v, want ErrClosed", v.Contents, err)
	}
}

// nested is n trees in each other.
func nested(n int) string {
	if n == 1 {
		return dir("t")
	}
	return dir("t", nested(n-1))
}

// A few bytes that refer to an earlier summary twice, again and again, double what
// they stand for each time.
func TestReferencesCannotUnfoldWithoutBound(t *testing.T) {
	for _, test := range []struct {
		name  string
		first []string
		want  string
	}{
		{"Entries", []string{dir("x", blob("b", ""))}, "more than 100000"},
		{"Bytes", []string{dir("x", blob("b", strings.Repeat("b", 1<<20)))}, "over 99614720 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			head := r.create(test.first...)
			r.log(join("a"))
			for round := 1; ; round++ {
				all := head + "/.app"
				up, err := r.doc.UploadSummary(t.Context(), channel(handle("l", "tree", all), handle("r", "tree", all)))
				if err != nil {
					wantBad(t, err, test.want)
					return
				}
				if round > 20 {
					t.Fatal("still accepted after 20 doublings")
				}
				head = r.accept(up, head, r.seq)
			}
		})
	}
}

func TestPutBlob(t *testing.T) {
	r := newRig(t)
	// git hash-object --stdin
	for content, want := range map[string]string{
		"":        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
		"hello\n": "ce013625030ba8dba906f756967f9e9ca394464a",
	} {
		id, err := r.doc.PutBlob(t.Context(), []byte(content))
		if err != nil || id != want {
			t.Errorf("id of %q: %s, %v; want %s", content, id, err, want)
		}
		got, release, err := r.doc.Blob(t.Context(), id)
		if err != nil || string(got) != content {
			t.Fatalf("blob %s: %q, %v; want %q", id, got, err, content)
		}
		release()
	}
	if _, err := r.doc.PutBlob(t.Context(), make([]byte, MaxUploadBytes+1)); !errors.Is(err, ErrBadSummary) {
		t.Errorf("blob over the limit: %v, want ErrBadSummary", err)
	}
	for _, id := range []string{"", "latest", strings.Repeat("0", 40), strings.Repeat("E", 40)} {
		if _, _, err := r.doc.Blob(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("blob %q: %v, want ErrNotFound", id, err)
		}
	}
}

func TestNamesEncodeAsJavaScriptDoes(t *testing.T) {
	for name, want := range map[string]string{
		"a-_.!~*'()Z9": "a-_.!~*'()Z9",
		"a/b c":        "a%2Fb%20c",
		"€":            "%E2%82%AC",
		"+&=?#[]@:$,;": "%2B%26%3D%3F%23%5B%5D%40%3A%24%2C%3B",
		"\x00\"\\":     "%00%22%5C",
	} {
		if got := encodeName(name); got != want {
			t.Errorf("encodeName(%q) = %q, want %q", name, got, want)
		}
		if got, err := decodeName(want); err != nil || got != name {
			t.Errorf("decodeName(%q) = %q, %v; want %q", want, got, err, name)
		}
	}
}

// What is accepted downloads to what uploads to the same tree again.
func FuzzCreate(f *testing.F) {
	for _, seed := range []json.RawMessage{
		wholeTree(),
		wholeTree(blob("x", "1"), dir("d", blob("%2F", ""))),
		wholeTree(`{"path":"b","type":"blob","value":{"type":"blob","content":"AAEC","encoding":"base64"}}`),
		wholeTree(`{"path":"u","type":"tree","unreferenced":true,"groupId":"g","value":{"type":"tree","entries":[]}}`),
		wholeTree(handle("x", "tree", strings.Repeat("0", 40)+"/.app/a")),
		[]byte(`{"type":1,"tree":{"a b":{"type":1,"tree":{"x":{"type":2,"content":"1"}}}}}`),
		[]byte(`{"type":"tree","entries":[null]}`),
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, anyBinary bool) {
		r := newRig(t)
		commit, err := r.doc.Create(t.Context(), Initial{Summary: body, AnyBinary: anyBinary})
		if err != nil {
			if !errors.Is(err, ErrBadSummary) {
				t.Fatalf("got %v, want ErrBadSummary", err)
			}
			return
		}
		s := r.download(commit)
		s.files(t)
		again, err := r.doc.Create(t.Context(), Initial{Summary: s.rebuild(), AnyBinary: true})
		if err != nil {
			t.Fatalf("create from the download: %v", err)
		}
		if got, want := r.download(again).Trees[0].ID, s.Trees[0].ID; got != want {
			t.Errorf("tree %s, want %s", got, want)
		}
	})
}

func BenchmarkSummary(b *testing.B) {
	r := newRig(b)
	var entries []string
	for i := range 1000 {
		entries = append(entries, dir(fmt.Sprint(i), blob("header", strings.Repeat("x", 1000)), blob("body", fmt.Sprint(i))))
	}
	commit := r.create(entries...)
	b.Run("Download2000Blobs", func(b *testing.B) {
		for b.Loop() {
			r.downloadJSON(commit)
		}
	})
	b.Run("UploadOneOf1000Changed", func(b *testing.B) {
		r.log(join("a"))
		for i := 0; b.Loop(); i++ {
			var changed []string
			for j := range 999 {
				changed = append(changed, handle(fmt.Sprint(j), "tree", fmt.Sprintf("%s/.app/%d", commit, j)))
			}
			changed = append(changed, dir("999", blob("header", fmt.Sprint("changed", i))))
			if _, err := r.doc.UploadSummary(context.Background(), channel(changed...)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
