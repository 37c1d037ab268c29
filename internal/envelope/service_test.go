package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
)

func file(t *testing.T, k ServiceKey) (b []byte) {
	t.Helper()
	if err := k.Use(func(content []byte) error { b = bytes.Clone(content); return nil }); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestServiceKeyVersions(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, keyBytes)
	k := must(ParseServiceKey(raw))
	if !bytes.Equal(file(t, k), raw) {
		t.Error("a key of one version is not a file of its 32 bytes")
	}
	name := k.Name("t", "id")
	first := must(k.SealRow("t", Name{}, name, []byte("first")))
	wrapped := must(k.WrapKey("l", []byte("key")))

	second := must(k.Add())
	if k.Sealing() != 1 || second.Number != 2 {
		t.Errorf("version %d seals, and %d was added", k.Sealing(), second.Number)
	}
	if err := k.SealUnder(2); err != nil || k.SealUnder(3) == nil {
		t.Errorf("seal under version 2: %v; or under one that is not there", err)
	}
	row := must(k.SealRow("t", Name{}, name, []byte("second")))
	again := must(ParseServiceKey(file(t, k)))
	for what, key := range map[string]ServiceKey{"InMemory": k, "FromItsFile": again} {
		if key.Name("t", "id") != name {
			t.Errorf("%s: names changed with the version", what)
		}
		for text, in := range map[string]struct {
			s      Sealed
			number uint32
		}{"first": {first, 1}, "second": {row, 2}} {
			got, number, err := key.OpenRowVersion("t", Name{}, name, in.s)
			if err != nil || string(got) != text || number != in.number {
				t.Errorf("%s: got %q of version %d, %v; want %q of %d", what, got, number, err, text, in.number)
			}
		}
		if got, number, err := key.UnwrapKeyVersion("l", wrapped); err != nil || number != 1 || string(got) != "key" {
			t.Errorf("%s: unwrapped %q of version %d, %v", what, got, number, err)
		}
		if v := key.Versions(); len(v) != 2 || v[1] != second || key.Sealing() != 2 {
			t.Errorf("%s: versions %v, %d seals", what, v, key.Sealing())
		}
	}
	// A copy of the key has the same versions; one that is dropped opens nothing.
	copied := k
	if err := k.Drop(1); err != nil || k.Drop(2) == nil {
		t.Errorf("drop version 1: %v; or the one that seals", err)
	}
	if _, err := copied.OpenRow("t", Name{}, name, first); !errors.Is(err, ErrOpen) {
		t.Errorf("a row under a dropped version: %v", err)
	}
	if got := file(t, k); bytes.Contains(got, raw) {
		t.Error("the file still has the dropped version")
	}
	if v := must(ParseServiceKey(file(t, k))).Versions(); len(v) != 1 || v[0].Number != 2 {
		t.Errorf("versions in the file: %v", v)
	}
	if fmt.Sprintf("%v %+v %#v", k, struct{ K ServiceKey }{k}, &k) == "" || bytes.Contains(fmt.Appendf(nil, "%x", k), []byte(hex.EncodeToString(file(t, k)[40:50]))) {
		t.Error("the key prints")
	}
}

func TestServiceKeyTakesAnotherCopy(t *testing.T) {
	k := NewServiceKey()
	ahead := must(ParseServiceKey(file(t, k)))
	must(ahead.Add())
	if err := k.Take(must(ParseServiceKey(file(t, ahead))), 1); err != nil || len(k.Versions()) != 2 || k.Sealing() != 1 {
		t.Errorf("take: %v, %v", k.Versions(), err)
	}
	if err := k.Take(must(ParseServiceKey(file(t, ahead))), 3); !errors.Is(err, ErrOpen) {
		t.Errorf("with a version that it has not: %v", err)
	}
	if err := k.Take(NewServiceKey(), 1); !errors.Is(err, ErrOpen) {
		t.Errorf("another key: %v", err)
	}
}

func TestServiceKeyFilesThatAreNone(t *testing.T) {
	k := NewServiceKey()
	must(k.Add())
	whole := file(t, k)
	entry := len(whole) - serviceEntryBytes
	swapped := append(append(bytes.Clone(whole[:entry-serviceEntryBytes]), whole[entry:]...), whole[entry-serviceEntryBytes:entry]...)
	for what, b := range map[string][]byte{
		"Empty": {}, "Short": make([]byte, 31), "Long": make([]byte, 33), "NoVersion": whole[:len(serviceMagic)+keyBytes],
		"CutOff": whole[:len(whole)-1], "Trailing": append(bytes.Clone(whole), 0), "NotByNumber": swapped,
		"TwiceTheSame": append(bytes.Clone(whole), whole[entry:]...), "OtherMagic": append([]byte("x"), whole[1:]...),
	} {
		if _, err := ParseServiceKey(b); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if _, err := ParseServiceKey(whole); err != nil {
		t.Error(err)
	}
}

// Known answers: what these made is in files and stores.
func TestServiceVersionID(t *testing.T) {
	v := must(ParseServiceKey(bytes.Repeat([]byte{7}, keyBytes))).Versions()[0]
	const want = "097d4f878a5e487e0a3fde6f0cc3dd56b0217f554155a1ef6420a200c625ff0e"
	if got := hex.EncodeToString(v.ID[:]); got != want {
		t.Errorf("id %s, want %s", got, want)
	}
}
