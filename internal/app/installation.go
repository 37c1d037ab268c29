package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/store"
)

// installation is what a data directory was made with, once. Its row is also the
// proof that the service key is the one the data is sealed under.
type installation struct {
	DirectoryID    entra.DirectoryID `json:"directoryId"`
	SubscriptionID string            `json:"subscriptionId"`
}

const installationTable store.Table = "installation"

// errWrongServiceKey: the key opens nothing here.
var errWrongServiceKey = errors.New("the service key is not the one this data is sealed under: restore the right D.keys/service.key from your backup, where D is the data directory")

func installationKey(service envelope.ServiceKey) store.RowKey {
	return store.RowKey{Table: installationTable, Name: service.Name(string(installationTable), "")}
}

// loadInstallation reads the installation row; store.ErrNotFound for new data.
// A wrong service key gives other row names too, so a store that holds rows but
// not this one is of another key.
func loadInstallation(ctx context.Context, st store.Store, service envelope.ServiceKey) (installation, error) {
	key := installationKey(service)
	row, err := st.GetRow(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		others, listErr := st.ListRows(ctx, installationTable, envelope.Name{}, envelope.Name{}, 1)
		if listErr != nil {
			return installation{}, listErr
		}
		if len(others) > 0 {
			return installation{}, errWrongServiceKey
		}
		return installation{}, err
	}
	if err != nil {
		return installation{}, err
	}
	plain, err := service.OpenRow(string(key.Table), key.Partition, key.Name, row.Value)
	if err != nil {
		return installation{}, errWrongServiceKey
	}
	var in installation
	if err := json.Unmarshal(plain, &in); err != nil {
		return installation{}, fmt.Errorf("installation row: %w", err)
	}
	return in, nil
}

// makeInstallation gives new data its directory and subscription.
func makeInstallation(ctx context.Context, st store.Store, service envelope.ServiceKey, directories *entra.Service) (installation, error) {
	directory, err := directories.CreateDirectory(ctx, "Tidelock")
	if err != nil {
		return installation{}, fmt.Errorf("make the directory: %w", err)
	}
	in := installation{DirectoryID: directory, SubscriptionID: uuid.NewString()}
	plain, err := json.Marshal(in)
	if err != nil {
		return installation{}, err
	}
	key := installationKey(service)
	sealed, err := service.SealRow(string(key.Table), key.Partition, key.Name, plain)
	if err != nil {
		return installation{}, err
	}
	err = st.WriteRows(ctx, []store.RowWrite{{RowKey: key, Value: &sealed, Expect: store.Absent}})
	if err != nil {
		return installation{}, fmt.Errorf("store the installation: %w", err)
	}
	return in, nil
}
