package app

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// drillReport is what encryptionDrill says.
type drillReport struct {
	State          string   `json:"state"`
	Failure        string   `json:"failure"`
	EnforceSeconds *float64 `json:"secondsToEnforce"`
	RecoverSeconds *float64 `json:"secondsToRecover"`
	Kept           *bool    `json:"promiseKept"`
	Documents      int      `json:"documentsEnded"`
	Signed         string   `json:"signedReport"`
}

func (r relayServer) drill() (d drillReport) {
	r.w.t.Helper()
	r.w.decode(r.w.want(200, r.w.arm("GET", r.path+"/encryptionDrill", preview, nil)), &d)
	return d
}

// checkSigned verifies a report as an auditor would: with the keys that the installation
// publishes, and code that is not ours.
func (r relayServer) checkSigned(want drillReport) {
	w := r.w
	w.t.Helper()
	var set struct {
		Keys []struct{ Kid, N, E string }
	}
	w.decode(w.want(200, w.send("GET", "https://"+managementAddr+"/common/discovery/v2.0/keys", "", nil)), &set)
	number := func(text string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			w.t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	find := func(t *jwt.Token) (any, error) {
		for _, k := range set.Keys {
			if k.Kid == t.Header["kid"] {
				return &rsa.PublicKey{N: number(k.N), E: int(number(k.E).Int64())}, nil
			}
		}
		return nil, errors.New("no such key")
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}))
	var said jwt.MapClaims
	if _, err := parser.ParseWithClaims(want.Signed, &said, find); err != nil {
		w.t.Fatalf("the signed report: %v", err)
	}
	if said["relay"] != r.path || said["keyIdentifier"] != w.kek || said["secondsToEnforce"] != *want.EnforceSeconds || said["secondsToRecover"] != *want.RecoverSeconds || said["promiseKept"] != true {
		w.t.Errorf("signed %v, want what the report says: %+v", said, want)
	}
	// Another number of seconds is not signed.
	parts := strings.Split(want.Signed, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		w.t.Fatal(err)
	}
	altered := strings.Replace(string(payload), `"secondsToEnforce":`, `"secondsToEnforce":1`, 1)
	if _, err := parser.Parse(parts[0]+"."+base64.RawURLEncoding.EncodeToString([]byte(altered))+"."+parts[2], find); err == nil {
		w.t.Error("an altered report verifies")
	}
	// It is no token.
	if got := w.send("GET", "https://"+managementAddr+r.path+"?api-version="+released, want.Signed, nil); got.status != 401 {
		w.t.Errorf("a report as a token: status %d, want 401", got.status)
	}
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
		r.checkSigned(report)
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
