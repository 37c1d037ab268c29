package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
)

// testdata/v1.json was made by testdata/v1.py, which follows docs/formats/sealed.md
// and shares no code with this package. What is in it must open forever.
//
//go:embed testdata/v1.json
var v1JSON []byte

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type objectVector struct {
	Kind      Kind
	ID        string
	Name      hexBytes
	Plaintext string
	Sealed    hexBytes
}

type vectors struct {
	Keys  struct{ Service, Root, Document hexBytes }
	Place struct {
		Resource, Document hexBytes
		KeyID              hexBytes `json:"key_id"`
		Epoch              uint32
	}
	RootCommitment hexBytes `json:"root_commitment"`
	Row            struct {
		Table, ID, Plaintext    string
		Name, Partition, Sealed hexBytes
	}
	DocumentKey struct{ Sealed hexBytes } `json:"document_key"`
	Key         struct {
		Label, Plaintext string
		Sealed           hexBytes
	}
	Object          objectVector
	EmptyCheckpoint objectVector `json:"empty_checkpoint"`
	TwoChunks       struct {
		PlaintextBytes int `json:"plaintext_bytes"`
		SHA256         hexBytes
	} `json:"two_chunks"`
	Segments []struct {
		Header  hexBytes
		Links   []hexBytes
		Records []struct {
			First, Last uint64
			Plaintext   string
			Sealed      hexBytes
		}
	}
	NextRoot struct {
		Epoch             uint32
		Plaintext, Sealed hexBytes
	} `json:"next_root"`
	Retained struct {
		Key        hexBytes
		NextKey    hexBytes `json:"next_key"`
		Epoch      uint32
		Generation uint64
		Plaintext  string
		Sealed     hexBytes
	}
	Anchor struct {
		Term, Seq, Counter uint64
		Chain, Sealed      hexBytes
	}
}

func loadV1(t testing.TB) (v vectors) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(v1JSON))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v vectors) place() KeyPlace {
	return KeyPlace{
		Resource: ResourceID(v.Place.Resource),
		Document: DocumentHandle(v.Place.Document),
		KeyID:    KeyID(v.Place.KeyID),
		Epoch:    v.Place.Epoch,
	}
}

func (v vectors) documentKey() DocumentKey {
	return DocumentKey{secret: newSecret(bytes.Clone(v.Keys.Document))}
}

