package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A specimen is something stored, and how a reader of it parses and opens it.
type specimen struct {
	name   string
	stored []byte
	open   func(stored []byte) ([]byte, error)
}

var testPlace = KeyPlace{
	Resource: ResourceID(bytes.Repeat([]byte{'R'}, 16)),
	Document: DocumentHandle(bytes.Repeat([]byte{'D'}, 16)),
	KeyID:    KeyID(bytes.Repeat([]byte{'K'}, 8)),
	Epoch:    7,
}

var testRoot = RootPlace{Resource: testPlace.Resource, Epoch: 7, Generation: 9}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sealAll makes one specimen of every construction.
func sealAll() []specimen {
	dk, rk, sk, day := NewDocumentKey(), NewRootKey(), NewServiceKey(), NewRetentionKey()
	name, partition := Name{1}, Name{2}
	seg := must(NewSegment(dk, SegmentPlace{KeyPlace: testPlace, Term: 3, FirstSeq: 11, Prev: Chain{9}, PrevRecords: 4}))
	first := must(seg.Seal(11, 14, []byte("four ops")))
	second := must(seg.Seal(15, 15, []byte("an op")))

	object := func(kind Kind, name Name) func([]byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) {
			s, err := ParseSealed(b)
			if err != nil {
				return nil, err
			}
			return dk.OpenObject(testPlace, kind, name, s)
		}
	}
	record := func(b []byte) ([]byte, error) {
		rec, err := ParseRecord(b)
		if err != nil {
			return nil, err
		}
		return must(OpenSegment(dk, testPlace, seg.Header())).Open(rec)
	}
	return []specimen{
		{"Header", seg.Header().Bytes(), func(b []byte) ([]byte, error) {
			h, err := ParseHeader(b)
			if err != nil {
				return nil, err
			}
			_, err = OpenSegment(dk, testPlace, h)
			return []byte("opened"), err
		}},
		{"FirstRecord", first.Bytes(), record},
		{"LaterRecord", second.Bytes(), record},
		{"Checkpoint", must(dk.SealObject(testPlace, KindCheckpoint, name, []byte("state"))).Bytes(), object(KindCheckpoint, name)},
		{"Object", must(dk.SealObject(testPlace, KindObject, name, []byte("blob"))).Bytes(), object(KindObject, name)},
		{"EmptyObject", must(dk.SealObject(testPlace, KindObject, Name{3}, nil)).Bytes(), object(KindObject, Name{3})},
		{"Row", must(sk.SealRow("documents", partition, name, []byte("row"))).Bytes(), func(b []byte) ([]byte, error) {
			s, err := ParseSealed(b)
			if err != nil {
				return nil, err
			}
			return sk.OpenRow("documents", partition, name, s)
		}},
		{"DocumentKey", must(rk.WrapDocumentKey(dk, testPlace)).Bytes(), func(b []byte) ([]byte, error) {
			s, err := ParseSealed(b)
			if err != nil {
				return nil, err
			}
			_, _, err = rk.UnwrapDocumentKey(s, testPlace.Resource, testPlace.Document)
			return []byte("opened"), err
		}},
		{"Key", must(sk.WrapKey("label", []byte("a root key"))), func(b []byte) ([]byte, error) {
			return sk.UnwrapKey("label", b)
		}},
		{"NextRootKey", must(rk.WrapNext(NewRootKey(), testPlace.Resource, 8)), func(b []byte) ([]byte, error) {
			_, err := rk.UnwrapNext(b, testPlace.Resource, 8)
			return []byte("opened"), err
		}},
		{"RetainedRootKey", must(day.Seal(testRoot, []byte("a wrapped root key"))), func(b []byte) ([]byte, error) {
			return day.Open(testRoot, b)
		}},
		{"Anchor", must(dk.SealAnchor(testPlace, Anchor{Term: 3, Seq: 15, Chain: seg.Chain(), Counter: 1})), func(b []byte) ([]byte, error) {
			_, err := dk.OpenAnchor(testPlace, b)
			return []byte("opened"), err
		}},
	}
}

// wantRefused is what every changed value must come to: no plaintext, no panic, one
// of the two errors, and ErrOpen once there is a key to try.
func wantRefused(t *testing.T, what string, plaintext []byte, err error) {
	t.Helper()
	if !errors.Is(err, ErrOpen) && !errors.Is(err, ErrFormat) {
		t.Errorf("%s: opens to %q, %v; want ErrOpen or ErrFormat", what, plaintext, err)
	}
}

