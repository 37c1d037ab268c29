package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// keyRow is a key: its name and its versions. It changes with each new version
// and with deletion, so a write at its revision sees neither happen meanwhile.
type keyRow struct {
	Name     string    `json:"name"`     // in the letters of its creation
	Versions []string  `json:"versions"` // oldest first, never empty
	Deleted  *deletion `json:"deleted,omitempty"`
}

type deletion struct {
	At    time.Time `json:"at"`
	Purge time.Time `json:"purge"` // when it is gone for good
}

// versionRow is one version of a key.
type versionRow struct {
	ID         string            `json:"id"` // 32 hex digits
	Type       string            `json:"type"`
	Curve      string            `json:"curve,omitempty"`
	Operations []string          `json:"operations"`
	Enabled    bool              `json:"enabled"`
	NotBefore  *int64            `json:"notBefore,omitempty"` // Unix seconds, as Expires, Created and Updated
	Expires    *int64            `json:"expires,omitempty"`
	Created    int64             `json:"created"`
	Updated    int64             `json:"updated"`
	Tags       map[string]string `json:"tags,omitempty"`
	Private    []byte            `json:"private"` // PKCS #8
	Public     []byte            `json:"public"`  // SubjectPublicKeyInfo
}

func (k keyRow) newest() string { return k.Versions[len(k.Versions)-1] }

// purged says that a deleted key's retention has run out: it is as if it had never been.
func (k keyRow) purged(now time.Time) bool { return k.Deleted != nil && !now.Before(k.Deleted.Purge) }

func (s *Service) keyKey(vault, name string) store.RowKey {
	return s.keys.KeyIn(strings.ToLower(vault), strings.ToLower(name))
}

func (s *Service) keyPartition(vault string) envelope.Name {
	return s.keys.Partition(strings.ToLower(vault))
}

func (s *Service) versionKey(vault, name, version string) store.RowKey {
	return s.versions.KeyIn(strings.ToLower(vault+"/"+name), version)
}

// maxAttempts bounds how often a write that lost a race is tried again.
const maxAttempts = 16

