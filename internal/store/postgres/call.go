package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/store"
)

// answerTime is how much later than the statement's own time-out we give up on a server
// that does not answer at all.
const answerTime = 5 * time.Second

// write does a change that is tried again only when it surely was not done.
func (e *Engine) write(ctx context.Context, what string, do func(ctx context.Context, c *pgx.Conn) error) error {
	return e.call(ctx, what, notDone, do)
}

// read asks; so may be asked again whatever got lost. That goes for changes too that may
// be done twice.
func (e *Engine) read(ctx context.Context, what string, do func(ctx context.Context, c *pgx.Conn) error) error {
	return e.call(ctx, what, func(err error) bool { return unreachable(err) || notDone(err) }, do)
}

func (e *Engine) call(ctx context.Context, what string, again func(error) bool, do func(context.Context, *pgx.Conn) error) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return named(what, retry(ctx, again, func() error { return e.once(ctx, do) }))
}

// once does something on a connection. Once it is sent, the end of ctx does not cut it
// off: the answer would be lost, and with it whether it was done.
func (e *Engine) once(ctx context.Context, do func(context.Context, *pgx.Conn) error) error {
	c, err := e.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	sent, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.o.StatementTimeout+answerTime)
	defer cancel()
	err = do(sent, c.Conn())
	return acknowledged(c.Conn().PgConn(), err)
}

// named says what did not work, but of errors that say it all.
func named(what string, err error) error {
	for _, known := range []error{nil, store.ErrFenced, store.ErrConflict, store.ErrNotFound, store.ErrCorrupt} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fail(what, err)
}

// transact does all of b in one transaction, sent and answered at once.
func transact(ctx context.Context, c *pgx.Conn, b *pgx.Batch) error {
	all := &pgx.Batch{}
	all.Queue("BEGIN")
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	all.Queue("COMMIT")
	// Where one fails the server skips the rest, and the pool drops the connection with
	// the transaction that is open on it.
	return c.SendBatch(ctx, all).Close()
}
