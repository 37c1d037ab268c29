package custody

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// The times of the promise; see docs/formats/custody.md.
const (
	Lease        = 60 * time.Second // from the last proof
	ProbeEvery   = 20 * time.Second // ± 20 %
	ConfirmAfter = 5 * time.Second  // after a denial or fault
	RecoverEvery = 10 * time.Second // while unusable or unreachable
	ProbeTimeout = 2 * time.Second
	Grace        = 15 * time.Minute // of an outage, from the last proof, unless the operator says otherwise
	MaxGrace     = 24 * time.Hour   // what he may say at most
	Hold         = time.Hour        // clients of a revoked key are held, then closed, unless the operator says otherwise
	VersionEvery = time.Hour        // is the newest version looked for, when the key URL names none
	versionSoon  = time.Minute      // the same, when the version in use expires within VersionEvery, or did
)

// Settings say which key protects a resource, and as whom it is used.
type Settings struct {
	Key      keystore.URL // zero: the service-managed key
	Identity string       // resource id of the user-assigned identity, as the client wrote it
}

// Policy is what an operator may decide about keys. The zero value has the defaults.
type Policy struct {
	// Grace is how long an outage of a key store is ridden out, from the last proof; 0 is
	// the default. Negative means none: then, and if it is less, Lease counts.
	Grace time.Duration
	// RequirePurgeProtection refuses keys of vaults that can lose them for good: those
	// without soft delete or purge protection. Otherwise they are warned of.
	RequirePurgeProtection bool
	// DocumentKeyDays is how old the key of a document gets before it is replaced, when the
	// document is used next; 0 is the default. Negative: it is replaced on demand only.
	DocumentKeyDays int
	// Hold is how long clients of a revoked key are held before they are closed and lose
	// what they have not sent; 0 is the default. Negative means not at all.
	Hold time.Duration
}

// Check says what is wrong with a policy.
func (p Policy) Check() error {
	if p.Grace > MaxGrace {
		return fmt.Errorf("the grace of an outage is %s; at most %s are allowed, for data must not outlive the key store's consent by more", p.Grace, MaxGrace)
	}
	return nil
}

func (p Policy) hold() time.Duration {
	if p.Hold == 0 {
		return Hold
	}
	return max(p.Hold, 0)
}

func (p Policy) grace() time.Duration {
	if p.Grace == 0 {
		return Grace
	}
	return max(p.Grace, Lease)
}

// Config of a Keeper.
type Config struct {
	Store   store.Store
	Service envelope.ServiceKey
	// KeyStore returns the key store as the identity with this resource id sees it. It is
	// asked before each use and should return the same client each time: a client
	// remembers tokens and challenges.
	KeyStore func(identity string) keystore.Client
	Hosts    keystore.Hosts // to parse the key ids of stored wrap records
	// Retention seals wrapped root keys further, so that old copies of the store become
	// useless. A store whose records were written with it needs it; nil: there is none,
	// and whoever keeps an old copy can open it while the customer's key unwraps.
	Retention *Retention
	// Anchors finds out logs that were put back to an older state; nil: nobody does.
	Anchors Anchors
	Log     *slog.Logger
	Metrics prometheus.Registerer // where the metrics are registered; nil: nowhere
	Policy  Policy
	// Tell passes news on to the keepers of other processes on the same store, who Heed
	// it; nil: there are none. It must not block, and must not call the keeper.
	Tell func(News)
}

// Keeper keeps the keys of all resources. It is safe for concurrent use.
type Keeper struct {
	c    Config
	ctx  context.Context //nolint:containedctx // the life of the watches, ended by Close
	stop context.CancelFunc
	wg   sync.WaitGroup // watches
	m    *metrics

	audit   *auditor
	anchors *anchorer // nil: none

	mu      sync.Mutex // guards all below, and the fields of root and watch; never held across I/O
	closed  bool
	roots   map[envelope.ResourceID]*root
	watches map[watchKey]*watch
	loading map[envelope.ResourceID]chan struct{} // closed when the load is over
	proof   *Proof                                // nil: none was made
	drills  map[envelope.ResourceID]*Drill        // the newest of each resource
	agedAt  time.Time                             // when the keys of open documents are looked at next
}