// retry runs f until it does not fail with store.ErrConflict.
func retry(f func() error) error {
	for range maxAttempts {
		if err := f(); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return conflict("", "The key is being changed by other requests. Try again.")
}

// key finds a key that is not deleted.
func (s *Service) key(ctx context.Context, v Vault, name string) (keyRow, uint64, error) {
	k, revision, err := s.keys.Get(ctx, s.keyKey(v.Name, name))
	if errors.Is(err, store.ErrNotFound) || err == nil && k.Deleted != nil {
		return keyRow{}, 0, keyNotFound(name, "")
	}
	return k, revision, err
}

// deletedKey finds a deleted key.
func (s *Service) deletedKey(ctx context.Context, v Vault, name string) (keyRow, uint64, error) {
	k, revision, err := s.keys.Get(ctx, s.keyKey(v.Name, name))
	if errors.Is(err, store.ErrNotFound) || err == nil && (k.Deleted == nil || k.purged(time.Now())) {
		return keyRow{}, 0, deletedKeyNotFound(name)
	}
	return k, revision, err
}

// version finds a version of a key that is not deleted; without an id the newest.
func (s *Service) version(ctx context.Context, v Vault, name, id string) (keyRow, versionRow, uint64, error) {
	k, _, err := s.key(ctx, v, name)
	if err != nil {
		return keyRow{}, versionRow{}, 0, err
	}
	asked := id
	if id == "" {
		id = k.newest()
	}
	row, revision, err := s.versions.Get(ctx, s.versionKey(v.Name, k.Name, id))
	if errors.Is(err, store.ErrNotFound) {
		return keyRow{}, versionRow{}, 0, keyNotFound(name, asked)
	}
	return k, row, revision, err
}

// create makes a version of a key, the first one if there is no such key.
func (s *Service) create(ctx context.Context, v Vault, name string, spec keySpec, row versionRow) (keyRow, versionRow, error) {
	// Refuse before the work of making a key.
	if err := s.mayCreate(ctx, v, name); err != nil {
		return keyRow{}, versionRow{}, err
	}
	private, public, err := spec.generate()
	if err != nil {
		return keyRow{}, versionRow{}, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	now := time.Now().Unix()
	row.ID, row.Type, row.Curve = hex.EncodeToString(id[:]), spec.kind, spec.curve
	row.Private, row.Public = private, public
	row.Created, row.Updated = now, now

	var k keyRow
	err = retry(func() (err error) {
		k, err = s.addVersion(ctx, v, name, row)
		return err
	})
	return k, row, err
}

// mayCreate refuses a name that a deleted key still holds.
func (s *Service) mayCreate(ctx context.Context, v Vault, name string) error {
	k, _, err := s.keys.Get(ctx, s.keyKey(v.Name, name))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case k.Deleted != nil && !k.purged(time.Now()):
		return deletedButRecoverable(k.Name)
	}
	return nil
}

// addVersion writes a new version; store.ErrConflict if the key changed meanwhile.
func (s *Service) addVersion(ctx context.Context, v Vault, name string, row versionRow) (keyRow, error) {
	at := s.keyKey(v.Name, name)
	k, revision, err := s.keys.Get(ctx, at)
	expect := store.AtRevision(revision)
	var writes []store.RowWrite
	switch {
	case errors.Is(err, store.ErrNotFound):
		k, expect = keyRow{Name: name}, store.Absent
	case err != nil:
		return keyRow{}, err
	case k.purged(time.Now()):
		writes = s.versionRemovals(v, k)
		k = keyRow{Name: name}
	case k.Deleted != nil:
		return keyRow{}, deletedButRecoverable(k.Name)
	}
	k.Versions = append(k.Versions, row.ID)
	keyWrite, err := s.keys.Put(at, k, expect)
	if err != nil {
		return keyRow{}, err
	}
	versionWrite, err := s.versions.Put(s.versionKey(v.Name, k.Name, row.ID), row, store.Absent)
	if err != nil {
		return keyRow{}, err
	}
	if err := s.store.WriteRows(ctx, append(writes, keyWrite, versionWrite)); err != nil {
		return keyRow{}, fmt.Errorf("store key %s: %w", name, err)
	}
	return k, nil
}

func (s *Service) versionRemovals(v Vault, k keyRow) []store.RowWrite {
	writes := make([]store.RowWrite, 0, len(k.Versions)+1)
	for _, id := range k.Versions {
		writes = append(writes, store.RowWrite{RowKey: s.versionKey(v.Name, k.Name, id)})
	}
	return writes
}

// update changes a version's attributes; change may refuse.
func (s *Service) update(ctx context.Context, v Vault, name, id string, change func(*versionRow) error) (keyRow, versionRow, error) {
	var k keyRow
	var row versionRow
	err := retry(func() error {
		var revision uint64
		var err error
		if k, row, revision, err = s.version(ctx, v, name, id); err != nil {
			return err
		}
		if err := change(&row); err != nil {
			return err
		}
		row.Updated = time.Now().Unix()
		write, err := s.versions.Put(s.versionKey(v.Name, k.Name, row.ID), row, store.AtRevision(revision))
		if err != nil {
			return err
		}
		return s.store.WriteRows(ctx, []store.RowWrite{write})
	})
	return k, row, err
}

// remove soft-deletes a key with all its versions.
func (s *Service) remove(ctx context.Context, v Vault, name string) (keyRow, versionRow, error) {
	now := time.Now().UTC().Truncate(time.Second)
	gone := &deletion{At: now, Purge: now.AddDate(0, 0, v.SoftDeleteRetention)}
	return s.changeKey(ctx, v, name, s.key, func(k *keyRow) { k.Deleted = gone })
}

// restore takes a deleted key back.
func (s *Service) restore(ctx context.Context, v Vault, name string) (keyRow, versionRow, error) {
	return s.changeKey(ctx, v, name, s.deletedKey, func(k *keyRow) { k.Deleted = nil })
}

// changeKey writes a change of the row that find finds, and returns it with the
// key's newest version.
func (s *Service) changeKey(ctx context.Context, v Vault, name string, find func(context.Context, Vault, string) (keyRow, uint64, error), change func(*keyRow)) (keyRow, versionRow, error) {
	var k keyRow
	var row versionRow
	err := retry(func() error {
		var revision uint64
		var err error
		if k, revision, err = find(ctx, v, name); err != nil {
			return err
		}
		if row, _, err = s.versions.Get(ctx, s.versionKey(v.Name, k.Name, k.newest())); err != nil {
			return err
		}
		change(&k)
		write, err := s.keys.Put(s.keyKey(v.Name, name), k, store.AtRevision(revision))
		if err != nil {
			return err
		}
		return s.store.WriteRows(ctx, []store.RowWrite{write})
	})
	return k, row, err
}

// purge destroys a deleted key.
func (s *Service) purge(ctx context.Context, v Vault, name string) error {
	return retry(func() error {
		k, revision, err := s.deletedKey(ctx, v, name)
		if err != nil {
			return err
		}
		if v.PurgeProtection {
			return forbidden("", "Operation \"purge\" is not allowed because purge protection is enabled for this vault. Key Vault service will automatically purge it after the retention period has passed.")
		}
		keyWrite := store.RowWrite{RowKey: s.keyKey(v.Name, name), Expect: store.AtRevision(revision)}
		return s.store.WriteRows(ctx, append(s.versionRemovals(v, k), keyWrite))
	})
}

// usable applies the state of a version to an operation: a disabled one does
// nothing; outside its dates it still decrypts, unwraps and verifies what was made
// before. Source: Azure Key Vault, "About keys", date-time controlled operations.
func (v versionRow) usable(operation string, now time.Time) error {
	if !v.Enabled {
		return forbidden("KeyDisabled", "Operation %s is not allowed on a disabled key.", operation)
	}
	if operation == opDecrypt || operation == opUnwrap || operation == opVerify {
		return nil
	}
	if v.NotBefore != nil && now.Unix() < *v.NotBefore {
		return forbidden("KeyNotYetValid", "Operation %s is not allowed on a key that is not yet valid.", operation)
	}
	if v.Expires != nil && now.Unix() >= *v.Expires {
		return forbidden("KeyExpired", "Operation %s is not allowed on an expired key.", operation)
	}
	return nil
}
