package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestObjectsOfEverySizeOpen(t *testing.T) {
	dk := NewDocumentKey()
	for _, n := range []int{0, 1, 255, chunkBytes - 1, chunkBytes, chunkBytes + 1, 2 * chunkBytes, 2*chunkBytes + 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			want := bytes.Repeat([]byte{7}, n)
			s, err := dk.SealObject(testPlace, KindObject, Name{1}, want)
			if err != nil {
				t.Fatal(err)
			}
			if chunks := max(1, (n+chunkBytes-1)/chunkBytes); len(s.Bytes()) != 92+n+28*chunks {
				t.Errorf("sealed it has %d bytes, want 92 + %d + 28 for each of %d chunks", len(s.Bytes()), n, chunks)
			}
			got, err := dk.OpenObject(testPlace, KindObject, Name{1}, mustSealed(t, s.Bytes()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("opens to %d bytes, %v; want %d", len(got), err, n)
			}
		})
	}
}

// A document key is wrapped anew in each epoch of the root key, its objects and
// segments are not sealed anew.
func TestEpochOfARootKeyDoesNotCutOffOlderValues(t *testing.T) {
	dk, later := NewDocumentKey(), testPlace
	later.Epoch++
	object := must(dk.SealObject(testPlace, KindObject, Name{1}, []byte("blob")))
	got, err := dk.OpenObject(later, KindObject, Name{1}, object)
	wantPlaintext(t, got, err, "blob")

	seg := must(NewSegment(dk, SegmentPlace{KeyPlace: testPlace, FirstSeq: 1}))
	if _, err := OpenSegment(dk, later, seg.Header()); err != nil {
		t.Errorf("OpenSegment: %v", err)
	}
}

func TestChunksKeepTheirPlace(t *testing.T) {
	dk := NewDocumentKey()
	plaintext := bytes.Repeat([]byte{1}, 2*chunkBytes+5)
	seal := func(n int) []byte { return must(dk.SealObject(testPlace, KindObject, Name{1}, plaintext[:n])).Bytes() }
	split := func(b []byte) (header []byte, chunks [][]byte) {
		return b[:objectHeaderBytes], slices.Collect(slices.Chunk(b[objectHeaderBytes:], chunkBytes+sealBytes))
	}
	header, chunks := split(seal(2*chunkBytes + 5))
	_, others := split(seal(2*chunkBytes + 5))
	// withLength is a header that says the object is shorter or longer.
	withLength := func(n int) []byte {
		h := bytes.Clone(header)
		binary.BigEndian.PutUint64(h[preambleBytes+placeBytes:], uint64(n))
		return h
	}
	for name, b := range map[string][]byte{
		"Swapped":           bytes.Join([][]byte{header, chunks[1], chunks[0], chunks[2]}, nil),
		"Repeated":          bytes.Join([][]byte{header, chunks[0], chunks[0], chunks[2]}, nil),
		"OfAnotherObject":   bytes.Join([][]byte{header, chunks[0], others[1], chunks[2]}, nil),
		"LastOfAnother":     bytes.Join([][]byte{header, chunks[0], chunks[1], others[2]}, nil),
		"LastDropped":       bytes.Join([][]byte{header, chunks[0], chunks[1]}, nil),
		"FirstDropped":      bytes.Join([][]byte{header, chunks[1], chunks[2]}, nil),
		"LastDroppedFitted": bytes.Join([][]byte{withLength(2 * chunkBytes), chunks[0], chunks[1]}, nil),
		"MiddleDropped":     bytes.Join([][]byte{withLength(chunkBytes + 5), chunks[0], chunks[2]}, nil),
		"Extended":          bytes.Join([][]byte{withLength(3*chunkBytes + 5), chunks[0], chunks[1], chunks[1], chunks[2]}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := ParseSealed(b)
			if err == nil {
				var got []byte
				got, err = dk.OpenObject(testPlace, KindObject, Name{1}, s)
				if got != nil {
					t.Errorf("hands out %d bytes", len(got))
				}
			}
			wantRefused(t, name, nil, err)
		})
	}
}

// The chunks alone, without the help of the header's commitment.
func TestChunkIndexAndLastFlagAreChecked(t *testing.T) {
	key := bytes.Repeat([]byte{1}, keyBytes)
	facts := appendPlace(appendPreamble(nil, KindObject), testPlace)
	facts = binary.BigEndian.AppendUint64(facts, 2*chunkBytes)
	header, aead, err := newHeader(key, facts, []byte("name"))
	if err != nil {
		t.Fatal(err)
	}
	data := newChunkData(header, Name{1})
	sealed := aead.Seal(nil, nil, []byte("chunk"), data.at(0, false))
	for _, c := range []struct {
		index int
		last  bool
		opens bool
	}{{0, false, true}, {0, true, false}, {1, false, false}, {1, true, false}} {
		_, err := aead.Open(nil, nil, sealed, data.at(c.index, c.last))
		if (err == nil) != c.opens {
			t.Errorf("chunk 0 as index %d, last %v: %v; want it to open: %v", c.index, c.last, err, c.opens)
		}
	}
}

func TestSealObjectRefuses(t *testing.T) {
	dk := NewDocumentKey()
	for _, kind := range []Kind{0, KindOps, KindRow, KindDocumentKey, kindKey, kindNextRoot, kindRetained, kindAnchor, 10, 255} {
		if _, err := dk.SealObject(testPlace, kind, Name{}, nil); err == nil {
			t.Errorf("kind %d is sealed as an object", kind)
		}
	}
	big := make([]byte, MaxPlaintextBytes+1)
	if _, err := dk.SealObject(testPlace, KindObject, Name{}, big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an object of %d bytes: %v, want ErrTooLarge", len(big), err)
	}
	if _, err := NewServiceKey().SealRow("t", Name{}, Name{}, big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a row of %d bytes: %v, want ErrTooLarge", len(big), err)
	}
}
