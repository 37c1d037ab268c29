package custody

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Proof is what a walk through everything stored found: does every value have a known
// sealed format, does it open and authenticate where it lies, and under which keys is it.
type Proof struct {
	Started, Ended time.Time // Ended zero: it runs
	Err            string    // why the walk broke off; empty: it did not

	Rows, Documents, Headers, Records, Objects int
	Bytes                                      int64          // of sealed values
	DocumentKeys                               int            // of those documents, those before the ones that seal among them
	UnderOlder                                 int            // segments and objects that are under a document's key of before
	KeyIDs                                     map[string]int // documents by the key version that their relay's root key is under
	Loose                                      int            // values in an object store that no object is in: sealed, and not opened
	Shredded                                   int            // values whose document's key was destroyed: sealed, and opened by nobody
	Unproven                                   map[string]int // documents that could not be opened now, by reason
	Failures                                   []string       // the first of those values that are not as they must be
	Failed                                     int            // how many there are
}

// Whole says whether everything was proven.
func (p Proof) Whole() bool {
	return !p.Ended.IsZero() && p.Err == "" && p.Failed == 0 && len(p.Unproven) == 0
}

const (
	maxFailures  = 100
	proveAtOnce  = 8 << 20 // bytes of records that are opened in one piece
	reasonErased = "shredded"
)

// ErrProofRuns: one is enough at a time.
var ErrProofRuns = errors.New("a proof is running")

// ErrNoProof: none was made since this process started.
var ErrNoProof = errors.New("there was no proof since the server started")

// StartProof begins a proof. ErrProofRuns.
func (k *Keeper) StartProof() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return stoppingError()
	}
	if k.proof != nil && k.proof.Ended.IsZero() {
		return ErrProofRuns
	}
	k.proof = &Proof{Started: time.Now(), KeyIDs: map[string]int{}, Unproven: map[string]int{}}
	k.wg.Go(func() {
		r := &prover{k: k, p: &Proof{KeyIDs: map[string]int{}, Unproven: map[string]int{}}}
		err := k.c.Store.Walk(k.ctx, func(s store.Stored) error { return r.visit(k.ctx, s) })
		if err == nil {
			r.openRecords()
		}
		r.leave()
		k.mu.Lock()
		defer k.mu.Unlock()
		r.p.Started, r.p.Ended = k.proof.Started, time.Now()
		if err != nil {
			r.p.Err = err.Error()
		}
		k.proof = r.p
	})
	return nil
}

// LastProof returns the proof that runs, without its counts, or the last one. ErrNoProof.
func (k *Keeper) LastProof() (Proof, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.proof == nil {
		return Proof{}, ErrNoProof
	}
	return *k.proof, nil
}

// prover walks; it has one document open at a time.
type prover struct {
	k *Keeper
	p *Proof

	at      envelope.DocumentHandle
	begun   bool
	doc     *Document // nil: not opened yet, or why says why not
	why     string    // the document cannot be opened
	headers []envelope.Header
	records []envelope.Record // of the piece that is collected; the first is the last of the one before
	size    int
}

func (r *prover) visit(ctx context.Context, s store.Stored) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.Part != store.PartRow && s.Part != store.PartUnknown && s.Part != store.PartLoose && (!r.begun || r.at != s.Document) {
		r.openRecords()
		r.leave()
		r.at, r.begun = s.Document, true
	}
	raw := append([]byte(nil), s.Value...)
	switch s.Part {
	case store.PartState:
		return nil // two numbers
	case store.PartRow:
		r.p.Rows++
		r.row(ctx, s.Row, raw)
	case store.PartHeader:
		r.p.Headers++
		h, err := envelope.ParseHeader(raw)
		if err != nil {
			r.fail("a segment header of document %x: %v", s.Document, err)
			return nil
		}
		r.headers = append(r.headers, h)
		r.open(ctx, h.Place().Resource)
		r.countOlder(h.Place().KeyID)
	case store.PartRecord:
		r.p.Records++
		rec, err := envelope.ParseRecord(raw)
		if err != nil {
			r.fail("a record of document %x: %v", s.Document, err)
			return nil
		}
		if r.why == reasonErased {
			r.p.Shredded++
		}
		r.records, r.size = append(r.records, rec), r.size+len(raw)
		if r.size >= proveAtOnce {
			r.openRecords()
		}
	case store.PartObject:
		r.p.Objects++
		r.object(ctx, s, raw)
	case store.PartLoose:
		r.p.Loose++
		if _, err := envelope.ParseSealed(raw); err != nil {
			r.fail("a blob that no object is in: %v", err)
		}
	default:
		r.fail("a value of %d bytes that is nothing known", len(raw))
		return nil
	}
	r.p.Bytes += int64(len(raw))
	return nil
}

func (r *prover) fail(format string, args ...any) {
	if r.p.Failed++; len(r.p.Failures) < maxFailures {
		r.p.Failures = append(r.p.Failures, fmt.Sprintf(format, args...))
	}
}

