package custody

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// Inspection is what a walk through everything stored found without the key of any
// document. It is less than a Proof: that records and objects open and authenticate is
// not shown. With the service key it is shown of rows, and of each wrap record which key
// version it is under; key stores are not asked.
type Inspection struct {
	Rows, DocumentKeys, Documents, Headers, Records, Objects int
	Loose                                                    int   // values in an object store that no object is in
	Bytes                                                    int64 // of sealed values
	RowsOpened                                               bool  // there was the service key, and all rows were opened

	Resources map[string]int // documents by their resource's random id
	KeyIDs    map[string]int // documents by the key version that their relay's root key is under; needs the service key
	Epochs    map[string]int // document keys by the root key that they are under: resource/epoch
	Shredded  int            // documents whose key is gone: what is left of them is opened by nobody

	Failures []string // the first of those values that are not as they must be
	Failed   int      // how many there are
}

// Inspect walks through a store that nobody writes. service is nil if there is no key.
// An error means that the walk broke off.
func Inspect(ctx context.Context, st store.Store, service *envelope.ServiceKey) (Inspection, error) {
	i := inspector{
		service: service, found: Inspection{RowsOpened: service != nil, Resources: map[string]int{}, KeyIDs: map[string]int{}, Epochs: map[string]int{}},
		documents: map[envelope.DocumentHandle]envelope.ResourceID{}, keys: map[envelope.DocumentHandle]bool{}, kids: map[string]string{},
	}
	if err := st.Walk(ctx, i.visit); err != nil {
		return i.found, err
	}
	i.conclude()
	return i.found, nil
}

type inspector struct {
	service *envelope.ServiceKey
	found   Inspection

	documents map[envelope.DocumentHandle]envelope.ResourceID
	keys      map[envelope.DocumentHandle]bool // there is a wrapped key of it
	kids      map[string]string                // by resource

	// The log that the walk is at.
	at      envelope.DocumentHandle
	headers []envelope.Header
	last    envelope.Record
	some    bool // last is one
}

func (i *inspector) fail(format string, args ...any) {
	if i.found.Failed++; len(i.found.Failures) < maxFailures {
		i.found.Failures = append(i.found.Failures, fmt.Sprintf(format, args...))
	}
}

func (i *inspector) visit(s store.Stored) error {
	if s.Document != i.at {
		i.at, i.headers, i.some = s.Document, nil, false
	}
	var err error
	switch s.Part {
	case store.PartState:
		return nil // two numbers
	case store.PartRow:
		i.found.Rows++
		err = i.row(s.Row, s.Value)
	case store.PartHeader:
		i.found.Headers++
		err = i.header(slices.Clone(s.Value))
	case store.PartRecord:
		i.found.Records++
		err = i.record(slices.Clone(s.Value))
	case store.PartObject:
		i.found.Objects++
		err = i.object(s.Value)
	case store.PartLoose:
		i.found.Loose++
		_, err = envelope.ParseSealed(s.Value)
	default:
		err = errors.New("it is nothing known")
	}
	if err != nil {
		i.fail("%s: %v", place(s), err)
	}
	i.found.Bytes += int64(len(s.Value))
	return nil
}

// place names a value to people.
func place(s store.Stored) string {
	what := map[store.Part]string{store.PartHeader: "a segment header", store.PartRecord: "a record", store.PartObject: "an object"}[s.Part]
	switch {
	case s.Part == store.PartRow:
		return "a row of " + string(s.Row.Table)
	case s.Part == store.PartLoose:
		return "a blob that no object is in"
	case what == "":
		return fmt.Sprintf("a value of %d bytes", len(s.Value))
	}
	return fmt.Sprintf("%s of document %x", what, s.Document)
}

func (i *inspector) row(key store.RowKey, raw []byte) error {
	s, err := envelope.ParseSealed(raw)
	if err != nil {
		return err
	}
	if at, ok := envelope.WrappedPlace(s); ok {
		i.found.DocumentKeys++
		i.keys[at.Document] = true
		i.found.Epochs[fmt.Sprintf("%x/%d", at.Resource, at.Epoch)]++
		if i.service != nil && key != documentKeyRow(*i.service, at.Resource, at.Document) {
			return errors.New("a document key lies where another one belongs")
		}
		return nil
	}
	if i.service == nil {
		return nil
	}
	plain, err := i.service.OpenRow(string(key.Table), key.Partition, key.Name, s)
	if err != nil {
		return err
	}
	if key.Table != tableRootKeys || key.Name != i.service.Name(tableRootKeys, currentID) {
		return nil
	}
	var rec wrapRecord
	if err := json.Unmarshal(plain, &rec); err != nil {
		return err
	}
	i.kids[rec.Resource] = rec.KeyID
	return nil
}

func (i *inspector) header(raw []byte) error {
	h, err := envelope.ParseHeader(raw)
	if err != nil {
		return err
	}
	i.headers = append(i.headers, h)
	return i.of(h.Place().KeyPlace)
}

// of notes whose document the walk is at.
func (i *inspector) of(at envelope.KeyPlace) error {
	if at.Document != i.at {
		return errors.New("it is of another document")
	}
	if known, ok := i.documents[i.at]; ok && known != at.Resource {
		return errors.New("it is of another resource")
	}
	i.documents[i.at] = at.Resource
	return nil
}

// record checks that a record follows the one before. What was trimmed may be missing
// before the first.
func (i *inspector) record(raw []byte) error {
	rec, err := envelope.ParseRecord(raw)
	if err != nil {
		return err
	}
	before, begun := i.last, i.some
	i.last, i.some = rec, true
	n := sort.Search(len(i.headers), func(n int) bool { return i.headers[n].Place().FirstSeq > rec.FirstSeq() })
	if n == 0 {
		return errors.New("it has no segment header")
	}
	switch h := i.headers[n-1]; {
	case begun && rec.FirstSeq() != before.LastSeq()+1:
		return fmt.Errorf("it holds %d..%d and follows %d", rec.FirstSeq(), rec.LastSeq(), before.LastSeq())
	case rec.Index() == 0 && (!rec.Follows(h.Link()) || begun && h.Place().Prev != before.Link()):
		return errors.New("its segment does not follow the one before")
	case rec.Index() > 0 && begun && !rec.Follows(before.Link()):
		return errors.New("it does not follow the record before")
	}
	return nil
}

func (i *inspector) object(raw []byte) error {
	s, err := envelope.ParseSealed(raw)
	if err != nil {
		return err
	}
	at, ok := envelope.ObjectPlace(s)
	if !ok {
		return errors.New("it is not sealed as one")
	}
	return i.of(at)
}

// conclude brings together what documents and rows said.
func (i *inspector) conclude() {
	i.found.Documents = len(i.documents)
	for handle, resource := range i.documents {
		id := hex.EncodeToString(resource[:])
		i.found.Resources[id]++
		switch kid, known := i.kids[id]; {
		case !i.keys[handle]:
			i.found.Shredded++
		case i.service == nil:
		case known:
			i.found.KeyIDs[kid]++
		default:
			i.fail("document %x is under a resource without a root key", handle)
		}
	}
}
