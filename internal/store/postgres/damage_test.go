package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/storetest"
)

// fill appends so many records of one op and returns the claim.
func fill(t *testing.T, e *Engine, d *storetest.Doc, ops uint64) store.Claim {
	t.Helper()
	c, err := e.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	for head := range ops {
		if err := e.Append(t.Context(), d.Append(c, head, head+1, "some text")); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (e *Engine) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	tag, err := e.pool.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	if tag.RowsAffected() == 0 {
		t.Fatalf("%s changed nothing", sql)
	}
}

// Damage that needs no key to be seen is told as such, and is not served.
func TestDamageIsCorrupt(t *testing.T) {
	e := openNew(t)
	for _, c := range []struct{ name, sql string }{
		{"MissingRecord", "DELETE FROM records WHERE document = $1 AND last_seq = 2"},
		{"MissingFirstRecord", "DELETE FROM records WHERE document = $1 AND last_seq = 1"},
		{"MissingLastRecord", "DELETE FROM records WHERE document = $1 AND last_seq = 6"},
		{"MovedRecord", "UPDATE records SET last_seq = 5 WHERE document = $1 AND last_seq = 6"},
		{"CutRecord", "UPDATE records SET record = substr(record, 1, length(record) - 1) WHERE document = $1 AND last_seq = 2"},
		{"NotARecord", "UPDATE records SET record = 'plain' WHERE document = $1 AND last_seq = 2"},
		{"AnotherRecord", "UPDATE records SET record = (SELECT record FROM records WHERE document = $1 AND last_seq = 1) WHERE document = $1 AND last_seq = 2"},
		{"MissingHeader", "DELETE FROM segments WHERE document = $1"},
		{"CutHeader", "UPDATE segments SET header = substr(header, 1, length(header) - 1) WHERE document = $1"},
		{"MovedHeader", "INSERT INTO segments SELECT document, 2, header FROM segments WHERE document = $1"},
		{"NegativeHead", "UPDATE documents SET head = -1 WHERE document = $1"},
		{"NegativeTerm", "UPDATE documents SET term = -1 WHERE document = $1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := storetest.NewDoc(t)
			claim := fill(t, e, d, 3)
			if err := e.Append(t.Context(), d.Append(claim, 3, 6, "three ops")); err != nil {
				t.Fatal(err)
			}
			e.exec(t, c.sql, d.Handle[:])
			r, err := e.Read(t.Context(), d.Handle, 1, 6, 0)
			if !errors.Is(err, store.ErrCorrupt) || r.Records != nil || strings.Contains(err.Error(), "plain") {
				t.Errorf("got %d records, %v; want none and ErrCorrupt", len(r.Records), err)
			}
			if err := e.DeleteDocument(t.Context(), d.Handle); err != nil {
				t.Errorf("a damaged document cannot be deleted: %v", err)
			}
		})
	}
}

func TestDamageIsNotTrimmed(t *testing.T) {
	e, d := openNew(t), storetest.NewDoc(t)
	c := fill(t, e, d, 5)
	e.exec(t, "DELETE FROM records WHERE document = $1 AND last_seq = 3", d.Handle[:])
	if err := e.Trim(t.Context(), d.Handle, c.Term, 3); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	if r, err := e.Read(t.Context(), d.Handle, 1, 1, 0); err != nil || len(r.Records) != 1 {
		t.Errorf("the first record: %d, %v", len(r.Records), err)
	}
}

// One damaged document costs its own appends and not those of others in its batch.
func TestDamagedDocumentInABatch(t *testing.T) {
	e, d, other := openNew(t), storetest.NewDoc(t), storetest.NewDoc(t)
	c := fill(t, e, d, 2)
	otherClaim := fill(t, e, other, 1)
	// A record beyond the head: what comes there violates the key.
	e.exec(t, "INSERT INTO records SELECT document, 3, record FROM records WHERE document = $1 AND last_seq = 2", d.Handle[:])
	bad := &waiter{Append: d.Append(c, 2, 3, "x"), ctx: t.Context(), done: make(chan error, 1)}
	good := &waiter{Append: other.Append(otherClaim, 1, 2, "x"), ctx: t.Context(), done: make(chan error, 1)}
	e.commit([]*waiter{bad, good})
	if err := <-bad.done; codeOf(err) != uniqueViolation {
		t.Errorf("the damaged document: %v, want it refused", err)
	}
	if err := <-good.done; err != nil {
		t.Errorf("the other: %v", err)
	}
}