// root is what is known of one resource's root key. Guarded by Keeper.mu.
type root struct {
	id        envelope.ResourceID
	rec       *wrapRecord
	watch     *watch
	key       envelope.RootKey // wiped unless loaded
	loaded    bool
	next      envelope.RootKey // that of nextEpoch, while document keys move to it
	nextEpoch uint32           // 0: none
	wraps     uint64           // of document keys, under the newest of them
	behind    time.Time        // since when there is a newer record about which the key store gives no answer; zero: there is none
	looked    time.Time        // when the store is asked next whether the epoch ends
	mismatch  time.Time        // since when the key store gives a key that is not this one; zero: it does not
	compared  time.Time        // when that was last seen
	documents map[*Document]struct{}
}

// New returns a keeper.
func New(c Config) *Keeper {
	ctx, stop := context.WithCancel(context.Background())
	k := &Keeper{
		c:       c,
		ctx:     ctx,
		stop:    stop,
		m:       newMetrics(c.Metrics),
		audit:   newAuditor(c),
		roots:   map[envelope.ResourceID]*root{},
		watches: map[watchKey]*watch{},
		loading: map[envelope.ResourceID]chan struct{}{},
		drills:  map[envelope.ResourceID]*Drill{},
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(gauges{k})
	}
	if c.Anchors != nil {
		k.anchors = newAnchorer(k)
		k.wg.Go(func() { k.anchors.run(ctx) })
	}
	k.wg.Go(func() { k.housekeep(ctx) })
	return k
}

// Close wipes all keys; every Document ends.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true
	for _, r := range k.roots {
		k.forget(r, stoppingError())
	}
	k.stop()
	k.mu.Unlock()
	k.wg.Wait()
	if k.anchors != nil {
		k.anchors.flush()
	}
	k.audit.close()
}

// Admit says whether the resource's data may be served now: nil, or an
// *UnusableError. It loads and unwraps the root key when that is not in memory.
// Other errors are the store's, store.ErrNotFound (wrapped) for an unknown resource
// among them.
func (k *Keeper) Admit(ctx context.Context, r envelope.ResourceID) error {
	_, err := k.lock(ctx, r)
	if err == nil {
		k.mu.Unlock()
	}
	return err
}

