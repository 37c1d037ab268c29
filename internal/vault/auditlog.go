package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

// The bounds of the audit log.
const (
	maxAuditRecords = 100_000 // kept of each vault; some 100 MB. The oldest go first
	maxAuditBatch   = 100     // records of one vault in one write
	maxAuditWaiting = 10_000  // records that wait for a store that does not write
	auditTimeout    = 10 * time.Second
	auditURIBytes   = 1024 // of a client's own words
)

// auditHead says where a vault's records begin and end.
type auditHead struct {
	First uint64 `json:"first"` // the oldest that is kept
	Last  uint64 `json:"last"`  // 0: none
	Batch string `json:"batch"` // of the last write, so that one of unknown outcome is known again
	Lost  uint64 `json:"lost"`  // records that the store did not take, ever
}

// auditLog writes down what vaults are asked for, before they answer. Requests that
// come at once share a write. What the store does not take is kept and tried again
// with the next; what is too much is counted as lost: a vault that stopped because its
// log cannot be written would take the relays with it.
type auditLog struct {
	store   store.Store
	log     *slog.Logger
	records row.Table[json.RawMessage] // a partition for each vault, by number
	heads   row.Table[auditHead]       // by vault

	mu      sync.Mutex
	waiting *auditBatch // the next to be written; nil: none
	writing bool

	// Of the one who writes.
	kept map[string]*keptRecords // by vault: not written yet
}

type auditBatch struct {
	entries []auditEntry
	done    chan struct{}
}

type auditEntry struct {
	ref    string
	record json.RawMessage
}

// keptRecords are of one vault, oldest first.
type keptRecords struct {
	records []json.RawMessage
	lost    uint64
	batch   string // of a write of unknown outcome, which held the first tried of records
	tried   int
}

func newAuditLog(c Config) *auditLog {
	return &auditLog{
		store: c.Store, log: c.Log, kept: map[string]*keptRecords{},
		records: row.NewTable[json.RawMessage](c.Store, c.Service, "vault-audit"),
		heads:   row.NewTable[auditHead](c.Store, c.Service, "vault-audit-heads"),
	}
}

// add returns when the record is durable, or the store did not take it.
func (l *auditLog) add(ref string, e AuditEvent) {
	raw, err := json.Marshal(e)
	if err != nil {
		panic("internal error: an audit record does not encode: " + err.Error())
	}
	l.mu.Lock()
	if l.waiting == nil {
		l.waiting = &auditBatch{done: make(chan struct{})}
	}
	batch := l.waiting
	batch.entries = append(batch.entries, auditEntry{ref, raw})
	if !l.writing {
		l.writing = true
		go l.write() // it ends with the last batch, for which somebody waits
	}
	l.mu.Unlock()
	<-batch.done
}

// write writes batches until none waits.
func (l *auditLog) write() {
	for {
		l.mu.Lock()
		batch := l.waiting
		l.waiting = nil
		if batch == nil {
			l.writing = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, e := range batch.entries {
			k := l.kept[e.ref]
			if k == nil {
				k = &keptRecords{}
				l.kept[e.ref] = k
			}
			if len(k.records) >= maxAuditWaiting {
				k.lost++
				continue
			}
			k.records = append(k.records, e.record)
		}
		l.flush()
		close(batch.done)
	}
}

// flush writes what is kept; a vault's is kept on if the store does not take it.
func (l *auditLog) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	defer cancel()
	for ref, k := range l.kept {
		for len(k.records) > 0 {
			err := retry(func() error { return l.flushSome(ctx, ref, k) })
			if err != nil {
				l.log.ErrorContext(ctx, "a vault's audit records cannot be written, trying again with the next", "waiting", len(k.records), "lost", k.lost, "err", err)
				break
			}
		}
		if len(k.records) == 0 && k.lost == 0 {
			delete(l.kept, ref)
		}
	}
}

