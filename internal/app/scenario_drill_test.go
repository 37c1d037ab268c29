package app

import (
	"strings"
	"testing"
	"time"
)

// drillReport is what encryptionDrill says.
type drillReport struct {
	State          string   `json:"state"`
	Failure        string   `json:"failure"`
	EnforceSeconds *float64 `json:"secondsToEnforce"`
	RecoverSeconds *float64 `json:"secondsToRecover"`
	Kept           *bool    `json:"promiseKept"`
	Documents      int      `json:"documentsEnded"`
}

func (r relayServer) drill() (d drillReport) {
	r.w.t.Helper()
	r.w.decode(r.w.want(200, r.w.arm("GET", r.path+"/encryptionDrill", preview, nil)), &d)
	return d
}

func TestScenario43TheDrill(t *testing.T) {
	scenario(t, func(w *world) {
		r, other := w.newRelay("r1", w.kek), w.newRelay("r2", w.kek)
		d, theirs := r.document(), other.document()
		y, z := r.join(d, "y"), other.join(theirs, "z")
		time.Sleep(time.Minute)
		w.want(404, w.arm("GET", r.path+"/encryptionDrill", preview, nil))
		w.want(200, w.arm("POST", r.path+"/drillEncryption", preview, `{"holdSeconds":20}`))
		w.want(409, w.arm("POST", r.path+"/drillEncryption", preview, nil)) // one at a time
		r.becomes("Unusable", "Drill", stopWithin)
		if r.serves(d) || !other.serves(theirs) {
			t.Errorf("served: %t, and the other relay's %t; want only that", r.serves(d), other.serves(theirs))
		}
		w.eventually("the drill ends", 2*time.Minute, func() bool { return r.drill().State != "Running" })
		report := r.drill()
		if report.State != "Ended" || report.Kept == nil || !*report.Kept || report.Documents != 1 || *report.EnforceSeconds < 5 || *report.EnforceSeconds > 60 || *report.RecoverSeconds > 30 {
			t.Errorf("report %+v", report)
		}
		t.Logf("enforced after %.1f s, recovered after %.1f s", *report.EnforceSeconds, *report.RecoverSeconds)
		if !r.is("Healthy", "") || !r.serves(d) {
			t.Errorf("afterwards the key is %+v", r.status())
		}
		time.Sleep(time.Minute)
		y.leave()
		z.leave()
		nothingWrong(t, z)
		wantAll(t, r.contents(d), y)
		uses := w.arm("GET", "/subscriptions/"+w.profile.SubscriptionID+"/providers/Microsoft.FluidRelay/keyUses", preview, nil)
		for _, part := range []string{`"code":"DrillBegun"`, `"code":"DrillEnded"`, `"note":"enforced after`} {
			if !strings.Contains(string(uses.body), part) {
				t.Errorf("the log of key uses has no %s", part)
			}
		}
		// The key itself goes on being watched: a real refusal stops both.
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		other.becomes("Unusable", "KeyDisabled", stopWithin)
		e := w.want(409, w.arm("POST", r.path+"/drillEncryption", preview, nil)).refused(t)
		if e.Code != "DrillRefused" {
			t.Errorf("a drill without a key is refused with %+v", e)
		}
	})
}

func TestScenario43ADrillDoesNotOutliveItsProcess(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		w.want(200, w.arm("POST", r.path+"/drillEncryption", preview, `{"holdSeconds":600}`))
		r.becomes("Unusable", "Drill", stopWithin)
		w.pause(0)
		r.becomes("Healthy", "", time.Minute)
		if !r.serves(d) {
			t.Error("data is not served")
		}
	})
	scenario(t, func(w *world) { // nor a change of the key's settings
		r := w.newRelay("r1", w.kek)
		w.want(200, w.arm("POST", r.path+"/drillEncryption", preview, nil))
		w.want(200, r.patch(w.newVersion("kv1", "kek"), ""))
		if !r.is("Healthy", "") || r.drill().State != "Failed" {
			t.Errorf("the key is %+v, the drill %+v; want Healthy, and cut off", r.status(), r.drill())
		}
	})
	scenario(t, func(w *world) { // a refusal that is real goes before
		r := w.newRelay("r1", w.kek)
		w.want(200, w.arm("POST", r.path+"/drillEncryption", preview, `{"holdSeconds":1}`))
		r.becomes("Unusable", "Drill", stopWithin)
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		w.enable(w.kek, true)
		r.becomes("Healthy", "", backWithin)
	})
}

func TestAvailability(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		health := func() (state, reason string) {
			var found struct {
				Properties struct {
					State  string `json:"availabilityState"`
					Reason string `json:"reasonType"`
				} `json:"properties"`
			}
			w.decode(w.want(200, w.arm("GET", r.path+"/providers/Microsoft.ResourceHealth/availabilityStatuses/current", "2022-10-01", nil)), &found)
			return found.Properties.State, found.Properties.Reason
		}
		if state, _ := health(); state != "Available" {
			t.Errorf("state %s, want Available", state)
		}
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		if state, reason := health(); state != "Unavailable" || reason != "Customer Initiated" {
			t.Errorf("state %s (%s), want Unavailable, by the customer", state, reason)
		}
		all := w.want(200, w.arm("GET", w.group()+"/providers/Microsoft.ResourceHealth/availabilityStatuses", "2022-10-01", nil))
		if !strings.Contains(string(all.body), "/availabilityStatuses/current") {
			t.Errorf("the group's list is %s", all.body)
		}
		w.want(400, w.arm("GET", w.vaultPath("kv1")+"/providers/Microsoft.ResourceHealth/availabilityStatuses/current", "2022-10-01", nil))
	})
}

func TestKeyImpact(t *testing.T) {
	scenario(t, func(w *world) {
		w.newRelay("pinned", w.kek)
		w.newRelay("follows", versionless(w.kek))
		time.Sleep(time.Minute)
		impact := func(version string) map[string]string {
			var found struct {
				Value []struct {
					ID     string `json:"id"`
					Effect string `json:"effect"`
				} `json:"value"`
			}
			path := "https://" + managementAddr + "/subscriptions/" + w.profile.SubscriptionID + "/providers/Microsoft.FluidRelay/keyImpact?api-version=" + preview + "&keyVersion=" + version
			w.decode(w.want(200, w.send("GET", path, w.token("https://management.azure.com"), nil)), &found)
			effects := map[string]string{}
			for _, f := range found.Value {
				effects[f.ID[strings.LastIndexByte(f.ID, '/')+1:]] = f.Effect
			}
			return effects
		}
		version := w.kek[strings.LastIndexByte(w.kek, '/')+1:]
		if got := impact(version); got["pinned"] != "Stops" || got["follows"] != "Stops" || len(got) != 2 {
			t.Errorf("the newest version: %v, want both to stop", got)
		}
		w.enable(w.newVersion("kv1", "kek"), false)
		time.Sleep(70 * time.Minute)
		if got := impact(w.kek); got["follows"] != "Stops" {
			t.Errorf("with a newer version that cannot be used: %v, want it to stop", got)
		}
		if got := impact(strings.Repeat("0", 32)); len(got) != 0 {
			t.Errorf("a version that nobody uses: %v", got)
		}
	})
}
