package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// patch returns a copy of b with some bytes replaced.
func patch(b []byte, offset int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[offset:], with)
	return b
}

func TestParseSealedRefuses(t *testing.T) {
	v := loadV1(t)
	object, row, key := []byte(v.Object.Sealed), []byte(v.Row.Sealed), []byte(v.DocumentKey.Sealed)
	// object of a length that the header admits to
	long := func(n int) []byte {
		b := make([]byte, objectHeaderBytes+n+chunksOf(n)*sealBytes)
		copy(b, object[:objectHeaderBytes])
		binary.BigEndian.PutUint64(b[preambleBytes+placeBytes:], uint64(n))
		return b
	}
	if _, err := ParseSealed(long(MaxPlaintextBytes)); err != nil {
		t.Errorf("the biggest object: %v", err)
	}
	biggestRow := append(bytes.Clone(row[:boxHeaderBytes(KindRow)]), make([]byte, MaxPlaintextBytes+sealBytes)...)
	if _, err := ParseSealed(biggestRow); err != nil {
		t.Errorf("the biggest row: %v", err)
	}

	for name, b := range map[string][]byte{
		"Empty":                nil,
		"HalfAPreamble":        object[:7],
		"OtherMagic":           patch(object, 0, 'X'),
		"Format0":              patch(object, 4, 0),
		"Format2":              patch(object, 4, 2),
		"Suite2":               patch(object, 5, 2),
		"Kind0":                patch(row, 6, 0),
		"KindOps":              v.Segments[0].Header,
		"KindKey":              v.Key.Sealed,
		"Kind7":                patch(row, 6, 7),
		"Flags":                patch(object, 7, 1),
		"ObjectHeaderOnly":     object[:objectHeaderBytes],
		"ObjectHeaderCut":      object[:objectHeaderBytes-1],
		"ObjectCut":            object[:len(object)-1],
		"ObjectExtended":       append(bytes.Clone(object), 0),
		"ObjectTooLong":        long(MaxPlaintextBytes + 1),
		"ObjectLengthOverflow": patch(object, preambleBytes+placeBytes, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"RowHeaderOnly":        row[:boxHeaderBytes(KindRow)],
		"RowWithoutTag":        row[:boxHeaderBytes(KindRow)+sealBytes-1],
		"RowTooLong":           append(biggestRow, 0),
		"DocumentKeyCut":       key[:len(key)-1],
		"DocumentKeyExtended":  append(bytes.Clone(key), 0),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseSealed(b); !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	good := []byte(loadV1(t).Segments[0].Header)
	const prevRecords = segmentHeaderBytes - endBytes - 8
	most := patch(good, prevRecords, 0, 0, 0, 0, 0, 0x10, 0, 0)
	if _, err := ParseHeader(most); err != nil {
		t.Errorf("after a segment of 2^20 records: %v", err)
	}
	for name, b := range map[string][]byte{
		"Empty":          nil,
		"OtherMagic":     patch(good, 3, 'X'),
		"Format2":        patch(good, 4, 2),
		"Suite0":         patch(good, 5, 0),
		"KindCheckpoint": patch(good, 6, byte(KindCheckpoint)),
		"Flags":          patch(good, 7, 0x80),
		"Cut":            good[:len(good)-1],
		"Extended":       append(bytes.Clone(good), 0),
		"TooManyRecords": patch(most, segmentHeaderBytes-endBytes-1, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseHeader(b); !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}

func TestParseRecordRefuses(t *testing.T) {
	good := []byte(loadV1(t).Segments[0].Records[1].Sealed) // ops 2 to 4
	sized := func(n int) []byte {
		b := make([]byte, n)
		copy(b, good)
		binary.BigEndian.PutUint32(b, uint32(n))
		return b
	}
	for _, n := range []int{minRecordBytes, maxRecordBytes} {
		if _, err := ParseRecord(sized(n)); err != nil {
			t.Errorf("a record of %d bytes: %v", n, err)
		}
	}
	for name, b := range map[string][]byte{
		"Empty":       nil,
		"TooShort":    sized(minRecordBytes - 1),
		"TooLong":     sized(maxRecordBytes + 1),
		"Cut":         good[:len(good)-1],
		"Extended":    append(bytes.Clone(good), 0),
		"Index2to20":  patch(good, 4, 0, 0, 0, 0, 0, 0x10, 0, 0),
		"HugeIndex":   patch(good, 4, 0xff),
		"LastIsLower": patch(good, 27, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseRecord(b); !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}
