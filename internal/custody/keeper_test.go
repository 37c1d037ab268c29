package custody

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

func TestServiceManagedKeyGoesTheSameWay(t *testing.T) {
	f := newFixture(t)
	r := f.resource(Settings{})
	d := f.document(r)
	o := mustSeal(t, d, "a", "text")
	h := d.Handle()
	f.restart()
	again, err := f.OpenDocument(t.Context(), r, h)
	if err != nil {
		t.Fatalf("open document: %v", err)
	}
	mustOpen(t, again, "a", o, "text")
	if s := f.Status(r); s.State != Healthy || s.KeyID != "service" {
		t.Errorf("status = %+v, want Healthy under service", s)
	}
	if n := f.vault.count(""); n != 0 {
		t.Errorf("%d calls to the vault, want none", n)
	}
	if err := f.Update(t.Context(), r, pinned); !hasCode(err, codeCannotEnable) {
		t.Errorf("update to a customer's key: %v, want %s", err, codeCannotEnable)
	}
}

func TestCustomerKeySurvivesRestart(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	d := f.document(r)
	o := mustSeal(t, d, "a", "text")
	h := d.Handle()
	f.restart()
	if s := f.Status(r); s.State != "" || s.KeyID != "" {
		t.Errorf("status before use = %+v, want zero", s)
	}
	again, err := f.OpenDocument(t.Context(), r, h)
	if err != nil {
		t.Fatalf("open document: %v", err)
	}
	mustOpen(t, again, "a", o, "text")
	if s := f.Status(r); s.State != Healthy || s.KeyID != keyURL(version1).String() {
		t.Errorf("status = %+v, want Healthy under version 1", s)
	}
	if _, err := again.OpenObject(envelope.KindObject, "b", o.Value); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("open under another name: %v, want ErrCorrupt", err)
	}
}

func TestUnknownResource(t *testing.T) {
	f := newFixture(t)
	if err := f.Admit(t.Context(), envelope.ResourceID{9}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("admit: %v, want ErrNotFound", err)
	}
}

// refusals: what the vault says, what the resource then is, and how soon.
var refusals = []struct {
	name   string
	err    error
	reason string
	within time.Duration
}{
	{"KeyDisabled", errDisabled, reasonDisabled, 60 * time.Second},
	{"PermissionRemoved", errDenied, reasonAccessDenied, 60 * time.Second},
	{"KeyDeleted", errNotFound, reasonDeleted, 60 * time.Second},
	{"VaultSaysItIsGone", errNoVault, reasonVaultDeleted, 60 * time.Second},
	{"HostNameGone", errNoHost, reasonVaultDeleted, 120 * time.Second},
	{"IdentityGone", errIdentity, reasonIdentity, 60 * time.Second},
	{"FirewallClosed", errFirewall, reasonFirewall, 60 * time.Second},
	{"UnknownRefusal", errStrange, reasonUnclassified, 60 * time.Second},
}

func TestRefusalStopsServiceAndAgreementRestoresIt(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				r := f.resource(pinned)
				d := f.document(r)
				o := mustSeal(t, d, "a", "text")
				time.Sleep(5 * time.Minute)
				mustOpen(t, d, "a", o, "text") // probes keep the lease

				f.mu.Lock()
				rootKey, documentKey := f.roots[r].key, d.key
				f.mu.Unlock()
				f.vault.set("*", c.err)
				start := time.Now()
				<-d.Done()
				if err := rootKey.Use(func([]byte) error { return nil }); !errors.Is(err, envelope.ErrWiped) {
					t.Errorf("use of the root key: %v, want ErrWiped", err)
				}
				if _, err := documentKey.SealObject(d.at, envelope.KindObject, envelope.Name{}, nil); !errors.Is(err, envelope.ErrWiped) {
					t.Errorf("use of the document key: %v, want ErrWiped", err)
				}
				if took := time.Since(start); took > c.within {
					t.Errorf("stopped after %s, want at most %s", took, c.within)
				}
				u := wantUnusable(t, d.Err(), c.reason)
				if !u.Revoked || u.Close || u.RetryAfter != 60*time.Second {
					t.Errorf("error = %+v, want Revoked, not Close, 60 s", u)
				}
				wantUnusable(t, f.Admit(t.Context(), r), c.reason)
				if _, err := d.SealObject(envelope.KindObject, "b", nil); err == nil {
					t.Error("sealed after the end")
				}

				time.Sleep(Hold)
				if u := wantUnusable(t, f.Admit(t.Context(), r), c.reason); !u.Close {
					t.Error("not Close after Hold")
				}

				f.vault.set("*", nil)
				start = time.Now()
				for f.Admit(t.Context(), r) != nil {
					time.Sleep(time.Second)
				}
				if took := time.Since(start); took > 30*time.Second {
					t.Errorf("back after %s, want at most 30 s", took)
				}
				again, err := f.OpenDocument(t.Context(), r, d.Handle())
				if err != nil {
					t.Fatalf("open again: %v", err)
				}
				mustOpen(t, again, "a", o, "text")
				if d.Err() == nil {
					t.Error("the ended document came back")
				}
			})
		})
	}
}

func TestDisabledShownByGetAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.document(f.resource(pinned))
		f.vault.change(version1, func(k *keystore.Key) { k.Enabled = false })
		start := time.Now()
		<-d.Done()
		if took := time.Since(start); took > time.Minute {
			t.Errorf("stopped after %s", took)
		}
		wantUnusable(t, d.Err(), reasonDisabled)
	})
}

func TestOneRefusalIsConfirmedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.set("*", errDenied)
		for f.Status(r).State == Healthy {
			time.Sleep(time.Second)
		}
		if s := f.Status(r); s.State != Suspect || s.Reason != reasonAccessDenied {
			t.Fatalf("status = %+v, want Suspect AccessDenied", s)
		}
		u := wantUnusable(t, f.Admit(t.Context(), r), reasonAccessDenied)
		if u.Revoked || !u.Checking || u.RetryAfter != 5*time.Second {
			t.Errorf("while suspect: %+v, want Checking, not Revoked, 5 s", u)
		}
		f.vault.set("*", nil)
		time.Sleep(ConfirmAfter + time.Second)
		if s := f.Status(r); s.State != Healthy {
			t.Errorf("status = %+v, want Healthy", s)
		}
		if err := d.Err(); err != nil {
			t.Errorf("the document ended: %v", err)
		}
	})
}

func TestOutageShorterThanGraceIsRiddenOut(t *testing.T) {
	for name, err := range map[string]error{"Silence": errSilent, "ServerErrors": errServer, "Throttling": errThrottle} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				r := f.resource(pinned)
				d := f.document(r)
				f.vault.set("*", err)
				for end := time.Now().Add(Grace - time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
					if err := d.Err(); err != nil {
						t.Fatalf("ended: %v", err)
					}
					if err := f.Admit(t.Context(), r); err != nil {
						t.Fatalf("not admitted: %v", err)
					}
				}
				if s := f.Status(r); s.State != Unreachable {
					t.Errorf("status = %+v, want Unreachable", s)
				}
				f.vault.set("*", nil)
				time.Sleep(RecoverEvery + time.Second)
				if s := f.Status(r); s.State != Healthy || d.Err() != nil {
					t.Errorf("status = %+v, document %v; want Healthy", s, d.Err())
				}
			})
		})
	}
}

// The obvious bug: each failed probe extends the lease from now, and an outage never ends.
func TestGraceRunsFromTheLastProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		time.Sleep(time.Minute)
		f.vault.set("*", errSilent)
		proof := f.Status(r).LastProof
		<-d.Done()
		if got := time.Since(proof); got > Grace+time.Second || got < Grace {
			t.Errorf("ended %s after the last proof, want %s", got, Grace)
		}
		u := wantUnusable(t, d.Err(), reasonUnreachable)
		if u.Revoked || u.RetryAfter != 30*time.Second {
			t.Errorf("error = %+v, want not Revoked, 30 s", u)
		}
		time.Sleep(2 * Hold)
		if u := wantUnusable(t, f.Admit(t.Context(), r), reasonUnreachable); u.Close {
			t.Error("an outage closed the clients")
		}
	})
}

func TestSilenceAfterARefusalIsNoGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.set("*", errDenied)
		start := time.Now()
		for f.Status(r).State == Healthy {
			time.Sleep(time.Second)
		}
		f.vault.set("*", errSilent)
		<-d.Done()
		if took := time.Since(start); took > time.Minute {
			t.Errorf("stopped after %s, want at most a minute", took)
		}
		wantUnusable(t, d.Err(), reasonAccessDenied)
	})
}

