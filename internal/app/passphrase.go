package app

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"os"

	"golang.org/x/crypto/argon2"
)

// A service key sealed by a passphrase is a file of a line that says so, then a random
// salt and AES-256-GCM with a random nonce, binary. The key is Argon2id of the passphrase
// with the parameters that RFC 9106 recommends where memory is short (4, second choice).
const passphraseMagic = "tidelock service key sealed by a passphrase, version 1\n"

const (
	passphraseSaltBytes = 16
	minPassphraseBytes  = 12
	argonTime           = 3
	argonMemory         = 64 << 10 // KiB
	argonThreads        = 4
)

func isPassphraseKey(file []byte) bool { return bytes.HasPrefix(file, []byte(passphraseMagic)) }

// readPassphrase reads a file of one line.
func readPassphrase(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("--service-key-passphrase-file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("passphrase file %s can be read by others: chmod 600 it", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--service-key-passphrase-file: %w", err)
	}
	phrase := bytes.TrimRight(raw, "\r\n")
	if len(phrase) < minPassphraseBytes || bytes.ContainsAny(phrase, "\r\n") {
		return nil, fmt.Errorf("passphrase file %s must hold one line of at least %d bytes", path, minPassphraseBytes)
	}
	return phrase, nil
}

func passphraseGCM(phrase, salt []byte) (cipher.AEAD, error) {
	key := argon2.IDKey(phrase, salt, argonTime, argonMemory, argonThreads, 32)
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func sealByPassphrase(path string, key []byte) ([]byte, error) {
	phrase, err := readPassphrase(path)
	if err != nil {
		return nil, err
	}
	defer clear(phrase)
	salt := make([]byte, passphraseSaltBytes)
	_, _ = rand.Read(salt)
	gcm, err := passphraseGCM(phrase, salt)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(append([]byte(passphraseMagic), salt...), nil, key, []byte(sealAAD)), nil
}

// openByPassphrase undoes sealByPassphrase; file is what lies at keyPath.
func openByPassphrase(path, keyPath string, file []byte) ([]byte, error) {
	if path == "" {
		return nil, fmt.Errorf("the service key %s is sealed by a passphrase: give --service-key-passphrase-file", keyPath)
	}
	phrase, err := readPassphrase(path)
	if err != nil {
		return nil, err
	}
	defer clear(phrase)
	sealed := file[len(passphraseMagic):]
	if len(sealed) < passphraseSaltBytes {
		return nil, fmt.Errorf("the service key %s is cut off: restore it from your backup", keyPath)
	}
	gcm, err := passphraseGCM(phrase, sealed[:passphraseSaltBytes])
	if err != nil {
		return nil, err
	}
	key, err := gcm.Open(nil, nil, sealed[passphraseSaltBytes:], []byte(sealAAD))
	if err != nil {
		return nil, fmt.Errorf("the service key %s does not open: the passphrase in %s is not the one it is sealed by, or the file is damaged", keyPath, path)
	}
	return key, nil
}
