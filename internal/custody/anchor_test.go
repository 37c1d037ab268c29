package custody

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/anchor"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// oneLog is the log of one document, as a store would give it.
type oneLog struct {
	store.Log
	r store.Range
}

func (l *oneLog) Read(_ context.Context, _ envelope.DocumentHandle, from, _ uint64, _ int) (store.Range, error) {
	got := store.Range{Head: l.r.Head}
	for _, rec := range l.r.Records {
		if rec.LastSeq() >= from && len(got.Records) == 0 && from <= l.r.Head {
			got.Records = append(got.Records, rec)
		}
	}
	return got, nil
}

// append seals n records of two ops each and takes them as durable.
func (l *oneLog) append(t *testing.T, w *Writer, n int) {
	t.Helper()
	for range n {
		a, err := w.Seal(l.r.Head+1, l.r.Head+2, []byte("two ops"))
		if err != nil {
			t.Fatal(err)
		}
		l.r.Records, l.r.Head = append(l.r.Records, a.Record), l.r.Head+2
		w.Appended()
	}
}

func newAnchored(t *testing.T) (*fixture, *anchor.File) {
	t.Helper()
	file, err := anchor.Open(filepath.Join(t.TempDir(), "anchors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	f := newFixture(t)
	f.anchorFile = file
	f.restart()
	return f, file
}

func wantRollback(t *testing.T, what string, d *Document, log store.Log) {
	t.Helper()
	_, err := d.CheckAnchor(t.Context(), log)
	var u *UnusableError
	if !errors.As(err, &u) || !u.Rollback || u.Reason != reasonRollback {
		t.Errorf("%s: %v, want a suspected rollback", what, err)
	}
}

func TestScenario38AnchorFindsALogThatWasPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, file := newAnchored(t)
		r := f.resource(pinned)
		d := f.document(r)
		var log oneLog
		if known, err := d.CheckAnchor(t.Context(), &log); known || err != nil {
			t.Errorf("of a new document: %v, %v", known, err)
		}
		w := d.NewWriter(store.Claim{Term: 1}, Tail{})
		log.append(t, w, 2)
		time.Sleep(2 * anchorEvery)
		synctest.Wait()
		old := oneLog{r: log.r}
		log.append(t, w, 2)
		d.Close() // what was not written yet goes with it
		f.restart()

		d = f.open(r, d.Handle())
		if known, err := d.CheckAnchor(t.Context(), &log); !known || err != nil {
			t.Errorf("as it was: %v, %v", known, err)
		}
		wantRollback(t, "put back", d, &old)
		wantRollback(t, "emptied", d, &oneLog{})
		// Put back, and written to by somebody else with the same keys.
		fork := oneLog{r: old.r}
		tail := Tail{chain: old.r.Records[1].Link(), records: 2, head: old.r.Head}
		for range 4 {
			fork.append(t, d.NewWriter(store.Claim{Term: 9, Head: fork.r.Head}, Tail{chain: tail.chain, records: tail.records, head: fork.r.Head}), 1)
		}
		d.k.anchors.mu.Lock()
		clear(d.k.anchors.dirty)
		d.k.anchors.mu.Unlock()
		wantRollback(t, "forked", d, &fork)
		one, err := d.NewWriter(store.Claim{Term: 9}, Tail{}).Seal(1, 9, []byte("nine ops"))
		if err != nil {
			t.Fatal(err)
		}
		wantRollback(t, "in one record", d, &oneLog{r: store.Range{Records: []envelope.Record{one.Record}, Head: 9}})
		// Dropped below a summary, that is: nothing to compare with.
		dropped := oneLog{r: store.Range{Records: fork.r.Records[len(fork.r.Records)-1:], Head: fork.r.Head}}
		if known, err := d.CheckAnchor(t.Context(), &dropped); known || err != nil {
			t.Errorf("dropped: %v, %v", known, err)
		}
		// An anchor that is not ours.
		raw := file.Get(d.Handle())
		for i := range raw {
			b := append([]byte(nil), raw...)
			b[i] ^= 1
			if err := file.Put(anchor.Anchor{Document: d.Handle(), Value: b}); err != nil {
				t.Fatal(err)
			}
			if _, err := d.CheckAnchor(t.Context(), &log); err == nil {
				t.Errorf("byte %d of the anchor changed: it was taken", i)
			}
		}
		if err := f.AcceptRollback(t.Context(), r, d.Handle()); err != nil {
			t.Fatal(err)
		}
		if known, err := d.CheckAnchor(t.Context(), &old); known || err != nil {
			t.Errorf("accepted: %v, %v", known, err)
		}
		if err := f.AcceptRollback(t.Context(), r, d.Handle()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("accepted again: %v, want ErrNotFound", err)
		}
		uses := f.uses()
		if last := uses[len(uses)-1]; last.Op != opAccept || last.Reason != string(forRollback) {
			t.Errorf("in the log of key uses: %+v", last)
		}
	})
}

// A document that is written to without a pause is anchored every 1,000 ops, and one that
// is deleted has no anchor.
func TestAnchorsKeepUpAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, file := newAnchored(t)
		r := f.resource(pinned)
		d := f.document(r)
		var log oneLog
		log.append(t, d.NewWriter(store.Claim{Term: 1}, Tail{}), anchorOps/2+1)
		synctest.Wait() // and no time passes
		a, err := d.key.OpenAnchor(d.at, file.Get(d.Handle()))
		if err != nil || a.Seq != log.r.Head || a.Term != 1 {
			t.Errorf("anchor: %+v, %v; want op %d", a, err, log.r.Head)
		}
		if _, err := f.DestroyDocument(t.Context(), r, d.Handle(), "notes"); err != nil {
			t.Fatal(err)
		}
		if file.Get(d.Handle()) != nil {
			t.Error("a deleted document has an anchor")
		}
	})
}
