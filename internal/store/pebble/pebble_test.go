package pebble_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	cockroach "github.com/cockroachdb/pebble/v2"

	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/pebble"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

func open(t testing.TB, dir string) store.Store {
	t.Helper()
	st, err := pebble.Open(pebble.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestContract(t *testing.T) {
	storetest.TestStore(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

func TestReopenFindsEverything(t *testing.T) {
	dir, d := t.TempDir(), storetest.NewDoc(t)
	st := open(t, dir)
	c, err := st.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Append(t.Context(), d.Append(c, 0, 3, "kept")); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st = open(t, dir)
	r, err := st.Read(t.Context(), d.Handle, 1, 3, 0)
	if err != nil || strings.Join(d.Texts(r), "") != "1-3 kept" {
		t.Errorf("after reopening: %d records, %v", len(r.Records), err)
	}
	if again, err := st.Claim(t.Context(), d.Handle); err != nil || again.Term != c.Term+1 {
		t.Errorf("after reopening the term is %d, %v; want %d", again.Term, err, c.Term+1)
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	put := func(t *testing.T, name, content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct {
		name string
		dir  func(t *testing.T) string
		want string
	}{
		{"OtherVersion", func(t *testing.T) string { return put(t, "TIDELOCK", "tidelock data 9\n") }, `the format "tidelock data 9" and this tidelock speaks "tidelock data 1"`},
		{"Foreign", func(t *testing.T) string { return put(t, "letter.txt", "Dear Ada") }, "not a Tidelock data directory and not empty (it holds letter.txt)"},
		{"InUse", func(t *testing.T) string { dir := t.TempDir(); open(t, dir); return dir }, "in use by another process"},
		{"File", func(t *testing.T) string { return filepath.Join(put(t, "f", ""), "f") }, "data directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, err := pebble.Open(pebble.Options{Dir: c.dir(t)})
			if err == nil {
				st.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
		})
	}
}

// Damage that needs no key to be seen is told as such, and is not served.
func TestDamageIsCorrupt(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(db *cockroach.DB, key, value []byte) error
	}{
		{"MissingRecord", func(db *cockroach.DB, key, _ []byte) error { return db.Delete(key, cockroach.Sync) }},
		{"CutRecord", func(db *cockroach.DB, key, value []byte) error {
			return db.Set(key, value[:len(value)-1], cockroach.Sync)
		}},
		{"NotARecord", func(db *cockroach.DB, key, _ []byte) error { return db.Set(key, []byte("plain"), cockroach.Sync) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, d := t.TempDir(), storetest.NewDoc(t)
			st := open(t, dir)
			claim, err := st.Claim(t.Context(), d.Handle)
			if err != nil {
				t.Fatal(err)
			}
			for head := range uint64(3) {
				if err := st.Append(t.Context(), d.Append(claim, head, head+1, "x")); err != nil {
					t.Fatal(err)
				}
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			damageRecord(t, dir, 1, c.damage)
			_, err = open(t, dir).Read(t.Context(), d.Handle, 1, 3, 0)
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

// silent keeps Pebble's routine out of the test's output.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// damageRecord changes the n-th stored record, behind the engine's back.
func damageRecord(t *testing.T, dir string, n int, damage func(db *cockroach.DB, key, value []byte) error) {
	t.Helper()
	db, err := cockroach.Open(dir, &cockroach.Options{FormatMajorVersion: cockroach.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var key, value []byte
	for it.First(); it.Valid(); it.Next() {
		if k := it.Key(); k[0] == 'd' && k[17] == 'l' {
			if n--; n < 0 {
				key, value = bytes.Clone(k), bytes.Clone(it.Value())
				break
			}
		}
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	if key == nil {
		t.Fatal("there is no such record")
	}
	if err := damage(db, key, value); err != nil {
		t.Fatal(err)
	}
}

// childVariable makes TestNothingAcknowledgedIsLost its own child.
const childVariable = "TIDELOCK_STORE_CHILD"

// A process that is killed in the midst of appends loses none that it had
// reported: the child prints each head after its append returned.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		appendForever(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	for round := range 5 {
		child := exec.Command(os.Args[0], "-test.run=^TestNothingAcknowledgedIsLost$")
		child.Env = append(os.Environ(), childVariable+"="+dir)
		out := &acknowledged{enough: 100 + 37*round, kill: func() { child.Process.Kill() }}
		child.Stdout = out
		if err := child.Run(); err == nil {
			t.Fatal("the child ended by itself")
		}
		st := open(t, dir)
		r, err := st.Read(t.Context(), [16]byte{1}, 1, 1<<40, 0)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if r.Head < out.last() || len(r.Records) != int(r.Head) {
			t.Errorf("round %d: head %d with %d records after op %d was acknowledged", round, r.Head, len(r.Records), out.last())
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func appendForever(t *testing.T, dir string) {
	st := open(t, dir)
	d := storetest.NewDoc(t)
	d.Handle = [16]byte{1}
	c, err := st.Claim(context.Background(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	for head := c.Head; ; head++ {
		if err := st.Append(context.Background(), d.Append(c, head, head+1, "x")); err != nil {
			t.Fatal(err)
		}
		fmt.Println(head + 1)
	}
}

// acknowledged reads a child's heads and kills it after enough of them.
type acknowledged struct {
	enough int
	kill   func()
	buf    bytes.Buffer
	head   atomic.Uint64
}

func (a *acknowledged) last() uint64 { return a.head.Load() }

func (a *acknowledged) Write(p []byte) (int, error) {
	a.buf.Write(p)
	for {
		line, err := a.buf.ReadString('\n')
		if err != nil {
			a.buf.WriteString(line) // not whole yet
			return len(p), nil
		}
		var head uint64
		if _, err := fmt.Sscan(line, &head); err == nil {
			a.head.Store(head)
			if a.enough--; a.enough == 0 {
				a.kill()
			}
		}
	}
}

// BenchmarkAppend is a durable append of one 256-byte record, by so many
// documents at once.
func BenchmarkAppend(b *testing.B) {
	for _, documents := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("documents=%d", documents), func(b *testing.B) {
			st := open(b, b.TempDir())
			text := make([]byte, 256)
			rand.Read(text)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range documents {
				wg.Add(1)
				go func() {
					defer wg.Done()
					d := storetest.NewDoc(b)
					c, err := st.Claim(context.Background(), d.Handle)
					if err != nil {
						b.Error(err)
						return
					}
					for head := uint64(0); left.Add(-1) >= 0; head++ {
						if err := st.Append(context.Background(), d.Append(c, head, head+1, string(text))); err != nil {
							b.Error(err)
							return
						}
					}
				}()
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}
