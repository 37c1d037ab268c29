package azurecloud

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
)

// Cloud is one of Azure's clouds. Each is a world of its own: identities of one mean
// nothing in another.
type Cloud struct {
	Name     string
	suffixes []string // of key vaults and of managed HSMs
	config   cloud.Configuration
}

// clouds by the name that azure-cli has for them. Source: Azure documentation, "About
// keys, secrets and certificates", DNS suffixes; "Managed HSM", the same.
var clouds = []Cloud{
	{"AzureCloud", []string{"vault.azure.net", "managedhsm.azure.net"}, cloud.AzurePublic},
	{"AzureUSGovernment", []string{"vault.usgovcloudapi.net", "managedhsm.usgovcloudapi.net"}, cloud.AzureGovernment},
	{"AzureChinaCloud", []string{"vault.azure.cn", "managedhsm.azure.cn"}, cloud.AzureChina},
	// Closed in 2021; its names are still found in configurations.
	{"AzureGermanCloud", []string{"vault.microsoftazure.de", "managedhsm.microsoftazure.de"}, cloud.Configuration{
		ActiveDirectoryAuthorityHost: "https://login.microsoftonline.de/",
		Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Audience: "https://management.microsoftazure.de", Endpoint: "https://management.microsoftazure.de"},
		},
	}},
}

func findCloud(name string) (Cloud, error) {
	var names []string
	for _, c := range clouds {
		if strings.EqualFold(c.Name, name) {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Cloud{}, fmt.Errorf("the cloud %q is none of %s", name, strings.Join(names, ", "))
}

// Suffixes are the DNS suffixes of the cloud's key stores.
func (c Cloud) Suffixes() []string { return c.suffixes }

// ErrNotPublic refuses an address that no key store of Azure has.
var ErrNotPublic = errors.New("the name of the key store leads to this machine or its link; no key store is there")

// NewTransport returns the way to the cloud's key stores. It uses no proxy and follows no
// redirect. Names that lead to loopback or link-local addresses, where this host's own
// services and its metadata are, get no connection; private addresses do, because
// private endpoints have them.
func NewTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		return checkAddress(address)
	}}
	return transportOver(dialer.DialContext)
}

func transportOver(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext: dial, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
}

func checkAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%w: %s", ErrNotPublic, ip)
	}
	return nil
}
