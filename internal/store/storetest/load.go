package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/store"
)

// Load is writers at work, each on a document of its own, who do after an error what the
// relay does: they claim the document anew and go on from the head they find. It is for
// faults that outlive single calls.
type Load struct {
	t       testing.TB
	st      store.Store
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	writers []*loadWriter
	acked   atomic.Int64
	failed  atomic.Int64
}

type loadWriter struct {
	doc *Doc
	// texts of the ops that must be in the log: acknowledged, or found there.
	texts []string
	// unknown is what was sent last without an answer.
	unknown string
	attempt int
}

// StartLoad starts so many writers.
func StartLoad(t testing.TB, st store.Store, writers int) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{t: t, st: st, cancel: cancel}
	for range writers {
		w := &loadWriter{doc: NewDoc(t)}
		l.writers = append(l.writers, w)
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.write(ctx, w)
			}
		})
	}
	t.Cleanup(l.Stop)
	return l
}

// write claims the document and appends to it until something fails.
func (l *Load) write(ctx context.Context, w *loadWriter) {
	c, err := l.st.Claim(ctx, w.doc.Handle)
	if err != nil {
		l.failed.Add(1)
		time.Sleep(5 * time.Millisecond) // the engine has waited; this only keeps a closed one from being asked without end
		return
	}
	switch known := uint64(len(w.texts)); {
	case c.Head == known+1 && w.unknown != "":
		w.texts = append(w.texts, w.unknown)
	case c.Head != known:
		l.t.Errorf("a claim finds head %d; %d ops were acknowledged", c.Head, known)
		l.cancel()
		return
	}
	w.unknown = ""
	for d := w.doc.fresh(); ctx.Err() == nil; {
		head := uint64(len(w.texts))
		w.attempt++
		text := fmt.Sprintf("attempt %d", w.attempt)
		if err := l.st.Append(ctx, d.Append(c, head, head+1, text)); err != nil {
			if errors.Is(err, store.ErrFenced) {
				l.t.Errorf("op %d of the only writer: %v", head+1, err)
				l.cancel()
			}
			l.failed.Add(1)
			w.unknown = text
			return
		}
		w.texts = append(w.texts, text)
		l.acked.Add(1)
	}
}

// Await waits until n more appends were acknowledged.
func (l *Load) Await(n int) {
	l.t.Helper()
	from := l.acked.Load()
	for end := time.Now().Add(time.Minute); l.acked.Load() < from+int64(n); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%d of %d appends within a minute", l.acked.Load()-from, n)
		}
	}
}

// Failed is how many calls failed so far.
func (l *Load) Failed() int64 { return l.failed.Load() }

// Stop ends the writers.
func (l *Load) Stop() {
	l.cancel()
	l.wg.Wait()
}

// Check compares what is stored, as st gives it, with what the writers know.
func (l *Load) Check(st store.Store) {
	l.t.Helper()
	l.Stop()
	for i, w := range l.writers {
		r, err := st.Read(context.Background(), w.doc.Handle, 1, 1<<40, 0)
		if err != nil {
			l.t.Errorf("document %d: %v", i, err)
			continue
		}
		got := w.doc.Texts(r)
		if len(got) == len(w.texts)+1 && w.unknown != "" {
			w.texts = append(w.texts, w.unknown)
		}
		want := make([]string, len(w.texts))
		for j, text := range w.texts {
			want[j] = fmt.Sprintf("%d-%d %s", j+1, j+1, text)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			l.t.Errorf("document %d has %d records and %d ops were acknowledged, or they differ", i, len(got), len(want))
		}
	}
	l.t.Logf("%d appends acknowledged, %d calls failed", l.acked.Load(), l.failed.Load())
}