// One refusal within an outage takes back the grace that was granted before.
func TestSilenceAroundARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.set("*", errSilent)
		time.Sleep(3 * time.Minute)
		f.vault.set("*", errDenied)
		start := time.Now()
		for f.Status(r).State != Suspect {
			time.Sleep(time.Second)
		}
		f.vault.set("*", errSilent)
		<-d.Done()
		if took := time.Since(start); took > time.Minute {
			t.Errorf("stopped after %s, want at most a minute", took)
		}
		wantUnusable(t, d.Err(), reasonAccessDenied)
	})
}

func TestShortLossOfTheHostNameIsRiddenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.set("*", errNoHost)
		time.Sleep(confirmNoSuchHost)
		f.vault.set("*", nil)
		time.Sleep(time.Minute)
		if s := f.Status(r); s.State != Healthy || d.Err() != nil {
			t.Errorf("status = %+v, document %v; want Healthy", s, d.Err())
		}
	})
}

// What get says of a key counts, though unwrap works: so it is with an expired key.
func TestAttributesCountThoughUnwrapWorks(t *testing.T) {
	for reason, by := range map[string]func(*keystore.Key){
		reasonDisabled:    func(k *keystore.Key) { k.Enabled = false },
		reasonExpired:     func(k *keystore.Key) { k.Expires = time.Now().Add(-time.Hour) },
		reasonNotYetValid: func(k *keystore.Key) { k.NotBefore = time.Now().Add(time.Hour) },
	} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				d := f.document(f.resource(pinned))
				f.vault.lenient = true
				f.vault.change(version1, by)
				start := time.Now()
				<-d.Done()
				if took := time.Since(start); took > time.Minute {
					t.Errorf("stopped after %s, want at most a minute", took)
				}
				wantUnusable(t, d.Err(), reason)
			})
		})
	}
}

// Answers may arrive in another order than they were asked for.
func TestAProofOfYesterdayProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		time.Sleep(time.Second)
		asked := time.Now()
		time.Sleep(time.Second)
		learn := func(e evidence) State {
			f.mu.Lock()
			defer f.mu.Unlock()
			w := f.roots[r].watch
			w.learn(e)
			return w.state
		}
		learn(evidence{verdict: refusal, reason: reasonDisabled})
		if s := learn(evidence{verdict: proof, asked: asked}); s != Suspect {
			t.Errorf("state = %s, want Suspect", s)
		}
		time.Sleep(time.Second)
		if s := learn(evidence{verdict: proof, asked: time.Now()}); s != Healthy {
			t.Errorf("state = %s, want Healthy", s)
		}
	})
}

func TestALeaseThatRanOutIsNotProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLease(time.Now().Add(time.Second))
		l.set(time.Now().Add(2 * time.Second))
		time.Sleep(time.Second)
		if !l.valid() {
			t.Error("not prolonged in time")
		}
		time.Sleep(time.Second)
		l.set(time.Now().Add(time.Hour))
		if l.valid() {
			t.Error("prolonged afterwards")
		}
	})
}

func TestRefusalDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.document(f.resource(pinned))
		f.vault.set("*", errSilent)
		time.Sleep(5 * time.Minute)
		f.vault.set("*", errDisabled)
		start := time.Now()
		<-d.Done()
		if took := time.Since(start); took > time.Minute {
			t.Errorf("stopped after %s, want at most a minute", took)
		}
		wantUnusable(t, d.Err(), reasonDisabled)
	})
}

func TestExpiryCountsThoughUnwrapWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		expires := time.Now().Add(10 * time.Minute)
		f.vault.change(version1, func(k *keystore.Key) { k.Expires = expires })
		r := f.resource(pinned)
		d := f.document(r)
		<-d.Done()
		if late := time.Since(expires); late < 0 || late > time.Second {
			t.Errorf("ended %s after the expiry, want at most a second", late)
		}
		wantUnusable(t, d.Err(), reasonExpired)
		time.Sleep(time.Minute)
		wantUnusable(t, f.Admit(t.Context(), r), reasonExpired)
		f.restart()
		if err := f.Admit(t.Context(), r); err == nil {
			t.Error("admitted after a restart")
		}
		f.vault.change(version1, func(k *keystore.Key) { k.Expires = time.Now().Add(time.Hour) })
		time.Sleep(30 * time.Second)
		if err := f.Admit(t.Context(), r); err != nil {
			t.Errorf("after the expiry was moved: %v", err)
		}
	})
}

func TestExpiryDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		expires := time.Now().Add(5 * time.Minute)
		f.vault.change(version1, func(k *keystore.Key) { k.Expires = expires })
		d := f.document(f.resource(pinned))
		f.vault.set("*", errSilent)
		<-d.Done()
		if late := time.Since(expires); late < 0 || late > time.Second {
			t.Errorf("ended %s after the expiry, want at most a second", late)
		}
		wantUnusable(t, d.Err(), reasonExpired)
	})
}

func TestLosingGetAloneKeepsServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.set(opGet, errDenied)
		time.Sleep(10 * time.Minute)
		if s := f.Status(r); s.State != Warned || !warns(s, warnGetDenied) || d.Err() != nil {
			t.Errorf("status %+v, document %v; want a warning of %s", s, d.Err(), warnGetDenied)
		}
	})
}

func warns(s Status, code string) bool {
	return slices.ContainsFunc(s.Warnings, func(w Warning) bool { return w.Code == code })
}

// A prober that hangs cannot say that the lease is over. Nobody needs to.
func TestStuckProberEndsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		d := f.document(r)
		f.vault.mu.Lock()
		f.vault.hang = true
		f.vault.mu.Unlock()
		start := time.Now()
		<-d.Done()
		if took := time.Since(start); took > Lease {
			t.Errorf("ended after %s, want at most %s", took, Lease)
		}
		wantUnusable(t, d.Err(), reasonLease)
		f.vault.mu.Lock()
		f.vault.hang = false
		close(f.vault.release)
		f.vault.mu.Unlock()
		if err := f.Admit(t.Context(), r); err != nil {
			t.Errorf("after the prober went on: %v", err)
		}
	})
}

// After a pause, the first seal may come before any timer or prober runs.
func TestPausedProcessRefusesByTheClockAlone(t *testing.T) {
	f := newFixture(t)
	r := f.resource(pinned)
	d := f.document(r)
	o := mustSeal(t, d, "a", "text")
	w := d.NewWriter(store.Claim{Term: 1}, Tail{})
	f.mu.Lock()
	l := f.roots[r].watch.lease
	f.mu.Unlock()
	l.deadline.Store(int64(time.Since(l.base))) // as if the clock had jumped

	if _, err := w.Seal(1, 1, []byte("x")); err == nil {
		t.Error("sealed a record")
	} else {
		wantUnusable(t, err, reasonLease)
	}
	_, err := d.OpenObject(envelope.KindObject, "a", o.Value)
	wantUnusable(t, err, reasonLease)
	_, _, err = d.OpenRecords(store.Range{})
	wantUnusable(t, err, reasonLease)

	// A proof begins a new lease; what was open under the old one stays ended.
	if err := f.Admit(t.Context(), r); err != nil {
		t.Fatalf("admit: %v", err)
	}
	select {
	case <-d.Done():
	default:
		t.Error("the document of the old lease goes on")
	}
	again, err := f.OpenDocument(t.Context(), r, d.Handle())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	mustOpen(t, again, "a", o, "text")
}

func TestRestartInsideAnOutageServesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		f.restart()
		f.vault.set("*", errSilent)
		u := wantUnusable(t, f.Admit(t.Context(), r), reasonUnreachable)
		if u.Revoked {
			t.Error("an outage is no revocation")
		}
		f.vault.set("*", nil)
		time.Sleep(RecoverEvery + time.Second)
		if err := f.Admit(t.Context(), r); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	})
}

func TestOneProbeSpeaksForAllResourcesOfAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		var documents []*Document
		for range 50 {
			documents = append(documents, f.document(f.resource(pinned)))
		}
		before := f.vault.count(opUnwrap)
		time.Sleep(10 * time.Minute)
		probes := f.vault.count(opUnwrap) - before
		if probes < 24 || probes > 38 { // every 16 to 24 s
			t.Errorf("%d unwraps in 10 minutes, want one per 20 s ± 20 %%", probes)
		}
		f.vault.set("*", errDisabled)
		for _, d := range documents {
			<-d.Done()
		}
	})
}

func TestAuditNamesEachUseAndNoBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		r := f.resource(pinned)
		time.Sleep(time.Minute)
		f.restart()
		if err := f.Admit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		f.Keeper.Close()
		log := f.log.String()
		for _, want := range []string{"reason=create", "reason=probe", "reason=start", "op=wrapKey", "vault_request_id=r-unwrap", "identity=" + identityA, "kid=" + keyURL(version1).String()} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %q", want)
			}
		}
		if n := strings.Count(log, `msg="key use"`); n != len(f.vault.calls) {
			t.Errorf("%d uses in the log, %d at the vault", n, len(f.vault.calls))
		}
	})
}

func hasCode(err error, code string) bool {
	var c *CheckError
	return errors.As(err, &c) && c.has(code)
}