func TestChangedBytesDoNotOpen(t *testing.T) {
	for _, s := range sealAll() {
		t.Run(s.name, func(t *testing.T) {
			if _, err := s.open(s.stored); err != nil {
				t.Fatalf("as sealed: %v", err)
			}
			for bit := range 8 * len(s.stored) {
				b := bytes.Clone(s.stored)
				b[bit/8] ^= 1 << (bit % 8)
				got, err := s.open(b)
				wantRefused(t, fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8), got, err)
			}
			for n := range len(s.stored) {
				got, err := s.open(s.stored[:n:n])
				wantRefused(t, fmt.Sprintf("cut to %d bytes", n), got, err)
				got, err = s.open(s.stored[n+1:])
				wantRefused(t, fmt.Sprintf("first %d bytes dropped", n+1), got, err)
				got, err = s.open(slices.Delete(bytes.Clone(s.stored), n, n+1))
				wantRefused(t, fmt.Sprintf("byte %d dropped", n), got, err)
				got, err = s.open(slices.Insert(bytes.Clone(s.stored), n, 0))
				wantRefused(t, fmt.Sprintf("zero inserted at byte %d", n), got, err)
			}
			for _, more := range []int{1, sealBytes, 4096} {
				got, err := s.open(append(bytes.Clone(s.stored), make([]byte, more)...))
				wantRefused(t, fmt.Sprintf("%d bytes appended", more), got, err)
			}
			got, err := s.open(append(bytes.Clone(s.stored), s.stored...))
			wantRefused(t, "doubled", got, err)
		})
	}
}

// A cut or extended record is refused by its length field; this one has been fitted.
func TestRecordWithFittedLengthDoesNotOpen(t *testing.T) {
	specimens := sealAll()
	for _, s := range specimens[1:3] {
		for n := minRecordBytes; n < len(s.stored)+40; n++ {
			if n == len(s.stored) {
				continue
			}
			b := make([]byte, n)
			copy(b, s.stored)
			binary.BigEndian.PutUint32(b, uint32(n))
			got, err := s.open(b)
			if !errors.Is(err, ErrOpen) {
				t.Errorf("%s fitted to %d bytes: opens to %q, %v; want ErrOpen", s.name, n, got, err)
			}
		}
	}
}

// Random edits, one to three at a time: bits, whole fields, ends, and pieces of other
// values at the same place.
func TestScenario38RandomlyChangedValuesDoNotOpen(t *testing.T) {
	const tamperings = 100_000
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a seed that is printed, not a secret
	specimens := append(sealAll(), sealAll()...)
	numbers := []uint64{0, 1, 2, 1 << 20, 1<<32 - 1, 1 << 63, 1<<64 - 1}
	for n := 0; n < tamperings; {
		s := specimens[random.IntN(len(specimens))]
		b := bytes.Clone(s.stored)
		for range 1 + random.IntN(3) {
			if len(b) < 8 {
				break
			}
			at := random.IntN(len(b))
			switch random.IntN(7) {
			case 0:
				b[at] ^= 1 << random.IntN(8)
			case 1:
				b[at] = byte(random.Uint32())
			case 2:
				binary.BigEndian.PutUint64(b[random.IntN(len(b)-7):], numbers[random.IntN(len(numbers))])
			case 3:
				b = b[:at]
			case 4:
				b = append(b, make([]byte, 1+random.IntN(64))...)
			case 5:
				other := specimens[random.IntN(len(specimens))].stored
				end := min(at+1+random.IntN(64), len(b), len(other))
				if at < end {
					copy(b[at:end], other[at:end])
				}
			case 6:
				b = slices.Delete(b, at, min(at+1+random.IntN(32), len(b)))
			}
		}
		if bytes.Equal(b, s.stored) || (s.name == "FirstRecord" || s.name == "LaterRecord") && isOneOf(b, specimens, s) {
			continue
		}
		n++
		got, err := s.open(b)
		wantRefused(t, fmt.Sprintf("%s as %x", s.name, b), got, err)
		if t.Failed() {
			return
		}
	}
}

// isOneOf says whether b is another record of the same segment, untouched.
func isOneOf(b []byte, specimens []specimen, s specimen) bool {
	for i, other := range specimens {
		if bytes.Equal(b, other.stored) {
			half := len(specimens) / 2
			for j, own := range specimens {
				if bytes.Equal(own.stored, s.stored) {
					return i/half == j/half
				}
			}
		}
	}
	return false
}

