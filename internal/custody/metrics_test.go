package custody

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/keystore"
)

// reading is what metrics of a keeper say: values, and sums of seconds.
type reading struct {
	states              map[string]float64
	probes              map[string]float64
	leaseAge            float64
	enforced, recovered uint64
	enforcedIn, backIn  float64
}

func (f *fixture) read() reading {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	r := reading{states: map[string]float64{}, probes: map[string]float64{}}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			switch family.GetName() {
			case "tidelock_custody_resources":
				r.states[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			case "tidelock_custody_probes_total":
				r.probes[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			case "tidelock_custody_lease_age_max_seconds":
				r.leaseAge = m.GetGauge().GetValue()
			case "cmk_revocation_to_enforcement_seconds":
				r.enforced, r.enforcedIn = m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()
			case "cmk_recovery_seconds":
				r.recovered, r.backIn = m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()
			}
		}
	}
	return r
}

// The time from the first refusal to the end of service, and from the last look that
// failed to its return, are measured, for each kind of refusal.
func TestRevocationIsMeasured(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				d := f.document(f.resource(pinned))
				time.Sleep(5 * time.Minute)
				if got := f.read(); got.states["Healthy"] != 1 || got.leaseAge > 24 || got.probes["proof"] < 12 || got.enforced+got.recovered != 0 {
					t.Errorf("healthy: %+v", got)
				}
				f.vault.set("*", c.err)
				refused := time.Now()
				<-d.Done()
				synctest.Wait()
				// Somewhat less than what the test sees: nobody asked at once.
				seen := time.Since(refused).Seconds()
				got := f.read()
				if got.states["Unusable"] != 1 || got.states["Healthy"] != 0 || got.leaseAge != 0 {
					t.Errorf("refused: %+v", got)
				}
				if got.enforced != 1 || got.enforcedIn > seen || got.enforcedIn < seen-ProbeEvery.Seconds()*1.2-ProbeTimeout.Seconds() {
					t.Errorf("%d revocations in %v s, want one in somewhat less than %v", got.enforced, got.enforcedIn, seen)
				}
				time.Sleep(time.Hour)
				f.vault.set("*", nil)
				time.Sleep(30 * time.Second)
				got = f.read()
				if got.states["Healthy"] != 1 || got.enforced != 1 || got.recovered != 1 || got.backIn > 30 {
					t.Errorf("back: %+v, want one recovery within 30 s", got)
				}
				f.Close()
			})
		})
	}
}

// An outage is no revocation, even when its grace is over; coming back from it is measured.
func TestOutageIsNoRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.document(f.resource(pinned))
		f.vault.set("*", &keystore.Error{Class: keystore.Unreachable})
		time.Sleep(Grace / 2)
		if got := f.read(); got.states["Unreachable"] != 1 || got.leaseAge != (Grace/2).Seconds() {
			t.Errorf("in its grace: %+v", got)
		}
		<-d.Done()
		synctest.Wait()
		if got := f.read(); got.enforced != 0 || got.states["Unusable"] != 1 {
			t.Errorf("after its grace: %+v, want no revocation", got)
		}
		f.vault.set("*", nil)
		time.Sleep(30 * time.Second)
		if got := f.read(); got.recovered != 1 || got.backIn > 30 || got.probes["outage"] == 0 {
			t.Errorf("back: %+v, want one recovery within 30 s", got)
		}
		f.Close()
	})
}

// A key that expires is enforced at that moment, without a look at the key store.
func TestExpiryIsMeasuredFromTheDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.vault.change(version1, func(k *keystore.Key) { k.Expires = time.Now().Add(10 * time.Minute) })
		d := f.document(f.resource(pinned))
		<-d.Done()
		synctest.Wait()
		if got := f.read(); got.enforced != 1 || got.enforcedIn > 1 {
			t.Errorf("%+v, want one revocation within a second", got)
		}
		f.Close()
	})
}
