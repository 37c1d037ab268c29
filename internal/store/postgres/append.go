package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

const (
	// flightsMost is how many batches are with the database at a time. While one is made
	// durable the next collects; more than one, so that a batch which waits for
	// a lock does not hold up every document.
	flightsMost = 2
	// A batch is bounded, so that nobody waits for the bytes of very many others.
	batchAppends = 512
	batchBytes   = 4 << 20
)

// appends gathers what waits into batches. Nothing waits for a timer: an append that
// finds a free flight takes off at once, and who comes meanwhile flies with the next.
type appends struct {
	engine *Engine

	mu      sync.Mutex
	waiting []*waiter // in the order they came
	inAir   int
	flights sync.WaitGroup
}

type waiter struct {
	store.Append
	ctx  context.Context // of the caller, who waits: not kept beyond the call
	done chan error      // of room for one
}

// Append implements store.Log.
func (e *Engine) Append(ctx context.Context, a store.Append) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if a.Term >= 1<<63 || a.ExpectedHead >= 1<<63 || a.Record.LastSeq() >= 1<<63 {
		return errTooLarge
	}
	if malformed := a.Check(); malformed != nil {
		return e.refuse(ctx, a, malformed)
	}
	w := &waiter{Append: a, ctx: ctx, done: make(chan error, 1)}
	e.appends.add(w)
	return named("append", <-w.done)
}

// refuse says why a malformed append is not taken. Who is fenced is told that first:
// what he sends follows a head that is not there any more.
func (e *Engine) refuse(ctx context.Context, a store.Append, malformed error) error {
	var s state
	err := e.read(ctx, "append", func(ctx context.Context, c *pgx.Conn) (err error) {
		s, err = readState(ctx, c, a.Document)
		return err
	})
	if err != nil {
		return err
	}
	if s.term == 0 || s.term != a.Term || s.head != a.ExpectedHead {
		return store.ErrFenced
	}
	return malformed
}

func (q *appends) add(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, w)
	if q.inAir < flightsMost {
		q.inAir++
		q.flights.Go(q.fly)
	}
}

// fly takes batches until nothing waits.
func (q *appends) fly() {
	for {
		batch := q.take()
		if batch == nil {
			return
		}
		q.engine.commit(batch)
	}
}

// take takes the next batch, of one append of a document at most: in one statement the
// second would not see the first. It is nil, and the flight over, when nothing waits.
func (q *appends) take() []*waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch, left []*waiter
	has := map[envelope.DocumentHandle]bool{}
	bytes := 0
	for _, w := range q.waiting {
		switch {
		case w.ctx.Err() != nil:
			w.done <- w.ctx.Err()
		case has[w.Document] || len(batch) == batchAppends || bytes > batchBytes:
			left = append(left, w)
		default:
			has[w.Document] = true
			bytes += len(w.Record.Bytes())
			batch = append(batch, w)
		}
	}
	q.waiting = left
	if batch == nil {
		q.inAir--
	}
	return batch
}

// commit makes a batch durable and tells everyone in it.
func (e *Engine) commit(batch []*waiter) {
	e.metrics.batch.Observe(float64(len(batch)))
	defer func(start time.Time) { e.metrics.commit.Observe(time.Since(start).Seconds()) }(time.Now())
	var moved map[envelope.DocumentHandle]bool
	again := func(err error) bool { return notDone(err) && codeOf(err) != lockNotAvailable }
	err := retry(context.Background(), again, func() error {
		return e.once(context.Background(), func(ctx context.Context, c *pgx.Conn) (err error) {
			moved, err = appendAll(ctx, c, batch)
			return err
		})
	})
	if err != nil && len(batch) > 1 && ofOneValue(err) {
		for _, w := range batch {
			e.commit([]*waiter{w})
		}
		return
	}
	e.health.wrote(err)
	for _, w := range batch {
		switch {
		case err != nil:
			w.done <- err
		case moved[w.Document]:
			w.done <- nil
		default:
			w.done <- store.ErrFenced
		}
	}
}

// ofOneValue says that the server refused the batch for something in it, or for a document
// that somebody holds: then the others in it are tried without.
func ofOneValue(err error) bool {
	code := codeOf(err)
	return code == lockNotAvailable || strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23") // data, constraints
}

// appendStatement is the fence and the append. It moves the head of each document that is at the
// expected head and term, in the order of documents, and writes the records of those
// that moved; a claim that is under way is waited for and then seen.
const appendStatement = `
WITH incoming AS (
  SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[])
    AS t(document, term, expected, first_seq, last_seq, record, header)
), moved AS (
  UPDATE documents AS d SET head = i.last_seq FROM incoming AS i
  WHERE d.document = i.document AND d.term = i.term AND d.head = i.expected
  RETURNING d.document
), begun AS (
  INSERT INTO segments (document, first_seq, header)
  SELECT i.document, i.first_seq, i.header FROM incoming AS i JOIN moved AS m ON m.document = i.document
  WHERE i.header IS NOT NULL
  RETURNING document
)
INSERT INTO records (document, last_seq, record)
SELECT i.document, i.last_seq, i.record FROM incoming AS i JOIN moved AS m ON m.document = i.document
RETURNING document`

// appendAll returns the documents that took their append.
func appendAll(ctx context.Context, c *pgx.Conn, batch []*waiter) (map[envelope.DocumentHandle]bool, error) {
	n := len(batch)
	documents, records, headers := make([][]byte, n), make([][]byte, n), make([][]byte, n)
	terms, expected, firsts, lasts := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, w := range batch {
		documents[i], records[i] = w.Document[:], w.Record.Bytes()
		if w.Header != nil {
			headers[i] = w.Header.Bytes()
		}
		// Append has seen that they are below 2^63.
		terms[i], expected[i] = int64(w.Term), int64(w.ExpectedHead)
		firsts[i], lasts[i] = int64(w.Record.FirstSeq()), int64(w.Record.LastSeq())
	}
	rows, err := c.Query(ctx, appendStatement, documents, terms, expected, firsts, lasts, records, headers)
	if err != nil {
		return nil, err
	}
	moved := make(map[envelope.DocumentHandle]bool, n)
	var document []byte
	_, err = pgx.ForEachRow(rows, []any{&document}, func() error {
		if len(document) != len(envelope.DocumentHandle{}) {
			return errors.New("a document of another length came back")
		}
		moved[envelope.DocumentHandle(document)] = true
		return nil
	})
	return moved, err
}
