package custody

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
)

// newsTime is how long news take from node to node, at most.
const newsTime = 300 * time.Millisecond

// peers are the keepers of some processes on one store. Each has a way of its own to the
// vault, which can be spoilt.
type peers struct {
	t       *testing.T
	store   *rowStore
	vault   *fakeVault
	service envelope.ServiceKey
	nodes   []*peer
	silent  atomic.Bool // news are lost
}

type peer struct {
	*Keeper
	way *way
}

// way is a process's way to the vault.
type way struct {
	keystore.Client
	mu  sync.Mutex
	err error        // what every call gets; nil: the vault's answer
	of  keystore.URL // for this key only; zero: for all
}

func (w *way) set(err error) { w.setFor(keystore.URL{}, err) }

func (w *way) setFor(key keystore.URL, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.of = err, key
}

func (w *way) spoilt(key keystore.URL) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.of.IsZero() && w.of != key {
		return nil
	}
	return w.err
}

func (w *way) Describe(ctx context.Context, key keystore.URL) (keystore.Key, error) {
	if err := w.spoilt(key); err != nil {
		return keystore.Key{}, err
	}
	return w.Client.Describe(ctx, key)
}

func (w *way) Unwrap(ctx context.Context, wrapped keystore.Wrapped) ([]byte, string, error) {
	if err := w.spoilt(wrapped.ID); err != nil {
		return nil, "", err
	}
	return w.Client.Unwrap(ctx, wrapped)
}

func withPeers(t *testing.T, n int, f func(t *testing.T, p *peers)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &peers{t: t, store: newRowStore(), vault: newFakeVault(), service: envelope.NewServiceKey()}
		for range n {
			one := &peer{way: &way{Client: p.vault.as(identityA)}}
			one.Keeper = New(Config{
				Store: p.store, Service: p.service, Hosts: hosts, Log: slog.New(slog.DiscardHandler),
				KeyStore: func(string) keystore.Client { return one.way },
				Tell:     func(n News) { p.deliver(one, n) },
			})
			p.nodes = append(p.nodes, one)
		}
		defer func() {
			for _, one := range p.nodes {
				one.Close()
			}
		}()
		f(t, p)
	})
}

// deliver brings news to all but the one that tells, as they come over the store.
func (p *peers) deliver(from *peer, n News) {
	if p.silent.Load() {
		return
	}
	raw, err := json.Marshal(n)
	if err != nil {
		p.t.Error(err)
	}
	time.AfterFunc(newsTime, func() {
		for _, one := range p.nodes {
			var n News
			if err := json.Unmarshal(raw, &n); err != nil {
				p.t.Error(err)
			}
			if one != from {
				one.Heed(n)
			}
		}
	})
}

// document makes a resource with one document, open on every node.
func (p *peers) document(key string) (envelope.ResourceID, []*Document) {
	p.t.Helper()
	r := envelope.ResourceID{7}
	if err := p.nodes[0].Create(p.t.Context(), r, Settings{Key: keyURL(key), Identity: identityA}); err != nil {
		p.t.Fatal(err)
	}
	d, err := p.nodes[0].NewDocument(p.t.Context(), r)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := d.Create(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	all := []*Document{d}
	for _, one := range p.nodes[1:] {
		d, err := one.OpenDocument(p.t.Context(), r, d.Handle())
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, d)
	}
	return r, all
}

func TestScenario36RefusalSeenByOneNodeFencesAll(t *testing.T) {
	withPeers(t, 3, func(t *testing.T, p *peers) {
		r, documents := p.document(version1)
		time.Sleep(time.Minute)
		p.vault.change(version1, func(k *keystore.Key) { k.Enabled = false })
		disabled := time.Now()
		ends := make(chan time.Time, len(documents))
		for _, d := range documents {
			go func() {
				<-d.Done()
				ends <- time.Now()
			}()
		}
		first := <-ends
		for range documents[1:] {
			if took := (<-ends).Sub(first); took > time.Second {
				t.Errorf("a node fenced %s after the first", took)
			}
		}
		for _, d := range documents {
			wantUnusable(t, d.Err(), "KeyDisabled")
		}
		if took := time.Since(disabled); took > time.Minute {
			t.Errorf("fenced %s after the key was disabled", took)
		}
		p.vault.change(version1, func(k *keystore.Key) { k.Enabled = true })
		time.Sleep(30 * time.Second)
		for i, one := range p.nodes {
			if err := one.Admit(t.Context(), r); err != nil {
				t.Errorf("node %d, 30 s after the key was enabled: %v", i, err)
			}
		}
	})
}