// Every construction is offered where every other is expected.
func TestOneKindIsNotAnother(t *testing.T) {
	specimens := sealAll()
	for i, from := range specimens {
		for j, to := range specimens {
			records := (i == 1 || i == 2) && (j == 1 || j == 2) // the same kind and segment
			if i == j || records {
				continue
			}
			got, err := to.open(from.stored)
			wantRefused(t, from.name+" as "+to.name, got, err)
		}
	}
}

// The kind byte alone may be changed by whoever writes the store.
func TestKindByteIsBound(t *testing.T) {
	dk, sk := NewDocumentKey(), NewServiceKey()
	for _, c := range []struct {
		name     string
		from, to Kind
		sealed   []byte
		open     func(Sealed) ([]byte, error)
	}{
		{
			"CheckpointAsObject", KindCheckpoint, KindObject,
			must(dk.SealObject(testPlace, KindCheckpoint, Name{1}, []byte("x"))).Bytes(),
			func(s Sealed) ([]byte, error) { return dk.OpenObject(testPlace, KindObject, Name{1}, s) },
		},
		{
			"KeyAsRow", kindKey, KindRow,
			must(sk.WrapKey("", []byte("x"))),
			func(s Sealed) ([]byte, error) { return sk.OpenRow("", Name{}, Name{}, s) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(c.sealed)
			b[6] = byte(c.to)
			if got, err := c.open(mustSealed(t, b)); !errors.Is(err, ErrOpen) {
				t.Errorf("opens to %q, %v; want ErrOpen", got, err)
			}
		})
	}
}

// Kinds that only a holder of the key could have sealed: the kind is checked, and
// not only what follows from it.
func TestForgedKindsDoNotOpen(t *testing.T) {
	dk, sk := NewDocumentKey(), NewServiceKey()
	row := must(sealBox(sk.seals(), appendPreamble(nil, KindRow), []byte("x"), []byte("label")))
	if got, err := sk.UnwrapKey("label", row); !errors.Is(err, ErrOpen) {
		t.Errorf("a row unwraps as a key: %q, %v; want ErrOpen", got, err)
	}

	facts := binary.BigEndian.AppendUint64(appendPlace(appendPreamble(nil, KindOps), testPlace), 0)
	err := dk.use(func(b []byte) error {
		header, aead, err := newHeader(b[:keyBytes], facts, make([]byte, 32))
		if err != nil {
			return err
		}
		data := newChunkData(header, Name{})
		_, err = dk.OpenObject(testPlace, KindOps, Name{}, Sealed{aead.Seal(header, nil, nil, data.at(0, true))})
		return err
	})
	if !errors.Is(err, ErrOpen) {
		t.Errorf("an object of kind ops: %v; want ErrOpen", err)
	}
}

