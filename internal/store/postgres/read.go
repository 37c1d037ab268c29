package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

const (
	pageBytes   = 8 << 20 // of records in one answer of the database
	pageRecords = 4096
)

// span is what a reader asks for: the ops from..to, up to so many bytes if > 0.
type span struct {
	from, to uint64
	maxBytes int
}

func (s span) full(size int) bool { return s.maxBytes > 0 && size >= s.maxBytes }

// Read implements store.Log. Most reads are one page, and so one statement. One that is not
// begins again in a transaction, which shows all its pages as of one moment: meanwhile the
// log may be trimmed or deleted.
func (e *Engine) Read(ctx context.Context, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (store.Range, error) {
	want := span{max(from, 1), min(to, math.MaxInt64), maxBytes}
	var out store.Range
	err := e.read(ctx, "read a log", func(ctx context.Context, c *pgx.Conn) (err error) {
		out, err = readRange(ctx, c, doc, want, 1)
		if !errors.Is(err, errMorePages) {
			return err
		}
		return pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
			out, err = readRange(ctx, tx, doc, want, math.MaxInt)
			return err
		})
	})
	if err != nil {
		return store.Range{}, err
	}
	return out, nil
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

var errMorePages = errors.New("internal error: a read of several pages was taken for whole")

// readRange reads page after page, so many at most.
func readRange(ctx context.Context, q querier, doc envelope.DocumentHandle, want span, pages int) (store.Range, error) {
	var out store.Range
	size := 0
	for next := want.from; pages > 0; pages-- {
		room := pageBytes
		if want.maxBytes > 0 {
			room = min(room, want.maxBytes-size)
		}
		p, err := readPage(ctx, q, doc, span{next, want.to, room})
		if err != nil {
			return store.Range{}, err
		}
		out.Head = p.state.head
		if want.to = min(want.to, out.Head); next > want.to {
			return out, nil
		}
		before := len(out.Records)
		if err := p.addTo(&out, next, want.to); err != nil {
			return store.Range{}, err
		}
		if len(out.Records) == before { // all that is wanted lies before the log's beginning
			return out, nil
		}
		for _, rec := range out.Records[before:] {
			size += len(rec.Bytes())
		}
		next = out.Records[len(out.Records)-1].LastSeq() + 1
		if next > want.to || want.full(size) {
			return out, nil
		}
	}
	return store.Range{}, errMorePages
}

// page is the document at one moment, and a run of its records with their headers.
type page struct {
	state   state
	headers []keyed
	records []keyed
}

// keyed is a value and the number it is kept under.
type keyed struct {
	seq   uint64
	value []byte
}

// pageStatement is one statement, so that all it returns is of one moment. $2 and $3 are
// the ops wanted, $4 how many records at most and $5 of how many bytes: the sizes are known
// without fetching the values.
const pageStatement = `
SELECT 0 AS part, term AS seq, head AS other, NULL::bytea AS value FROM documents WHERE document = $1
UNION ALL
SELECT 1, first_seq, 0, header FROM (
  SELECT first_seq, header FROM segments
  WHERE document = $1 AND first_seq <= coalesce((SELECT min(last_seq) FROM records WHERE document = $1 AND last_seq >= $3), $3)
    AND first_seq >= coalesce((SELECT max(first_seq) FROM segments WHERE document = $1 AND first_seq <= $2), 0)
  ORDER BY first_seq LIMIT $4
) AS heads
UNION ALL
SELECT 2, last_seq, 0, record FROM (
  SELECT last_seq, record, sum(octet_length(record)) OVER (ORDER BY last_seq) - octet_length(record) AS before
  FROM (
    SELECT last_seq, record FROM records
    WHERE document = $1 AND last_seq >= $2
      AND last_seq <= coalesce((SELECT min(last_seq) FROM records WHERE document = $1 AND last_seq >= $3), $3)
    ORDER BY last_seq LIMIT $4
  ) AS run
) AS sized WHERE before < $5
ORDER BY 1, 2`

func readPage(ctx context.Context, q querier, doc envelope.DocumentHandle, want span) (page, error) {
	var p page
	from, err := signed(want.from)
	if err != nil {
		return p, err
	}
	to, err := signed(want.to)
	if err != nil {
		return p, err
	}
	rows, err := q.Query(ctx, pageStatement, doc[:], from, to, int64(pageRecords), int64(want.maxBytes))
	if err != nil {
		return p, err
	}
	var part int32
	var seq, other int64
	var value []byte
	_, err = pgx.ForEachRow(rows, []any{&part, &seq, &other, &value}, func() (err error) {
		if part == 0 {
			p.state, err = newState(seq, other)
			return err
		}
		number, err := unsigned(seq)
		k := keyed{number, value}
		value = nil // the next row gets memory of its own
		if part == 1 {
			p.headers = append(p.headers, k)
		} else {
			p.records = append(p.records, k)
		}
		return err
	})
	return p, err
}

// addTo adds the page's records that hold any of next..to, and their headers.
func (p page) addTo(out *store.Range, next, to uint64) error {
	headers, err := p.parseHeaders()
	if err != nil {
		return err
	}
	before := len(out.Records)
	for _, k := range p.records {
		if next > to {
			break
		}
		rec, err := envelope.ParseRecord(k.value)
		if err != nil {
			return corrupt("record", err)
		}
		first, last := rec.FirstSeq(), rec.LastSeq()
		if len(out.Records) == 0 && first > next && begins(headers, rec) {
			if next = first; next > to {
				return nil
			}
		}
		// Only the first record may begin before the op that is asked for.
		if first > next || len(out.Records) > 0 && first != next || last < next || k.seq != last {
			return fmt.Errorf("%w: a record holds %d..%d where %d should be", store.ErrCorrupt, first, last, next)
		}
		out.Records = append(out.Records, rec)
		next = last + 1
	}
	if len(out.Records) == before {
		return fmt.Errorf("%w: the record of %d is missing", store.ErrCorrupt, next)
	}
	return addHeaders(out, headers, before)
}

func (p page) parseHeaders() ([]envelope.Header, error) {
	headers := make([]envelope.Header, len(p.headers))
	for i, k := range p.headers {
		h, err := envelope.ParseHeader(k.value)
		if err != nil {
			return nil, corrupt("segment header", err)
		}
		if starts := h.Place().FirstSeq; starts != k.seq {
			return nil, fmt.Errorf("%w: the segment header of %d is where that of %d should be", store.ErrCorrupt, starts, k.seq)
		}
		headers[i] = h
	}
	return headers, nil
}

// begins says whether the log begins with rec.
func begins(headers []envelope.Header, rec envelope.Record) bool {
	for _, h := range headers {
		if h.Place().FirstSeq == rec.FirstSeq() {
			return store.Begins(h, rec)
		}
	}
	return false
}

// addHeaders adds the headers of the segments that the records from the given one on
// belong to, unless the page before had them.
func addHeaders(out *store.Range, headers []envelope.Header, from int) error {
	first, last := out.Records[from].FirstSeq(), out.Records[len(out.Records)-1].FirstSeq()
	covered := uint64(0)
	if n := len(out.Headers); n > 0 {
		covered = out.Headers[n-1].Place().FirstSeq
	}
	for _, h := range headers {
		if starts := h.Place().FirstSeq; starts > covered && starts <= last {
			out.Headers = append(out.Headers, h)
		}
	}
	if len(out.Headers) == 0 || out.Headers[0].Place().FirstSeq > out.Records[0].FirstSeq() {
		return fmt.Errorf("%w: no segment header at or before %d", store.ErrCorrupt, first)
	}
	return nil
}
