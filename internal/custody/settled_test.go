package custody

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// settling waits for d beside the test, and says how long that took and how it ended.
func settling(d *Document) <-chan error {
	done := make(chan error, 1)
	go func() { done <- d.Settled(context.Background()) }()
	return done
}

func (f *fixture) awaitState(id *Document, s State) {
	f.t.Helper()
	for limit := time.Now().Add(2 * time.Minute); f.Status(id.at.Resource).State != s; time.Sleep(time.Second) {
		if time.Now().After(limit) {
			f.t.Fatalf("status %+v, want %s", f.Status(id.at.Resource), s)
		}
	}
}

func TestSettledWaitsForTheConfirmation(t *testing.T) {
	for _, c := range []struct {
		name   string
		then   error // what the key store says after its first refusal
		reason string
		within time.Duration
	}{
		{"Cleared", nil, "", ConfirmAfter},
		{"Confirmed", errDisabled, reasonDisabled, ConfirmAfter},
		{"Silence", errSilent, reasonDisabled, suspicionAtMost},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				d := f.document(f.resource(pinned))
				if err := d.Settled(t.Context()); err != nil {
					t.Fatalf("while healthy: %v", err)
				}
				f.vault.set("*", errDisabled)
				f.awaitState(d, Suspect)
				start, done := time.Now(), settling(d)
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("did not wait: %v", err)
				default:
				}
				f.vault.set("*", c.then)
				err := <-done
				if took := time.Since(start); took > c.within+time.Second {
					t.Errorf("waited %s, want at most %s", took, c.within)
				}
				if c.reason == "" && err != nil {
					t.Errorf("got %v, want nil", err)
				} else if c.reason != "" {
					wantUnusable(t, err, c.reason)
				}
			})
		})
	}
}

func TestSettledEndsWithItsCallerAndWithTheKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		d := f.document(f.resource(pinned))
		f.vault.set("*", errDisabled)
		f.awaitState(d, Suspect)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Settled(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		done := settling(d)
		synctest.Wait()
		f.Keeper.Close()
		wantUnusable(t, <-done, reasonStopping)
	})
}
