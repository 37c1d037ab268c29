package app

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/keystore/keystoretest"
)

func TestScenario15PurgeProtectionCanBeRequired(t *testing.T) {
	unprotected := func(w *world) string {
		body := w.newVaultBody(location)
		delete(body["properties"].(map[string]any), "enablePurgeProtection")
		w.putVault("kv-bare", body)
		return w.newVersion("kv-bare", "k")
	}
	scenario(t, func(w *world) {
		key := unprotected(w)
		w.refusedWith(w.put("r1", w.cmk(key, w.id1)), "PurgeProtectionRequired")
		// A vault without soft delete is none of this server's, but others may be so.
		w.faults.SetFunc(func(r *http.Request) keystoretest.Fault {
			if r.Method != http.MethodGet {
				return keystoretest.Fault{}
			}
			return keystoretest.Fault{Body: fmt.Sprintf(`{"key":{"kid":%q,"kty":"RSA","n":"%s","e":"AQAB","key_ops":["wrapKey","unwrapKey"]},"attributes":{"enabled":true,"recoveryLevel":"Purgeable"}}`,
				w.kek, strings.Repeat("gICA", 85)+"gA")}
		})
		w.refusedWith(w.put("r1", w.cmk(w.kek, w.id1)), "SoftDeleteRequired", "PurgeProtectionRequired")
	}, func(c *Config) { c.Keys.RequirePurgeProtection = true })
	scenario(t, func(w *world) { // by default it is a warning
		r := w.newRelay("r1", unprotected(w))
		if s := r.status(); s.State != "Warning" || !s.warns("PurgeProtectionOff") {
			t.Errorf("status %+v, want a warning of PurgeProtectionOff", s)
		}
	})
}

// versionsUsed are the key versions that were wrapped or unwrapped with.
func (w *world) versionsUsed() map[string]bool {
	found := map[string]bool{}
	for _, e := range w.uses() {
		if e.Operation == "KeyWrap" || e.Operation == "KeyUnwrap" {
			found[e.KeyID] = true
		}
	}
	return found
}

func TestScenario18APinnedVersionStays(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		w.log.forget()
		next := w.newVersion("kv1", "kek")
		for range 3 { // days, an hour of each with the server running
			time.Sleep(time.Hour)
			w.pause(23 * time.Hour)
		}
		w.eventually("the newer version is seen", time.Minute, func() bool { return r.status().Newer == next })
		if used := w.versionsUsed(); len(used) != 1 || !used[w.kek] {
			t.Errorf("used were %v, want %s alone", used, w.kek)
		}
		if s := r.status(); s.KeyID != w.kek || s.Rotation != "Pinned" || s.State != "Healthy" {
			t.Errorf("status %+v, want Healthy and pinned to %s", s, w.kek)
		}
	})
}

// atRest counts the values of documents that are stored, byte by byte.
func (w *world) atRest() map[string]int {
	found := map[string]int{}
	w.store.Mutate(func(what string, raw []byte) []byte {
		if what != "row" {
			found[what+string(raw)]++
		}
		return raw
	})
	return found
}

func TestScenario19PatchToAnotherVersion(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		y := r.join(d, "y")
		time.Sleep(3 * time.Second)
		next := w.newVersion("kv1", "kek")
		before, atRest := r.shown(), w.atRest()
		w.want(200, r.patch(next, ""))
		for value, n := range w.atRest() {
			if had := atRest[value]; had > 0 && n != had {
				t.Error("a stored value was doubled")
			}
			delete(atRest, value)
		}
		if len(atRest) > 0 {
			t.Errorf("%d stored values of documents were changed or removed", len(atRest))
		}
		after := r.shown()
		if after["keyEncryptionKeyUrl"] != next || fmt.Sprint(after["keyEncryptionKeyIdentity"]) != fmt.Sprint(before["keyEncryptionKeyIdentity"]) {
			t.Errorf("shown: %v, want only the URL changed", after)
		}
		if s := r.status(); s.KeyID != next {
			t.Errorf("the root key is under %s, want %s", s.KeyID, next)
		}
		time.Sleep(3 * time.Second)
		y.leave()
		nothingWrong(t, y)
		wantAll(t, r.contents(d), y)
	})
}