func TestScenario36FaultOfOneNodesNetworkStopsNoOther(t *testing.T) {
	for name, fault := range map[string]error{
		"Firewall":   refused(keystore.Firewall, 403, "ForbiddenByFirewall"),
		"NoAnswer":   &keystore.Error{Class: keystore.Unreachable},
		"NoSuchHost": &keystore.Error{Class: keystore.VaultNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			withPeers(t, 3, func(t *testing.T, p *peers) {
				r, documents := p.document(version1)
				p.nodes[0].way.set(fault)
				time.Sleep(Grace + time.Minute)
				if documents[0].Err() == nil {
					t.Error("the node without a way to the vault still serves")
				}
				for i, d := range documents[1:] {
					if err := d.Err(); err != nil {
						t.Errorf("node %d: %v", i+1, err)
					}
				}
				p.nodes[0].way.set(nil)
				time.Sleep(30 * time.Second)
				if err := p.nodes[0].Admit(t.Context(), r); err != nil {
					t.Errorf("30 s after its way was mended: %v", err)
				}
			})
		})
	}
}

func TestAMistakenRefusalIsMendedAtOnce(t *testing.T) {
	withPeers(t, 2, func(t *testing.T, p *peers) {
		r, documents := p.document(version1)
		p.nodes[0].way.set(refused(keystore.Denied, 403, "ForbiddenByPolicy")) // a proxy that answers for the vault
		<-documents[1].Done()
		fenced := time.Now()
		for p.nodes[1].Admit(t.Context(), r) != nil {
			time.Sleep(10 * time.Millisecond)
			if time.Since(fenced) > time.Second {
				t.Fatal("the other node does not serve a second later, though the vault agrees")
			}
		}
		time.Sleep(time.Hour)
		if err := p.nodes[1].Admit(t.Context(), r); err != nil {
			t.Errorf("an hour later: %v", err)
		}
	})
}

// A node that rotates leaves the others under the old version; they must follow before
// that one is disabled.
func TestRotationOnOneNodeMovesAll(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("Told%v", told), func(t *testing.T) {
			withPeers(t, 3, func(t *testing.T, p *peers) {
				r, documents := p.document(version1)
				p.silent.Store(!told)
				p.vault.addVersion(version2)
				if err := p.nodes[0].Update(t.Context(), r, Settings{Key: keyURL(version2), Identity: identityA}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				p.vault.change(version1, func(k *keystore.Key) { k.Enabled = false })
				time.Sleep(5 * time.Minute)
				for i, d := range documents {
					if err := d.Err(); err != nil {
						t.Errorf("node %d: %v", i, err)
					}
				}
				for i, one := range p.nodes {
					if s := one.Status(r); s.KeyID != keyURL(version2).String() || s.State != Healthy {
						t.Errorf("node %d is under %s, %s", i, s.KeyID, s.State)
					}
				}
			})
		})
	}
}

