package custody

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// How long copies of the data stay good, in days. A day is one of UTC.
const (
	DefaultRetentionDays = 30
	MaxRetentionDays     = 3650
	retentionVersion     = 1
)

// RetentionFile keeps one small secret outside of what is copied with the data.
type RetentionFile interface {
	// Read returns fs.ErrNotExist (wrapped) if there is none.
	Read() ([]byte, error)
	// Replace makes content durable in the place of what was there, whole or not at all,
	// and overwrites that as far as the disk permits.
	Replace(content []byte) error
}

// Retention keeps the retention key. Each wrap record in the store is sealed under the
// key of the day on which it was written, and the records of root keys in use are sealed
// anew every day. The key moves on from day to day by a one-way function, days behind the
// present: what was sealed before that cannot be opened any more, by anyone, so a copy
// of the data from before a deletion becomes useless, whoever has the customer's key.
//
// The zero day and a nil Retention stand for a record that is not sealed further. It is
// safe for concurrent use.
type Retention struct {
	file RetentionFile
	days uint64
	mark retentionMark

	mu     sync.Mutex // guards what follows
	oldest uint64     // the day of key: nothing older can be opened
	key    envelope.RetentionKey
}

// retentionState is the file's content, as JSON.
type retentionState struct {
	Version int    `json:"version"`
	Day     uint64 `json:"day"` // days since 1970-01-01 UTC
	Key     []byte `json:"key"` // base64, 32 B
}

// errRetention: the record was sealed on a day whose key is destroyed.
var errRetention = errors.New("the retention key of that day is destroyed: this is a copy of the data from before, and it is too old to be opened")

// ErrNoRetentionKey: there is data under a retention key, and not the key.
var ErrNoRetentionKey = errors.New("the retention key is missing")

// ErrWrongRetentionKey: the data is under another retention key.
var ErrWrongRetentionKey = errors.New("the retention key is not the one this data is sealed under")

// OpenRetention reads the retention key, and makes it for data that never was under one:
// else what is under it would be lost, as with any key. All processes on one store have
// the same one; each moves its own copy on.
func OpenRetention(ctx context.Context, rows store.Rows, service envelope.ServiceKey, file RetentionFile, days int) (*Retention, error) {
	mark := retentionMark{rows: rows, service: service}
	day, sealed, revision, err := mark.read(ctx)
	used := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	r, err := openRetention(file, days, !used)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoRetentionKey, err)
	}
	if err != nil {
		return nil, err
	}
	r.mark = mark
	if used {
		_, err := r.open(envelope.RootPlace{}, day, sealed)
		switch {
		case errors.Is(err, errRetention): // an old copy of the data; what is lost of it is said where it is missed
		case err != nil:
			return nil, ErrWrongRetentionKey
		default:
			return r, nil
		}
	}
	return r, r.remark(ctx, revision)
}

// retentionMark is a row that only the right retention key opens.
type retentionMark struct {
	rows    store.Rows
	service envelope.ServiceKey
}

type retentionMarkRow struct {
	Version int    `json:"version"`
	Day     uint64 `json:"day"`
	Sealed  []byte `json:"sealed"` // base64; nothing, sealed under the key of that day
}

const tableRetention = "retention" // on disk (hashed): frozen

func (m retentionMark) key() store.RowKey {
	return store.RowKey{Table: tableRetention, Name: m.service.Name(tableRetention, "")}
}

func (m retentionMark) read(ctx context.Context) (day uint64, sealed []byte, revision uint64, err error) {
	key := m.key()
	row, err := m.rows.GetRow(ctx, key)
	if err != nil {
		return 0, nil, 0, fmt.Errorf("read the retention key's mark: %w", err)
	}
	raw, err := m.service.OpenRow(tableRetention, key.Partition, key.Name, row.Value)
	if err != nil {
		return 0, nil, 0, fmt.Errorf("open the retention key's mark: %w: %w", store.ErrCorrupt, err)
	}
	var found retentionMarkRow
	if err := decodeRootRow(raw, &found); err != nil || found.Version != 1 || found.Day == 0 {
		return 0, nil, 0, fmt.Errorf("the retention key's mark is of no known form: %w", store.ErrCorrupt)
	}
	return found.Day, found.Sealed, row.Revision, nil
}

// remark writes the mark of today over the one at revision; 0: there is none.
func (r *Retention) remark(ctx context.Context, revision uint64) error {
	day, sealed, err := r.seal(envelope.RootPlace{}, nil)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(retentionMarkRow{Version: 1, Day: day, Sealed: sealed})
	if err != nil {
		return fmt.Errorf("encode the retention key's mark: %w", err)
	}
	w := store.RowWrite{RowKey: r.mark.key(), Expect: store.Absent}
	if revision > 0 {
		w.Expect = store.AtRevision(revision)
	}
	s, err := r.mark.service.SealRow(tableRetention, w.Partition, w.Name, raw)
	if err != nil {
		return fmt.Errorf("seal the retention key's mark: %w", err)
	}
	w.Value = &s
	if err := r.mark.rows.WriteRows(ctx, []store.RowWrite{w}); err != nil {
		return fmt.Errorf("write the retention key's mark: %w", err)
	}
	return nil
}

