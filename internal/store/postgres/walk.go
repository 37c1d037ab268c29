package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
)

// Walk reads one transaction's snapshot; writers go on meanwhile. What lies in the object
// store and belongs to no object is handed over last.
func (e *Engine) Walk(ctx context.Context, visit func(store.Stored) error) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	// Before the snapshot: an object's blob is written before its object is, so whatever
	// is listed belongs to an object of the snapshot, or to none.
	w := walk{e: e, visit: visit, loose: map[blobs.Name]bool{}}
	if err := w.listBlobs(ctx); err != nil {
		return fail("list the object store", err)
	}
	c, err := e.pool.Acquire(ctx)
	if err != nil {
		return fail("walk", err)
	}
	defer c.Release()
	err = pgx.BeginTxFunc(ctx, c.Conn(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// It holds no locks, and visit may have to wait for a key store.
		if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
			return err
		}
		w.tx = tx
		if err := w.documents(ctx); err != nil {
			return err
		}
		return w.rows(ctx)
	})
	if err != nil {
		return named("walk", err)
	}
	return w.leftBlobs(ctx)
}

// walk is a walk on its way.
type walk struct {
	e     *Engine
	tx    pgx.Tx
	visit func(store.Stored) error
	loose map[blobs.Name]bool // blobs that no object is in, as far as the walk has come
}

// pageOf reads the rows of one statement, and hands them over once the database waits for
// nobody any more.
func pageOf[T any](ctx context.Context, tx pgx.Tx, visit func(T) error, sql string, args ...any) (n int, err error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return 0, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return 0, err
	}
	for _, one := range all {
		if err := visit(one); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}

// documents goes through all handles that any table knows.
func (w *walk) documents(ctx context.Context) error {
	const sql = `SELECT document FROM (
			(SELECT document FROM documents WHERE (document) > ($1) ORDER BY document LIMIT 1) UNION ALL
			(SELECT document FROM segments WHERE (document) > ($1) ORDER BY document LIMIT 1) UNION ALL
			(SELECT document FROM records WHERE (document) > ($1) ORDER BY document LIMIT 1) UNION ALL
			(SELECT document FROM objects WHERE (document) > ($1) ORDER BY document LIMIT 1)
		) AS next ORDER BY document LIMIT 1`
	at := []byte{}
	for first := true; ; first = false {
		err := w.tx.QueryRow(ctx, from(first, sql), at).Scan(&at)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err == nil {
			err = w.document(ctx, at)
		}
		if err != nil {
			return err
		}
	}
}

// document hands over what is kept under a handle. Under one that is none, nothing is known.
func (w *walk) document(ctx context.Context, at []byte) error {
	var handle envelope.DocumentHandle
	known := len(at) == len(handle)
	copy(handle[:], at)
	give := func(part store.Part) func(value []byte) error {
		if !known {
			part = store.PartUnknown
		}
		return func(value []byte) error { return w.visit(store.Stored{Part: part, Document: handle, Value: value}) }
	}
	err := w.numbered(ctx, give(store.PartHeader), `SELECT first_seq, header FROM segments
		WHERE document = $1 AND (first_seq) > ($2) ORDER BY first_seq LIMIT $3`, at, pageRecords)
	if err != nil {
		return err
	}
	// The sizes are known without fetching the values.
	err = w.numbered(ctx, give(store.PartRecord), `SELECT last_seq, record FROM (
			SELECT last_seq, record, sum(octet_length(record)) OVER (ORDER BY last_seq) - octet_length(record) AS before
			FROM (SELECT last_seq, record FROM records WHERE document = $1 AND (last_seq) > ($2) ORDER BY last_seq LIMIT $3) AS run
		) AS sized WHERE before < $4 ORDER BY last_seq`, at, pageRecords, pageBytes)
	if err != nil {
		return err
	}
	return w.objects(ctx, at, handle, known)
}

// numbered hands over values of a document in the order of their numbers, of which sql
// returns those above $2.
func (w *walk) numbered(ctx context.Context, visit func([]byte) error, sql string, at []byte, limits ...int64) error {
	type numbered struct {
		Seq   int64
		Value []byte
	}
	args := []any{at, int64(math.MinInt64)}
	for _, l := range limits {
		args = append(args, l)
	}
	for first := true; ; first = false {
		n, err := pageOf(ctx, w.tx, func(v numbered) error {
			args[1] = v.Seq
			return visit(v.Value)
		}, from(first, sql), args...)
		if n == 0 || err != nil {
			return err
		}
	}
}

// partRow is a row of the table objects.
type partRow struct {
	Name        []byte
	Part, Parts int32
	Value, Blob []byte
	BlobBytes   int64
}

