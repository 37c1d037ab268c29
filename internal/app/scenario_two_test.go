package app

import "testing"

// Two relays under different keys: what is sealed for one does not open for the other,
// and the key of one is no matter of the other's.
func TestScenario17TwoRelaysAreApart(t *testing.T) {
	scenario(t, func(w *world) {
		a, b := w.newRelay("a", w.kek), w.newRelay("b", w.newVersion("kv1", "other"))
		ours := a.document()
		var before [][]byte // what is stored of a's document, by kind
		kinds := []string{"header", "record", "object"}
		for _, kind := range kinds {
			w.store.Mutate(func(is string, raw []byte) []byte {
				if is == kind {
					before = append(before, raw)
				}
				return raw
			})
		}
		mine := map[string]bool{}
		for _, raw := range before {
			mine[string(raw)] = true
		}
		theirs := b.document()
		if !a.serves(ours) || !b.serves(theirs) {
			t.Fatal("they are not served to begin with")
		}
		w.stop() // so that nothing is in memory
		// Over b's objects, those of a.
		var objects [][]byte
		w.store.Mutate(func(is string, raw []byte) []byte {
			if is == "object" && mine[string(raw)] {
				objects = append(objects, raw)
			}
			return raw
		})
		w.store.Mutate(func(is string, raw []byte) []byte {
			if is == "object" && !mine[string(raw)] {
				return objects[0]
			}
			return raw
		})
		w.start()
		if status := b.latest(theirs).status; status == 200 {
			t.Error("b serves what was sealed for a")
		}
		if !a.serves(ours) {
			t.Error("a is not served")
		}
		w.enable(w.kek, false)
		a.becomes("Unusable", "KeyDisabled", stopWithin)
		if !b.is("Healthy", "") || !b.serves(b.document()) {
			t.Errorf("with a's key off, b is %+v", b.status())
		}
	})
}