// row opens a row of management data, or the key of a document.
func (r *prover) row(ctx context.Context, key store.RowKey, raw []byte) {
	s, err := envelope.ParseSealed(raw)
	if err != nil {
		r.fail("a row of %s: %v", key.Table, err)
		return
	}
	if place, ok := envelope.WrappedPlace(s); ok {
		if key != r.k.documentKeyRow(place.Resource, place.Document) {
			r.fail("a document key lies where another one belongs")
			return
		}
		d, err := r.k.openStored(ctx, place.Resource, place.Document)
		if err == nil {
			d.Close()
			return
		}
		if why := unopened(err); why == "" {
			r.fail("a document key: %v", err)
		} else if why != reasonErased {
			r.p.Unproven[why]++
		}
		return
	}
	if _, err := r.k.c.Service.OpenRow(string(key.Table), key.Partition, key.Name, s); err != nil {
		// It is sealed; is it damaged, or was it changed since the walk began?
		now, readErr := r.k.c.Store.GetRow(ctx, key)
		if readErr == nil && string(now.Value.Bytes()) == string(raw) {
			r.fail("a row of %s does not open", key.Table)
		}
	}
}

// open opens the document that the walk is at, once.
func (r *prover) open(ctx context.Context, resource envelope.ResourceID) {
	if r.doc != nil || r.why != "" {
		return
	}
	r.p.Documents++
	d, err := r.k.openStored(ctx, resource, r.at)
	if err == nil {
		r.doc = d
		d.mu.RLock()
		r.p.DocumentKeys += 1 + d.key.Older()
		d.mu.RUnlock()
		kid, err := r.k.KeyID(ctx, resource)
		if err == nil {
			r.p.KeyIDs[kid]++
		}
		return
	}
	if r.why = unopened(err); r.why == "" {
		r.why = "damaged"
		r.fail("the key of document %x: %v", r.at, err)
	} else if r.why != reasonErased {
		r.p.Unproven[r.why]++
	}
}

// countOlder counts what is under a key that does not seal any more.
func (r *prover) countOlder(id envelope.KeyID) {
	if r.doc == nil {
		return
	}
	r.doc.mu.RLock()
	defer r.doc.mu.RUnlock()
	if id != r.doc.at.KeyID {
		r.p.UnderOlder++
	}
}

// unopened says why a document cannot be opened that is not damaged; empty: it is.
func unopened(err error) string {
	var unusable *UnusableError
	switch {
	case errors.Is(err, store.ErrNotFound):
		return reasonErased
	case errors.As(err, &unusable):
		return unusable.Reason
	}
	return ""
}

// openRecords opens the records that were collected. The last one stays, so that the
// next piece is chained to this one.
func (r *prover) openRecords() {
	if len(r.records) == 0 {
		return
	}
	defer func() { r.records, r.size = append([]envelope.Record(nil), r.records[len(r.records)-1]), 0 }()
	if r.doc == nil {
		if r.why == "" {
			r.fail("records of document %x have no segment header", r.at)
		}
		return
	}
	first, last := r.records[0].FirstSeq(), r.records[len(r.records)-1].FirstSeq()
	from := sort.Search(len(r.headers), func(i int) bool { return r.headers[i].Place().FirstSeq > first })
	to := sort.Search(len(r.headers), func(i int) bool { return r.headers[i].Place().FirstSeq > last })
	if _, _, err := r.doc.OpenRecords(store.Range{Headers: r.headers[max(from-1, 0):to], Records: r.records, Head: r.records[len(r.records)-1].LastSeq()}); err != nil {
		r.failDocument("records", err)
	}
}

// failDocument notes a failure, unless the key went away meanwhile.
func (r *prover) failDocument(what string, err error) {
	why := unopened(err)
	switch {
	case why == "":
		r.fail("%s of document %x: %v", what, r.at, err)
	case r.why == "":
		if r.why = why; why != reasonErased {
			r.p.Unproven[why]++
		}
	}
}

func (r *prover) object(ctx context.Context, s store.Stored, raw []byte) {
	sealed, err := envelope.ParseSealed(raw)
	place, ok := envelope.KeyPlace{}, false
	if err == nil {
		place, ok = envelope.ObjectPlace(sealed)
	}
	if !ok {
		r.fail("an object of document %x is not sealed as one", s.Document)
		return
	}
	r.open(ctx, place.Resource)
	r.countOlder(place.KeyID)
	switch {
	case r.why == reasonErased:
		r.p.Shredded++
	case r.doc != nil:
		if err := r.doc.proveObject(s.Name, sealed); err != nil {
			r.failDocument("an object", err)
		}
	}
}

// proveObject opens an object under the name that it is stored by.
func (d *Document) proveObject(name envelope.Name, s envelope.Sealed) error {
	if place, ok := envelope.ObjectPlace(s); ok {
		d.catchUp(place.KeyID)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.unusable(); err != nil {
		return err
	}
	if _, err := d.key.OpenObject(d.at, s.Kind(), name, s); err != nil {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return nil
}

// leave closes the document that the walk was at.
func (r *prover) leave() {
	if r.doc != nil {
		r.doc.Close()
	}
	r.doc, r.why, r.headers, r.records, r.size = nil, "", nil, nil, 0
}
