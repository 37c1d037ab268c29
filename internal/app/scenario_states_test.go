package app

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/keystore/keystoretest"
)

// denial is a way to take a key away, and to give it back.
type denial struct {
	name         string
	revoke, undo func(w *world)
	reason       string
	within       time.Duration
}

var useKeys = []string{"get", "wrapKey", "unwrapKey"}

func denials() []denial {
	closed := func(p map[string]any) {
		p["networkAcls"] = map[string]any{"bypass": "None", "defaultAction": "Deny"}
	}
	open := func(p map[string]any) { delete(p, "networkAcls") }
	identity := func(w *world) string {
		return w.group() + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id1"
	}
	return []denial{
		{"KeyDeleted", func(w *world) { w.want(200, w.keys("DELETE", "kv1", "/keys/kek", nil)) },
			func(w *world) { w.want(200, w.keys("POST", "kv1", "/deletedkeys/kek/recover", nil)) }, "KeyDeleted", stopWithin},
		// The embedded vaults' way in makes a deleted vault a name that does not resolve.
		{"VaultDeleted", func(w *world) { w.want(200, w.arm("DELETE", w.vaultPath("kv1"), "2023-07-01", nil)) },
			func(w *world) {
				w.putVault("kv1", map[string]any{"location": location, "properties": map[string]any{"createMode": "recover", "tenantId": w.profile.DirectoryID, "sku": map[string]string{"family": "A", "name": "premium"}}})
			}, "VaultDeleted", 120 * time.Second},
		{"PolicyRemoved", func(w *world) { w.grant() },
			func(w *world) { w.grant(w.policy(w.oid1, useKeys...)) }, "AccessDenied", stopWithin},
		{"RBACRemoved", func(w *world) { w.faults.Set(keystoretest.AccessByRBAC) },
			func(w *world) { w.faults.SetFunc(nil) }, "AccessDenied", stopWithin},
		{"FirewallClosed", func(w *world) { w.changeVault(closed) }, func(w *world) { w.changeVault(open) }, "FirewallDenied", stopWithin},
		{"IdentityDeleted", func(w *world) { w.want(200, w.arm("DELETE", identity(w), "2023-01-31", nil)) },
			func(w *world) {
				_, w.oid1 = w.newIdentity("id1", location)
				w.grant(w.policy(w.oid1, useKeys...))
			}, "IdentityUnavailable", stopWithin},
	}
}

func TestScenario31EachDenialHasItsReasonAndIsUndone(t *testing.T) {
	for _, c := range denials() {
		t.Run(c.name, func(t *testing.T) {
			scenario(t, func(w *world) {
				r := w.newRelay("r1", w.kek)
				d := r.document()
				y := r.join(d, "y")
				time.Sleep(2 * time.Minute)
				nothingWrong(t, y)
				c.revoke(w)
				revoked := time.Now()
				r.becomes("Unusable", c.reason, c.within)
				if r.serves(d) || r.deltas(d).status != 403 {
					t.Error("data is served, or refused in another way than 403")
				}
				if s := r.status(); s.Fix == "" || s.Enforced == nil {
					t.Errorf("status %+v lacks what helps, or when keys were wiped", s)
				}
				t.Logf("stopped after %s", time.Since(revoked))
				y.leave()
				time.Sleep(3 * time.Minute)
				c.undo(w)
				undone := time.Now()
				r.becomes("Healthy", "", backWithin)
				t.Logf("back after %s", time.Since(undone))
				wantAll(t, r.contents(d), y)
			})
		})
	}
}

// A key that is fine and whose identity is lost is repaired by naming another identity.
func TestScenario31TheIdentityAloneIsRepaired(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.made("r1", w.put("r1", w.cmk(w.kek, w.id1, w.id2)))
		d := r.document()
		w.want(200, w.arm("DELETE", w.group()+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id1", "2023-01-31", nil))
		r.becomes("Unusable", "IdentityUnavailable", stopWithin)
		w.want(200, r.patch("", w.id2))
		if !r.is("Healthy", "") || !r.serves(d) {
			t.Errorf("after the repair: %+v", r.status())
		}
	})
}

