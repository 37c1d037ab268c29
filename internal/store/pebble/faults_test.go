package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// appendAll appends so many records of one op and returns the claim.
func appendAll(t *testing.T, e *engine, d *storetest.Doc, ops uint64) store.Claim {
	t.Helper()
	c, err := e.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	for head := range ops {
		if err := e.Append(t.Context(), d.Append(c, head, head+1, "some text")); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// One bad byte in a file of Pebble's is an error of the read that meets it. Other
// documents and the process go on.
func TestFlippedByteInAFile(t *testing.T) {
	disk := vfs.NewMem()
	e := openIn(t, disk)
	damaged, whole := storetest.NewDocAt(t, envelope.DocumentHandle{1}), storetest.NewDocAt(t, envelope.DocumentHandle{2})
	appendAll(t, e, damaged, 20)
	if err := e.db.Flush(); err != nil {
		t.Fatal(err)
	}
	appendAll(t, e, whole, 20)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	flipped := 0
	names, err := disk.List(memoryDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			b, err := disk.UnsafeGetFileDataBuffer(disk.PathJoin(memoryDir, name))
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/4] ^= 1
			flipped++
		}
	}
	if flipped != 1 {
		t.Fatalf("%d files to damage, want the one of the first document", flipped)
	}

	e = openIn(t, disk)
	if r, err := e.Read(t.Context(), damaged.Handle, 1, 20, 0); !errors.Is(err, store.ErrCorrupt) || r.Records != nil {
		t.Errorf("got %d records, %v; want none and ErrCorrupt", len(r.Records), err)
	}
	if r, err := e.Read(t.Context(), whole.Handle, 1, 20, 0); err != nil || len(r.Records) != 20 {
		t.Errorf("another document: %d records, %v; want 20", len(r.Records), err)
	}
}

// On a full disk nothing more is appended, and what frees space or takes a key away
// still works.
func TestFullDisk(t *testing.T) {
	disk := vfs.NewMem()
	disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 40})
	e := openIn(t, disk)
	d := storetest.NewDoc(t)
	c := appendAll(t, e, d, 3)
	key := store.RowKey{Table: "t", Name: envelope.Name{1}}
	sealed, err := envelope.NewServiceKey().SealRow("t", key.Partition, key.Name, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	next, object := d.Append(c, 3, 4, "x"), d.Object("id", "x")

	setFree := func(free uint64) {
		disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free})
		e.disk.next.Store(0) // do not wait for the next look
	}
	setFree(reserveBytes)
	for what, err := range map[string]error{
		"Append":     e.Append(t.Context(), next),
		"Writable":   e.Writable(t.Context()),
		"PutObjects": e.PutObjects(t.Context(), d.Handle, []store.Object{object}),
	} {
		if err == nil || !strings.Contains(err.Error(), "128 MiB left") || errors.Is(err, store.ErrFenced) {
			t.Errorf("%s: got %v, want it to say what is left", what, err)
		}
	}
	if r, err := e.Read(t.Context(), d.Handle, 1, 9, 0); err != nil || r.Head != 3 {
		t.Errorf("read: head %d, %v; want 3", r.Head, err)
	}
	for what, err := range map[string]error{
		"WriteRows":      e.WriteRows(t.Context(), []store.RowWrite{{RowKey: key, Value: &sealed}}),
		"DeleteDocument": e.DeleteDocument(t.Context(), storetest.NewDoc(t).Handle),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	setFree(1 << 40)
	if err := e.Append(t.Context(), next); err != nil {
		t.Errorf("append with space again: %v", err)
	}
}

// childVariable makes a test its own child process.
const childVariable = "TIDELOCK_STORE_CHILD"

// child runs the test again in a process of its own.
func child(t *testing.T, dir string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), childVariable+"="+dir)
	return c
}

