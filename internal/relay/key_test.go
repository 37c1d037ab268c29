package relay

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/sequencer"
	"github.com/tidelock/tidelock/internal/store"
)

const vaultKeyURL = "https://contoso.vault.example.test/keys/kek"

var vaultHosts = keystore.Hosts{Suffixes: []string{"vault.example.test"}}

// switchVault is a key store with one key, which can be switched off.
type switchVault struct {
	mu  sync.Mutex
	off keystore.Class // 0: on
}

func (v *switchVault) set(off keystore.Class) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.off = off
}

func (v *switchVault) answer(op string, key keystore.URL) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.off == 0 {
		return nil
	}
	return &keystore.Error{Class: v.off, Op: op, Key: key, Status: 403}
}

func (v *switchVault) version() keystore.URL {
	u, err := keystore.ParseURL(vaultKeyURL+"/"+strings.Repeat("1", 32), vaultHosts)
	if err != nil {
		panic(err)
	}
	return u
}

func (v *switchVault) Describe(_ context.Context, key keystore.URL) (keystore.Key, error) {
	if err := v.answer("get", key); err != nil {
		return keystore.Key{}, err
	}
	return keystore.Key{ID: v.version(), Type: "RSA", Bits: 3072, Operations: []string{"wrapKey", "unwrapKey"}, Enabled: true, RecoveryLevel: "Recoverable"}, nil
}

func (v *switchVault) Wrap(_ context.Context, key keystore.URL, material []byte) (keystore.Wrapped, error) {
	if err := v.answer("wrapKey", key); err != nil {
		return keystore.Wrapped{}, err
	}
	return keystore.Wrapped{ID: v.version(), Algorithm: keystore.Algorithm, Value: append([]byte("wrapped:"), material...)}, nil
}

func (v *switchVault) Deleted(_ context.Context, key keystore.URL) (keystore.Deleted, error) {
	return keystore.Deleted{}, &keystore.Error{Class: keystore.NotFound, Key: key}
}

func (v *switchVault) Unwrap(_ context.Context, w keystore.Wrapped) ([]byte, string, error) {
	if err := v.answer("unwrapKey", w.ID); err != nil {
		return nil, "", err
	}
	return append([]byte(nil), w.Value[len("wrapped:"):]...), "", nil
}

func keyBubble(t *testing.T, f func(t *testing.T, r *rig, v *switchVault)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := &switchVault{}
		runRig(t, v, func(t *testing.T, r *rig) { f(t, r, v) })
	})
}

// connectErrorOf sends a connect_document and returns the refusal, which must come.
func (c *client) connectErrorOf(body map[string]any) connectError {
	c.t.Helper()
	c.emit("connect_document", body)
	var e connectError
	if err := json.Unmarshal(c.await("connect_document_error").args[0], &e); err != nil {
		c.t.Fatal(err)
	}
	return e
}

func (c *client) awaitNack() nackMessage {
	c.t.Helper()
	var list []nackMessage
	if err := json.Unmarshal(c.await("nack").args[1], &list); err != nil || len(list) != 1 {
		c.t.Fatalf("nack: %v, %d in it", err, len(list))
	}
	return list[0]
}