// objects hands over the objects of a document, each whole. One of which something is
// missing is handed over as nothing, or as what there is of it: no sealed object.
func (w *walk) objects(ctx context.Context, at []byte, handle envelope.DocumentHandle, known bool) error {
	var last *partRow // nil: none yet
	var whole []byte
	leave := func() error {
		if last == nil {
			return nil
		}
		s := store.Stored{Part: store.PartUnknown, Document: handle, Value: whole}
		if known && len(last.Name) == len(s.Name) {
			s.Part, s.Name = store.PartObject, envelope.Name(last.Name)
			switch {
			case last.Part+1 != last.Parts:
				s.Value = nil
			case last.Blob != nil:
				return w.large(ctx, s, *last)
			}
		}
		return w.visit(s)
	}
	const sql = `SELECT name, part, parts, value, blob, coalesce(blob_bytes, 0) FROM objects
		WHERE document = $1 AND (name, part) > ($2, $3) ORDER BY name, part LIMIT $4`
	for first := true; ; first = false {
		args := []any{at, []byte{}, int32(math.MinInt32), int64(pageBytes / partBytes)}
		if last != nil {
			args[1], args[2] = last.Name, last.Part
		}
		n, err := pageOf(ctx, w.tx, func(p partRow) error {
			next := int32(0)
			if last != nil && bytes.Equal(p.Name, last.Name) {
				next = last.Part + 1
			} else if err := leave(); err != nil {
				return err
			} else {
				whole = nil
			}
			if p.Part != next {
				p.Value = nil // parts are missing
			}
			whole, last = append(whole, p.Value...), &p
			return nil
		}, from(first, sql), args...)
		if err != nil {
			return err
		}
		if n == 0 {
			return leave()
		}
	}
}

// from is sql, of which the first page begins with what it compares with, and the others
// after it.
func from(first bool, sql string) string {
	if first {
		return strings.ReplaceAll(sql, ") > (", ") >= (")
	}
	return sql
}

// large hands over an object that is in the object store. If its blob is gone, so is the
// object of the snapshot, unless the database goes on saying that it is there.
func (w *walk) large(ctx context.Context, s store.Stored, p partRow) (err error) {
	if len(p.Blob) == len(blobs.Name{}) {
		delete(w.loose, blobs.Name(p.Blob))
	}
	s.Value, err = w.e.getBlob(ctx, p.Blob, p.BlobBytes)
	if errors.Is(err, blobs.ErrNotFound) {
		s.Value, err = w.e.getWhole(ctx, s.Document, s.Name)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
	}
	if err != nil && !errors.Is(err, store.ErrCorrupt) {
		return err
	}
	return w.visit(s)
}

func (w *walk) rows(ctx context.Context) error {
	type row struct {
		Kind                   string
		Partition, Name, Value []byte
	}
	const sql = `SELECT kind, partition, name, value FROM sealed_rows
		WHERE (kind, partition, name) > ($1, $2, $3) ORDER BY kind, partition, name LIMIT 256`
	last := row{Partition: []byte{}, Name: []byte{}}
	for first := true; ; first = false {
		n, err := pageOf(ctx, w.tx, func(r row) error {
			last = r
			s := store.Stored{Part: store.PartUnknown, Value: r.Value}
			if len(r.Partition) == len(envelope.Name{}) && len(r.Name) == len(envelope.Name{}) {
				s.Part = store.PartRow
				s.Row = store.RowKey{Table: store.Table(r.Kind), Partition: envelope.Name(r.Partition), Name: envelope.Name(r.Name)}
			}
			return w.visit(s)
		}, from(first, sql), last.Kind, last.Partition, last.Name)
		if n == 0 || err != nil {
			return err
		}
	}
}

// listBlobs notes all that is in the object store.
func (w *walk) listBlobs(ctx context.Context) error {
	if w.e.blobs.store == nil {
		return nil
	}
	names, err := w.e.blobs.store.List(ctx, blobs.Name{}, math.MaxInt)
	for _, name := range names {
		w.loose[name] = true
	}
	return err
}

// looseBytes is more than any sealed value has.
const looseBytes = envelope.MaxPlaintextBytes + 1<<20

// leftBlobs hands over the blobs that no object is in: being written, on their way out, or
// somebody else's.
func (w *walk) leftBlobs(ctx context.Context) error {
	for name := range w.loose {
		value, err := w.e.blobs.store.Get(ctx, name, looseBytes)
		switch {
		case errors.Is(err, blobs.ErrNotFound):
			continue
		case errors.Is(err, blobs.ErrTooLarge):
			err = w.visit(store.Stored{Part: store.PartUnknown})
		case err == nil:
			err = w.visit(store.Stored{Part: store.PartLoose, Value: value})
		}
		if err != nil {
			return fmt.Errorf("look at a blob that no object is in: %w", err)
		}
	}
	return nil
}
