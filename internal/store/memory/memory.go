package memory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// ErrInjected is the failure that faults report: no sentinel of package store, so
// the caller must take the outcome for unknown.
var ErrInjected = errors.New("memory: injected failure")

// Op names a kind of write.
type Op string

// The writes that faults can hit.
const (
	OpClaim   Op = "claim"
	OpAppend  Op = "append"
	OpObjects Op = "objects"
	OpRows    Op = "rows"
	OpDelete  Op = "delete"
	OpTrim    Op = "trim"
)

// Fault is what happens to one write.
type Fault struct {
	Persist bool            // the write is done
	Fail    bool            // and ErrInjected is reported; with Persist that is "written but reported as failed"
	Wait    <-chan struct{} // before anything happens; nil does not wait
}

// Store is the engine. The zero value is not ready; see New.
type Store struct {
	mu     sync.Mutex // guards all below
	closed bool
	docs   map[envelope.DocumentHandle]*document
	rows   map[store.RowKey]row
	fault  func(Op) Fault
}

type document struct {
	term, head uint64
	headers    [][]byte // in order of first seq
	records    [][]byte // in order
	objects    map[envelope.Name][]byte
}

type row struct {
	value    []byte
	revision uint64
}

var _ store.Store = (*Store)(nil)

// New returns an empty engine.
func New() *Store {
	return &Store{docs: map[envelope.DocumentHandle]*document{}, rows: map[store.RowKey]row{}}
}

