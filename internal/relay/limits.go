package relay

import (
	"cmp"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
)

// Limits of a server that an operator may change; docs/limits.md has all of them.
// A zero field takes the default given, a zero rate of a tenant is no limit.
//
// Rates are averages, in units per second; twice as much may come at once. Ops and
// signals count one unit each, and one more per 4 KiB of the message they come in.
type Limits struct {
	ClientsPerDocument int   // sessions of one document; 100 000
	UploadBytes        int64 // contents of one summary upload or attachment blob; 28 MiB
	DocumentBytes      int64 // all blobs of a summary; 95 MiB
	UploadsBytes       int64 // request bodies of all uploads under way; 256 MiB, at least two of the largest

	// OpRetention is how long ops are kept that no summary in use needs; 0: for ever.
	OpRetention time.Duration

	ClientOps     int // of one session; 20 000
	ClientSignals int // of one session; 500

	// Of all clients of one tenant together. They are counted once a token has shown
	// that the caller is the tenant's: strangers cannot use up what is the tenant's.
	TenantConnects int // connect_document
	TenantOps      int
	TenantSignals  int
	TenantRequests int // REST
}

// DefaultLimits are what a zero Limits stands for.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	l.ClientsPerDocument = cmp.Or(l.ClientsPerDocument, 100_000)
	l.UploadBytes = cmp.Or(l.UploadBytes, history.MaxUploadBytes)
	l.DocumentBytes = cmp.Or(l.DocumentBytes, history.MaxDocumentBytes)
	l.UploadsBytes = cmp.Or(l.UploadsBytes, max(256<<20, 2*l.uploadBody()))
	// Far above what a browser does, and what the benchmark's closed loop can.
	l.ClientOps = cmp.Or(l.ClientOps, 20_000)
	// Eight values that follow the pointer at 60 Hz. Everyone gets each signal.
	l.ClientSignals = cmp.Or(l.ClientSignals, 500)
	return l
}

// The largest sizes that may be set: an upload is held in memory, more than once,
// while it is stored.
const (
	mostUploadBytes   = 512 << 20
	mostDocumentBytes = 4 << 30
	mostUploadsBytes  = 1 << 40
)

// leastOpRetention is the shortest time to keep ops that is taken: clients load for
// seconds, and come back from minutes without a network.
const leastOpRetention = time.Minute

// Check says which limit is out of its range, by the name of its flag.
func (l Limits) Check() error {
	l = l.withDefaults()
	for _, n := range []struct {
		flag        string
		value, most int64
	}{
		{"--max-clients-per-document", int64(l.ClientsPerDocument), 1_000_000},
		{"--max-upload-bytes", l.UploadBytes, mostUploadBytes},
		{"--max-document-bytes", l.DocumentBytes, mostDocumentBytes},
		{"--max-uploads-bytes", l.UploadsBytes, mostUploadsBytes},
		{"--client-ops-per-second", int64(l.ClientOps), math.MaxInt32 / burstSeconds},
		{"--client-signals-per-second", int64(l.ClientSignals), math.MaxInt32 / burstSeconds},
		{"--tenant-connects-per-second", int64(l.TenantConnects), math.MaxInt32 / burstSeconds},
		{"--tenant-ops-per-second", int64(l.TenantOps), math.MaxInt32 / burstSeconds},
		{"--tenant-signals-per-second", int64(l.TenantSignals), math.MaxInt32 / burstSeconds},
		{"--tenant-requests-per-second", int64(l.TenantRequests), math.MaxInt32 / burstSeconds},
	} {
		if n.value < 0 || n.value > n.most {
			return fmt.Errorf("%s %d must be between 0 and %d", n.flag, n.value, n.most)
		}
	}
	if least := 2 * l.uploadBody(); l.UploadsBytes < least {
		return fmt.Errorf("--max-uploads-bytes %d is less than %d: half of it, what one tenant may take, must hold an upload of --max-upload-bytes", l.UploadsBytes, least)
	}
	if l.OpRetention != 0 && l.OpRetention < leastOpRetention {
		return fmt.Errorf("--op-retention %v must be 0, to keep ops for ever, or at least %v", l.OpRetention, leastOpRetention)
	}
	if l.UploadBytes > l.DocumentBytes {
		return fmt.Errorf("--max-upload-bytes %d is more than --max-document-bytes %d: no document could take such an upload", l.UploadBytes, l.DocumentBytes)
	}
	return nil
}

// uploadBody is the largest request body with an upload in it: contents within the
// limit and what JSON and base64 add.
func (l Limits) uploadBody() int64 { return l.UploadBytes*4/3 + 1<<20 }

func (l Limits) history() history.Limits {
	return history.Limits{UploadBytes: l.UploadBytes, DocumentBytes: l.DocumentBytes}
}

const (
	// burstSeconds is how many seconds' worth of a rate may come at once.
	burstSeconds = 2
	// unitBytes is how much of a message counts as one op or signal more.
	unitBytes = 4 << 10
	// socketConnects is the rate of connect_document on one socket: each one may load
	// a document. Drivers that multiplex connect once per document.
	socketConnects = maxSessionsPerSocket / burstSeconds
	// maxRefusals is how many messages over a rate a socket may send: clients end the
	// connection on the first refusal, so who goes on does not listen.
	maxRefusals = 100
	// maxOpsPerMessage bounds ops or signals in one message, before any of them is
	// looked at. As many of the shortest ops fill a frame, so clients do not meet it.
	maxOpsPerMessage = 16 << 10
	// maxUndecided is how many summaries of one document may wait to be decided on. Each is
	// held until it is, in every checkpoint too, and deciding takes longer than proposing.
	// Fluid clients elect one of theirs to propose, and it waits for the answer.
	maxUndecided = 16
	// maxOpUnits is the size of an op: of its contents in UTF-16 code units, as
	// clients count, who refuse to send more. maxOpBytes holds besides.
	maxOpUnits = 700 << 10
	// connectWithin is how long a socket may be without a session.
	connectWithin = 30 * time.Second
)

