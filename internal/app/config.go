package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidelock/tidelock/internal/custody"
	"github.com/tidelock/tidelock/internal/entra"
	"github.com/tidelock/tidelock/internal/provider/fluidrelay"
	"github.com/tidelock/tidelock/internal/relay"
)

// Config of a server. The zero value of a field takes the default given.
type Config struct {
	DataDir        string // DefaultDataDir
	Store          StoreConfig
	Node           NodeConfig
	RelayAddr      string // "127.0.0.1:7070"
	ManagementAddr string // "127.0.0.1:8443"
	MetricsAddr    string // "": metrics are not served. They carry no secrets, and there is no TLS: loopback only.
	// RelayURL is how Fluid clients reach the relay; it is what ARM shows as the
	// endpoints. Default: the address of the relay listener.
	RelayURL string
	// RelayCert and RelayKey are PEM files; with them the relay listener speaks TLS.
	// A listener that is not on loopback needs them.
	RelayCert, RelayKey string
	// Local serves the tenants of local mode too, whose tokens are taken at their
	// word: refused unless the relay listener is on loopback.
	Local bool
	// PrivateIssuers are OpenID providers, as URLs, that may be at an address that is not
	// public. Others, named in federated credentials, are asked at public ones only.
	PrivateIssuers []string
	// TrustedIssuers is a file with OpenID providers whose tokens are taken beside those
	// of the embedded directory: a JSON array of entra.TrustedIssuer.
	TrustedIssuers string
	Identity       IdentityEndpoint
	// EventHosts are hosts, or host:port, that the events of vaults may be sent to; none:
	// there are no event subscriptions.
	EventHosts []string
	// PKCS11 is the token of managed HSMs; the zero value: there are none.
	PKCS11 PKCS11
	// SealServiceKey keeps the service key sealed under a key in the token, from now on.
	SealServiceKey bool
	// PassphraseFile holds the passphrase that the service key is sealed by, from now on.
	PassphraseFile string
	// Anchors is the file of head anchors, which find out data that was put back to an
	// older state; it should lie on another disk than the data. DataDir.keys/anchors.
	Anchors string
	// KeyRetentionDays is for how many days after a deletion copies of the data from
	// before can be opened; DefaultKeyRetentionDays.
	KeyRetentionDays int
	// KeyStore is "embedded", the default, for the key vaults of this server, or "azure" for
	// Azure's own; KeyStoreConfig is the file that the latter needs.
	KeyStore, KeyStoreConfig string

	Log    *slog.Logger
	Limits Limits // of the relay; the zero value has the defaults
	Keys   KeyPolicy
	// AutoKeyVersionQuota is how many relays may follow their keys' newest versions; 0:
	// DefaultAutoKeyVersionQuota.
	AutoKeyVersionQuota int
}

// KeyPolicy is what an operator may decide about customers' keys.
type KeyPolicy = custody.Policy

// What zeros stand for.
const (
	DefaultGrace               = custody.Grace
	DefaultHold                = custody.Hold
	DefaultDocumentKeyDays     = custody.DefaultDocumentKeyDays
	DefaultAutoKeyVersionQuota = fluidrelay.DefaultAutoKeyVersionQuota
)

// Limits are those of the relay, under one name with their flags.
type Limits = relay.Limits

// DefaultKeyRetentionDays is what a zero KeyRetentionDays stands for.
const DefaultKeyRetentionDays = custody.DefaultRetentionDays

// DefaultLimits are what a zero Limits stands for.
func DefaultLimits() Limits { return relay.DefaultLimits() }

// Domain is the DNS domain of the embedded cloud. Names under it are served by
// the management listener; .localhost never leaves the machine (RFC 6761).
const Domain = "tidelock.localhost"

// DefaultDataDir is a directory of the user's own.
func DefaultDataDir() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tidelock"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a directory for data: %w; name one with --data", err)
	}
	return filepath.Join(home, ".local", "share", "tidelock"), nil
}

