package app

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/internal/anchor"
	"github.com/tidelock/tidelock/internal/cluster"
	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/envelope"
	"github.com/tidelock/tidelock/internal/keystore"
	"github.com/tidelock/tidelock/internal/provider/eventgrid"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/provider/keyvault"
	"github.com/tidelock/tidelock/internal/relay"
	"github.com/tidelock/tidelock/internal/store"
	"github.com/tidelock/tidelock/internal/vault"
)

// App is one server, open and not yet serving.
type App struct {
	c         Config
	in        surroundings
	relayTLS  *tls.Config // nil: the relay speaks plain HTTP
	service   envelope.ServiceKey
	authority *authority

	serviceKeys *custody.ServiceKeys
	installed   installation

	relayListener, managementListener net.Listener
	relayHTTP, managementHTTP         *http.Server

	metrics         *prometheus.Registry
	metricsListener net.Listener // nil: nobody asked for one
	metricsHTTP     *http.Server

	identityListener net.Listener // nil: nobody asked for one
	identityHTTP     *http.Server

	store store.Store
	entra *entra.Service
	vault *vault.Service
	token vault.Token // nil: no PKCS#11 token

	closeToken func() // nil as token is
	custody    *custody.Keeper
	anchors    anchors
	relay      *relay.Server
	relays     *fluidrelay.Provider
	vaults     *keyvault.Provider
	events     *eventgrid.Provider

	node   *cluster.Node // nil: this process has its data for itself
	orders chan order    // for this node, of its operator
}

// drainTime bounds an orderly stop; after it connections are cut. Everything that
// was acknowledged is durable long before.
const drainTime = 20 * time.Second

// surroundings are what a server stands on: the network, the engine, and the way to the
// key stores. Tests put others in their place.
type surroundings struct {
	listen func(ctx context.Context, addr, flag string) (net.Listener, error)
	engine func(context.Context, Config, prometheus.Registerer) (store.Store, error)
	// toKeyStores is put between the key stores' clients and the key stores.
	toKeyStores func(http.RoundTripper) http.RoundTripper
	// anchors opens the file of head anchors.
	anchors func(path string) (anchors, error)
	// token is in the place of the PKCS#11 token; nil: the one that Config names.
	token vault.Token
	// generateRSA makes keys of vaults and of the directory; nil: crypto/rsa.
	generateRSA func(bits int) (*rsa.PrivateKey, error)
	// azureHTTP is the way to Azure; nil: the network.
	azureHTTP http.RoundTripper
}

// anchors are the head anchors of documents, and what they are kept in.
type anchors interface {
	custody.Anchors
	Close() error
}

// Open takes the addresses, opens the data directory or the database, making what is
// not there, and wires everything. On an error nothing is left open.
func Open(ctx context.Context, c Config) (*App, error) {
	return openIn(ctx, c, outside())
}

// outside is the real network and the engine that Config names.
func outside() surroundings {
	return surroundings{
		listen:      bind,
		engine:      openEngine,
		anchors:     func(path string) (anchors, error) { return anchor.Open(path) },
		toKeyStores: func(t http.RoundTripper) http.RoundTripper { return t },
	}
}