func TestRotationToTheNewestRunsOnce(t *testing.T) {
	withPeers(t, 3, func(t *testing.T, p *peers) {
		r, documents := p.document("")
		p.vault.addVersion(version2)
		time.Sleep(2 * VersionEvery)
		for i, d := range documents {
			if err := d.Err(); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		}
		history, err := p.nodes[1].History(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(history) != 2 || history[0].KeyID != keyURL(version2).String() {
			t.Errorf("the root key was wrapped %d times, last by %s; want twice, by version 2", len(history), history[0].KeyID)
		}
		for i, one := range p.nodes {
			if s := one.Status(r); s.KeyID != keyURL(version2).String() {
				t.Errorf("node %d is under %s", i, s.KeyID)
			}
		}
	})
}

func TestDeletionOnOneNodeEndsDocumentsOnAll(t *testing.T) {
	withPeers(t, 2, func(t *testing.T, p *peers) {
		r, documents := p.document(version1)
		if _, err := p.nodes[0].Delete(t.Context(), r, "r"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-documents[1].Done():
		case <-time.After(time.Second):
			t.Error("the other node still has the document's key a second after the resource was deleted")
		}
	})
}

// One log of key uses, written by all nodes: no use is lost or twice, and the chain
// holds.
func TestUsesOfAllNodesAreOneChain(t *testing.T) {
	withPeers(t, 3, func(t *testing.T, p *peers) {
		r, _ := p.document(version1)
		var all sync.WaitGroup
		const each = 20
		for _, one := range p.nodes {
			all.Go(func() {
				for range each {
					if err := one.CheckUpdate(t.Context(), r, Settings{Key: keyURL(version1), Identity: identityA}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		checks, prev := 0, ""
		for after := uint64(0); ; {
			page, err := p.nodes[2].KeyUses(t.Context(), after, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range page.Records {
				var u KeyUse
				if err := json.Unmarshal(raw, &u); err != nil {
					t.Fatal(err)
				}
				if u.Seq != after+1 || prev != "" && u.Prev != prev {
					t.Fatalf("record %d with the hash of another one follows record %d", u.Seq, after)
				}
				after, prev = u.Seq, useHash(raw)
				if u.Reason == string(forCheck) && u.Op == opGet {
					checks++
				}
			}
			if after >= page.Last {
				break
			}
		}
		if checks != len(p.nodes)*each {
			t.Errorf("%d checks are on the log, want %d", checks, len(p.nodes)*each)
		}
	})
}

// No node holds a root key that was given up for longer than the news take.
func TestANewEpochOnOneNodeComesToAll(t *testing.T) {
	withPeers(t, 3, func(t *testing.T, p *peers) {
		r, documents := p.document(version1)
		first := p.nodes[0]
		useUpEpoch(first.Keeper, r)
		if err := endEpoch(t.Context(), first.Keeper, r); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for i, one := range p.nodes {
			one.mu.Lock()
			if root := one.roots[r]; root.rec.Epoch != 2 || !root.loaded {
				t.Errorf("node %d, a second later: epoch %d, loaded %t; want that of epoch 2", i, root.rec.Epoch, root.loaded)
			}
			one.mu.Unlock()
			if err := documents[i].Err(); err != nil {
				t.Errorf("the document that was open on node %d ended: %v", i, err)
			}
		}
	})
}

// The root key of a new epoch and a new wrap of it may come to another node at once.
func TestEpochAndRotationOnOneNodeComeToAll(t *testing.T) {
	withPeers(t, 2, func(t *testing.T, p *peers) {
		r, documents := p.document(version1)
		first := p.nodes[0]
		useUpEpoch(first.Keeper, r)
		if err := endEpoch(t.Context(), first.Keeper, r); err != nil {
			t.Fatal(err)
		}
		p.vault.addVersion(version2)
		if err := first.Update(t.Context(), r, Settings{Key: keyURL(version2), Identity: identityA}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		made, err := first.NewDocument(t.Context(), r)
		if err == nil {
			err = made.Create(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, h := range map[string]envelope.DocumentHandle{"before": documents[0].Handle(), "after": made.Handle()} {
			d, err := p.nodes[1].OpenDocument(t.Context(), r, h)
			if err != nil {
				t.Errorf("the document from %s it does not open on the other node: %v", name, err)
				continue
			}
			d.Close()
		}
		if err := documents[1].Err(); err != nil {
			t.Errorf("the document that was open there ended: %v", err)
		}
	})
}

// A process that is killed just after it moved a root key tells nobody. Whoever then turns the
// new key off must not find his data served under the old one.
func TestAMoveThatNobodyTellsOfIsFollowed(t *testing.T) {
	for name, spoil := range map[string]func(p *peers){
		"NoNews": func(p *peers) { p.silent.Store(true) },
		"NoAnswerWhenTheNewsCame": func(p *peers) {
			for _, one := range p.nodes[1:] {
				one.way.set(&keystore.Error{Class: keystore.Unreachable})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			withPeers(t, 3, func(t *testing.T, p *peers) {
				r, documents := p.document(version1)
				time.Sleep(time.Minute)
				spoil(p)
				p.vault.addVersion(version2)
				if err := p.nodes[0].Update(t.Context(), r, Settings{Key: keyURL(version2), Identity: identityA}); err != nil {
					t.Fatal(err)
				}
				p.nodes[0].Close() // killed
				time.Sleep(time.Second)
				for _, one := range p.nodes[1:] {
					one.way.set(nil)
				}
				p.vault.change(version2, disabled)
				time.Sleep(time.Minute)
				for i, d := range documents[1:] {
					wantUnusable(t, d.Err(), "KeyDisabled")
					if err := p.nodes[i+1].Admit(t.Context(), r); err == nil {
						t.Errorf("node %d admits a minute after the key was disabled", i+1)
					}
				}
				p.vault.change(version2, func(k *keystore.Key) { k.Enabled = true })
				time.Sleep(30 * time.Second)
				for i, one := range p.nodes[1:] {
					if err := one.Admit(t.Context(), r); err != nil {
						t.Errorf("node %d, 30 s after it was enabled: %v", i+1, err)
					}
				}
			})
		})
	}
}

// A node whose way to the new key's vault is broken goes on under the old one for as long as
// an outage is ridden out, and no longer.
func TestAMoveThatCannotBeFollowedIsAnOutage(t *testing.T) {
	withPeers(t, 2, func(t *testing.T, p *peers) {
		r, documents := p.document(version1)
		time.Sleep(time.Minute)
		p.vault.addVersion(version2)
		p.nodes[1].way.setFor(keyURL(version2), &keystore.Error{Class: keystore.Unreachable})
		if err := p.nodes[0].Update(t.Context(), r, Settings{Key: keyURL(version2), Identity: identityA}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(Grace - time.Minute)
		for i, d := range documents {
			if err := d.Err(); err != nil {
				t.Errorf("node %d, before the grace is over: %v", i, err)
			}
		}
		time.Sleep(2 * time.Minute)
		if documents[0].Err() != nil {
			t.Error("the node that can reach the new key's vault does not serve")
		}
		wantUnusable(t, documents[1].Err(), reasonUnreachable)
		p.nodes[1].way.setFor(keystore.URL{}, nil)
		time.Sleep(30 * time.Second)
		if err := p.nodes[1].Admit(t.Context(), r); err != nil {
			t.Errorf("30 s after its way was mended: %v", err)
		}
	})
}
