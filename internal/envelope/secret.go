package envelope

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
)

const redacted = "[redacted]"

// secret holds the bytes of a key. It is embedded by pointer in the key types, so
// that copies of a key are wiped together.
//
// The bytes are behind a func because fmt cannot call String through an unexported
// field, and whatever prints by reflection follows pointers: %+v prints an array in
// a struct, %s (a wrong verb) even what a pointer in a struct points to. Nothing
// looks into a func.
type secret struct {
	mu    sync.RWMutex  // guards bytes and what it returns
	bytes func() []byte // nil once wiped
	slot  runtime.Cleanup
	owns  bool // of a slot of locked memory, which slot gives back
}

// newSecret takes b over.
func newSecret(b []byte) *secret {
	return &secret{bytes: func() []byte { return b }}
}

// newLockedSecret copies the bytes of a root key into locked memory, if there is any. One
// that is forgotten instead of wiped is wiped by the garbage collector.
func newLockedSecret(b []byte) *secret {
	slot := lockedSlot()
	if slot == nil {
		return newSecret(bytes.Clone(b))
	}
	copy(slot, b)
	s := newSecret(slot)
	s.slot, s.owns = runtime.AddCleanup(s, freeSlot, slot), true
	return s
}

func randomSecret(size int) *secret {
	b := make([]byte, size)
	rand.Read(b) // never fails, see crypto/rand
	return newSecret(b)
}

// use lends the bytes to f, which must not keep them and must not wipe the key:
// wipe waits for f. A nil secret, that of a zero key, counts as wiped.
func (s *secret) use(f func(b []byte) error) error {
	if s == nil {
		return ErrWiped
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.bytes == nil {
		return ErrWiped
	}
	return f(s.bytes())
}

func (s *secret) usable() bool {
	return s.use(func([]byte) error { return nil }) == nil
}

func (s *secret) wipe() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes == nil {
		return
	}
	b := s.bytes()
	s.bytes = nil
	if s.owns {
		s.slot.Stop()
		freeSlot(b)
		return
	}
	clear(b)
}

// nameUnder is HMAC-SHA-256 over the length-prefixed fields, under the naming key
// that begins at offset. A wiped key gives a random name, under which nothing is
// stored: a fixed one would be the same name for everything.
func (s *secret) nameUnder(offset int, table, id string) Name {
	var n Name
	err := s.use(func(b []byte) error {
		mac := hmac.New(sha256.New, b[offset:offset+keyBytes])
		mac.Write(appendField(appendField(nil, table), id))
		mac.Sum(n[:0])
		return nil
	})
	if err != nil {
		rand.Read(n[:])
	}
	return n
}

// Format keeps the key out of every fmt verb, %x and %#v among them.
func (s *secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns a fixed text.
func (s *secret) String() string { return redacted }

// GoString returns a fixed text.
func (s *secret) GoString() string { return redacted }

// MarshalText returns a fixed text.
func (s *secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns a fixed text.
func (s *secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue returns a fixed text.
func (s *secret) LogValue() slog.Value { return slog.StringValue(redacted) }
