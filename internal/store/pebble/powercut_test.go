package pebble

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// load writes and reads until it is stopped, and knows what it was told.
type load struct {
	docs    []*storetest.Doc
	told    []atomic.Uint64 // per document: the head that was acknowledged or read
	objects []store.Object  // put together, again and again, for each document
	pair    [2]store.RowKey // written together, again and again
	sealed  envelope.Sealed
	written atomic.Uint64 // revision of the pair that was acknowledged
}

func newLoad(t *testing.T) *load {
	l := &load{told: make([]atomic.Uint64, 3)}
	for range l.told {
		l.docs = append(l.docs, storetest.NewDoc(t))
	}
	for _, id := range []string{"a", "b", "c"} {
		l.objects = append(l.objects, l.docs[0].Object(id, "x"))
	}
	l.pair = [2]store.RowKey{{Table: "t", Name: envelope.Name{1}}, {Table: "u", Name: envelope.Name{2}}}
	var err error
	if l.sealed, err = envelope.NewServiceKey().SealRow("t", envelope.Name{}, envelope.Name{1}, []byte("x")); err != nil {
		t.Fatal(err)
	}
	return l
}

// run works on e until stop is closed.
func (l *load) run(t *testing.T, e *engine, stop <-chan struct{}) {
	ctx := context.Background()
	var wg sync.WaitGroup
	until := func(work func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := work(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i, d := range l.docs {
		c, err := e.Claim(ctx, d.Handle)
		if err != nil {
			t.Error(err)
			return
		}
		head := uint64(0)
		until(func() error {
			if err := e.Append(ctx, d.Append(c, head, head+1, "x")); err != nil {
				return err
			}
			head++
			raise(&l.told[i], head)
			return nil
		})
		until(func() error {
			from := l.told[i].Load()
			r, err := e.Read(ctx, d.Handle, from, from+9, 1)
			raise(&l.told[i], r.Head)
			return err
		})
		until(func() error { return e.PutObjects(ctx, d.Handle, l.objects) })
	}
	until(func() error {
		err := e.WriteRows(ctx, []store.RowWrite{{RowKey: l.pair[0], Value: &l.sealed}, {RowKey: l.pair[1], Value: &l.sealed}})
		if err == nil {
			l.written.Add(1)
		}
		return err
	})
	wg.Wait()
}

func raise(a *atomic.Uint64, to uint64) {
	for old := a.Load(); to > old && !a.CompareAndSwap(old, to); old = a.Load() {
	}
}

// survived checks what is left against what was told before the cut.
func (l *load) survived(t *testing.T, e *engine, told []uint64, written uint64) {
	for i, d := range l.docs {
		r, err := e.Read(t.Context(), d.Handle, 1, 1<<40, 0)
		if err != nil || r.Head < told[i] || uint64(len(r.Records)) != r.Head {
			t.Errorf("document %d: head %d with %d records, %v; want at least op %d", i, r.Head, len(r.Records), err, told[i])
		}
		found := 0
		for _, o := range l.objects {
			has, err := e.HasObject(t.Context(), d.Handle, o.Name)
			if err != nil {
				t.Error(err)
			}
			if has {
				found++
			}
		}
		if found != 0 && found != len(l.objects) {
			t.Errorf("document %d: %d of %d objects that were put together", i, found, len(l.objects))
		}
	}
	a, errA := e.GetRow(t.Context(), l.pair[0])
	b, errB := e.GetRow(t.Context(), l.pair[1])
	if a.Revision != b.Revision || a.Revision < written {
		t.Errorf("rows written together have the revisions %d and %d, %v, %v; want at least %d", a.Revision, b.Revision, errA, errB, written)
	}
}

// A power cut at any moment loses nothing that was acknowledged or read, and leaves
// no write half done. What was not synced is lost, all or in part.
func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 5 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			disk := vfs.NewCrashableMem()
			e := openIn(t, disk)
			l, stop, done := newLoad(t), make(chan struct{}), make(chan struct{})
			go func() { defer close(done); l.run(t, e, stop) }()

			for enough := rng.Uint64N(60); l.told[0].Load() < enough && !t.Failed(); {
				runtime.Gosched()
			}
			told := make([]uint64, len(l.told))
			for i := range told {
				told[i] = l.told[i].Load()
			}
			written := l.written.Load()
			after := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(2), RNG: rng})
			close(stop)
			<-done

			l.survived(t, openIn(t, after), told, written)
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
}
