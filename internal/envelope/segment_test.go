package envelope

import (
	"bytes"
	"testing"
)

func TestSmoke(t *testing.T) {
	dk := NewDocumentKey()
	at := SegmentPlace{KeyPlace: KeyPlace{Resource: ResourceID{1}, Epoch: 3}, Term: 1, FirstSeq: 1}
	s, err := NewSegment(dk, at)
	if err != nil {
		t.Fatal(err)
	}
	var recs []Record
	for i := range uint64(5) {
		r, err := s.Seal(i*2+1, i*2+2, bytes.Repeat([]byte{byte(i)}, int(i)))
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, r)
	}
	rd, err := OpenSegment(dk, at.KeyPlace, s.Header())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range recs {
		p, err := rd.Open(r)
		if err != nil || len(p) != i {
			t.Fatal(i, p, err)
		}
	}
	if rd.Chain() != s.Chain() || rd.Records() != 5 {
		t.Fatal("chain")
	}
	for _, n := range []int{0, 1, chunkBytes, chunkBytes + 1, 3 * chunkBytes} {
		o, err := dk.SealObject(at.KeyPlace, KindObject, Name{1}, make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		o, err = ParseSealed(o.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		p, err := dk.OpenObject(at.KeyPlace, KindObject, Name{1}, o)
		if err != nil || len(p) != n {
			t.Fatal(n, err)
		}
	}
	rk := NewRootKey()
	w, err := rk.WrapDocumentKey(dk, at.KeyPlace)
	if err != nil {
		t.Fatal(err)
	}
	dk2, at2, err := rk.UnwrapDocumentKey(w, at.Resource, at.Document)
	if err != nil || at2 != at.KeyPlace || dk2.Name(KindObject, "x") != dk.Name(KindObject, "x") {
		t.Fatal(err)
	}
	sk := NewServiceKey()
	row, err := sk.SealRow("t", Name{}, sk.Name("t", "a"), []byte("hi"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := sk.OpenRow("t", Name{}, sk.Name("t", "a"), row)
	if err != nil || string(p) != "hi" {
		t.Fatal(err)
	}
	wk, err := sk.WrapKey("l", []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = sk.UnwrapKey("l", wk); err != nil || string(p) != "key" {
		t.Fatal(err)
	}
}
