package app

import (
	"bytes"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
)

type proofReport struct {
	State     string         `json:"state"`
	Rows      int            `json:"rows"`
	Documents int            `json:"documents"`
	Records   int            `json:"records"`
	Objects   int            `json:"objects"`
	KeyIDs    map[string]int `json:"documentsByKey"`
	Shredded  int            `json:"shreddedValues"`
	Unproven  map[string]int `json:"unprovenDocuments"`
	Failed    int            `json:"failed"`
	Failures  []string       `json:"failures"`
}

// prove walks through everything stored.
func (w *world) prove() (p proofReport) {
	w.t.Helper()
	provider := "/subscriptions/" + w.profile.SubscriptionID + "/providers/Microsoft.FluidRelay"
	w.want(200, w.arm("POST", provider+"/proveEncryption", preview, nil))
	w.eventually("the proof ends", time.Minute, func() bool {
		p = proofReport{}
		w.decode(w.want(200, w.arm("GET", provider+"/encryptionProof", preview, nil)), &p)
		return p.State != "Running"
	})
	return p
}

func (w *world) proveInside() (p custody.Proof) {
	w.t.Helper()
	if err := w.app.custody.StartProof(); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the proof ends", time.Minute, func() bool {
		p, _ = w.app.custody.LastProof()
		return !p.Ended.IsZero()
	})
	return p
}

func TestProveWalksEverything(t *testing.T) {
	scenario(t, func(w *world) {
		other := w.newVersion("kv1", "other")
		a, b := w.newRelay("a", w.kek), w.newRelay("b", other)
		plain := w.made("plain", w.put("plain", `{"location":"westus2"}`))
		d, _, _ := a.document(), b.document(), plain.document()
		y := a.join(d, "y")
		time.Sleep(20 * time.Second)
		p := w.prove() // with writers at work
		if p.State != "Proven" || p.Documents != 3 || p.Records < 10 || p.Objects < 3 || p.Rows < 10 || p.KeyIDs[w.kek] != 1 || p.KeyIDs[other] != 1 || p.KeyIDs["service"] != 1 {
			t.Errorf("proof %+v, want 3 documents under 3 keys", p)
		}
		y.leave()

		// What cannot be opened now is said, and is not called proven.
		w.enable(other, false)
		b.becomes("Unusable", "KeyDisabled", stopWithin)
		if p := w.prove(); p.State != "Incomplete" || p.Unproven["KeyDisabled"] == 0 || p.Failed > 0 {
			t.Errorf("with a disabled key: %+v, want it incomplete", p)
		}
		w.enable(other, true)
		b.becomes("Healthy", "", backWithin)
		if p := w.prove(); p.State != "Proven" {
			t.Errorf("with the key back: %+v", p)
		}

		// Anything else than sealed values in their places is found, each by itself.
		for _, what := range []string{"row", "header", "record", "object"} {
			for name, spoil := range map[string]func([]byte) []byte{
				"flipped":   func(raw []byte) []byte { raw = bytes.Clone(raw); raw[len(raw)-1] ^= 1; return raw },
				"plaintext": func([]byte) []byte { return []byte(`{"text":"what a client wrote"}`) },
			} {
				var undo []byte
				done := false
				w.store.Mutate(func(is string, raw []byte) []byte {
					if is != what || done {
						return raw
					}
					done, undo = true, raw
					return spoil(raw)
				})
				spoiled := spoil(undo)
				// Not over HTTP: the row may be one that a token is checked by.
				if p := w.proveInside(); p.Failed == 0 || len(p.Failures) == 0 || p.Whole() {
					t.Errorf("a %s that is %s: %+v, want it failed", what, name, p)
				}
				w.store.Mutate(func(is string, raw []byte) []byte {
					if is == what && bytes.Equal(raw, spoiled) {
						return undo
					}
					return raw
				})
			}
		}
		if p := w.prove(); p.State != "Proven" {
			t.Errorf("with all of it undone: %+v", p)
		}
	})
}
