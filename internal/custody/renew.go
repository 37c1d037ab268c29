package custody

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// retained is a row of the table of that name: so that all records under the retention
// key can be found, for their own rows are named by resources.
type retained struct {
	Version  int                 `json:"version"`
	Resource envelope.ResourceID `json:"resource"`
}

func (k *Keeper) retainedKey(r envelope.ResourceID) store.RowKey {
	return store.RowKey{Table: tableRetained, Name: k.c.Service.Name(tableRetained, string(r[:]))}
}

// retainWrites are the writes that go with the first record of a resource; none without
// a retention key.
func (k *Keeper) retainWrites(r envelope.ResourceID) ([]store.RowWrite, error) {
	if k.c.Retention == nil {
		return nil, nil
	}
	key := k.retainedKey(r)
	raw, err := json.Marshal(retained{Version: 1, Resource: r})
	if err != nil {
		return nil, fmt.Errorf("encode a row of %s: %w", tableRetained, err)
	}
	s, err := k.c.Service.SealRow(tableRetained, key.Partition, key.Name, raw)
	if err != nil {
		return nil, fmt.Errorf("seal a row of %s: %w", tableRetained, err)
	}
	return []store.RowWrite{{RowKey: key, Value: &s}}, nil
}

// renew seals the records of all root keys in use under the key of today, and then
// destroys the retention keys that nothing needs any more and that are too old. It asks
// no key store, so a root key whose owner refuses it stays as good as it is.
func (k *Keeper) renew(ctx context.Context) error {
	if k.c.Retention == nil {
		return nil
	}
	var failed []error
	needed, err := k.c.Retention.renewMark(ctx)
	if err != nil {
		return err
	}
	var after envelope.Name
	for {
		rows, err := k.c.Store.ListRows(ctx, tableRetained, envelope.Name{}, after, deletePage)
		if err != nil {
			return fmt.Errorf("list what is under the retention key: %w", err)
		}
		for _, row := range rows {
			after = row.Name
			day, err := k.renewOne(ctx, row)
			switch {
			case errors.Is(err, store.ErrNotFound): // deleted meanwhile
			case errors.Is(err, errRetention): // it is lost already
				failed = append(failed, err)
			case err != nil:
				failed = append(failed, err)
				needed = 0 // what cannot be read now may be read tomorrow
			default:
				needed = min(needed, day)
			}
		}
		if len(rows) < deletePage {
			break
		}
	}
	return errors.Join(append(failed, k.c.Retention.forget(needed))...)
}

// renewOne brings one resource's record under the key of today, and returns the day
// under whose key it is.
func (k *Keeper) renewOne(ctx context.Context, row store.Row) (uint64, error) {
	raw, err := k.c.Service.OpenRow(tableRetained, row.Partition, row.Name, row.Value)
	if err != nil {
		return 0, fmt.Errorf("open a row of %s: %w: %w", tableRetained, store.ErrCorrupt, err)
	}
	var one retained
	if err := json.Unmarshal(raw, &one); err != nil || one.Version != 1 {
		return 0, fmt.Errorf("a row of %s is of no known form: %w", tableRetained, store.ErrCorrupt)
	}
	for {
		rec, _, err := k.readRecordAt(ctx, one.Resource, currentID)
		if err != nil {
			return 0, err
		}
		if rec.Retention >= k.c.Retention.present() {
			return rec.Retention, nil
		}
		if err := k.reseal(ctx, one.Resource); err != nil && !errors.Is(err, store.ErrConflict) {
			return 0, err
		}
	}
}

// reseal writes the record in force anew, under the key of today. It stays the same
// record. store.ErrConflict if it was replaced meanwhile.
func (k *Keeper) reseal(ctx context.Context, r envelope.ResourceID) error {
	rec, row, err := k.readRecord(ctx, r)
	if err != nil {
		return err
	}
	write, err := k.recordWrite(r, currentID, rec, store.AtRevision(row.Revision))
	if err != nil {
		return err
	}
	also, err := k.retainWrites(r)
	if err != nil {
		return err
	}
	if err := k.c.Store.WriteRows(ctx, append(also, write)); err != nil {
		return fmt.Errorf("seal a wrap record anew: %w", err)
	}
	return nil
}
