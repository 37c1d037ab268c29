package custody

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// specimen is a document as it is stored, and what is in it.
type specimen struct {
	d       *Document
	log     oneLog
	headers []envelope.Header
	text    string
}

// newSpecimen writes a log of several segments.
func newSpecimen(t *testing.T, f *fixture, r envelope.ResourceID) *specimen {
	t.Helper()
	s := &specimen{d: f.document(r)}
	var tail Tail
	for term := uint64(1); term <= 3; term++ {
		w := s.d.NewWriter(store.Claim{Term: term, Head: s.log.r.Head}, tail)
		for n := range 3 {
			a, err := w.Seal(s.log.r.Head+1, s.log.r.Head+2, fmt.Appendf(nil, "ops %d of term %d;", n, term))
			if err != nil {
				t.Fatal(err)
			}
			if a.Header != nil {
				s.headers = append(s.headers, *a.Header)
			}
			s.log.r.Records, s.log.r.Head = append(s.log.r.Records, a.Record), s.log.r.Head+2
			w.Appended()
		}
		tail = w.tail
	}
	s.text = s.judge(t, s.headers, s.log.r.Records)
	if strings.HasPrefix(s.text, "refused") {
		t.Fatalf("as written: %s", s.text)
	}
	return s
}

// judge is what a reader of the whole log gets: its text, or that it is refused.
func (s *specimen) judge(t *testing.T, headers []envelope.Header, records []envelope.Record) string {
	t.Helper()
	r := store.Range{Headers: headers, Records: records}
	if n := len(records); n > 0 {
		r.Head = records[n-1].LastSeq()
	}
	if _, err := s.d.CheckAnchor(t.Context(), &oneLog{r: r}); err != nil {
		return "refused: " + err.Error()
	}
	batches, _, err := s.d.OpenRecords(r)
	if err != nil {
		return "refused: " + err.Error()
	}
	var text bytes.Buffer
	if len(batches) > 0 && !batches[0].Begins {
		return "refused: the beginning is missing"
	}
	for _, b := range batches {
		text.Write(b.Plaintext)
	}
	return text.String()
}

// Logs of two documents and two resources are cut, spliced, shuffled, repeated and changed
// at random; a reader gets what was written, or nothing.
func TestScenario38GeneratedTamperingsOfLogs(t *testing.T) {
	tamperings := 40_000
	if testing.Short() {
		tamperings = 2_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f, _ := newAnchored(t)
	a, b := f.resource(pinned), f.resource(versionless)
	all := []*specimen{newSpecimen(t, f, a), newSpecimen(t, f, a), newSpecimen(t, f, b)}
	f.anchors.flush()
	refused, same := 0, 0
	for range tamperings {
		s, other := all[random.IntN(len(all))], all[random.IntN(len(all))]
		headers, records := slices.Clone(s.headers), slices.Clone(s.log.r.Records)
		what := tamper(random, &headers, &records, other)
		switch got := s.judge(t, headers, records); {
		case got == s.text:
			same++
		case strings.HasPrefix(got, "refused"):
			refused++
		default:
			t.Fatalf("%s: %q was read instead of %q", what, got, s.text)
		}
	}
	t.Logf("%d refused, %d changed nothing", refused, same)
	if refused < tamperings/2 {
		t.Errorf("only %d of %d were refused: the test changes too little", refused, tamperings)
	}
}

// tamper changes a log in one way; other is another one.
func tamper(random *rand.Rand, headers *[]envelope.Header, records *[]envelope.Record, other *specimen) string {
	h, r := *headers, *records
	i, j := random.IntN(len(r)), random.IntN(len(r))
	k := random.IntN(len(h))
	change := func(raw []byte) []byte {
		b := bytes.Clone(raw)
		switch random.IntN(3) {
		case 0:
			b[random.IntN(len(b))] ^= 1 << random.IntN(8)
		case 1:
			binary.BigEndian.PutUint64(b[random.IntN(len(b)-7):], uint64(random.IntN(12)))
		default:
			copy(b[random.IntN(len(b)):], other.log.r.Records[j].Bytes())
		}
		return b
	}
	switch random.IntN(11) {
	case 0:
		*records = slices.Delete(r, i, i+1)
		return "record dropped"
	case 1:
		*records = slices.Insert(r, i, r[j])
		return "record repeated"
	case 2:
		r[i], r[j] = r[j], r[i]
		return "records swapped"
	case 3:
		r[i] = other.log.r.Records[j]
		return "record of another log"
	case 4:
		*records = append(r[:i], other.log.r.Records[i:]...)
		return "another log's end"
	case 5:
		*records = r[:i]
		for len(h) > 0 && (i == 0 || h[len(h)-1].Place().FirstSeq > r[i-1].LastSeq()) {
			h = h[:len(h)-1]
		}
		*headers = h
		return "cut off, with its headers"
	case 6:
		*headers = slices.Delete(h, k, k+1)
		return "header dropped"
	case 7:
		h[k] = other.headers[random.IntN(len(h))]
		return "header of another log"
	case 8:
		*records = r[i:]
		return "beginning dropped"
	case 9:
		if b, err := envelope.ParseHeader(change(h[k].Bytes())); err == nil {
			h[k] = b
		}
		return "header changed"
	default:
		if b, err := envelope.ParseRecord(change(r[i].Bytes())); err == nil {
			r[i] = b
		}
		return "record changed"
	}
}
