package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
)

const (
	partBytes      = 256 << 10 // of an object in one row
	statementBytes = 4 << 20   // of objects in one statement
)

// parts are rows of objects, as the columns of one statement.
type parts struct {
	names  [][]byte
	number []int32
	of     []int32
	values [][]byte
	bytes  int
}

// cut cuts objects into parts and those into statements.
func cut(objects []store.Object) []parts {
	var all []parts
	p := parts{}
	for _, o := range objects {
		pieces := slices.Collect(slices.Chunk(o.Value.Bytes(), partBytes))
		for i, piece := range pieces {
			p.names = append(p.names, o.Name[:])
			p.number = append(p.number, int32(i))
			p.of = append(p.of, int32(len(pieces)))
			p.values = append(p.values, piece)
			if p.bytes += len(piece); p.bytes >= statementBytes {
				all, p = append(all, p), parts{}
			}
		}
	}
	if p.names != nil {
		all = append(all, p)
	}
	return all
}

// last keeps the last of objects that have one name, all in order of name: two writers
// lock rows in one order.
func last(objects []store.Object) []store.Object {
	byName := make(map[envelope.Name]store.Object, len(objects))
	for _, o := range objects {
		byName[o.Name] = o
	}
	out := make([]store.Object, 0, len(byName))
	for _, o := range byName {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b store.Object) int { return bytes.Compare(a.Name[:], b.Name[:]) })
	return out
}

// PutObjects implements store.Objects.
func (e *Engine) PutObjects(ctx context.Context, doc envelope.DocumentHandle, objects []store.Object) error {
	var small []store.Object
	var all []large
	for _, o := range last(objects) {
		if e.blobs.store != nil && len(o.Value.Bytes()) >= e.blobs.least {
			all = append(all, large{o, blobs.NewName()})
		} else {
			small = append(small, o)
		}
	}
	if len(all) > 0 {
		return e.putLarge(ctx, doc, small, all)
	}
	return e.read(ctx, "put objects", func(ctx context.Context, c *pgx.Conn) error {
		if len(small) == 0 {
			return nil
		}
		b := &pgx.Batch{}
		e.queueObjects(b, doc, small)
		return transact(ctx, c, b) // to put the same again is harmless
	})
}

// queueObjects puts objects into the database itself, the last statements of a
// transaction that puts any.
func (e *Engine) queueObjects(b *pgx.Batch, doc envelope.DocumentHandle, objects []store.Object) {
	for _, p := range cut(objects) {
		b.Queue(`
			INSERT INTO objects (document, name, part, parts, value)
			SELECT $1, t.name, t.part, t.parts, t.value
			FROM unnest($2::bytea[], $3::integer[], $4::integer[], $5::bytea[]) AS t(name, part, parts, value)
			ON CONFLICT (document, name, part) DO UPDATE
			SET parts = excluded.parts, value = excluded.value, blob = NULL, blob_bytes = NULL`,
			doc[:], p.names, p.number, p.of, p.values)
		// What is left of a longer object of the name.
		b.Queue(`
			DELETE FROM objects AS o USING unnest($2::bytea[], $3::integer[]) AS t(name, parts)
			WHERE o.document = $1 AND o.name = t.name AND o.part >= t.parts`, doc[:], p.names, p.of)
	}
	if e.blobs.store != nil {
		queueLetGo(b, doc)
	}
}

// GetObject implements store.Objects.
func (e *Engine) GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (envelope.Sealed, error) {
	whole, err := e.getWhole(ctx, doc, name)
	if err != nil {
		return envelope.Sealed{}, err
	}
	s, err := envelope.ParseSealed(whole)
	if err != nil {
		return envelope.Sealed{}, corrupt("object", err)
	}
	return s, nil
}

// parted is an object as the database has it: its bytes, or the blob they are in.
type parted struct {
	whole     []byte
	blob      []byte
	blobBytes int64
}

func getParts(ctx context.Context, c *pgx.Conn, doc envelope.DocumentHandle, name envelope.Name) (found parted, err error) {
	rows, err := c.Query(ctx, `SELECT part, parts, value, blob, coalesce(blob_bytes, 0) FROM objects
		WHERE document = $1 AND name = $2 ORDER BY part`, doc[:], name[:])
	if err != nil {
		return found, err
	}
	var part, parts, next int32
	var value pgtype.DriverBytes // copied at once
	_, err = pgx.ForEachRow(rows, []any{&part, &parts, &value, &found.blob, &found.blobBytes}, func() error {
		if part != next {
			return fmt.Errorf("%w: part %d of an object where %d should be", store.ErrCorrupt, part, next)
		}
		if next++; found.whole == nil && parts > 0 {
			found.whole = make([]byte, 0, int(min(parts, 1<<10))*len(value))
		}
		found.whole = append(found.whole, value...)
		return nil
	})
	switch {
	case err != nil:
		return parted{}, err
	case next == 0:
		return parted{}, store.ErrNotFound
	case next != parts:
		return parted{}, fmt.Errorf("%w: %d of %d parts of an object", store.ErrCorrupt, next, parts)
	}
	return found, nil
}

// HasObject implements store.Objects.
func (e *Engine) HasObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (has bool, err error) {
	err = e.read(ctx, "look for an object", func(ctx context.Context, c *pgx.Conn) error {
		var part int32
		err := c.QueryRow(ctx, `SELECT part FROM objects WHERE document = $1 AND name = $2 AND part = 0`, doc[:], name[:]).Scan(&part)
		if has = err == nil; errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return has, err
}
