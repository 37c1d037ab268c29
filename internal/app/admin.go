package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/tidelock/tidelock/internal/cli"
	"github.com/tidelock/tidelock/internal/store"
)

// ProfilePath is where a server keeps the command line's way in. An empty
// dataDir is the default one.
func ProfilePath(dataDir string) (string, error) {
	c, err := Config{DataDir: dataDir}.withDefaults()
	if err != nil {
		return "", err
	}
	return filepath.Join(keysDir(c.DataDir), "admin.json"), nil
}

// Admin makes sure that there is an administrator who owns the subscription, and
// returns his profile. The secret is in the profile alone; the directory has a
// hash of it. Whoever can read the service key may be the administrator.
func (a *App) Admin(ctx context.Context) (cli.Profile, error) {
	profile, err := a.refreshAdmin(ctx)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return profile, err
	}
	principal, secret, err := a.entra.CreateAdministrator(ctx, a.installed.DirectoryID, "/subscriptions/"+a.installed.SubscriptionID)
	if err != nil {
		return cli.Profile{}, err
	}
	profile = cli.Profile{ClientID: principal.ClientID, ObjectID: principal.ObjectID, ClientSecret: secret}
	return a.writeAdmin(profile)
}

// refreshAdmin brings an existing profile up to date with where this server
// listens; fs.ErrNotExist (wrapped) when there is none.
func (a *App) refreshAdmin(ctx context.Context) (cli.Profile, error) {
	path, err := ProfilePath(a.c.DataDir)
	if err != nil {
		return cli.Profile{}, err
	}
	if !fileExists(path) {
		return cli.Profile{}, fmt.Errorf("administrator's profile: %w", fs.ErrNotExist)
	}
	profile, err := cli.LoadProfile(path)
	if err != nil {
		return cli.Profile{}, err
	}
	// One that an earlier version made is not an administrator of the directory yet.
	// One that somebody deleted since is not made again.
	if err := a.entra.SetAdministrator(ctx, profile.ObjectID, true); err != nil && !errors.Is(err, store.ErrNotFound) {
		return cli.Profile{}, err
	}
	return a.writeAdmin(profile)
}

func (a *App) writeAdmin(p cli.Profile) (cli.Profile, error) {
	p.ManagementURL = a.ManagementURL()
	p.CAFile = a.authority.path
	p.Domain = Domain
	p.VaultSuffix, p.HSMSuffix = a.vaultSuffix(), a.hsmSuffix()
	p.DirectoryID = string(a.installed.DirectoryID)
	p.SubscriptionID = a.installed.SubscriptionID
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return p, err
	}
	path, err := ProfilePath(a.c.DataDir)
	if err != nil {
		return p, err
	}
	if err := writeSecret(path, append(raw, '\n')); err != nil {
		return p, fmt.Errorf("store the administrator's profile: %w", err)
	}
	return p, nil
}
