package metered

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

type metered struct {
	store.Store
	appendErrors, corruptReads prometheus.Counter
}

// New returns st with its failures counted by metrics of r.
func New(st store.Store, r prometheus.Registerer) store.Store {
	f := promauto.With(r)
	return &metered{
		Store: st,
		appendErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_store_append_errors_total",
			Help: "Appends that failed or whose outcome is unknown; not those that another writer fenced.",
		}),
		corruptReads: f.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_store_corrupt_reads_total",
			Help: "Reads that met a damaged or missing value.",
		}),
	}
}

func (m *metered) Append(ctx context.Context, a store.Append) error {
	err := m.Store.Append(ctx, a)
	switch {
	// The first three are how writers and processes end.
	case err == nil, errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrClosed), ctx.Err() != nil:
	default:
		m.appendErrors.Inc()
	}
	return err
}

func (m *metered) Read(ctx context.Context, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (store.Range, error) {
	r, err := m.Store.Read(ctx, doc, from, to, maxBytes)
	m.read(err)
	return r, err
}

func (m *metered) GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (envelope.Sealed, error) {
	s, err := m.Store.GetObject(ctx, doc, name)
	m.read(err)
	return s, err
}

func (m *metered) GetRow(ctx context.Context, key store.RowKey) (store.Row, error) {
	r, err := m.Store.GetRow(ctx, key)
	m.read(err)
	return r, err
}

func (m *metered) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) ([]store.Row, error) {
	rows, err := m.Store.ListRows(ctx, table, partition, after, limit)
	m.read(err)
	return rows, err
}

func (m *metered) ScanRows(ctx context.Context, after store.RowKey, limit int) ([]store.Row, error) {
	rows, err := m.Store.ScanRows(ctx, after, limit)
	m.read(err)
	return rows, err
}

func (m *metered) read(err error) {
	if errors.Is(err, store.ErrCorrupt) {
		m.corruptReads.Inc()
	}
}
