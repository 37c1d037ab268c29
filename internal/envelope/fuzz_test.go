package envelope

import (
	"bytes"
	"errors"
	"testing"
)

// Whatever a parser takes, it gives back byte for byte, its facts encode to what was
// read, and no key opens it but its own.

func FuzzParseSealed(f *testing.F) {
	v := loadV1(f)
	for _, b := range [][]byte{v.Row.Sealed, v.DocumentKey.Sealed, v.Key.Sealed, v.Object.Sealed, v.EmptyCheckpoint.Sealed, v.Segments[0].Header, nil} {
		f.Add(b)
	}
	dk, rk, sk := NewDocumentKey(), NewRootKey(), NewServiceKey()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSealed(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
			if s.Bytes() != nil || s.Kind() != 0 {
				t.Error("a refused value is not the zero Sealed")
			}
			return
		}
		if !bytes.Equal(s.Bytes(), b) {
			t.Error("Bytes are not what was parsed")
		}
		switch s.Kind() {
		case KindCheckpoint, KindObject:
			_, err = dk.OpenObject(readPlace(b), s.Kind(), Name{}, s)
		case KindRow:
			_, err = sk.OpenRow("", Name{}, Name{}, s)
		case KindDocumentKey:
			at := readPlace(b)
			_, _, err = rk.UnwrapDocumentKey(s, at.Resource, at.Document)
		default:
			t.Errorf("kind %d is taken for a value", s.Kind())
		}
		if !errors.Is(err, ErrOpen) {
			t.Errorf("under a key of ours: %v, want ErrOpen", err)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	v := loadV1(f)
	f.Add([]byte(v.Segments[0].Header))
	f.Add([]byte(v.Segments[1].Header))
	f.Add([]byte(v.Object.Sealed))
	f.Add([]byte(nil))
	dk := NewDocumentKey()
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
			if h.Bytes() != nil || h.Place() != (SegmentPlace{}) {
				t.Error("a refused header is not the zero Header")
			}
			return
		}
		if !bytes.Equal(h.Bytes(), b) {
			t.Error("Bytes are not what was parsed")
		}
		if facts := appendSegmentFacts(nil, h.Place()); !bytes.Equal(facts, b[:len(b)-endBytes]) {
			t.Errorf("the place encodes to %x, was read from %x", facts, b)
		}
		if _, err := OpenSegment(dk, h.Place().KeyPlace, h); !errors.Is(err, ErrOpen) {
			t.Errorf("under a key of ours: %v, want ErrOpen", err)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	v := loadV1(f)
	for _, s := range v.Segments {
		for _, r := range s.Records {
			f.Add([]byte(r.Sealed))
		}
	}
	f.Add([]byte(nil))
	dk := NewDocumentKey()
	seg := must(NewSegment(dk, testSegment))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := ParseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
			if rec.Bytes() != nil || rec.Index() != 0 || rec.FirstSeq() != 0 || rec.LastSeq() != 0 {
				t.Error("a refused record is not the zero Record")
			}
			return
		}
		if !bytes.Equal(rec.Bytes(), b) {
			t.Error("Bytes are not what was parsed")
		}
		if rec.FirstSeq() > rec.LastSeq() || rec.Index() >= MaxSegmentRecords {
			t.Errorf("record %d of ops %d to %d is taken", rec.Index(), rec.FirstSeq(), rec.LastSeq())
		}
		if _, err := openSegment(t, dk, seg.Header()).Open(rec); !errors.Is(err, ErrOpen) {
			t.Errorf("in a segment of ours: %v, want ErrOpen", err)
		}
	})
}