func TestDamagedObjectAndRowAreCorrupt(t *testing.T) {
	e, d := openNew(t), storetest.NewDoc(t)
	key := envelope.NewServiceKey()
	row := store.RowKey{Table: "t"}
	sealed, err := key.SealRow("t", row.Partition, row.Name, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.WriteRows(t.Context(), []store.RowWrite{{RowKey: row, Value: &sealed}}); err != nil {
		t.Fatal(err)
	}
	e.exec(t, "UPDATE sealed_rows SET value = 'plain'")
	_, rowErr := e.GetRow(t.Context(), row)
	_, listErr := e.ListRows(t.Context(), "t", row.Partition, row.Name, 9)
	errs := map[string]error{"GetRow": rowErr, "ListRows": listErr}
	e.exec(t, "UPDATE sealed_rows SET revision = -1, value = $1", sealed.Bytes())
	_, errs["negative revision"] = e.GetRow(t.Context(), row)
	for name, sql := range map[string]string{
		"plain object":   "UPDATE objects SET value = 'plain' WHERE document = $1 AND part = 0",
		"missing part":   "DELETE FROM objects WHERE document = $1 AND part = 1",
		"missing first":  "DELETE FROM objects WHERE document = $1 AND part = 0",
		"missing last":   "DELETE FROM objects WHERE document = $1 AND part = 2",
		"too many parts": "UPDATE objects SET parts = 2147483647 WHERE document = $1",
		"no such blob":   "UPDATE objects SET blob = 'x', blob_bytes = 9000000000000 WHERE document = $1 AND part = 2",
	} {
		o := d.Object(name, strings.Repeat("x", 2*partBytes+10))
		if err := e.PutObjects(t.Context(), d.Handle, []store.Object{o}); err != nil {
			t.Fatal(err)
		}
		if got, err := e.GetObject(t.Context(), d.Handle, o.Name); err != nil || len(got.Bytes()) != len(o.Value.Bytes()) {
			t.Fatalf("%s: %d bytes, %v", name, len(got.Bytes()), err)
		}
		e.exec(t, sql+" AND name = $2", d.Handle[:], o.Name[:])
		_, errs[name] = e.GetObject(t.Context(), d.Handle, o.Name)
	}
	for what, err := range errs {
		if !errors.Is(err, store.ErrCorrupt) || strings.Contains(err.Error(), "plain") {
			t.Errorf("%s: got %v, want ErrCorrupt without the contents", what, err)
		}
	}
}

// A log of more than one page is read whole, and of one moment.
func TestReadOfSeveralPages(t *testing.T) {
	e, d := openNew(t), storetest.NewDoc(t)
	c, err := e.Claim(t.Context(), d.Handle)
	if err != nil {
		t.Fatal(err)
	}
	const records = 10
	text := strings.Repeat("x", pageBytes/4)
	for head := range uint64(records) {
		if head%4 == 0 {
			d.NewSegment(c.Term, head+1)
		}
		if err := e.Append(t.Context(), d.Append(c, head, head+1, text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		from     uint64
		maxBytes int
		records  int
	}{{1, 0, 10}, {3, 0, 8}, {1, 2 * pageBytes, 8}, {1, pageBytes/4 + 1, 1}, {1, pageBytes / 2, 2}} {
		r, err := e.Read(t.Context(), d.Handle, want.from, records, want.maxBytes)
		if err != nil || len(d.Texts(r)) != want.records {
			t.Errorf("from %d, at most %d bytes: %d records, %v; want %d", want.from, want.maxBytes, len(r.Records), err, want.records)
		}
	}
}

// What a column holds is said for strangers.
func TestEveryColumnIsDocumented(t *testing.T) {
	e := openNew(t)
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "formats", "store-postgres.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := e.pool.Query(t.Context(), `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
		n++
		for _, word := range []string{table, column} {
			if !strings.Contains(string(page), "`"+word+"`") {
				t.Errorf("docs/formats/store-postgres.md does not say what %s.%s is", table, column)
			}
		}
	}
	if err := rows.Err(); err != nil || n < 15 {
		t.Errorf("%d columns, %v", n, err)
	}
}
