package custody

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// State of a resource's key.
type State string

// The states.
const (
	Healthy     State = "Healthy"
	Warned      State = "Warning"     // as Healthy, and something should be done before it is not; see Status.Warnings
	Suspect     State = "Suspect"     // refused once; being confirmed
	Unreachable State = "Unreachable" // no answer; served until the grace is over
	Unusable    State = "Unusable"    // refused; nothing is served
)

// Status is what is known of a resource's key.
type Status struct {
	State     State  // empty when the key was not needed since the start
	Reason    string // KeyDisabled, AccessDenied, ...; empty when healthy
	Since     time.Time
	LastProof time.Time // when the key store last unwrapped it; zero: not since the start
	Until     time.Time // served until then without another proof; zero: not served
	NextProbe time.Time

	KeyID         string    // the version in use; "service" for the service-managed key
	Expires       time.Time // of that version; zero: never, or not known
	WrappedAt     time.Time // when the root key was wrapped with it
	FollowsNewest bool      // the key URL names no version
	NextVersion   time.Time // when the newest is looked for next, about; zero if it is not followed

	Enforced      time.Time     // when keys were wiped for the present state; zero: they were not, or not by this process
	Missing       []string      // permissions that the identity lacks: get, wrapKey, unwrapKey
	Purge         time.Time     // of a deleted key, when it is purged; zero: not known
	NewestVersion string        // of the key, if it is another than KeyID
	RotationLag   time.Duration // since when it is known and not followed; 0 if it need not be
	Warnings      []Warning
}

// Status returns the present state; it asks no key store.
func (k *Keeper) Status(r envelope.ResourceID) Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	root := k.roots[r]
	if root == nil {
		return Status{}
	}
	w := root.watch
	s := Status{
		State: w.state, Reason: w.reason, Since: w.since, LastProof: w.lastProof, NextProbe: w.next,
		KeyID: root.rec.KeyID, Expires: w.expires, WrappedAt: root.rec.CreatedAt, FollowsNewest: root.rec.followsNewest(),
		Enforced: w.enforced, Missing: w.missing, Purge: w.purge,
	}
	if w.lease.valid() {
		s.Until = time.Now().Add(w.lease.left())
	}
	if s.FollowsNewest {
		s.NextVersion = w.versionSeen.Add(w.versionEvery())
		if s.NextVersion.Before(w.next) {
			s.NextVersion = w.next
		}
	}
	if !root.mismatch.IsZero() && (w.state != Unusable || w.reason == reasonLease) {
		s.State, s.Reason, s.Since, s.Until = Unusable, reasonMismatch, root.mismatch, time.Time{}
	}
	w.tell(&s)
	return s
}

// Wrap is one wrapping of a resource's root key.
type Wrap struct {
	Generation uint64 // counts them, from 1
	InForce    bool   // the others are kept for inspection and never used
	KeyURL     string // as configured; empty for the service-managed key
	KeyID      string // the version that wrapped, or "service"
	Identity   string
	CreatedAt  time.Time
	RequestID  string // the key store's, of the wrap
}

// History returns the wrappings of a resource's root key, the one in force first. It
// asks no key store. store.ErrNotFound (wrapped) for an unknown resource.
func (k *Keeper) History(ctx context.Context, r envelope.ResourceID) ([]Wrap, error) {
	current, _, err := k.readRecord(ctx, r)
	if err != nil {
		return nil, err
	}
	all := []Wrap{current.wrap(true)}
	for n := current.Generation - 1; n > 0; n-- {
		rec, _, err := k.readRecordAt(ctx, r, previousRecordID(n))
		if errors.Is(err, store.ErrNotFound) {
			break // the resource is being deleted
		}
		if err == nil && rec.Generation != n {
			err = fmt.Errorf("generation %d stands in the place of %d: %w", rec.Generation, n, store.ErrCorrupt)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rec.wrap(false))
	}
	return all, nil
}

// KeyID returns the key version that a resource's root key is under. It asks no key
// store. store.ErrNotFound (wrapped) for an unknown resource.
func (k *Keeper) KeyID(ctx context.Context, r envelope.ResourceID) (string, error) {
	rec, _, err := k.readRecord(ctx, r)
	if err != nil {
		return "", err
	}
	return rec.KeyID, nil
}

func (r *wrapRecord) wrap(inForce bool) Wrap {
	return Wrap{
		Generation: r.Generation, InForce: inForce, KeyURL: r.KeyURL, KeyID: r.KeyID,
		Identity: r.Identity, CreatedAt: r.CreatedAt, RequestID: r.RequestID,
	}
}
