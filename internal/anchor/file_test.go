package anchor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
)

func filled(b byte) []byte { return bytes.Repeat([]byte{b}, envelope.AnchorBytes) }

func handle(n int) envelope.DocumentHandle { return envelope.DocumentHandle{byte(n >> 8), byte(n), 1} }

func mustOpen(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func mustPut(t *testing.T, f *File, all ...Anchor) {
	t.Helper()
	if err := f.Put(all...); err != nil {
		t.Fatal(err)
	}
}

func TestFileKeepsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "anchors")
	f := mustOpen(t, path)
	mustPut(t, f, Anchor{handle(1), filled(1)}, Anchor{handle(2), filled(2)})
	mustPut(t, f, Anchor{handle(1), filled(3)}, Anchor{handle(3), filled(4)})
	mustPut(t, f, Anchor{Document: handle(2)})
	for range 2 {
		if !bytes.Equal(f.Get(handle(1)), filled(3)) || f.Get(handle(2)) != nil || !bytes.Equal(f.Get(handle(3)), filled(4)) {
			t.Errorf("got %v, %v, %v", f.Get(handle(1)), f.Get(handle(2)), f.Get(handle(3)))
		}
		f = mustOpen(t, path) // the first one is left as by a kill
	}
	if err := f.Put(Anchor{handle(1), filled(1)[1:]}); err == nil {
		t.Error("a short anchor was put")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
}

func TestFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "anchors")
	f := mustOpen(t, path)
	f.max = 50
	for n := range 3 * slack {
		f.put(handle(n%60), filled(byte(n%250+1)))
		f.entries++
	}
	mustPut(t, f, Anchor{handle(7), filled(9)})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, most := info.Size(), int64(len(header)+f.max*entryBytes); got > most {
		t.Errorf("%d bytes, want at most %d", got, most)
	}
	again := mustOpen(t, path)
	if len(again.values) != 50 || !bytes.Equal(again.Get(handle(7)), filled(9)) {
		t.Errorf("%d anchors, the newest is %v", len(again.values), again.Get(handle(7)))
	}
}

// Whatever a power cut left of the last write, the file opens, and all before it is there.
func TestFileCutOffAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "anchors")
	f := mustOpen(t, path)
	mustPut(t, f, Anchor{handle(1), filled(1)}, Anchor{handle(2), filled(2)})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Open(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if first := got.Get(handle(1)); (n >= len(header)+entryBytes) != bytes.Equal(first, filled(1)) {
			t.Errorf("cut at %d: the first is %v", n, first)
		}
		_ = got.Close()
	}
	for n := range len(header) + entryBytes { // damage that is not at the end
		b := bytes.Clone(whole)
		b[n] ^= 1
		b = append(b, whole[len(header):]...)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrDamaged) {
			t.Fatalf("with byte %d changed: %v, want ErrDamaged", n, err)
		}
	}
}
