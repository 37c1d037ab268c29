package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
)

const (
	// blobBytesLeast: smaller objects stay in the database, where they are written together.
	blobBytesLeast = 64 << 10
	// blobBytesMost bounds what the database can make us read: no upload is so large.
	blobBytesMost = 256 << 20
	blobsAtOnce   = 4
	blobTimeout   = 2 * time.Minute

	// Whoever writes a blob has so long until its object refers to it. Then it counts as
	// left behind by a crash.
	blobGrace  = time.Hour
	sweepEvery = time.Minute
	sweepBatch = 200
)

// States of a blob.
const (
	blobWritten = 0
	blobInUse   = 1
	blobToGo    = 2
)

// blobStore is where large objects are, and what is due there.
type blobStore struct {
	store blobs.Store // nil: all objects are in the database
	least int         // bytes of an object that goes there
	grace time.Duration

	wake chan struct{} // of room for one: a document was deleted
	stop context.CancelFunc
	done chan struct{}
}

// large is an object and the blob it is in.
type large struct {
	store.Object
	blob blobs.Name
}

// startBlobs begins to sweep. Without an object store, a database that knows blobs is
// refused: their objects would be lost to its readers.
func (e *Engine) startBlobs(ctx context.Context) error {
	b := &e.blobs
	b.store, b.least, b.grace = e.o.Blobs, e.o.blobBytes, e.o.blobGrace
	if b.store == nil {
		var known bool
		err := e.pool.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM blobs)").Scan(&known)
		if err == nil && known {
			err = errors.New("some of its objects are in an object store: name that with --blobs")
		}
		return err
	}
	b.wake, b.done = make(chan struct{}, 1), make(chan struct{})
	sweeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	go func() {
		defer close(b.done)
		e.sweepAlways(sweeping)
	}()
	return nil
}

func (b *blobStore) close() {
	if b.stop != nil {
		b.stop()
		<-b.done
	}
}

// putLarge keeps objects of which some go to the object store. A blob is noted before it is
// written, and an object refers to it after: whatever ends this in between, the sweep finds it.
func (e *Engine) putLarge(ctx context.Context, doc envelope.DocumentHandle, small []store.Object, all []large) error {
	names := make([][]byte, len(all))
	for i, l := range all {
		names[i] = l.blob[:]
	}
	err := e.read(ctx, "put objects", func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `INSERT INTO blobs (document, blob, state) SELECT $1, t.blob, $3 FROM unnest($2::bytea[]) AS t(blob)
			ON CONFLICT (document, blob) DO NOTHING`, doc[:], names, blobWritten)
		return err
	})
	if err != nil {
		return err
	}
	g, writing := errgroup.WithContext(ctx)
	g.SetLimit(blobsAtOnce)
	for _, l := range all {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(writing, blobTimeout)
			defer cancel()
			return e.blobs.store.Put(ctx, l.blob, l.Value)
		})
	}
	if err := g.Wait(); err != nil {
		return fail("put objects into the object store", err)
	}
	return e.read(ctx, "put objects", func(ctx context.Context, c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `UPDATE blobs SET state = $3, since = now() WHERE document = $1 AND blob = ANY ($2) AND state <> $4`,
				doc[:], names, blobInUse, blobToGo)
			if err != nil {
				return err
			}
			if tag.RowsAffected() != int64(len(all)) {
				return errors.New("the document was deleted meanwhile, or its blobs took too long to write")
			}
			b := &pgx.Batch{}
			queueLarge(b, doc, all)
			e.queueObjects(b, doc, small)
			return tx.SendBatch(ctx, b).Close()
		})
	})
}

func queueLarge(b *pgx.Batch, doc envelope.DocumentHandle, all []large) {
	names, places, sizes := make([][]byte, len(all)), make([][]byte, len(all)), make([]int64, len(all))
	for i, l := range all {
		names[i], places[i], sizes[i] = l.Name[:], l.blob[:], int64(len(l.Value.Bytes()))
	}
	b.Queue(`
		INSERT INTO objects (document, name, part, parts, value, blob, blob_bytes)
		SELECT $1, t.name, 0, 1, ''::bytea, t.blob, t.bytes
		FROM unnest($2::bytea[], $3::bytea[], $4::bigint[]) AS t(name, blob, bytes)
		ON CONFLICT (document, name, part) DO UPDATE
		SET parts = 1, value = excluded.value, blob = excluded.blob, blob_bytes = excluded.blob_bytes`, doc[:], names, places, sizes)
	b.Queue(`DELETE FROM objects WHERE document = $1 AND name = ANY ($2) AND part > 0`, doc[:], names)
}

// queueLetGo marks the blobs of a document that no object is in. It comes last, when the
// objects of all who wrote before are to be seen.
func queueLetGo(b *pgx.Batch, doc envelope.DocumentHandle) {
	b.Queue(`
		UPDATE blobs AS b SET state = $2, since = now() WHERE b.document = $1 AND b.state = $3
		AND NOT EXISTS (SELECT 1 FROM objects AS o WHERE o.document = $1 AND o.blob = b.blob)`, doc[:], blobToGo, blobInUse)
}