func TestScenario20APinnedVersionIsDisabledOrDeleted(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		w.newVersion("kv1", "kek")
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
	})
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		w.want(200, w.keys("DELETE", "kv1", "/keys/kek", nil))
		r.becomes("Unusable", "KeyDeleted", stopWithin)
		if s := r.status(); s.Recoverable == nil || time.Until(*s.Recoverable) < 80*24*time.Hour {
			t.Errorf("recoverableUntil is %v, want some 90 days from now", s.Recoverable)
		}
	})
}

func TestScenario21AVersionlessURLFollows(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", versionless(w.kek))
		d := r.document()
		time.Sleep(5 * time.Minute) // the first look is over
		y := r.join(d, "y")
		next := w.newVersion("kv1", "kek")
		took := w.eventually("the new version is adopted", 90*time.Minute, func() bool { return r.status().KeyID == next })
		t.Logf("after %s", took)
		y.leave()
		nothingWrong(t, y)
		if shown := r.shown()["keyEncryptionKeyUrl"]; shown != versionless(w.kek) {
			t.Errorf("GET shows %v, want the URL as it was configured", shown)
		}
		if !w.log.has(`"msg":"root key rewrapped","from":"` + w.kek + `","to":"` + next) {
			t.Error("the log does not name both versions")
		}
		if s := r.status(); len(s.Previous) != 1 || s.Previous[0].KeyID != w.kek || s.Previous[0].SafeToDisable {
			t.Errorf("previous versions %+v, want %s, not yet safe to disable", s.Previous, w.kek)
		}
		w.pause(25 * time.Hour)
		if s := r.status(); len(s.Previous) != 1 || !s.Previous[0].SafeToDisable {
			t.Errorf("a day later previous versions are %+v, want it safe to disable", s.Previous)
		}
		w.enable(w.kek, false)
		time.Sleep(5 * time.Minute)
		if !r.is("Healthy", "") || !r.serves(d) {
			t.Errorf("with the old version disabled: %+v", r.status())
		}
	})
}

func TestScenario22TheRelayNeverMakesOrChangesKeys(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", versionless(w.kek))
		w.log.forget()
		for range 12 { // months, the first minutes of each with the server running
			time.Sleep(10 * time.Minute)
			w.pause(30 * 24 * time.Hour)
		}
		allowed := map[string]bool{"KeyGet": true, "KeyWrap": true, "KeyUnwrap": true}
		for _, e := range w.uses() {
			if !allowed[e.Operation] || e.Status != 200 {
				t.Fatalf("the vault was asked for %s (%d)", e.Operation, e.Status)
			}
		}
		if s := r.status(); s.KeyID != w.kek {
			t.Errorf("the root key is under %s, want %s as ever", s.KeyID, w.kek)
		}
	})
}

func TestScenario23TheOldVersionIsDisabledAtOnce(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", versionless(w.kek))
		d := r.document()
		y := r.join(d, "y")
		time.Sleep(5 * time.Second)
		next := w.newVersion("kv1", "kek")
		w.enable(w.kek, false)
		w.eventually("the root key is rescued", stopWithin, func() bool { return r.status().KeyID == next })
		time.Sleep(2 * time.Minute)
		if !r.is("Healthy", "") || !r.serves(d) {
			t.Errorf("status %+v", r.status())
		}
		y.leave()
		nothingWrong(t, y)
		wantAll(t, r.contents(d), y)
	})
}

func TestScenario24TheQuotaOfAutomaticVersions(t *testing.T) {
	scenario(t, func(w *world) {
		w.newRelay("r1", versionless(w.kek))
		r := w.newRelay("r2", w.kek)
		e := w.refusedWith(r.patch(versionless(w.kek), ""), "AutoKeyVersionQuotaExceeded")
		if !strings.Contains(e.Message, "name a key version") {
			t.Errorf("message %q does not tell to pin", e.Message)
		}
		w.refusedWith(w.put("r3", w.cmk(versionless(w.kek), w.id1)), "AutoKeyVersionQuotaExceeded")
		if r.shown()["keyEncryptionKeyUrl"] != w.kek || !r.is("Healthy", "") {
			t.Errorf("the resource is %v, %+v; want it as it was", r.shown(), r.status())
		}
		w.want(200, r.patch(w.newVersion("kv1", "kek"), ""))
		w.want(200, w.arm("PATCH", w.relayPath("r1"), released, `{"properties":{"encryption":{}},"identity":{}}`)) // has its place
	}, func(c *Config) { c.AutoKeyVersionQuota = 1 })
}