func TestScenario32APurgedKeyIsTheEnd(t *testing.T) {
	scenario(t, func(w *world) {
		body := w.newVaultBody(location)
		delete(body["properties"].(map[string]any), "enablePurgeProtection")
		w.putVault("kv-bare", body)
		r := w.newRelay("r1", w.newVersion("kv-bare", "k"))
		d := r.document()
		w.want(200, w.keys("DELETE", "kv-bare", "/keys/k", nil))
		r.becomes("Unusable", "KeyDeleted", stopWithin)
		w.want(204, w.keys("DELETE", "kv-bare", "/deletedkeys/k", nil))
		r.becomes("Unusable", "KeyPurged", backWithin)
		if s := r.status(); !strings.Contains(s.Fix, "unrecoverable") {
			t.Errorf("it says %q, want that the data is unrecoverable", s.Fix)
		}
		w.newVersion("kv-bare", "k") // a new key of the same name helps nobody
		w.pause(48 * time.Hour)
		r.becomes("Unusable", "KeyPurged", stopWithin)
		if r.serves(d) {
			t.Error("data is served")
		}
		w.want(200, w.arm("GET", r.path, released, nil))
		w.want(200, w.arm("DELETE", r.path, released, nil))
		w.want(404, w.arm("GET", r.path, released, nil))
	})
}

func TestScenario33ExpiryIsWarnedOfAndBlocks(t *testing.T) {
	scenario(t, func(w *world) {
		end := time.Now().Add(31 * 24 * time.Hour)
		w.attributes(w.kek, fmt.Sprintf(`{"exp":%d}`, end.Unix()))
		pinned := w.newRelay("pinned", w.kek)
		followed := w.newVersion("kv1", "followed")
		w.attributes(followed, fmt.Sprintf(`{"exp":%d}`, end.Unix()))
		follows := w.newRelay("follows", versionless(followed))
		d := pinned.document()
		next := w.newVersion("kv1", "followed")
		for _, days := range []int{30, 14, 7, 3, 1} {
			w.pause(time.Until(end.Add(-time.Duration(days)*24*time.Hour)) - 2*time.Minute) // a little before, then over it
			w.log.forget()
			time.Sleep(2*time.Minute + 30*time.Second)
			if !w.log.has(fmt.Sprintf(`"kid":%q,"days":%d,`, w.kek, days)) {
				t.Errorf("no warning %d days before", days)
			}
			if s := pinned.status(); s.State != "Warning" || !s.warns("KeyExpiresSoon") {
				t.Errorf("%d days before: status %+v, want a warning", days, s)
			}
		}
		w.pause(time.Until(end) - 10*time.Minute)
		time.Sleep(5 * time.Minute)
		if !pinned.serves(d) {
			t.Error("it was not served until the end")
		}
		time.Sleep(10 * time.Minute)
		pinned.becomes("Unusable", "KeyExpired", time.Second)
		if pinned.serves(d) {
			t.Error("data is served under an expired key")
		}
		if s := follows.status(); s.State != "Healthy" || s.KeyID != next {
			t.Errorf("the one that follows is %+v, want Healthy under the newest version", s)
		}
		w.attributes(w.kek, fmt.Sprintf(`{"exp":%d}`, time.Now().Add(100*24*time.Hour).Unix()))
		pinned.becomes("Healthy", "", backWithin)
	})
}

// outages are what a network and a vault in trouble do. None is a word about the key.
var outages = map[string]func(*http.Request) keystoretest.Fault{
	"Timeout":     always(keystoretest.Fault{Delay: time.Minute}),
	"HalfOpen":    always(keystoretest.HalfOpen),
	"Reset":       always(keystoretest.Fault{Err: keystoretest.ErrDropped}),
	"CutOff":      always(keystoretest.Fault{Cut: 10}),
	"Drips":       always(keystoretest.Fault{Drip: time.Second}),
	"TLS":         always(keystoretest.Strange),
	"ServFail":    always(keystoretest.Fault{Err: keystoretest.ServFail}),
	"Throttled":   always(keystoretest.Throttled),
	"Unavailable": always(keystoretest.Unavailable),
	"WrongBody":   always(keystoretest.Fault{Body: "<html>It works!</html>"}),
	"OtherKey":    always(keystoretest.Fault{Body: `{"kid":"https://kv1.vault.tidelock.localhost:8443/keys/other/00000000000000000000000000000000","value":"AAAA"}`}),
}

func always(f keystoretest.Fault) func(*http.Request) keystoretest.Fault {
	return func(*http.Request) keystoretest.Fault { return f }
}

