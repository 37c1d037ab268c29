package app

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Names of the public cloud, by which a client reaches this server when a proxy leads
// it here ('tidelock proxy'). A vault is one label in front of publicVaults.
const (
	publicManagement = "management.azure.com"
	publicLogin      = "login.microsoftonline.com"
	publicGraph      = "graph.microsoft.com"
	publicVaults     = "vault.azure.net"
	publicHSMs       = "managedhsm.azure.net"
)

// publicScope is that of the authority for the public cloud's names. It is another
// one than the local authority: who trusts that has not said that this server may
// speak for Azure.
var publicScope = authorityScope{
	file: "public-ca", name: "Tidelock authority for the public cloud's names",
	domains:  []string{publicManagement, publicLogin, publicGraph, publicVaults, publicHSMs},
	dnsNames: []string{publicManagement, publicLogin, publicGraph, "*." + publicVaults, "*." + publicHSMs},
}

// IsPublicName says whether host, in lower case, is a name of the public cloud that
// this server answers to.
func IsPublicName(host string) bool {
	if slices.Contains([]string{publicManagement, publicLogin, publicGraph}, host) {
		return true
	}
	_, suffix, _ := strings.Cut(host, ".")
	return suffix == publicVaults || suffix == publicHSMs
}

// publicNames gives the management listener certificates for the public cloud's
// names, once the authority for them is there: the proxy makes it on its first run,
// maybe long after the server's start.
type publicNames struct {
	dataDir string

	mu    sync.Mutex
	cache *leafCache
}

func (p *publicNames) has(host string) bool { return IsPublicName(strings.ToLower(host)) }

// leaves is nil while there is no authority, or it cannot be read: the client then
// sees a certificate that is not for the name it asked.
func (p *publicNames) leaves() *leafCache {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cache != nil || !fileExists(filepath.Join(keysDir(p.dataDir), publicScope.file+".crt")) {
		return p.cache
	}
	a, err := loadAuthority(p.dataDir, publicScope)
	if err != nil {
		return nil
	}
	first, err := a.leaf()
	if err != nil {
		return nil
	}
	p.cache = &leafCache{authority: a, current: first, renewAt: time.Now().Add(leafLife / 2)}
	return p.cache
}

// systemRoots is where systems keep the certificates that they trust.
var systemRoots = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}

// PublicRoots makes sure that there is an authority for the public cloud's names, and
// writes what clients of the proxy are told to trust: that, the local authority, and
// what the system trusts, which a client must still have for everything else. It
// returns the file.
func PublicRoots(dataDir string) (string, error) {
	c, err := Config{DataDir: dataDir}.withDefaults()
	if err != nil {
		return "", err
	}
	public, err := loadAuthority(c.DataDir, publicScope)
	if err != nil {
		return "", err
	}
	local, err := loadAuthority(c.DataDir, localScope)
	if err != nil {
		return "", err
	}
	var roots []byte
	for _, path := range append([]string{public.path, local.path}, systemRoots...) {
		pem, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		roots = append(roots, pem...)
		if slices.Contains(systemRoots, path) {
			break // they are the same on one system
		}
	}
	path := filepath.Join(keysDir(c.DataDir), "proxy-roots.pem")
	return path, writeSecret(path, roots)
}

// ProxyRoute says where the proxy leads: the public cloud's names and this server's own
// to its management address; anything else to itself if all is passed on, or nowhere.
func ProxyRoute(management string, others bool) func(host, port string) (string, bool) {
	return func(host, port string) (string, bool) {
		ours := strings.HasSuffix(host, "."+Domain) || host == Domain || net.JoinHostPort(host, port) == management
		switch {
		case ours, port == "443" && IsPublicName(host):
			return management, true
		case others:
			return net.JoinHostPort(host, port), true
		}
		return "", false
	}
}
