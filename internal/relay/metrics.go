package relay

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/tidelock/tidelock/internal/history"
	"github.com/tidelock/tidelock/internal/sequencer"
)

// longLogOps is how many ops may follow a document's last summary before its log
// counts as long. Clients summarize after some hundreds; whoever loads the document
// reads them all.
const longLogOps = 5000

// otherLabel is the label of what is in no closed set.
const otherLabel = "other"

// nackCodes are the codes that nacks have.
var nackCodes = []int{400, 403, 413, 429, 500, 503}

// The ends of a document's load.
const (
	loadDone    = "loaded"
	loadUnknown = "unknown" // there is no such document
	loadKey     = "key"     // its key cannot be used
	loadStopped = "stopped" // the server stops
	loadDamaged = "damaged" // what is stored does not open, or is not all there
	loadFailed  = "failed"

	loadRolledBack = "rollback" // its log was put back to an older state
)

// What is passed on to other nodes.
const (
	forwardedREST   = "rest"
	forwardedSocket = "socket"
)

var loadResults = []string{loadDone, loadUnknown, loadKey, loadStopped, loadDamaged, loadFailed, loadRolledBack}

// restClasses are the classes of answers, by the first digit of their status; the
// one at 0 is for requests whose clients left before there was an answer.
var restClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// metrics count what the relay does. Every label value is in a closed set and has its
// counter from the start, so counting an op costs an atomic addition and no memory.
// What can be read off the documents and sockets is read when somebody asks; see
// gauges.
type metrics struct {
	readers, writers prometheus.Gauge // sessions

	ops, signals          prometheus.Counter
	nacks                 map[int]prometheus.Counter  // 0: other codes
	witnesses             map[bool]prometheus.Counter // by whether an anchor contradicts
	summaryAck, summaryNo prometheus.Counter
	appendSeconds         prometheus.Observer
	loadSeconds           map[string]prometheus.Observer
	rest                  map[string]*restCounters // by route pattern, and otherLabel
	forwarded             map[string]prometheus.Counter
}

type restCounters [len(restClasses)]prometheus.Counter

// newMetrics makes the metrics and registers them with r, if it is not nil.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	sessions := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_relay_sessions", Help: "Sessions connected now, by mode.",
	}, []string{"mode"})
	nacks := f.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_relay_nacks_total", Help: "Nacks sent, by code.",
	}, []string{"code"})
	summaries := f.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_relay_summaries_total", Help: "Summaries decided on, by verdict.",
	}, []string{"verdict"})
	loads := f.NewHistogramVec(prometheus.HistogramOpts{
		Name: "tidelock_relay_document_load_seconds", Help: "Time to load a document, by result.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30},
	}, []string{"result"})
	requests := f.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_relay_rest_requests_total", Help: "REST requests, by route and class of status; none: the client left first.",
	}, []string{"route", "status"})

	witnesses := f.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_relay_witness_claims_total", Help: "Clients that claim to have seen an op above the head of their document, by whether a head anchor contradicts them.",
	}, []string{"contradicted"})

	m := &metrics{
		witnesses: map[bool]prometheus.Counter{false: witnesses.WithLabelValues("no"), true: witnesses.WithLabelValues("yes")},
		readers:   sessions.WithLabelValues(modeRead),
		writers:   sessions.WithLabelValues(modeWrite),
		ops: f.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_relay_ops_sequenced_total", Help: "Ops made durable and sent to sessions, joins, leaves and verdicts on summaries included.",
		}),
		signals: f.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_relay_signals_total", Help: "Signals of clients that were passed on.",
		}),
		nacks:      map[int]prometheus.Counter{0: nacks.WithLabelValues(otherLabel)},
		summaryAck: summaries.WithLabelValues("ack"),
		summaryNo:  summaries.WithLabelValues("nack"),
		appendSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "tidelock_relay_append_seconds", Help: "Time to make a batch of ops durable.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
		loadSeconds: map[string]prometheus.Observer{},
		rest:        map[string]*restCounters{},
	}
	for _, code := range nackCodes {
		m.nacks[code] = nacks.WithLabelValues(strconv.Itoa(code))
	}
	forwarded := f.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_relay_forwarded_total", Help: "Requests and sockets passed on to the node of their document.",
	}, []string{"kind"})
	m.forwarded = map[string]prometheus.Counter{
		forwardedREST: forwarded.WithLabelValues(forwardedREST), forwardedSocket: forwarded.WithLabelValues(forwardedSocket),
	}
	for _, result := range loadResults {
		m.loadSeconds[result] = loads.WithLabelValues(result)
	}
	routes := []string{otherLabel}
	for _, row := range slices.Concat(restRoutes, localRoutes) {
		routes = append(routes, row.pattern())
	}
	for _, route := range routes {
		counters := &restCounters{}
		for i, class := range restClasses {
			counters[i] = requests.WithLabelValues(route, class)
		}
		m.rest[route] = counters
	}
	return m
}

