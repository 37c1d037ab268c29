package envelope

import (
	"errors"
	"testing"
	"time"
)

// What each key of a document sealed opens under the newest, and under no key of before.
func TestDocumentKeyNext(t *testing.T) {
	root, at := NewRootKey(), testPlace
	k := NewDocumentKey()
	if age := time.Since(k.Made()); age < 0 || age > time.Minute {
		t.Errorf("made %s ago", age)
	}
	name := k.Name(KindObject, "a")
	type sealed struct {
		at     KeyPlace
		object Sealed
		seg    *Segment
		rec    Record
		anchor []byte
	}
	var all []sealed
	seal := func() {
		seg := must(NewSegment(k, SegmentPlace{KeyPlace: at, Term: 1, FirstSeq: 1}))
		all = append(all, sealed{at, must(k.SealObject(at, KindObject, name, []byte("a"))), seg, must(seg.Seal(1, 2, []byte("ops"))), must(k.SealAnchor(at, Anchor{Seq: 2}))})
	}
	opens := func(k DocumentKey, at KeyPlace, s sealed) bool {
		_, objectErr := k.OpenObject(at, KindObject, name, s.object)
		reader, headerErr := OpenSegment(k, at, s.seg.Header())
		_, anchorErr := k.OpenAnchor(at, s.anchor)
		if objectErr == nil && headerErr == nil && anchorErr == nil {
			_, err := reader.Open(s.rec)
			return err == nil
		}
		if !errors.Is(objectErr, ErrOpen) || !errors.Is(headerErr, ErrOpen) || !errors.Is(anchorErr, ErrOpen) {
			t.Errorf("some open and some do not: %v, %v, %v", objectErr, headerErr, anchorErr)
		}
		return false
	}
	seal()
	first, firstAt := k, at
	for n := range 3 {
		next := must(k.Next(at.KeyID))
		at.KeyID = KeyID{byte(n), 9}
		// Through the root key, as it is stored.
		k, at = must2(root.UnwrapDocumentKey(must(root.WrapDocumentKey(next, at)), at.Resource, at.Document))
		seal()
		if k.Older() != n+1 || k.Name(KindObject, "a") != name {
			t.Errorf("%d keys before, and names that changed", k.Older())
		}
	}
	for n, s := range all {
		if !opens(k, at, s) || !k.Has(at.KeyID, s.at.KeyID) {
			t.Errorf("what key %d sealed does not open", n)
		}
		if n > 0 && (opens(first, firstAt, s) || first.Has(firstAt.KeyID, s.at.KeyID)) {
			t.Errorf("what key %d sealed opens under the first", n)
		}
	}
	other := at
	other.Document[0] ^= 1
	if opens(k, other, all[0]) {
		t.Error("it opens as another document's")
	}
	k.Wipe()
	if opens(k, at, all[0]) || k.Has(at.KeyID, at.KeyID) || !k.Made().IsZero() {
		t.Error("a wiped key opens")
	}
}

func TestDocumentKeyHasABound(t *testing.T) {
	root, k, at := NewRootKey(), NewDocumentKey(), testPlace
	for n := range MaxOlderKeys {
		at.KeyID = KeyID{byte(n), 1}
		k = must(k.Next(KeyID{byte(n), 2}))
	}
	must(root.WrapDocumentKey(k, at))
	if _, _, err := root.UnwrapDocumentKey(must(root.WrapDocumentKey(k, at)), at.Resource, at.Document); err != nil {
		t.Error(err)
	}
	if _, err := k.Next(at.KeyID); err == nil {
		t.Error("one more was made")
	}
}

// A first key of before keys had dates.
func TestDocumentKeyWithoutDate(t *testing.T) {
	root, at := NewRootKey(), testPlace
	undated := DocumentKey{secret: randomSecret(documentKeyBytes)}
	o := must(undated.SealObject(at, KindObject, Name{}, []byte("a")))
	k, _ := must2(root.UnwrapDocumentKey(must(root.WrapDocumentKey(undated, at)), at.Resource, at.Document))
	if !k.Made().IsZero() || k.Older() != 0 {
		t.Errorf("made %s, %d before", k.Made(), k.Older())
	}
	next := must(k.Next(at.KeyID))
	old := at
	at.KeyID[0] ^= 1
	if _, err := next.OpenObject(at, KindObject, Name{}, o); err != nil || !next.Has(at.KeyID, old.KeyID) {
		t.Errorf("open what it sealed: %v", err)
	}
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}
