package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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
	Rotation *rotation `json:"rotation,omitempty"` // nil: the default policy
}

type deletion struct {
	At    time.Time `json:"at"`
	Purge time.Time `json:"purge"`           // when it is gone for good
	Begun bool      `json:"begun,omitempty"` // its purge has: there is no way back
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
	Private    []byte            `json:"private,omitempty"` // PKCS #8; none of a key in the token
	Public     []byte            `json:"public,omitempty"`  // SubjectPublicKeyInfo; none of an oct key
	Bits       int               `json:"bits,omitempty"`    // of an RSA or oct key; 0 in rows of old
	MAC        bool              `json:"mac,omitempty"`     // of an oct key: it is for HMAC alone
	InToken    bool              `json:"inToken,omitempty"` // the token keeps the private key, under ID
	Told       string            `json:"told,omitempty"`    // the last of its events that time brought: nearExpiry, expired
}

// Told values; each comes after the one before.
const (
	toldNearExpiry = "nearExpiry"
	toldExpired    = "expired"
)

// newVersionID is random: ids are unique over all vaults, which the token relies on.
func newVersionID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

func (k keyRow) newest() string { return k.Versions[len(k.Versions)-1] }

// purged says that a deleted key's retention has run out: it is as if it had never been.
func (k keyRow) purged(now time.Time) bool { return k.Deleted != nil && !now.Before(k.Deleted.Purge) }

func (s *Service) keyKey(v Vault, name string) store.RowKey {
	return s.keys.KeyIn(v.ref(), strings.ToLower(name))
}

func (s *Service) keyPartition(v Vault) envelope.Name {
	return s.keys.Partition(v.ref())
}

func (s *Service) versionKey(v Vault, name, version string) store.RowKey {
	return s.versions.KeyIn(v.ref()+"/"+strings.ToLower(name), version)
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
	k, revision, err := s.keys.Get(ctx, s.keyKey(v, name))
	if errors.Is(err, store.ErrNotFound) || err == nil && k.Deleted != nil {
		return keyRow{}, 0, keyNotFound(name, "")
	}
	return k, revision, err
}

// deletedKey finds a deleted key.
func (s *Service) deletedKey(ctx context.Context, v Vault, name string) (keyRow, uint64, error) {
	k, revision, err := s.keys.Get(ctx, s.keyKey(v, name))
	if errors.Is(err, store.ErrNotFound) || err == nil && (k.Deleted == nil || k.purged(time.Now())) {
		return keyRow{}, 0, deletedKeyNotFound(name)
	}
	return k, revision, err
}

// recoverableKey finds a deleted key whose purge has not begun.
func (s *Service) recoverableKey(ctx context.Context, v Vault, name string) (keyRow, uint64, error) {
	k, revision, err := s.deletedKey(ctx, v, name)
	if err == nil && k.Deleted.Begun {
		err = conflict("ObjectIsBeingDeleted", "Key %s is currently being deleted.", k.Name)
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
	row, revision, err := s.versions.Get(ctx, s.versionKey(v, k.Name, id))
	if errors.Is(err, store.ErrNotFound) {
		return keyRow{}, versionRow{}, 0, keyNotFound(name, asked)
	}
	return k, row, revision, err
}

// create makes a version of a key, the first one if there is no such key.
func (s *Service) create(ctx context.Context, v Vault, name string, spec keySpec, row versionRow) (keyRow, versionRow, error) {
	return s.add(ctx, v, name, row, func(row *versionRow) error { return s.generate(spec, row) })
}

// add stores a new version whose key is made by fill, which gets the version's id.
func (s *Service) add(ctx context.Context, v Vault, name string, row versionRow, fill func(*versionRow) error) (keyRow, versionRow, error) {
	// Refuse before the work of making a key.
	k, err := s.mayCreate(ctx, v, name)
	if err != nil {
		return keyRow{}, versionRow{}, err
	}
	row.ID = newVersionID()
	if err := fill(&row); err != nil {
		return keyRow{}, versionRow{}, err
	}
	now := time.Now().Unix()
	row.Created, row.Updated = now, now
	if row.Expires == nil {
		row.Expires = k.Rotation.expiry(now)
	}
	err = retry(func() (err error) {
		k, err = s.addVersion(ctx, v, name, row)
		return err
	})
	if err != nil && row.InToken {
		err = errors.Join(err, s.destroyKeys([]string{row.ID}))
	}
	return k, row, err
}

// mayCreate refuses a name that a deleted key still holds; it returns the key that
// the version will be of, zero for a new one.
func (s *Service) mayCreate(ctx context.Context, v Vault, name string) (keyRow, error) {
	k, _, err := s.keys.Get(ctx, s.keyKey(v, name))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return keyRow{}, nil
	case err != nil:
		return keyRow{}, err
	case k.purged(time.Now()):
		// What is left of it goes now, so that nothing of it is in the token either.
		return keyRow{}, s.finishPurge(ctx, v, k.Name)
	case k.Deleted != nil:
		return keyRow{}, deletedButRecoverable(k.Name)
	}
	return k, nil
}

