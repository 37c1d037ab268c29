package custody

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// BackupNeeds are what a copy of the data takes to be opened, and whether it is there.
type BackupNeeds struct {
	ServiceKeys []BackupServiceKey
	Relays      []BackupRelay
	Oldest      time.Time // the start of the day from which on the retention key opens; zero: there is none
}

// BackupServiceKey is a version of the service key that something in the copy may be under.
type BackupServiceKey struct {
	Number  uint32
	ID      string
	Present bool // it is in the file
}

// BackupRelay is a resource in the copy.
type BackupRelay struct {
	Resource string // hexadecimal, as in sealed headers
	KeyID    string // the key version that must unwrap its root key
	Identity string
	Day      time.Time // its root key was sealed under the retention key of that day; zero: under none
	Problem  string    // why its root key cannot be had back; empty: the key store decides
}

// VerifyBackup says what a copy of the data needs. It opens rows, asks no key store, and writes
// nothing. Without the versions of the service key that it needs, Relays is empty.
func VerifyBackup(ctx context.Context, st store.Store, service envelope.ServiceKey, retention RetentionFile) (BackupNeeds, error) {
	var needs BackupNeeds
	all, err := needs.serviceKeys(ctx, st, service)
	if err != nil || !all {
		return needs, err
	}
	r, why := &Retention{}, "the retention key is missing"
	raw, err := retention.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r = nil
	case err != nil:
		return needs, fmt.Errorf("read the retention key: %w", err)
	default:
		defer clear(raw)
		if r.oldest, r.key, err = parseRetention(raw); err != nil {
			return needs, fmt.Errorf("the retention key: %w", err)
		}
		defer r.key.Wipe()
		needs.Oldest = startOf(r.oldest)
	}
	current := service.Name(tableRootKeys, currentID)
	var after store.RowKey
	for {
		rows, err := st.ScanRows(ctx, after, servicePage)
		if err != nil {
			return needs, fmt.Errorf("read the copy: %w", err)
		}
		for _, row := range rows {
			after = row.RowKey
			if row.Table != tableRootKeys || row.Name != current {
				continue
			}
			one, err := backupRelay(service, row, r, why)
			if err != nil {
				return needs, err
			}
			needs.Relays = append(needs.Relays, one)
		}
		if len(rows) < servicePage {
			return needs, nil
		}
	}
}

func startOf(number uint64) time.Time {
	return time.Unix(0, 0).UTC().Add(time.Duration(number) * day)
}

// serviceKeys says whether all versions are there.
func (n *BackupNeeds) serviceKeys(ctx context.Context, st store.Store, service envelope.ServiceKey) (bool, error) {
	rows, err := st.ListRows(ctx, tableServiceKeys, envelope.Name{}, envelope.Name{}, 2*envelope.MaxServiceVersions)
	if err != nil {
		return false, fmt.Errorf("list the versions of the service key: %w", err)
	}
	all := true
	for _, row := range rows {
		one := BackupServiceKey{Number: binary.BigEndian.Uint32(row.Name[len(row.Name)-4:]), ID: hex.EncodeToString(row.Name[:8])}
		for _, v := range service.Versions() {
			one.Present = one.Present || inUseName(v) == row.Name
		}
		all = all && one.Present
		n.ServiceKeys = append(n.ServiceKeys, one)
	}
	return all, nil
}

func backupRelay(service envelope.ServiceKey, row store.Row, r *Retention, without string) (BackupRelay, error) {
	raw, err := service.OpenRow(tableRootKeys, row.Partition, row.Name, row.Value)
	if err != nil {
		return BackupRelay{}, fmt.Errorf("open a row of root keys: %w: %w", store.ErrCorrupt, err)
	}
	var rec wrapRecord
	if err := decodeRootRow(raw, &rec); err != nil {
		return BackupRelay{}, err
	}
	if err := rec.validate(); err != nil {
		return BackupRelay{}, fmt.Errorf("%w: wrap record: %w", store.ErrCorrupt, err)
	}
	one := BackupRelay{Resource: rec.Resource, KeyID: rec.KeyID, Identity: rec.Identity}
	if rec.Retention > 0 {
		one.Day = startOf(rec.Retention)
	}
	id, err := hex.DecodeString(rec.Resource)
	if err != nil {
		return BackupRelay{}, fmt.Errorf("%w: wrap record: %w", store.ErrCorrupt, err)
	}
	switch _, err := r.open(rec.place(envelope.ResourceID(id)), rec.Retention, rec.Wrapped); {
	case err == nil:
	case errors.Is(err, errRetention):
		one.Problem = errRetention.Error()
	case r == nil:
		one.Problem = without
	default:
		one.Problem = "the retention key is not the one it is sealed under"
	}
	return one, nil
}
