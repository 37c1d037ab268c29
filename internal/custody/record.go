package custody

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/store"
)

// Tables and row ids. They are on disk (hashed): frozen.
const (
	tableRootKeys     = "root-keys"
	tableDocumentKeys = "document-keys"
	tableResources    = "resources" // names partitions only
	tableRetained     = "retained"  // which resources have a record under the retention key

	currentID  = "current"
	previousID = "previous/" // and the generation
)

const (
	recordVersion  = 2        // 1 had no retention and one epoch; it is read, and written as 2
	maxRecordBytes = 16 << 10 // the wrapped key has at most 512 B, URLs 512 B, an identity's id 2 KiB
	maxWrapped     = 1 << 10
	firstEpoch     = 1
	serviceKeyID   = "service" // the key id of the service-managed key's first version; of others, a slash and the number follow
)

// wrapRecord is a root key as it is stored: wrapped, with all that is needed to
// unwrap it and to know that the right key came out. Field by field in
// docs/formats/custody.md.
//
// RSA-OAEP authenticates nothing: who has the public key and can write to the store
// could put a root key of his own here. Commitment pins the key, and the row is
// sealed under the service key, so both would have to be forged.
type wrapRecord struct {
	Version    int       `json:"version"`
	Resource   string    `json:"resource"`            // hexadecimal
	Epoch      uint32    `json:"epoch"`               // counts the root keys of a resource, from 1
	EpochAt    time.Time `json:"epochAt,omitzero"`    // when this root key was made; zero before version 2
	Generation uint64    `json:"generation"`          // counts the records of a resource, from 1
	KeyURL     string    `json:"keyUrl,omitempty"`    // as configured: with or without version
	KeyID      string    `json:"kid"`                 // the version that wrapped, or "service"
	Identity   string    `json:"identity,omitempty"`  // as whom
	Algorithm  string    `json:"algorithm"`           // of the wrap
	Wrapped    []byte    `json:"wrapped"`             // base64; of a root key that was destroyed: empty
	Retention  uint64    `json:"retention,omitempty"` // the day under whose key Wrapped is stored sealed; 0: it is not
	Commitment []byte    `json:"commitment"`          // base64, 32 B
	CreatedAt  time.Time `json:"createdAt"`           // RFC 3339
	RequestID  string    `json:"requestId,omitempty"` // the key store's, of the wrap

	kid        keystore.URL // parsed KeyID; zero for the service-managed key
	configured keystore.URL // parsed KeyURL; likewise
}

func (r *wrapRecord) encode() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxRecordBytes {
		err = fmt.Errorf("%d bytes are more than %d", len(b), maxRecordBytes)
	}
	return b, err
}

// decodeRecord takes what encode made: nothing unknown, nothing after it.
func decodeRecord(b []byte, hosts keystore.Hosts) (*wrapRecord, error) {
	if len(b) > maxRecordBytes {
		return nil, fmt.Errorf("%d bytes are more than %d", len(b), maxRecordBytes)
	}
	var r wrapRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the record")
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	if r.isService() {
		return &r, nil
	}
	var err error
	if r.kid, err = keystore.ParseURL(r.KeyID, hosts); err != nil {
		return nil, fmt.Errorf("kid: %w", err)
	}
	if r.kid.Version() == "" {
		return nil, errors.New("kid has no version")
	}
	if r.configured, err = keystore.ParseURL(r.KeyURL, hosts); err != nil {
		return nil, fmt.Errorf("keyUrl: %w", err)
	}
	if r.configured.WithVersion("") != r.kid.WithVersion("") {
		return nil, errors.New("keyUrl and kid name different keys")
	}
	return &r, nil
}

func (r *wrapRecord) validate() error {
	id, err := hex.DecodeString(r.Resource)
	switch {
	case r.Version != recordVersion && (r.Version != 1 || r.Epoch != firstEpoch || r.Retention != 0):
		return fmt.Errorf("version %d is not known", r.Version)
	case err != nil || len(id) != len(envelope.ResourceID{}):
		return errors.New("resource is not 16 bytes in hexadecimal")
	case r.Epoch == 0 || r.Generation == 0:
		return errors.New("epoch or generation is 0")
	case r.Algorithm == "" || len(r.Wrapped) > maxWrapped:
		return errors.New("algorithm or wrapped key is missing, or too long")
	case len(r.Commitment) != 32:
		return errors.New("commitment is not 32 bytes")
	case r.isService() != (r.KeyURL == "") || r.isService() != (r.Identity == ""):
		return errors.New("kid, keyUrl and identity do not fit together")
	}
	return nil
}

func isServiceKey(kid string) bool { return serviceKeyNumber(kid) > 0 }

func (r *wrapRecord) isService() bool { return isServiceKey(r.KeyID) }

// serviceKeyName is the key id of a version of the service-managed key.
func serviceKeyName(number uint32) string {
	if number == 1 {
		return serviceKeyID
	}
	return serviceKeyID + "/" + strconv.FormatUint(uint64(number), 10)
}

