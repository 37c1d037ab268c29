package postgres

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics show whether the database or the way to it is what we wait for.
type metrics struct {
	batch  prometheus.Observer
	commit prometheus.Observer
}

// newMetrics makes the metrics of e and registers them with r, if it is not nil.
func newMetrics(r prometheus.Registerer, e *Engine) metrics {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tidelock_database_connections_in_use", Help: "Connections to the database that a call holds.",
	}, func() float64 { return float64(e.pool.Stat().AcquiredConns()) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "tidelock_database_connection_waits_total", Help: "Calls that had to wait for a connection, as all were in use or none was open.",
	}, func() float64 { return float64(e.pool.Stat().EmptyAcquireCount()) })
	return metrics{
		batch: f.NewHistogram(prometheus.HistogramOpts{
			Name: "tidelock_database_append_batch", Help: "Documents that shared one commit.", Buckets: prometheus.ExponentialBuckets(1, 4, 6),
		}),
		commit: f.NewHistogram(prometheus.HistogramOpts{
			Name: "tidelock_database_append_seconds", Help: "Time from sending a batch of appends until it is committed or has failed.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
}
