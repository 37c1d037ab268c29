package pebble

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

const memoryDir = "/srv/data"

func openIn(t testing.TB, fsys vfs.FS) *engine {
	t.Helper()
	e, err := open(Options{Dir: memoryDir}, fsys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// logSync says whether op is an fsync of the write-ahead log.
func logSync(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return strings.HasSuffix(op.Path, ".log")
	default:
		return false
	}
}

// slowSync holds an fsync of the write-ahead log back until the test releases it.
type slowSync struct {
	armed   atomic.Bool
	reached chan struct{}
	release chan struct{}
	synced  atomic.Bool
}

func (s *slowSync) MaybeError(op errorfs.Op) error {
	if logSync(op) && s.armed.CompareAndSwap(true, false) {
		close(s.reached)
		<-s.release
		s.synced.Store(true)
	}
	return nil
}

func (s *slowSync) String() string { return "slow fsync" }

// waitersOf says how many hold or await a latch.
func waitersOf(l *latches, key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.held[key]; one != nil {
		return one.users
	}
	return 0
}

// A reader who comes while the fsync of a write is under way gets the value after
// that fsync, or not at all.
func TestNothingIsReadBeforeItIsDurable(t *testing.T) {
	d := storetest.NewDoc(t)
	first, object := d.Append(store.Claim{Term: 1}, 0, 1, "x"), d.Object("id", "x")
	row := store.RowKey{Table: "t", Name: envelope.Name{1}}
	sealed, err := envelope.NewServiceKey().SealRow("t", row.Partition, row.Name, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	appendFirst := func(ctx context.Context, e *engine) error { return e.Append(ctx, first) }
	putObject := func(ctx context.Context, e *engine) error {
		return e.PutObjects(ctx, d.Handle, []store.Object{object})
	}
	writeRow := func(ctx context.Context, e *engine) error {
		return e.WriteRows(ctx, []store.RowWrite{{RowKey: row, Value: &sealed}})
	}
	record, stored := seqKey(d.Handle, partRecord, 1), documentKey(d.Handle, partObject, object.Name[:]...)
	for _, c := range []struct {
		name  string
		write func(context.Context, *engine) error
		key   []byte // what write stores
		latch string
		read  func(context.Context, *engine) (saw bool)
	}{
		{"Read", appendFirst, record, latchKey(d.Handle, partState), func(ctx context.Context, e *engine) bool {
			r, _ := e.Read(ctx, d.Handle, 1, 9, 0)
			return r.Head > 0
		}},
		{"GetObject", putObject, stored, latchKey(d.Handle, partObject), func(ctx context.Context, e *engine) bool {
			_, err := e.GetObject(ctx, d.Handle, object.Name)
			return err == nil
		}},
		{"HasObject", putObject, stored, latchKey(d.Handle, partObject), func(ctx context.Context, e *engine) bool {
			has, _ := e.HasObject(ctx, d.Handle, object.Name)
			return has
		}},
		{"GetRow", writeRow, rowKey(row), string(rowKey(row)), func(ctx context.Context, e *engine) bool {
			_, err := e.GetRow(ctx, row)
			return err == nil
		}},
		{"ListRows", writeRow, rowKey(row), string(rowKey(row)), func(ctx context.Context, e *engine) bool {
			rows, _ := e.ListRows(ctx, "t", row.Partition, envelope.Name{}, 9)
			return len(rows) > 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			slow := &slowSync{reached: make(chan struct{}), release: make(chan struct{})}
			e := openIn(t, errorfs.Wrap(vfs.NewMem(), slow))
			if _, err := e.Claim(t.Context(), d.Handle); err != nil {
				t.Fatal(err)
			}
			slow.armed.Store(true)
			var wg sync.WaitGroup
			written := make(chan struct{})
			wg.Go(func() {
				defer close(written)
				if err := c.write(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
			select {
			case <-slow.reached:
			case <-written:
				slow.armed.Store(false) // or closing would wait
				t.Fatal("the write returned without an fsync")
			}
			for { // until Pebble shows the value, which it does before it is synced
				if _, err := get(e.db, c.key); err == nil {
					break
				}
				runtime.Gosched()
			}
			var answered atomic.Bool
			wg.Go(func() {
				if c.read(t.Context(), e) && !slow.synced.Load() {
					t.Error("a value was read before it was durable")
				}
				answered.Store(true)
			})
			for !answered.Load() && waitersOf(&e.latches, c.latch) < 2 {
				runtime.Gosched() // until the reader has its answer or waits for it
			}
			close(slow.release)
			wg.Wait()
		})
	}
}

// Whatever a write has reported is there after a power cut at that moment.
func TestEveryWriteIsSynced(t *testing.T) {
	d := storetest.NewDoc(t)
	first, object := d.Append(store.Claim{Term: 1}, 0, 1, "x"), d.Object("id", "x")
	row := store.RowKey{Table: "t", Name: envelope.Name{1}}
	sealed, err := envelope.NewServiceKey().SealRow("t", row.Partition, row.Name, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	disk := vfs.NewCrashableMem()
	e := openIn(t, disk)
	for _, c := range []struct {
		name  string
		write func(ctx context.Context) error
		there func(ctx context.Context, e *engine) bool
	}{
		{"Claim", func(ctx context.Context) error {
			_, err := e.Claim(ctx, d.Handle)
			return err
		}, func(ctx context.Context, e *engine) bool {
			again, err := e.Claim(ctx, d.Handle)
			return err == nil && again.Term == 2
		}},
		{"Append", func(ctx context.Context) error { return e.Append(ctx, first) }, func(ctx context.Context, e *engine) bool {
			r, err := e.Read(ctx, d.Handle, 1, 1, 0)
			return err == nil && len(r.Records) == 1
		}},
		{"PutObjects", func(ctx context.Context) error {
			return e.PutObjects(ctx, d.Handle, []store.Object{object})
		}, func(ctx context.Context, e *engine) bool {
			has, err := e.HasObject(ctx, d.Handle, object.Name)
			return err == nil && has
		}},
		{"WriteRows", func(ctx context.Context) error {
			return e.WriteRows(ctx, []store.RowWrite{{RowKey: row, Value: &sealed}})
		}, func(ctx context.Context, e *engine) bool {
			_, err := e.GetRow(ctx, row)
			return err == nil
		}},
		{"DeleteDocument", func(ctx context.Context) error { return e.DeleteDocument(ctx, d.Handle) }, func(ctx context.Context, e *engine) bool {
			has, err := e.HasObject(ctx, d.Handle, object.Name)
			return err == nil && !has
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.write(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !c.there(t.Context(), openIn(t, disk.CrashClone(vfs.CrashCloneCfg{}))) {
				t.Error("it was reported and is not there after a power cut")
			}
		})
	}
}