// sessions is the gauge that s is counted in.
func (m *metrics) sessions(s *session) prometheus.Gauge {
	if s.writer {
		return m.writers
	}
	return m.readers
}

func (m *metrics) nacked(code int) {
	c := m.nacks[code]
	if c == nil {
		c = m.nacks[0]
	}
	c.Inc()
}

func (m *metrics) judged(v history.Verdict) {
	if v.Type == sequencer.TypeSummaryAck {
		m.summaryAck.Inc()
	} else {
		m.summaryNo.Inc()
	}
}

// answered counts an answer to a REST request; status is 0 when there was none.
func (m *metrics) answered(route string, status int) {
	counters := m.rest[route]
	if counters == nil {
		counters = m.rest[otherLabel]
	}
	class := status / 100
	if class >= len(restClasses) {
		class = 0
	}
	counters[class].Inc()
}

// tail is what a document's goroutine says of its log for others to read.
type tail struct {
	ops       atomic.Int64 // since what the last summary holds
	undecided atomic.Int64 // summaries
	summaryAt atomic.Int64 // when that summary was accepted, ms since 1970
}

// noteTail brings the tail up to date: three stores a batch.
func (d *document) noteTail() {
	d.tail.ops.Store(int64(d.durable - d.state.HeadSeq))
	d.tail.undecided.Store(int64(len(d.state.Pending)))
	if d.state.HeadAt > 0 { // or it is the document's first, and its creation was noted
		d.tail.summaryAt.Store(d.state.HeadAt)
	}
}

// gauges reads off the server what is true now.
type gauges struct{ s *Server }

var _ prometheus.Collector = gauges{}

var (
	documentsGauge = prometheus.NewDesc("tidelock_relay_documents",
		"Documents loaded.", nil, nil)
	longLogsGauge = prometheus.NewDesc("tidelock_relay_long_log_documents",
		"Loaded documents with more than 5000 ops since their last summary.", nil, nil)
	logOpsGauge = prometheus.NewDesc("tidelock_relay_unsummarized_max_ops",
		"Most ops since the last summary of a loaded document.", nil, nil)
	summaryAgeGauge = prometheus.NewDesc("tidelock_relay_summary_age_max_seconds",
		"Age of the oldest last summary among the documents of tidelock_relay_long_log_documents; 0: there are none.", nil, nil)
	queueGauge = prometheus.NewDesc("tidelock_relay_broadcast_queue_bytes",
		"Bytes that wait to be written, of all sockets.", nil, nil)
)

func (gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{documentsGauge, longLogsGauge, logOpsGauge, summaryAgeGauge, queueGauge} {
		to <- d
	}
}

func (g gauges) Collect(to chan<- prometheus.Metric) {
	now := time.Now().UnixMilli()
	var loaded, long int
	var most, oldest int64
	g.s.mu.Lock()
	for _, e := range g.s.documents {
		d := e.loaded()
		if d == nil {
			continue
		}
		loaded++
		ops := d.tail.ops.Load()
		most = max(most, ops)
		if ops > longLogOps {
			long++
			oldest = max(oldest, now-d.tail.summaryAt.Load())
		}
	}
	g.s.mu.Unlock()
	for desc, v := range map[*prometheus.Desc]float64{
		documentsGauge:  float64(loaded),
		longLogsGauge:   float64(long),
		logOpsGauge:     float64(most),
		summaryAgeGauge: float64(oldest) / 1000,
		queueGauge:      float64(g.s.io.QueuedBytes()),
	} {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v)
	}
}

// loaded returns e's document, or nil while there is none.
func (e *entry) loaded() *document {
	select {
	case <-e.ready:
		return e.doc // nil if the load failed
	default:
		return nil
	}
}
