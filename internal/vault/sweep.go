package vault

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tidelock/tidelock/internal/store"
)

// sweepEvery is how often time is looked at: what it brings is counted in days.
const sweepEvery = 10 * time.Minute

// Run does what time brings until ctx is over: rotation by policy, notices of expiry,
// and the purge of deleted keys whose retention is over. Several nodes may run it.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "what time brings to the keys of vaults was not done whole, trying again", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) sweep(ctx context.Context) error {
	vaults, err := s.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range vaults {
		if !v.Deleted.IsZero() {
			continue // its own purge is its provider's
		}
		rows, err := s.keys.List(ctx, s.keyPartition(v))
		errs = append(errs, err)
		for _, r := range rows {
			err := s.sweepKey(ctx, v, r.Value, r.Revision)
			if !errors.Is(err, store.ErrConflict) { // else somebody else was there: next time
				errs = append(errs, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Service) sweepKey(ctx context.Context, v Vault, k keyRow, revision uint64) error {
	now := time.Now()
	if k.Deleted != nil {
		if k.Deleted.Begun || k.purged(now) {
			if err := s.finishPurge(ctx, v, k.Name); err != nil {
				return err
			}
			s.recordTime(v, "KeyPurge", s.keyID(v, k.Name, ""))
		}
		return nil
	}
	at := s.versionKey(v, k.Name, k.newest())
	row, versionRevision, err := s.versions.Get(ctx, at)
	if err != nil {
		return err
	}
	if due, ok := k.Rotation.rotateAt(row); ok && !now.Before(due) && row.Enabled {
		return s.rotate(ctx, v, k, revision, row)
	}
	told := row.Told
	if due, ok := k.Rotation.noticeAt(row); ok && told == "" && !now.Before(due) {
		told = toldNearExpiry
	}
	kind := EventNearExpiry
	if row.Expires != nil && now.Unix() >= *row.Expires {
		told, kind = toldExpired, EventExpired
	}
	if told == row.Told {
		return nil
	}
	row.Told = told
	write, err := s.versions.Put(at, row, store.AtRevision(versionRevision))
	if err != nil {
		return err
	}
	writes, err := s.announce(ctx, []store.RowWrite{write}, v, kind, k.Name, row)
	if err != nil {
		return err
	}
	if err := s.store.WriteRows(ctx, writes); err != nil {
		return err
	}
	s.recordTime(v, noticeNames[kind], s.keyID(v, k.Name, row.ID))
	return nil
}

// noticeNames are what notices are called in the audit log.
var noticeNames = map[string]string{
	EventNearExpiry: "KeyNearExpiryEventGridNotification", EventExpired: "KeyExpiredEventGridNotification",
}

// rotate follows a key's newest version by a new one, if the key is still what it was.
func (s *Service) rotate(ctx context.Context, v Vault, k keyRow, revision uint64, last versionRow) error {
	spec, err := last.likeSpec()
	if err != nil {
		return err
	}
	next := last.successor()
	next.ID = newVersionID()
	if err := s.generate(spec, &next); err != nil {
		return err
	}
	next.Created = time.Now().Unix()
	next.Updated = next.Created
	next.Expires = k.Rotation.expiry(next.Created)
	_, err = s.addVersionAt(ctx, v, k, revision, next)
	if err != nil && next.InToken {
		return errors.Join(err, s.destroyKeys([]string{next.ID}))
	}
	if err == nil {
		s.recordTime(v, "KeyRotate", s.keyID(v, k.Name, next.ID))
		s.log.InfoContext(ctx, "a key was rotated by its policy", slog.String("vault", v.Name), slog.String("key_id", s.keyID(v, k.Name, next.ID)))
	}
	return err
}