// serviceKeyNumber undoes serviceKeyName; 0 of anything else.
func serviceKeyNumber(kid string) uint32 {
	if kid == serviceKeyID {
		return 1
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(kid, serviceKeyID+"/"), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// followsNewest says whether the owner left the choice of the version to us.
func (r *wrapRecord) followsNewest() bool {
	return !r.configured.IsZero() && r.configured.Version() == ""
}

func (r *wrapRecord) wrapped() keystore.Wrapped {
	return keystore.Wrapped{ID: r.kid, Algorithm: r.Algorithm, Value: r.Wrapped, RequestID: r.RequestID}
}

// partition is where everything of a resource is kept.
func (k *Keeper) partition(r envelope.ResourceID) envelope.Name {
	return k.c.Service.Name(tableResources, string(r[:]))
}

func (k *Keeper) recordKey(r envelope.ResourceID, id string) store.RowKey {
	return store.RowKey{Table: tableRootKeys, Partition: k.partition(r), Name: k.c.Service.Name(tableRootKeys, id)}
}

func (k *Keeper) documentKeyRow(r envelope.ResourceID, h envelope.DocumentHandle) store.RowKey {
	return documentKeyRow(k.c.Service, r, h)
}

func documentKeyRow(s envelope.ServiceKey, r envelope.ResourceID, h envelope.DocumentHandle) store.RowKey {
	return store.RowKey{Table: tableDocumentKeys, Partition: s.Name(tableResources, string(r[:])), Name: s.Name(tableDocumentKeys, string(h[:]))}
}

// readRecord reads the wrap record in force. store.ErrNotFound if the resource has
// none, store.ErrCorrupt (wrapped) if it does not open or does not belong here,
// errRetention (wrapped) if it is of a copy of the data that is too old.
func (k *Keeper) readRecord(ctx context.Context, r envelope.ResourceID) (*wrapRecord, store.Row, error) {
	for tried := uint64(0); ; {
		rec, row, err := k.readRecordAt(ctx, r, currentID)
		if err != nil {
			return nil, store.Row{}, err
		}
		rec.Wrapped, err = k.c.Retention.open(rec.place(r), rec.Retention, rec.Wrapped)
		switch {
		case errors.Is(err, errRetention) && row.Revision != tried:
			tried = row.Revision // it may have been sealed anew since it was read, and the key be destroyed
			continue
		case err == nil && len(rec.Wrapped) == 0:
			err = errors.New("its root key was destroyed")
		}
		if err != nil {
			return nil, store.Row{}, fmt.Errorf("open the wrapped root key: %w: %w", store.ErrCorrupt, err)
		}
		return rec, row, nil
	}
}

func (r *wrapRecord) place(id envelope.ResourceID) envelope.RootPlace {
	return envelope.RootPlace{Resource: id, Epoch: r.Epoch, Generation: r.Generation}
}

// readRecordAt reads a record as it is stored: what is wrapped is still sealed under
// the retention key.
func (k *Keeper) readRecordAt(ctx context.Context, r envelope.ResourceID, id string) (*wrapRecord, store.Row, error) {
	b, row, err := k.rootRow(ctx, r, id)
	if err != nil {
		return nil, store.Row{}, fmt.Errorf("wrap record: %w", err)
	}
	rec, err := decodeRecord(b, k.c.Hosts)
	if err == nil && rec.Resource != hex.EncodeToString(r[:]) {
		err = errors.New("it belongs to another resource")
	}
	if err != nil {
		return nil, store.Row{}, fmt.Errorf("decode wrap record: %w: %w", store.ErrCorrupt, err)
	}
	return rec, row, nil
}

// recordWrite is the write that stores rec under id, what is wrapped sealed under the
// retention key of today.
func (k *Keeper) recordWrite(r envelope.ResourceID, id string, rec *wrapRecord, expect store.Expect) (store.RowWrite, error) {
	stored := *rec
	stored.Version, stored.Retention = recordVersion, 0
	if len(rec.Wrapped) > 0 {
		var err error
		if stored.Retention, stored.Wrapped, err = k.c.Retention.seal(rec.place(r), rec.Wrapped); err != nil {
			return store.RowWrite{}, fmt.Errorf("seal wrap record: %w", err)
		}
	}
	b, err := stored.encode()
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("encode wrap record: %w", err)
	}
	return k.rootWrite(r, id, b, expect)
}

// rootWrite is the write of one row of what is kept about a resource's root keys.
func (k *Keeper) rootWrite(r envelope.ResourceID, id string, plain []byte, expect store.Expect) (store.RowWrite, error) {
	key := k.recordKey(r, id)
	s, err := k.c.Service.SealRow(tableRootKeys, key.Partition, key.Name, plain)
	if err != nil {
		return store.RowWrite{}, fmt.Errorf("seal a row of root keys: %w", err)
	}
	return store.RowWrite{RowKey: key, Value: &s, Expect: expect}, nil
}

// rootRow reads such a row; store.ErrNotFound (wrapped).
func (k *Keeper) rootRow(ctx context.Context, r envelope.ResourceID, id string) ([]byte, store.Row, error) {
	key := k.recordKey(r, id)
	row, err := k.c.Store.GetRow(ctx, key)
	if err != nil {
		return nil, store.Row{}, fmt.Errorf("read a row of root keys: %w", err)
	}
	b, err := k.c.Service.OpenRow(tableRootKeys, key.Partition, key.Name, row.Value)
	if err != nil {
		return nil, store.Row{}, fmt.Errorf("open a row of root keys: %w: %w", store.ErrCorrupt, err)
	}
	return b, row, nil
}

func previousRecordID(generation uint64) string {
	return previousID + strconv.FormatUint(generation, 10)
}