// SetFault has f decide over each write from now on; nil ends all faults. f is
// called without any lock held.
func (s *Store) SetFault(f func(Op) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// write runs do under the lock, through the fault of the moment. An error of do
// means that nothing was changed.
func (s *Store) write(ctx context.Context, op Op, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	decide := s.fault
	s.mu.Unlock()
	f := Fault{Persist: true}
	if decide != nil {
		f = decide(op)
	}
	if f.Wait != nil {
		<-f.Wait
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	if f.Persist {
		if err := do(); err != nil {
			return err
		}
	}
	if f.Fail || !f.Persist {
		return fmt.Errorf("%s: %w", op, ErrInjected)
	}
	return nil
}

// read runs do under the lock.
func (s *Store) read(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	return do()
}

// Writable is part of store.Store.
func (s *Store) Writable(ctx context.Context) error {
	return s.read(ctx, func() error { return nil })
}

func (s *Store) document(h envelope.DocumentHandle) *document {
	d := s.docs[h]
	if d == nil {
		d = &document{objects: map[envelope.Name][]byte{}}
		s.docs[h] = d
	}
	return d
}

// Claim implements store.Log.
func (s *Store) Claim(ctx context.Context, doc envelope.DocumentHandle) (c store.Claim, err error) {
	err = s.write(ctx, OpClaim, func() error {
		d := s.document(doc)
		d.term++
		c = store.Claim{Term: d.term, Head: d.head}
		return nil
	})
	if err != nil {
		return store.Claim{}, err
	}
	return c, nil
}

// Append implements store.Log.
func (s *Store) Append(ctx context.Context, a store.Append) error {
	return s.write(ctx, OpAppend, func() error {
		d := s.docs[a.Document]
		if d == nil || d.term == 0 || d.term != a.Term || d.head != a.ExpectedHead {
			return store.ErrFenced
		}
		if err := a.Check(); err != nil {
			return err
		}
		if a.Header != nil {
			d.headers = append(d.headers, bytes.Clone(a.Header.Bytes()))
		}
		d.records = append(d.records, bytes.Clone(a.Record.Bytes()))
		d.head = a.Record.LastSeq()
		return nil
	})
}

// Read implements store.Log.
func (s *Store) Read(ctx context.Context, doc envelope.DocumentHandle, from, to uint64, maxBytes int) (out store.Range, err error) {
	err = s.read(ctx, func() error {
		d := s.docs[doc]
		if d == nil {
			return nil
		}
		out.Head = d.head
		return d.read(max(from, 1), min(to, d.head), maxBytes, &out)
	})
	if err != nil {
		return store.Range{}, err
	}
	return out, nil
}

func (d *document) read(from, to uint64, maxBytes int, out *store.Range) error {
	next, size := from, 0
	for i, raw := range d.records {
		if next > to || maxBytes > 0 && size >= maxBytes && size > 0 {
			break
		}
		rec, err := envelope.ParseRecord(bytes.Clone(raw))
		if err != nil {
			return fmt.Errorf("%w: record: %w", store.ErrCorrupt, err)
		}
		if rec.LastSeq() < next {
			continue
		}
		if rec.FirstSeq() > next && i == 0 && d.begins(rec) {
			if next = rec.FirstSeq(); next > to {
				return nil
			}
		}
		if rec.FirstSeq() > next || len(out.Records) > 0 && rec.FirstSeq() != next {
			return fmt.Errorf("%w: a record holds %d..%d where %d should be", store.ErrCorrupt, rec.FirstSeq(), rec.LastSeq(), next)
		}
		out.Records = append(out.Records, rec)
		next, size = rec.LastSeq()+1, size+len(raw)
	}
	if next <= to && (maxBytes <= 0 || size < maxBytes || size == 0) {
		return fmt.Errorf("%w: the record of %d is missing", store.ErrCorrupt, next)
	}
	if len(out.Records) == 0 {
		return nil
	}
	return d.readHeaders(out)
}

// begins says whether the log begins with rec.
func (d *document) begins(rec envelope.Record) bool {
	if len(d.headers) == 0 {
		return false
	}
	h, err := envelope.ParseHeader(bytes.Clone(d.headers[0]))
	return err == nil && store.Begins(h, rec)
}

// readHeaders adds the headers of the segments that the records belong to.
func (d *document) readHeaders(out *store.Range) error {
	first, last := out.Records[0].FirstSeq(), out.Records[len(out.Records)-1].FirstSeq()
	for _, raw := range d.headers {
		h, err := envelope.ParseHeader(bytes.Clone(raw))
		if err != nil {
			return fmt.Errorf("%w: segment header: %w", store.ErrCorrupt, err)
		}
		starts := h.Place().FirstSeq
		if starts <= first {
			out.Headers = out.Headers[:0] // a later segment may still begin at or before the first record
		}
		if starts <= last {
			out.Headers = append(out.Headers, h)
		}
	}
	if len(out.Headers) == 0 || out.Headers[0].Place().FirstSeq > first {
		return fmt.Errorf("%w: no segment header at or before %d", store.ErrCorrupt, first)
	}
	return nil
}

// Trim implements store.Log.
func (s *Store) Trim(ctx context.Context, doc envelope.DocumentHandle, term, below uint64) error {
	return s.write(ctx, OpTrim, func() error {
		d := s.docs[doc]
		if d == nil || d.term == 0 || d.term != term {
			return store.ErrFenced
		}
		return d.trim(min(below, d.head))
	})
}

func (d *document) trim(below uint64) error {
	drop := 0
	var first uint64 // of the first record that stays
	for _, raw := range d.records {
		rec, err := envelope.ParseRecord(raw)
		if err != nil {
			return fmt.Errorf("%w: record: %w", store.ErrCorrupt, err)
		}
		if first = rec.FirstSeq(); rec.LastSeq() >= below {
			break
		}
		drop++
	}
	unused := 0
	for i, raw := range d.headers {
		h, err := envelope.ParseHeader(raw)
		if err != nil {
			return fmt.Errorf("%w: segment header: %w", store.ErrCorrupt, err)
		}
		if h.Place().FirstSeq <= first {
			unused = i
		}
	}
	d.records, d.headers = slices.Clone(d.records[drop:]), slices.Clone(d.headers[unused:])
	return nil
}

// PutObjects implements store.Objects.
func (s *Store) PutObjects(ctx context.Context, doc envelope.DocumentHandle, objects []store.Object) error {
	return s.write(ctx, OpObjects, func() error {
		d := s.document(doc)
		for _, o := range objects {
			d.objects[o.Name] = bytes.Clone(o.Value.Bytes())
		}
		return nil
	})
}

// GetObject implements store.Objects.
func (s *Store) GetObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (v envelope.Sealed, err error) {
	err = s.read(ctx, func() error {
		raw, ok := s.object(doc, name)
		if !ok {
			return store.ErrNotFound
		}
		var bad error
		if v, bad = envelope.ParseSealed(bytes.Clone(raw)); bad != nil {
			return fmt.Errorf("%w: object: %w", store.ErrCorrupt, bad)
		}
		return nil
	})
	return v, err
}

// HasObject implements store.Objects.
func (s *Store) HasObject(ctx context.Context, doc envelope.DocumentHandle, name envelope.Name) (has bool, err error) {
	err = s.read(ctx, func() error {
		_, has = s.object(doc, name)
		return nil
	})
	return has, err
}

func (s *Store) object(doc envelope.DocumentHandle, name envelope.Name) ([]byte, bool) {
	d := s.docs[doc]
	if d == nil {
		return nil, false
	}
	raw, ok := d.objects[name]
	return raw, ok
}

// DeleteDocument implements store.Store.
func (s *Store) DeleteDocument(ctx context.Context, doc envelope.DocumentHandle) error {
	return s.write(ctx, OpDelete, func() error {
		d := s.docs[doc]
		delete(s.docs, doc)
		if d != nil && d.term > 0 {
			s.document(doc).term = d.term + 1 // whoever held the log is fenced
		}
		return nil
	})
}

// GetRow implements store.Rows.
func (s *Store) GetRow(ctx context.Context, key store.RowKey) (out store.Row, err error) {
	err = s.read(ctx, func() error {
		r, ok := s.rows[key]
		if !ok {
			return store.ErrNotFound
		}
		out, err = parseRow(key, r)
		return err
	})
	return out, err
}

func parseRow(key store.RowKey, r row) (store.Row, error) {
	v, err := envelope.ParseSealed(bytes.Clone(r.value))
	if err != nil {
		return store.Row{}, fmt.Errorf("%w: row: %w", store.ErrCorrupt, err)
	}
	return store.Row{RowKey: key, Value: v, Revision: r.revision}, nil
}

// ListRows implements store.Rows.
func (s *Store) ListRows(ctx context.Context, table store.Table, partition, after envelope.Name, limit int) (out []store.Row, err error) {
	err = s.read(ctx, func() error {
		var keys []store.RowKey
		for k := range s.rows {
			if k.Table == table && k.Partition == partition && (after == envelope.Name{} || bytes.Compare(k.Name[:], after[:]) > 0) {
				keys = append(keys, k)
			}
		}
		sort.Slice(keys, func(i, j int) bool { return bytes.Compare(keys[i].Name[:], keys[j].Name[:]) < 0 })
		for _, k := range keys[:min(limit, len(keys))] {
			r, err := parseRow(k, s.rows[k])
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// WriteRows implements store.Rows.
func (s *Store) WriteRows(ctx context.Context, writes []store.RowWrite) error {
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	return s.write(ctx, OpRows, func() error {
		for _, w := range writes {
			if !w.Expect.Met(s.rows[w.RowKey].revision) {
				return store.ErrConflict
			}
		}
		for _, w := range writes {
			if w.Value == nil {
				delete(s.rows, w.RowKey)
				continue
			}
			s.rows[w.RowKey] = row{bytes.Clone(w.Value.Bytes()), s.rows[w.RowKey].revision + 1}
		}
		return nil
	})
}

// ScanRows implements store.Store.
func (s *Store) ScanRows(ctx context.Context, after store.RowKey, limit int) (out []store.Row, err error) {
	err = s.read(ctx, func() error {
		var keys []store.RowKey
		for k := range s.rows {
			if compareKeys(k, after) > 0 {
				keys = append(keys, k)
			}
		}
		slices.SortFunc(keys, compareKeys)
		for _, k := range keys[:min(limit, len(keys))] {
			r, err := parseRow(k, s.rows[k])
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

func compareKeys(a, b store.RowKey) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), bytes.Compare(a.Partition[:], b.Partition[:]), bytes.Compare(a.Name[:], b.Name[:]))
}

// ResealRows implements store.Store.
func (s *Store) ResealRows(ctx context.Context, rows []store.Resealed) (n int, err error) {
	err = s.write(ctx, OpRows, func() error {
		for _, one := range rows {
			if r, ok := s.rows[one.RowKey]; ok && bytes.Equal(r.value, one.Old.Bytes()) {
				s.rows[one.RowKey] = row{bytes.Clone(one.New.Bytes()), r.revision}
				n++
			}
		}
		return nil
	})
	return n, err
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Reopen undoes Close, as a new process on the same data would.
func (s *Store) Reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = false
}

// Mutate hands every stored value to f and keeps what f returns, unchanged bytes
// included; a nil result removes the value. Values come in no fixed order, but
// the records of a document in theirs. For tests that tamper.
func (s *Store) Mutate(f func(what string, raw []byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.docs {
		d.headers = mutateAll("header", d.headers, f)
		d.records = mutateAll("record", d.records, f)
		for name, raw := range d.objects {
			if d.objects[name] = f("object", raw); d.objects[name] == nil {
				delete(d.objects, name)
			}
		}
	}
	for key, r := range s.rows {
		if r.value = f("row", r.value); r.value == nil {
			delete(s.rows, key)
		} else {
			s.rows[key] = r
		}
	}
}

func mutateAll(what string, all [][]byte, f func(string, []byte) []byte) [][]byte {
	out := make([][]byte, 0, len(all))
	for _, raw := range all {
		out = append(out, f(what, raw))
	}
	return slices.DeleteFunc(out, func(raw []byte) bool { return raw == nil })
}