// getBlob reads an object from the object store.
func (e *Engine) getBlob(ctx context.Context, place []byte, size int64) ([]byte, error) {
	var name blobs.Name
	if len(place) != len(name) || size < 0 || size > blobBytesMost {
		return nil, fmt.Errorf("%w: a blob of %d bytes under a name of %d", store.ErrCorrupt, size, len(place))
	}
	if e.blobs.store == nil {
		return nil, errors.New("postgres: an object is in an object store, and --blobs names none")
	}
	copy(name[:], place)
	ctx, cancel := context.WithTimeout(ctx, blobTimeout)
	defer cancel()
	value, err := e.blobs.store.Get(ctx, name, int(size))
	if errors.Is(err, blobs.ErrTooLarge) {
		return nil, corrupt("an object's blob", err)
	}
	if err != nil && !errors.Is(err, blobs.ErrNotFound) {
		return nil, fail("get an object from the object store", err)
	}
	if err == nil && int64(len(value)) != size {
		return nil, fmt.Errorf("%w: a blob has %d of %d bytes", store.ErrCorrupt, len(value), size)
	}
	return value, err
}

// getWhole reads an object wherever it is. A blob that is not there may have been replaced
// since its row was read; only one that the row still names is missing.
func (e *Engine) getWhole(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) ([]byte, error) {
	var before []byte
	for {
		var found parted
		err := e.read(ctx, "get an object", func(ctx context.Context, c *pgx.Conn) (err error) {
			found, err = getParts(ctx, c, doc, name)
			return err
		})
		if err != nil || found.blob == nil {
			return found.whole, err
		}
		value, err := e.getBlob(ctx, found.blob, found.blobBytes)
		if !errors.Is(err, blobs.ErrNotFound) {
			return value, err
		}
		if bytes.Equal(before, found.blob) {
			return nil, fmt.Errorf("%w: an object's blob is missing from the object store", store.ErrCorrupt)
		}
		before = found.blob
	}
}

// sweepAlways removes what is to go, now and then and when there is something.
func (e *Engine) sweepAlways(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := e.sweep(ctx); err != nil && ctx.Err() == nil {
			e.o.Log.WarnContext(ctx, "postgres: blobs that are to go are still in the object store", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-e.blobs.wake:
		}
	}
}

// letGo has the sweep look at once.
func (b *blobStore) letGo() {
	select {
	case b.wake <- struct{}{}:
	default: // it is about to
	}
}

// sweep removes all blobs that are to go. Any number of nodes may do it at once.
func (e *Engine) sweep(ctx context.Context) error {
	for {
		places, err := e.toGo(ctx)
		if err != nil || len(places) == 0 {
			return err
		}
		if err := e.remove(ctx, places); err != nil {
			return err
		}
		if len(places) < sweepBatch {
			return nil
		}
	}
}

// place is where a blob is noted.
type place struct{ document, blob []byte }

func (e *Engine) toGo(ctx context.Context) (places []place, err error) {
	err = e.read(ctx, "look for blobs", func(ctx context.Context, c *pgx.Conn) error {
		places = nil
		if _, err := c.Exec(ctx, `UPDATE blobs SET state = $1 WHERE state = $2 AND since < now() - $3::float8 * interval '1 second'`,
			blobToGo, blobWritten, e.blobs.grace.Seconds()); err != nil {
			return err
		}
		rows, err := c.Query(ctx, `SELECT document, blob FROM blobs WHERE state = $1 ORDER BY since LIMIT $2`, blobToGo, sweepBatch)
		if err != nil {
			return err
		}
		places, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (p place, err error) {
			err = r.Scan(&p.document, &p.blob)
			return p, err
		})
		return err
	})
	return places, err
}

// remove removes blobs from the object store, and then what is noted of them.
func (e *Engine) remove(ctx context.Context, places []place) error {
	g, removing := errgroup.WithContext(ctx)
	g.SetLimit(blobsAtOnce)
	for _, p := range places {
		g.Go(func() error {
			if len(p.blob) != len(blobs.Name{}) {
				return nil // somebody else's note: no blob of ours has such a name
			}
			ctx, cancel := context.WithTimeout(removing, blobTimeout)
			defer cancel()
			return e.blobs.store.Delete(ctx, blobs.Name(p.blob))
		})
	}
	if err := g.Wait(); err != nil {
		return fail("remove from the object store", err)
	}
	documents, names := make([][]byte, len(places)), make([][]byte, len(places))
	for i, p := range places {
		documents[i], names[i] = p.document, p.blob
	}
	return e.read(ctx, "forget blobs", func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `DELETE FROM blobs AS b USING unnest($1::bytea[], $2::bytea[]) AS t(document, blob)
			WHERE b.document = t.document AND b.blob = t.blob AND b.state = $3`, documents, names, blobToGo)
		return err
	})
}