// A disabled key stops its documents within a minute; enabled again, everything
// is back within half of one, with every op.
func TestKeyDisabledAndEnabled(t *testing.T) {
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		id := r.create()
		a := r.join(id)
		a.submit("before")
		a.awaitMine(1)

		off := time.Now()
		v.set(keystore.Disabled)
		nack := a.awaitNackWithin(t, time.Minute)
		if got, want := nack.Content, (nackContent{503, throttling, "CMK_KEY_REVOKED:KeyDisabled", 60}); got != want {
			t.Errorf("nack %+v, want %+v", got, want)
		}
		a.awaitEnd()
		if took := time.Since(off); took > time.Minute {
			t.Errorf("stopped after %v, want at most a minute", took)
		}

		b := r.dial()
		refused := b.connectErrorOf(connectBody(id, r.token(id), "write"))
		want := connectError{Code: 503, Message: "CMK_KEY_REVOKED:KeyDisabled", CanRetry: true, RetryAfter: 60, RetryAfterMS: 60000}
		if refused != want {
			t.Errorf("connect: %+v, want %+v", refused, want)
		}

		time.Sleep(custody.Hold)
		b = r.dial() // the old socket had no document for too long
		refused = b.connectErrorOf(connectBody(id, r.token(id), "write"))
		if want := (connectError{Code: 403, Message: "CMK_KEY_REVOKED:KeyDisabled"}); refused != want {
			t.Errorf("connect after an hour: %+v, want %+v", refused, want)
		}
		b.close()

		v.set(0)
		time.Sleep(30 * time.Second)
		c := r.join(id)
		c.submit("after")
		c.awaitMine(1)
		ops := r.log(id)
		checkOrder(t, "log", ops)
		if got := strings.Join(contentsOf(t, ops), ","); got != "before,after" {
			t.Errorf("log has %q, want before,after", got)
		}
		c.close()
	})
}

// awaitNackWithin is awaitNack for as long as d.
func (c *client) awaitNackWithin(t *testing.T, d time.Duration) nackMessage {
	t.Helper()
	limit := time.Now().Add(d)
	for time.Now().Before(limit) {
		select {
		case e := <-c.events:
			if e.name != "nack" {
				continue
			}
			var list []nackMessage
			if err := json.Unmarshal(e.args[1], &list); err != nil {
				t.Fatal(err)
			}
			return list[0]
		case <-time.After(time.Until(limit)):
		}
	}
	t.Fatalf("no nack within %v", d)
	panic("unreachable")
}

// An outage of the key store is ridden out, then clients are told to wait.
func TestKeyStoreUnreachable(t *testing.T) {
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		id := r.create()
		a := r.join(id)
		v.set(keystore.Unreachable)
		time.Sleep(sequencer.ClientTimeout - time.Minute)
		a.submit("in grace")
		a.awaitMine(1)
		nack := a.awaitNackWithin(t, custody.Grace)
		if got, want := nack.Content, (nackContent{503, throttling, "CMK_KEY_UNREACHABLE", 30}); got != want {
			t.Errorf("nack %+v, want %+v", got, want)
		}
		a.awaitEnd()
	})
}

// A batch that became durable after the key was lost is not shown.
func TestKeyLostDuringAppend(t *testing.T) {
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		id := r.create()
		a := r.join(id)
		synctest.Wait()
		gate := make(chan struct{})
		r.store.onAppend(func(ctx context.Context, app store.Append) error {
			<-gate
			return r.store.Store.Append(context.WithoutCancel(ctx), app)
		})
		a.submit("held")
		synctest.Wait()
		v.set(keystore.Disabled)
		a.awaitNackWithin(t, time.Minute) // though the append hangs
		close(gate)
		a.awaitEnd()
		for _, op := range a.drain() {
			t.Errorf("got op %d %s after the key was lost", op.Seq, op.Type)
		}
	})
}

// awaitSuspect waits until the key store's first refusal was met, and not confirmed.
func (r *rig) awaitSuspect() {
	r.t.Helper()
	for limit := time.Now().Add(time.Minute); r.keeper.Status(r.tenant.Resource).State != custody.Suspect; time.Sleep(time.Second) {
		if time.Now().After(limit) {
			r.t.Fatalf("status %+v after a minute, want Suspect", r.keeper.Status(r.tenant.Resource))
		}
	}
}

