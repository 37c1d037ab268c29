package envelope

// Sealed is a value that cannot be read without a key. Only this package makes
// one, so an interface that takes Sealed cannot be handed plaintext.
type Sealed struct{ b []byte }

// ParseSealed takes a value as it was stored. It checks magic, version, kind and
// bounds, not the tag: that needs the key. It does not copy b.
func ParseSealed(b []byte) (Sealed, error) { panic("todo") }

// Bytes returns the encoded value; the caller must not change it.
func (s Sealed) Bytes() []byte { return s.b }

// Kind returns what the value says it is.
func (s Sealed) Kind() Kind { panic("todo") }

// Header is a segment's sealed-format header: plaintext facts, bound into the
// segment's key, its chain and the associated data of each of its records.
type Header struct{ b []byte }

// ParseHeader takes a header as it was stored.
func ParseHeader(b []byte) (Header, error) { panic("todo") }

// Bytes returns the encoded header; the caller must not change it.
func (h Header) Bytes() []byte { return h.b }

// Place returns where the header says it belongs.
func (h Header) Place() SegmentPlace { panic("todo") }

// Record is one sealed batch of ops within a segment.
type Record struct{ b []byte }

// ParseRecord takes a record as it was stored.
func ParseRecord(b []byte) (Record, error) { panic("todo") }

// Bytes returns the encoded record; the caller must not change it.
func (r Record) Bytes() []byte { return r.b }

// Index is the record's place in its segment, from 0.
func (r Record) Index() uint64 { panic("todo") }

// FirstSeq and LastSeq are the sequence numbers of its first and last op.
func (r Record) FirstSeq() uint64 { panic("todo") }

// LastSeq is the sequence number of its last op.
func (r Record) LastSeq() uint64 { panic("todo") }
