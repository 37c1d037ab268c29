package custody

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func exampleRecord() *wrapRecord {
	r := envelope.ResourceID{1, 2, 3}
	return &wrapRecord{
		Version: 1, Resource: hex.EncodeToString(r[:]), Epoch: 1, Generation: 1,
		KeyURL: keyURL("").String(), KeyID: keyURL(version1).String(), Identity: identityA, Algorithm: "RSA-OAEP-256",
		Wrapped: bytes.Repeat([]byte{7}, 384), Commitment: bytes.Repeat([]byte{9}, 32),
		CreatedAt: time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC), RequestID: "r",
	}
}

func TestRecordIsReadAsWritten(t *testing.T) {
	b, err := exampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := decodeRecord(b, hosts)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	again, err := rec.encode()
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("encoded again: %s, %v; want %s", again, err, b)
	}
	if rec.kid != keyURL(version1) {
		t.Errorf("kid = %v", rec.kid)
	}
}

func TestRecordRefusesWhatItDoesNotKnow(t *testing.T) {
	good, err := exampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	set := func(field string, value any) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		m[field] = value
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"UnknownVersion":     set("version", 3),
		"UnknownField":       set("more", 1),
		"UnknownEpoch":       set("epoch", 2),
		"ShortResource":      set("resource", "00"),
		"NoGeneration":       set("generation", 0),
		"NoEpoch":            set("epoch", 0),
		"OldWithRetention":   set("retention", 20000),
		"HugeWrapped":        set("wrapped", make([]byte, maxWrapped+1)),
		"ShortCommitment":    set("commitment", make([]byte, 31)),
		"NoIdentity":         set("identity", ""),
		"KidWithoutVersion":  set("kid", keyURL("").String()),
		"KidElsewhere":       set("kid", "https://contoso.vault.attacker.test/keys/kek/"+version1),
		"KidOfAnotherKey":    set("kid", "https://contoso.vault.example.test/keys/other/"+version1),
		"ServiceWithAVault":  set("kid", "service"),
		"SomethingAfterward": append(bytes.Clone(good), '1'),
		"Cut":                good[:len(good)-1],
		"TooLong":            append(bytes.Clone(good), bytes.Repeat([]byte{' '}, maxRecordBytes)...),
		"Empty":              nil,
	} {
		if _, err := decodeRecord(b, hosts); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	good, err := exampleRecord().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"kid":"service"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := decodeRecord(b, hosts)
		if err != nil {
			return
		}
		encoded, err := rec.encode()
		if err != nil {
			t.Fatalf("read, but not written: %v", err)
		}
		again, err := decodeRecord(encoded, hosts)
		if err != nil {
			t.Fatalf("written, but not read: %v", err)
		}
		if twice, err := again.encode(); err != nil || !bytes.Equal(twice, encoded) {
			t.Fatalf("%s became %s (%v)", encoded, twice, err)
		}
	})
}

func TestTamperedWrapRecordIsRefused(t *testing.T) {
	f := newFixture(t)
	r, other := f.resource(pinned), f.resource(pinned)
	h := f.document(r).Handle()
	key := f.recordKey(r, currentID)
	good := f.store.at(key)
	put := func(b []byte) error {
		s, err := envelope.ParseSealed(b)
		if err != nil {
			return err
		}
		row := good
		row.Value = s
		f.store.put(row)
		f.restart()
		_, err = f.OpenDocument(t.Context(), r, h)
		return err
	}
	stored := good.Value.Bytes()
	for i := range stored {
		b := bytes.Clone(stored)
		b[i] ^= 1
		if err := put(b); err == nil {
			t.Fatalf("opened with byte %d flipped", i)
		}
	}
	for _, n := range []int{0, 1, len(stored) / 2, len(stored) - 1} {
		if err := put(stored[:n]); err == nil {
			t.Errorf("opened when cut to %d bytes", n)
		}
	}
	if err := put(f.store.at(f.recordKey(other, currentID)).Value.Bytes()); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("opened with the other resource's record: %v, want ErrCorrupt", err)
	}
	if err := put(stored); err != nil {
		t.Errorf("with the good record: %v", err)
	}
}

// Whoever has the public key can wrap a root key of his own; he who could even
// reseal the row is still told by the commitment.
func TestForgedRootKeyDoesNotMatchTheCommitment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r, other := f.resource(pinned), f.resource(pinned)
		h := f.document(r).Handle()
		healthy := f.document(other)
		rec, row, err := f.readRecord(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		genuine := rec.Wrapped
		rewrite := func(wrapped []byte) {
			rec.Wrapped = wrapped
			w, err := f.recordWrite(r, currentID, rec, store.AtRevision(row.Revision))
			if err == nil {
				err = f.store.WriteRows(t.Context(), []store.RowWrite{w})
			}
			if err != nil {
				t.Fatal(err)
			}
			row.Revision++
		}
		rewrite(fakeWrap(version1, make([]byte, 32)))
		f.restart()
		_, err = f.OpenDocument(t.Context(), r, h)
		if u := wantUnusable(t, err, reasonMismatch); !u.Revoked {
			t.Error("a forged key is no outage")
		}
		if s := f.Status(r); s.State != Unusable || s.Reason != reasonMismatch {
			t.Errorf("status = %+v, want Unusable KeyMismatch", s)
		}
		f.vault.addVersion(version2)
		if err := f.Update(t.Context(), r, toVersion2); !hasCode(err, codePreviousLost) {
			t.Errorf("update: %v, want %s", err, codePreviousLost)
		}
		rewrite([]byte("not wrapped at all"))
		f.restart()
		wantUnusable(t, f.Admit(t.Context(), r), reasonMismatch)

		// It is this resource's affair: another under the same key is served.
		d, err := f.OpenDocument(t.Context(), other, healthy.Handle())
		if err != nil {
			t.Fatalf("the other resource: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if err := d.Err(); err != nil {
			t.Errorf("the other resource's document: %v", err)
		}
		rewrite(genuine)
		f.restart()
		if err := f.Admit(t.Context(), r); err != nil {
			t.Errorf("with the genuine record: %v", err)
		}
	})
}
