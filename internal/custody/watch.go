package custody

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
)

const (
	// The network rules, and refusals that we cannot read, are asked about longer than
	// others before they count.
	confirmUnclear     = 15 * time.Second
	confirmUnclearHits = 3
	// A host name that does not exist may be a resolver's mistake.
	confirmNoSuchHost = 60 * time.Second
	// suspicionAtMost bounds how long a key is used after its first refusal, whatever
	// happens then: above confirmUnclear with its time-outs, well below Lease.
	suspicionAtMost = Lease / 2
)

type verdict uint8

const (
	proof    verdict = iota + 1 // the key store unwrapped the root key
	refusal                     // it refuses
	outage                      // it does not answer
	mismatch                    // it gave something else; about one record, not about the key
)

// evidence is what one look at the key store showed.
type evidence struct {
	verdict   verdict
	asked     time.Time // just before the unwrap was sent; a proof counts from here
	reason    string    // of a refusal
	final     bool      // a refusal that needs no confirmation
	dns       bool      // a refusal known only from the vault's missing host name
	described bool
	expires   time.Time // when described: zero for never
	recovery  string    // when described: the vault's deletion policy
	missing   []string  // permissions that were refused
	purge     time.Time // of a deleted key, when it is purged; zero: not known
}

// watchKey groups the resources that one probe speaks for.
type watchKey struct{ identity, kid, drill string }

// watch watches one key version as one identity sees it. Its fields are guarded by
// Keeper.mu, except those that never change.
type watch struct {
	k    *Keeper
	key  watchKey
	kick chan struct{} // wakes run to look at the schedule again
	stop context.CancelFunc
	gone <-chan struct{} // closed when it is stopped

	drill     *Drill        // nil but for the watch of a drill
	recovered chan struct{} // closed when its key is usable again

	members   map[*root]struct{}
	state     State // empty until the first look
	reason    string
	since     time.Time // of the state, as it is shown: that of a refusal outlives the process
	moved     time.Time // when this process last saw the state change
	lastProof time.Time
	expires   time.Time // of the key; zero: never, or not known
	refusals  int       // in a row, while suspect
	noHost    time.Time // first failure to find the host; zero: it is found
	faults    int       // in a row, while unreachable
	failed    time.Time // the last look that gave no proof

	next        time.Time // when the key store is asked next
	askNow      bool      // the key store is to be asked at once
	sooner      time.Time // when LookSooner last asked for that
	versionSeen time.Time // when the newest version was last looked for
	rotating    bool      // it is being looked for now
	rereading   bool      // the members' records are being read again
	rescuing    bool      // root keys in memory are being moved to it, for this version was disabled

	refusedSince time.Time // the key store refuses, confirmed, since then; zero: it does not
	enforced     time.Time // when keys were wiped for the present state; zero: they were not
	missing      []string  // permissions that the last look was refused
	purge        time.Time // of a deleted key, when it is purged; zero: not known

	notices notices // what does not keep the key from being used

	lease *lease      // nil when there is no right to use the key
	timer *time.Timer // fires when the lease ends
}

func (k *Keeper) watchFor(rec *wrapRecord) *watch {
	return k.watchOf(watchKey{identity: strings.ToLower(rec.Identity), kid: rec.KeyID})
}

func (k *Keeper) watchOf(key watchKey) *watch {
	if w := k.watches[key]; w != nil {
		return w
	}
	ctx, stop := context.WithCancel(k.ctx)
	w := &watch{
		k: k, key: key, kick: make(chan struct{}, 1), stop: stop, gone: ctx.Done(), recovered: make(chan struct{}),
		members: map[*root]struct{}{}, next: time.Now().Add(ProbeEvery),
	}
	k.watches[key] = w
	note := refusalNote{w: w, rows: k.c.Store}
	k.wg.Go(func() { w.run(ctx, note) })
	return w
}

// leave takes a root off the watch, and ends the watch when it was the last.
func (w *watch) leave(r *root) {
	delete(w.members, r)
	if len(w.members) > 0 {
		return
	}
	delete(w.k.watches, w.key)
	w.endLease()
	w.stop()
}

func (w *watch) run(ctx context.Context, note refusalNote) {
	last := time.Now()
	for {
		note.keep(ctx)
		timer := time.NewTimer(time.Until(w.schedule(last)))
		select {
		case <-ctx.Done():
			timer.Stop()
			note.drop()
			return
		case <-w.kick:
			timer.Stop()
		case <-timer.C:
			last = time.Now()
			w.probe(ctx)
		}
	}
}

// schedule says when to probe next, after last.
func (w *watch) schedule(last time.Time) time.Time {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.next = last.Add(w.interval())
	if w.askNow {
		w.next = time.Now()
	}
	return w.next
}

// interval is the time between the last probe and the next.
func (w *watch) interval() time.Duration {
	switch {
	case w.state == Suspect, w.state == Unreachable && w.faults == 1:
		return ConfirmAfter
	case w.state == Unreachable, w.state == Unusable:
		return RecoverEvery
	}
	// Jitter keeps the nodes and keys of an installation from asking all at once.
	return ProbeEvery*4/5 + rand.N(ProbeEvery*2/5) // a schedule, not a secret
}