func TestMisplacedValuesDoNotOpen(t *testing.T) {
	dk, rk, sk := NewDocumentKey(), NewRootKey(), NewServiceKey()
	object := must(dk.SealObject(testPlace, KindObject, Name{1}, []byte("blob")))
	row := must(sk.SealRow("documents", Name{2}, Name{1}, []byte("row")))
	key := must(sk.WrapKey("label", []byte("a root key")))
	wrapped := must(rk.WrapDocumentKey(dk, testPlace))
	header := must(NewSegment(dk, SegmentPlace{KeyPlace: testPlace, FirstSeq: 1})).Header()

	resource, document, keyID := testPlace, testPlace, testPlace
	resource.Resource[15]++
	document.Document[0]++
	keyID.KeyID[7]++

	unwrap := func(k RootKey, at KeyPlace) ([]byte, error) {
		_, _, err := k.UnwrapDocumentKey(wrapped, at.Resource, at.Document)
		return nil, err
	}
	segment := func(k DocumentKey, at KeyPlace) ([]byte, error) {
		_, err := OpenSegment(k, at, header)
		return nil, err
	}
	for name, open := range map[string]func() ([]byte, error){
		"object/WrongResource": func() ([]byte, error) { return dk.OpenObject(resource, KindObject, Name{1}, object) },
		"object/WrongDocument": func() ([]byte, error) { return dk.OpenObject(document, KindObject, Name{1}, object) },
		"object/WrongKeyID":    func() ([]byte, error) { return dk.OpenObject(keyID, KindObject, Name{1}, object) },
		"object/WrongKind":     func() ([]byte, error) { return dk.OpenObject(testPlace, KindCheckpoint, Name{1}, object) },
		"object/WrongName":     func() ([]byte, error) { return dk.OpenObject(testPlace, KindObject, Name{2}, object) },
		"object/WrongKey":      func() ([]byte, error) { return NewDocumentKey().OpenObject(testPlace, KindObject, Name{1}, object) },
		"row/WrongTable":       func() ([]byte, error) { return sk.OpenRow("document", Name{2}, Name{1}, row) },
		"row/WrongPartition":   func() ([]byte, error) { return sk.OpenRow("documents", Name{3}, Name{1}, row) },
		"row/WrongName":        func() ([]byte, error) { return sk.OpenRow("documents", Name{2}, Name{2}, row) },
		"row/Exchanged":        func() ([]byte, error) { return sk.OpenRow("documents", Name{1}, Name{2}, row) },
		"row/WrongKey":         func() ([]byte, error) { return NewServiceKey().OpenRow("documents", Name{2}, Name{1}, row) },
		"key/WrongLabel":       func() ([]byte, error) { return sk.UnwrapKey("labe", key) },
		"key/WrongKey":         func() ([]byte, error) { return NewServiceKey().UnwrapKey("label", key) },
		"wrapped/Resource":     func() ([]byte, error) { return unwrap(rk, resource) },
		"wrapped/Document":     func() ([]byte, error) { return unwrap(rk, document) },
		"wrapped/WrongKey":     func() ([]byte, error) { return unwrap(NewRootKey(), testPlace) },
		"segment/Resource":     func() ([]byte, error) { return segment(dk, resource) },
		"segment/Document":     func() ([]byte, error) { return segment(dk, document) },
		"segment/KeyID":        func() ([]byte, error) { return segment(dk, keyID) },
		"segment/WrongKey":     func() ([]byte, error) { return segment(NewDocumentKey(), testPlace) },
		"zero/Object":          func() ([]byte, error) { return dk.OpenObject(testPlace, 0, Name{}, Sealed{}) },
		"zero/Row":             func() ([]byte, error) { return sk.OpenRow("", Name{}, Name{}, Sealed{}) },
		"zero/Key":             func() ([]byte, error) { return sk.UnwrapKey("", nil) },
		"zero/Segment": func() ([]byte, error) {
			_, err := OpenSegment(dk, KeyPlace{}, Header{})
			return nil, err
		},
		"zero/DocumentKey": func() ([]byte, error) {
			_, _, err := rk.UnwrapDocumentKey(Sealed{}, ResourceID{}, DocumentHandle{})
			return nil, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := open(); err != ErrOpen { //nolint:errorlint // bare: a cause would tell an attacker something
				t.Errorf("opens to %q, %v; want ErrOpen itself", got, err)
			}
		})
	}
}

// Whoever writes the store may also change a header to the place where he puts the
// value; each layer must refuse that alone, so that a mistake in one is no hole.
func TestDerivationBindsEveryByte(t *testing.T) {
	key := bytes.Repeat([]byte{1}, keyBytes)
	header := must(NewSegment(NewDocumentKey(), SegmentPlace{KeyPlace: testPlace})).Header().Bytes()
	header = header[:len(header)-commitmentBytes]
	context := [][]byte{[]byte("table"), []byte("name")}
	sealing, commitment, err := derive(key, header, context)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, key, header []byte, context [][]byte) {
		t.Helper()
		s, c, err := derive(key, header, context)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(s, sealing) {
			t.Errorf("%s: same sealing key", what)
		}
		if bytes.Equal(c, commitment) {
			t.Errorf("%s: same commitment", what)
		}
	}
	for i := range header {
		b := bytes.Clone(header)
		b[i] ^= 0x10
		check(fmt.Sprintf("byte %d of the header", i), key, b, context)
	}
	for i := range key {
		b := bytes.Clone(key)
		b[i] ^= 0x10
		check(fmt.Sprintf("byte %d of the key", i), b, header, context)
	}
	for _, other := range [][][]byte{
		{},
		{[]byte("table")},
		{[]byte("name"), []byte("table")},
		{[]byte("tablen"), []byte("ame")},
		{[]byte("tablename")},
		{[]byte("table"), []byte("name"), nil},
	} {
		check(fmt.Sprintf("context %q", other), key, header, other)
	}
}

