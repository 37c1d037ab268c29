package vault

import (
	"context"
	"time"

	"github.com/tidelock/tidelock/internal/store"
)

// The types of events. Source: Azure Event Grid, "Azure Key Vault as event source".
const (
	EventNewVersion    = "Microsoft.KeyVault.KeyNewVersionCreated"
	EventNearExpiry    = "Microsoft.KeyVault.KeyNearExpiry"
	EventExpired       = "Microsoft.KeyVault.KeyExpired"
	EventPolicyChanged = "Microsoft.KeyVault.VaultAccessPolicyChanged"
	objectTypeKey      = "Key"
)

// EventTypes are all of them: those of a vault without secrets and certificates.
var EventTypes = []string{EventNewVersion, EventNearExpiry, EventExpired, EventPolicyChanged}

// Event is something that happened to a key, or to a vault's access.
type Event struct {
	Type       string
	Time       time.Time
	Vault      Vault
	ID         string // the key version's identifier; the vault's URI
	ObjectType string // Key; empty for a vault's
	Name       string // of the key
	Version    string
	NotBefore  *int64 // Unix seconds
	Expires    *int64
}

// Events takes events to those who subscribed to them.
type Events interface {
	// Queue returns the writes that queue an event: they are made together with the
	// change that the event is about, or not at all.
	Queue(ctx context.Context, e Event) ([]store.RowWrite, error)
}

// announce adds to the writes of a change those that tell of it.
func (s *Service) announce(ctx context.Context, writes []store.RowWrite, v Vault, kind, name string, row versionRow) ([]store.RowWrite, error) {
	if s.events == nil {
		return writes, nil
	}
	more, err := s.events.Queue(ctx, Event{
		Type: kind, Time: time.Now().UTC(), Vault: v, ID: s.keyID(v, name, row.ID), ObjectType: objectTypeKey,
		Name: name, Version: row.ID, NotBefore: row.NotBefore, Expires: row.Expires,
	})
	return append(writes, more...), err
}
