package entra

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/store"
)

// Directory is one tenant of the directory service.
type Directory struct {
	ID      DirectoryID
	Name    string
	Created time.Time
}

// Directories returns all directories, by name.
func (s *Service) Directories(ctx context.Context) ([]Directory, error) {
	rows, err := s.directories.List(ctx, store.RowKey{}.Partition)
	if err != nil {
		return nil, err
	}
	var all []Directory
	for _, r := range rows {
		all = append(all, Directory(r.Value))
	}
	slices.SortFunc(all, func(a, b Directory) int { return strings.Compare(a.Name+string(a.ID), b.Name+string(b.ID)) })
	return all, nil
}

// Directory returns one directory; store.ErrNotFound.
func (s *Service) Directory(ctx context.Context, d DirectoryID) (Directory, error) {
	row, _, err := s.directories.Get(ctx, s.directories.Key(strings.ToLower(string(d))))
	return Directory(row), err
}

// CreateDirectory makes a directory.
func (s *Service) CreateDirectory(ctx context.Context, name string) (DirectoryID, error) {
	d, write, err := s.newDirectory(name)
	if err != nil {
		return "", err
	}
	if err := s.store.WriteRows(ctx, []store.RowWrite{write}); err != nil {
		return "", fmt.Errorf("create directory %q: %w", name, err)
	}
	return d.ID, nil
}

func (s *Service) newDirectory(name string) (Directory, store.RowWrite, error) {
	d := Directory{ID: DirectoryID(uuid.NewString()), Name: name, Created: time.Now().UTC()}
	write, err := s.directories.Put(s.directories.Key(string(d.ID)), directoryRow(d), store.Absent)
	return d, write, err
}

// Founded is a new directory and who goes on from there.
type Founded struct {
	Directory     Directory
	Administrator Principal
	Secret        string // of the administrator; kept only as a hash
}

// Found makes a directory with an administrator, who owns the scope, in one write with
// what also gives for it: there are all of them, or none.
func (s *Service) Found(ctx context.Context, name, scope string, also func(DirectoryID) (store.RowWrite, error)) (Founded, error) {
	d, write, err := s.newDirectory(name)
	if err != nil {
		return Founded{}, err
	}
	other, err := also(d.ID)
	if err != nil {
		return Founded{}, err
	}
	admin, secret, err := s.createAdministrator(ctx, d.ID, scope, write, other)
	return Founded{d, admin, secret}, err
}

// CreateAdministrator makes an application that administers its directory, and owns the
// scope; the secret is returned once and kept only as a hash.
func (s *Service) CreateAdministrator(ctx context.Context, d DirectoryID, scope string) (p Principal, secret string, err error) {
	return s.createAdministrator(ctx, d, scope)
}

func (s *Service) createAdministrator(ctx context.Context, d DirectoryID, scope string, also ...store.RowWrite) (Principal, string, error) {
	row := newPrincipal(d, KindApplication, "administrator")
	secret, hashed := newSecret()
	row.Secrets, row.Administrator = []secretRow{hashed}, true
	principal, err := s.principalWrites(row)
	if err != nil {
		return Principal{}, "", err
	}
	assignment, err := s.newAssignment(row, "Owner", scope)
	if err != nil {
		return Principal{}, "", err
	}
	if err := s.store.WriteRows(ctx, slices.Concat(also, principal, assignment)); err != nil {
		return Principal{}, "", fmt.Errorf("create the administrator of %s: %w", scope, err)
	}
	return row.principal(), secret, nil
}

// CreateApplication makes an application with a client secret, which is returned
// once and kept only as a hash.
func (s *Service) CreateApplication(ctx context.Context, d DirectoryID, name string) (p Principal, secret string, err error) {
	secret, hashed := newSecret()
	row, err := s.register(ctx, d, name, hashed)
	return row.principal(), secret, err
}

// RegisterApplication makes an application that has no credential yet.
func (s *Service) RegisterApplication(ctx context.Context, d DirectoryID, name string) (Details, error) {
	row, err := s.register(ctx, d, name)
	return row.details(), err
}

func (s *Service) register(ctx context.Context, d DirectoryID, name string, secrets ...secretRow) (principalRow, error) {
	if err := s.checkDirectory(ctx, d); err != nil {
		return principalRow{}, fmt.Errorf("create application %q: %w", name, err)
	}
	row := newPrincipal(d, KindApplication, name)
	row.Secrets = secrets
	writes, err := s.principalWrites(row)
	if err != nil {
		return principalRow{}, err
	}
	if err := s.store.WriteRows(ctx, writes); err != nil {
		return principalRow{}, fmt.Errorf("create application %q: %w", name, err)
	}
	return row, nil
}

// Details are all that is shown of a principal.
type Details struct {
	Principal
	Created       time.Time
	Administrator bool
	External      *External // nil unless it is one
	Secrets       []SecretInfo
	Certificates  []CertificateInfo
	Federated     []FederatedCredential
}

func (p principalRow) details() Details {
	d := Details{Principal: p.principal(), Created: p.Created, Administrator: p.Administrator, Federated: p.Federated, External: p.External}
	for _, s := range p.Secrets {
		d.Secrets = append(d.Secrets, s.info())
	}
	for _, c := range p.Certificates {
		d.Certificates = append(d.Certificates, c.info())
	}
	return d
}

// Principals returns a directory's principals, by name.
func (s *Service) Principals(ctx context.Context, d DirectoryID) ([]Details, error) {
	rows, err := s.principals.List(ctx, store.RowKey{}.Partition)
	if err != nil {
		return nil, err
	}
	var some []Details
	for _, r := range rows {
		if r.Value.Directory == d {
			some = append(some, r.Value.details())
		}
	}
	slices.SortFunc(some, func(a, b Details) int { return strings.Compare(a.Name+a.ObjectID, b.Name+b.ObjectID) })
	return some, nil
}

// Find returns the principal of a directory that has this object id or client id;
// store.ErrNotFound, also for one of another directory.
func (s *Service) Find(ctx context.Context, d DirectoryID, id string) (Details, error) {
	id = strings.ToLower(id)
	p, _, err := s.principals.Get(ctx, s.principals.Key(id))
	if notFound(err) {
		p, err = s.client(ctx, id)
	}
	if err == nil && p.Directory != d {
		err = store.ErrNotFound
	}
	if err != nil {
		return Details{}, fmt.Errorf("principal %s: %w", id, err)
	}
	return p.details(), nil
}

// SetAdministrator says whether an application may manage the applications of its
// directory; store.ErrNotFound.
func (s *Service) SetAdministrator(ctx context.Context, objectID string, is bool) error {
	return s.change(ctx, objectID, func(p *principalRow) error {
		p.Administrator = is
		return nil
	})
}

// Rename gives an application another name; store.ErrNotFound.
func (s *Service) Rename(ctx context.Context, objectID, name string) error {
	return s.change(ctx, objectID, func(p *principalRow) error {
		p.Name = name
		return nil
	})
}

// DeleteApplication removes an application and its role assignments; its tokens are
// refused from now on. store.ErrNotFound, also for a managed identity: that is a
// resource, and deleted as one.
func (s *Service) DeleteApplication(ctx context.Context, objectID string) error {
	p, _, err := s.principals.Get(ctx, s.principals.Key(objectID))
	if err == nil && p.Kind == KindManagedIdentity {
		err = store.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete application %s: %w", objectID, err)
	}
	writes, err := s.removal(ctx, objectID)
	if err != nil {
		return fmt.Errorf("delete application %s: %w", objectID, err)
	}
	return s.store.WriteRows(ctx, writes)
}