func (v vectors) rootKey(t testing.TB) RootKey {
	t.Helper()
	k, err := ParseRootKey(v.Keys.Root)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (v vectors) serviceKey(t testing.TB) ServiceKey {
	t.Helper()
	k, err := ParseServiceKey(v.Keys.Service)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSealed(t testing.TB, b []byte) Sealed {
	t.Helper()
	s, err := ParseSealed(b)
	if err != nil {
		t.Fatalf("ParseSealed: %v", err)
	}
	return s
}

func wantPlaintext(t *testing.T, got []byte, err error, want string) {
	t.Helper()
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestFormat1OpensForever(t *testing.T) {
	v := loadV1(t)
	dk, rk, sk, at := v.documentKey(), v.rootKey(t), v.serviceKey(t), v.place()

	t.Run("Row", func(t *testing.T) {
		if got := sk.Name(v.Row.Table, v.Row.ID); !bytes.Equal(got[:], v.Row.Name) {
			t.Errorf("Name = %x, want %x", got, v.Row.Name)
		}
		got, err := sk.OpenRow(v.Row.Table, Name(v.Row.Partition), Name(v.Row.Name), mustSealed(t, v.Row.Sealed))
		wantPlaintext(t, got, err, v.Row.Plaintext)
	})
	t.Run("Key", func(t *testing.T) {
		got, err := sk.UnwrapKey(v.Key.Label, v.Key.Sealed)
		wantPlaintext(t, got, err, v.Key.Plaintext)
	})
	t.Run("DocumentKey", func(t *testing.T) {
		got, place, err := rk.UnwrapDocumentKey(mustSealed(t, v.DocumentKey.Sealed), at.Resource, at.Document)
		if err != nil || place != at {
			t.Fatalf("got place %v, %v; want %v", place, err, at)
		}
		if !bytes.Equal(got.bytes(), v.Keys.Document) {
			t.Error("another key came out")
		}
	})
	t.Run("NextRootKey", func(t *testing.T) {
		got, err := rk.UnwrapNext(v.NextRoot.Sealed, at.Resource, v.NextRoot.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.bytes(), v.NextRoot.Plaintext) {
			t.Error("another key came out")
		}
	})
	t.Run("RetainedRootKey", func(t *testing.T) {
		key, err := ParseRetentionKey(v.Retained.Key)
		if err != nil {
			t.Fatal(err)
		}
		place := RootPlace{Resource: at.Resource, Epoch: v.Retained.Epoch, Generation: v.Retained.Generation}
		got, err := key.Open(place, v.Retained.Sealed)
		wantPlaintext(t, got, err, v.Retained.Plaintext)
		next, err := key.Next()
		if err != nil || !bytes.Equal(next.bytes(), v.Retained.NextKey) {
			t.Errorf("the key of the next day is another one, or %v", err)
		}
		if _, err := next.Open(place, v.Retained.Sealed); err != ErrOpen {
			t.Errorf("the key of the next day opens it: %v", err)
		}
	})
	t.Run("Anchor", func(t *testing.T) {
		want := Anchor{Term: v.Anchor.Term, Seq: v.Anchor.Seq, Chain: Chain(v.Anchor.Chain), Counter: v.Anchor.Counter}
		if got, err := dk.OpenAnchor(at, v.Anchor.Sealed); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		// Nothing in it is random: it is sealed to the same bytes.
		if got, err := dk.SealAnchor(at, want); err != nil || !bytes.Equal(got, v.Anchor.Sealed) {
			t.Errorf("sealed to %x, %v; want %x", got, err, v.Anchor.Sealed)
		}
	})
	t.Run("RootCommitment", func(t *testing.T) {
		if got := rk.Commitment(at.Resource, at.Epoch); !bytes.Equal(got[:], v.RootCommitment) {
			t.Errorf("got %x, want %x", got, v.RootCommitment)
		}
	})
	for name, o := range map[string]objectVector{"Object": v.Object, "EmptyCheckpoint": v.EmptyCheckpoint} {
		t.Run(name, func(t *testing.T) {
			if got := dk.Name(o.Kind, o.ID); !bytes.Equal(got[:], o.Name) {
				t.Errorf("Name = %x, want %x", got, o.Name)
			}
			s := mustSealed(t, o.Sealed)
			if s.Kind() != o.Kind {
				t.Errorf("Kind = %d, want %d", s.Kind(), o.Kind)
			}
			got, err := dk.OpenObject(at, o.Kind, Name(o.Name), s)
			wantPlaintext(t, got, err, o.Plaintext)
		})
	}
}

func TestFormat1SegmentsOpenForever(t *testing.T) {
	v := loadV1(t)
	for i, s := range v.Segments {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			h, err := ParseHeader(s.Header)
			if err != nil {
				t.Fatal(err)
			}
			r, err := OpenSegment(v.documentKey(), v.place(), h)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Chain(); !bytes.Equal(got[:], s.Links[0]) {
				t.Errorf("first link = %x, want %x", got, s.Links[0])
			}
			for j, want := range s.Records {
				rec, err := ParseRecord(want.Sealed)
				if err != nil {
					t.Fatal(err)
				}
				if rec.Index() != uint64(j) || rec.FirstSeq() != want.First || rec.LastSeq() != want.Last {
					t.Errorf("record %d is %d of ops %d to %d", j, rec.Index(), rec.FirstSeq(), rec.LastSeq())
				}
				got, err := r.Open(rec)
				wantPlaintext(t, got, err, want.Plaintext)
				if got := r.Chain(); !bytes.Equal(got[:], s.Links[j+1]) {
					t.Errorf("link %d = %x, want %x", j+1, got, s.Links[j+1])
				}
			}
			if i == 0 {
				return
			}
			before := v.Segments[i-1]
			if got := h.Place(); !bytes.Equal(got.Prev[:], before.Links[len(before.Links)-1]) || got.PrevRecords != uint64(len(before.Records)) {
				t.Errorf("place = %+v, does not continue the segment before", got)
			}
		})
	}
}

// An object of several chunks is too big for a file of vectors. So it is sealed
// here with the salt and nonces of v1.py, and its hash compared.
func TestFormat1ChunksOpenForever(t *testing.T) {
	v := loadV1(t)
	dk, at, name := v.documentKey(), v.place(), Name(v.Object.Name)
	plaintext := make([]byte, v.TwoChunks.PlaintextBytes)
	for i := range plaintext {
		plaintext[i] = byte(i * 7 % 251)
	}
	drawn := func(label string, size int) []byte {
		h := sha256.Sum256([]byte(label))
		return h[:size]
	}

	header := appendPlace(appendPreamble(nil, KindObject), at)
	header = binary.BigEndian.AppendUint64(header, uint64(len(plaintext)))
	header = append(header, drawn("big salt", 16)...)
	sealing, commitment, err := derive(v.Keys.Document[:32], header, [][]byte{name[:]})
	if err != nil {
		t.Fatal(err)
	}
	header = append(header, commitment...)
	block, err := aes.NewCipher(sealing)
	if err != nil {
		t.Fatal(err)
	}
	var gcm cipher.AEAD
	fips140.WithoutEnforcement(func() { gcm, err = cipher.NewGCM(block) })
	if err != nil {
		t.Fatal(err)
	}
	data := newChunkData(header, name)
	sealed := bytes.Clone(header)
	for i, chunk := range [][]byte{plaintext[:chunkBytes], plaintext[chunkBytes:]} {
		nonce := drawn(fmt.Sprintf("big nonce %d", i), 12)
		fips140.WithoutEnforcement(func() {
			sealed = gcm.Seal(append(sealed, nonce...), nonce, chunk, data.at(i, i == 1))
		})
	}

	if got := sha256.Sum256(sealed); !bytes.Equal(got[:], v.TwoChunks.SHA256) {
		t.Errorf("SHA-256 of the sealed object = %x, want %x", got, v.TwoChunks.SHA256)
	}
	got, err := dk.OpenObject(at, KindObject, name, mustSealed(t, sealed))
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("got %d bytes, %v; want the %d sealed", len(got), err, len(plaintext))
	}
}