// lock returns the resource's root with its key loaded under a valid lease, and
// k.mu held; after an error k.mu is not held.
func (k *Keeper) lock(ctx context.Context, r envelope.ResourceID) (*root, error) {
	for {
		k.mu.Lock()
		if k.closed {
			k.mu.Unlock()
			return nil, stoppingError()
		}
		if root := k.roots[r]; root != nil {
			if err := root.refusal(); err != nil {
				k.mu.Unlock()
				return nil, err
			}
			if root.loaded && root.watch.lease.valid() {
				return root, nil
			}
		}
		other := k.loading[r]
		if other == nil {
			done := make(chan struct{})
			k.loading[r] = done
			k.mu.Unlock()
			err := k.load(ctx, r)
			k.mu.Lock()
			delete(k.loading, r)
			close(done)
			k.mu.Unlock()
			if err != nil {
				return nil, err
			}
			continue
		}
		k.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// load reads the wrap record and asks the key store to unwrap it. Without an error
// there is something new to look at in k.roots.
func (k *Keeper) load(ctx context.Context, r envelope.ResourceID) error {
	rec, _, err := k.readRecord(ctx, r)
	if err == nil && rec.Retention == 0 && k.c.Retention != nil {
		// Of data that was never under a retention key, or not since it was given up.
		if err = k.reseal(ctx, r); err == nil || errors.Is(err, store.ErrConflict) {
			rec, _, err = k.readRecord(ctx, r)
		}
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil
	}
	known := k.roots[r]
	if known != nil && known.rec.Generation > rec.Generation {
		k.mu.Unlock()
		return nil // it was replaced since it was read
	}
	if known != nil && known.rec.Generation != rec.Generation {
		k.forget(known, leaseError())
		known = nil
	}
	if known == nil {
		known = k.attach(r, rec)
	}
	k.mu.Unlock()

	key, found := k.examine(ctx, r, rec, forStart)
	if found.verdict != proof && ctx.Err() != nil {
		return ctx.Err() // it was the caller who gave up, not the key store
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	if k.roots[r] != known || known.rec.Generation != rec.Generation {
		key.Wipe() // deleted or updated meanwhile
		return nil
	}
	known.learn(key, found)
	if known.loaded {
		return nil
	}
	if err := known.refusal(); err != nil {
		return err
	}
	// Others go on under the lease that their watch has; this key is not in memory,
	// and the key store does not give it now.
	return outageError(time.Now())
}

// learn takes in what examine found about this root's record; the key is root's
// from here on.
func (r *root) learn(key envelope.RootKey, found evidence) {
	switch found.verdict {
	case mismatch:
		if r.mismatch.IsZero() {
			r.mismatch = time.Now()
			r.watch.k.c.Log.Error("root key does not match its commitment", "kid", r.rec.KeyID, "generation", r.rec.Generation)
		}
		r.compared = time.Now()
		r.end(r.mismatchError())
	case proof:
		r.mismatch = time.Time{}
		r.watch.learn(found)
		if !r.loaded && r.watch.lease.valid() {
			r.key, r.loaded = key, true
			return
		}
	case refusal, outage:
		r.watch.learn(found)
	}
	key.Wipe()
}

// refusal is why the root may not be used now; nil when it may, or when the key
// store must be asked to find out.
func (r *root) refusal() error {
	if err := r.watch.refusal(); err != nil {
		return err
	}
	if !r.mismatch.IsZero() && time.Since(r.compared) < RecoverEvery {
		return r.mismatchError()
	}
	return nil
}

func (r *root) mismatchError() *UnusableError {
	return &UnusableError{
		Reason: reasonMismatch, Since: r.mismatch, RetryAfter: retryRevoked, Revoked: true,
		Close: time.Since(r.mismatch) >= r.watch.k.c.Policy.hold(),
	}
}

// end wipes the root's key and ends its documents.
func (r *root) end(err error) {
	r.wipe()
	for d := range r.documents {
		d.end(err)
	}
	clear(r.documents)
}

// attach makes the root for rec and puts it on its watch.
func (k *Keeper) attach(id envelope.ResourceID, rec *wrapRecord) *root {
	r := &root{id: id, rec: rec, watch: k.watchFor(rec), documents: map[*Document]struct{}{}}
	k.roots[id] = r
	r.watch.members[r] = struct{}{}
	return r
}

// forget ends a root and drops it.
func (k *Keeper) forget(r *root, err error) {
	r.end(err)
	r.watch.leave(r)
	delete(k.roots, r.id)
}

// examine asks the key store about one wrap record: is its key as it should be, and
// does it unwrap to the root key that was committed to? The key is valid only with
// the verdict proof.
func (k *Keeper) examine(ctx context.Context, id envelope.ResourceID, rec *wrapRecord, why reason) (envelope.RootKey, evidence) {
	u := k.kek(rec.Identity, rec.kid.IsZero(), why)
	if why != forProbe { // which speaks for all resources under the key
		u = u.of(id)
	}
	var found evidence
	described, describeErr := u.describe(ctx, rec.kid)
	if describeErr == nil {
		found.described, found.expires, found.recovery = true, described.Expires, described.RecoveryLevel
		// Key Vault unwraps with an expired key, and shows a disabled one: what it
		// says about the key counts, not only whether it works.
		if found.reason, found.final = unfit(described, time.Now()); found.reason != "" {
			found.verdict = refusal
			return envelope.RootKey{}, found
		}
	}
	if isDenied(describeErr) {
		found.missing = append(found.missing, opGet)
	}
	found.asked = time.Now()
	material, err := u.unwrap(ctx, rec.wrapped())
	defer clear(material)
	if err != nil {
		found.judge(err)
		if isDenied(err) {
			found.missing = append(found.missing, opUnwrap)
		}
		// Without permission to get, unwrap alone decides. Any other refusal stands,
		// though unwrap had no answer.
		var d evidence
		if describeErr != nil && found.verdict == outage {
			if d.judge(describeErr); d.verdict == refusal && d.reason != reasonAccessDenied {
				found.verdict, found.reason, found.dns = d.verdict, d.reason, d.dns
			}
		}
		found.whetherPurged(ctx, u, rec.kid)
		return envelope.RootKey{}, found
	}
	key, err := envelope.ParseRootKey(material)
	if err != nil {
		found.verdict = mismatch
		return envelope.RootKey{}, found
	}
	if !committed(key, id, rec) {
		key.Wipe()
		found.verdict = mismatch
		return envelope.RootKey{}, found
	}
	found.verdict = proof
	return key, found
}

func committed(key envelope.RootKey, id envelope.ResourceID, rec *wrapRecord) bool {
	c := key.Commitment(id, rec.Epoch)
	return subtle.ConstantTimeCompare(c[:], rec.Commitment) == 1
}

// unfit says what in a key's own attributes forbids its use now; final when it needs
// no second look.
func unfit(key keystore.Key, now time.Time) (reason string, final bool) {
	switch {
	case !key.Enabled:
		return reasonDisabled, false
	case !key.Expires.IsZero() && !now.Before(key.Expires):
		return reasonExpired, true
	case now.Before(key.NotBefore):
		return reasonNotYetValid, true
	}
	return "", false
}

// UnusableError says why a resource's data cannot be served, and until when to wait.
// Neither Revoked nor Checking: the key store does not answer.
type UnusableError struct {
	Reason     string // KeyDisabled, KeyExpired, KeyDeleted, AccessDenied, UnreachableTimeout, ...
	Since      time.Time
	RetryAfter time.Duration
	Revoked    bool // the key store refused, and said so again when it was asked
	Checking   bool // not known yet: it refused once and is being asked again, or was not asked in time
	Rollback   bool // the document's log was put back to an older state; an operator must decide
	Close      bool // revoked for longer than clients are held: they are told to go away for good
}

func (e *UnusableError) Error() string { return "custody: the key is unusable: " + e.Reason }

// The reasons. They are shown to clients and operators and never change meaning.
const (
	reasonDisabled     = "KeyDisabled"
	reasonExpired      = "KeyExpired"
	reasonNotYetValid  = "KeyNotYetValid"
	reasonDeleted      = "KeyDeleted" // and may be recovered, as far as is known
	reasonPurged       = "KeyPurged"  // there is no way back
	reasonVaultDeleted = "VaultDeleted"
	reasonAccessDenied = "AccessDenied"
	reasonUnclassified = "AccessDeniedUnclassified"
	reasonFirewall     = "FirewallDenied"
	reasonIdentity     = "IdentityUnavailable"
	reasonMismatch     = "KeyMismatch"        // the key store gave another key than the one wrapped
	reasonUnreachable  = "UnreachableTimeout" // no answer for longer than Grace, or none yet
	reasonLease        = "LeaseExpired"       // nobody asked the key store in time: this process was stuck
	reasonStopping     = "Stopping"           // this process stops
	reasonDrill        = "Drill"              // nobody refuses: it is played
)

// How long clients are told to wait.
const (
	retrySuspect = ConfirmAfter
	retryOutage  = 30 * time.Second
	retryRevoked = 60 * time.Second
)

func outageError(since time.Time) *UnusableError {
	return &UnusableError{Reason: reasonUnreachable, Since: since, RetryAfter: retryOutage}
}

func leaseError() *UnusableError {
	return &UnusableError{Reason: reasonLease, Since: time.Now(), RetryAfter: retrySuspect, Checking: true}
}

func stoppingError() *UnusableError {
	return &UnusableError{Reason: reasonStopping, Since: time.Now(), RetryAfter: retrySuspect, Checking: true}
}

// reasonOf maps a considered refusal to its reason.
func reasonOf(e *keystore.Error) string {
	switch e.Class {
	case keystore.Denied:
		return reasonAccessDenied
	case keystore.Firewall:
		return reasonFirewall
	case keystore.Disabled:
		return reasonDisabled
	case keystore.Expired:
		return reasonExpired
	case keystore.NotFound:
		return reasonDeleted
	case keystore.VaultNotFound:
		return reasonVaultDeleted
	case keystore.IdentityFailed:
		return reasonIdentity
	case keystore.Invalid:
		return reasonMismatch
	case keystore.DeniedUnclassified, keystore.Unreachable, keystore.Throttled:
	}
	return reasonUnclassified
}

func isDenied(err error) bool {
	var answer *keystore.Error
	return errors.As(err, &answer) && answer.Class == keystore.Denied
}

// whetherPurged finds out whether a key that is not there can be recovered. It goes on
// being asked for either way: what a vault says must not be what makes data lost.
func (e *evidence) whetherPurged(ctx context.Context, u kek, key keystore.URL) {
	if e.verdict != refusal || e.reason != reasonDeleted {
		return
	}
	gone, err := u.deleted(ctx, key)
	var answer *keystore.Error
	switch {
	case err == nil:
		e.purge = gone.Purge
	case errors.As(err, &answer) && answer.Class == keystore.NotFound:
		e.reason = reasonPurged
	}
}

// judge turns a failed call into evidence.
func (e *evidence) judge(err error) {
	var answer *keystore.Error
	if !errors.As(err, &answer) || answer.Outage() {
		e.verdict = outage
		return
	}
	e.verdict, e.reason = refusal, reasonOf(answer)
	e.dns = answer.Class == keystore.VaultNotFound && answer.Status == 0
	if answer.Class == keystore.Invalid && answer.Op == opUnwrap {
		e.verdict = mismatch // this record is damaged; the key may serve others well
	}
}
