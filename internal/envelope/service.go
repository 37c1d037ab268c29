package envelope

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ServiceKey is the key of the installation, from its key file. It seals management
// rows and wraps the root keys of resources without a customer key. It has versions:
// one of them seals, and each opens what it sealed; the naming key is that of the first
// version, and stays. All copies of a ServiceKey share their versions. It redacts itself
// in every printed form. It is safe for concurrent use. The zero ServiceKey neither
// seals nor opens.
type ServiceKey struct {
	_       [0]func() // not comparable: == would compare addresses
	*secret           // the naming key
	ring    *serviceRing
}

// serviceRing are the versions of a service key.
type serviceRing struct {
	mu       sync.RWMutex     // guards all below
	versions []serviceVersion // by number
	sealing  uint32           // the number of the one that seals
}

type serviceVersion struct {
	number uint32
	key    *secret
}

// ServiceVersion names a version of a service key.
type ServiceVersion struct {
	Number uint32 // from 1
	// ID is derived from the key, so that two keys of one number are told apart, and says
	// nothing about it.
	ID Name
}

// A service key of one version, the first, is a file of its 32 bytes. Any other is
//
//	line of text | naming key 32 | (number 4 | key 32) for each version, by number
const (
	serviceMagic = "tidelock service key, versions\n"

	serviceEntryBytes   = 4 + keyBytes
	MaxServiceVersions  = 64
	firstServiceVersion = 1
)

var errServiceFile = errors.New("envelope: not a service key")

// NewServiceKey makes a random service key.
func NewServiceKey() ServiceKey {
	b := make([]byte, keyBytes)
	defer clear(b)
	rand.Read(b) // never fails, see crypto/rand
	k, err := ParseServiceKey(b)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return k
}

// ParseServiceKey takes what Use lends, or the 32 bytes of a first version; it copies them.
// Its newest version seals.
func ParseServiceKey(b []byte) (ServiceKey, error) {
	if len(b) == keyBytes {
		naming, err := hkdf.Key(sha256.New, b, nil, info(labelNamingKey, nil), keyBytes)
		if err != nil {
			return ServiceKey{}, fmt.Errorf("derive naming key: %w", err)
		}
		return newServiceKey(naming, []serviceVersion{{firstServiceVersion, newSecret(bytes.Clone(b))}}), nil
	}
	rest, found := bytes.CutPrefix(b, []byte(serviceMagic))
	if !found {
		return ServiceKey{}, errServiceFile
	}
	count := (len(rest) - keyBytes) / serviceEntryBytes
	if count < 1 || count > MaxServiceVersions || len(rest) != keyBytes+count*serviceEntryBytes {
		return ServiceKey{}, errServiceFile
	}
	naming, rest := rest[:keyBytes], rest[keyBytes:]
	var versions []serviceVersion
	before := uint32(0)
	for ; len(rest) > 0; rest = rest[serviceEntryBytes:] {
		number := binary.BigEndian.Uint32(rest)
		if number <= before {
			return ServiceKey{}, errServiceFile
		}
		before = number
		versions = append(versions, serviceVersion{number, newSecret(bytes.Clone(rest[4:serviceEntryBytes]))})
	}
	return newServiceKey(bytes.Clone(naming), versions), nil
}

// newServiceKey takes naming over.
func newServiceKey(naming []byte, versions []serviceVersion) ServiceKey {
	return ServiceKey{secret: newSecret(naming), ring: &serviceRing{versions: versions, sealing: versions[len(versions)-1].number}}
}

// Use lends the file's content to f, which must not keep it.
func (k ServiceKey) Use(f func(file []byte) error) error {
	if k.ring == nil {
		return ErrWiped
	}
	file, err := k.file()
	defer clear(file)
	if err != nil {
		return err
	}
	return f(file)
}

