package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// newMetrics registers what is to be watched; it returns the counter of takeovers.
func newMetrics(r prometheus.Registerer, n *Node) prometheus.Counter {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tidelock_cluster_serving", Help: "1 while this node holds its lease in the cluster and may serve documents.",
	}, func() float64 {
		if n.Serving() {
			return 1
		}
		return 0
	})
	for _, state := range []State{Active, Draining, Dead} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidelock_cluster_nodes", Help: "Nodes as this one sees them, by state.",
			ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 {
			count := 0
			for _, m := range n.Members() {
				if m.State == state {
					count++
				}
			}
			return float64(count)
		})
	}
	return f.NewCounter(prometheus.CounterOpts{
		Name: "tidelock_cluster_takeovers_total", Help: "Documents that this node took over from a dead one.",
	})
}