// probe asks about one live wrap record; the answer speaks for all members.
func (w *watch) probe(ctx context.Context) {
	w.k.mu.Lock()
	w.askNow = false
	r := w.pick()
	if r == nil {
		w.k.mu.Unlock()
		return
	}
	rec := r.rec
	w.drill.tick(time.Now())
	played := w.drill.refuses()
	w.k.mu.Unlock()

	var key envelope.RootKey
	found := evidence{verdict: refusal, reason: reasonDrill}
	if !played {
		key, found = w.k.examine(ctx, r.id, rec, forProbe)
		if found.verdict == refusal { // before it counts: another process may have moved on
			w.reloadMembers(ctx)
		}
		w.k.m.probes[found.verdict].Inc()
	}

	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	if ctx.Err() != nil || w.k.roots[r.id] != r || r.rec != rec {
		key.Wipe() // stopped, deleted or updated meanwhile
		return
	}
	r.learn(key, found)
	if !w.rotating && w.looksForNewest(found) {
		// Beside the probes: rewrapping many root keys must not hold them up.
		w.rotating = true
		w.k.wg.Go(func() { w.rotate(ctx) })
	}
	w.rereadMembers(ctx)
}

// LookSooner has keys asked about at once, their newest versions too: something may have
// changed. host is a vault's, with its port if it has one; an empty name means all its
// keys. Those that were asked about so a moment ago are not again.
func (k *Keeper) LookSooner(host, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.watches {
		for r := range w.members {
			kid := r.rec.kid
			if kid.IsZero() || kid.Host() != host || name != "" && !strings.EqualFold(kid.Name(), name) || time.Since(w.sooner) < ConfirmAfter {
				break // they all have the same key
			}
			w.sooner, w.versionSeen, w.askNow = time.Now(), time.Time{}, true
			w.wake()
			break
		}
	}
}

// pick prefers a member whose record is known to be good, then one that has its key
// in memory.
func (w *watch) pick() *root {
	var best *root
	score := func(r *root) (n int) {
		if r.mismatch.IsZero() {
			n += 2
		}
		if r.loaded {
			n++
		}
		return n
	}
	for r := range w.members {
		if best == nil || score(r) > score(best) {
			best = r
		}
	}
	return best
}

// learn moves the state on.
func (w *watch) learn(found evidence) {
	w.notice(found)
	if found.verdict == proof && !w.expires.IsZero() && !time.Now().Before(w.expires) {
		// Permission to get was taken away, and the expiry known before that has passed.
		found = evidence{verdict: refusal, reason: reasonExpired, final: true}
	}
	if found.verdict == refusal || found.verdict == outage {
		w.failed = time.Now()
	}
	switch found.verdict {
	case proof:
		w.proven(found.asked)
	case refusal:
		w.refused(found)
	case outage:
		w.noHost = time.Time{}
		w.unanswered()
	case mismatch: // says nothing about the key; its lease runs on as it was
	}
	w.wake()
}

func (w *watch) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

func (w *watch) proven(asked time.Time) {
	// A proof that was asked for before the last refusal, or the last proof, is news of yesterday.
	if asked.Before(w.lastProof) || (w.state == Suspect || w.state == Unusable) && asked.Before(w.moved) {
		return
	}
	w.lastProof = asked
	w.refusals, w.faults, w.noHost = 0, 0, time.Time{}
	if w.state == Unusable && w.reason != reasonLease && w.drill == nil {
		w.k.m.recovered(w.failed, w.since)
	}
	w.refusedSince, w.enforced = time.Time{}, time.Time{}
	w.move(Healthy, "")
	if w.lease != nil && !w.lease.valid() {
		// The process was paused, and nobody saw the lease run out. Nothing that was
		// opened under it goes on under the next one.
		w.lose(leaseError())
	}
	w.grant(w.capped(asked.Add(Lease)))
	w.lease.release()
}

func (w *watch) refused(found evidence) {
	now := time.Now()
	if found.dns {
		if w.noHost.IsZero() {
			w.noHost = now
		}
		if now.Sub(w.noHost) < confirmNoSuchHost {
			w.unanswered()
			return
		}
		found.final = true
	} else {
		w.noHost = time.Time{}
	}
	if w.state == Unusable {
		w.move(Unusable, found.reason)
		return
	}
	if w.state != Suspect {
		w.refusals = 0
		w.move(Suspect, found.reason)
		if w.lease != nil {
			w.lease.hold()
			w.lease.shorten(now.Add(suspicionAtMost))
			w.arm()
		}
		if found.reason == reasonDisabled {
			w.startRescue()
		}
	}
	w.refusals++
	w.reason = found.reason
	after, hits := ConfirmAfter, 2
	if found.reason == reasonFirewall || found.reason == reasonUnclassified {
		after, hits = confirmUnclear, confirmUnclearHits
	}
	if found.final || w.refusals >= hits && now.Sub(w.moved) >= after && !w.rescuing {
		w.unusable(found.reason)
		w.tellRefusal(found.reason)
	}
}

