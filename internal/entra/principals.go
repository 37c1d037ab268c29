package entra

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/store"
)

// Kinds of principals.
const (
	KindApplication     = "application"
	KindManagedIdentity = "managedIdentity"
	KindExternal        = "external" // of a trusted issuer: gets no tokens here
)

// Principal is who can have a token.
type Principal struct {
	ObjectID   string // oid: what policies and role assignments name
	ClientID   string // appid
	Directory  DirectoryID
	Kind       string // KindApplication, KindManagedIdentity or KindExternal
	Name       string
	ResourceID string // of a managed identity: its ARM resource id
}

type directoryRow struct {
	ID      DirectoryID `json:"id"`
	Name    string      `json:"name"`
	Created time.Time   `json:"created"`
}

type principalRow struct {
	ObjectID   string      `json:"objectId"`
	ClientID   string      `json:"clientId"`
	Directory  DirectoryID `json:"directory"`
	Kind       string      `json:"kind"`
	Name       string      `json:"name"`
	ResourceID string      `json:"resourceId,omitempty"`
	Created    time.Time   `json:"created"`
	// Administrator may manage the applications of the directory.
	Administrator bool `json:"administrator,omitempty"`

	// External is who an external principal is.
	External *External `json:"external,omitempty"`

	// How it may prove itself; a managed identity has federated credentials only.
	Secrets      []secretRow           `json:"secrets,omitempty"`
	Certificates []certificateRow      `json:"certificates,omitempty"`
	Federated    []FederatedCredential `json:"federated,omitempty"`
}

// reference leads from another id of a principal to its object id.
type reference struct {
	ObjectID string `json:"objectId"`
}

func (p principalRow) principal() Principal {
	return Principal{
		ObjectID: p.ObjectID, ClientID: p.ClientID, Directory: p.Directory,
		Kind: p.Kind, Name: p.Name, ResourceID: p.ResourceID,
	}
}

// CreateManagedIdentity makes the principal of a user-assigned identity. If the
// identity has one already, that is returned: a caller that failed half way may
// ask again.
func (s *Service) CreateManagedIdentity(ctx context.Context, d DirectoryID, resourceID string) (Principal, error) {
	if err := s.checkDirectory(ctx, d); err != nil {
		return Principal{}, fmt.Errorf("create identity %s: %w", resourceID, err)
	}
	row := newPrincipal(d, KindManagedIdentity, lastSegment(resourceID))
	row.ResourceID = resourceID
	writes, err := s.principalWrites(row)
	if err != nil {
		return Principal{}, err
	}
	index, err := s.identities.Put(s.identityKey(resourceID), reference{row.ObjectID}, store.Absent)
	if err != nil {
		return Principal{}, err
	}
	err = s.store.WriteRows(ctx, append(writes, index))
	if errors.Is(err, store.ErrConflict) {
		return s.ManagedIdentity(ctx, resourceID)
	}
	if err != nil {
		return Principal{}, fmt.Errorf("create identity %s: %w", resourceID, err)
	}
	return row.principal(), nil
}

// ManagedIdentity finds a user-assigned identity by resource id, without regard to
// case; store.ErrNotFound.
func (s *Service) ManagedIdentity(ctx context.Context, resourceID string) (Principal, error) {
	ref, _, err := s.identities.Get(ctx, s.identityKey(resourceID))
	if err != nil {
		return Principal{}, fmt.Errorf("managed identity %s: %w", resourceID, err)
	}
	row, _, err := s.principals.Get(ctx, s.principals.Key(ref.ObjectID))
	if err != nil {
		return Principal{}, fmt.Errorf("managed identity %s: %w", resourceID, err)
	}
	return row.principal(), nil
}

// DeleteManagedIdentity removes it and its role assignments, in one write with
// also; its tokens are refused from now on. Idempotent: also is written even if
// there is no such identity.
func (s *Service) DeleteManagedIdentity(ctx context.Context, resourceID string, also ...store.RowWrite) error {
	ref, _, err := s.identities.Get(ctx, s.identityKey(resourceID))
	switch {
	case notFound(err):
		if len(also) == 0 {
			return nil
		}
	case err != nil:
		return fmt.Errorf("delete identity %s: %w", resourceID, err)
	default:
		writes, err := s.removal(ctx, ref.ObjectID)
		if err != nil {
			return fmt.Errorf("delete identity %s: %w", resourceID, err)
		}
		also = append(writes, also...)
	}
	if err := s.store.WriteRows(ctx, also); err != nil {
		return fmt.Errorf("delete identity %s: %w", resourceID, err)
	}
	return nil
}

// removal deletes every row of a principal.
func (s *Service) removal(ctx context.Context, objectID string) ([]store.RowWrite, error) {
	row, _, err := s.principals.Get(ctx, s.principals.Key(objectID))
	if err != nil {
		return nil, err
	}
	writes := []store.RowWrite{
		{RowKey: s.principals.Key(row.ObjectID)},
		{RowKey: s.clients.Key(row.ClientID)},
	}
	if row.ResourceID != "" {
		writes = append(writes, store.RowWrite{RowKey: s.identityKey(row.ResourceID)})
	}
	if row.External != nil {
		writes = append(writes, store.RowWrite{RowKey: s.externalKey(*row.External)})
	}
	assigned, err := s.assignments.List(ctx, s.assignments.Partition(row.ObjectID))
	if err != nil {
		return nil, err
	}
	for _, a := range assigned {
		writes = append(writes, s.assignmentRemoval(a.Value)...)
	}
	return writes, nil
}

// newPrincipal fills a row with fresh ids: an id is never used twice, so what was
// granted to a deleted principal does not come back with its successor.
func newPrincipal(d DirectoryID, kind, name string) principalRow {
	return principalRow{
		ObjectID: uuid.NewString(), ClientID: uuid.NewString(), Directory: d,
		Kind: kind, Name: name, Created: time.Now().UTC(),
	}
}

// checkDirectory returns store.ErrNotFound (wrapped) where there is no such directory.
func (s *Service) checkDirectory(ctx context.Context, d DirectoryID) error {
	if _, _, err := s.directories.Get(ctx, s.directories.Key(string(d))); err != nil {
		return fmt.Errorf("directory %s: %w", d, err)
	}
	return nil
}

func (s *Service) principalWrites(row principalRow) ([]store.RowWrite, error) {
	principal, err := s.principals.Put(s.principals.Key(row.ObjectID), row, store.Absent)
	if err != nil {
		return nil, err
	}
	client, err := s.clients.Put(s.clients.Key(row.ClientID), reference{row.ObjectID}, store.Absent)
	if err != nil {
		return nil, err
	}
	return []store.RowWrite{principal, client}, nil
}

// client finds an application or identity by client id; store.ErrNotFound.
func (s *Service) client(ctx context.Context, clientID string) (principalRow, error) {
	ref, _, err := s.clients.Get(ctx, s.clients.Key(strings.ToLower(clientID)))
	if err != nil {
		return principalRow{}, err
	}
	p, _, err := s.principals.Get(ctx, s.principals.Key(ref.ObjectID))
	return p, err
}

func (s *Service) identityKey(resourceID string) store.RowKey {
	return s.identities.Key(strings.ToLower(strings.TrimSuffix(resourceID, "/")))
}

func lastSegment(id string) string {
	id = strings.TrimSuffix(id, "/")
	return id[strings.LastIndex(id, "/")+1:]
}
