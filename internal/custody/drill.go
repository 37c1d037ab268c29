package custody

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/envelope"
)

// A drill plays a refusal of the key store's for one resource, and measures what comes of
// it: the resource gets a watch of its own, whose probes are answered with a refusal
// instead of being sent. All else is as with a real one: the same schedule, confirmation,
// wiping, and way back. It lives in memory: when the process ends, so does the drill.

// The times of a drill.
const (
	DrillHold    = 30 * time.Second // the refusal lasts so long once it is enforced, unless the caller says otherwise
	MaxDrillHold = 10 * time.Minute
	drillLasts   = 2 * time.Minute // and at most so long if it is not enforced at all
)

// Drill is a drill that runs, or the newest that did.
type Drill struct {
	ID, KeyID    string
	Started      time.Time // from here on the key store is played to refuse
	FirstRefusal time.Time // a probe met it
	Enforced     time.Time // nothing is served from here on
	Permitted    time.Time // the key store is asked again from here on
	Recovered    time.Time // it unwrapped, and all is served
	Documents    int       // were open and ended
	Ended        bool
	Failure      string // why it ended without all of that; empty: it did not
	On           DrillNodes

	hold time.Duration
}

// DrillNodes says where a drill is, among several nodes: a refusal is played on one. The zero
// value is a process that has the store for itself.
type DrillNodes struct {
	Node   string   // URL of the one
	Others []string // of those that serve the resource on
}

// ErrNoDrill: the resource had none since this process started.
var ErrNoDrill = errors.New("there was no drill since the server started")

// DrillError says why a drill cannot be begun.
type DrillError struct{ Why string }

func (e *DrillError) Error() string { return "custody: no drill: " + e.Why }

// refuses says whether the key store is played to refuse now.
func (d *Drill) refuses() bool {
	return d != nil && d.Permitted.IsZero()
}

// tick ends the played refusal when it is time to.
func (d *Drill) tick(now time.Time) {
	if d == nil || !d.Permitted.IsZero() {
		return
	}
	over := d.Started.Add(drillLasts)
	if !d.Enforced.IsZero() {
		over = d.Enforced.Add(d.hold)
	}
	if !now.Before(over) {
		d.Permitted = over
	}
}

// StartDrill begins a drill of a resource whose key is healthy. on is for the report. *DrillError,
// *UnusableError; store.ErrNotFound (wrapped) for an unknown resource.
func (k *Keeper) StartDrill(ctx context.Context, r envelope.ResourceID, hold time.Duration, on DrillNodes) (Drill, error) {
	if hold == 0 {
		hold = DrillHold
	}
	if hold < time.Second || hold > MaxDrillHold {
		return Drill{}, &DrillError{fmt.Sprintf("the refusal is to be held for %s; from 1 second to %s are allowed", hold, MaxDrillHold)}
	}
	root, err := k.lock(ctx, r)
	if err != nil {
		return Drill{}, err
	}
	defer k.mu.Unlock()
	switch w := root.watch; {
	case root.rec.kid.IsZero():
		return Drill{}, &DrillError{"the resource has no customer-managed key"}
	case w.drill != nil:
		return Drill{}, &DrillError{"one is running"}
	case w.state != Healthy:
		return Drill{}, &DrillError{fmt.Sprintf("the key is %s; a drill shows something only while all is well", w.state)}
	}
	d := &Drill{ID: uuid.NewString(), KeyID: root.rec.KeyID, Started: time.Now(), On: on}
	d.hold = hold + rand.N(RecoverEvery) // else it would end just when the key is asked for
	w := k.watchOf(watchKey{root.watch.key.identity, root.watch.key.kid, d.ID})
	w.drill = d
	k.drills[r] = d
	use := KeyUse{
		Time: d.Started.UTC(), Op: opDrill, Reason: string(forDrill), KeyID: d.KeyID, Identity: root.rec.Identity,
		Resource: hex.EncodeToString(r[:]), Outcome: "ok", Code: "DrillBegun",
	}
	root.transfer(w)
	k.wg.Go(func() { k.runDrill(r, root, w, use) })
	return *d, nil
}

// runDrill waits for the end of a drill, and leaves the resource as it was.
func (k *Keeper) runDrill(r envelope.ResourceID, root *root, w *watch, use KeyUse) {
	k.audit.record(k.ctx, use)
	back := true
	select {
	case <-w.recovered:
	case <-w.gone:
		back = false
	}
	k.mu.Lock()
	d := w.drill
	switch {
	case !back:
		d.Failure = "It was cut off: the key's settings were changed, the resource was deleted, or the server stopped."
	case d.Enforced.IsZero():
		d.Failure = fmt.Sprintf("The refusal was not enforced within %s.", drillLasts)
	}
	if back && k.roots[r] == root && root.watch == w {
		root.transfer(k.watchFor(root.rec))
	}
	d.Ended = true
	use.Time, use.Code = time.Now().UTC(), "DrillEnded"
	if d.Failure != "" {
		use.Outcome = "failed"
	}
	use.Note = d.summary()
	k.mu.Unlock()
	k.audit.record(context.WithoutCancel(k.ctx), use)
}

func (d *Drill) summary() string {
	since := func(what string, from, to time.Time) string {
		if from.IsZero() || to.IsZero() {
			return "not " + what
		}
		return fmt.Sprintf("%s after %.1f s", what, to.Sub(from).Seconds())
	}
	return strings.Join([]string{since("enforced", d.Started, d.Enforced), since("recovered", d.Permitted, d.Recovered), fmt.Sprintf("documents ended: %d", d.Documents)}, ", ")
}

// transfer puts a root on another watch of the same key. The documents that are open go
// on under its lease. Keeper.mu is held.
func (r *root) transfer(to *watch) {
	from := r.watch
	if to.state == "" && from.lease.valid() {
		to.state, to.since, to.moved = from.state, from.since, from.moved
		to.lastProof, to.expires, to.notices = from.lastProof, from.expires, from.notices
		to.versionSeen, to.missing = from.versionSeen, from.missing
		to.grant(from.lease.base.Add(time.Duration(from.lease.deadline.Load())))
	}
	r.watch = to
	to.members[r] = struct{}{}
	if l := to.lease; l.valid() {
		r.underLease(l)
	} else {
		r.end(to.unusableError())
	}
	from.leave(r)
}

// Drill returns the drill of a resource that runs, or the newest that did. ErrNoDrill.
func (k *Keeper) Drill(r envelope.ResourceID) (Drill, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.drills[r]
	if d == nil {
		return Drill{}, ErrNoDrill
	}
	return *d, nil
}

// drilled notes how a drill goes on. Keeper.mu is held.
func (w *watch) drilled(s State) {
	d, now := w.drill, time.Now()
	switch {
	case d == nil:
	case s == Suspect && d.FirstRefusal.IsZero():
		d.FirstRefusal = now
	case s == Unusable && d.Enforced.IsZero():
		d.Enforced = now
	case s == Healthy && !d.Permitted.IsZero() && d.Recovered.IsZero():
		d.Recovered = now
		close(w.recovered)
	}
}