// unanswered rides an outage out: until Grace after the last proof, never from now.
// Once there was a refusal, silence changes nothing.
func (w *watch) unanswered() {
	if w.state == Unusable {
		return
	}
	if w.state == Suspect {
		// With a lease, its end decides; without one, somebody must.
		if w.lease == nil && time.Since(w.moved) >= suspicionAtMost {
			w.unusable(w.reason)
		}
		return
	}
	if !w.lease.valid() {
		w.unusable(reasonUnreachable)
		return
	}
	w.faults++
	w.move(Unreachable, reasonUnreachable)
	w.lease.set(w.capped(w.lastProof.Add(w.k.c.Policy.grace())))
	w.arm()
}

// capped cuts a deadline at the key's own expiry, which holds between probes and
// during outages too.
func (w *watch) capped(until time.Time) time.Time {
	if !w.expires.IsZero() && w.expires.Before(until) {
		return w.expires
	}
	return until
}

// grant prolongs the lease, or begins a new one.
func (w *watch) grant(until time.Time) {
	if w.lease == nil {
		w.lease = newLease(until)
	} else {
		w.lease.set(until)
	}
	w.arm()
}

// arm sets the timer to the end of the lease, so that keys are wiped then even if
// the prober is stuck.
func (w *watch) arm() {
	if w.timer != nil {
		w.timer.Stop()
	}
	if l := w.lease; l != nil {
		w.timer = time.AfterFunc(max(l.left(), 0), func() { w.leaseEnded(l) })
	}
}

func (w *watch) leaseEnded(l *lease) {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	if w.lease != l {
		return
	}
	if l.valid() { // prolonged while the timer fired
		w.arm()
		return
	}
	switch {
	case !w.expires.IsZero() && !time.Now().Before(w.expires):
		w.unusable(reasonExpired)
	case w.state == Suspect:
		w.unusable(w.reason)
	case w.state == Unreachable:
		w.unusable(reasonUnreachable)
	default:
		w.unusable(reasonLease)
	}
}

// unusable ends the lease and wipes every key under it.
func (w *watch) unusable(reason string) {
	serving, refused := w.lease != nil, w.firstRefusal()
	w.move(Unusable, reason)
	if serving {
		w.enforced = time.Now()
	}
	if w.drill != nil && w.drill.Documents == 0 {
		for r := range w.members {
			w.drill.Documents += len(r.documents)
		}
	}
	w.lose(w.unusableError())
	w.drilled(Unusable)
	if serving && revoked(reason) && w.drill == nil {
		w.k.m.enforced(refused)
	}
	w.wake() // the schedule is another one now
}

func (w *watch) lose(err error) {
	if w.lease != nil {
		w.lease.deadline.Store(0) // from here on nothing is sealed or opened
	}
	for r := range w.members {
		r.end(err)
	}
	w.endLease() // now: who waits for it finds the reason there
}

func (w *watch) endLease() {
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.lease != nil {
		w.lease.deadline.Store(0)
		w.lease.release() // those who wait find out that it ended
	}
	w.lease, w.timer = nil, nil
}

// move changes state and reason. Since is when the state began; for Unusable also
// when an outage or stall became a refusal, for clients are held from there.
func (w *watch) move(s State, reason string) {
	if w.state == s && w.reason == reason {
		return
	}
	if w.state != s || s == Unusable && !revoked(w.reason) && revoked(reason) {
		w.moved = time.Now()
		w.since = w.moved
	}
	if s == Unusable && revoked(reason) {
		w.holdFrom()
	}
	w.k.c.Log.Info("key state", "kid", w.key.kid, "identity", w.key.identity, "from", string(w.state), "to", string(s), "reason", reason)
	w.state, w.reason = s, reason
	if s != Unusable { // which is noted when the keys are wiped
		w.drilled(s)
	}
}

// revoked says whether a reason is the key store's word, not the lack of it.
func revoked(reason string) bool { return reason != reasonUnreachable && reason != reasonLease }

// refusal is why nothing under this key may be used now; nil when it may, or when
// the key store must be asked to find out. While a first refusal is being confirmed,
// what is open goes on under its lease, but nothing new is admitted.
func (w *watch) refusal() error {
	if w.state == Suspect || w.state == Unusable && w.reason != reasonLease {
		return w.unusableError()
	}
	return nil
}

func (w *watch) unusableError() *UnusableError {
	switch {
	case w.reason == reasonLease:
		return leaseError()
	case w.state == Suspect:
		return &UnusableError{Reason: w.reason, Since: w.since, RetryAfter: retrySuspect, Checking: true}
	case !revoked(w.reason):
		return outageError(w.since)
	}
	// A drill closes nobody.
	over := w.reason != reasonDrill && time.Since(w.since) >= w.k.c.Policy.hold()
	return &UnusableError{Reason: w.reason, Since: w.since, RetryAfter: retryRevoked, Revoked: true, Close: over}
}