func TestScenario34AnOutageIsRiddenOut(t *testing.T) {
	for name, fault := range outages {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(w *world) {
				r := w.newRelay("r1", w.kek)
				d := r.document()
				y := r.join(d, "y")
				time.Sleep(time.Minute)
				w.faults.SetFunc(fault)
				r.becomes("Unreachable", "UnreachableTimeout", stopWithin)
				if s := r.status(); s.Grace == nil || time.Until(*s.Grace) > 15*time.Minute || time.Until(*s.Grace) < 13*time.Minute {
					t.Errorf("the deadline is %v, want at most 15 minutes after the last proof", s.Grace)
				}
				// The key's settings cannot be changed meanwhile; that is no fault of the request's.
				answer := r.patch(versionless(w.kek), "")
				if e := w.refusedWith(answer, "VaultUnreachable"); answer.status != 409 {
					t.Errorf("an update got %d %+v, want 409", answer.status, e)
				}
				time.Sleep(10 * time.Minute)
				w.faults.SetFunc(nil)
				r.becomes("Healthy", "", backWithin)
				time.Sleep(time.Minute)
				y.leave()
				nothingWrong(t, y)
				wantAll(t, r.contents(d), y)
			})
		})
	}
}

// Bursts of every kind, one after the other: nothing of it is a refusal.
func TestScenario34BurstsOfEveryKind(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		y := r.join(d, "y")
		for range 3 {
			for _, fault := range outages {
				w.faults.SetFunc(fault)
				time.Sleep(50 * time.Second)
				w.faults.SetFunc(nil)
				time.Sleep(25 * time.Second)
			}
		}
		y.leave()
		nothingWrong(t, y)
		wantAll(t, r.contents(d), y)
		if w.log.has(`"to":"Suspect"`) {
			t.Error("an outage was taken for a refusal")
		}
	})
}

func TestScenario35AnOutageBeyondTheGrace(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		y := r.join(d, "y")
		time.Sleep(time.Minute)
		w.faults.Set(keystoretest.Fault{Err: keystoretest.ErrDropped})
		start := time.Now()
		r.becomes("Unreachable", "UnreachableTimeout", stopWithin)
		r.becomes("Unusable", "UnreachableTimeout", 16*time.Minute)
		if took := r.status().Enforced.Sub(start); took < 14*time.Minute || took > 15*time.Minute {
			t.Errorf("served for %s of the outage, want 15 minutes from the last proof", took)
		}
		retriable := func() {
			t.Helper()
			for _, answer := range []reply{r.deltas(d), r.latest(d)} {
				if answer.status != 503 || answer.header.Get("Retry-After") == "" || !strings.Contains(string(answer.body), "CMK_KEY_UNREACHABLE") {
					t.Errorf("refused with %d %s, want 503, when to try again, and CMK_KEY_UNREACHABLE", answer.status, answer.body)
				}
			}
		}
		retriable()
		_, wrong := y.seen()
		if slices.ContainsFunc(wrong, func(e string) bool { return strings.Contains(e, "403") }) {
			t.Errorf("a client was told %q: its container is closed", wrong)
		}
		y.leave()
		w.pause(0) // the new process has no key, and gets none
		retriable()
		w.faults.SetFunc(nil)
		w.eventually("it heals by itself", backWithin, func() bool { return r.serves(d) })
		wantAll(t, r.contents(d), y)
	})
}

// Without a grace an outage counts like a refusal, when the lease is over.
func TestScenario35NoGrace(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		time.Sleep(time.Minute)
		w.faults.Set(keystoretest.Fault{Err: keystoretest.ErrDropped})
		r.becomes("Unusable", "UnreachableTimeout", stopWithin)
	}, func(c *Config) { c.Keys.Grace = -1 })
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		w.faults.Set(keystoretest.Fault{Err: keystoretest.ErrDropped})
		time.Sleep(23*time.Hour + 59*time.Minute)
		if s := r.status(); s.State != "Unreachable" {
			t.Errorf("after a day less a minute: %+v, want Unreachable", s)
		}
		r.becomes("Unusable", "UnreachableTimeout", 2*time.Minute)
	}, func(c *Config) { c.Keys.Grace = 24 * time.Hour })
}

