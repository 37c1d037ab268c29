package envelope

// RootKey is the 256-bit root key of one relay resource. It redacts itself in
// every printed form.
type RootKey struct{ k *[32]byte }

// NewRootKey makes a random root key.
func NewRootKey() RootKey { panic("todo") }

// ParseRootKey takes 32 bytes; it copies them.
func ParseRootKey(b []byte) (RootKey, error) { panic("todo") }

// Use lends the key's bytes to f, which must not keep them.
func (k RootKey) Use(f func(key []byte) error) error { panic("todo") }

// Wipe overwrites the key; every copy of k is then unusable.
func (k RootKey) Wipe() { panic("todo") }

// Commitment binds the key to its resource and epoch without revealing it.
func (k RootKey) Commitment(r ResourceID, epoch uint32) [32]byte { panic("todo") }

// WrapDocumentKey seals dk for its place.
func (k RootKey) WrapDocumentKey(dk DocumentKey, at KeyPlace) (Sealed, error) { panic("todo") }

// UnwrapDocumentKey opens what WrapDocumentKey made for this resource and
// document; key id and epoch come from the value, authenticated.
func (k RootKey) UnwrapDocumentKey(s Sealed, r ResourceID, d DocumentHandle) (DocumentKey, KeyPlace, error) {
	panic("todo")
}

// DocumentKey is the 256-bit key of one document, with the naming key under
// which the document's objects are named.
type DocumentKey struct{ k *[64]byte }

// NewDocumentKey makes a random document key.
func NewDocumentKey() DocumentKey { panic("todo") }

// Wipe overwrites the key.
func (k DocumentKey) Wipe() { panic("todo") }

// Name returns the name under which an object of this document is stored.
func (k DocumentKey) Name(kind Kind, id string) Name { panic("todo") }

// SealObject seals a checkpoint or git object under a fresh one-object segment key.
func (k DocumentKey) SealObject(at KeyPlace, kind Kind, name Name, plaintext []byte) (Sealed, error) {
	panic("todo")
}

// OpenObject opens what SealObject made for the same place, kind and name.
func (k DocumentKey) OpenObject(at KeyPlace, kind Kind, name Name, s Sealed) ([]byte, error) {
	panic("todo")
}

// ServiceKey is the 256-bit key of the installation, from its key file. It seals
// management rows and wraps the root keys of resources without a customer key.
type ServiceKey struct{ k *[32]byte }

// NewServiceKey makes a random service key.
func NewServiceKey() ServiceKey { panic("todo") }

// ParseServiceKey takes 32 bytes; it copies them.
func ParseServiceKey(b []byte) (ServiceKey, error) { panic("todo") }

// Use lends the key's bytes to f, which must not keep them.
func (k ServiceKey) Use(f func(key []byte) error) error { panic("todo") }

// Name returns the name under which a row with this id is stored in table.
func (k ServiceKey) Name(table, id string) Name { panic("todo") }

// SealRow seals a management row for its table, partition and name.
func (k ServiceKey) SealRow(table string, partition, name Name, plaintext []byte) (Sealed, error) {
	panic("todo")
}

// OpenRow opens what SealRow made for the same table, partition and name.
func (k ServiceKey) OpenRow(table string, partition, name Name, s Sealed) ([]byte, error) {
	panic("todo")
}

// WrapKey and UnwrapKey wrap key material under a key derived from the service
// key and label; they are the service-managed KEK.
func (k ServiceKey) WrapKey(label string, key []byte) ([]byte, error) { panic("todo") }

// UnwrapKey opens what WrapKey made under the same label, or returns ErrOpen.
func (k ServiceKey) UnwrapKey(label string, wrapped []byte) ([]byte, error) { panic("todo") }
