package custody

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/tidelock/tidelock/internal/envelope"
)

// metrics show whether the promise of the key is kept. They name no key and no
// resource: the log does, and Status.
type metrics struct {
	probes      map[verdict]prometheus.Counter
	enforcement prometheus.Observer
	recovery    prometheus.Observer
	rollbacks   prometheus.Counter
}

var verdictNames = map[verdict]string{proof: "proof", refusal: "refusal", outage: "outage", mismatch: "mismatch"}

// newMetrics makes the metrics and registers them with r, if it is not nil.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	probes := f.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_custody_probes_total", Help: "Probes of keys in use, by outcome.",
	}, []string{"outcome"})
	m := &metrics{
		probes: map[verdict]prometheus.Counter{},
		enforcement: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "cmk_revocation_to_enforcement_seconds",
			Help:    "Time from the first refusal of a key in use until nothing under it is served; one for each key and identity.",
			Buckets: []float64{1, 5, 10, 15, 20, 25, 30, 35, 45, 60, 90, 120},
		}),
		recovery: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "cmk_recovery_seconds",
			Help:    "Time from the last failed look at an unusable key until it is usable: at most so long service was missing after the key was back.",
			Buckets: []float64{1, 2.5, 5, 10, 12.5, 15, 20, 30, 60},
		}),
		rollbacks: f.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_custody_rollbacks_suspected_total", Help: "Times a document was asked for and not served, because its log is not what its head anchor says.",
		}),
	}
	for v, name := range verdictNames {
		m.probes[v] = probes.WithLabelValues(name)
	}
	return m
}

// enforced notes that nothing under the key is served from now on.
func (m *metrics) enforced(since time.Time) { m.enforcement.Observe(time.Since(since).Seconds()) }

// recovered notes that a key is usable again: failed is the last look that did not
// find it so, unusable is since when nobody could use it.
func (m *metrics) recovered(failed, unusable time.Time) {
	m.recovery.Observe(min(time.Since(failed), time.Since(unusable)).Seconds())
}

// firstRefusal is when the key store first refused, or when the key expired. It is
// asked when the watch is about to become unusable.
func (w *watch) firstRefusal() time.Time {
	switch now := time.Now(); {
	case !w.noHost.IsZero():
		return w.noHost
	case w.state == Suspect:
		return w.since
	case !w.expires.IsZero() && w.expires.Before(now):
		return w.expires
	default:
		return now
	}
}

// gauges reads off the keeper what is true now.
type gauges struct{ k *Keeper }

var _ prometheus.Collector = gauges{}

var (
	resourcesGauge = prometheus.NewDesc("tidelock_custody_resources",
		"Relay resources whose key was needed since the start, by its state.", []string{"state"}, nil)
	leaseAgeGauge = prometheus.NewDesc("tidelock_custody_lease_age_max_seconds",
		"Time since the oldest last proof of a key in use; 0: none is in use.", nil, nil)
	rotationLagGauge = prometheus.NewDesc("tidelock_custody_rotation_lag_max_seconds",
		"Time since a new version of a key was first seen that relays should follow and do not; the longest. 0: none.", nil, nil)
	expiryGauge = prometheus.NewDesc("tidelock_custody_key_expiry_min_seconds",
		"Time until the first expiry of a key in use; absent: none expires.", nil, nil)
)

func (gauges) Describe(to chan<- *prometheus.Desc) {
	to <- resourcesGauge
	to <- leaseAgeGauge
	to <- rotationLagGauge
	to <- expiryGauge
}

func (g gauges) Collect(to chan<- prometheus.Metric) {
	states := map[State]int{Healthy: 0, Warned: 0, Suspect: 0, Unreachable: 0, Unusable: 0}
	var lag time.Duration
	var expires time.Time
	for _, r := range g.k.resources() {
		// Its root may be forgotten, or not looked at yet.
		s := g.k.Status(r)
		if s.State != "" {
			states[s.State]++
		}
		lag = max(lag, s.RotationLag)
		if !s.Expires.IsZero() && (expires.IsZero() || s.Expires.Before(expires)) {
			expires = s.Expires
		}
	}
	to <- prometheus.MustNewConstMetric(rotationLagGauge, prometheus.GaugeValue, lag.Seconds())
	if !expires.IsZero() {
		to <- prometheus.MustNewConstMetric(expiryGauge, prometheus.GaugeValue, time.Until(expires).Seconds())
	}
	for s, n := range states {
		to <- prometheus.MustNewConstMetric(resourcesGauge, prometheus.GaugeValue, float64(n), string(s))
	}
	to <- prometheus.MustNewConstMetric(leaseAgeGauge, prometheus.GaugeValue, g.k.oldestProof().Seconds())
}

// newServiceKeyMetrics registers what tells of the service key.
func newServiceKeyMetrics(s *ServiceKeys) {
	f := promauto.With(s.c.Metrics)
	gauge := func(name, help string, of func(serviceKeyAge) time.Duration) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if now := s.measured.Load(); now != nil {
				return of(*now).Seconds()
			}
			return 0
		})
	}
	gauge("tidelock_custody_service_key_age_seconds", "Time since the newest version of the service key began to seal.",
		func(k serviceKeyAge) time.Duration { return time.Since(k.since) })
	gauge("tidelock_custody_service_key_lag_seconds", "Time since the newest version of the service key began to seal, while something is under an older one; 0: nothing is.",
		func(k serviceKeyAge) time.Duration {
			if k.done {
				return 0
			}
			return time.Since(k.since)
		})
}

// resources lists those whose roots are known.
func (k *Keeper) resources() []envelope.ResourceID {
	k.mu.Lock()
	defer k.mu.Unlock()
	ids := make([]envelope.ResourceID, 0, len(k.roots))
	for id := range k.roots {
		ids = append(ids, id)
	}
	return ids
}

// oldestProof is how long ago the oldest last proof of a key in use was.
func (k *Keeper) oldestProof() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	var oldest time.Duration
	for _, w := range k.watches {
		if w.lease.valid() {
			oldest = max(oldest, time.Since(w.lastProof))
		}
	}
	return oldest
}
