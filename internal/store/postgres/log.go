package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// state is a document's row; zero for one that was never claimed.
type state struct{ term, head uint64 }

func newState(term, head int64) (s state, err error) {
	if s.term, err = unsigned(term); err != nil {
		return state{}, err
	}
	s.head, err = unsigned(head)
	return s, err
}

func readState(ctx context.Context, c *pgx.Conn, doc envelope.DocumentHandle) (state, error) {
	var term, head int64
	err := c.QueryRow(ctx, `SELECT term, head FROM documents WHERE document = $1`, doc[:]).Scan(&term, &head)
	if errors.Is(err, pgx.ErrNoRows) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	return newState(term, head)
}

// Claim implements store.Log. One whose answer was lost is made again: terms only rise.
func (e *Engine) Claim(ctx context.Context, doc envelope.DocumentHandle) (store.Claim, error) {
	var s state
	err := e.read(ctx, "claim a document", func(ctx context.Context, c *pgx.Conn) error {
		var term, head int64
		err := c.QueryRow(ctx, `
			INSERT INTO documents AS d (document, term, head) VALUES ($1, 1, 0)
			ON CONFLICT (document) DO UPDATE SET term = d.term + 1
			RETURNING d.term, d.head`, doc[:]).Scan(&term, &head)
		if err != nil {
			return err
		}
		s, err = newState(term, head)
		return err
	})
	if err != nil {
		return store.Claim{}, err
	}
	return store.Claim{Term: s.term, Head: s.head}, nil
}

// trimRecords is how many records one statement drops at most.
const trimRecords = 10_000

// Trim implements store.Log. It drops the oldest records first: what an end in the middle
// leaves is a log that was trimmed less.
func (e *Engine) Trim(ctx context.Context, doc envelope.DocumentHandle, term, below uint64) error {
	return e.read(ctx, "trim a log", func(ctx context.Context, c *pgx.Conn) error {
		s, err := readState(ctx, c, doc)
		if err != nil {
			return err
		}
		if s.term == 0 || s.term != term {
			return store.ErrFenced
		}
		if below = min(below, s.head); below == 0 {
			return nil
		}
		// What stays, read as any reader would: nothing is dropped from a damaged log.
		kept, err := readRange(ctx, c, doc, span{below, below, 0}, 1)
		if err != nil || len(kept.Records) == 0 {
			return err
		}
		for dropped := int64(trimRecords); dropped == trimRecords; {
			var owned bool
			err := c.QueryRow(ctx, trimStatement, doc[:], int64(term), int64(below),
				int64(kept.Headers[0].Place().FirstSeq), int64(trimRecords)).Scan(&owned, &dropped)
			if err != nil {
				return err
			}
			if !owned {
				return store.ErrFenced
			}
		}
		return nil
	})
}

// trimStatement drops records and headers if the term is still that of its caller.
const trimStatement = `
WITH owned AS (
  UPDATE documents SET term = term WHERE document = $1 AND term = $2 RETURNING document
), dropped AS (
  DELETE FROM records AS r USING owned AS o
  WHERE r.document = o.document AND r.last_seq IN (
    SELECT last_seq FROM records WHERE document = $1 AND last_seq < $3 ORDER BY last_seq LIMIT $5)
  RETURNING r.last_seq
), headers AS (
  DELETE FROM segments AS s USING owned AS o WHERE s.document = o.document AND s.first_seq < $4
  RETURNING s.first_seq
)
SELECT (SELECT count(*) FROM owned) = 1, (SELECT count(*) FROM dropped)`

// DeleteDocument implements store.Store. The fence comes first: an append that is under way
// is waited for, and what it wrote is there for the statements after it to delete. Blobs
// are removed after that, by the sweep if not here: that they are to go is durable.
func (e *Engine) DeleteDocument(ctx context.Context, doc envelope.DocumentHandle) error {
	err := e.write(ctx, "delete a document", func(ctx context.Context, c *pgx.Conn) error {
		b := &pgx.Batch{}
		b.Queue(`UPDATE documents SET term = term + 1, head = 0 WHERE document = $1`, doc[:])
		b.Queue(`DELETE FROM records WHERE document = $1`, doc[:])
		b.Queue(`DELETE FROM segments WHERE document = $1`, doc[:])
		b.Queue(`DELETE FROM objects WHERE document = $1`, doc[:])
		b.Queue(`UPDATE blobs SET state = $2, since = now() WHERE document = $1`, doc[:], blobToGo)
		return transact(ctx, c, b)
	})
	if err == nil && e.blobs.store != nil {
		e.blobs.letGo()
	}
	return err
}