func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		dir, err := DefaultDataDir()
		if err != nil {
			return c, err
		}
		c.DataDir = dir
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("data directory: %w", err)
	}
	c.DataDir = dir
	if c.RelayAddr == "" {
		c.RelayAddr = "127.0.0.1:7070"
	}
	if c.ManagementAddr == "" {
		c.ManagementAddr = "127.0.0.1:8443"
	}
	if c.Anchors == "" {
		c.Anchors = filepath.Join(keysDir(c.DataDir), "anchors")
	}
	if c.KeyRetentionDays == 0 {
		c.KeyRetentionDays = DefaultKeyRetentionDays
	}
	if c.KeyStore == "" {
		c.KeyStore = keyStoreEmbedded
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, c.check()
}

func (c Config) check() error {
	if c.KeyRetentionDays < 1 || c.KeyRetentionDays > custody.MaxRetentionDays {
		return fmt.Errorf("--key-retention-days %d is not between 1 and %d", c.KeyRetentionDays, custody.MaxRetentionDays)
	}
	if err := c.Limits.Check(); err != nil {
		return err
	}
	if err := c.Store.check(); err != nil {
		return err
	}
	if _, err := entra.NewIssuerClient(entra.IssuerNetwork{Private: c.PrivateIssuers}); err != nil {
		return fmt.Errorf("--private-issuer: %w", err)
	}
	if err := c.Keys.Check(); err != nil {
		return fmt.Errorf("--cmk-grace: %w", err)
	}
	if _, err := c.trustedIssuers(); err != nil {
		return err
	}
	if err := c.Identity.check(); err != nil {
		return err
	}
	if err := c.checkNode(); err != nil {
		return err
	}
	if (c.RelayCert == "") != (c.RelayKey == "") {
		return errors.New("--relay-cert and --relay-key belong together: give both or neither")
	}
	if _, _, err := net.SplitHostPort(c.RelayAddr); err != nil {
		return fmt.Errorf("--relay %q is no address: give host:port, such as 127.0.0.1:7070", c.RelayAddr)
	}
	if err := c.checkKeyStore(); err != nil {
		return err
	}
	if err := c.checkLocal(); err != nil {
		return err
	}
	if err := c.PKCS11.check(); err != nil {
		return err
	}
	if c.SealServiceKey && c.PassphraseFile != "" {
		return errors.New("--seal-service-key and --service-key-passphrase-file are two ways to seal the service key: give one of them")
	}
	if c.SealServiceKey && c.PKCS11 == (PKCS11{}) {
		return errors.New("--seal-service-key needs a PKCS#11 token: give --pkcs11-module, --pkcs11-token and --pkcs11-pin-file")
	}
	if c.RelayCert == "" && !loopback(c.RelayAddr) {
		return fmt.Errorf("--relay %s is not on loopback, so it needs TLS: give --relay-cert and --relay-key", c.RelayAddr)
	}
	if !loopback(c.ManagementAddr) {
		return fmt.Errorf("--management %s must be a loopback address such as 127.0.0.1:8443: its certificate is good for no other; reach it from elsewhere through a tunnel", c.ManagementAddr)
	}
	if c.MetricsAddr != "" && !loopback(c.MetricsAddr) {
		return fmt.Errorf("--metrics %s must be a loopback address such as 127.0.0.1:9464: it speaks plain HTTP to anyone; scrape it from elsewhere through an agent or a proxy on this host", c.MetricsAddr)
	}
	if c.RelayURL != "" {
		u, err := url.Parse(c.RelayURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("--relay-url %q must be http(s)://host[:port]", c.RelayURL)
		}
	}
	return nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	return loopbackHost(host)
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// relayTLS loads the relay's certificate; nil when it speaks plain HTTP.
func (c Config) relayTLS() (*tls.Config, error) {
	if c.RelayCert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.RelayCert, c.RelayKey)
	if err != nil {
		return nil, fmt.Errorf("--relay-cert, --relay-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