func TestScenario25TheVersionBeforeMustWork(t *testing.T) {
	for _, c := range []struct {
		code        string
		spoil, mend func(w *world)
	}{
		{"PreviousKeyDisabled", func(w *world) { w.enable(w.kek, false) }, func(w *world) { w.enable(w.kek, true) }},
		{
			"PreviousKeyExpired", func(w *world) { w.attributes(w.kek, fmt.Sprintf(`{"exp":%d}`, time.Now().Unix()-1)) },
			func(w *world) { w.attributes(w.kek, fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())) },
		},
		{
			"PreviousKeyInaccessible", func(w *world) { w.want(200, w.keys("DELETE", "kv1", "/keys/kek", nil)) },
			func(w *world) { w.want(200, w.keys("POST", "kv1", "/deletedkeys/kek/recover", nil)) },
		},
	} {
		scenario(t, func(w *world) {
			r := w.newRelay("r1", w.kek)
			other := w.newVersion("kv1", "other")
			before := w.arm("GET", r.path, released, nil)
			c.spoil(w)
			e := w.refusedWith(r.patch(other, ""), c.code)
			if !strings.Contains(e.Message, w.kek) {
				t.Errorf("message %q does not name the version", e.Message)
			}
			if after := w.arm("GET", r.path, released, nil); string(after.body) != string(before.body) {
				t.Errorf("a refused update changed %s to %s", before.body, after.body)
			}
			c.mend(w)
			w.want(200, r.patch(other, ""))
			if s := r.status(); s.KeyID != other {
				t.Errorf("the root key is under %s, want %s", s.KeyID, other)
			}
		})
	}
}

func TestScenario26ANewKeyMustMeetEveryPrerequisite(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		for _, c := range []struct{ url, code string }{
			{w.newKey("kv1", "ec", `{"kty":"EC","crv":"P-256"}`), "KeyTypeNotRsa"},
			{w.newKey("kv1", "off", `{"kty":"RSA","attributes":{"enabled":false}}`), "KeyDisabled"},
			{w.newKey("kv1", "old", `{"kty":"RSA","attributes":{"exp":915148800}}`), "KeyExpired"},
			{w.newKey("kv1", "early", `{"kty":"RSA","attributes":{"nbf":4000000000}}`), "KeyNotYetValid"},
			{w.newKey("kv1", "signs", `{"kty":"RSA","key_ops":["sign"]}`), "KeyOpsMissing"},
			{versionless(w.kek) + "-none", "KeyNotFound"},
			{versionless(w.kek) + "/" + strings.Repeat("0", 32), "KeyVersionNotFound"},
			{strings.Replace(w.kek, "//kv1.", "//kv-none.", 1), "VaultNotFound"},
		} {
			w.refusedWith(r.patch(c.url, ""), c.code)
			if s := r.status(); s.KeyID != w.kek || !r.serves(d) {
				t.Errorf("%s: the root key is under %s, want %s, and its data served", c.code, s.KeyID, w.kek)
			}
		}
	})
}

func TestScenario27AnotherIdentity(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.made("r1", w.put("r1", w.cmk(w.kek, w.id1, w.id2)))
		d := r.document()
		w.want(200, r.patch("", w.id2))
		w.grant(w.policy(w.oid2, "get", "wrapKey", "unwrapKey")) // the old one has nothing any more
		w.log.forget()
		time.Sleep(5 * time.Minute)
		for _, e := range w.uses() {
			if e.ObjectID != w.oid2 {
				t.Errorf("the vault was asked by %s, want id2 alone", e.ObjectID)
			}
		}
		if len(w.uses()) == 0 || !r.is("Healthy", "") || !r.serves(d) {
			t.Errorf("status %+v", r.status())
		}
	})
}

