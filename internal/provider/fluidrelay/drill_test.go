package fluidrelay

import (
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
)

// A drill's report says that the promise was kept only if it measured that.
func TestDrillReportOfThePromise(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	drill := func(enforced, recovered time.Duration) custody.Drill {
		d := custody.Drill{Started: start, Ended: true}
		if enforced > 0 {
			d.Enforced, d.Permitted = start.Add(enforced), start.Add(time.Hour)
		}
		if recovered > 0 {
			d.Recovered = d.Permitted.Add(recovered)
		}
		return d
	}
	for name, c := range map[string]struct {
		drill custody.Drill
		kept  bool
	}{
		"Kept":          {drill(enforceWithin, recoverWithin), true},
		"EnforcedLate":  {drill(enforceWithin+time.Millisecond, recoverWithin), false},
		"RecoveredLate": {drill(enforceWithin, recoverWithin+time.Millisecond), false},
		"NotEnforced":   {drill(0, 0), false},
		"NotRecovered":  {drill(enforceWithin, 0), false},
	} {
		if w := newWireDrill(server{}, c.drill); w.Kept == nil || *w.Kept != c.kept {
			t.Errorf("%s: %+v, want promiseKept %t", name, w, c.kept)
		}
	}
	running := drill(enforceWithin, recoverWithin)
	running.Ended = false
	if w := newWireDrill(server{}, running); w.Kept != nil {
		t.Error("the promise is judged while the drill runs")
	}
}
