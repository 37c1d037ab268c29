package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

func newRow(key store.RowKey, revision int64, value []byte) (store.Row, error) {
	r, err := unsigned(revision)
	if err != nil {
		return store.Row{}, err
	}
	s, err := envelope.ParseSealed(value)
	if err != nil {
		return store.Row{}, corrupt("row", err)
	}
	return store.Row{RowKey: key, Value: s, Revision: r}, nil
}

// GetRow implements store.Rows.
func (e *Engine) GetRow(ctx context.Context, key store.RowKey) (row store.Row, err error) {
	err = e.read(ctx, "get a row", func(ctx context.Context, c *pgx.Conn) error {
		var revision int64
		var value []byte
		err := c.QueryRow(ctx, `SELECT revision, value FROM sealed_rows WHERE kind = $1 AND partition = $2 AND name = $3`,
			string(key.Table), key.Partition[:], key.Name[:]).Scan(&revision, &value)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		if err != nil {
			return err
		}
		row, err = newRow(key, revision, value)
		return err
	})
	return row, err
}

// ListRows implements store.Rows.
func (e *Engine) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) (out []store.Row, err error) {
	from := after[:]
	if after == (envelope.Name{}) {
		from = []byte{} // before every name, the zero one too
	}
	err = e.read(ctx, "list rows", func(ctx context.Context, c *pgx.Conn) error {
		out = nil
		rows, err := c.Query(ctx, `
			SELECT name, revision, value FROM sealed_rows
			WHERE kind = $1 AND partition = $2 AND name > $3 ORDER BY name LIMIT $4`, string(table), partition[:], from, limit)
		if err != nil {
			return err
		}
		var name, value []byte
		var revision int64
		_, err = pgx.ForEachRow(rows, []any{&name, &revision, &value}, func() error {
			if len(name) != len(envelope.Name{}) {
				return fmt.Errorf("%w: a row's name of %d bytes", store.ErrCorrupt, len(name))
			}
			row, err := newRow(store.RowKey{Table: table, Partition: partition, Name: envelope.Name(name)}, revision, value)
			value = nil // the next row gets memory of its own
			out = append(out, row)
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ScanRows implements store.Store.
func (e *Engine) ScanRows(ctx context.Context, after store.RowKey, limit int) (out []store.Row, err error) {
	err = e.read(ctx, "scan rows", func(ctx context.Context, c *pgx.Conn) error {
		out = nil
		rows, err := c.Query(ctx, `
			SELECT kind, partition, name, revision, value FROM sealed_rows
			WHERE (kind, partition, name) > ($1, $2, $3) ORDER BY kind, partition, name LIMIT $4`,
			string(after.Table), after.Partition[:], after.Name[:], limit)
		if err != nil {
			return err
		}
		var table string
		var partition, name, value []byte
		var revision int64
		_, err = pgx.ForEachRow(rows, []any{&table, &partition, &name, &revision, &value}, func() error {
			if len(partition) != len(envelope.Name{}) || len(name) != len(envelope.Name{}) {
				return fmt.Errorf("%w: a row's name of %d and %d bytes", store.ErrCorrupt, len(partition), len(name))
			}
			key := store.RowKey{Table: store.Table(table), Partition: envelope.Name(partition), Name: envelope.Name(name)}
			row, err := newRow(key, revision, value)
			value = nil // the next row gets memory of its own
			out = append(out, row)
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ResealRows implements store.Store.
func (e *Engine) ResealRows(ctx context.Context, rows []store.Resealed) (n int, err error) {
	// May be done twice: what was replaced is not Old any more.
	err = e.read(ctx, "reseal rows", func(ctx context.Context, c *pgx.Conn) error {
		n = 0
		b := &pgx.Batch{}
		for _, one := range rows {
			b.Queue(`UPDATE sealed_rows SET value = $4 WHERE kind = $1 AND partition = $2 AND name = $3 AND value = $5`,
				string(one.Table), one.Partition[:], one.Name[:], one.New.Bytes(), one.Old.Bytes()).Exec(func(t pgconn.CommandTag) error {
				n += int(t.RowsAffected())
				return nil
			})
		}
		return c.SendBatch(ctx, b).Close()
	})
	return n, err
}

// WriteRows implements store.Rows.
func (e *Engine) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	// All writers lock rows in one order.
	writes = slices.SortedFunc(slices.Values(writes), func(a, b store.RowWrite) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), bytes.Compare(a.Partition[:], b.Partition[:]), bytes.Compare(a.Name[:], b.Name[:]))
	})
	return e.write(ctx, "write rows", func(ctx context.Context, c *pgx.Conn) error {
		if len(writes) == 1 {
			return writeRow(ctx, c, writes[0])
		}
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			for _, w := range writes {
				if err := writeRow(ctx, tx, w); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// writeRow writes one row if it is as expected. The statement itself checks that, so that
// nobody writes between the check and the write.
func writeRow(ctx context.Context, q querier, w store.RowWrite) error {
	sql, args := rowStatement(w)
	var met bool
	err := q.QueryRow(ctx, sql, args...).Scan(&met)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !met {
		return store.ErrConflict
	}
	return err
}

// rowStatement returns a row with true if the expectation was met.
func rowStatement(w store.RowWrite) (string, []any) {
	args := []any{string(w.Table), w.Partition[:], w.Name[:]}
	revision, exact := w.Expect.Revision()
	switch absent := w.Expect == store.Absent; {
	case w.Value == nil && absent:
		return `SELECT NOT EXISTS (SELECT 1 FROM sealed_rows WHERE kind = $1 AND partition = $2 AND name = $3)`, args
	case w.Value == nil && exact:
		return `DELETE FROM sealed_rows WHERE kind = $1 AND partition = $2 AND name = $3 AND revision = $4 RETURNING true`,
			append(args, int64(revision))
	case w.Value == nil:
		return `WITH gone AS (DELETE FROM sealed_rows WHERE kind = $1 AND partition = $2 AND name = $3 RETURNING 1) SELECT true`, args
	}
	args = append(args, w.Value.Bytes())
	const insert = `INSERT INTO sealed_rows AS r (kind, partition, name, revision, value) VALUES ($1, $2, $3, 1, $4) `
	switch {
	case w.Expect == store.Absent:
		return insert + `ON CONFLICT (kind, partition, name) DO NOTHING RETURNING true`, args
	case exact:
		return `UPDATE sealed_rows SET revision = revision + 1, value = $4
			WHERE kind = $1 AND partition = $2 AND name = $3 AND revision = $5 RETURNING true`, append(args, int64(revision))
	default:
		return insert + `ON CONFLICT (kind, partition, name) DO UPDATE SET revision = r.revision + 1, value = excluded.value RETURNING true`, args
	}
}
