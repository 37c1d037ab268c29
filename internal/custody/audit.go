package custody

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// The table of key uses. The words are on disk (hashed): frozen.
const (
	tableKeyUses = "key-uses"
	headID       = "head" // the others are sequence numbers in decimal
)

const (
	useVersion  = 1
	maxUses     = 100_000   // kept; some 60 MB. The oldest go first
	maxUseBytes = 8 << 10   // of one record: URL, identity and id are bounded by the wrap record's
	probeSpan   = time.Hour // of the probes that one record stands for, at most
	maxPending  = 1000      // uses that wait for a store that does not write
	useBatch    = 100       // records in one write
)

// KeyUse is one use of a customer's key, or a run of probes that went alike. Its JSON is
// on disk and is what the hash chain is over: field by field in docs/formats/custody.md.
type KeyUse struct {
	Version   int       `json:"version"`
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"` // of the use; of the last one of a run
	Op        string    `json:"op"`
	Reason    string    `json:"reason"`
	KeyID     string    `json:"kid"`
	Identity  string    `json:"identity"`
	Resource  string    `json:"resource,omitempty"` // hexadecimal; probes and checks are about a key
	Outcome   string    `json:"outcome"`            // ok, refused, failed
	Code      string    `json:"code,omitempty"`     // the key store's, of what was not ok
	RequestID string    `json:"requestId,omitempty"`
	Note      string    `json:"note,omitempty"` // of a drill: what was measured

	// Of probes only: how many, since when, and SHA-256 (hexadecimal) of the key store's
	// request ids in order, each followed by a newline.
	Count      uint64     `json:"count,omitempty"`
	First      *time.Time `json:"first,omitempty"`
	RequestIDs string     `json:"requestIds,omitempty"`

	Receipt  *Receipt `json:"receipt,omitempty"`  // of a destruction
	Document string   `json:"document,omitempty"` // hexadecimal; of an accepted rollback

	Lost uint64 `json:"lost,omitempty"` // uses before this one that the store did not take
	Prev string `json:"prev"`           // SHA-256 (hexadecimal) of the record before; zeros for the first
}

// useHead says where the records begin and end.
type useHead struct {
	Version int    `json:"version"`
	First   uint64 `json:"first"` // the oldest that is kept
	Last    uint64 `json:"last"`  // 0: none
	Hash    string `json:"hash"`  // of the last
}

// auditor writes down the uses of customers' keys, each record with the hash of the one
// before. Several processes may write one chain: who finds that another was faster reads
// where it ends now, and tries again. A use is made whether it can be written down or
// not; what the store does not take is kept and tried again, and counted when lost.
type auditor struct {
	rows    store.Rows
	service envelope.ServiceKey
	log     *slog.Logger

	mu       sync.Mutex // guards all below; held across I/O, so that records have an order
	head     *useHead   // nil: to be read
	revision uint64     // of its row; 0: there is none
	tried    useHead    // what a write of unknown outcome would have left
	triedN   int        // and how many of pending it held
	pending  []KeyUse
	lost     uint64
	runs     map[runKey]*probeRun
}

// probeRun is a run of probes that is not written down yet.
type probeRun struct {
	use KeyUse
	ids hash.Hash
}

type runKey struct{ op, kid, identity string }

func newAuditor(c Config) *auditor {
	return &auditor{rows: c.Store, service: c.Service, log: c.Log, runs: map[runKey]*probeRun{}}
}

// record writes a use down. Probes that go alike become one record for probeSpan; the
// first that goes otherwise ends it. What is in such a run is lost if the process is
// killed; all other uses are durable when record returns.
func (a *auditor) record(ctx context.Context, u KeyUse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, run := range a.runs {
		if u.Time.Sub(*run.use.First) >= probeSpan {
			a.end(k)
		}
	}
	if u.Reason != string(forProbe) {
		a.add(u)
	} else {
		k := runKey{u.Op, u.KeyID, u.Identity}
		if run := a.runs[k]; run != nil && (run.use.Outcome != u.Outcome || run.use.Code != u.Code) {
			a.end(k)
		}
		if a.runs[k] == nil {
			first := u.Time
			u.First = &first
			a.runs[k] = &probeRun{use: u, ids: sha256.New()}
		}
		run := a.runs[k]
		run.use.Count++
		run.use.Time, run.use.RequestID = u.Time, u.RequestID
		_, _ = io.WriteString(run.ids, u.RequestID+"\n") // a hash.Hash never fails
	}
	a.flush(ctx)
}

