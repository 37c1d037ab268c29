package envelope

import "errors"

var (
	// ErrOpen is the one answer to every failure to open a sealed value: wrong key,
	// wrong place, changed or cut bytes. What exactly was wrong helps only an attacker.
	ErrOpen = errors.New("envelope: sealed value does not open")

	// ErrFormat says that bytes are not a value of a known sealed format. It is
	// found out without a key, from bytes that whoever reads the store sees.
	ErrFormat = errors.New("envelope: not a known sealed format")

	// ErrSegmentFull says that a segment has reached one of its bounds (records,
	// bytes, age) and the writer must start a new one.
	ErrSegmentFull = errors.New("envelope: segment is full")

	// ErrTooLarge says that a plaintext is over MaxPlaintextBytes.
	ErrTooLarge = errors.New("envelope: plaintext is too large")

	// ErrWiped says that a key was asked to seal after it was wiped, or never was
	// a key. To open with such a key is ErrOpen.
	ErrWiped = errors.New("envelope: key was wiped")
)

// MaxPlaintextBytes bounds what one record, object or row may hold. Two of the
// biggest records fit into a segment, so a new segment always takes a record.
const MaxPlaintextBytes = 31 << 20

// ResourceID names a relay resource in sealed headers: 16 random bytes, made
// once, never reused.
type ResourceID [16]byte

// DocumentHandle names a document in stores: 16 random bytes that say nothing
// about the document's public id.
type DocumentHandle [16]byte

// KeyID names one document key of a document; random.
type KeyID [8]byte

// Name is the keyed hash under which a row or object is stored.
type Name [32]byte

// Chain is a link of a document's hash chain (SHA-256).
type Chain [32]byte

// Kind says what a sealed value is. Numbers are on disk: frozen, never reused.
type Kind uint8

// The kinds of sealed values.
const (
	KindOps         Kind = 1 // a batch of sequenced ops: a record of a segment
	KindCheckpoint  Kind = 2 // the state of a document between two records
	KindObject      Kind = 3 // a git object: blob, tree, commit
	KindRow         Kind = 4 // a row of management data, under the service key
	KindDocumentKey Kind = 5 // a document key under its root key

	// Parts of other values, never a Sealed.
	kindKey      Kind = 6 // what ServiceKey.WrapKey makes
	kindNextRoot Kind = 7 // what RootKey.WrapNext makes
	kindRetained Kind = 8 // what RetentionKey.Seal makes
	kindAnchor   Kind = 9 // what DocumentKey.SealAnchor makes
)

// KeyPlace says where a document key belongs.
type KeyPlace struct {
	Resource ResourceID
	Document DocumentHandle
	KeyID    KeyID
	Epoch    uint32 // of the root key that wraps it
}

// SegmentPlace says where a segment belongs in its document's log.
type SegmentPlace struct {
	KeyPlace
	Term        uint64 // of the writer
	FirstSeq    uint64 // of the first op in the segment
	Prev        Chain  // the last link of the segment before; zero for the first one
	PrevRecords uint64 // how many records that segment has
}
