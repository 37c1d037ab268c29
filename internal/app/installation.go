package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/row"
	"github.com/tidelock/tidelock/internal/store"
)

// installation is what a data directory was made with, once. Its row is also the
// proof that the service key is the one the data is sealed under.
type installation struct {
	DirectoryID    entra.DirectoryID `json:"directoryId"`
	SubscriptionID string            `json:"subscriptionId"`
}

// errWrongServiceKey: the key opens nothing here.
var errWrongServiceKey = errors.New("the service key is not the one this data is sealed under: restore the right D.keys/service.key from your backup, or copy it from another node on the same database, where D is the data directory")

const installationTable store.Table = "installation"

func installations(st store.Store, service envelope.ServiceKey) row.Table[installation] {
	return row.NewTable[installation](st, service, installationTable)
}

// loadInstallation reads the installation row; store.ErrNotFound for new data.
// A wrong service key gives other row names too, so a store that holds such a row
// but not under this name is of another key.
func loadInstallation(ctx context.Context, st store.Store, service envelope.ServiceKey) (installation, error) {
	table := installations(st, service)
	in, _, err := table.Get(ctx, table.Key(""))
	if !errors.Is(err, store.ErrNotFound) {
		return in, err
	}
	others, listErr := st.ListRows(ctx, installationTable, envelope.Name{}, envelope.Name{}, 1)
	if listErr != nil {
		return in, listErr
	}
	if len(others) > 0 {
		return in, errWrongServiceKey
	}
	return in, err
}

// makeInstallation gives new data its directory and subscription.
func makeInstallation(ctx context.Context, st store.Store, service envelope.ServiceKey, directories *entra.Service) (installation, error) {
	directory, err := directories.CreateDirectory(ctx, "Tidelock")
	if err != nil {
		return installation{}, fmt.Errorf("make the directory: %w", err)
	}
	in := installation{DirectoryID: directory, SubscriptionID: uuid.NewString()}
	table := installations(st, service)
	write, err := table.Put(table.Key(""), in, store.Absent)
	if err != nil {
		return installation{}, fmt.Errorf("store the installation: %w", err)
	}
	first, err := firstInstallation(service)
	if err != nil {
		return installation{}, fmt.Errorf("store the installation: %w", err)
	}
	err = st.WriteRows(ctx, []store.RowWrite{write, first})
	if errors.Is(err, store.ErrConflict) { // another node was faster: it is the same one, if the key is
		return loadInstallation(ctx, st, service)
	}
	if err != nil {
		return installation{}, fmt.Errorf("store the installation: %w", err)
	}
	return in, nil
}

// firstInstallation is a row without a name, so that all keys have it in the same place:
// of nodes that start on an empty database with keys of their own, one makes the
// installation.
func firstInstallation(service envelope.ServiceKey) (store.RowWrite, error) {
	s, err := service.SealRow(string(installationTable), envelope.Name{}, envelope.Name{}, []byte("{}"))
	return store.RowWrite{RowKey: store.RowKey{Table: installationTable}, Value: &s, Expect: store.Absent}, err
}
