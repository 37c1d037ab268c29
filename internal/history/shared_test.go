package history

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"runtime"
	"strings"
	"testing"
)

// stuckWriter takes so much and then waits to be let on.
type stuckWriter struct {
	left  int
	stuck chan<- struct{}
	goOn  <-chan struct{}
	hash  hash.Hash
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	if w.left > 0 {
		if w.left -= len(b); w.left <= 0 {
			w.stuck <- struct{}{}
			<-w.goOn
		}
	}
	return w.hash.Write(b)
}

// Many slow readers of one large blob hold it once.
func TestDownloadsShareABlob(t *testing.T) {
	r := newRig(t)
	const size, readers = 4 << 20, 20
	commit := r.create(blob("large", strings.Repeat("x", size)), blob("small", "y"))
	want := sha256.New()
	summary, err := r.doc.Summary(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	if err := summary.Write(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	stuck, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	before := inUse()
	writers := make([]*stuckWriter, readers)
	for i := range writers {
		writers[i] = &stuckWriter{left: 100_000, stuck: stuck, goOn: goOn, hash: sha256.New()}
		go func() {
			s, err := r.doc.Summary(t.Context(), commit)
			if err == nil {
				err = s.Write(t.Context(), writers[i])
			}
			done <- err
		}()
	}
	for range readers {
		<-stuck
	}
	if used := inUse() - before; used > 4*size {
		t.Errorf("%d MB in use for %d readers of %d MB", used>>20, readers, size>>20)
	}
	for range readers {
		goOn <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range writers {
		if !bytes.Equal(w.hash.Sum(nil), want.Sum(nil)) {
			t.Fatal("a reader was given something else")
		}
	}
	if n := len(r.doc.shared); n != 0 {
		t.Errorf("%d blobs are kept that nobody reads", n)
	}
}

// What one reader holds is not given to another one once the key is lost.
func TestSharedBlobsNeedTheKey(t *testing.T) {
	r := newRig(t)
	id, err := r.doc.PutBlob(t.Context(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, release, err := r.doc.Blob(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	r.keeper.Close()
	if _, _, err := r.doc.Blob(t.Context(), id); err == nil {
		t.Error("a blob was read without the key")
	}
	if _, _, err := r.doc.Blob(t.Context(), strings.Repeat("0", 40)); err == nil {
		t.Errorf("an unknown blob: %v", err)
	}
	if n := len(r.doc.shared); n != 1 {
		t.Errorf("%d blobs are kept, want the one that is read", n)
	}
}

func inUse() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