// end makes a run a record.
func (a *auditor) end(k runKey) {
	run := a.runs[k]
	delete(a.runs, k)
	run.use.RequestIDs = hex.EncodeToString(run.ids.Sum(nil))
	a.add(run.use)
}

func (a *auditor) endAll() {
	for k := range a.runs {
		a.end(k)
	}
}

func (a *auditor) add(u KeyUse) {
	if len(a.pending) >= maxPending {
		a.lost++
		return
	}
	a.pending = append(a.pending, u)
}

// close writes down what is left.
func (a *auditor) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endAll()
	a.flush(context.Background())
}

func (a *auditor) flush(ctx context.Context) {
	// A caller who gave up has used the key all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), foreground)
	defer cancel()
	for len(a.pending) > 0 {
		err := a.write(ctx)
		if errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
			a.head, a.triedN = nil, 0 // another process wrote; somebody always gets on
			continue
		}
		if err != nil {
			a.head = nil
			a.log.ErrorContext(ctx, "key uses cannot be written down, trying again with the next", "waiting", len(a.pending), "lost", a.lost, "err", err)
			return
		}
	}
}

// write stores the oldest pending uses, with the head, in one write.
func (a *auditor) write(ctx context.Context) error {
	if err := a.readHead(ctx); err != nil {
		return err
	}
	made, err := a.wasMade(ctx)
	if err != nil {
		return err
	}
	if made {
		a.pending = a.pending[a.triedN:] // the write that was reported as failed was made
		a.triedN, a.lost = 0, 0
		return nil
	}
	next, n := *a.head, min(len(a.pending), useBatch)
	var writes []store.RowWrite
	for i := range n {
		u := a.pending[i]
		u.Version, u.Seq, u.Prev = useVersion, next.Last+1, next.Hash
		if i == 0 {
			u.Lost = a.lost
		}
		raw, err := json.Marshal(u)
		if err == nil && len(raw) > maxUseBytes {
			err = fmt.Errorf("%d bytes are more than %d", len(raw), maxUseBytes)
		}
		if err != nil {
			a.pending, a.lost = append(a.pending[:i:i], a.pending[i+1:]...), a.lost+1
			return fmt.Errorf("encode a key use: %w", err)
		}
		w, err := a.sealed(strconv.FormatUint(u.Seq, 10), raw, store.Absent)
		if err != nil {
			return err
		}
		writes = append(writes, w)
		next.Last, next.Hash = u.Seq, useHash(raw)
	}
	for ; next.Last-next.First >= maxUses; next.First++ {
		writes = append(writes, store.RowWrite{RowKey: a.key(strconv.FormatUint(next.First, 10))})
	}
	raw, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode the head of the key uses: %w", err)
	}
	expect := store.Absent
	if a.revision > 0 {
		expect = store.AtRevision(a.revision)
	}
	w, err := a.sealed(headID, raw, expect)
	if err != nil {
		return err
	}
	a.tried, a.triedN = next, n
	if err := a.rows.WriteRows(ctx, append(writes, w)); err != nil {
		return err
	}
	a.pending = a.pending[n:]
	a.head, a.revision, a.triedN, a.lost = &next, a.revision+1, 0, 0
	return nil
}

// wasMade says whether a write that was reported as failed was made: then its last record
// is there, whatever other processes wrote after it.
func (a *auditor) wasMade(ctx context.Context) (bool, error) {
	if a.triedN == 0 || a.head.Last < a.tried.Last {
		return false, nil
	}
	raw, _, err := a.read(ctx, strconv.FormatUint(a.tried.Last, 10))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && useHash(raw) == a.tried.Hash, err
}

func useHash(raw []byte) string {
	h := sha256.Sum256(raw)
	return hex.EncodeToString(h[:])
}

