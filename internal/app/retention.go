package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tidelock/tidelock/internal/custody"
)

const retentionKeyName = "retention.key"

// openRetention reads the retention key, or makes it for data that has nothing under one.
func (a *App) openRetention(ctx context.Context) (*custody.Retention, error) {
	file := secretFile(filepath.Join(keysDir(a.c.DataDir), retentionKeyName))
	r, err := custody.OpenRetention(ctx, a.store, a.service, file, a.c.KeyRetentionDays)
	switch {
	case errors.Is(err, custody.ErrNoRetentionKey):
		return nil, fmt.Errorf("the retention key %s is missing, and root keys in %s are sealed under it: %s", file, a.c.where(), a.c.keyAdvice(retentionKeyName))
	case errors.Is(err, custody.ErrWrongRetentionKey):
		return nil, fmt.Errorf("%w: %s does not fit %s: %s", err, file, a.c.where(), a.c.keyAdvice(retentionKeyName))
	}
	return r, err
}

// secretFile is the path of a small secret that is replaced now and then.
type secretFile string

func (f secretFile) Read() ([]byte, error) { return os.ReadFile(string(f)) }

// Replace overwrites what was there before the file that held it goes. Whether the disk
// itself keeps a copy is out of reach from here: see docs/operations.md.
func (f secretFile) Replace(content []byte) error {
	old, err := os.OpenFile(string(f), os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSecret(string(f), content); err != nil {
		if old != nil {
			_ = old.Close() // nothing was written through it
		}
		return err
	}
	if old == nil {
		return nil
	}
	info, err := old.Stat()
	if err == nil {
		_, err = old.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = old.Sync()
	}
	if closeErr := old.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("overwrite the former %s: %w", f, err)
	}
	return nil
}
