//go:build linux && !race

// The race detector keeps several times the memory of the process beside it.
package custody

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
)

// A key that is looked for is kept masked, or the search would find itself.
const mask = 0x5a

func masked(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ mask
	}
	return out
}

// maskingClient wraps and unwraps so that no root key is in what a test's key store keeps.
type maskingClient struct{ keystore.Client }

func (c maskingClient) Wrap(ctx context.Context, key keystore.URL, material []byte) (keystore.Wrapped, error) {
	return c.Client.Wrap(ctx, key, masked(material))
}

func (c maskingClient) Unwrap(ctx context.Context, w keystore.Wrapped) ([]byte, string, error) {
	b, id, err := c.Client.Unwrap(ctx, w)
	for i := range b {
		b[i] ^= mask
	}
	return b, id, err
}

// inMemory counts where in the memory of this process a key is.
func inMemory(t *testing.T, key []byte) (found int) {
	t.Helper()
	window, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(window) }()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Skipf("the memory of this process cannot be read here: %v", err)
	}
	defer maps.Close()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Skipf("the memory of this process cannot be read here: %v", err)
	}
	defer mem.Close()
	own := fmt.Sprintf("%p", window)[2:]
	read := 0
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var rights string
		if strings.HasSuffix(lines.Text(), "[vsyscall]") { // above what an offset can say, and not writable
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(rights, "rw") || strings.HasPrefix(lines.Text(), own) {
			continue
		}
		for at := from; at < to; at += int64(len(window)) - int64(len(key)) {
			n, _ := mem.ReadAt(window[:min(int64(len(window)), to-at)], at)
			read += n
			found += occurrences(window[:n], key)
			if int64(n) < int64(len(window)) {
				break
			}
		}
	}
	if read < 1<<20 {
		t.Fatalf("only %d bytes of memory were read", read)
	}
	return found
}

func occurrences(b, key []byte) (n int) {
	for i := 0; i+len(key) <= len(b); i++ {
		j := 0
		for j < len(key) && b[i+j]^mask == key[j] {
			j++
		}
		if j == len(key) {
			n++
		}
	}
	return n
}

// After the owner has turned his key off, the root key is nowhere in the memory of the
// process: neither where it was kept nor in what hashes, ciphers and stacks left over.
func TestRootKeyIsGoneFromMemory(t *testing.T) {
	if err := envelope.LockedMemory(); err != nil {
		t.Skipf("no locked memory here: %v", err)
	}
	f := newFixture(t)
	f.secret = &memoryFile{}
	f.keyStore = func(c keystore.Client) keystore.Client { return maskingClient{c} }
	f.restart()
	r := f.resource(pinned)
	d := f.document(r)
	mustSeal(t, d, "o", "text")
	f.open(r, d.Handle()).Close()
	f.Keeper.mu.Lock()
	var key []byte
	if err := f.Keeper.roots[r].key.Use(func(b []byte) error { key = masked(b); return nil }); err != nil {
		t.Fatal(err)
	}
	f.Keeper.mu.Unlock()
	if n := inMemory(t, key); n == 0 {
		t.Fatal("the key in use is not found: the search finds nothing")
	}
	f.vault.set("*", errDisabled)
	if _, err := f.turn(t.Context(), r); err != nil {
		t.Logf("turn: %v", err)
	}
	f.Keeper.mu.Lock()
	f.Keeper.roots[r].watch.unusable(reasonDisabled) // what a confirmed refusal does, without the wait
	f.Keeper.mu.Unlock()
	<-d.Done()
	runtime.GC()
	n := inMemory(t, key)
	for range 20 { // stacks of goroutines that ended are used again, or given back
		if n == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
		runtime.GC()
		n = inMemory(t, key)
	}
	if n != 0 {
		t.Errorf("the root key is in memory %d times after it was wiped", n)
	}
}
