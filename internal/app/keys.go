package app

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/vault"
)

// keysDir holds the secrets of a data directory, beside it and never in it.
func keysDir(dataDir string) string { return dataDir + ".keys" }

const serviceKeyBytes = 32

// loadServiceKey reads the service key, or makes it where there is no data yet. A missing
// key of existing data is an error and never a reason to make a new one: the data would
// be lost under it. The key may lie sealed, in the token or by a passphrase; a Config that
// asks for that has a new one sealed, or one that lies plain.
func loadServiceKey(c Config, token vault.Token, fresh func() (bool, error)) (envelope.ServiceKey, error) {
	path := filepath.Join(keysDir(c.DataDir), "service.key")
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if isSealedKey(raw) || isPassphraseKey(raw) {
			if raw, err = unsealServiceKey(c, token, path, raw); err != nil {
				return envelope.ServiceKey{}, err
			}
		} else if c.sealsServiceKey() && len(raw) == serviceKeyBytes {
			if err := writeServiceKey(c, token, path, raw); err != nil {
				return envelope.ServiceKey{}, err
			}
		}
		defer clear(raw)
		if len(raw) != serviceKeyBytes {
			return envelope.ServiceKey{}, fmt.Errorf("the service key %s has %d bytes instead of %d: restore it from your backup", path, len(raw), serviceKeyBytes)
		}
		return envelope.ParseServiceKey(raw)
	case !errors.Is(err, fs.ErrNotExist):
		return envelope.ServiceKey{}, fmt.Errorf("read the service key: %w; without it the data in %s cannot be opened", err, c.where())
	}
	isNew, err := fresh()
	if err != nil {
		return envelope.ServiceKey{}, err
	}
	if !isNew {
		return envelope.ServiceKey{}, fmt.Errorf("the service key %s is missing, and the data in %s is sealed under it: %s", path, c.where(), c.keyAdvice("service.key"))
	}
	key := envelope.NewServiceKey()
	if err := key.Use(func(raw []byte) error { return writeServiceKey(c, token, path, raw) }); err != nil {
		return envelope.ServiceKey{}, err
	}
	return key, nil
}

func (c Config) sealsServiceKey() bool { return c.SealServiceKey || c.PassphraseFile != "" }

func unsealServiceKey(c Config, token vault.Token, path string, file []byte) ([]byte, error) {
	if isSealedKey(file) {
		return openSealedKey(token, path, file)
	}
	return openByPassphrase(c.PassphraseFile, path, file)
}

// writeServiceKey stores the key, sealed or plain.
func writeServiceKey(c Config, token vault.Token, path string, key []byte) error {
	content := key
	if c.sealsServiceKey() {
		var err error
		if c.SealServiceKey {
			content, err = sealServiceKey(token, key)
		} else {
			content, err = sealByPassphrase(c.PassphraseFile, key)
		}
		if err != nil {
			return err
		}
		// What cannot be opened again must not take the place of what can.
		again, err := unsealServiceKey(c, token, path, content)
		if err != nil || !bytes.Equal(again, key) {
			return fmt.Errorf("the service key does not open after it was sealed: %w", err)
		}
		clear(again)
	}
	if err := writeSecret(path, content); err != nil {
		return fmt.Errorf("store the service key: %w", err)
	}
	return nil
}

func emptyOrAbsent(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("data directory: %w", err)
	}
	return len(entries) == 0, nil
}

// writeSecret makes a file that only its owner reads, whole or not at all, and
// durable before it returns: what is sealed under a key must not outlive it.
func writeSecret(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once it is renamed, as it should
	_, err = bytes.NewReader(content).WriteTo(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir durable: after a power cut it may else be undone.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