// flushSome writes the oldest records of a vault and its head in one write;
// store.ErrConflict if another node wrote meanwhile.
func (l *auditLog) flushSome(ctx context.Context, ref string, k *keptRecords) error {
	at := l.heads.Key(ref)
	head, revision, err := l.heads.Get(ctx, at)
	if errors.Is(err, store.ErrNotFound) {
		head, revision = auditHead{First: 1}, 0
	} else if err != nil {
		return err
	}
	if k.tried > 0 && head.Batch == k.batch {
		k.records, k.tried, k.lost = k.records[k.tried:], 0, 0 // the write that was reported as failed was made
		return nil
	}
	n := min(len(k.records), maxAuditBatch)
	var writes []store.RowWrite
	for _, raw := range k.records[:n] {
		head.Last++
		write, err := l.records.Put(l.recordKey(ref, head.Last), raw, store.Absent)
		if err != nil {
			return err
		}
		writes = append(writes, write)
	}
	for ; head.Last-head.First >= maxAuditRecords; head.First++ {
		writes = append(writes, store.RowWrite{RowKey: l.recordKey(ref, head.First)})
	}
	head.Lost += k.lost
	head.Batch = rand.Text()
	write, err := l.heads.Put(at, head, atRevision(revision))
	if err != nil {
		return err
	}
	k.batch, k.tried = head.Batch, n
	if err := l.store.WriteRows(ctx, append(writes, write)); err != nil {
		return err
	}
	k.records, k.tried, k.lost = k.records[n:], 0, 0
	return nil
}

func (l *auditLog) recordKey(ref string, seq uint64) store.RowKey {
	return l.records.KeyIn(ref, strconv.FormatUint(seq, 10))
}

// AuditPage is a piece of a vault's audit log.
type AuditPage struct {
	Records     []json.RawMessage // AuditEvent, oldest first
	First, Last uint64            // the numbers of all there are; Last 0: none
	Lost        uint64            // records that could not be written, ever
}

// AuditEvents returns at most limit records of a vault, of which Name and HSM are looked
// at, behind a number. A record that is missing between First and Last is store.ErrCorrupt.
func (s *Service) AuditEvents(ctx context.Context, named Vault, after uint64, limit int) (AuditPage, error) {
	l, ref := s.audits, named.ref()
	head, _, err := l.heads.Get(ctx, l.heads.Key(ref))
	if errors.Is(err, store.ErrNotFound) {
		return AuditPage{First: 1}, nil
	}
	if err != nil {
		return AuditPage{}, err
	}
	page := AuditPage{First: head.First, Last: head.Last, Lost: head.Lost}
	for seq := max(after+1, head.First); seq <= head.Last && len(page.Records) < limit; seq++ {
		raw, _, err := l.records.Get(ctx, l.recordKey(ref, seq))
		if errors.Is(err, store.ErrNotFound) {
			// The oldest go while they are read.
			if now, _, again := l.heads.Get(ctx, l.heads.Key(ref)); again == nil && seq < now.First {
				continue
			}
			err = fmt.Errorf("audit record %d of vault %s: %w", seq, named.Name, store.ErrCorrupt)
		}
		if err != nil {
			return AuditPage{}, err
		}
		page.Records = append(page.Records, raw)
	}
	return page, nil
}

// quiet lets one of many like things through in a while, and counts the others.
type quiet struct {
	mu   sync.Mutex
	last map[string]*quietOne
}

type quietOne struct {
	at      time.Time
	skipped int
}

// pass says whether this one is let through, and how many were not since the last.
func (q *quiet) pass(key string, every time.Duration) (skipped int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last == nil {
		q.last = map[string]*quietOne{}
	}
	one := q.last[key]
	if one == nil {
		one = &quietOne{}
		q.last[key] = one
	}
	if now := time.Now(); now.Sub(one.at) >= every {
		skipped, one.at, one.skipped = one.skipped, now, 0
		return skipped, true
	}
	one.skipped++
	return 0, false
}