// renewMark brings the mark under the key of today and returns its day.
func (r *Retention) renewMark(ctx context.Context) (uint64, error) {
	for {
		day, _, revision, err := r.mark.read(ctx)
		if err != nil {
			return 0, err
		}
		if day >= r.present() {
			return day, nil
		}
		if err := r.remark(ctx, revision); err != nil && !errors.Is(err, store.ErrConflict) {
			return 0, err
		}
	}
}

func openRetention(file RetentionFile, days int, isNew bool) (*Retention, error) {
	if days < 1 || days > MaxRetentionDays {
		return nil, fmt.Errorf("copies of the data are to be good for %d days, which is not 1 to %d", days, MaxRetentionDays)
	}
	r := &Retention{file: file, days: uint64(days)}
	raw, err := file.Read()
	if errors.Is(err, fs.ErrNotExist) && isNew {
		r.oldest, r.key = today(), envelope.NewRetentionKey()
		if err := r.write(r.oldest, r.key); err != nil {
			return nil, fmt.Errorf("store the new retention key: %w", err)
		}
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the retention key: %w", err)
	}
	defer clear(raw)
	if r.oldest, r.key, err = parseRetention(raw); err != nil {
		return nil, fmt.Errorf("the retention key: %w: restore it from your backup", err)
	}
	return r, nil
}

func parseRetention(raw []byte) (uint64, envelope.RetentionKey, error) {
	var s retentionState
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return 0, envelope.RetentionKey{}, errors.New("it is not what was written")
	}
	defer clear(s.Key)
	if _, err := d.Token(); !errors.Is(err, io.EOF) || s.Version != retentionVersion || s.Day == 0 {
		return 0, envelope.RetentionKey{}, errors.New("it is not of a known form")
	}
	key, err := envelope.ParseRetentionKey(s.Key)
	return s.Day, key, err
}

func (r *Retention) write(day uint64, key envelope.RetentionKey) error {
	return key.Use(func(b []byte) error {
		raw, err := json.Marshal(retentionState{Version: retentionVersion, Day: day, Key: b})
		if err != nil {
			return err
		}
		defer clear(raw)
		return r.file.Replace(raw)
	})
}

func today() uint64 { return dayOf(time.Now()) }

func dayOf(t time.Time) uint64 { return uint64(max(t.Unix(), 1) / int64(day/time.Second)) }

// until is when what was sealed up to t cannot be opened any more.
func (r *Retention) until(t time.Time) time.Time {
	return time.Unix(0, 0).UTC().Add(time.Duration(dayOf(t)+r.days+1) * day)
}

// present is the day that is sealed for now: today, unless the clock is behind what the
// key already was moved on to.
func (r *Retention) present() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(today(), r.oldest)
}

// seal seals a wrapped root key for today, and says which day that is.
func (r *Retention) seal(at envelope.RootPlace, wrapped []byte) (day uint64, sealed []byte, err error) {
	if r == nil {
		return 0, wrapped, nil
	}
	day = r.present()
	key, err := r.of(day)
	if err != nil {
		return 0, nil, err
	}
	defer key.Wipe()
	sealed, err = key.Seal(at, wrapped)
	return day, sealed, err
}

// open opens what was sealed on a day; errRetention if that is too long ago.
func (r *Retention) open(at envelope.RootPlace, day uint64, sealed []byte) ([]byte, error) {
	if day == 0 {
		return sealed, nil
	}
	if r == nil {
		return nil, errors.New("it is sealed under a retention key, and there is none")
	}
	key, err := r.of(day)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return key.Open(at, sealed)
}

// aheadAtMost bounds how many days one key is derived for: a stored day is untrusted.
const aheadAtMost = 100 * 366

// of derives the key of a day.
func (r *Retention) of(day uint64) (envelope.RetentionKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case day < r.oldest:
		return envelope.RetentionKey{}, errRetention
	case day-r.oldest > aheadAtMost:
		return envelope.RetentionKey{}, fmt.Errorf("day %d is no day of ours", day)
	}
	return ahead(r.key, day-r.oldest)
}

// ahead returns a key of its own, n days after key.
func ahead(key envelope.RetentionKey, n uint64) (next envelope.RetentionKey, err error) {
	err = key.Use(func(b []byte) (err error) {
		next, err = envelope.ParseRetentionKey(b)
		return err
	})
	for ; n > 0 && err == nil; n-- {
		before := next
		next, err = before.Next()
		before.Wipe()
	}
	return next, err
}

// forget destroys the keys of all days that are over the retention, but none of a day
// from needed on. It is durable when it returns.
func (r *Retention) forget(needed uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := today()
	if now <= r.days {
		return nil
	}
	oldest := min(now-r.days, needed)
	if oldest <= r.oldest {
		return nil
	}
	key, err := ahead(r.key, oldest-r.oldest)
	if err == nil {
		err = r.write(oldest, key)
	}
	if err != nil {
		key.Wipe()
		return fmt.Errorf("destroy retention keys before day %d: %w", oldest, err)
	}
	r.key.Wipe()
	r.oldest, r.key = oldest, key
	return nil
}
