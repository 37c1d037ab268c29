package app

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/bench"
)

// The promises.
const (
	stopWithin = 60 * time.Second
	backWithin = 30 * time.Second
)

func TestScenario29DisablingTheKeyStopsTwentyTypists(t *testing.T) {
	scenario(t, func(w *world) { revokeTwentyTypists(t, w) })
}

func TestScenario30EnablingTheKeyBringsEverythingBack(t *testing.T) {
	scenario(t, func(w *world) {
		r, typists, d := revokeTwentyTypists(t, w)
		for _, y := range typists[3:] { // twenty that try for ten minutes would show nothing more
			y.leave()
		}
		stayed := typists[:3]
		time.Sleep(10 * time.Minute)
		w.enable(w.kek, true)
		took := w.eventually("the key is healthy", backWithin, func() bool { return r.is("Healthy", "") })
		t.Logf("back after %s", took)
		w.eventually("documents are served", backWithin-took, func() bool { return r.serves(d) })
		before := map[*typist]int{}
		for _, y := range stayed {
			acked, _ := y.seen()
			before[y] = len(acked)
		}
		time.Sleep(90 * time.Second) // clients wait as long as they were told
		for _, y := range stayed {
			if acked, _ := y.seen(); len(acked) == before[y] {
				t.Error("a typist did not come back")
			}
			y.leave()
		}
		wantAll(t, r.contents(d), typists...)
	})
}

// revokeTwentyTypists disables the key while twenty clients type, and checks that
// nothing is served 60 s later. The typists go on trying.
func revokeTwentyTypists(t *testing.T, w *world) (relayServer, []*typist, bench.Document) {
	r := w.newRelay("r1", w.kek)
	d := r.document()
	var typists []*typist
	for n := range 20 {
		typists = append(typists, r.join(d, string(rune('a'+n))))
	}
	time.Sleep(5 * time.Second)
	nothingWrong(t, typists...)
	w.enable(w.kek, false)
	took := w.eventually("nothing is served", stopWithin, func() bool { return r.deltas(d).status == 403 && r.latest(d).status == 403 })
	t.Logf("stopped after %s", took)
	var acked int
	for _, y := range typists {
		seen, wrong := y.seen()
		acked += len(seen)
		if !slices.ContainsFunc(wrong, func(e string) bool {
			return strings.Contains(e, "CMK_KEY_REVOKED:KeyDisabled") && strings.Contains(e, "503")
		}) {
			t.Errorf("a typist was told %q, want 503 with the reason", wrong)
		}
	}
	time.Sleep(2 * time.Minute)
	after := 0
	for _, y := range typists {
		seen, _ := y.seen()
		after += len(seen)
	}
	if after != acked {
		t.Errorf("%d ops were acknowledged after enforcement", after-acked)
	}
	if body := string(r.latest(d).body); !strings.Contains(body, "CMK_KEY_REVOKED:KeyDisabled") {
		t.Errorf("the body says %s, want the code and the reason", body)
	}
	return r, typists, d
}
