package app

import "testing"

func TestScenario01CreateWithTheArticlesPayload(t *testing.T) {
	scenario(t, func(w *world) {
		w.log.forget()
		r := w.newRelay("r1", w.kek)
		cmk := r.shown()
		if cmk["keyEncryptionKeyUrl"] != w.kek {
			t.Errorf("shown: %v, want the key URL %s", cmk, w.kek)
		}
		r.document()
		seen := map[string]bool{}
		for _, e := range w.uses() {
			if e.ObjectID != w.oid1 {
				t.Errorf("the vault was asked by %s, want id1 alone", e.ObjectID)
			}
			seen[e.Operation] = true
		}
		for _, op := range []string{"KeyGet", "KeyWrap", "KeyUnwrap"} {
			if !seen[op] {
				t.Errorf("the vault saw %v, want %s too", seen, op)
			}
		}
	})
}