func (a *auditor) key(id string) store.RowKey {
	return store.RowKey{Table: tableKeyUses, Name: a.service.Name(tableKeyUses, id)}
}

func (a *auditor) sealed(id string, raw []byte, expect store.Expect) (store.RowWrite, error) {
	key := a.key(id)
	s, err := a.service.SealRow(tableKeyUses, key.Partition, key.Name, raw)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal a key use: %w", err)
	}
	return store.RowWrite{RowKey: key, Value: &s, Expect: expect}, nil
}

func (a *auditor) read(ctx context.Context, id string) ([]byte, uint64, error) {
	key := a.key(id)
	row, err := a.rows.GetRow(ctx, key)
	if err != nil {
		return nil, 0, fmt.Errorf("read key use %s: %w", id, err)
	}
	raw, err := a.service.OpenRow(tableKeyUses, key.Partition, key.Name, row.Value)
	if err != nil {
		return nil, 0, fmt.Errorf("open key use %s: %w: %w", id, store.ErrCorrupt, err)
	}
	return raw, row.Revision, nil
}

// readHead reads the head unless it is known. A missing one is that of a new chain,
// which a chain whose head was taken away is not: its first record is still there.
func (a *auditor) readHead(ctx context.Context) error {
	if a.head != nil {
		return nil
	}
	raw, revision, err := a.read(ctx, headID)
	if errors.Is(err, store.ErrNotFound) {
		_, _, err = a.read(ctx, "1")
		if errors.Is(err, store.ErrNotFound) {
			a.head, a.revision = &useHead{Version: useVersion, First: 1, Hash: hex.EncodeToString(make([]byte, sha256.Size))}, 0
			return nil
		}
		if err == nil { // another process may have begun the chain between the two reads
			raw, revision, err = a.read(ctx, headID)
		}
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: the key uses have records and no head", store.ErrCorrupt)
		}
	}
	if err != nil {
		return err
	}
	h, err := decodeHead(raw)
	if err != nil {
		return fmt.Errorf("head of the key uses: %w: %w", store.ErrCorrupt, err)
	}
	a.head, a.revision = h, revision
	return nil
}

func decodeHead(raw []byte) (*useHead, error) {
	var h useHead
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(h.Hash)
	switch {
	case h.Version != useVersion:
		return nil, fmt.Errorf("version %d is not known", h.Version)
	case err != nil || len(sum) != sha256.Size:
		return nil, errors.New("the hash is not one")
	case h.First == 0 || h.First > h.Last+1:
		return nil, errors.New("it begins after its end")
	}
	return &h, nil
}

// errUsesWait: why is in the log.
var errUsesWait = errors.New("the log of key uses does not take them")

// KeyUses is a piece of the log of key uses.
type KeyUses struct {
	Records     []json.RawMessage // KeyUse, byte by byte as they are hashed
	First, Last uint64            // the sequence numbers of all there are; Last 0: none
	Hash        string            // of the record Last, SHA-256 in hexadecimal
}

// KeyUses returns at most limit records after a sequence number, oldest first. What is
// kept in memory is written down before, so nothing up to now is missing. The chain is
// for the reader to verify.
func (k *Keeper) KeyUses(ctx context.Context, after uint64, limit int) (KeyUses, error) {
	a := k.audit
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endAll()
	a.flush(ctx)
	a.head = nil // other processes write, too
	if n := len(a.pending); n > 0 {
		return KeyUses{}, fmt.Errorf("%d key uses wait to be written down: %w", n, errUsesWait)
	}
	if err := a.readHead(ctx); err != nil {
		return KeyUses{}, err
	}
	found := KeyUses{First: a.head.First, Last: a.head.Last, Hash: a.head.Hash}
	for seq := max(after+1, found.First); seq <= found.Last && len(found.Records) < limit; seq++ {
		raw, _, err := a.read(ctx, strconv.FormatUint(seq, 10))
		if errors.Is(err, store.ErrNotFound) {
			err = fmt.Errorf("%w: %w", store.ErrCorrupt, err) // between first and last none may be missing
		}
		if err != nil {
			return KeyUses{}, err
		}
		found.Records = append(found.Records, raw)
	}
	return found, nil
}
