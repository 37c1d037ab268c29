package envelope

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

const redacted = "[redacted]"

// secret holds the bytes of a key. It is embedded by pointer in the key types, so
// that copies of a key are wiped together, and because fmt cannot call String
// through an unexported field: %+v of a struct that holds a key would print an
// array, but prints only the address of a pointer.
type secret struct {
	mu sync.RWMutex // guards b
	b  []byte       // nil once wiped
}

func newSecret(size int) *secret {
	b := make([]byte, size)
	rand.Read(b) // never fails, see crypto/rand
	return &secret{b: b}
}

// use lends the bytes to f, which must not keep them and must not wipe the key:
// wipe waits for f. A nil secret, that of a zero key, counts as wiped.
func (s *secret) use(f func(b []byte) error) error {
	if s == nil {
		return ErrWiped
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.b == nil {
		return ErrWiped
	}
	return f(s.b)
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
	clear(s.b)
	s.b = nil
}

// nameUnder is HMAC-SHA-256 over the length-prefixed fields, under the naming key
// that begins at offset. A wiped key gives a random name, under which nothing is
// stored: a fixed one would be the same name for everything.
func (s *secret) nameUnder(offset int, table, id string) Name {
	var n Name
	err := s.use(func(b []byte) error {
		mac := hmac.New(sha256.New, b[offset:])
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
