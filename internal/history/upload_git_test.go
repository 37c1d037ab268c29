package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/sequencer"
)

// createFlat creates the rig's document in the layout of the local dialect.
func (r *rig) createFlat(entries ...string) (commit string) {
	r.t.Helper()
	commit, err := r.doc.Create(r.t.Context(), Initial{Summary: wholeTree(entries...), Values: []byte(codeValues), AnyBinary: true, Flat: true})
	if err != nil {
		r.t.Fatalf("create: %v", err)
	}
	return commit
}

func (r *rig) putBlob(content string) (id string) {
	r.t.Helper()
	id, err := r.doc.PutBlob(r.t.Context(), []byte(content))
	if err != nil {
		r.t.Fatalf("put blob: %v", err)
	}
	return id
}

func (r *rig) uploadTree(entries ...string) (id string) {
	r.t.Helper()
	id, err := r.doc.UploadTree(r.t.Context(), gitTree(entries...))
	if err != nil {
		r.t.Fatalf("upload tree: %v", err)
	}
	return id
}

func gitTree(entries ...string) []byte {
	return []byte(`{"tree":[` + strings.Join(entries, ",") + `]}`)
}

func gitBlob(path, id string) string {
	return fmt.Sprintf(`{"mode":"100644","path":%q,"sha":%q,"type":"blob"}`, path, id)
}

func gitDir(path, id string) string {
	return fmt.Sprintf(`{"mode":"040000","path":%q,"sha":%q,"type":"tree"}`, path, id)
}

// refuse has a summary of the state at rsn judged, which must be refused.
func (r *rig) refuse(op sequencer.SequencedOp, head, want string) {
	r.t.Helper()
	v, err := r.doc.Judge(r.t.Context(), []string{head}, r.log(op))
	if err != nil || v.Type != sequencer.TypeSummaryNack || !strings.Contains(string(v.Contents), want) {
		r.t.Errorf("judge: %s %s, %v; want a nack that says %q", v.Type, v.Contents, err, want)
	}
}

func TestUploadTree(t *testing.T) {
	r := newRig(t)
	first := r.createFlat(dir(".channels", blob("A%2FB", "old")), blob(".metadata", "m1"))
	diff(t, "the first version", r.download(first).files(t)[:5], []string{
		".channels/", ".channels/A%2FB: old", ".metadata: m1", ".protocol/", `.protocol/attributes: {"minimumSequenceNumber":0,"sequenceNumber":0}`,
	})
	r.log(join("a"), edit(0))

	// Leaves first, as drivers do it; one entry is taken over by its id.
	list, err := r.doc.Tree(t.Context(), r.download(first).Trees[0].ID, false)
	if err != nil {
		t.Fatal(err)
	}
	channel := r.uploadTree(gitBlob("A%2FB", r.putBlob("new")), gitBlob("C", r.putBlob("added")))
	top := r.uploadTree(gitDir(".channels", channel), gitBlob(".metadata", list[1].ID), gitDir(".empty", r.uploadTree()))
	head := r.accept(top, first, 2)
	golden(t, "flat.txt", []byte(strings.ReplaceAll(strings.Join(r.download(head).files(t), "\n"), first, "FIRST")))

	commit, err := r.doc.Commit(t.Context(), head)
	if err != nil || commit.Message != "m" || !slices.Equal(commit.Parents, []string{first}) {
		t.Errorf("commit %+v, %v; want the client's message and one parent", commit, err)
	}

	// The layout is the document's: the next version has it too.
	r.log(edit(1))
	next := r.accept(r.uploadTree(gitDir(".channels", channel)), head, 4)
	if got := r.download(next).files(t)[:3]; got[0] != ".channels/" || got[2] != ".channels/C: added" {
		t.Errorf("the next version begins with %q", got)
	}
	other := summarizeOp(top, next, 5)
	other.Contents = literal(fmt.Sprintf(`{"handle":%q,"head":%q,"message":"m","parents":[%q]}`, top, next, strings.Repeat("0", 40)))
	r.refuse(other, next, "One or more parent summaries are invalid.")
}

// What is uploaded is always the app's tree, however it was uploaded: where it goes
// depends on the document alone, and never on what the tree looks like.
func TestLayoutIsTheDocuments(t *testing.T) {
	t.Run("AppWithAnEntryNamedApp", func(t *testing.T) {
		r := newRig(t)
		head := r.createFlat(blob("x", "1"))
		r.log(join("a"))
		head = r.accept(r.uploadTree(gitDir(".app", r.uploadTree(gitBlob("y", r.putBlob("2"))))), head, 1)
		r.log(edit(1))
		head = r.accept(r.uploadTree(gitBlob("z", r.putBlob("3"))), head, 3)
		for _, f := range r.download(head).files(t) {
			if strings.HasPrefix(f, appName) {
				t.Errorf("%s is in a flat version; what it was built on is no sign of the layout", f)
			}
		}
	})
	t.Run("TreesIntoDeepDocument", func(t *testing.T) {
		r := newRig(t)
		head := r.create(blob("x", "1"))
		r.log(join("a"))
		head = r.accept(r.uploadTree(gitBlob("y", r.putBlob("2"))), head, 1)
		diff(t, "the app", r.download(head).appFiles(t), []string{"y: 2"})
	})
	t.Run("ServicesNames", func(t *testing.T) {
		for _, name := range []string{protocolName, logTailName, serviceName} {
			r := newRig(t)
			head := r.createFlat(blob("x", "1"))
			r.log(join("a"))
			r.refuse(summarizeOp(r.uploadTree(gitBlob(name, r.putBlob("forged"))), head, 1), head, fmt.Sprintf(`an entry named \"%s\"`, name))
			if _, err := newRig(t).doc.Create(t.Context(), Initial{Summary: wholeTree(blob(protocolName, "forged")), AnyBinary: true, Flat: true}); !errors.Is(err, ErrBadSummary) {
				t.Errorf("created with %s: %v, want ErrBadSummary", protocolName, err)
			}
		}
	})
	t.Run("HandlesOfTheOtherDialect", func(t *testing.T) {
		r := newRig(t)
		head := r.createFlat(dir(".app", blob("x", "1")))
		_, err := r.doc.UploadSummary(t.Context(), channel(handle("x", "blob", head+"/.app/x")))
		if !errors.Is(err, ErrBadSummary) || !strings.Contains(err.Error(), "this document is of the local one") {
			t.Errorf("got %v, want ErrBadSummary", err)
		}
	})
}