func TestScenario28AKeyInAnotherVault(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		w.putVault("kv2", w.newVaultBody(location))
		other := w.newVersion("kv2", "k")
		w.want(200, r.patch(other, ""))
		if s := r.status(); len(s.Previous) != 1 || s.Previous[0].SafeToDisable {
			t.Errorf("just after the move: %+v, want the old version not yet safe to disable", s.Previous)
		}
		w.pause(25 * time.Hour)
		w.eventually("the old version is safe to disable", time.Minute, func() bool {
			s := r.status()
			return len(s.Previous) == 1 && s.Previous[0].KeyID == w.kek && s.Previous[0].SafeToDisable
		})
		w.want(200, w.arm("DELETE", w.vaultPath("kv1"), "2023-07-01", nil))
		w.log.forget()
		time.Sleep(3 * time.Hour)
		for used := range w.versionsUsed() {
			if used != other {
				t.Errorf("%s was used, want %s alone", used, other)
			}
		}
		if !r.is("Healthy", "") || !r.serves(d) {
			t.Errorf("without the old vault: %+v", r.status())
		}
	})
}

func TestScenario47ConcurrentAndNeedlessUpdates(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		a, b := w.newVersion("kv1", "a"), w.newVersion("kv1", "b")
		var wg sync.WaitGroup
		answers := make([]reply, 2)
		w.arm("GET", r.path, released, nil) // so that both have a token
		for n, url := range []string{a, b} {
			wg.Go(func() { answers[n] = r.patch(url, "") })
		}
		wg.Wait()
		shown, kid := r.shown()["keyEncryptionKeyUrl"], r.status().KeyID
		if shown != kid || kid != a && kid != b {
			t.Errorf("shown is %v and the root key is under %s; the answers were %d and %d", shown, kid, answers[0].status, answers[1].status)
		}
		for _, answer := range answers {
			if answer.status != 200 && answer.status != 409 {
				t.Errorf("an update ended with %d: %s", answer.status, answer.body)
			}
		}
		generations := len(w.history(r))
		w.want(200, r.patch(kid, ""))
		if n := len(w.history(r)); n != generations {
			t.Errorf("an update to the same URL wrapped anew: %d records, were %d", n, generations)
		}
		w.want(200, w.arm("PATCH", r.path, released, `{"tags":{"a":"b"}}`))
		w.enable(kid, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		w.want(200, w.arm("PATCH", r.path, released, `{"tags":{"a":"c"}}`))
		w.enable(kid, true)
		r.becomes("Healthy", "", backWithin)
		if !r.serves(d) {
			t.Error("its data is not served")
		}
	})
}

// history are the wrap records of a relay.
func (w *world) history(r relayServer) []any {
	w.t.Helper()
	var found struct {
		Value []any `json:"value"`
	}
	w.decode(w.want(200, w.arm("GET", r.path+"/encryptionHistory", preview, nil)), &found)
	return found.Value
}

func TestScenario48PinnedVersionlessAndBack(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		next := w.newVersion("kv1", "kek")
		for _, c := range []struct{ url, rotation, kid string }{
			{w.kek, "Pinned", w.kek},
			{versionless(w.kek), "Automatic", next},
			{w.kek, "Pinned", w.kek},
		} {
			w.want(200, r.patch(c.url, ""))
			if s := r.status(); s.Rotation != c.rotation || s.KeyID != c.kid {
				t.Errorf("after %s: %s under %s, want %s under %s", c.url, s.Rotation, s.KeyID, c.rotation, c.kid)
			}
			w.pause(0) // what is stored says so, too
			w.eventually(c.rotation+" after a restart", time.Minute, func() bool {
				s := r.status()
				return s.Rotation == c.rotation && s.KeyID == c.kid
			})
			if r.shown()["keyEncryptionKeyUrl"] != c.url || !r.serves(d) {
				t.Errorf("after %s: shown is %v", c.url, r.shown())
			}
		}
	})
}