func TestScenario46WhatNeedsNoKeyWorksWithoutIt(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d, other := r.document(), r.document()
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		w.want(200, w.arm("POST", r.path+"/listKeys", released, nil))
		w.want(200, w.arm("POST", r.path+"/regenerateKey", released, `{"keyName":"key2"}`))
		w.want(200, w.arm("DELETE", r.path+"/fluidRelayContainers/"+d.ID, released, nil))
		w.enable(w.kek, true)
		r.becomes("Healthy", "", backWithin)
		if _, err := w.endpoint(r).Discover(w.t.Context(), d.ID); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("a document that was deleted meanwhile is found: %v, want 404", err)
		}
		if status := r.latest(d).status; status != 404 {
			t.Errorf("its summary is answered with %d, want 404", status)
		}
		if !r.serves(other) {
			t.Error("the other document is not served")
		}
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		w.want(200, w.arm("DELETE", r.path, released, nil))
		w.want(404, w.arm("GET", r.path, released, nil))
		if answer := r.latest(other); answer.status == 200 || answer.status >= 500 {
			t.Errorf("a document of a deleted relay is answered with %d %s", answer.status, answer.body)
		}
	})
}

// After an hour, clients that were held are closed.
func TestHeldClientsAreClosedAfterAnHour(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		told := func() string {
			_, err := w.tryJoin(r, d)
			return fmt.Sprint(err)
		}
		if says := told(); !strings.Contains(says, "503") {
			t.Errorf("in the first hour a client is told %q, want 503", says)
		}
		w.pause(30 * time.Minute) // the hour is not begun anew
		time.Sleep(31 * time.Minute)
		if says := told(); !strings.Contains(says, "403") {
			t.Errorf("after the hour a client is told %q, want 403", says)
		}
	})
}

// Or at once, where the operator says so; but not by a drill.
func TestNobodyIsHeldWhereTheOperatorSaysSo(t *testing.T) {
	scenario(t, func(w *world) {
		r := w.newRelay("r1", w.kek)
		d := r.document()
		w.want(200, w.arm("POST", r.path+"/drillEncryption", preview, nil))
		r.becomes("Unusable", "Drill", stopWithin)
		if _, err := w.tryJoin(r, d); !strings.Contains(fmt.Sprint(err), "503") {
			t.Errorf("in a drill a client is told %v, want 503", err)
		}
		w.eventually("the drill ends", 2*time.Minute, func() bool { return r.drill().State != "Running" })
		w.enable(w.kek, false)
		r.becomes("Unusable", "KeyDisabled", stopWithin)
		if _, err := w.tryJoin(r, d); !strings.Contains(fmt.Sprint(err), "403") {
			t.Errorf("a client is told %v, want 403", err)
		}
	}, func(c *Config) { c.Keys.Hold = -1 })
}

