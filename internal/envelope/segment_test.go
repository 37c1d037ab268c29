package envelope

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var testSegment = SegmentPlace{KeyPlace: testPlace, Term: 3, FirstSeq: 1, Prev: Chain{9}, PrevRecords: 4}

// sealOps seals records of one op each, from the place's first op on.
func sealOps(t testing.TB, seg *Segment, n int) []Record {
	t.Helper()
	var records []Record
	first := seg.Header().Place().FirstSeq
	for i := range uint64(n) {
		rec, err := seg.Seal(first+i, first+i, []byte{byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
	}
	return records
}

func openSegment(t testing.TB, dk DocumentKey, h Header) *SegmentReader {
	t.Helper()
	r, err := OpenSegment(dk, testPlace, h)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSegmentOpensAsSealed(t *testing.T) {
	dk := NewDocumentKey()
	seg := must(NewSegment(dk, testSegment))
	if got := seg.Header().Place(); got != testSegment {
		t.Errorf("place = %+v, want %+v", got, testSegment)
	}
	r := openSegment(t, dk, seg.Header())
	if r.Chain() != seg.Chain() || r.Records() != 0 {
		t.Errorf("before any record: chain %x of %d records, want %x of 0", r.Chain(), r.Records(), seg.Chain())
	}
	for i, rec := range sealOps(t, seg, 20) {
		got, err := r.Open(rec)
		wantPlaintext(t, got, err, string([]byte{byte(i)}))
	}
	if r.Chain() != seg.Chain() || r.Records() != 20 || seg.Records() != 20 {
		t.Errorf("after: chain %x of %d records, want %x of 20", r.Chain(), r.Records(), seg.Chain())
	}
}

func TestReaderMayStartAnywhere(t *testing.T) {
	dk := NewDocumentKey()
	seg := must(NewSegment(dk, testSegment))
	records := sealOps(t, seg, 5)
	for start := range records {
		r := openSegment(t, dk, seg.Header())
		for _, rec := range records[start:] {
			if _, err := r.Open(rec); err != nil {
				t.Errorf("from record %d: record %d: %v", start, rec.Index(), err)
			}
		}
		if r.Chain() != seg.Chain() {
			t.Errorf("from record %d: chain %x, want %x", start, r.Chain(), seg.Chain())
		}
	}
}

func TestRecordsOutOfOrderDoNotOpen(t *testing.T) {
	dk := NewDocumentKey()
	seg := must(NewSegment(dk, testSegment))
	records := sealOps(t, seg, 5)
	twin := must(NewSegment(dk, testSegment)) // same place, another segment id
	others := sealOps(t, twin, 5)

	for _, c := range []struct {
		name string
		good []int
		bad  Record
	}{
		{"Dropped", []int{0, 1}, records[3]},
		{"Repeated", []int{0, 1}, records[1]},
		{"Reordered", []int{0, 2}, Record{}}, // the second of good is refused
		{"BackToTheFirst", []int{2, 3}, records[0]},
		{"FirstRepeated", []int{0}, records[0]},
		{"SplicedFirst", nil, others[0]},
		{"SplicedLater", []int{0, 1}, others[2]},
		{"SplicedMiddle", nil, others[3]},
		{"Zero", []int{0}, Record{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := openSegment(t, dk, seg.Header())
			var err error
			for _, i := range c.good {
				_, err = r.Open(records[i])
			}
			if c.bad.Bytes() != nil || c.name == "Zero" {
				if err != nil {
					t.Fatalf("record in order: %v", err)
				}
				_, err = r.Open(c.bad)
			}
			if !errors.Is(err, ErrOpen) {
				t.Errorf("got %v, want ErrOpen", err)
			}
		})
	}
}

// Two histories under one segment key, as no honest writer makes them: the chain
// alone tells them apart, for index and ops are the same.
func TestChainRefusesAnotherHistory(t *testing.T) {
	dk := NewDocumentKey()
	seg := must(NewSegment(dk, testSegment))
	fork := *seg
	fork.data.b = slices.Clone(seg.data.b)
	a := sealOps(t, seg, 3)
	b := sealOps(t, &fork, 3) // other nonces, so other tags

	r := openSegment(t, dk, seg.Header())
	for _, rec := range a[:2] {
		if _, err := r.Open(rec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Open(b[2]); !errors.Is(err, ErrOpen) {
		t.Errorf("record 2 of the other history: %v, want ErrOpen", err)
	}
	if _, err := r.Open(a[2]); err != nil {
		t.Errorf("record 2 of this history, after the refusal: %v", err)
	}
	if seg.Chain() == fork.Chain() {
		t.Error("both histories end in the same link")
	}
}

// A first record sealed under another link than the header's, again by a forger
// who has the segment key: the chain must begin with the header.
func TestChainBeginsWithTheHeader(t *testing.T) {
	dk := NewDocumentKey()
	for name, change := range map[string]func(*Segment){
		"OtherLink": func(s *Segment) { s.chain[0] ^= 1 },
		"OtherOp":   func(s *Segment) { s.nextSeq++ },
	} {
		t.Run(name, func(t *testing.T) {
			seg := must(NewSegment(dk, testSegment))
			change(seg)
			rec := must(seg.Seal(seg.nextSeq, seg.nextSeq, nil))
			if _, err := openSegment(t, dk, seg.Header()).Open(rec); !errors.Is(err, ErrOpen) {
				t.Errorf("got %v, want ErrOpen", err)
			}
		})
	}
}

// Likewise gaps in sequence numbers or indexes, under a right chain.
func TestNumbersHaveNoGap(t *testing.T) {
	dk := NewDocumentKey()
	seg := must(NewSegment(dk, testSegment))
	first := must(seg.Seal(1, 3, nil))
	seg.nextSeq++
	second := must(seg.Seal(5, 5, nil))
	r := openSegment(t, dk, seg.Header())
	if _, err := r.Open(first); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(second); !errors.Is(err, ErrOpen) {
		t.Errorf("op 5 after op 3: %v, want ErrOpen", err)
	}

	skipped := must(NewSegment(dk, testSegment))
	first = must(skipped.Seal(1, 1, nil))
	skipped.records++
	second = must(skipped.Seal(2, 2, nil))
	r = openSegment(t, dk, skipped.Header())
	if _, err := r.Open(first); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(second); !errors.Is(err, ErrOpen) {
		t.Errorf("record 2 after record 0: %v, want ErrOpen", err)
	}

	early := must(NewSegment(dk, testSegment))
	early.records, early.nextSeq = 1, 1
	rec := must(early.Seal(1, 1, nil))
	if _, err := openSegment(t, dk, early.Header()).Open(rec); !errors.Is(err, ErrOpen) {
		t.Errorf("record 1 with the segment's first op: %v, want ErrOpen", err)
	}
}

func TestSealRefusesWrongSequenceNumbers(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, last uint64
	}{
		{"Gap", 6, 6},
		{"Repeat", 4, 5},
		{"Backwards", 5, 4},
		{"EndOfNumbers", 5, math.MaxUint64},
	} {
		t.Run(c.name, func(t *testing.T) {
			seg := must(NewSegment(NewDocumentKey(), testSegment))
			must(seg.Seal(1, 4, nil))
			chain := seg.Chain()
			if _, err := seg.Seal(c.first, c.last, nil); err == nil || errors.Is(err, ErrSegmentFull) {
				t.Errorf("ops %d to %d after op 4: %v, want a refusal", c.first, c.last, err)
			}
			if seg.Chain() != chain || seg.Records() != 1 {
				t.Error("the refusal changed the segment")
			}
			if _, err := seg.Seal(5, 5, nil); err != nil {
				t.Errorf("op 5 after the refusal: %v", err)
			}
		})
	}
}

func TestSegmentIsFull(t *testing.T) {
	t.Run("Records", func(t *testing.T) {
		seg := must(NewSegment(NewDocumentKey(), testSegment))
		seg.records = MaxSegmentRecords - 1
		rec := must(seg.Seal(1, 1, nil))
		if _, err := ParseRecord(rec.Bytes()); err != nil {
			t.Errorf("the last record: %v", err)
		}
		wantFull(t, seg, nil)
	})
	t.Run("Bytes", func(t *testing.T) {
		seg := must(NewSegment(NewDocumentKey(), testSegment))
		big := make([]byte, MaxPlaintextBytes)
		for i := range uint64(2) {
			must(seg.Seal(i+1, i+1, big))
		}
		left := MaxSegmentBytes - 2*(minRecordBytes+MaxPlaintextBytes) - minRecordBytes
		wantFull(t, seg, big[:left+1])
		if _, err := seg.Seal(seg.nextSeq, seg.nextSeq, big[:left]); err != nil {
			t.Errorf("a record that just fits: %v", err)
		}
		wantFull(t, seg, nil)
	})
	t.Run("Age", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			seg := must(NewSegment(NewDocumentKey(), testSegment))
			time.Sleep(24*time.Hour - 1)
			must(seg.Seal(1, 1, nil))
			time.Sleep(1)
			wantFull(t, seg, nil)
		})
	})
}

func wantFull(t *testing.T, seg *Segment, plaintext []byte) {
	t.Helper()
	chain, records := seg.Chain(), seg.Records()
	if _, err := seg.Seal(seg.nextSeq, seg.nextSeq, plaintext); !errors.Is(err, ErrSegmentFull) {
		t.Errorf("got %v, want ErrSegmentFull", err)
	}
	if seg.Chain() != chain || seg.Records() != records {
		t.Error("a full segment has changed")
	}
}

// ErrSegmentFull here would send the writer from segment to segment for ever.
func TestTooLargeRecordIsNotAFullSegment(t *testing.T) {
	seg := must(NewSegment(NewDocumentKey(), testSegment))
	if _, err := seg.Seal(1, 1, make([]byte, MaxPlaintextBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	seg = must(NewSegment(NewDocumentKey(), testSegment))
	rec := must(seg.Seal(1, 1, make([]byte, MaxPlaintextBytes)))
	if _, err := ParseRecord(rec.Bytes()); err != nil {
		t.Errorf("the biggest record: %v", err)
	}
}

func TestNewSegmentRefusesAnImpossibleSegmentBefore(t *testing.T) {
	at := testSegment
	at.PrevRecords = MaxSegmentRecords + 1
	if _, err := NewSegment(NewDocumentKey(), at); err == nil {
		t.Errorf("a segment after one of %d records is made", at.PrevRecords)
	}
}

// No two seals may share a key and a nonce; no two headers a salt.
func TestSaltsAndNoncesDoNotRepeat(t *testing.T) {
	const seals = 20_000
	dk, rk, sk := NewDocumentKey(), NewRootKey(), NewServiceKey()
	seg := must(NewSegment(dk, testSegment))
	nonces := map[[nonceBytes]byte]bool{}
	for i := range uint64(seals) {
		rec := must(seg.Seal(i+1, i+1, nil)).Bytes()
		nonces[[nonceBytes]byte(rec[recordHeaderBytes:])] = true
	}
	if len(nonces) != seals {
		t.Errorf("%d nonces in %d seals of one segment", len(nonces), seals)
	}

	const values = 1_000
	salts := map[[saltBytes]byte]bool{}
	saltOf := func(header []byte) { salts[[saltBytes]byte(header[len(header)-endBytes:])] = true }
	for range values {
		saltOf(must(NewSegment(dk, testSegment)).Header().Bytes())
		saltOf(must(dk.SealObject(testPlace, KindObject, Name{}, nil)).Bytes()[:objectHeaderBytes])
		saltOf(must(sk.SealRow("t", Name{}, Name{}, nil)).Bytes()[:boxHeaderBytes(KindRow)])
		saltOf(must(sk.WrapKey("l", nil))[:boxHeaderBytes(kindKey)])
		saltOf(must(rk.WrapDocumentKey(dk, testPlace)).Bytes()[:boxHeaderBytes(KindDocumentKey)])
	}
	if len(salts) != 5*values {
		t.Errorf("%d salts in %d headers", len(salts), 5*values)
	}

	big := must(dk.SealObject(testPlace, KindObject, Name{}, make([]byte, 3*chunkBytes))).Bytes()[objectHeaderBytes:]
	a, b := big[:nonceBytes], big[chunkBytes+sealBytes:][:nonceBytes]
	if bytes.Equal(a, b) {
		t.Error("two chunks of an object share a nonce")
	}
}
