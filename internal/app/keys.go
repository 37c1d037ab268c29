package app

import (
	"bytes"
	"crypto/sha256"
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

const serviceKeyName = "service.key"

// serviceKeyFile is where the service key lies: plain, or sealed in the token or by a
// passphrase. It is safe for concurrent use by one caller at a time.
type serviceKeyFile struct {
	c     Config
	token vault.Token
	path  string
	last  [sha256.Size]byte // of what was read or written last, as it lies there
}

func newServiceKeyFile(c Config, token vault.Token) *serviceKeyFile {
	return &serviceKeyFile{c: c, token: token, path: filepath.Join(keysDir(c.DataDir), serviceKeyName)}
}

// load reads the service key, or makes it where there is no data yet. A missing key of
// existing data is an error and never a reason to make a new one: the data would be lost
// under it. A Config that asks for that has a new key sealed, or one that lies plain.
func (f *serviceKeyFile) load(fresh func() (bool, error)) (envelope.ServiceKey, error) {
	raw, err := os.ReadFile(f.path)
	switch {
	case err == nil:
		return f.parse(raw)
	case !errors.Is(err, fs.ErrNotExist):
		return envelope.ServiceKey{}, fmt.Errorf("read the service key: %w; without it the data in %s cannot be opened", err, f.c.where())
	}
	isNew, err := fresh()
	if err != nil {
		return envelope.ServiceKey{}, err
	}
	if !isNew {
		return envelope.ServiceKey{}, fmt.Errorf("the service key %s is missing, and the data in %s is sealed under it: %s", f.path, f.c.where(), f.c.keyAdvice(serviceKeyName))
	}
	key := envelope.NewServiceKey()
	return key, f.Save(key)
}

// parse opens what lies in the file, and seals it if that is asked for.
func (f *serviceKeyFile) parse(raw []byte) (envelope.ServiceKey, error) {
	f.last = sha256.Sum256(raw)
	key, sealed, err := f.open(raw)
	if err == nil && !sealed && f.c.sealsServiceKey() {
		err = f.Save(key)
	}
	return key, err
}

// open opens what lies in the file; sealed says that it does not lie plain.
func (f *serviceKeyFile) open(raw []byte) (key envelope.ServiceKey, sealed bool, err error) {
	plain := raw
	sealed = true
	switch {
	case isSealedKey(raw):
		plain, err = openSealedKey(f.token, f.path, raw)
	case isPassphraseKey(raw):
		plain, err = openByPassphrase(f.c.PassphraseFile, f.path, raw)
	default:
		sealed = false
	}
	if err != nil {
		return envelope.ServiceKey{}, sealed, err
	}
	defer clear(plain)
	if key, err = envelope.ParseServiceKey(plain); err != nil {
		return envelope.ServiceKey{}, sealed, fmt.Errorf("the service key %s has %d bytes instead of 32, and is no key of several versions: restore it from your backup", f.path, len(plain))
	}
	return key, sealed, nil
}

// openServiceKey opens a service key of data that nobody serves, and leaves its file as it is.
func openServiceKey(c Config, path string, raw []byte) (envelope.ServiceKey, error) {
	token, closeToken, err := c.PKCS11.open()
	if err != nil {
		return envelope.ServiceKey{}, err
	}
	if closeToken != nil {
		defer closeToken()
	}
	key, _, err := (&serviceKeyFile{c: c, token: token, path: path}).open(raw)
	return key, err
}

func (c Config) sealsServiceKey() bool { return c.SealServiceKey || c.PassphraseFile != "" }

// Changed implements custody.ServiceKeyFile.
func (f *serviceKeyFile) Changed() (envelope.ServiceKey, bool, error) {
	raw, err := os.ReadFile(f.path)
	if err != nil {
		return envelope.ServiceKey{}, false, fmt.Errorf("read the service key: %w; what was read at the start is used, and a start needs it: restore it from your backup", err)
	}
	if f.last == sha256.Sum256(raw) {
		return envelope.ServiceKey{}, false, nil
	}
	key, err := f.parse(raw)
	return key, err == nil, err
}

// Save implements custody.ServiceKeyFile. A key that lies sealed stays so.
func (f *serviceKeyFile) Save(key envelope.ServiceKey) error {
	return key.Use(func(plain []byte) error {
		content, err := f.seal(plain)
		if err != nil {
			return err
		}
		if err := secretFile(f.path).Replace(content); err != nil {
			return fmt.Errorf("store the service key: %w", err)
		}
		f.last = sha256.Sum256(content)
		return nil
	})
}

func (f *serviceKeyFile) seal(plain []byte) (content []byte, err error) {
	before, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the service key: %w", err)
	}
	var again []byte
	switch {
	case f.c.SealServiceKey, f.c.PassphraseFile == "" && isSealedKey(before):
		if content, err = sealServiceKey(f.token, before, plain); err == nil {
			again, err = openSealedKey(f.token, f.path, content)
		}
	case f.c.PassphraseFile != "":
		if content, err = sealByPassphrase(f.c.PassphraseFile, plain); err == nil {
			again, err = openByPassphrase(f.c.PassphraseFile, f.path, content)
		}
	default:
		return plain, nil
	}
	defer clear(again)
	// What cannot be opened again must not take the place of what can.
	if err == nil && !bytes.Equal(again, plain) {
		err = errors.New("it does not open after it was sealed")
	}
	if err != nil {
		return nil, fmt.Errorf("seal the service key: %w", err)
	}
	return content, nil
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