// TestStateTable has a row for each event of the state table of a relay's key that is
// not one of the scenarios above.
func TestStateTable(t *testing.T) {
	on := func(method, part string, f keystoretest.Fault) func(*http.Request) keystoretest.Fault {
		return func(r *http.Request) keystoretest.Fault {
			if r.Method == method && strings.Contains(r.URL.Path, part) {
				return f
			}
			return keystoretest.Fault{}
		}
	}
	for _, c := range []struct {
		name          string
		follows       bool // the key URL names no version
		event         func(w *world)
		state, reason string
		warns         string
		within        time.Duration
		serves        bool
	}{
		{name: "Disabled", event: func(w *world) { w.enable(w.kek, false) }, state: "Unusable", reason: "KeyDisabled", within: stopWithin},
		{name: "DisabledByUnwrapAlone", event: func(w *world) { w.faults.SetFunc(on("POST", "/unwrapkey", keystoretest.KeyDisabled)) }, state: "Unusable", reason: "KeyDisabled", within: stopWithin},
		{name: "Expired", event: func(w *world) { w.attributes(w.kek, fmt.Sprintf(`{"exp":%d}`, time.Now().Unix())) }, state: "Unusable", reason: "KeyExpired", within: stopWithin},
		{name: "NotYetValid", event: func(w *world) {
			w.attributes(w.kek, fmt.Sprintf(`{"nbf":%d}`, time.Now().Add(time.Hour).Unix()))
		}, state: "Unusable", reason: "KeyNotYetValid", within: stopWithin},
		{name: "VaultNotFoundSaid", event: func(w *world) {
			w.faults.Set(keystoretest.Fault{Status: 404, Code: "VaultNotFound", Text: "The vault was not found."})
		}, state: "Unusable", reason: "VaultDeleted", within: stopWithin},
		{name: "NoSuchHost", event: func(w *world) { w.faults.Set(keystoretest.Fault{Err: keystoretest.NoSuchHost}) }, state: "Unusable", reason: "VaultDeleted", within: 120 * time.Second},
		{name: "PolicyOfEachKind", event: func(w *world) { w.faults.Set(keystoretest.AccessByPolicy) }, state: "Unusable", reason: "AccessDenied", within: stopWithin},
		{name: "UnwrapAloneMissing", event: func(w *world) { w.grant(w.policy(w.oid1, "get", "wrapKey")) }, state: "Unusable", reason: "AccessDenied", within: stopWithin},
		{name: "GetAloneMissing", event: func(w *world) { w.grant(w.policy(w.oid1, "wrapKey", "unwrapKey")) }, state: "Warning", warns: "GetDenied", within: time.Minute, serves: true},
		{name: "WrapAloneMissing", event: func(w *world) { w.grant(w.policy(w.oid1, "get", "unwrapKey")) }, state: "Warning", warns: "WrapDenied", within: 70 * time.Minute, serves: true},
		{name: "UnknownRefusal", event: func(w *world) { w.faults.Set(keystoretest.UnknownRefusal) }, state: "Unusable", reason: "AccessDeniedUnclassified", within: stopWithin},
		{name: "TokenRefused", event: func(w *world) {
			w.faults.Set(keystoretest.Fault{Status: 401, Code: "Unauthorized", Header: http.Header{"Www-Authenticate": {`Bearer authorization="https://login.test/x", resource="https://vault.azure.net"`}}})
		}, state: "Unusable", reason: "IdentityUnavailable", within: stopWithin},
		{name: "PrivateLinkOnly", event: func(w *world) { w.faults.Set(keystoretest.PrivateOnly) }, state: "Unusable", reason: "FirewallDenied", within: stopWithin},
		{name: "OtherMaterial", event: func(w *world) {
			w.faults.SetFunc(func(r *http.Request) keystoretest.Fault {
				if strings.Contains(r.URL.Path, "/unwrapkey") {
					return keystoretest.Fault{Body: fmt.Sprintf(`{"kid":%q,"value":%q}`, w.kek, strings.Repeat("A", 43))}
				}
				return keystoretest.Fault{}
			})
		}, state: "Unusable", reason: "KeyMismatch", within: stopWithin},
		{name: "NewVersionDisabled", follows: true, event: func(w *world) { w.enable(w.newVersion("kv1", "kek"), false) }, state: "Warning", warns: "NewVersionUnusable", within: 70 * time.Minute, serves: true},
		{name: "NewVersionExpired", follows: true, event: func(w *world) { w.newKey("kv1", "kek", `{"kty":"RSA","attributes":{"exp":915148800}}`) }, state: "Warning", warns: "NewVersionUnusable", within: 70 * time.Minute, serves: true},
		{name: "NewVersionOfAnotherType", follows: true, event: func(w *world) { w.newKey("kv1", "kek", `{"kty":"EC","crv":"P-256"}`) }, state: "Warning", warns: "NewVersionUnusable", within: 70 * time.Minute, serves: true},
		{name: "OneRefusalAlone", event: func(w *world) {
			n := 0
			w.faults.SetFunc(func(r *http.Request) keystoretest.Fault {
				if strings.Contains(r.URL.Path, "/unwrapkey") {
					if n++; n == 1 {
						return keystoretest.AccessDenied
					}
				}
				return keystoretest.Fault{}
			})
			w.eventually("it is suspected", time.Minute, func() bool { return w.log.has(`"to":"Suspect"`) })
		}, state: "Healthy", within: backWithin, serves: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			scenario(t, func(w *world) {
				url := w.kek
				if c.follows {
					url = versionless(url)
				}
				r := w.newRelay("r1", url)
				d := r.document()
				time.Sleep(5 * time.Minute)
				c.event(w)
				r.becomes(c.state, c.reason, c.within)
				if r.serves(d) != c.serves {
					t.Errorf("served: %t, want %t", !c.serves, c.serves)
				}
				s := r.status()
				if c.warns != "" && !s.warns(c.warns) {
					t.Errorf("warnings %+v, want %s", s.Warnings, c.warns)
				}
				if c.state == "Unusable" && s.Fix == "" {
					t.Errorf("it is not said what helps against %s", s.Reason)
				}
			})
		})
	}
}
