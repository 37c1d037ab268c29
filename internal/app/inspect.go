package app

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/store/blobs"
	"github.com/tidelock/tidelock/internal/store/pebble"
	"github.com/tidelock/tidelock/internal/store/postgres"
)

// InspectConfig names data that no server serves: a data directory, a copy of one, or a
// database that nobody writes.
type InspectConfig struct {
	DataDir        string // of which DATA.keys is looked for beside it
	Store          StoreConfig
	PassphraseFile string   // of the service key, if it lies sealed so
	PKCS11         PKCS11   // the token that the service key is sealed in, if it is
	Canaries       []string // texts that were written by clients, and are searched for
}

// InspectReport is what an inspection found, and what it says.
type InspectReport struct {
	State        string         `json:"state"` // Intact, Failed
	Shown        []string       `json:"shown"`
	NotShown     []string       `json:"notShown"`
	Rows         int            `json:"rows"`
	DocumentKeys int            `json:"documentKeys"`
	Documents    int            `json:"documents"`
	Headers      int            `json:"segmentHeaders"`
	Records      int            `json:"records"`
	Objects      int            `json:"objects"`
	Loose        int            `json:"looseBlobs"`
	Bytes        int64          `json:"sealedBytes"`
	Shredded     int            `json:"shreddedDocuments"`
	Resources    map[string]int `json:"documentsByResource"`
	KeyIDs       map[string]int `json:"documentsByKey,omitempty"`
	Epochs       map[string]int `json:"documentKeysByRootKey"`
	Files        int            `json:"filesSearched"`
	FileBytes    int64          `json:"bytesSearched"`
	Canaries     int            `json:"canaries"`
	Failed       int            `json:"failed"`
	Failures     []string       `json:"failures"`
}

const (
	minCanaryBytes = 8
	stateIntact    = "Intact"
	stateFailed    = "Failed"
)

// Inspect walks through data at rest without the keys of documents, and changes nothing.
func Inspect(ctx context.Context, c InspectConfig) (InspectReport, error) {
	config, err := Config{DataDir: c.DataDir, Store: c.Store, PassphraseFile: c.PassphraseFile, PKCS11: c.PKCS11}.withDefaults()
	if err != nil {
		return InspectReport{}, err
	}
	search, err := newSearch(c.Canaries)
	if err != nil {
		return InspectReport{}, err
	}
	engine, err := openReadOnly(ctx, config)
	if err != nil {
		return InspectReport{}, err
	}
	defer engine.Close()
	service, why, err := inspectionKey(ctx, config, engine)
	if err != nil {
		return InspectReport{}, err
	}
	found, err := custody.Inspect(ctx, searched{engine, search}, service)
	if err != nil {
		return InspectReport{}, fmt.Errorf("the walk broke off: %w", err)
	}
	if config.Store.URL == "" {
		if err := search.files(ctx, config.DataDir); err != nil {
			return InspectReport{}, err
		}
	}
	return newInspectReport(config, found, search, why), nil
}

func newInspectReport(c Config, found custody.Inspection, s *search, why string) InspectReport {
	r := InspectReport{
		State: stateIntact, Rows: found.Rows, DocumentKeys: found.DocumentKeys, Documents: found.Documents, Headers: found.Headers, Records: found.Records,
		Objects: found.Objects, Loose: found.Loose, Bytes: found.Bytes, Shredded: found.Shredded, Resources: found.Resources, KeyIDs: found.KeyIDs, Epochs: found.Epochs,
		Files: s.filesRead, FileBytes: s.bytesRead, Canaries: s.count, Failed: found.Failed + len(s.found), Failures: append(slices.Clone(found.Failures), s.found...),
	}
	if r.Failures == nil {
		r.Failures = []string{}
	}
	r.Shown = []string{
		"every stored value has a known sealed format; it names its resource, its document and the id of its document key",
		"the records of each document follow each other: none is missing or out of order behind the first that is there",
	}
	r.NotShown = []string{"that records, objects and document keys open and authenticate: that takes the customers' keys (tidelock cmk prove, on a running server)"}
	if found.RowsOpened {
		r.Shown = append(r.Shown, "every row of management data opens under the service key and authenticates where it lies; each relay's root key is under the key version that is listed")
	} else {
		r.NotShown = append(r.NotShown, "that rows of management data open, and which key versions protect which relays: "+why)
	}
	switch {
	case s.count == 0:
		r.NotShown = append(r.NotShown, "that planted texts are nowhere: none was given (--canary)")
	case c.Store.URL == "":
		r.Shown = append(r.Shown, "none of the given texts is in any value or anywhere in the data directory's files, plain, as UTF-16, hexadecimal or base64")
	default:
		r.Shown = append(r.Shown, "none of the given texts is in any value, plain, as UTF-16, hexadecimal or base64")
		r.NotShown = append(r.NotShown, "what else is in the database server's files: freed rows, write-ahead logs, backups")
	}
	if r.Failed > 0 {
		r.State, r.Shown = stateFailed, []string{}
	}
	return r
}