// addVersion writes a new version; store.ErrConflict if the key changed meanwhile.
func (s *Service) addVersion(ctx context.Context, v Vault, name string, row versionRow) (keyRow, error) {
	k, revision, err := s.keys.Get(ctx, s.keyKey(v, name))
	switch {
	case errors.Is(err, store.ErrNotFound):
		k, revision = keyRow{Name: name}, 0
	case err != nil:
		return keyRow{}, err
	case k.Deleted != nil:
		return keyRow{}, deletedButRecoverable(k.Name)
	}
	return s.addVersionAt(ctx, v, k, revision, row)
}

// addVersionAt adds a version to a key that is at this revision; 0: there is none.
func (s *Service) addVersionAt(ctx context.Context, v Vault, k keyRow, revision uint64, row versionRow) (keyRow, error) {
	if len(k.Versions) >= maxVersions {
		return keyRow{}, badParameter("Key %s has %d versions, as many as a key may have.", k.Name, maxVersions)
	}
	k.Versions = append(slices.Clone(k.Versions), row.ID)
	keyWrite, err := s.keys.Put(s.keyKey(v, k.Name), k, atRevision(revision))
	if err != nil {
		return keyRow{}, err
	}
	versionWrite, err := s.versions.Put(s.versionKey(v, k.Name, row.ID), row, store.Absent)
	if err != nil {
		return keyRow{}, err
	}
	writes := []store.RowWrite{keyWrite, versionWrite}
	if writes, err = s.announce(ctx, writes, v, EventNewVersion, k.Name, row); err != nil {
		return keyRow{}, err
	}
	if err := s.store.WriteRows(ctx, writes); err != nil {
		return keyRow{}, fmt.Errorf("store key %s: %w", k.Name, err)
	}
	return k, nil
}

// maxVersions of a key: what one backup, and one row, can hold.
const maxVersions = 500

// atRevision expects a row at a revision, or none at revision 0.
func atRevision(revision uint64) store.Expect {
	if revision == 0 {
		return store.Absent
	}
	return store.AtRevision(revision)
}

func (s *Service) versionRemovals(v Vault, k keyRow) []store.RowWrite {
	writes := make([]store.RowWrite, 0, len(k.Versions)+1)
	for _, id := range k.Versions {
		writes = append(writes, store.RowWrite{RowKey: s.versionKey(v, k.Name, id)})
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
		expires := row.Expires
		if err := change(&row); err != nil {
			return err
		}
		if (expires == nil) != (row.Expires == nil) || expires != nil && *expires != *row.Expires {
			row.Told = "" // its new date is told of again
		}
		row.Updated = time.Now().Unix()
		write, err := s.versions.Put(s.versionKey(v, k.Name, row.ID), row, store.AtRevision(revision))
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
	return s.changeKey(ctx, v, name, s.recoverableKey, func(k *keyRow) { k.Deleted = nil })
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
		if row, _, err = s.versions.Get(ctx, s.versionKey(v, k.Name, k.newest())); err != nil {
			return err
		}
		change(&k)
		write, err := s.keys.Put(s.keyKey(v, name), k, store.AtRevision(revision))
		if err != nil {
			return err
		}
		return s.store.WriteRows(ctx, []store.RowWrite{write})
	})
	return k, row, err
}

// purge destroys a deleted key.
func (s *Service) purge(ctx context.Context, v Vault, name string) error {
	k, _, err := s.deletedKey(ctx, v, name)
	if err != nil {
		return err
	}
	if v.PurgeProtection {
		return forbidden("", "Operation \"purge\" is not allowed because purge protection is enabled for this vault. Key Vault service will automatically purge it after the retention period has passed.")
	}
	return s.finishPurge(ctx, v, k.Name)
}

// finishPurge destroys a key that is deleted. It is first marked, so that nobody can
// recover it while its private keys go from the token: those go before its rows, which
// say what is in the token. Idempotent.
func (s *Service) finishPurge(ctx context.Context, v Vault, name string) error {
	return retry(func() error {
		k, revision, err := s.keys.Get(ctx, s.keyKey(v, name))
		if errors.Is(err, store.ErrNotFound) || err == nil && k.Deleted == nil {
			return nil
		}
		if err != nil {
			return err
		}
		inToken, err := s.inToken(ctx, v, k)
		if err != nil {
			return err
		}
		if len(inToken) > 0 && !k.Deleted.Begun {
			begun := *k.Deleted
			begun.Begun = true
			k.Deleted = &begun
			write, err := s.keys.Put(s.keyKey(v, name), k, store.AtRevision(revision))
			if err != nil {
				return err
			}
			if err := s.store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
				return err
			}
			revision++
		}
		if err := s.destroyKeys(inToken); err != nil {
			return err
		}
		keyWrite := store.RowWrite{RowKey: s.keyKey(v, name), Expect: store.AtRevision(revision)}
		return s.store.WriteRows(ctx, append(s.versionRemovals(v, k), keyWrite))
	})
}

// inToken returns those of a key's versions that are in the token.
func (s *Service) inToken(ctx context.Context, v Vault, k keyRow) (ids []string, err error) {
	for _, id := range k.Versions {
		row, _, err := s.versions.Get(ctx, s.versionKey(v, k.Name, id))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if row.InToken {
			ids = append(ids, id)
		}
	}
	return ids, nil
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
