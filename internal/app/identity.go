package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidelock/tidelock/internal/arm"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/managedidentity"
)

// IdentityEndpoint configures where workloads on this machine get tokens of managed
// identities; the zero value: nowhere.
type IdentityEndpoint struct {
	Addr       string   // on loopback: it speaks plain HTTP
	Identities []string // resource ids of those that may be had there
	IMDS       bool     // also the form that needs no secret
}

func (e IdentityEndpoint) check() error {
	if e.Addr == "" {
		if len(e.Identities) > 0 || e.IMDS {
			return errors.New("--identity and --identity-imds are for the endpoint that --identity-endpoint opens: give that too")
		}
		return nil
	}
	if !loopback(e.Addr) {
		return fmt.Errorf("--identity-endpoint %s must be a loopback address such as 127.0.0.1:8445: it speaks plain HTTP, and gives tokens to programs of this machine", e.Addr)
	}
	if len(e.Identities) == 0 {
		return errors.New("--identity-endpoint needs at least one --identity: the resource id of a user-assigned identity that may be had there")
	}
	for _, one := range e.Identities {
		if id, err := arm.ParseResourceID(one); err != nil || !id.IsType(managedidentity.Type) {
			return fmt.Errorf("--identity %q is no resource id of a user-assigned identity: it has the form /subscriptions/{id}/resourceGroups/{name}/providers/%s/{name}", one, managedidentity.Type)
		}
	}
	return nil
}

// trustedIssuers reads the file of trusted issuers.
func (c Config) trustedIssuers() ([]entra.TrustedIssuer, error) {
	if c.TrustedIssuers == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(c.TrustedIssuers)
	if err != nil {
		return nil, fmt.Errorf("--trusted-issuers: %w", err)
	}
	var all []entra.TrustedIssuer
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("--trusted-issuers %s: %w", c.TrustedIssuers, err)
	}
	for _, t := range all {
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("--trusted-issuers %s: %w", c.TrustedIssuers, err)
		}
	}
	return all, nil
}

// trust takes tokens of the issuers that the operator named.
func (a *App) trust() error {
	all, err := a.c.trustedIssuers()
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Directory == "" {
			all[i].Directory = a.installed.DirectoryID
		}
	}
	return a.entra.Trust(all)
}

func identityHeaderPath(dataDir string) string {
	return filepath.Join(keysDir(dataDir), "identity-header")
}

// openIdentityEndpoint takes its address and makes its secret, if it is asked for.
func (a *App) openIdentityEndpoint(ctx context.Context) (err error) {
	e := a.c.Identity
	if e.Addr == "" {
		return nil
	}
	if a.identityListener, err = a.in.listen(ctx, e.Addr, "--identity-endpoint"); err != nil {
		return err
	}
	secret, err := loadIdentityHeader(identityHeaderPath(a.c.DataDir))
	if err != nil {
		return err
	}
	handler := a.entra.IdentityHandler(entra.IdentityEndpoint{Identities: e.Identities, Secret: secret, Unguarded: e.IMDS})
	a.identityHTTP = httpServer(handler, nil, a.c.Log)
	return nil
}

// loadIdentityHeader reads the secret that workloads prove themselves by, or makes it.
func loadIdentityHeader(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw = []byte(rand.Text() + "\n")
		err = writeSecret(path, raw)
	}
	secret := strings.TrimSpace(string(raw))
	if err == nil && len(secret) < 16 {
		err = errors.New("it has fewer than 16 characters; delete it to have a new one made")
	}
	if err != nil {
		return "", fmt.Errorf("the identity endpoint's secret %s: %w", path, err)
	}
	return secret, nil
}

// IdentityEndpoint is the URL of the identity endpoint, in App Service's form, and the
// file with its secret; empty when there is none.
func (a *App) IdentityEndpoint() (url, secretFile string) {
	if a.identityListener == nil {
		return "", ""
	}
	return "http://" + a.identityListener.Addr().String() + "/msi/token", identityHeaderPath(a.c.DataDir)
}

func (a *App) serveIdentities() error {
	if a.identityListener == nil {
		return nil
	}
	return served(a.identityHTTP.Serve(a.identityListener))
}

func (a *App) stopIdentities(ctx context.Context) error {
	if a.identityHTTP == nil {
		return nil
	}
	return a.identityHTTP.Shutdown(ctx)
}
