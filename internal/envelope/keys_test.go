package envelope

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// Each way to print a value is offered, so that none falls back to reflection.
var _ = []interface {
	fmt.Formatter
	fmt.Stringer
	fmt.GoStringer
	json.Marshaler
	encoding.TextMarshaler
	slog.LogValuer
}{RootKey{}, DocumentKey{}, ServiceKey{}}

func TestParseKeyTakes32Bytes(t *testing.T) {
	for _, n := range []int{0, 1, 16, 31, 33, 64} {
		b := bytes.Repeat([]byte{'~'}, n)
		_, rootErr := ParseRootKey(b)
		_, serviceErr := ParseServiceKey(b)
		for _, err := range []error{rootErr, serviceErr} {
			if err == nil {
				t.Errorf("%d bytes are taken for a key", n)
			} else if n > 0 && strings.Contains(err.Error(), string(b)) {
				t.Errorf("%d bytes: the error %q quotes them", n, err)
			}
		}
	}
}

func TestKeysAreCopied(t *testing.T) {
	b := bytes.Repeat([]byte{5}, keyBytes)
	root, service := must(ParseRootKey(b)), must(ParseServiceKey(b))
	clear(b)
	for name, use := range map[string]func(func([]byte) error) error{"RootKey": root.Use, "ServiceKey": service.Use} {
		err := use(func(key []byte) error {
			if !bytes.Equal(key, bytes.Repeat([]byte{5}, keyBytes)) {
				t.Errorf("%s changed with the bytes it was parsed from", name)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewKeysDiffer(t *testing.T) {
	a, b := NewRootKey(), NewRootKey()
	if bytes.Equal(a.bytes(), b.bytes()) || bytes.Equal(a.bytes(), make([]byte, keyBytes)) {
		t.Error("root keys are alike or zero")
	}
	c, d := NewDocumentKey(), NewDocumentKey()
	if bytes.Equal(c.bytes(), d.bytes()) || bytes.Equal(c.bytes()[:keyBytes], c.bytes()[keyBytes:documentKeyBytes]) || len(c.bytes()) != documentKeyBytes+madeBytes {
		t.Error("document keys, or their halves, are alike")
	}
	e, f := NewServiceKey(), NewServiceKey()
	if bytes.Equal(e.bytes(), f.bytes()) || bytes.Equal(e.bytes()[:keyBytes], e.bytes()[keyBytes:]) {
		t.Error("service keys, or key and naming key, are alike")
	}
}

func TestUseReturnsTheErrorOfItsFunction(t *testing.T) {
	want := errors.New("no")
	if err := NewRootKey().Use(func([]byte) error { return want }); err != want { //nolint:errorlint // unwrapped is what is promised
		t.Errorf("got %v, want %v", err, want)
	}
}

// Each name depends on key, table or kind, and id, and on where one ends.
func TestNamesDiffer(t *testing.T) {
	sk, dk := NewServiceKey(), NewDocumentKey()
	names := map[Name]string{}
	add := func(what string, n Name) {
		if other, taken := names[n]; taken {
			t.Errorf("%s has the name of %s", what, other)
		}
		names[n] = what
	}
	add("ab/c", sk.Name("ab", "c"))
	add("a/bc", sk.Name("a", "bc"))
	add("abc/", sk.Name("abc", ""))
	add("other key", NewServiceKey().Name("ab", "c"))
	add("object", dk.Name(KindObject, "c"))
	add("checkpoint", dk.Name(KindCheckpoint, "c"))
	add("object d", dk.Name(KindObject, "d"))
	add("other document", NewDocumentKey().Name(KindObject, "c"))
	if sk.Name("ab", "c") != sk.Name("ab", "c") || dk.Name(KindObject, "c") != dk.Name(KindObject, "c") {
		t.Error("a name is not always the same")
	}
}

func TestRootCommitmentBindsKeyResourceAndEpoch(t *testing.T) {
	k := NewRootKey()
	want := k.Commitment(testPlace.Resource, 7)
	if k.Commitment(testPlace.Resource, 7) != want {
		t.Error("a commitment is not always the same")
	}
	for name, got := range map[string][32]byte{
		"Key":      NewRootKey().Commitment(testPlace.Resource, 7),
		"Resource": k.Commitment(ResourceID{}, 7),
		"Epoch":    k.Commitment(testPlace.Resource, 8),
	} {
		if got == want {
			t.Errorf("another %s has the same commitment", name)
		}
	}
}

func TestUnwrappedDocumentKeyIsTheSame(t *testing.T) {
	dk, rk := NewDocumentKey(), NewRootKey()
	object := must(dk.SealObject(testPlace, KindObject, Name{1}, []byte("blob")))
	got, at, err := rk.UnwrapDocumentKey(must(rk.WrapDocumentKey(dk, testPlace)), testPlace.Resource, testPlace.Document)
	if err != nil || at != testPlace {
		t.Fatalf("got place %v, %v; want %v", at, err, testPlace)
	}
	if got.Name(KindObject, "x") != dk.Name(KindObject, "x") {
		t.Error("it names objects otherwise")
	}
	plaintext, err := got.OpenObject(testPlace, KindObject, Name{1}, object)
	wantPlaintext(t, plaintext, err, "blob")
}

// keyUses are all ways to use a document key and a root key that can fail, and must
// once the key is wiped.
func keyUses(dk DocumentKey, rk RootKey) map[string]func() error {
	otherDK, otherRK := NewDocumentKey(), NewRootKey()
	object := Sealed{}
	wrapped := Sealed{}
	seg, header := (*Segment)(nil), Header{}
	var reader *SegmentReader
	var rec Record
	if dk.usable() {
		object = must(dk.SealObject(testPlace, KindObject, Name{1}, []byte("x")))
		seg = must(NewSegment(dk, testSegment))
		header = seg.Header()
		rec = must(seg.Seal(1, 1, nil))
		reader = must(OpenSegment(dk, testPlace, header))
	}
	if rk.usable() {
		wrapped = must(rk.WrapDocumentKey(otherDK, testPlace))
	}
	uses := map[string]func() error{
		"document/SealObject": func() error { _, err := dk.SealObject(testPlace, KindObject, Name{1}, nil); return err },
		"document/OpenObject": func() error { _, err := dk.OpenObject(testPlace, KindObject, Name{1}, object); return err },
		"document/NewSegment": func() error { _, err := NewSegment(dk, testSegment); return err },
		"document/OpenSegment": func() error {
			_, err := OpenSegment(dk, testPlace, header)
			return err
		},
		"document/Wrap": func() error { _, err := otherRK.WrapDocumentKey(dk, testPlace); return err },
		"root/Use":      func() error { return rk.Use(func([]byte) error { return nil }) },
		"root/Wrap":     func() error { _, err := rk.WrapDocumentKey(otherDK, testPlace); return err },
		"root/Unwrap": func() error {
			_, _, err := rk.UnwrapDocumentKey(wrapped, testPlace.Resource, testPlace.Document)
			return err
		},
	}
	if seg != nil {
		uses["segment/Seal"] = func() error { _, err := seg.Seal(seg.nextSeq, seg.nextSeq, nil); return err }
		uses["segment/Open"] = func() error { _, err := reader.Open(rec); return err }
	}
	return uses
}

func TestWipedKeysDoNothing(t *testing.T) {
	dk, rk := NewDocumentKey(), NewRootKey()
	uses := keyUses(dk, rk)
	copied, copiedRoot := dk, rk
	bytesOfDK, bytesOfRK := dk.bytes(), rk.bytes()
	copied.Wipe()
	copiedRoot.Wipe()
	rk.Wipe() // twice does no harm

	if !bytes.Equal(bytesOfDK, make([]byte, documentKeyBytes+madeBytes)) || !bytes.Equal(bytesOfRK, make([]byte, keyBytes)) {
		t.Error("the bytes of a wiped key are still there")
	}
	wantUnusable(t, uses)
	if dk.Name(KindObject, "a") == dk.Name(KindObject, "a") {
		t.Error("a wiped key gives names that are found again")
	}
	if rk.Commitment(ResourceID{}, 0) == rk.Commitment(ResourceID{}, 0) {
		t.Error("a wiped key gives a commitment that can be matched")
	}
}

func TestZeroKeysDoNothing(t *testing.T) {
	var dk DocumentKey
	var rk RootKey
	var sk ServiceKey
	dk.Wipe()
	rk.Wipe()
	uses := keyUses(dk, rk)
	uses["service/Use"] = func() error { return sk.Use(func([]byte) error { return nil }) }
	uses["service/SealRow"] = func() error { _, err := sk.SealRow("t", Name{}, Name{}, nil); return err }
	uses["service/WrapKey"] = func() error { _, err := sk.WrapKey("l", nil); return err }
	wantUnusable(t, uses)
	if sk.Name("a", "b") == sk.Name("a", "b") {
		t.Error("the zero service key gives names")
	}
}

func wantUnusable(t *testing.T, uses map[string]func() error) {
	t.Helper()
	for name, use := range uses {
		if err := use(); !errors.Is(err, ErrWiped) && !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v, want ErrWiped or ErrOpen", name, err)
		}
	}
}

// A key that is wiped while it is used gives a right result or none: never one
// under a key half overwritten.
func TestWipeMayRaceWithUse(t *testing.T) {
	for range 50 {
		dk, rk := NewDocumentKey(), NewRootKey()
		kept := DocumentKey{secret: newSecret(bytes.Clone(dk.bytes()))}
		keptRoot := must(ParseRootKey(rk.bytes()))
		commitment := rk.Commitment(testPlace.Resource, 1)
		seg := must(NewSegment(dk, testSegment))

		var start, done sync.WaitGroup
		start.Add(1)
		for _, use := range []func(){
			func() {
				s, err := dk.SealObject(testPlace, KindObject, Name{1}, []byte("x"))
				if err == nil {
					_, err = kept.OpenObject(testPlace, KindObject, Name{1}, s)
				}
				if err != nil && !errors.Is(err, ErrWiped) {
					t.Errorf("SealObject: %v", err)
				}
			},
			func() {
				s, err := rk.WrapDocumentKey(dk, testPlace)
				if err == nil {
					var got DocumentKey
					got, _, err = keptRoot.UnwrapDocumentKey(s, testPlace.Resource, testPlace.Document)
					if err == nil && !bytes.Equal(got.bytes(), kept.bytes()) {
						t.Error("WrapDocumentKey: a key half overwritten was wrapped")
					}
				}
				if err != nil && !errors.Is(err, ErrWiped) {
					t.Errorf("WrapDocumentKey: %v", err)
				}
			},
			func() {
				rec, err := seg.Seal(1, 1, nil)
				if err == nil {
					_, err = must(OpenSegment(kept, testPlace, seg.Header())).Open(rec)
				}
				if err != nil && !errors.Is(err, ErrWiped) {
					t.Errorf("Seal: %v", err)
				}
			},
			func() { _ = dk.Name(KindObject, "x") },
			func() {
				if c := rk.Commitment(testPlace.Resource, 1); c != commitment && rk.usable() {
					t.Error("Commitment: a usable key gives another one")
				}
			},
			dk.Wipe,
			rk.Wipe,
		} {
			done.Go(func() {
				start.Wait()
				use()
			})
		}
		start.Done()
		done.Wait()
	}
}

func TestKeysRedactThemselves(t *testing.T) {
	raw := []byte("Zj8!xVq2^Wm5&Kp0*Ht7(Rc3)Lg6_Bd9")
	root, service := must(ParseRootKey(raw)), must(ParseServiceKey(raw))
	document := DocumentKey{secret: newSecret(bytes.Repeat(raw, 2))}

	type holder struct {
		Root     RootKey
		Service  ServiceKey
		Document *DocumentKey
		Any      any
		Many     []RootKey
		ByName   map[string]DocumentKey
	}
	type hider struct {
		root     RootKey
		service  *ServiceKey
		document DocumentKey
		many     []ServiceKey
		any      any
	}
	values := map[string]any{
		"RootKey": root, "ServiceKey": service, "DocumentKey": document, "Pointer": &root,
		"Slice": []DocumentKey{document},
		"Exported": holder{
			root, service, &document, root,
			[]RootKey{root},
			map[string]DocumentKey{"a": document},
		},
		"Unexported": hider{root, &service, document, []ServiceKey{service}, document},
		"PointerTo":  &hider{root, &service, document, []ServiceKey{service}, &document},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%X", "% x", "%s", "%q", "%d", "%o", "%b", "%c", "%U", "%p", "%t"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			j, err := json.Marshal(v)
			if err != nil {
				t.Errorf("JSON: %v", err)
			}
			out.Write(j)
			for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
				slog.New(h).Info("a key", "key", v, slog.Group("g", "key", v))
			}
			wantNoKey(t, out.String(), raw)
		})
	}
	for name, got := range map[string]string{
		"%v": fmt.Sprint(root), "%#v": fmt.Sprintf("%#v", document), "%x": fmt.Sprintf("%x", service),
		"String": root.String(), "GoString": root.GoString(), "LogValue": root.LogValue().String(),
		"MarshalText": string(must(service.MarshalText())), "nested": fmt.Sprint([]RootKey{root})[1:11],
	} {
		if got != redacted {
			t.Errorf("%s = %q, want %q", name, got, redacted)
		}
	}
	if got := string(must(json.Marshal(map[string]any{"k": document}))); got != `{"k":"[redacted]"}` {
		t.Errorf("JSON = %s", got)
	}
}

// wantNoKey looks for four bytes of the key in a row, in every notation at hand.
func wantNoKey(t *testing.T, out string, key []byte) {
	t.Helper()
	lower := strings.ToLower(out)
	for i := range len(key) - 3 {
		four := key[i : i+4]
		decimal := strings.Trim(fmt.Sprint(four), "[]")
		for notation, text := range map[string]string{
			"raw":     strings.ToLower(string(four)),
			"hex":     hex.EncodeToString(four),
			"spaced":  fmt.Sprintf("% x", four),
			"Go":      strings.Trim(fmt.Sprintf("%#v", four), "[]byte{}"),
			"decimal": decimal,
			"list":    strings.ReplaceAll(decimal, " ", ","),
		} {
			if strings.Contains(lower, text) {
				t.Errorf("the key shows in %s notation: %q", notation, text)
			}
		}
	}
	for shift := range 3 {
		if b := base64.RawStdEncoding.EncodeToString(key[shift : shift+6]); strings.Contains(out, b) {
			t.Errorf("the key shows in base64: %q", b)
		}
	}
}
