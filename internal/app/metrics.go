package app

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newRegistry returns this server's registry of metrics, with those of the process and
// of Go. There is no global one: two servers in one process do not mix.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// metricsHandler serves the metrics listener, and nothing else there.
func metricsHandler(r *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	// One scrape looks at every document and socket: a few at a time will do.
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return mux
}
