package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/store"
)

// topicServiceKey tells the other nodes that the versions of the service key changed.
const topicServiceKey = "service-key"

// openServiceKeys compares the versions of the service key in the file with those that the
// data needs.
func (a *App) openServiceKeys(ctx context.Context, file *serviceKeyFile) (err error) {
	a.serviceKeys, err = custody.OpenServiceKeys(ctx, custody.ServiceKeysConfig{
		Store: a.store, Service: a.service, File: file, RetentionDays: a.c.KeyRetentionDays,
		Lacking: a.lackingServiceKey, Leads: a.leads, Tell: a.tellServiceKey, Log: a.c.Log, Metrics: a.metrics,
	})
	if !errors.Is(err, custody.ErrServiceKeyVersion) {
		return err
	}
	// Of another key all names are others.
	if _, found := a.store.GetRow(ctx, installations(a.store, a.service).Key("")); errors.Is(found, store.ErrNotFound) {
		return errWrongServiceKey
	}
	return fmt.Errorf("the service key %s: %w: %s", file.path, err, a.c.keyAdvice(serviceKeyName))
}

// lackingServiceKey returns the URLs of the nodes whose file has not a version yet.
func (a *App) lackingServiceKey(id string) (urls []string) {
	if a.node == nil {
		return nil
	}
	return a.node.Lacking(id)
}

// leads says whether this process is to do what one is enough for.
func (a *App) leads() bool { return a.node == nil || a.node.Leads() }

func (a *App) tellServiceKey() {
	if a.node != nil {
		a.node.Post(topicServiceKey, struct{}{})
	}
}

// heedServiceKey takes part in the other nodes' news.
func (a *App) heedServiceKey(n *cluster.Node) {
	n.On(topicServiceKey, func(json.RawMessage) { a.serviceKeys.Look() })
}

func (a *App) tendServiceKey(ctx context.Context) { a.serviceKeys.Run(ctx, a.custody) }

// serviceKeys is the management plane's view of the service key.
type serviceKeys struct{ *custody.ServiceKeys }

var _ fluidrelay.ServiceKeys = serviceKeys{}