// While a refusal is being confirmed, ops are neither sealed nor acknowledged, and
// newcomers are told the truth: nobody knows yet.
func TestOpsAreHeldWhileARefusalIsBeingConfirmed(t *testing.T) {
	t.Run("Cleared", func(t *testing.T) {
		keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
			id := r.create()
			a := r.join(id)
			a.submit("before")
			a.awaitMine(1)
			v.set(keystore.Disabled)
			r.awaitSuspect()
			var appends atomic.Int32
			r.store.onAppend(func(ctx context.Context, app store.Append) error {
				appends.Add(1)
				return r.store.Store.Append(ctx, app)
			})
			a.submit("held")
			synctest.Wait()
			if n := appends.Load(); n != 0 {
				t.Errorf("%d appends while the key is in doubt, want none", n)
			}
			b := r.dial()
			want := connectError{Code: 503, Message: "CMK_KEY_CHECKING", CanRetry: true, RetryAfter: 5, RetryAfterMS: 5000}
			if got := b.connectErrorOf(connectBody(id, r.token(id), "write")); got != want {
				t.Errorf("connect: %+v, want %+v", got, want)
			}
			b.close()
			v.set(0)
			if got := strings.Join(contentsOf(t, a.awaitMine(2)), ","); got != "before,held" {
				t.Errorf("after the doubt was over got %q, want before,held", got)
			}
			a.close()
		})
	})
	t.Run("Confirmed", func(t *testing.T) {
		keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
			id := r.create()
			a := r.join(id)
			a.submit("before")
			a.awaitMine(1)
			v.set(keystore.Disabled)
			r.awaitSuspect()
			a.submit("held")
			nack := a.awaitNackWithin(t, 10*time.Second)
			if got, want := nack.Content.Message, "CMK_KEY_REVOKED:KeyDisabled"; got != want {
				t.Errorf("nack %q, want %q", got, want)
			}
			a.awaitEnd()
			for _, op := range a.drain() {
				t.Errorf("got op %d %s while the key was in doubt", op.Seq, op.Type)
			}
			v.set(0)
			time.Sleep(30 * time.Second)
			b := r.join(id)
			b.submit("after")
			b.awaitMine(1)
			if got := strings.Join(contentsOf(t, r.log(id)), ","); got != "before,after" {
				t.Errorf("log has %q, want before,after", got)
			}
			b.close()
		})
	})
}

// An append that was under way when the doubt began is durable, and not shown before
// it is over.
func TestAppendUnderWayWhenTheDoubtBeginsIsShownAfterIt(t *testing.T) {
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		id := r.create()
		a := r.join(id)
		synctest.Wait()
		a.drain()
		gate := make(chan struct{})
		r.store.onAppend(func(ctx context.Context, app store.Append) error {
			<-gate
			return r.store.Store.Append(ctx, app)
		})
		a.submit("held")
		synctest.Wait()
		v.set(keystore.Disabled)
		r.awaitSuspect()
		close(gate)
		synctest.Wait()
		for _, op := range a.drain() {
			t.Errorf("got op %d %s while the key was in doubt", op.Seq, op.Type)
		}
		v.set(0)
		a.awaitMine(1)
		a.close()
	})
}

// A doubt does not keep a document from being deleted, nor the server from stopping.
func TestADoubtHoldsUpNeitherDeletionNorStop(t *testing.T) {
	keyBubble(t, func(t *testing.T, r *rig, v *switchVault) {
		kept, deleted := r.create(), r.create()
		a, b := r.join(kept), r.join(deleted)
		synctest.Wait()
		v.set(keystore.Disabled)
		r.awaitSuspect()
		a.submit("held")
		b.submit("held")
		synctest.Wait()
		at := time.Now()
		token := r.token(deleted, withScopes("doc:read", "doc:write", "doc:delete"))
		if got := r.call("DELETE", "/documents/t1/document/"+deleted, token, ""); got.status != 204 {
			t.Errorf("delete: %d %s, want 204", got.status, got.body)
		}
		b.awaitEnd()
		if took := time.Since(at); took > 0 {
			t.Errorf("deleting took %v, want no time", took)
		}
		r.restart() // in order, within its minute
		if took := time.Since(at); took > 10*time.Second {
			t.Errorf("stopping took %v, want no longer than the confirmation", took)
		}
	})
}