func (k ServiceKey) file() (file []byte, err error) {
	k.ring.mu.RLock()
	defer k.ring.mu.RUnlock()
	file = make([]byte, 0, len(serviceMagic)+keyBytes+len(k.ring.versions)*serviceEntryBytes) // so that no append leaves a copy
	if only := k.ring.versions[0]; len(k.ring.versions) == 1 && only.number == firstServiceVersion {
		err = only.key.use(func(b []byte) error { file = append(file, b...); return nil })
		return file, err
	}
	file = append(file, serviceMagic...)
	if err := k.use(func(naming []byte) error { file = append(file, naming...); return nil }); err != nil {
		return nil, err
	}
	for _, v := range k.ring.versions {
		file = binary.BigEndian.AppendUint32(file, v.number)
		if err := v.key.use(func(b []byte) error { file = append(file, b...); return nil }); err != nil {
			return file, err
		}
	}
	return file, nil
}

// Versions returns all versions, the oldest first.
func (k ServiceKey) Versions() []ServiceVersion {
	if k.ring == nil {
		return nil
	}
	k.ring.mu.RLock()
	defer k.ring.mu.RUnlock()
	all := make([]ServiceVersion, len(k.ring.versions))
	for i, v := range k.ring.versions {
		all[i] = v.describe()
	}
	return all
}

func (v serviceVersion) describe() ServiceVersion {
	d := ServiceVersion{Number: v.number}
	err := v.key.use(func(b []byte) error {
		id, err := hkdf.Key(sha256.New, b, nil, info(labelServiceID, nil), len(d.ID))
		copy(d.ID[:], id)
		return err
	})
	if err != nil {
		rand.Read(d.ID[:]) // that of nothing
	}
	return d
}

// Sealing is the number of the version that seals.
func (k ServiceKey) Sealing() uint32 {
	if k.ring == nil {
		return 0
	}
	k.ring.mu.RLock()
	defer k.ring.mu.RUnlock()
	return k.ring.sealing
}

// SealUnder has a version seal from now on.
func (k ServiceKey) SealUnder(number uint32) error {
	k.ring.mu.Lock()
	defer k.ring.mu.Unlock()
	if !k.ring.has(number) {
		return fmt.Errorf("envelope: the service key has no version %d", number)
	}
	k.ring.sealing = number
	return nil
}

func (r *serviceRing) has(number uint32) bool {
	return slices.ContainsFunc(r.versions, func(v serviceVersion) bool { return v.number == number })
}

// Add makes a random next version. It opens, and seals once SealUnder says so.
func (k ServiceKey) Add() (ServiceVersion, error) {
	k.ring.mu.Lock()
	defer k.ring.mu.Unlock()
	if len(k.ring.versions) == MaxServiceVersions {
		return ServiceVersion{}, fmt.Errorf("envelope: a service key has at most %d versions", MaxServiceVersions)
	}
	v := serviceVersion{k.ring.versions[len(k.ring.versions)-1].number + 1, randomSecret(keyBytes)}
	k.ring.versions = append(slices.Clone(k.ring.versions), v)
	return v.describe(), nil
}

// Drop wipes a version that does not seal; what is under it opens no more.
func (k ServiceKey) Drop(number uint32) error {
	k.ring.mu.Lock()
	defer k.ring.mu.Unlock()
	if number == k.ring.sealing {
		return fmt.Errorf("envelope: version %d of the service key seals", number)
	}
	k.ring.versions = slices.DeleteFunc(slices.Clone(k.ring.versions), func(v serviceVersion) bool {
		if v.number == number {
			v.key.wipe()
		}
		return v.number == number
	})
	return nil
}

// Take replaces the versions by those of another copy of the same service key, of which
// the one with the given number seals from now on. ErrOpen if it is another key's, or has
// no such version. other is k's from here on.
func (k ServiceKey) Take(other ServiceKey, sealing uint32) error {
	same := false
	err := k.use(func(mine []byte) error {
		return other.use(func(theirs []byte) error { same = bytes.Equal(mine, theirs); return nil })
	})
	if err != nil || !same || !other.ring.has(sealing) {
		return ErrOpen
	}
	k.ring.mu.Lock()
	defer k.ring.mu.Unlock()
	k.ring.versions, k.ring.sealing = other.ring.versions, sealing // what is replaced may be in use: the garbage collector has it
	return nil
}