// bucket is a token bucket; a nil one never runs out. It is safe for concurrent use.
type bucket struct{ limiter *rate.Limiter }

func newBucket(perSecond int) *bucket {
	if perSecond == 0 {
		return nil
	}
	return &bucket{rate.NewLimiter(rate.Limit(perSecond), perSecond*burstSeconds)}
}

// take takes n units, or none and returns how long to wait for them: whole seconds,
// because that is what clients are told. What is larger than the bucket takes all
// of it, so that it comes through in the end.
func (b *bucket) take(n int) (wait time.Duration) {
	if b == nil {
		return 0
	}
	now := time.Now()
	r := b.limiter.ReserveN(now, min(n, b.limiter.Burst()))
	wait = r.DelayFrom(now)
	if wait == 0 {
		return 0
	}
	r.CancelAt(now)
	return (wait + time.Second - 1).Truncate(time.Second)
}

// takeAll takes n units of every bucket, in order, until one has not enough.
func takeAll(n int, buckets ...*bucket) (wait time.Duration) {
	for _, b := range buckets {
		if wait = b.take(n); wait > 0 {
			return wait
		}
	}
	return 0
}

// usage is what the clients of one tenant share.
type usage struct {
	connects, ops, signals, requests *bucket
	uploads                          *semaphore.Weighted // bytes, half of what all tenants may have
}

// tenantUsage has the usage of every tenant that was ever asked for by its own
// tokens, so there are no more entries than tenants.
type tenantUsage struct {
	limits Limits

	mu      sync.Mutex
	tenants map[string]*usage
}

func newTenantUsage(l Limits) *tenantUsage {
	return &tenantUsage{limits: l, tenants: map[string]*usage{}}
}

func (t *tenantUsage) of(tenantID string) *usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.tenants[tenantID]
	if u == nil {
		u = &usage{
			connects: newBucket(t.limits.TenantConnects),
			ops:      newBucket(t.limits.TenantOps),
			signals:  newBucket(t.limits.TenantSignals),
			requests: newBucket(t.limits.TenantRequests),
			uploads:  semaphore.NewWeighted(t.limits.UploadsBytes / 2),
		}
		t.tenants[tenantID] = u
	}
	return u
}

func (t *tenantUsage) forget(tenantID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tenants, tenantID)
}

// throttledError says that a rate is used up.
type throttledError struct{ retryAfter time.Duration }

func (e *throttledError) Error() string { return throttledMessage }

const throttledMessage = "Too many requests: wait, then try again."

// takeConnect counts one connect_document.
func (u *usage) takeConnect() error { return asThrottled(u.connects.take(1)) }

// takeRequest counts one REST request.
func (u *usage) takeRequest() error { return asThrottled(u.requests.take(1)) }

func asThrottled(wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	return &throttledError{wait}
}

// messageUnits is what a message with ops or signals counts against rates.
func messageUnits(elements, bytes int) int { return elements + bytes/unitBytes }

// countElements counts the elements of arg, a JSON array: those that are arrays
// themselves by their own elements, and by one if they have none. It allocates nothing.
func countElements(arg []byte) int {
	n, depth := 0, 0
	empty := true   // nothing yet in the innermost list
	listed := false // the last element of arg was a list, counted when it ended
	for i := 0; i < len(arg); i++ {
		c := arg[i]
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		case '"':
			for i++; i < len(arg) && arg[i] != '"'; i++ {
				if arg[i] == '\\' {
					i++
				}
			}
		case '{':
			depth += deep
		case '}':
			depth -= deep
		case '[':
			depth++
		case ',':
			if depth == 2 || depth == 1 && !listed {
				n++
			}
		case ']':
			if depth == 2 || depth == 1 && !listed && !empty {
				n++
			}
			depth--
		}
		empty = c == '['
		listed = c == ']' && depth == 1
	}
	return n
}

// deep puts what is in an object below all lists that are counted.
const deep = 1 << 20

// utf16Units counts the UTF-16 code units that a JSON value takes as clients count
// them: those of the text if it is a string, else those of its encoding.
func utf16Units(raw []byte) int {
	if len(raw) < 2 || raw[0] != '"' {
		return utf16Length(raw)
	}
	n := 0
	for text := raw[1 : len(raw)-1]; len(text) > 0; {
		skip, units := 1, 1
		switch c := text[0]; {
		case c == '\\' && len(text) > 1 && text[1] == 'u':
			skip = min(6, len(text))
		case c == '\\':
			skip = min(2, len(text))
		default:
			units = unitsOf(c)
		}
		n += units
		text = text[skip:]
	}
	return n
}

func utf16Length(text []byte) int {
	n := 0
	for _, c := range text {
		n += unitsOf(c)
	}
	return n
}

// unitsOf counts a UTF-8 sequence at its first byte: two units from four bytes on.
func unitsOf(c byte) int {
	switch {
	case c&0xC0 == 0x80: // not the first byte
		return 0
	case c >= 0xF0:
		return 2
	}
	return 1
}

// opTooLarge says whether an op as it came in is over a limit.
func opTooLarge(op sequencer.Op) bool {
	return len(op.Contents) > maxOpUnits && utf16Units(op.Contents) > maxOpUnits
}