func openReadOnly(ctx context.Context, c Config) (store.Store, error) {
	if c.Store.URL == "" {
		return pebble.Open(pebble.Options{Dir: c.DataDir, ReadOnly: true})
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	var objects blobs.Store
	if c.Store.Blobs != "" {
		var err error
		if objects, err = blobs.Open(ctx, blobs.Options{Place: c.Store.Blobs, CredentialsFile: c.Store.BlobsCredentialsFile, ReadOnly: true}); err != nil {
			return nil, err
		}
	}
	e, err := postgres.Open(ctx, postgres.Options{
		URL: c.Store.URL, PasswordFile: c.Store.PasswordFile, PoolSize: c.Store.PoolSize, StatementTimeout: c.Store.StatementTimeout, ReadOnly: true, Blobs: objects,
	})
	if err != nil {
		return nil, err // a nil *Engine would make a store that is not nil
	}
	return e, nil
}

// inspectionKey reads the service key if it is there, and says why not if it is not. It
// writes nothing. A key of other data is an error: else all of it would seem damaged.
func inspectionKey(ctx context.Context, c Config, st store.Store) (*envelope.ServiceKey, string, error) {
	path := filepath.Join(keysDir(c.DataDir), "service.key")
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "the service key is not at " + path, nil
	case err != nil:
		return nil, "", fmt.Errorf("read the service key: %w", err)
	case isSealedKey(raw) && c.PKCS11 == (PKCS11{}):
		return nil, "the service key lies sealed in a PKCS#11 token (--pkcs11-module, --pkcs11-token and --pkcs11-pin-file)", nil
	case isPassphraseKey(raw) && c.PassphraseFile == "":
		return nil, "the service key lies sealed by a passphrase (--service-key-passphrase-file)", nil
	}
	key, err := openServiceKey(c, path, raw)
	if err != nil {
		return nil, "", err
	}
	if _, err := loadInstallation(ctx, st, key); err != nil {
		return nil, "", fmt.Errorf("the installation's row: %w", err)
	}
	return &key, "", nil
}

// searched shows a search every value of a walk.
type searched struct {
	store.Store
	search *search
}

func (s searched) Walk(ctx context.Context, visit func(store.Stored) error) error {
	return s.Store.Walk(ctx, func(v store.Stored) error {
		s.search.in("a stored value", v.Value)
		return visit(v)
	})
}

// search looks for texts in whatever it is shown.
type search struct {
	count     int
	patterns  []pattern
	longest   int
	filesRead int
	bytesRead int64
	found     []string
}

// pattern is a text, as it may be written.
type pattern struct {
	of    int
	as    string
	bytes []byte
}

func newSearch(canaries []string) (*search, error) {
	s := &search{count: len(canaries)}
	for n, text := range canaries {
		if len(text) < minCanaryBytes {
			return nil, fmt.Errorf("--canary %q has %d bytes: what is shorter than %d is found by chance", text, len(text), minCanaryBytes)
		}
		add := func(as string, b []byte) {
			if slices.ContainsFunc(s.patterns, func(p pattern) bool { return bytes.Equal(p.bytes, b) }) {
				return // alphabets differ in two characters
			}
			s.patterns, s.longest = append(s.patterns, pattern{n, as, b}), max(s.longest, len(b))
		}
		raw := []byte(text)
		add("plain", raw)
		var little, big []byte
		for _, unit := range utf16.Encode([]rune(text)) {
			little, big = binary.LittleEndian.AppendUint16(little, unit), binary.BigEndian.AppendUint16(big, unit)
		}
		add("UTF-16", little)
		add("UTF-16", big)
		add("hexadecimal", []byte(hex.EncodeToString(raw)))
		add("hexadecimal", []byte(strings.ToUpper(hex.EncodeToString(raw))))
		for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			for shift := range 3 {
				// Of what stands before and after, the outer characters hold bits too.
				all := alphabet.EncodeToString(append(make([]byte, shift), raw...))
				add("base64", []byte(all[(shift*8+5)/6:(shift+len(raw))*8/6]))
			}
		}
	}
	return s, nil
}

func (s *search) in(where string, b []byte) {
	for _, p := range s.patterns {
		if bytes.Contains(b, p.bytes) && len(s.found) < 100 {
			s.found = append(s.found, fmt.Sprintf("text %d is in %s, %s", p.of+1, where, p.as))
		}
	}
}

// files searches all files under dir, whatever they are.
func (s *search) files(ctx context.Context, dir string) error {
	if s.count == 0 {
		return nil
	}
	buffer := make([]byte, 1<<20)
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		s.filesRead++
		kept := 0
		for {
			n, err := io.ReadFull(f, buffer[kept:])
			s.bytesRead += int64(n)
			s.in("the file "+path, buffer[:kept+n])
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			if err != nil {
				return err
			}
			kept = copy(buffer, buffer[len(buffer)-min(s.longest, len(buffer)/2):])
		}
	})
}
