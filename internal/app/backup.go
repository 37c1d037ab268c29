package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/store"
)

// BackupConfig names a copy of the data, and the secrets that are to open it.
type BackupConfig struct {
	DataDir          string // a copy of a data directory that nobody serves
	Store            StoreConfig
	Keys             string // the directory of the secrets; DataDir.keys
	PassphraseFile   string
	PKCS11           PKCS11 // the token that the service key is sealed in, if it is
	KeyRetentionDays int    // of the installation; the default
}

// BackupReport says what a copy needs.
type BackupReport struct {
	State       string             `json:"state"` // Opens, Incomplete (something is missing, or too old)
	ServiceKeys []BackupServiceKey `json:"serviceKeyVersions"`
	Relays      []BackupRelay      `json:"relays"`
	OpensFrom   *time.Time         `json:"retentionKeyOpensFrom,omitempty"`
	Missing     int                `json:"missing"`
}

// BackupServiceKey is a version of the service key that the copy needs.
type BackupServiceKey struct {
	Number  uint32 `json:"number"`
	ID      string `json:"id"`
	Present bool   `json:"present"`
}

// BackupRelay is a relay in the copy.
type BackupRelay struct {
	Resource  string     `json:"resource"`
	KeyID     string     `json:"neededKeyIdentifier"`
	Identity  string     `json:"identity,omitempty"`
	OpenUntil *time.Time `json:"openUntil,omitempty"` // by the retention, if the installation's key moves on
	Problem   string     `json:"problem,omitempty"`
}

// VerifyBackup says what a copy of the data needs to be opened, without a server. It changes
// nothing and asks no key store.
func VerifyBackup(ctx context.Context, c BackupConfig) (BackupReport, error) {
	config, err := Config{DataDir: c.DataDir, Store: c.Store, PassphraseFile: c.PassphraseFile, PKCS11: c.PKCS11, KeyRetentionDays: c.KeyRetentionDays}.withDefaults()
	if err != nil {
		return BackupReport{}, err
	}
	keys := keysDir(config.DataDir)
	if c.Keys != "" {
		keys = c.Keys
	}
	path := filepath.Join(keys, serviceKeyName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return BackupReport{}, fmt.Errorf("the service key is not at %s: say with --keys where the secrets are", path)
	}
	if err != nil {
		return BackupReport{}, fmt.Errorf("read the service key: %w", err)
	}
	service, err := openServiceKey(config, path, raw)
	if err != nil {
		return BackupReport{}, err
	}
	engine, err := openReadOnly(ctx, config)
	if err != nil {
		return BackupReport{}, err
	}
	defer engine.Close()
	if _, err := engine.GetRow(ctx, installations(engine, service).Key("")); errors.Is(err, store.ErrNotFound) {
		return BackupReport{}, fmt.Errorf("%s is not the service key of this data: say with --keys where the right one is", path)
	}
	needs, err := custody.VerifyBackup(ctx, engine, service, secretFile(filepath.Join(keys, retentionKeyName)))
	if err != nil {
		return BackupReport{}, err
	}
	return newBackupReport(needs, config.KeyRetentionDays), nil
}

func newBackupReport(needs custody.BackupNeeds, retentionDays int) BackupReport {
	r := BackupReport{State: "Opens", ServiceKeys: []BackupServiceKey{}, Relays: []BackupRelay{}}
	if !needs.Oldest.IsZero() {
		r.OpensFrom = &needs.Oldest
	}
	for _, v := range needs.ServiceKeys {
		r.ServiceKeys = append(r.ServiceKeys, BackupServiceKey(v))
		if !v.Present {
			r.Missing++
		}
	}
	for _, one := range needs.Relays {
		relay := BackupRelay{Resource: one.Resource, KeyID: one.KeyID, Identity: one.Identity, Problem: one.Problem}
		if !one.Day.IsZero() {
			until := one.Day.AddDate(0, 0, retentionDays+1)
			relay.OpenUntil = &until
		}
		if one.Problem != "" {
			r.Missing++
		}
		r.Relays = append(r.Relays, relay)
	}
	if r.Missing > 0 {
		r.State = "Incomplete"
	}
	return r
}
