package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// backup is what a backed-up key is, sealed under the service key and bound to the
// vault's subscription: like the service's own backups it can be restored there alone,
// and here, besides, by this installation alone. Its JSON is in clients' hands.
type backup struct {
	Version  int          `json:"version"`
	Name     string       `json:"name"`
	Rotation *rotation    `json:"rotation,omitempty"`
	Versions []versionRow `json:"versions"` // oldest first
}

const (
	backupVersion = 1
	backupTable   = "vault-backup" // a name for sealing; no rows have it
)

type backupBody struct {
	Value *string `json:"value"`
}

func (s *Service) backupName(v Vault) envelope.Name {
	return s.backups.Name(backupTable, strings.ToLower(subscriptionOf(v.ResourceID)))
}

// subscriptionOf takes the subscription out of an ARM id.
func subscriptionOf(resourceID string) string {
	segments := strings.Split(resourceID, "/")
	if len(segments) > 2 && strings.EqualFold(segments[1], "subscriptions") {
		return segments[2]
	}
	return ""
}

func backupKey(ctx context.Context, s *Service, c *call) (any, error) {
	k, _, err := s.key(ctx, c.vault, c.target.key)
	if err != nil {
		return nil, err
	}
	b := backup{Version: backupVersion, Name: k.Name, Rotation: k.Rotation}
	for _, id := range k.Versions {
		row, _, err := s.versions.Get(ctx, s.versionKey(c.vault, k.Name, id))
		if err != nil {
			return nil, err
		}
		if row.InToken {
			return nil, badParameter("Key %s is in a PKCS#11 token, which no key leaves: back up the token with its own means.", k.Name)
		}
		b.Versions = append(b.Versions, row)
	}
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode a backup: %w", err)
	}
	defer clear(plain)
	sealed, err := s.backups.SealRow(backupTable, envelope.Name{}, s.backupName(c.vault), plain)
	if err != nil {
		return nil, fmt.Errorf("seal a backup: %w", err)
	}
	c.keyID = s.keyID(c.vault, k.Name, "")
	value := encodeBinary(sealed.Bytes())
	return backupBody{Value: &value}, nil
}

// restoreKey brings a backed-up key back, with the versions and attributes it had.
func restoreKey(ctx context.Context, s *Service, c *call) (any, error) {
	var body backupBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	if c.vault.HSM {
		return nil, badParameter("A managed HSM takes no backups: its keys are in a PKCS#11 token, which is backed up with its own means.")
	}
	value, err := decodeBinary("value", body.Value)
	if err != nil {
		return nil, err
	}
	b, err := s.openBackup(c.vault, value)
	if err != nil {
		return nil, err
	}
	k := keyRow{Name: b.Name, Rotation: b.Rotation}
	var writes []store.RowWrite
	for _, row := range b.Versions {
		if row.spec().hardware() && !c.vault.premium() {
			return nil, badParameter("The key in the backup is of type '%s', which needs a vault with SKU premium.", row.Type)
		}
		k.Versions = append(k.Versions, row.ID)
		write, err := s.versions.Put(s.versionKey(c.vault, k.Name, row.ID), row, store.Absent)
		if err != nil {
			return nil, err
		}
		writes = append(writes, write)
	}
	newest := b.Versions[len(b.Versions)-1]
	if before, err := s.mayCreate(ctx, c.vault, k.Name); err != nil {
		return nil, err
	} else if before.Name != "" {
		return nil, alreadyExists(before.Name)
	}
	write, err := s.keys.Put(s.keyKey(c.vault, k.Name), k, store.Absent)
	if err != nil {
		return nil, err
	}
	if writes, err = s.announce(ctx, append(writes, write), c.vault, EventNewVersion, k.Name, newest); err != nil {
		return nil, err
	}
	err = s.store.WriteRows(ctx, writes)
	if errors.Is(err, store.ErrConflict) {
		err = alreadyExists(k.Name)
	}
	return s.answer(c, k, newest, err)
}

func alreadyExists(name string) error {
	return conflict("", "Key %s already exists: a backup is not restored over a key.", name)
}

// openBackup opens a backup that was made in the vault's subscription.
func (s *Service) openBackup(v Vault, value []byte) (backup, error) {
	refuse := badParameter("Backup blob is corrupted, or was not made in this subscription of this installation.")
	var b backup
	sealed, err := envelope.ParseSealed(value)
	if err != nil {
		return b, refuse
	}
	plain, err := s.backups.OpenRow(backupTable, envelope.Name{}, s.backupName(v), sealed)
	if err != nil {
		return b, refuse
	}
	defer clear(plain)
	if err := json.Unmarshal(plain, &b); err != nil || b.Version != backupVersion || len(b.Versions) == 0 || !keyName.MatchString(b.Name) {
		return b, refuse
	}
	now := time.Now().Unix()
	for i := range b.Versions {
		b.Versions[i].Updated = now
	}
	return b, nil
}