// After a failed fsync nobody knows what is on disk: the append is not acknowledged,
// and the process ends and says why.
func TestFailedSyncEndsTheProcess(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		var broken atomic.Bool
		inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if logSync(op) && broken.Load() {
				return errors.New("the disk is gone")
			}
			return nil
		})
		e, err := open(Options{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}, errorfs.Wrap(vfs.Default, inject))
		if err != nil {
			t.Fatal(err)
		}
		d := storetest.NewDoc(t)
		c := appendAll(t, e, d, 1)
		broken.Store(true)
		err = e.Append(context.Background(), d.Append(c, 1, 2, "x"))
		fmt.Println("acknowledged:", err == nil)
		return
	}
	c := child(t, t.TempDir())
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || stdout.Len() != 0 {
		t.Errorf("the process ended with %v and said %q; want status 1 and no acknowledgement", err, stdout.String())
	}
	if !strings.Contains(stderr.String(), "pebble: cannot go on") || !strings.Contains(stderr.String(), "the disk is gone") {
		t.Errorf("it logged %q; want the cause", stderr.String())
	}
}

func TestDirectoryInUseByAnotherProcess(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		if st, err := Open(Options{Dir: dir}); err == nil {
			st.Close()
		} else {
			fmt.Println(err)
		}
		return
	}
	dir := t.TempDir()
	st, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	out, err := child(t, dir).Output()
	if want := dir + " is in use by another process"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

// A start that was cut off at any write leaves a directory that the next one takes.
func TestStartCutOff(t *testing.T) {
	for n := int64(0); ; n++ {
		disk := vfs.NewCrashableMem()
		var left atomic.Int64
		left.Store(n)
		var after *vfs.MemFS
		inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && left.Add(-1) == -1 {
				after = disk.CrashClone(vfs.CrashCloneCfg{})
			}
			return nil
		})
		e, err := open(Options{Dir: memoryDir}, errorfs.Wrap(disk, inject))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if after == nil {
			if n < 10 {
				t.Errorf("only %d writes were seen", n)
			}
			return
		}
		e, err = open(Options{Dir: memoryDir}, after)
		if err != nil {
			t.Fatalf("after a cut at write %d: %v", n, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A data directory whose database is gone must not become an empty one.
func TestLostFilesAreMissed(t *testing.T) {
	disk := vfs.NewMem()
	if err := openIn(t, disk).Close(); err != nil {
		t.Fatal(err)
	}
	names, err := disk.List(memoryDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != formatFile {
			if err := disk.Remove(disk.PathJoin(memoryDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	if e, err := open(Options{Dir: memoryDir}, disk); err == nil {
		e.Close()
		t.Error("an empty database was made in its place")
	} else if !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("got %q, want it to say what does not exist", err)
	}
}

// Keys are in the clear: handles, hashes, numbers and the names of tables.
func TestKeysSayNothing(t *testing.T) {
	e := openIn(t, vfs.NewMem())
	d := storetest.NewDoc(t)
	appendAll(t, e, d, 3)
	object := d.Object("id of an object", "x")
	if err := e.PutObjects(t.Context(), d.Handle, []store.Object{object}); err != nil {
		t.Fatal(err)
	}
	service := envelope.NewServiceKey()
	row := store.RowKey{Table: "things", Partition: service.Name("tenants", "tenant"), Name: service.Name("things", "thing")}
	sealed, err := service.SealRow(string(row.Table), row.Partition, row.Name, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.WriteRows(t.Context(), []store.RowWrite{{RowKey: row, Value: &sealed}}); err != nil {
		t.Fatal(err)
	}

	it, err := e.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var got []string
	for it.First(); it.Valid(); it.Next() {
		got = append(got, fmt.Sprintf("%x", it.Key()))
	}
	hexOf := func(parts ...any) string {
		var b strings.Builder
		for _, p := range parts {
			fmt.Fprintf(&b, "%x", p)
		}
		return b.String()
	}
	seq := func(n byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, n} }
	want := []string{
		hexOf("d", d.Handle[:], "h", seq(1)),
		hexOf("d", d.Handle[:], "l", seq(1)),
		hexOf("d", d.Handle[:], "l", seq(2)),
		hexOf("d", d.Handle[:], "l", seq(3)),
		hexOf("d", d.Handle[:], "o", object.Name[:]),
		hexOf("d", d.Handle[:], "s"),
		hexOf("r", "things", []byte{0}, row.Partition[:], row.Name[:]),
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("keys:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