// A tree may overtake a blob that it names.
func TestUploadTreeWaitsForWhatItNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := objectID(blobObject, []byte("late"))
		done := make(chan string)
		go func() {
			tree, err := r.doc.UploadTree(t.Context(), gitTree(gitBlob("x", id)))
			if err != nil {
				t.Errorf("upload tree: %v", err)
			}
			done <- tree
		}()
		synctest.Wait()
		r.putBlob("another one")
		synctest.Wait()
		select {
		case <-done:
			t.Error("the tree is there before its blob")
		default:
		}
		r.putBlob("late")
		list, err := r.doc.Tree(t.Context(), <-done, true)
		if err != nil || len(list) != 1 || list[0] != (TreeEntry{Path: "x", Type: typeBlob, ID: id, Bytes: 4}) {
			t.Errorf("the tree is %+v, %v", list, err)
		}

		start := time.Now()
		_, err = r.doc.UploadTree(t.Context(), gitTree(gitBlob("x", strings.Repeat("0", 40))))
		if !errors.Is(err, ErrBadSummary) || time.Since(start) != uploadWait {
			t.Errorf("a blob that never came: %v after %v, want ErrBadSummary after %v", err, time.Since(start), uploadWait)
		}
	})
}

func TestUploadTreeRefuses(t *testing.T) {
	for name, test := range map[string]struct{ body, want string }{
		"NoJSON":        {`{"tree":[`, "not JSON"},
		"NoTree":        {`{}`, `there is no list "tree"`},
		"NoList":        {`{"tree":{}}`, "object where a slice belongs"},
		"NoName":        {string(gitTree(gitBlob("", "ID"))), "an entry without a name"},
		"TwoSegments":   {string(gitTree(gitBlob("a/b", "ID"))), "more than one segment"},
		"SameName":      {string(gitTree(gitBlob("a", "ID"), gitBlob("a", "ID"))), `two entries named "a"`},
		"Symlink":       {string(gitTree(`{"path":"a","mode":"120000","type":"blob","sha":"ID"}`)), `mode "120000"`},
		"Commit":        {string(gitTree(`{"path":"a","mode":"160000","type":"commit","sha":"ID"}`)), `type "commit"`},
		"BlobAsTree":    {string(gitTree(gitDir("a", "ID"))), "was not uploaded to this document"},
		"NoID":          {string(gitTree(gitBlob("a", "../x"))), "was not uploaded to this document"},
		"OtherDocument": {string(gitTree(gitBlob("a", "OTHER"))), "was not uploaded to this document"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				_, elsewhere := r.newDocument()
				other, err := elsewhere.PutBlob(t.Context(), []byte("secret"))
				if err != nil {
					t.Fatal(err)
				}
				body := strings.NewReplacer("ID", r.putBlob("x"), "OTHER", other).Replace(test.body)
				if _, err := r.doc.UploadTree(t.Context(), []byte(body)); !errors.Is(err, ErrBadSummary) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want ErrBadSummary: %s", err, test.want)
				}
			})
		})
	}
}

// A tree that names its predecessor twice, again and again, soon stands for more than
// fits in any document.
func TestUploadTreeIsBounded(t *testing.T) {
	r := newRig(t)
	id := r.uploadTree(gitBlob("x", r.putBlob(strings.Repeat("x", 1000))))
	for range MaxDepth {
		next, err := r.doc.UploadTree(t.Context(), gitTree(gitDir("a", id), gitDir("b", id)))
		if err != nil {
			if !errors.Is(err, ErrBadSummary) {
				t.Errorf("got %v, want ErrBadSummary", err)
			}
			return
		}
		id = next
	}
	t.Error("a tree of 2^64 entries was taken")
}

// FuzzUploadTree: what is taken is listed with the same names and ids.
func FuzzUploadTree(f *testing.F) {
	r := newRig(f)
	id := r.putBlob("x")
	sub := r.uploadTree(gitBlob("y", id))
	f.Add(gitTree())
	f.Add(gitTree(gitBlob("a", id), gitDir("%2Fb", sub)))
	f.Add(gitTree(gitBlob("a", id), gitBlob("a", id)))
	f.Add([]byte(`{"tree":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		wire, err := parseGitTree(body)
		if err != nil {
			return
		}
		tree, err := r.doc.addGitTree(t.Context(), wire)
		if err != nil {
			return
		}
		list, err := r.doc.Tree(t.Context(), tree, false)
		if err != nil || len(list) != len(wire) {
			t.Fatalf("%d entries were taken, %d listed, %v", len(wire), len(list), err)
		}
		again := make([]gitEntry, len(list))
		for i, e := range list {
			again[i] = gitEntry{Path: e.Path, Mode: gitModes[e.Type], SHA: e.ID, Type: e.Type}
		}
		if twice, err := r.doc.addGitTree(t.Context(), again); err != nil || twice != tree {
			t.Errorf("what was listed is another tree: %s, %v; want %s", twice, err, tree)
		}
	})
}