func TestAssociatedDataOfRecordsBindsEveryByte(t *testing.T) {
	seg := must(NewSegment(NewDocumentKey(), SegmentPlace{KeyPlace: testPlace, FirstSeq: 1}))
	header := seg.Header().Bytes()
	rec := must(seg.Seal(1, 1, []byte("an op"))).Bytes()
	recordHeader, body := rec[:recordHeaderBytes], rec[recordHeaderBytes:]
	open := func(header, recordHeader []byte) error {
		data := newRecordData(Header{header})
		_, err := seg.aead.Open(nil, nil, body, data.of(recordHeader))
		return err
	}
	if err := open(header, recordHeader); err != nil {
		t.Fatalf("as sealed: %v", err)
	}
	for i := range header {
		b := bytes.Clone(header)
		b[i] ^= 1
		if open(b, recordHeader) == nil {
			t.Errorf("opens with byte %d of the segment header changed", i)
		}
	}
	for i := range recordHeader {
		b := bytes.Clone(recordHeader)
		b[i] ^= 1
		if open(header, b) == nil {
			t.Errorf("opens with byte %d of the record header changed", i)
		}
	}
}

func TestAssociatedDataOfChunksBindsEveryField(t *testing.T) {
	header := make([]byte, objectHeaderBytes)
	base := newChunkData(header, Name{1})
	want := bytes.Clone(base.at(2, false))
	for i := range header {
		b := bytes.Clone(header)
		b[i] ^= 1
		d := newChunkData(b, Name{1})
		if bytes.Equal(d.at(2, false), want) {
			t.Errorf("byte %d of the header is not bound", i)
		}
	}
	other := newChunkData(header, Name{2})
	for what, got := range map[string][]byte{
		"name":  bytes.Clone(other.at(2, false)),
		"index": bytes.Clone(base.at(3, false)),
		"last":  bytes.Clone(base.at(2, true)),
	} {
		if bytes.Equal(got, want) {
			t.Errorf("the %s is not bound", what)
		}
	}
}

func TestRootKeysOnTheirWayAreBoundToTheirPlace(t *testing.T) {
	rk, day, dk := NewRootKey(), NewRetentionKey(), NewDocumentKey()
	r := testPlace.Resource
	next := must(rk.WrapNext(NewRootKey(), r, 8))
	retained := must(day.Seal(testRoot, []byte("wrapped")))
	anchor := must(dk.SealAnchor(testPlace, Anchor{Seq: 1}))
	otherDay, err := day.Next()
	if err != nil {
		t.Fatal(err)
	}
	resource, epoch, generation := testRoot, testRoot, testRoot
	resource.Resource[0]++
	epoch.Epoch++
	generation.Generation++
	place := testPlace
	place.KeyID[0]++
	unwrap := func(k RootKey, r ResourceID, epoch uint32) error {
		_, err := k.UnwrapNext(next, r, epoch)
		return err
	}
	open := func(k RetentionKey, at RootPlace) error {
		_, err := k.Open(at, retained)
		return err
	}
	openAnchor := func(k DocumentKey, at KeyPlace) error {
		_, err := k.OpenAnchor(at, anchor)
		return err
	}
	for name, err := range map[string]error{
		"next/Resource":       unwrap(rk, resource.Resource, 8),
		"next/Epoch":          unwrap(rk, r, 9),
		"next/WrongKey":       unwrap(NewRootKey(), r, 8),
		"next/Wiped":          unwrap(RootKey{}, r, 8),
		"retained/Resource":   open(day, resource),
		"retained/Epoch":      open(day, epoch),
		"retained/Generation": open(day, generation),
		"retained/DayAfter":   open(otherDay, testRoot),
		"retained/Wiped":      open(RetentionKey{}, testRoot),
		"anchor/KeyID":        openAnchor(dk, place),
		"anchor/WrongKey":     openAnchor(NewDocumentKey(), testPlace),
		"anchor/Wiped":        openAnchor(DocumentKey{}, testPlace),
	} {
		if err != ErrOpen { //nolint:errorlint // bare: a cause would tell an attacker something
			t.Errorf("%s: %v, want ErrOpen itself", name, err)
		}
	}
	for name, err := range map[string]error{
		"next": unwrap(rk, r, 8), "retained": open(day, testRoot), "anchor": openAnchor(dk, testPlace),
	} {
		if err != nil {
			t.Errorf("%s as sealed: %v", name, err)
		}
	}
}