// Version returns a key that seals and opens under one version alone; ok is false if there
// is none of that number. It is wiped with that version.
func (k ServiceKey) Version(number uint32) (one ServiceKey, ok bool) {
	for _, v := range k.all() {
		if v.number == number {
			return ServiceKey{secret: k.secret, ring: &serviceRing{versions: []serviceVersion{v}, sealing: number}}, true
		}
	}
	return ServiceKey{}, false
}

// all returns the versions, the one that seals first, then the newest.
func (k ServiceKey) all() []serviceVersion {
	if k.ring == nil {
		return nil
	}
	k.ring.mu.RLock()
	defer k.ring.mu.RUnlock()
	if len(k.ring.versions) == 1 {
		return k.ring.versions
	}
	all := make([]serviceVersion, 1, len(k.ring.versions)+1)
	for _, v := range slices.Backward(k.ring.versions) {
		if v.number == k.ring.sealing {
			all[0] = v
		} else {
			all = append(all, v)
		}
	}
	return all
}

// seals returns the key of the version that seals; nil of a zero key.
func (k ServiceKey) seals() *secret {
	for _, v := range k.all() {
		return v.key
	}
	return nil
}

// openBox opens a box under whichever version committed to it, and says which that was.
func (k ServiceKey) openBox(box, header []byte, context ...[]byte) (plaintext []byte, number uint32, err error) {
	for _, v := range k.all() {
		if plaintext, err = openBox(v.key, box, header, context...); err == nil {
			return plaintext, v.number, nil
		}
	}
	return nil, 0, ErrOpen
}

// Name returns the name under which a row with this id is stored in table. It is a
// keyed hash: whoever reads the store cannot try ids.
func (k ServiceKey) Name(table, id string) Name { return k.nameUnder(0, table, id) }

// SealRow seals a management row for its table, partition and name.
func (k ServiceKey) SealRow(table string, partition, name Name, plaintext []byte) (Sealed, error) {
	box, err := sealBox(k.seals(), appendPreamble(nil, KindRow), plaintext, []byte(table), partition[:], name[:])
	if err != nil {
		return Sealed{}, fmt.Errorf("seal row of %s: %w", table, err)
	}
	return Sealed{box}, nil
}

// OpenRow opens what SealRow made for the same table, partition and name.
func (k ServiceKey) OpenRow(table string, partition, name Name, s Sealed) ([]byte, error) {
	plaintext, _, err := k.OpenRowVersion(table, partition, name, s)
	return plaintext, err
}

// OpenRowVersion is OpenRow, and says under which version the row is.
func (k ServiceKey) OpenRowVersion(table string, partition, name Name, s Sealed) (plaintext []byte, number uint32, err error) {
	header, err := parseBox(s.b, KindRow)
	if err != nil {
		return nil, 0, ErrOpen
	}
	return k.openBox(s.b, header, []byte(table), partition[:], name[:])
}

// WrapKey and UnwrapKey wrap key material under a key derived from the service
// key and label; they are the service-managed KEK.
func (k ServiceKey) WrapKey(label string, key []byte) ([]byte, error) {
	box, err := sealBox(k.seals(), appendPreamble(nil, kindKey), key, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("wrap key: %w", err)
	}
	return box, nil
}

// UnwrapKey opens what WrapKey made under the same label, or returns ErrOpen.
func (k ServiceKey) UnwrapKey(label string, wrapped []byte) ([]byte, error) {
	key, _, err := k.UnwrapKeyVersion(label, wrapped)
	return key, err
}

// UnwrapKeyVersion is UnwrapKey, and says under which version the key is wrapped.
func (k ServiceKey) UnwrapKeyVersion(label string, wrapped []byte) (key []byte, number uint32, err error) {
	header, err := parseBox(wrapped, kindKey)
	if err != nil {
		return nil, 0, ErrOpen
	}
	return k.openBox(wrapped, header, []byte(label))
}