func openIn(ctx context.Context, c Config, in surroundings) (_ *App, err error) {
	a := &App{metrics: newRegistry(), in: in}
	if a.c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	if a.relayTLS, err = a.c.relayTLS(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	// The addresses first: when they are taken, nothing has been touched yet.
	if a.relayListener, err = in.listen(ctx, a.c.RelayAddr, "--relay"); err != nil {
		return nil, err
	}
	if a.managementListener, err = in.listen(ctx, a.c.ManagementAddr, "--management"); err != nil {
		return nil, err
	}
	if a.c.MetricsAddr != "" {
		if a.metricsListener, err = in.listen(ctx, a.c.MetricsAddr, "--metrics"); err != nil {
			return nil, err
		}
	}
	if a.token = in.token; a.token == nil {
		if a.token, a.closeToken, err = a.c.PKCS11.open(); err != nil {
			return nil, err
		}
	}
	if err := a.openStore(ctx); err != nil {
		return nil, err
	}
	if a.authority, err = loadAuthority(a.c.DataDir, localScope); err != nil {
		return nil, err
	}
	if at, ok := a.managementListener.Addr().(*net.TCPAddr); ok && at.IP.IsLoopback() {
		// Several nodes on one machine have one address each.
		a.authority.scope.addresses = append(slices.Clip(a.authority.scope.addresses), at.IP)
	}
	if err := a.wire(ctx); err != nil {
		return nil, err
	}
	if err := a.openIdentityEndpoint(ctx); err != nil {
		return nil, err
	}
	// The command line must find this server before anybody is told that it is there.
	if _, err := a.refreshAdmin(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return a, nil
}

// wire makes the services, each with what it needs.
func (a *App) wire(ctx context.Context) (err error) {
	a.installed, err = loadInstallation(ctx, a.store, a.service)
	isNew := errors.Is(err, store.ErrNotFound)
	if err != nil && !isNew {
		return fmt.Errorf("open the data in %s: %w", a.c.where(), err)
	}
	issuers, err := entra.NewIssuerClient(entra.IssuerNetwork{Private: a.c.PrivateIssuers})
	if err != nil {
		return err
	}
	a.entra, err = entra.Open(ctx, entra.Config{
		Issuers: issuers,
		Store:   a.store, Service: a.service, Login: a.ManagementURL(), Audiences: []string{a.ManagementURL()},
		VaultSuffix: a.vaultSuffix(), HSMSuffix: a.hsmSuffix(), GenerateRSA: a.in.generateRSA, Log: a.c.Log,
	})
	if err != nil {
		return fmt.Errorf("open the directory service: %w", err)
	}
	if isNew {
		if a.installed, err = makeInstallation(ctx, a.store, a.service, a.entra); err != nil {
			return err
		}
	}
	if err := a.serviceKeys.Begin(ctx); err != nil {
		return err
	}
	if err := a.trust(); err != nil {
		return err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return fmt.Errorf("read the system's certificates: %w", err)
	}
	roots.AddCert(a.authority.cert) // a relay of this server may be told of keys, too
	if a.events, err = eventgrid.New(eventgrid.Config{Store: a.store, Service: a.service, Hosts: a.c.EventHosts, Roots: roots, Metrics: a.metrics, Log: a.c.Log}); err != nil {
		return err
	}
	a.vault = vault.New(vault.Config{
		Store: a.store, Service: a.service, Entra: a.entra, Suffix: a.vaultSuffix(), HSMSuffix: a.hsmSuffix(), Login: a.ManagementURL(),
		Roles: a.entra.AllowedData, Token: a.token, GenerateRSA: a.in.generateRSA, Events: a.events, Throttle: true, Log: a.c.Log,
	})
	a.wireNode()
	hosts := keystore.Hosts{Suffixes: []string{"vault." + Domain, "managedhsm." + Domain, publicVaults, publicHSMs}}
	azure, err := a.openAzure()
	if err != nil {
		return err
	}
	if azure != nil {
		// Azure's names are Azure's then, and lead to no vault of this server.
		hosts = keystore.Hosts{Suffixes: []string{"vault." + Domain, "managedhsm." + Domain}, AzureSuffixes: azure.config.Cloud.Suffixes()}
	}
	retention, err := a.openRetention(ctx)
	if err != nil {
		return err
	}
	kept, err := a.in.anchors(a.c.Anchors)
	if err != nil {
		return fmt.Errorf("%w: restore it, or, if the data is known to be the newest, move it away", err)
	}
	a.anchors = kept
	a.custody = custody.New(custody.Config{
		Store: a.store, Service: a.service, Retention: retention, Anchors: a.anchors, Hosts: hosts, Log: a.c.Log, Metrics: a.metrics,
		KeyStore: a.keyStores(azure).client, Policy: a.c.Keys, Tell: a.tellKeys(),
	})
	management, err := a.wireManagement(ctx, hosts, azure)
	if err != nil {
		return err
	}
	managementTLS, err := a.authority.tlsConfig(&publicNames{dataDir: a.c.DataDir})
	if err != nil {
		return err
	}
	a.managementHTTP = httpServer(management, managementTLS, a.c.Log)
	a.relayHTTP = httpServer(a.relay.Handler(), a.relayTLS, a.c.Log)
	a.metricsHTTP = httpServer(metricsHandler(a.metrics), nil, a.c.Log)
	return nil
}

// Serve serves until ctx is over, then stops in order: no new work, what was
// accepted made durable, clients told to come back, keys wiped, the store closed.
func (a *App) Serve(ctx context.Context) error {
	if a.node != nil {
		if err := a.node.Start(ctx); err != nil {
			a.Close()
			return err
		}
	}
	g, serving := errgroup.WithContext(ctx)
	g.Go(func() error { return served(a.serveRelay()) })
	g.Go(func() error { return served(a.managementHTTP.ServeTLS(a.managementListener, "", "")) })
	if a.metricsListener != nil {
		g.Go(func() error { return served(a.metricsHTTP.Serve(a.metricsListener)) })
	}
	g.Go(a.serveIdentities)
	for _, run := range []func(context.Context){a.relays.AdmitAll, a.vault.Run, a.vaults.Run, a.events.Run, a.obey, a.tendServiceKey} {
		g.Go(func() error {
			run(serving)
			return nil
		})
	}
	g.Go(func() error {
		<-serving.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		return a.stop(drain)
	})
	return g.Wait()
}

func (a *App) serveRelay() error {
	if a.relayHTTP.TLSConfig != nil {
		return a.relayHTTP.ServeTLS(a.relayListener, "", "")
	}
	return a.relayHTTP.Serve(a.relayListener)
}

// served turns the one error that an orderly stop gives into none.
func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// stop is the one order in which a server ends. http.Server.Shutdown does not know
// upgraded connections: the relay closes those itself, first.
func (a *App) stop(ctx context.Context) error {
	var errs []error
	if a.node != nil {
		errs = append(errs, a.node.Drain(ctx))
	}
	errs = append(errs,
		a.relay.Shutdown(ctx),
		a.relayHTTP.Shutdown(ctx),
		a.managementHTTP.Shutdown(ctx),
		a.stopIdentities(ctx),
	)
	a.custody.Close()
	if a.closeToken != nil {
		a.closeToken()
	}
	if a.node != nil {
		errs = append(errs, a.node.Stop(context.WithoutCancel(ctx)))
	}
	// The metrics last: that a stop takes long can be watched.
	return errors.Join(append(errs, a.anchors.Close(), a.store.Close(), a.metricsHTTP.Shutdown(ctx))...)
}

// Close gives up a server that was opened and is not served.
func (a *App) Close() {
	for _, l := range []net.Listener{a.relayListener, a.managementListener, a.metricsListener, a.identityListener} {
		if l != nil {
			_ = l.Close() // nothing was served: there is nobody to tell
		}
	}
	if a.custody != nil {
		a.custody.Close()
	}
	if a.closeToken != nil {
		a.closeToken()
	}
	if a.anchors != nil {
		_ = a.anchors.Close() // what it has is durable
	}
	if a.store != nil {
		_ = a.store.Close() // nothing was written that was not durable
	}
}

// DataDir is the data directory, absolute.
func (a *App) DataDir() string { return a.c.DataDir }

// RelayURL is how Fluid clients reach the relay.
func (a *App) RelayURL() string {
	if a.c.RelayURL != "" {
		return a.c.RelayURL
	}
	scheme := "http://"
	if a.c.RelayCert != "" {
		scheme = "https://"
	}
	return scheme + a.relayListener.Addr().String()
}

// MetricsURL is where the metrics are served, or empty.
func (a *App) MetricsURL() string {
	if a.metricsListener == nil {
		return ""
	}
	return "http://" + a.metricsListener.Addr().String() + "/metrics"
}

// ManagementURL is the resource manager's and the authority's URL.
func (a *App) ManagementURL() string { return "https://" + a.managementListener.Addr().String() }

// vaultSuffix is what follows a vault's name in its host. The port is part of it:
// clients compare it with their challenge.
func (a *App) vaultSuffix() string { return "vault." + Domain + ":" + a.managementPort() }

// hsmSuffix is vaultSuffix for managed HSMs.
func (a *App) hsmSuffix() string { return "managedhsm." + Domain + ":" + a.managementPort() }

func (a *App) managementPort() string {
	_, port, err := net.SplitHostPort(a.managementListener.Addr().String())
	if err != nil {
		panic("internal error: a bound listener has no port: " + err.Error())
	}
	return port
}
